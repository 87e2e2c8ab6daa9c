"""The demo's OpenID provider (Authlib): whole sign-ins over real HTTP, and none without being asked for."""

import html
import re
from urllib.parse import urlsplit

import pytest
import requests
from django.contrib.auth import get_user_model
from django.test import Client, override_settings

from tardis_imagetrove.signin.checks import check_providers, check_sign_in
from tardis_imagetrove.signin.models import FederatedIdentity
from tardis_imagetrove.signin.openid import metadata

from .conftest import code_of, user_of

pytest.importorskip("authlib")
from devhost.federation import setup  # noqa: E402

User = get_user_model()

DIRECT = requests.Session()
DIRECT.trust_env = False  # no proxy


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Where the stand-in's key is kept, so that it is made once."""
    return tmp_path_factory.mktemp("stand-in")


@pytest.fixture
def demo(settings, state, live_server):
    metadata.forget()
    address = live_server.url
    with override_settings(
        INSTALLED_APPS=[*settings.INSTALLED_APPS, "devhost.federation"],
        DEVHOST_FEDERATION=address,
        RAPID_CONNECT_ENABLED=True,
        RAPID_CONNECT_CONFIG=setup.rapid_connect_config(address, state),
        OPENID_CONNECT_PROVIDERS=[setup.openid_connect_provider(address, state)],
        ROOT_URLCONF="devhost.federation.urls",
        ALLOWED_HOSTS=["localhost", "testserver"],
        DEBUG=True,
    ):
        yield address


def sign_in(address, client, person, spoilt=""):
    """What a browser does: from the sign-in page's button to the provider, and back by its address."""
    page = client.get("/login/").content.decode()
    button = re.search(r'href="([^"]+)" data-provider="stand-in"', page)[1]
    choose = DIRECT.get(client.get(button)["Location"], timeout=30).text
    assert "This is a stand-in" in choose
    asked = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', choose))
    query = {key: html.unescape(value) for key, value in asked.items()}
    back = DIRECT.get(
        f"{address}/{setup.OPENID_PATH}/authorize",
        {**query, "person": person, "spoilt": spoilt},
        allow_redirects=False,
        timeout=30,
    )
    return client.get(back.headers["Location"].removeprefix(address))


@pytest.mark.django_db(transaction=True)
def test_whole_sign_ins(demo):
    assert not check_sign_in(None) and not check_providers(None)
    came = Client()
    assert sign_in(demo, came, "bjork")["Location"] == "/"
    user = User.objects.get(pk=user_of(came))
    assert (user.first_name, user.last_name, user.email) == ("Björk", "Guðmundsdóttir", "bjork@example.edu")
    address = came.post("/logout/")["Location"]
    assert urlsplit(address).path == f"/{setup.OPENID_PATH}/end-session"
    assert DIRECT.get(address, allow_redirects=False, timeout=30).headers["Location"] == f"{demo}/"

    # By Rapid Connect she is recognised.
    moved = Client()
    chosen = moved.get(f"/{setup.PATH}", {"person": "bjork"}).content.decode()
    assertion = re.search(r'name="assertion" value="([^"]+)"', chosen)[1]
    moved.post("/rc/", {"assertion": assertion})
    assert user_of(moved) == user.pk
    assert FederatedIdentity.objects.filter(user=user).count() == 2

    for spoilt, code in {
        "expired": "OIDC-EXPIRED",
        "signature": "OIDC-SIGNATURE",
        "audience": "OIDC-AUDIENCE",
        "nonce": "OIDC-NONCE",
    }.items():
        nobody = Client()
        assert code_of(sign_in(demo, nobody, "ada", spoilt)) == code
        assert not user_of(nobody)
    assert code_of(sign_in(demo, Client(), "nobody")) == "OIDC-DENIED"
    unverified = Client()
    sign_in(demo, unverified, "ada", "mail")
    assert User.objects.get(pk=user_of(unverified)).email == ""


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path", [".well-known/openid-configuration", "keys", "authorize", "token", "userinfo", "end-session"]
)
def test_it_is_off_where_it_was_not_asked_for(client, path):
    address = f"/{setup.OPENID_PATH}/{path}"
    assert client.get(address).status_code == 404
    with override_settings(ROOT_URLCONF="devhost.federation.urls"):
        assert client.get(address).status_code == 404
