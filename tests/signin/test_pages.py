"""The sign-in page, the administrators' way in, and what a refusal's page offers."""

import re
import subprocess
import sys

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from . import signer
from .conftest import user_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("public_user")]
User = get_user_model()
BUTTON = 'id="federation-button"'
FORM = 'id="login-form"'


@pytest.fixture
def account(db):
    return User.objects.create_user("operator", email="operator@example.edu", password="a password")


def page(client, path="/login/"):
    return client.get(path, secure=True).content.decode()


def test_the_federation_comes_first_and_the_form_behind_it(site, client):
    html = page(client)
    assert html.index(BUTTON) < html.index("<details") < html.index("Local sign-in") < html.index(FORM)
    assert "<details open" not in html.replace(' class="mt-4"', "")
    assert 'href="https://rapid.test.aaf.edu.au/jwt/authnrequest/research/XXXX"' in html


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"iss": "https://rapid.aaf.edu.au"}, "Sign in with the Australian Access Federation"),
        ({"iss": "https://rapidconnect.tuakiri.ac.nz"}, "Sign in with Tuakiri"),
        ({"iss": "https://federation.example"}, "Sign in with your institution"),
        ({"label": "Sign in with <Tuakiri> & friends"}, "Sign in with &lt;Tuakiri&gt; &amp; friends"),
    ],
)
def test_the_button_names_the_federation_of_the_site(site, client, changes, label):
    site.RAPID_CONNECT_CONFIG = {**site.RAPID_CONNECT_CONFIG, **changes}
    assert f">{label}</a>" in page(client)


@pytest.mark.parametrize("path", ["/local_local", "/local_local/"])
def test_administrators_go_straight_to_the_form(site, client, path):
    html = page(client, path)
    assert FORM in html
    assert BUTTON not in html
    assert "<details" not in html


@pytest.mark.parametrize("missing", [{"authnrequest_url": ""}, {"authnrequest_url": None}, {}])
def test_without_a_registered_service_the_front_page_leads_to_the_sign_in_page(site, client, missing):
    known = {key: value for key, value in site.RAPID_CONNECT_CONFIG.items() if key != "authnrequest_url"}
    site.RAPID_CONNECT_CONFIG = {**known, **missing}
    response = client.get("/", secure=True)
    assert response.status_code == 200
    button = re.search(r'<a[^>]*id="login-button"[^>]*>', response.content.decode())[0]
    assert re.search(r'href="?/login/', button)


def test_the_front_page_is_right_from_the_start():
    """In a process of its own, which begins with the settings as they are in a file."""
    program = (
        "from tests import settings as tests; from django.conf import settings; import django; "
        "tests.RAPID_CONNECT_ENABLED = True; tests.RAPID_CONNECT_CONFIG['authnrequest_url'] = ''; "
        "django.setup(); print(settings.RAPID_CONNECT_CONFIG['authnrequest_url'])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.endswith("/login/\n")


@pytest.mark.parametrize("path", ["/login/", "/local_local"])
def test_without_a_registered_service_there_is_the_form(site, client, path):
    site.RAPID_CONNECT_CONFIG = {**site.RAPID_CONNECT_CONFIG, "authnrequest_url": ""}
    html = page(client, path)
    assert FORM in html
    assert BUTTON not in html
    # Administrators are told; everybody else is not puzzled with it.
    assert ("authnrequest_url" in html) is (path == "/local_local")


def test_without_a_registered_service_assertions_are_taken_all_the_same(site, post, client):
    site.RAPID_CONNECT_CONFIG = {**site.RAPID_CONNECT_CONFIG, "authnrequest_url": ""}
    assert post(signer.assertion()).status_code == 302
    assert user_of(client)


@pytest.mark.parametrize("config", [None, {}])
def test_where_it_is_switched_off_there_is_the_form_alone(site, client, config):
    site.RAPID_CONNECT_ENABLED = False
    site.RAPID_CONNECT_CONFIG = config
    for path in ("/login/", "/local_local"):
        html = page(client, path)
        assert FORM in html
        assert BUTTON not in html
        assert "authnrequest_url" not in html


@pytest.mark.parametrize("path", ["/login/", "/local_local"])
def test_a_local_account_signs_in_with_its_password(site, client, account, path):
    response = client.post(path, {"username": "operator", "password": "a password"}, secure=True)
    assert (response.status_code, response["Location"]) == (302, "/")
    assert user_of(client) == account.pk
    assert client.session["_auth_user_backend"] == "django.contrib.auth.backends.ModelBackend"


def test_a_local_sign_in_goes_on_to_the_page_that_was_asked_for(site, client, account):
    fields = {"username": "operator", "password": "a password"}
    response = client.post("/login/?next=/dataset/7", fields, secure=True)
    assert response["Location"] == "/dataset/7"


@pytest.mark.parametrize("there", ["https://evil.example/", "//evil.example"])
def test_a_local_sign_in_goes_to_no_other_site(site, client, account, there):
    fields = {"username": "operator", "password": "a password", "next": there}
    assert client.post(f"/login/?next={there}", fields, secure=True)["Location"] == "/"
    assert client.get(f"/login/?next={there}", secure=True)["Location"] == "/"


@pytest.mark.parametrize("fields", [{"password": "wrong"}, {"username": "nobody"}, {"password": ""}])
def test_a_wrong_password_opens_the_form_and_says_so(site, client, account, fields):
    fields = {"username": "operator", "password": "a password", **fields}
    response = client.post("/login/", fields, secure=True)
    assert response.status_code == 403
    html = response.content.decode()
    assert " open>" in html
    assert 'role="alert"' in html
    assert fields["password"] not in html or not fields["password"]
    assert user_of(client) is None


def test_a_form_without_its_fields_is_a_wrong_password(site, client):
    assert client.post("/login/", {}, secure=True).status_code == 403


def test_an_inactive_account_does_not_come_in_by_password(site, client, account):
    User.objects.update(is_active=False)
    fields = {"username": "operator", "password": "a password"}
    assert client.post("/local_local", fields, secure=True).status_code == 403


def test_an_inactive_account_does_not_come_in_by_a_directory_that_still_knows_it(
    site, client, account, monkeypatch
):
    """MyTARDIS's LDAP provider says who it is and not whether the account here is active."""
    from tardis.tardis_portal.auth import auth_service

    User.objects.update(is_active=False)
    account.refresh_from_db()
    monkeypatch.setattr(auth_service, "authenticate", lambda authMethod, request: account)
    fields = {"username": "operator", "password": "a password"}
    assert client.post("/local_local", fields, secure=True).status_code == 403
    assert user_of(client) is None


@pytest.mark.parametrize("path", ["/login/", "/local_local"])
def test_the_form_is_protected_from_other_sites(site, account, path):
    browser = Client(enforce_csrf_checks=True)
    fields = {"username": "operator", "password": "a password"}
    assert browser.post(path, fields, secure=True).status_code == 403
    assert user_of(browser) is None


@pytest.mark.parametrize("path", ["/login/", "/local_local"])
def test_who_is_signed_in_goes_on(site, client, account, path):
    client.force_login(account, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(path, secure=True)["Location"] == "/"


def test_a_federated_account_has_no_password_to_guess(site, post, client):
    post(signer.assertion())
    client.logout()
    for password in ("", "!", "None", User.objects.get(email="ada@example.edu").password):
        fields = {"username": "ada@example.edu", "password": password}
        assert client.post("/local_local", fields, secure=True).status_code == 403


def test_a_refusal_offers_the_sign_in_page_or_to_carry_on(site, post, client):
    assert 'href="/login/"' in post("forged").content.decode()
    post(signer.assertion())
    assert "signed in as ada@example.edu" in post("forged").content.decode()


def test_every_provider_has_its_button(site, openid, client):
    one = openid.OPENID_CONNECT_PROVIDERS[0]
    two = {**one, "name": "uni", "label": "Uni <of> X", "issuer": "https://uni.example", "redirect_uri": "https://testserver/oidc/uni/callback/"}  # fmt: skip
    broken = {**two, "name": "broken", "issuer": "http://uni.example"}
    openid.RAPID_CONNECT_ENABLED = True
    openid.OPENID_CONNECT_PROVIDERS = [one, two, broken]
    buttons = re.findall(r'href="([^"]*)" data-provider="([^"]*)">([^<]*)<', page(client))
    assert buttons == [
        ("https://rapid.test.aaf.edu.au/jwt/authnrequest/research/XXXX", "rapid-connect", "Sign in with the test federation of AAF"),
        ("/oidc/aaf/", "aaf", "Sign in with AAF"),
        ("/oidc/uni/", "uni", "Uni &lt;of&gt; X"),
    ]  # fmt: skip
    told = page(client, "/local_local")
    assert "http://uni.example" in told and "data-provider" not in told
    # MyTARDIS's front page would lead to Rapid Connect alone.
    front = client.get("/", secure=True).content.decode()
    assert re.search(r'<a[^>]*id="login-button"[^>]*href="?/login/', front)


def test_a_site_without_our_root_has_a_sign_in_page_all_the_same(openid, client):
    openid.ROOT_URLCONF = "tardis.urls"
    html = page(client)
    assert FORM in html and "data-provider" not in html
