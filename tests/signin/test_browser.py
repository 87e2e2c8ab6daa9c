"""A whole sign-in in a browser, whose rules for cookies and forms from another site no test client has."""

import json

import pytest
from django.contrib.auth import get_user_model
from django.test import override_settings

from devhost.federation import setup
from tardis_imagetrove.signin.openid import metadata

from ..browser import Browser

pytestmark = [pytest.mark.peer, pytest.mark.django_db(transaction=True)]
User = get_user_model()


@pytest.fixture(params=[(1280, 900), (375, 667)], ids=["wide", "phone"])
def browser(request, tmp_path):
    opened = Browser(tmp_path / "browser", "--disable-gpu")
    opened.resize(*request.param, mobile=request.param[0] < 500)
    yield opened
    opened.close()


@pytest.fixture
def demo(settings, tmp_path, live_server):
    """Address of a host whose federation is the stand-in, which the browser takes for another site."""
    here = live_server.url.replace("localhost", "127.0.0.1")
    there = live_server.url.replace("127.0.0.1", "localhost")
    metadata.forget()
    with override_settings(
        INSTALLED_APPS=[*settings.INSTALLED_APPS, "devhost.federation"],
        DEVHOST_FEDERATION=there,
        RAPID_CONNECT_ENABLED=True,
        RAPID_CONNECT_CONFIG={
            **setup.rapid_connect_config(here, tmp_path),
            "authnrequest_url": f"{there}/{setup.PATH}",
        },
        OPENID_CONNECT_PROVIDERS=[
            {
                **setup.openid_connect_provider(there, tmp_path),
                "redirect_uri": f"{here}/oidc/stand-in/callback/",
                "signed_out_uri": f"{here}/",
            }
        ],
        ROOT_URLCONF="devhost.federation.urls",
        ALLOWED_HOSTS=["127.0.0.1", "localhost"],
        LANGUAGE_CODE="en",
    ):
        yield here


def arrive(browser, path):
    browser.wait(f"location.pathname == '{path}' && document.readyState == 'complete'")


def press(browser, selector):
    """By the Enter key: a MyTARDIS without its built style sheets may break a link into two lines with nothing between."""
    browser.run(f"document.querySelector({json.dumps(selector)}).focus()")
    browser.key("Enter", 13, "\r")


def choose(browser, person, spoilt=""):
    """At the stand-in's page."""
    arrive(browser, f"/{setup.PATH}")
    assert "stand-in" in browser.run("document.querySelector('.mark').innerText")
    browser.run(f"document.querySelector('select').value = '{spoilt}'")
    press(browser, f"button[value={person}]")


def in_view(browser, selector):
    """Whether an element is within the width of the window, so that nobody scrolls sideways for it."""
    return browser.run(
        f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
        " return r.width > 0 && r.left >= 0 && r.right <= innerWidth })()"
    )


def test_a_person_comes_in_from_another_site_by_the_keyboard(demo, browser):
    browser.go(f"{demo}/login/")
    assert in_view(browser, "#federation-button")
    assert not browser.run("document.querySelector('#id_username').checkVisibility()")
    for _ in range(40):
        browser.key("Tab", 9)
        if browser.run("document.activeElement.id == 'federation-button'"):
            break
    assert browser.run("document.activeElement.id") == "federation-button"
    browser.key("Enter", 13, "\r")
    choose(browser, "bjork")
    arrive(browser, "/")
    user = User.objects.get(email="bjork@example.edu")
    assert user.first_name == "Björk"
    # Who is signed in is sent on from the sign-in page.
    assert browser.run("fetch('/login/').then(answer => new URL(answer.url).pathname)") == "/"


OPENID_BUTTON = "[data-provider=stand-in]"


def choose_by_openid_connect(browser, person, spoilt=""):
    press(browser, OPENID_BUTTON)
    arrive(browser, f"/{setup.OPENID_PATH}/authorize")
    assert "stand-in" in browser.run("document.querySelector('.mark').innerText")
    browser.run(f"document.querySelector('select').value = '{spoilt}'")
    press(browser, f"button[value={person}]")


def test_a_person_comes_in_by_openid_connect_and_signs_out_everywhere(demo, browser):
    browser.go(f"{demo}/login/")
    assert in_view(browser, OPENID_BUTTON)
    choose_by_openid_connect(browser, "bjork")
    arrive(browser, "/")
    user = User.objects.get(email="bjork@example.edu")
    # By Rapid Connect it is the same account.
    browser.run("window.before = true; location.href = '/logout/'")
    browser.wait("!window.before && location.pathname == '/' && document.readyState == 'complete'")
    browser.go(f"{demo}/login/")
    press(browser, "#federation-button")
    choose(browser, "bjork")
    arrive(browser, "/")
    assert User.objects.filter(last_login__isnull=False).get() == user


def test_a_refusal_of_openid_connect_is_read_and_leads_back(demo, browser):
    browser.go(f"{demo}/login/")
    choose_by_openid_connect(browser, "ada", "expired")
    arrive(browser, "/oidc/stand-in/callback/")
    assert "OIDC-EXPIRED-" in browser.run("document.body.innerText")
    assert in_view(browser, "a[href='/login/'].btn-primary:not(#login-button)")
    browser.go(f"{demo}/login/")
    choose_by_openid_connect(browser, "nobody")
    arrive(browser, "/oidc/stand-in/callback/")
    assert "OIDC-DENIED-" in browser.run("document.body.innerText")
    assert not User.objects.filter(email="ada.lovelace@example.edu").exists()


def test_a_refusal_is_read_and_leads_back(demo, browser):
    browser.go(f"{demo}/login/")
    press(browser, "#federation-button")
    choose(browser, "ada", "expired")
    arrive(browser, "/rc/")
    assert "RC-EXPIRED-" in browser.run("document.body.innerText")
    assert browser.run("document.querySelectorAll('h1').length") == 1
    assert in_view(browser, "a[href='/login/'].btn-primary:not(#login-button)")
    press(browser, "a[href='/login/'].btn-primary:not(#login-button)")
    arrive(browser, "/login/")
    assert not User.objects.filter(email="ada.lovelace@example.edu").exists()


def test_the_local_form_opens_by_the_keyboard_and_says_what_is_wrong(demo, browser):
    User.objects.create_user("operator", password="a password")
    browser.go(f"{demo}/login/")
    browser.run("document.querySelector('summary').focus()")
    browser.key("Enter", 13, "\r")
    browser.wait("document.querySelector('#id_username').checkVisibility()")

    def send(password):
        browser.run(
            "document.querySelector('#id_username').value = 'operator';"
            f"document.querySelector('#id_password').value = '{password}';"
            "document.querySelector('#login-form').requestSubmit()"
        )

    send("another")
    browser.wait("document.querySelectorAll('#sign-in-problem[role=alert]').length == 1")
    assert in_view(browser, "#sign-in-problem")
    assert browser.run(
        "[...document.querySelectorAll('#login-form input:not([type=hidden])')].every(input =>"
        " input.labels.length == 1 && input.getAttribute('aria-describedby') == 'sign-in-problem')"
    )
    send("a password")
    arrive(browser, "/")
    assert User.objects.get(username="operator").last_login
