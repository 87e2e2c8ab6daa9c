"""A whole sign-in by HTTP: what is posted, who comes in, and what each refusal tells them."""

import logging
import time

import pytest
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.db import OperationalError, connection
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tardis_imagetrove.mytardis import mytardis
from tardis_imagetrove.signin import identity, refusals, session
from tardis_imagetrove.signin.models import FederatedIdentity, ProjectMember, SpentAssertion

from . import signer
from .conftest import code_of, user_of

pytestmark = pytest.mark.django_db
User = get_user_model()


def people():
    """All accounts but the one that MyTARDIS 5.0 has for itself."""
    return User.objects.exclude(username="PUBLIC_USER")


@pytest.fixture
def local(db):
    """An account of this site with the address that the federation will say."""
    return User.objects.create_user("local-ada", email="Ada@example.edu", password="a password")


# Coming in


@pytest.mark.parametrize("path", ["/rc/", "/rc", "/rc/auth/jwt"])
def test_a_person_comes_in_at_every_registered_address(post, client, path):
    response = post(signer.assertion(), path)
    assert (response.status_code, response["Location"]) == (302, "/")
    assert user_of(client) == User.objects.get(email="ada@example.edu").pk


def test_a_first_sign_in_makes_an_account_as_mytardis_has_them(post, site):
    Group.objects.create(name="researchers")
    site.NEW_USER_INITIAL_GROUPS = ["researchers", "no such group"]
    before = time.time()
    post(signer.assertion())
    user = User.objects.get(email="ada@example.edu")
    assert (user.first_name, user.last_name, user.username) == ("Ada", "Lovelace", "ada@example.edu")
    assert [group.name for group in user.groups.all()] == ["researchers"]
    assert user.last_login.timestamp() >= before
    assert not user.has_usable_password()
    assert not (user.is_staff or user.is_superuser)
    assert user.userprofile.rapidConnectEduPersonTargetedID == signer.targeted_id()
    assert user.userprofile.isDjangoAccount is False
    assert user.userprofile.userauthentication_set.get().username == user.username


def test_no_first_groups_at_all_are_no_trouble(post, site):
    site.NEW_USER_INITIAL_GROUPS = None
    assert post(signer.assertion()).status_code == 302


def test_the_same_person_comes_back_to_the_same_account(post):
    post(signer.assertion())
    first = people().get()
    post(signer.assertion(), browser=Client())
    assert people().get() == first


def test_name_and_mail_follow_the_federation(post, client):
    post(signer.assertion())
    first = user_of(client)
    post(signer.assertion(said={"surname": "King", "mail": "ada.king@example.edu"}))
    user = people().get()
    assert user.pk == first == user_of(client)
    assert (user.first_name, user.last_name, user.email) == ("Ada", "King", "ada.king@example.edu")


def test_what_the_federation_leaves_out_later_stays(post):
    post(signer.assertion())
    post(signer.assertion(**{signer.ATTRIBUTES: {}}))
    user = people().get()
    assert (user.first_name, user.last_name, user.email) == ("Ada", "Lovelace", "ada@example.edu")


def test_two_people_with_one_address_stay_two(post, client):
    post(signer.assertion("ada"))
    first = user_of(client)
    post(signer.assertion("grace", said={"mail": "ADA@example.edu"}))
    assert user_of(client) != first
    assert people().count() == 2
    assert {user.username for user in people()} == {"ada@example.edu", "ada@example.edu-2"}


def test_a_person_who_takes_another_ones_address_later_stays_another(post, client):
    post(signer.assertion("ada"))
    post(signer.assertion("grace"))
    grace = user_of(client)
    post(signer.assertion("grace", said={"mail": "ada@example.edu"}))
    assert user_of(client) == grace
    assert User.objects.filter(email="ada@example.edu").count() == 2


def test_a_person_without_attributes_gets_an_account(post, client):
    post(signer.assertion(**{signer.ATTRIBUTES: None}))
    user = User.objects.get(pk=user_of(client))
    assert user.username.startswith("federated-")
    assert user.email == ""


def test_odd_names_are_kept_and_shown_as_text(post, client):
    post(
        signer.assertion(
            said={"givenname": "Bjo\u0308rk\0", "surname": "<b>𝔘 王</b>", "mail": "bj'örk/x@example.edu"}
        )
    )
    user = User.objects.get(pk=user_of(client))
    assert (user.first_name, user.last_name) == ("Björk", "<b>𝔘 王</b>")
    # MyTARDIS has user names in addresses, by this pattern.
    assert user.username.isascii()
    assert not set(user.username) & set("'/<> ")
    assert "<b>𝔘" not in client.get("/", secure=True).content.decode()
    assert "<b>𝔘" not in post("forged").content.decode()


def test_a_long_address_makes_a_user_name_that_mytardis_can_keep(post, client):
    mail = "a" * 60 + "@example.edu"
    post(signer.assertion("ada", said={"mail": mail}))
    post(signer.assertion("grace", said={"mail": mail}))
    names = [user.username for user in User.objects.filter(email=mail)]
    assert len(set(names)) == 2
    assert max(map(len, names)) <= 50


# Django's own ways


def test_signals_and_the_backend_are_those_of_any_sign_in(post, client):
    seen = []

    def note(sender, request, user, **kwargs):
        seen.append((user.pk, user.backend))

    user_logged_in.connect(note)
    try:
        post(signer.assertion())
    finally:
        user_logged_in.disconnect(note)
    backend = "tardis_imagetrove.signin.backend.FederatedBackend"
    assert seen == [(user_of(client), backend)]
    assert client.session["_auth_user_backend"] == backend


@pytest.mark.parametrize("backend", session.FORMER_BACKENDS)
def test_a_site_with_the_settings_of_a_former_version_signs_people_in(post, site, client, backend):
    site.ROOT_URLCONF = "tardis_imagetrove.rapidconnect.root_urls"
    site.AUTHENTICATION_BACKENDS = [
        backend,
        "django.contrib.auth.backends.ModelBackend",
    ]
    post(signer.assertion())
    assert user_of(client)
    assert client.get("/").wsgi_request.user.pk == user_of(client)


def test_a_refusal_sends_the_signal_without_the_assertion(post):
    seen = []

    def note(sender, credentials, **kwargs):
        seen.append(credentials)

    token = signer.assertion(aud="https://another.example.org/rc/")
    user_login_failed.connect(note)
    try:
        post(token)
    finally:
        user_login_failed.disconnect(note)
    assert len(seen) == 1
    assert token not in str(seen)


def test_the_session_is_new_and_holds_nothing_of_the_one_before(post, client):
    client.get("/login/", secure=True)
    session = client.session
    session["planted"] = "by somebody else"
    session.save()
    before = session.session_key
    post(signer.assertion())
    assert client.session.session_key != before
    assert "planted" not in client.session
    assert not type(session)().exists(before)


def test_the_session_is_new_for_the_same_person_as_well(post, client):
    post(signer.assertion())
    before = client.session.session_key
    post(signer.assertion())
    assert client.session.session_key != before


def test_another_person_on_the_same_browser_takes_over_nothing(post, client):
    post(signer.assertion("ada"))
    ada = user_of(client)
    post(signer.assertion("grace"))
    assert user_of(client) not in (None, ada)


def test_no_csrf_token_is_asked_of_the_federation(site):
    browser = Client(enforce_csrf_checks=True)
    response = browser.post("/rc/", {"assertion": signer.assertion()}, secure=True)
    assert response.status_code == 302
    assert user_of(browser)


def test_an_account_that_is_switched_off_is_out_at_once(post, client):
    post(signer.assertion())
    User.objects.update(is_active=False)
    response = client.get("/", secure=True)
    assert not response.wsgi_request.user.is_authenticated


def test_pages_of_signing_in_are_not_cached(post):
    assert "no-store" in post(signer.assertion())["Cache-Control"]
    assert "no-store" in post("nothing")["Cache-Control"]


@pytest.mark.parametrize("path", ["/rc/", "/login/", "/local_local"])
def test_no_other_site_can_frame_a_page_of_signing_in(site, client, path):
    assert client.get(path, secure=True)["X-Frame-Options"] == "DENY"


def test_what_an_account_may_do_is_what_its_groups_may(post, client):
    permission = Permission.objects.get(codename="add_experiment")
    group = Group.objects.create(name="researchers")
    group.permissions.add(permission)
    post(signer.assertion())
    user = User.objects.get(pk=user_of(client))
    assert not user.has_perm("tardis_portal.add_experiment")
    user.groups.add(group)
    assert User.objects.get(pk=user.pk).has_perm("tardis_portal.add_experiment")
    user.is_active = False
    user.save()
    assert not User.objects.get(pk=user.pk).has_perm("tardis_portal.add_experiment")


# Where to


def test_the_page_that_was_asked_for_comes_after_the_sign_in(post, client):
    client.get("/login/?next=/dataset/7", secure=True)
    assert post(signer.assertion())["Location"] == "/dataset/7"
    # Once only.
    assert post(signer.assertion())["Location"] == "/"


def test_the_page_survives_a_form_from_another_site(client, site):
    """Browsers leave Lax cookies out of it, so this one must be SameSite=None, and may be over HTTPS."""
    client.get("/login/?next=/dataset/7", secure=True)
    cookie = client.cookies["imagetrove_next"]
    assert (cookie["samesite"], cookie["secure"], cookie["httponly"]) == ("None", True, True)
    client.get("/login/?next=/dataset/7")
    cookie = client.cookies["imagetrove_next"]
    assert (cookie["samesite"], cookie["secure"]) == ("Lax", "")


@pytest.mark.parametrize(
    "there",
    ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "http://testserver/x", "\\/evil.example"],
)  # fmt: skip
def test_a_page_of_another_site_is_never_gone_to(post, client, there):
    client.get("/login/", {"next": there}, secure=True)
    assert "imagetrove_next" not in client.cookies
    assert post(signer.assertion())["Location"] == "/"


def test_an_address_of_any_letters_is_kept_as_a_header_can_hold_it(post, client):
    client.get("/login/", {"next": "/dataset/7?name=€\n王"}, secure=True)
    client.cookies["imagetrove_next"].OutputString().encode("latin-1")
    assert post(signer.assertion())["Location"] == "/dataset/7?name=%E2%82%AC%0A%E7%8E%8B"


def test_an_address_too_long_for_a_cookie_is_forgotten(post, client):
    assert client.get("/login/", {"next": "/" + "x" * 5000}, secure=True).status_code == 200
    assert "imagetrove_next" not in client.cookies
    assert post(signer.assertion())["Location"] == "/"


def test_a_posted_or_queried_page_is_never_gone_to(post):
    assert post(signer.assertion(), path="/rc/?next=/dataset/7", next="/dataset/8")["Location"] == "/"


def test_a_page_that_we_did_not_sign_is_never_gone_to(post, client):
    client.cookies["imagetrove_next"] = "/dataset/7"
    assert post(signer.assertion())["Location"] == "/"


# Refusals

REFUSED = {
    "RC-SIGNATURE": (403, lambda: signer.sign(signer.claims(), secret="another secret")),
    "RC-ALGORITHM": (403, lambda: signer.sign(signer.claims(), alg="none")),
    "RC-ISSUER": (403, lambda: signer.assertion(iss="https://rapid.aaf.edu.au")),
    "RC-AUDIENCE": (403, lambda: signer.assertion(aud="https://another.example.org/rc/")),
    "RC-TYPE": (403, lambda: signer.assertion(typ="something")),
    "RC-EARLY": (403, lambda: signer.assertion(nbf=time.time() + 3600)),
    "RC-EXPIRED": (403, lambda: signer.assertion(now=int(time.time()) - 3600)),
    "RC-LIFETIME": (403, lambda: signer.assertion(exp=time.time() + 10**7)),
    "RC-CLAIM": (400, lambda: signer.assertion(jti=None)),
    "RC-PERSON": (403, lambda: signer.assertion(sub=None, said={"edupersontargetedid": None})),
    "RC-FORMAT": (400, lambda: "no assertion"),
    "RC-EMPTY": (400, lambda: ""),
    "RC-SIZE": (400, lambda: "a" * 50_000),
}


@pytest.mark.parametrize("code", REFUSED)
def test_each_refusal_has_its_page_its_code_and_its_line_in_the_log(post, client, caplog, code):
    status, make = REFUSED[code]
    token = make()
    with caplog.at_level(logging.DEBUG):
        response = post(token)
    assert response.status_code == status
    assert code_of(response) == code
    assert response.context["reference"] in response.content.decode()
    assert response.context["refusal"].advice
    assert user_of(client) is None
    assert not User.objects.filter(email="ada@example.edu").exists()
    assert not SpentAssertion.objects.exists()
    lines = [
        record.getMessage()
        for record in caplog.records
        if response.context["reference"] in record.getMessage()
    ]
    assert len(lines) == 1
    assert not token or token[:60] not in caplog.text
    assert signer.SECRET not in caplog.text


def all_refusals(base=refusals.SignInRefused):
    for kind in base.__subclasses__():
        yield kind
        yield from all_refusals(kind)


def test_no_two_refusals_share_a_code_or_a_page():
    kinds = list(all_refusals())
    assert len({kind.code for kind in kinds}) == len({kind.title for kind in kinds}) == len(kinds)
    assert {kind.status for kind in kinds} == {400, 403, 404, 503}


@pytest.mark.parametrize("method", ["get", "head", "put", "delete", "options", "patch"])
@pytest.mark.parametrize("path", ["/rc/", "/rc", "/rc/auth/jwt"])
def test_anything_but_a_post_is_refused(client, site, method, path):
    response = getattr(client, method)(path, secure=True)
    assert response.status_code == 400
    assert code_of(response) == "RC-EMPTY"


def test_switched_off_is_switched_off(post, site, client):
    site.RAPID_CONNECT_ENABLED = False
    response = post(signer.assertion())
    assert (response.status_code, code_of(response)) == (403, "RC-OFF")
    assert user_of(client) is None


def test_the_default_secret_signs_nobody_in(post, site, client):
    site.RAPID_CONNECT_CONFIG = {**site.RAPID_CONNECT_CONFIG, "secret": "CHANGE_ME"}
    response = post(signer.sign(signer.claims(), secret="CHANGE_ME"))
    assert (response.status_code, code_of(response)) == (403, "RC-SETUP")
    assert user_of(client) is None


@pytest.mark.parametrize("config", [None, {}, "text", {"secret": None, "iss": 3, "aud": []}])
def test_a_configuration_that_is_none_refuses_everybody(post, site, config):
    site.RAPID_CONNECT_CONFIG = config
    response = post(signer.assertion())
    assert (response.status_code, code_of(response)) == (403, "RC-SETUP")


def test_a_backend_that_is_not_listed_refuses_everybody(post, site):
    site.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
    response = post(signer.assertion())
    assert (response.status_code, code_of(response)) == (403, "RC-SETUP")


def test_an_assertion_works_once(post, client):
    token = signer.assertion()
    post(token)
    other = Client()
    response = post(token, browser=other)
    assert (response.status_code, code_of(response)) == (403, "RC-REPLAY")
    assert user_of(other) is None
    # Reloading the page does not sign out who came in by it.
    assert code_of(post(token)) == "RC-REPLAY"
    assert user_of(client)


def test_an_assertion_that_was_signed_anew_but_has_a_used_jti_is_refused(post):
    post(signer.assertion("ada", jti="used"))
    assert code_of(post(signer.assertion("grace", jti="used"))) == "RC-REPLAY"


def test_a_jti_of_any_length_and_letters_is_remembered(post):
    for jti in ("x" * 5000, "J\0T\ud800I", "JTI", "jti", "jti "):
        assert post(signer.assertion(jti=jti)).status_code == 302
        assert code_of(post(signer.assertion(jti=jti))) == "RC-REPLAY"


def test_a_refusal_leaves_who_is_signed_in_as_they_are(post, client):
    post(signer.assertion())
    before = user_of(client)
    response = post("forged")
    assert response.status_code == 400
    assert user_of(client) == before


def test_two_assertions_in_one_form_are_refused(post, client):
    response = post([signer.assertion("ada"), signer.assertion("grace")])
    assert (response.status_code, code_of(response)) == (400, "RC-FORMAT")
    assert user_of(client) is None
    assert not SpentAssertion.objects.exists()


def no_database(execute, sql, params, many, context):
    raise OperationalError("the server closed the connection\nDETAIL: ada@example.edu")


def test_a_database_that_does_not_answer_is_said_and_nothing_is_used_up(post, client, caplog):
    token = signer.assertion()
    with connection.execute_wrapper(no_database):
        response = post(token)
    assert response.status_code == 503
    assert "RC-BUSY-" in response.content.decode()
    assert 'href="/login/"' in response.content.decode()
    assert "ada@example.edu" not in caplog.text
    assert post(token).status_code == 302
    assert user_of(client)


def test_a_database_that_stops_amid_the_sign_in_leaves_who_is_signed_in(post, client):
    post(signer.assertion("grace"))
    grace, session = user_of(client), client.session.session_key

    def stops(execute, sql, params, many, context):
        if sql.startswith("UPDATE") and "last_login" in sql:
            raise OperationalError("the server closed the connection")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(stops):
        response = post(signer.assertion("ada"))
    assert (response.status_code, code_of(response)) == (503, "RC-BUSY")
    assert "signed in as grace@example.edu" in response.content.decode()
    assert (user_of(client), client.session.session_key) == (grace, session)
    assert not User.objects.filter(email="ada@example.edu").exists()


def test_a_refusal_has_its_page_without_a_database(post, client, caplog):
    """MyTARDIS's frame of the page may ask who is signed in."""
    post(signer.assertion())

    def stops(execute, sql, params, many, context):
        # Only while the page is made: MyTARDIS 4.7 asks ahead of any view, and 5.0 saves every session afterwards.
        if "RC-EMPTY" in caplog.text and sql.startswith("SELECT"):
            raise OperationalError("the server closed the connection")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(stops):
        response = post("")
    assert (response.status_code, code_of(response)) == (400, "RC-EMPTY")
    assert "RC-EMPTY-" in response.content.decode()


def test_a_megabyte_is_refused_unread(post):
    response = post("a" * 2**20)
    assert (response.status_code, code_of(response)) == (400, "RC-SIZE")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"assertion=%00%ff%fe"),
        pytest.param(
            "application/x-www-form-urlencoded",
            b"&".join(b"a%d=1" % n for n in range(5000)),
            id="5000 fields",
        ),
        ("application/x-www-form-urlencoded; charset=hex", b"assertion=a.b.c"),
        ("application/x-www-form-urlencoded; charset=punycode", b"assertion=\xff-\xff"),
        ("application/x-www-form-urlencoded; charset=utf-16", b"assertion=a.b.c"),
        ("application/x-www-form-urlencoded; charset=nothing", b"assertion=a.b.c"),
        ("multipart/form-data", b"no boundary"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=assertion\r\n\r\na.b.c",
        ),
        ("application/json", b'{"assertion": "a.b.c"}'),
        ("text/plain", b"assertion=a.b.c"),
        ("", b"assertion=a.b.c"),
    ],
)
def test_a_broken_form_is_refused(client, site, content_type, body):
    response = client.generic("POST", "/rc/", body, content_type=content_type, secure=True)
    assert response.status_code == 400
    assert code_of(response) in ("RC-EMPTY", "RC-FORMAT")


@pytest.mark.parametrize("length", ["", "-1", "many", "9" * 30])
def test_a_wrong_length_is_refused(client, site, length):
    response = client.post("/rc/", {"assertion": "a.b.c"}, secure=True, CONTENT_LENGTH=length)
    assert response.status_code == 400


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.text(max_size=200) | st.binary(max_size=200),
    st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=3),
)
def test_whatever_is_posted_gets_a_page(post, client, token, fields):
    fields = {key: value.encode("utf-8", "replace") for key, value in fields.items()}
    token = token.encode("utf-8", "replace") if isinstance(token, str) else token
    response = client.post("/rc/", {**fields, "assertion": token}, secure=True)
    assert response.status_code in (400, 403)
    assert SESSION_KEY not in client.session


# Accounts of this site


def test_an_account_of_this_site_is_not_taken_over(post, client, local):
    response = post(signer.assertion())
    assert (response.status_code, code_of(response)) == (403, "ID-LINK")
    assert user_of(client) is None
    assert people().count() == 1
    assert not FederatedIdentity.objects.get().user
    local.refresh_from_db()
    assert (local.email, local.first_name) == ("Ada@example.edu", "")
    # Refused as it was, it is used up all the same.
    assert SpentAssertion.objects.count() == 1


def test_the_log_of_a_refusal_names_nobody(post, local, caplog):
    post(signer.assertion())
    assert f"account {local.pk}" in caplog.text
    User.objects.update(is_active=False)
    FederatedIdentity.objects.update(user=local)
    post(signer.assertion())
    assert "ID-INACTIVE" in caplog.text
    for word in ("ada", "lovelace", "example.edu"):
        assert word not in caplog.text.lower()


def test_an_account_that_was_switched_off_is_not_got_round(post, local):
    User.objects.update(is_active=False)
    assert code_of(post(signer.assertion())) == "ID-LINK"
    assert people().count() == 1


def test_a_linked_account_is_signed_in_to(post, client, local):
    post(signer.assertion())
    identity = FederatedIdentity.objects.get()
    identity.user = local
    identity.save()
    assert post(signer.assertion()).status_code == 302
    assert user_of(client) == local.pk
    local.refresh_from_db()
    assert (local.first_name, local.email) == ("Ada", "ada@example.edu")
    assert local.check_password("a password")
    assert local.userprofile.rapidConnectEduPersonTargetedID == signer.targeted_id()


def test_a_profile_of_mytardis_that_has_the_targeted_id_is_a_link(post, client, local):
    local.userprofile.rapidConnectEduPersonTargetedID = signer.targeted_id()
    local.userprofile.save()
    assert post(signer.assertion()).status_code == 302
    assert user_of(client) == local.pk
    assert FederatedIdentity.objects.get().user == local


def test_a_targeted_id_in_another_case_is_another_person(post, client, local):
    local.userprofile.rapidConnectEduPersonTargetedID = signer.targeted_id().swapcase()
    local.userprofile.save()
    assert code_of(post(signer.assertion())) == "ID-LINK"


def test_two_profiles_with_one_targeted_id_are_nobodys(post, client, local):
    other = User.objects.create_user("other")
    for user in (local, other):
        user.userprofile.rapidConnectEduPersonTargetedID = signer.targeted_id()
        user.userprofile.save()
    assert code_of(post(signer.assertion())) == "ID-LINK"
    assert user_of(client) is None


def test_an_account_that_mytardis_cannot_make_is_said(post, client, monkeypatch):
    problem = "settings.DEFAULT_PERMISSIONS is missing"
    monkeypatch.setattr(type(mytardis()), "missing_setting", lambda *_: problem)
    assert code_of(post(signer.assertion())) == "ID-ACCOUNT"
    assert user_of(client) is None


def test_a_person_who_waits_gets_in_when_the_other_account_goes(post, client, local):
    post(signer.assertion())
    local.delete()
    assert post(signer.assertion()).status_code == 302
    assert FederatedIdentity.objects.get().user_id == user_of(client)


def test_an_account_without_address_is_nobodys(post):
    User.objects.create_user("no-address")
    assert post(signer.assertion(said={"mail": None})).status_code == 302
    assert people().count() == 2


def test_a_letter_that_only_looks_like_a_k_is_no_k_in_a_user_name(post, client):
    """U+212A KELVIN SIGN, of which an ordinary k is the lower case."""
    post(signer.assertion(said={"mail": "\u212aim@example.edu"}))
    assert User.objects.get(pk=user_of(client)).username == "im@example.edu"


def test_a_local_user_name_is_never_taken(post, client):
    taken = User.objects.create_user("ADA@example.edu", email="other@example.edu")
    assert post(signer.assertion()).status_code == 302
    assert user_of(client) != taken.pk


def test_an_inactive_account_stays_out(post, client):
    post(signer.assertion(), browser=Client())
    User.objects.update(is_active=False)
    response = post(signer.assertion(said={"surname": "King"}))
    assert (response.status_code, code_of(response)) == (403, "ID-INACTIVE")
    assert user_of(client) is None
    assert people().get().last_name == "Lovelace"


def test_a_changed_address_of_an_inactive_account_does_not_bring_it_back(post, client):
    post(signer.assertion(), browser=Client())
    User.objects.update(is_active=False)
    post(signer.assertion(said={"mail": "new@example.edu"}))
    assert people().count() == 1
    assert user_of(client) is None


# Another federation beside it


def test_another_federations_person_of_the_same_id_is_another(post, client, local):
    """What links people to accounts is called by a backend of OpenID Connect just so."""
    local.userprofile.rapidConnectEduPersonTargetedID = signer.targeted_id("grace")
    local.userprofile.save()
    named = ProjectMember.objects.create(
        group=Group.objects.create(name="Project 12345"), targeted_id=signer.targeted_id("grace")
    )
    post(signer.assertion("joan"))

    def comes(issuer, subject, mail=""):
        return identity.account_of(identity.Person(issuer, subject, mail, "Grace", "Hopper"))

    there = comes("https://openid.example", signer.targeted_id("grace"), "grace@example.edu")
    assert there.pk not in (local.pk, user_of(client))
    assert not there.groups.exists()
    assert there.userprofile.rapidConnectEduPersonTargetedID is None
    assert comes("https://openid.example", signer.targeted_id("grace")) == there
    assert comes("https://openid.example", signer.targeted_id("joan")).pk != user_of(client)
    named.refresh_from_db()
    assert named.joined is None


def test_one_account_may_be_signed_in_to_by_two_federations(post, client):
    post(signer.assertion("ada"))
    user = User.objects.get(pk=user_of(client))
    identity.link("https://openid.example", "248289761001", user)
    assert identity.account_of(identity.Person("https://openid.example", "248289761001")) == user
    post(signer.assertion("ada"))
    assert user_of(client) == user.pk
    assert user.userprofile.rapidConnectEduPersonTargetedID == signer.targeted_id("ada")


# Projects


@pytest.fixture
def project(db):
    return Group.objects.create(name="Project 12345")


@pytest.mark.parametrize("how", [{"mail": "ADA@Example.edu"}, {"targeted_id": signer.targeted_id()}])
def test_a_person_named_in_advance_gets_the_project_at_the_first_sign_in(post, client, project, how):
    entry = ProjectMember.objects.create(group=project, **how)
    post(signer.assertion())
    user = User.objects.get(pk=user_of(client))
    assert list(user.groups.all()) == [project]
    entry.refresh_from_db()
    assert entry.user == user
    assert entry.joined


def test_a_person_named_later_gets_the_project_at_the_next_sign_in(post, client, project):
    post(signer.assertion())
    ProjectMember.objects.create(group=project, mail="ada@example.edu")
    post(signer.assertion())
    assert list(people().get().groups.all()) == [project]


def test_a_person_named_twice_is_named(post, client, project):
    other = Group.objects.create(name="Project 54321")
    for how in (
        {"mail": "ada@example.edu"},
        {"mail": "Ada@Example.EDU"},
        {"targeted_id": signer.targeted_id()},
    ):
        ProjectMember.objects.create(group=project, **how)
    ProjectMember.objects.create(group=other, mail="ada@example.edu")
    post(signer.assertion())
    assert set(people().get().groups.all()) == {project, other}
    assert not ProjectMember.objects.filter(joined=None).exists()


def test_nobody_else_gets_the_project(post, project):
    ProjectMember.objects.create(group=project, mail="ada@example.edu")
    ProjectMember.objects.create(group=project, targeted_id=signer.targeted_id("ada").swapcase())
    post(signer.assertion("grace"))
    post(signer.assertion("mallory", said={"mail": "ada@example.edu.evil.example"}))
    post(signer.assertion("trent", said={"mail": None, "givenname": "ada@example.edu"}))
    assert not project.user_set.exists()


def test_who_was_taken_out_of_a_project_stays_out(post, client, project):
    ProjectMember.objects.create(group=project, mail="ada@example.edu")
    post(signer.assertion())
    people().get().groups.clear()
    post(signer.assertion())
    assert not project.user_set.exists()


def test_an_entry_is_used_by_one_person(post, project):
    ProjectMember.objects.create(group=project, mail="ada@example.edu")
    post(signer.assertion("ada"))
    post(signer.assertion("mallory", said={"mail": "ada@example.edu"}))
    assert project.user_set.count() == 1


def test_an_address_that_its_owner_typed_opens_no_project(post, client, project):
    """MyTARDIS lets people edit the address of their account; only the federation's counts."""
    ProjectMember.objects.create(group=project, mail="grace@example.edu")
    post(signer.assertion("mallory", said={"mail": None}))
    User.objects.filter(pk=user_of(client)).update(email="grace@example.edu")
    post(signer.assertion("mallory", said={"mail": None}))
    assert not project.user_set.exists()


def test_letters_that_only_look_alike_open_no_project(post, project):
    ProjectMember.objects.create(group=project, mail="kim@example.edu")
    # The Kelvin sign, whose small letter is an ordinary k.
    post(signer.assertion("mallory", said={"mail": "\u212aim@example.edu"}))
    assert not project.user_set.exists()


def test_a_refused_person_gets_no_project(post, local, project):
    ProjectMember.objects.create(group=project, mail="ada@example.edu")
    post(signer.assertion())
    assert not project.user_set.exists()
    assert ProjectMember.objects.get().joined is None
