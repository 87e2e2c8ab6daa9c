"""The demo's stand-in for the federation: a whole sign-in with it, and none without being asked for."""

import html
import re

import pytest
from django.test import override_settings

from devhost.federation import assertions, setup
from tardis_imagetrove.signin.checks import check_sign_in

from .conftest import code_of, user_of

pytestmark = pytest.mark.django_db
ADDRESS = "http://testserver"


@pytest.fixture
def demo(settings, tmp_path):
    with override_settings(
        INSTALLED_APPS=[*settings.INSTALLED_APPS, "devhost.federation"],
        DEVHOST_FEDERATION=ADDRESS,
        RAPID_CONNECT_ENABLED=True,
        RAPID_CONNECT_CONFIG=setup.rapid_connect_config(ADDRESS, tmp_path),
        ROOT_URLCONF="devhost.federation.urls",
        ALLOWED_HOSTS=["testserver"],
        DEBUG=True,
    ):
        yield


def follow(client, person, spoilt=""):
    """What a browser does: from the sign-in page to the institution, and its form back to the host."""
    button = re.search(r'id="federation-button" href="([^"]+)"', client.get("/login/").content.decode())[1]
    chosen = client.get(button.removeprefix(ADDRESS), {"person": person, "spoilt": spoilt}).content.decode()
    assert "stand-in" in chosen
    action = html.unescape(re.search(r'action="([^"]+)"', chosen)[1])
    token = html.unescape(re.search(r'name="assertion" value="([^"]+)"', chosen)[1])
    return client.post(action.removeprefix(ADDRESS), {"assertion": token})


def test_a_whole_sign_in(demo, client):
    assert follow(client, "bjork").status_code == 302
    assert user_of(client)
    assert not check_sign_in(None)


@pytest.mark.parametrize(
    ("spoilt", "code"),
    [("expired", "RC-EXPIRED"), ("signature", "RC-SIGNATURE"), ("audience", "RC-AUDIENCE")],
)
def test_what_is_spoilt_is_refused(demo, client, spoilt, code):
    assert code_of(follow(client, "ada", spoilt)) == code
    assert not user_of(client)


def test_the_same_one_works_once(demo, client):
    assert follow(client, "ada", "replay").status_code == 302
    client.logout()
    assert code_of(follow(client, "ada", "replay")) == "RC-REPLAY"


def test_it_is_off_where_it_was_not_asked_for(client):
    assert client.get(f"/{setup.PATH}").status_code == 404


def test_its_page_is_off_even_where_its_address_is_mounted(demo, client):
    with override_settings(DEVHOST_FEDERATION=""):
        assert client.get(f"/{setup.PATH}").status_code == 404


def test_its_secret_is_made_once_and_never_the_same_for_two(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    secrets = [setup.rapid_connect_config(ADDRESS, folder)["secret"] for folder in (one, one, two)]
    assert secrets[0] == secrets[1] != secrets[2]
    assert (one / "stand-in-federation-secret").stat().st_mode & 0o077 == 0


def test_another_jose_library_takes_its_signature():
    pytest.importorskip("joserfc")
    from joserfc import jwk, jwt

    secret = "a secret of the stand-in, long enough for HS256"
    payload = assertions.claims("subject", {"cn": "Björk"}, "https://testserver/rc/")
    token = jwt.decode(assertions.sign(payload, secret), jwk.OctKey.import_key(secret), algorithms=["HS256"])
    assert token.claims == payload
