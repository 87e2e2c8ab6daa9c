"""A site that is registered with the test federation, and a browser that comes back from there."""

import pytest

from . import signer


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


def code_of(response):
    """The reference code on a refusal's page, without the part that is new each time."""
    return response.context["reference"].rpartition("-")[0]


def user_of(browser):
    """Id of the account that a browser is signed in to, or None."""
    number = browser.session.get("_auth_user_id")
    return number and int(number)
