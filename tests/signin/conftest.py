"""A site that is registered with the test federation, and a browser that comes back from there."""

import pytest

from tardis_imagetrove.signin.openid import metadata

from . import signer
from .openid_provider import SECRET, OpenIDProvider


@pytest.fixture
def site(settings):
    """Settings as docs/rapid-connect.md tells an administrator."""
    settings.RAPID_CONNECT_ENABLED = True
    settings.RAPID_CONNECT_CONFIG = {
        "secret": signer.SECRET,
        "iss": signer.ISSUER,
        "aud": signer.AUDIENCE,
        "authnrequest_url": "https://rapid.test.aaf.edu.au/jwt/authnrequest/research/XXXX",
    }
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.NEW_USER_INITIAL_GROUPS = []
    return settings


@pytest.fixture
def post(site, db, client):
    """Posts what the federation posts."""

    def post(token, path="/rc/", browser=client, **fields):
        return browser.post(path, {"assertion": token, **fields}, secure=True)

    return post


@pytest.fixture
def public_user(db, settings, django_user_model):
    """The account that MyTARDIS 5.0's front page needs."""
    number = getattr(settings, "PUBLIC_USER_ID", None)
    if number is not None:
        django_user_model.objects.get_or_create(pk=number, defaults={"username": f"public-{number}"})


def code_of(response):
    """The reference code on a refusal's page, without the part that is new each time."""
    return response.context["reference"].rpartition("-")[0]


def user_of(browser):
    """Id of the account that a browser is signed in to, or None."""
    number = browser.session.get("_auth_user_id")
    return number and int(number)


@pytest.fixture(scope="session")
def running_provider():
    running = OpenIDProvider()
    yield running
    running.close()


@pytest.fixture
def provider(running_provider):
    """An OpenID provider over HTTP that does everything right, until a test spoils it."""
    metadata.forget()
    running_provider.reset()
    return running_provider


@pytest.fixture
def openid(settings, provider):
    """Settings as docs/openid-connect.md tells an administrator; Rapid Connect is switched off."""
    settings.RAPID_CONNECT_ENABLED = False
    settings.OPENID_CONNECT_PROVIDERS = [
        {
            "name": "aaf",
            "label": "Sign in with AAF",
            "issuer": provider.issuer,
            "client_id": provider.client_id,
            "client_secret": SECRET,
            "redirect_uri": "https://testserver/oidc/aaf/callback/",
        }
    ]
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.NEW_USER_INITIAL_GROUPS = []
    return settings


@pytest.fixture
def arrive(openid, provider, db, client):
    """Signs in as a browser does: from the button to the provider and back."""

    def arrive(browser=client, name="aaf", **changes):
        leave = browser.get(f"/oidc/{name}/", secure=True)
        if leave.status_code != 302:
            return leave
        back = provider.authorize(leave["Location"], **changes)
        return browser.get(f"/oidc/{name}/callback/", back, secure=True)

    return arrive
