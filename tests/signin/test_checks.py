"""What the system checks say of each thing that can be set up wrongly."""

import subprocess
import sys

import pytest
from django.core.checks import run_checks
from django.core.management import call_command

from tardis_imagetrove.signin import checks, session
from tardis_imagetrove.signin.checks import check_sign_in

from . import signer


def found(*ids):
    return {message.id for message in check_sign_in(None)} == {f"imagetrove.{one}" for one in ids}


def config(site, **changes):
    site.RAPID_CONNECT_CONFIG = {**site.RAPID_CONNECT_CONFIG, **changes}


def test_a_site_set_up_as_documented_is_in_order(site):
    assert found()


def test_a_site_without_federation_hears_nothing(settings):
    settings.RAPID_CONNECT_ENABLED = False
    settings.RAPID_CONNECT_CONFIG = None
    assert found()


def test_the_checks_come_with_the_app():
    """In a process of its own, since this one has imported them."""
    program = (
        "import django; django.setup(); import sys; print('tardis_imagetrove.signin.checks' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "True\n"


def test_the_checks_are_among_djangos(site):
    config(site, secret="CHANGE_ME")
    assert "imagetrove.W101" in {message.id for message in run_checks()}


def test_what_is_wrong_with_signing_in_stops_no_command(site, db):
    site.RAPID_CONNECT_CONFIG = {}
    call_command("check")


@pytest.mark.parametrize("secret", ["", "CHANGE_ME", None])
def test_a_known_secret(site, secret):
    config(site, secret=secret)
    assert found("W101")


def test_a_short_secret(site):
    config(site, secret=signer.SECRET[:31])
    assert found("W102")
    config(site, secret=signer.SECRET[:32])
    assert found()


def test_a_long_secret_of_few_characters(site):
    config(site, secret="secret" * 10)
    assert found("W102")


def test_addresses_that_another_view_answers(site):
    site.ROOT_URLCONF = "tardis.urls"
    assert found("W103")
    (message,) = check_sign_in(None)
    assert all(path in message.msg for path in ("/rc/", "/rc,", "/rc/auth/jwt"))
    assert "root_urls" in message.hint


@pytest.mark.parametrize(
    "audience",
    [
        "",
        "https://example.com/rc/",
        "https://testserver/",
        "https://testserver/rc/auth/",
        "https://testserver/rc/?a=b",
        "https://other.example.org/rc/",
        "ftp://testserver/rc/",
        "testserver/rc/",
        "https:///rc/",
        "http://[broken/rc/",
        None,
    ],
)
def test_an_audience_that_is_no_address_of_ours(site, audience):
    config(site, aud=audience)
    assert found("W104")


@pytest.mark.parametrize("path", ["/rc/", "/rc", "/rc/auth/jwt"])
def test_every_address_of_ours_may_be_registered(site, path):
    config(site, aud=f"https://testserver{path}")
    assert found()


def test_plain_http_is_for_trying_out(site):
    config(site, aud="http://testserver/rc/")
    site.DEBUG = False
    assert found("W104")
    site.DEBUG = True
    assert found()


def test_a_missing_issuer(site):
    config(site, iss="")
    assert found("W105")


@pytest.mark.parametrize("url", ["", None, "rapid.aaf.edu.au", "javascript:alert(1)", "http://[broken"])
def test_a_missing_address_of_the_federation(site, url):
    config(site, authnrequest_url=url)
    assert found("W106")


def test_mytardis_own_sign_in_page(site):
    view = site.LOGIN_VIEWS[site.SITE_ID]
    for views in ({}, None, {site.SITE_ID + 1: view}, {site.SITE_ID: "another.view"}):
        site.LOGIN_VIEWS = views
        assert found("W107")
    site.LOGIN_VIEWS = {"the.sites.domain": view}
    assert found()


def test_a_backend_that_is_missing_or_asked_too_late(site):
    ours, others = site.AUTHENTICATION_BACKENDS[:1], site.AUTHENTICATION_BACKENDS[1:]
    site.AUTHENTICATION_BACKENDS = others
    assert found("W108")
    site.AUTHENTICATION_BACKENDS = [*others, *ours]
    assert found("W108")


@pytest.mark.parametrize("leeway", [-1, 301, "30", 1.5, True, None])
def test_a_leeway_that_is_none(site, leeway):
    config(site, leeway=leeway)
    assert found("W110")


def test_everything_at_once(site):
    site.RAPID_CONNECT_CONFIG = "no dictionary"
    assert found("W101", "W104", "W105", "W106")
    assert signer.SECRET not in str(check_sign_in(None))


def test_paths_of_the_former_version_work_and_are_named(site):
    site.ROOT_URLCONF = checks.FORMER_ROOT_URLS
    site.AUTHENTICATION_BACKENDS = [
        path if path != session.BACKEND else session.FORMER_BACKENDS[0]
        for path in site.AUTHENTICATION_BACKENDS
    ]
    site.LOGIN_VIEWS = {site.SITE_ID: checks.FORMER_SIGN_IN_VIEW}
    told = [message for message in check_sign_in(None)]
    assert [message.id for message in told] == ["imagetrove.W111"] * 3
    assert [message.msg.split()[0] for message in told] == [
        "ROOT_URLCONF",
        "AUTHENTICATION_BACKENDS",
        "LOGIN_VIEWS",
    ]
