"""What the system checks say of each thing that can be set up wrongly."""

import subprocess
import sys
import time

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
    assert told.stdout.endswith("True\n")


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


# OpenID Connect


def change(openid, **changes):
    openid.OPENID_CONNECT_PROVIDERS = [{**openid.OPENID_CONNECT_PROVIDERS[0], **changes}]


@pytest.fixture
def good(openid, tmp_path):
    """A provider in order, by https."""
    (tmp_path / "secret").write_text("secret of the client")
    (tmp_path / "secret").chmod(0o600)
    change(openid, issuer="https://op.example", client_secret="", client_secret_file=str(tmp_path / "secret"))
    return openid


def test_a_provider_set_up_as_documented_is_in_order(good):
    assert found()
    openid_keys = {
        "scopes": ["openid", "eduperson"],
        "claims": {"mail": "upn"},
        "federation": "AAF",
        "trust_mail": True,
        "groups": [{"claim": "a", "value": "b", "group": "c"}],
        "sign_out": False,
        "signed_out_uri": "https://testserver/",
        "userinfo": False,
    }
    change(good, **openid_keys)
    assert found()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Not a slug"}, "'name'"),
        ({"name": None}, "'name'"),
        ({"issuer": ""}, "['issuer'] is missing"),
        ({"issuer": 7}, "['issuer'] must be a text"),
        ({"issuer": "http://op.example"}, "must begin with https://"),
        ({"issuer": "https://[broken"}, "must begin with https://"),
        ({"client_id": None}, "['client_id'] must be a text"),
        ({"client_secret": "x"}, "one of 'client_secret_file' and 'client_secret'"),
        ({"client_secret_file": ""}, "one of 'client_secret_file' and 'client_secret'"),
        ({"redirect_uri": "http://testserver/oidc/aaf/callback/"}, "must begin with https://"),
        ({"scopes": ["profile"]}, "'openid' among them"),
        ({"scopes": "openid"}, "'openid' among them"),
        ({"claims": {"superuser": "admin"}}, "may name the provider's claims"),
        ({"claims": ["mail"]}, "may name the provider's claims"),
        ({"groups": [{"claim": "a"}]}, "'claim', 'value' and 'group'"),
        ({"groups": [{"claim": "a", "value": True, "group": "c"}]}, "'claim', 'value' and 'group'"),
        ({"groups": 7}, "'claim', 'value' and 'group'"),
        ({"trust_mail": "yes"}, "must be True or False"),
        ({"client_key": "x"}, "unknown key 'client_key'"),
    ],
)
def test_settings_of_a_provider_that_are_wrong_are_named(good, changes, words):
    change(good, **changes)
    told = [message.msg for message in check_sign_in(None) if message.id == "imagetrove.W112"]
    assert any(words in one for one in told), told
    assert "secret of the client" not in str(told)


@pytest.mark.parametrize("providers", ["text", [7], {"name": "aaf"}])
def test_a_list_of_providers_that_is_none(good, providers):
    good.OPENID_CONNECT_PROVIDERS = providers
    assert found("W112")


def test_two_providers_alike(good):
    good.OPENID_CONNECT_PROVIDERS = [*good.OPENID_CONNECT_PROVIDERS] * 2
    told = [message.msg for message in check_sign_in(None)]
    assert len(told) == 2 and "'name'" in told[0] and "'issuer'" in told[1]


def test_an_issuer_by_plain_http(good):
    change(good, issuer="http://127.0.0.1:8000")
    assert found("W113")
    good.DEBUG = True
    assert found()


def test_a_secret_that_is_written_in_the_settings(good):
    from tests import settings as tests

    change(good, client_secret_file="", client_secret="globals().update")
    assert found("W114")
    assert tests.__file__ in check_sign_in(None)[0].msg
    change(good, client_secret="of the environment")
    assert found()


def test_a_file_of_the_secret_that_is_not_right(good, tmp_path):
    (tmp_path / "secret").chmod(0o644)
    assert found("W115")
    (tmp_path / "secret").write_text("")
    assert found("W115")
    (tmp_path / "secret").unlink()
    assert found("W115")


@pytest.mark.parametrize(
    "uri",
    [
        "https://testserver/oidc/aaf/",
        "https://testserver/oidc/other/callback/",
        "https://testserver/oidc/aaf/callback",
        "https://testserver/oidc/aaf/callback/?a=b",
        "https://another.example/oidc/aaf/callback/",
        "http://localhost/oidc/aaf/callback/",
    ],
)
def test_a_redirect_address_that_does_not_match(good, uri):
    good.ALLOWED_HOSTS = ["testserver", "localhost"]
    change(good, redirect_uri=uri)
    assert found("W116")


def test_a_redirect_address_that_another_root_answers(good):
    good.ROOT_URLCONF = "tardis.urls"
    assert found("W116")
    assert "root_urls" in check_sign_in(None)[0].hint


def test_strict_session_cookies(good):
    good.SESSION_COOKIE_SAMESITE = "Strict"
    assert found("W117")


def test_the_sign_in_page_and_the_backend_are_asked_for_as_well(good):
    good.LOGIN_VIEWS = {}
    good.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
    assert found("W107", "W108")


def deployed():
    return [message for message in run_checks(include_deployment_checks=True) if message.id in ASKED]


ASKED = {"imagetrove.W118", "imagetrove.W119"}


def test_a_provider_is_asked_at_deployment_alone(openid, provider):
    assert not deployed()
    assert provider.asked == ["/.well-known/openid-configuration", "/keys"]
    run_checks()
    assert len(provider.asked) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda provider: provider.replies.update({"/keys": (500, {})}),
        lambda provider: provider.discovery.update(issuer="https://evil.example"),
        lambda provider: provider.published.clear(),
        lambda provider: setattr(provider, "auth", "private_key_jwt"),
    ],
)
def test_a_provider_that_cannot_be_used(openid, provider, spoil):
    spoil(provider)
    (message,) = deployed()
    assert message.id == "imagetrove.W118" and "'aaf'" in message.msg


def test_a_provider_that_cannot_be_reached(openid):
    change(openid, issuer="http://127.0.0.1:9")
    (message,) = deployed()
    assert message.id == "imagetrove.W118" and "does not answer" in message.msg


@pytest.mark.parametrize(("seconds", "words"), [(-3600, "3600 s behind"), (120, "120 s ahead of")])
def test_a_clock_that_is_off(openid, provider, seconds, words):
    provider.clock = lambda: round(time.time()) + seconds
    (message,) = deployed()
    assert message.id == "imagetrove.W119"
    assert words in message.msg.replace(f"{abs(seconds) - 1} s", f"{abs(seconds)} s").replace(
        f"{abs(seconds) + 1} s", f"{abs(seconds)} s"
    )
