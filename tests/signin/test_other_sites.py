"""What other sites can make a visitor's browser send, over HTTPS in a real browser: nobody is signed out by it."""

import json
from urllib.parse import urlencode

import pytest
from django.contrib.sessions.models import Session
from django.test import Client, override_settings

from ..browser import Browser
from . import signer
from .https import HttpsServer

pytestmark = pytest.mark.django_db(transaction=True)
WRITES = f"{HttpsServer.__module__}.WritesTheSession"


@pytest.fixture
def writing(settings):
    """A host that writes to the session on every request, as MyTARDIS 5.0 does."""
    at = settings.MIDDLEWARE.index("django.contrib.auth.middleware.AuthenticationMiddleware") + 1
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE[:at], WRITES, *settings.MIDDLEWARE[at:]]):
        yield


ADDRESSES = [
    "/rc/",
    "/rc",
    "/rc/auth/jwt",
    "/login/",
    "/local_local",
    "/",
    "/admin/login/",
    "/no-such-page/",
    "/oidc/aaf/",
    "/oidc/aaf/callback/",
    "/logout/",
]
FIELDS = {"assertion": "abc", "username": "operator", "password": "wrong"}


@pytest.mark.parametrize("path", ADDRESSES)
def test_a_refused_post_sets_no_cookie(writing, site, path):
    browser = Client(enforce_csrf_checks=True)
    response = browser.post(path, FIELDS, secure=True)
    assert response.status_code in (400, 403, 404)
    assert not response.cookies
    assert not Session.objects.exists()


def test_a_page_that_is_shown_does_set_one(writing, site, client):
    """So the tests above can fail."""
    assert client.get("/login/", secure=True).cookies


def test_a_view_of_the_sites_own_for_refused_forms_stays(settings):
    from tardis_imagetrove.signin import responses

    assert settings.CSRF_FAILURE_VIEW == responses.CSRF_VIEW
    settings.CSRF_FAILURE_VIEW = "somewhere.of_the_sites_own"
    responses.keep_visitors_signed_in()
    assert settings.CSRF_FAILURE_VIEW == "somewhere.of_the_sites_own"


@pytest.fixture
def browser(tmp_path):
    opened = Browser(tmp_path / "browser", "--disable-gpu", "--ignore-certificate-errors")
    yield opened
    opened.close()


@pytest.fixture
def https(writing, site, tmp_path):
    """Address of the host by HTTPS; by the name localhost it is another site to a browser."""
    with override_settings(
        ROOT_URLCONF=HttpsServer.__module__, ALLOWED_HOSTS=["127.0.0.1", "localhost"], LANGUAGE_CODE="en"
    ):
        server = HttpsServer(tmp_path)
        server.daemon = True
        server.start()
        server.is_ready.wait()
        assert not server.error
        yield f"https://127.0.0.1:{server.port}"
        server.terminate()


def send_from_elsewhere(browser, https, path, **fields):
    """Open another site's page and press its button."""
    elsewhere = https.replace("127.0.0.1", "localhost")
    browser.go(f"{elsewhere}/other-site/?{urlencode({'to': https + path, **fields})}")
    browser.click("button")
    browser.wait(f"location.href == {json.dumps(https + path)} && document.readyState == 'complete'")


def is_signed_in(browser, https):
    """The sign-in page sends on who is signed in."""
    browser.go(f"{https}/rc/")
    return browser.run("fetch('/login/').then(answer => new URL(answer.url).pathname == '/')")


def cookies(browser, https):
    return {
        one["name"]: one["value"] for one in browser.call("Network.getCookies", urls=[https + "/"])["cookies"]
    }


@pytest.mark.peer
def test_no_form_of_another_site_signs_anybody_out(https, browser):
    send_and_arrive(browser, https, signer.assertion())
    for path in ADDRESSES:
        before = cookies(browser, https)
        send_from_elsewhere(browser, https, path, **FIELDS)
        assert cookies(browser, https) == before, path
        assert is_signed_in(browser, https), path


def send_and_arrive(browser, https, assertion):
    """Sign in as the federation does it, by a form from its own site."""
    browser.go(f"{https}/login/")
    elsewhere = https.replace("127.0.0.1", "localhost")
    browser.go(f"{elsewhere}/other-site/?{urlencode({'to': https + '/rc/', 'assertion': assertion})}")
    browser.click("button")
    browser.wait(f"location.href == {json.dumps(https + '/')} && document.readyState == 'complete'")
    assert is_signed_in(browser, https)


@pytest.mark.peer
def test_a_reload_after_the_sign_in_signs_nobody_out(https, browser):
    """The same assertion once more is RC-REPLAY, and who came in by it stays in."""
    assertion = signer.assertion()
    send_and_arrive(browser, https, assertion)
    before = cookies(browser, https)
    send_from_elsewhere(browser, https, "/rc/", assertion=assertion)
    assert "RC-REPLAY-" in browser.run("document.body.innerText")
    assert cookies(browser, https) == before
    # The page cannot know who is signed in, and its button leads on all the same.
    browser.run("document.querySelector(\"a[href='/login/'].btn-primary:not(#login-button)\").click()")
    browser.wait(f"location.href == {json.dumps(https + '/')} && document.readyState == 'complete'")
    assert is_signed_in(browser, https)


LINKS = ["/oidc/aaf/", "/oidc/aaf/callback/?state=abc&code=abc", "/oidc/nobody/", "/logout/"]


@pytest.mark.peer
def test_no_link_of_another_site_signs_anybody_out(openid, https, browser):
    openid.RAPID_CONNECT_ENABLED = True
    send_and_arrive(browser, https, signer.assertion())
    elsewhere = https.replace("127.0.0.1", "localhost")
    for path in LINKS:
        before = cookies(browser, https)
        browser.go(f"{elsewhere}/other-site/?to=/")
        browser.run(f"window.before = true; location.href = {json.dumps(https + path)}")
        browser.wait(
            f"!window.before && location.origin == {json.dumps(https)} && document.readyState == 'complete'"
        )
        assert cookies(browser, https) == before, path
        assert is_signed_in(browser, https), path
