"""Sign-ins by OpenID Connect over real HTTP: who comes in, and each thing that is refused, with its page."""

import json
import logging
import time

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.contrib.sessions.models import Session
from django.db import OperationalError
from django.test import Client
from joserfc import jwk, jwt

from tardis_imagetrove.signin.models import FederatedIdentity, ProjectMember
from tardis_imagetrove.signin.openid import fetching, metadata, views

from . import signer
from .conftest import code_of, user_of
from .openid_provider import elliptic, rsa
from .signer import part, sign_bytes

pytestmark = pytest.mark.django_db
User = get_user_model()


def change(openid, **changes):
    openid.OPENID_CONNECT_PROVIDERS = [{**openid.OPENID_CONNECT_PROVIDERS[0], **changes}]


def account(browser):
    return User.objects.get(pk=user_of(browser))


# Coming in


def test_a_person_comes_in_and_gets_an_account(arrive, client, provider):
    response = arrive()
    assert (response.status_code, response["Location"]) == (302, "/")
    user = account(client)
    assert (user.email, user.first_name, user.last_name) == ("ada@example.edu", "Ada", "Lovelace")
    assert not (user.is_staff or user.is_superuser or user.has_usable_password())
    identity = FederatedIdentity.objects.get()
    assert (identity.issuer, identity.subject, identity.user) == (provider.issuer, "subject-of-ada", user)
    # The sub is not the targeted ID.
    assert not user.userprofile.rapidConnectEduPersonTargetedID


def test_the_same_person_comes_back_to_the_same_account_under_another_address(arrive, client, provider):
    arrive()
    first = user_of(client)
    provider.said |= {"email": "ada.king@example.edu", "family_name": "King"}
    other = Client()
    arrive(other)
    assert user_of(other) == first
    assert (account(other).email, account(other).last_name) == ("ada.king@example.edu", "King")


def test_another_person_with_the_address_gets_another_account(arrive, client, provider):
    arrive()
    provider.said["sub"] = "mallory"
    provider.userinfo = None
    other = Client()
    metadata.forget()
    arrive(other)
    assert user_of(other) not in (None, user_of(client))


def test_claims_may_come_from_the_userinfo_endpoint(arrive, client, provider):
    provider.userinfo, provider.said = {**provider.said, "au_edu_person_shared_token": "t" * 27}, {}
    arrive()
    assert account(client).email == "ada@example.edu"
    assert FederatedIdentity.objects.get().shared_token == "t" * 27


def test_claims_of_another_person_are_refused(arrive, client, provider):
    provider.userinfo = {"sub": "mallory", "email": "mallory@example.edu"}
    assert code_of(arrive()) == "OIDC-PERSON"
    assert not user_of(client)


def test_a_site_names_the_claims_of_its_provider(arrive, openid, client, provider):
    change(openid, claims={"mail": "upn", "given_name": "vorname"}, trust_mail=True)
    provider.said |= {"upn": "ada@upn.example", "vorname": "Augusta"}
    arrive()
    assert (account(client).email, account(client).first_name) == ("ada@upn.example", "Augusta")


@pytest.mark.parametrize(
    ("said", "changes", "mail"),
    [
        ({"email_verified": True}, {}, "ada@example.edu"),
        ({"email_verified": False}, {}, ""),
        ({"email_verified": None}, {}, ""),
        ({"email_verified": "true"}, {}, ""),
        ({"email_verified": None}, {"trust_mail": True}, "ada@example.edu"),
        # What is said of "email" is said of no other claim.
        ({"mail": "boss@example.edu"}, {"claims": {"mail": "mail"}}, ""),
    ],
)
def test_an_address_counts_only_if_somebody_vouches_for_it(
    arrive, openid, client, provider, said, changes, mail
):
    change(openid, **changes)
    provider.said |= said
    ProjectMember.objects.create(
        group=(group := Group.objects.create(name="Project 1")), mail="ada@example.edu"
    )
    ProjectMember.objects.create(group=group, mail="boss@example.edu")
    arrive()
    assert account(client).email == mail
    assert group.user_set.exists() is bool(mail)


def test_a_userinfo_endpoint_vouches_for_its_own_address_alone(arrive, client, provider):
    provider.said = {"email": "boss@example.edu"}
    provider.userinfo = {"email": "ada@example.edu", "email_verified": True}
    arrive()
    assert account(client).email == ""


def test_people_move_from_rapid_connect_by_the_shared_token(arrive, openid, post, site, client, provider):
    post(signer.assertion(said={"auedupersonsharedtoken": "t" * 27}))
    first = user_of(client)
    openid.RAPID_CONNECT_ENABLED = True
    openid.RAPID_CONNECT_CONFIG = {**openid.RAPID_CONNECT_CONFIG, "federation": "AAF"}
    change(openid, federation="AAF")
    provider.said["au_edu_person_shared_token"] = "t" * 27
    other = Client()
    arrive(other)
    assert user_of(other) == first
    assert FederatedIdentity.objects.filter(user=first).count() == 2


@pytest.mark.parametrize("federation", ["", "another"])
def test_without_a_common_federation_they_wait(arrive, openid, post, site, client, provider, federation):
    post(signer.assertion(said={"auedupersonsharedtoken": "t" * 27}))
    openid.RAPID_CONNECT_CONFIG = {**openid.RAPID_CONNECT_CONFIG, "federation": "AAF" if federation else ""}
    change(openid, federation=federation)
    provider.said |= {"au_edu_person_shared_token": "t" * 27, "email": "ada@new.example"}
    assert code_of(arrive(Client())) == "ID-LINK"
    assert FederatedIdentity.objects.get(issuer=provider.issuer).user is None


def test_an_account_of_this_site_is_not_taken_over(arrive, client):
    User.objects.create_user("local", email="Ada@example.edu", password="a password")
    assert code_of(arrive()) == "ID-LINK"
    assert not user_of(client)


def test_groups_follow_the_rules_of_the_site_and_nothing_else(arrive, openid, client, provider):
    staff, other = Group.objects.create(name="Staff"), Group.objects.create(name="Other")
    provider.said |= {"eduperson_affiliation": ["member", "staff"], "is_superuser": True, "groups": ["Other"]}
    arrive()
    assert not account(client).groups.exists()
    change(
        openid,
        groups=[
            {"claim": "eduperson_affiliation", "value": "staff", "group": "Staff"},
            {"claim": "entitlement", "value": "urn:x:mri", "group": "Staff"},
            {"claim": "eduperson_affiliation", "value": "staff", "group": "no such group"},
        ],
    )
    account(client).groups.add(other)
    arrive(Client())
    assert {*account(client).groups.all()} == {staff, other}
    provider.said |= {"eduperson_affiliation": None, "entitlement": "urn:x:mri"}
    arrive(Client())
    assert {*account(client).groups.all()} == {staff, other}
    provider.said |= {"eduperson_affiliation": "staffless", "entitlement": ["urn:x:mri2"]}
    arrive(Client())
    assert {*account(client).groups.all()} == {other}
    assert not (account(client).is_staff or account(client).is_superuser)


def test_the_page_that_was_asked_for_comes_after_the_sign_in(arrive, client):
    client.get("/login/?next=/dataset/7", secure=True)
    assert arrive()["Location"] == "/dataset/7"


def test_no_other_page_is_gone_to(arrive, client):
    client.get("/oidc/aaf/?next=https://evil.example/", secure=True)
    assert arrive(next="/dataset/8")["Location"] == "/"


def test_the_session_is_new_and_holds_nothing_of_the_one_before(arrive, client):
    client.get("/oidc/aaf/", secure=True)
    session = client.session
    session["planted"] = "by somebody else"
    session.save()
    arrive()
    assert user_of(client)
    assert client.session.session_key != session.session_key
    assert "planted" not in client.session and views.BEGUN not in client.session
    assert not Session.objects.filter(session_key=session.session_key).exists()


def test_odd_names_are_kept_and_shown_as_text(arrive, client, provider):
    provider.said |= {
        "given_name": "Bjo\u0308rk\0\u202e",
        "family_name": "<b>𝔘 王</b>",
        "email": "bj'örk/x@example.edu",
    }
    arrive()
    user = account(client)
    assert (user.first_name, user.last_name) == ("Björk", "<b>𝔘 王</b>")
    assert user.username.isascii() and not set(user.username) & set("'/<> ")


@pytest.mark.parametrize(
    "said",
    [{}, {"name": "Ada Lovelace"}, {"email": "no address"}, {"email": 7, "given_name": ["Ada"], "name": {}}],
)
def test_claims_that_are_missing_or_none_keep_nobody_out(arrive, client, provider, said):
    provider.said = said
    arrive()
    assert account(client).email == ""
    assert account(client).first_name == ("Ada" if said.get("name") == "Ada Lovelace" else "")


def test_a_kelvin_sign_in_an_address_is_no_k(arrive, client, provider):
    ProjectMember.objects.create(
        group=(group := Group.objects.create(name="Project 1")), mail="kim@example.edu"
    )
    provider.said["email"] = "\u212aim@example.edu"
    arrive()
    assert user_of(client) and not group.user_set.exists()
    assert "kim" not in account(client).username


def test_a_provider_may_want_the_secret_in_the_form(arrive, client, provider):
    provider.auth = "client_secret_post"
    arrive()
    assert user_of(client)


def test_the_secret_may_be_in_a_file(arrive, openid, client, tmp_path):
    secret = openid.OPENID_CONNECT_PROVIDERS[0]["client_secret"]
    (tmp_path / "secret").write_text(f"{secret}\n")
    change(openid, client_secret="", client_secret_file=tmp_path / "secret")
    arrive()
    assert user_of(client)


def test_elliptic_keys_and_keys_without_a_name(arrive, client, provider):
    provider.key, provider.alg, provider.published = elliptic("e"), "ES256", [rsa("one"), elliptic("e")]
    arrive()
    assert user_of(client)
    nameless = Client()
    provider.key = jwk.ECKey.import_key(
        {k: v for k, v in elliptic("e").as_dict(private=True).items() if k != "kid"}
    )
    arrive(nameless)
    assert user_of(nameless) == user_of(client)


def test_several_tabs_can_be_signed_in_from(arrive, client, provider):
    tabs = [client.get("/oidc/aaf/", secure=True)["Location"] for _ in range(views.MAX_BEGUN + 1)]
    first, *rest = [provider.authorize(url) for url in tabs]
    assert code_of(client.get("/oidc/aaf/callback/", first, secure=True)) == "OIDC-STATE"
    assert client.get("/oidc/aaf/callback/", rest[0], secure=True).status_code == 302
    assert user_of(client)


def test_who_is_signed_in_already_is_not_sent_away(arrive, client):
    arrive()
    assert client.get("/oidc/aaf/", secure=True)["Location"] == "/login/"


def test_another_site_cannot_begin_a_sign_in(openid, client):
    response = client.get("/oidc/aaf/", secure=True, HTTP_SEC_FETCH_SITE="cross-site")
    assert response["Location"] == "/login/"
    assert views.BEGUN not in client.session


# Keys


def test_addresses_and_keys_are_asked_for_once_an_hour(arrive, provider):
    arrive()
    arrive(Client())
    assert provider.asked.count("/keys") == provider.asked.count("/.well-known/openid-configuration") == 1


def test_a_new_key_is_looked_for_once_and_then_not_for_a_while(arrive, client, provider, monkeypatch):
    arrive()
    provider.key = rsa("two")
    provider.published = [rsa("one"), rsa("two")]
    for _ in range(3):
        assert code_of(arrive(Client())) == "OIDC-KEY"
    assert provider.asked.count("/keys") == 1
    monkeypatch.setattr(metadata, "MIN_PAUSE", 0)
    other = Client()
    arrive(other)
    assert user_of(other) == user_of(client)
    assert provider.asked.count("/keys") == 2


def test_a_key_that_is_taken_back_signs_nobody_in(arrive, provider, monkeypatch):
    arrive()
    provider.published = [rsa("two")]
    monkeypatch.setattr(metadata, "MAX_AGE", 0)
    assert code_of(arrive(Client())) == "OIDC-KEY"


def test_a_short_rsa_key_signs_nobody_in(arrive, client, provider):
    provider.key = jwk.RSAKey.generate_key(1024, {"kid": "short"})
    provider.published = [provider.key]
    assert code_of(arrive()) == "OIDC-KEY"
    assert not user_of(client)


# Refusals


def unsigned(claims):
    return (
        f"{part(json.dumps({'alg': 'none'}).encode()).decode()}.{part(json.dumps(claims).encode()).decode()}."
    )


def by_public_key(claims):
    """Signed with HMAC, and the provider's public key for a secret."""
    head = json.dumps({"alg": "HS256", "kid": "one"}).encode()
    return sign_bytes(head, json.dumps(claims).encode(), rsa("one").as_pem(private=False).decode())


def by_own_key(claims):
    """With a key that the token brings along."""
    key = rsa("two")
    head = {"alg": "RS256", "kid": "one", "jwk": key.as_dict(private=False)}
    return jwt.encode(head, claims, key, algorithms=["RS256"])


TOKENS = {
    "none": ("OIDC-ALGORITHM", {}, unsigned),
    "hs256": ("OIDC-ALGORITHM", {}, by_public_key),
    "other key": ("OIDC-SIGNATURE", {}, by_own_key),
    "no token": ("OIDC-FORMAT", {}, lambda claims: "a.b"),
    "no text": ("OIDC-ANSWER", {}, lambda claims: None),
    "too large": ("OIDC-FORMAT", {"x": "x" * 20_000}, None),
    "issuer": ("OIDC-ISSUER", {"iss": "https://evil.example"}, None),
    "no issuer": ("OIDC-ISSUER", {"iss": None}, None),
    "audience": ("OIDC-AUDIENCE", {"aud": "another"}, None),
    "no audience": ("OIDC-AUDIENCE", {"aud": None}, None),
    "audiences": ("OIDC-AUDIENCE", {"aud": ["imagetrove", "another"]}, None),
    "party": ("OIDC-AUDIENCE", {"azp": "another"}, None),
    "parties": ("OIDC-AUDIENCE", {"aud": ["imagetrove", "another"], "azp": "another"}, None),
    "nonce": ("OIDC-NONCE", {"nonce": "another"}, None),
    "no nonce": ("OIDC-NONCE", {"nonce": None}, None),
    "no text for a nonce": ("OIDC-NONCE", {"nonce": ["x"]}, None),
    "expired": ("OIDC-EXPIRED", {"exp": lambda now: now - 120}, None),
    "old": ("OIDC-EXPIRED", {"iat": lambda now: now - 3600}, None),
    "early": ("OIDC-EARLY", {"iat": lambda now: now + 3600}, None),
    "not before": ("OIDC-EARLY", {"nbf": lambda now: now + 3600}, None),
    "no expiry": ("OIDC-CLAIM", {"exp": None}, None),
    "text for expiry": ("OIDC-CLAIM", {"exp": "tomorrow"}, None),
    "no time": ("OIDC-CLAIM", {"iat": None}, None),
    "no subject": ("OIDC-PERSON", {"sub": None}, None),
    "empty subject": ("OIDC-PERSON", {"sub": " "}, None),
    "long subject": ("OIDC-PERSON", {"sub": "x" * 256}, None),
    "odd subject": ("OIDC-PERSON", {"sub": "a\0b"}, None),
    "number for subject": ("OIDC-PERSON", {"sub": 7}, None),
}


def refused(response, code, browser, caplog):
    """A clean page with its code, one line in the log without anything of the person, no cookie, nobody in."""
    assert code_of(response) == code
    assert response.status_code in (400, 403, 404, 503)
    assert response.context["reference"] in response.content.decode()
    assert not response.cookies
    assert user_of(browser) is None
    lines = [r.getMessage() for r in caplog.records if response.context["reference"] in r.getMessage()]
    assert len(lines) == 1
    assert "ada@example.edu" not in caplog.text and "Lovelace" not in caplog.text
    return lines[0]


@pytest.mark.parametrize("case", TOKENS)
def test_an_id_token_that_does_not_hold_is_refused(arrive, client, provider, caplog, case):
    code, said, make = TOKENS[case]
    provider.said |= said
    provider.make = make or provider.sign
    with caplog.at_level(logging.DEBUG):
        refused(arrive(), code, client, caplog)
    assert not FederatedIdentity.objects.exists()


@pytest.mark.parametrize(
    "said",
    [
        {"aud": ["imagetrove"]},
        {"aud": ["imagetrove", "b"], "azp": "imagetrove"},
        {"exp": lambda now: now - 30},
        {"iat": lambda now: now + 30},
    ],
)
def test_what_the_standard_lets_pass_passes(arrive, client, provider, said):
    provider.said |= said
    arrive()
    assert user_of(client)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": "another"}, "OIDC-STATE"),
        ({"state": None}, "OIDC-EMPTY"),
        ({"state": ["a", "b"]}, "OIDC-EMPTY"),
        ({"state": "\ud800€"}, "OIDC-STATE"),
        ({"code": None}, "OIDC-EMPTY"),
        ({"code": ["a", "b"]}, "OIDC-EMPTY"),
        ({"code": "another"}, "OIDC-CODE"),
        ({"code": None, "error": "access_denied"}, "OIDC-DENIED"),
        ({"error": "<script>"}, "OIDC-DENIED"),
        ({"error": "invalid_scope"}, "OIDC-REQUEST"),
        ({"error": "temporarily_unavailable"}, "OIDC-AWAY"),
        ({"iss": "https://evil.example"}, "OIDC-ISSUER"),
    ],
)
def test_a_way_back_that_does_not_fit_is_refused(arrive, client, caplog, changes, code):
    if changes.get("state") == "\ud800€":
        changes = {"state": "�€"}
    with caplog.at_level(logging.DEBUG):
        refused(arrive(**changes), code, client, caplog)


def test_a_provider_that_names_itself_must_do_so(arrive, client, provider):
    provider.discovery = {"authorization_response_iss_parameter_supported": True}
    assert code_of(arrive()) == "OIDC-ISSUER"
    arrive(iss=provider.issuer)
    assert user_of(client)


def test_a_way_back_works_once(arrive, client, provider):
    back = provider.authorize(client.get("/oidc/aaf/", secure=True)["Location"])
    address = "/oidc/aaf/callback/"
    assert client.get(address, back, secure=True).status_code == 302
    before = client.session.session_key
    # Pressing Back or reloading: who came in stays in.
    response = client.get(address, back, secure=True)
    assert code_of(response) == "OIDC-STATE" and not response.cookies
    assert user_of(client) and client.session.session_key == before


def test_a_refused_way_back_is_used_up_as_well(arrive, client, provider):
    back = provider.authorize(client.get("/oidc/aaf/", secure=True)["Location"])
    provider.said["nonce"] = "another"
    assert code_of(client.get("/oidc/aaf/callback/", back, secure=True)) == "OIDC-NONCE"
    assert code_of(client.get("/oidc/aaf/callback/", back, secure=True)) == "OIDC-STATE"


def test_a_code_that_was_used_is_refused_by_the_provider(arrive, client, provider):
    back = provider.authorize(client.get("/oidc/aaf/", secure=True)["Location"])
    provider.codes.clear()
    assert code_of(client.get("/oidc/aaf/callback/", back, secure=True)) == "OIDC-CODE"


def test_the_way_back_of_another_browser_is_refused(arrive, client, provider):
    """Somebody else's code must not sign them in here: the visitor would work in another's account."""
    back = provider.authorize(Client().get("/oidc/aaf/", secure=True)["Location"])
    client.get("/oidc/aaf/", secure=True)
    assert code_of(client.get("/oidc/aaf/callback/", back, secure=True)) == "OIDC-STATE"
    assert code_of(Client().get("/oidc/aaf/callback/", back, secure=True)) == "OIDC-STATE"


def test_a_code_that_is_slipped_in_fails_by_its_verifier(arrive, client, provider):
    stolen = provider.authorize(Client().get("/oidc/aaf/", secure=True)["Location"])["code"]
    assert code_of(arrive(code=stolen)) == "OIDC-CODE"


def test_a_sign_in_that_takes_too_long_is_refused(arrive, client, provider, monkeypatch):
    back = provider.authorize(client.get("/oidc/aaf/", secure=True)["Location"])
    monkeypatch.setattr(views, "MAX_AGE", -1)
    assert code_of(client.get("/oidc/aaf/callback/", back, secure=True)) == "OIDC-STATE"


def test_an_answer_of_one_provider_is_not_taken_for_anothers(arrive, openid, client, provider):
    one = openid.OPENID_CONNECT_PROVIDERS[0]
    other = {**one, "name": "other", "issuer": "https://other.example", "redirect_uri": "https://testserver/oidc/other/callback/"}  # fmt: skip
    openid.OPENID_CONNECT_PROVIDERS = [one, other]
    back = provider.authorize(client.get("/oidc/aaf/", secure=True)["Location"])
    assert code_of(client.get("/oidc/other/callback/", back, secure=True)) == "OIDC-STATE"


@pytest.mark.parametrize("method", ["post", "head", "put", "delete", "options"])
def test_the_way_back_is_by_get(openid, client, method):
    assert code_of(getattr(client, method)("/oidc/aaf/callback/", secure=True)) == "OIDC-EMPTY"


@pytest.mark.parametrize("path", ["/oidc/nobody/", "/oidc/nobody/callback/"])
def test_a_provider_that_is_not_there(openid, client, path, caplog):
    assert "nobody" in refused(client.get(path, secure=True), "OIDC-UNKNOWN", client, caplog)


@pytest.mark.parametrize("path", ["/oidc/aaf/", "/oidc/aaf/callback/"])
def test_no_page_is_cached_framed_or_a_reason_for_a_cookie(openid, client, path):
    response = client.get(path, secure=True)
    assert "no-store" in response["Cache-Control"]
    assert response["X-Frame-Options"] == "DENY"


def test_a_wrong_secret_is_said(arrive, openid, client):
    change(openid, client_secret="another")
    assert code_of(arrive()) == "OIDC-CLIENT"


def test_a_secret_that_cannot_be_read_is_said(arrive, openid, client, tmp_path):
    change(openid, client_secret="", client_secret_file=str(tmp_path / "none"))
    assert code_of(arrive()) == "OIDC-SETUP"


def test_settings_that_are_incomplete_send_nobody_away(arrive, openid, client):
    change(openid, redirect_uri="")
    assert code_of(client.get("/oidc/aaf/", secure=True)) == "OIDC-SETUP"


def test_a_database_that_does_not_answer_is_said(arrive, client, monkeypatch):
    def fail(*args, **kwargs):
        raise OperationalError("gone\nDETAIL: ada@example.edu")

    monkeypatch.setattr("tardis_imagetrove.signin.identity._lock_identity", fail)
    assert code_of(arrive()) == "OIDC-BUSY"
    assert not user_of(client)


# A provider that is away, slow, or out of its mind

DISCOVERY = "/.well-known/openid-configuration"


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b" " * (fetching.MAX_BYTES + 1), json.dumps({"id_token": "x" * 10**6}).encode()]
)
def test_an_answer_that_is_huge_or_deep_is_a_page(arrive, client, provider, caplog, monkeypatch, body):
    # However slow the machine is, it is the size that ends it.
    monkeypatch.setattr(fetching, "DEADLINE", 600)
    provider.replies["/token"] = (200, body)
    refused(arrive(), "OIDC-ANSWER", client, caplog)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ((500, {}), "OIDC-AWAY"),
        ((503, b"<html>"), "OIDC-AWAY"),
        ((200, b"<html>"), "OIDC-ANSWER"),
        ((200, b"[]"), "OIDC-ANSWER"),
        ((200, b"\xff\xfe"), "OIDC-ANSWER"),
        ((200, b""), "OIDC-ANSWER"),
        ((302, {}), "OIDC-ANSWER"),
    ],
)
@pytest.mark.parametrize("path", [DISCOVERY, "/keys", "/token", "/userinfo"])
def test_an_answer_that_cannot_be_used_is_a_page(arrive, client, provider, caplog, path, reply, code):
    provider.replies[path] = reply
    assert provider.issuer in refused(arrive(), code, client, caplog)


@pytest.mark.parametrize(
    "said",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"token_endpoint": None},
        {"jwks_uri": 7},
        {"token_endpoint": "http://evil.example/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
)
def test_addresses_that_cannot_be_right_are_not_used(openid, client, provider, caplog, said):
    provider.discovery = said
    refused(client.get("/oidc/aaf/", secure=True), "OIDC-ANSWER", client, caplog)


def test_a_provider_elsewhere_cannot_have_this_machine_ask_itself(
    openid, client, provider, caplog, monkeypatch
):
    elsewhere = "https://op.example"
    said = {**provider._metadata(), "issuer": elsewhere, "authorization_endpoint": f"{elsewhere}/authorize"}
    monkeypatch.setattr(fetching, "fetch", lambda url: fetching.Answer(200, said, ""))
    change(openid, issuer=elsewhere)
    assert "token_endpoint" in refused(client.get("/oidc/aaf/", secure=True), "OIDC-ANSWER", client, caplog)


def test_a_provider_without_our_ways_to_give_the_secret(arrive, provider):
    provider.discovery = {"token_endpoint_auth_methods_supported": ["private_key_jwt"]}
    assert code_of(arrive()) == "OIDC-SETUP"


def test_a_provider_that_is_down_is_a_page_and_left_alone_for_a_moment(
    arrive, openid, client, caplog, monkeypatch
):
    change(openid, issuer="http://127.0.0.1:9")
    refused(arrive(), "OIDC-AWAY", client, caplog)
    asked = []
    monkeypatch.setattr(fetching, "fetch", asked.append)
    monkeypatch.setattr(metadata, "FAILURE_AGE", 600)
    assert code_of(arrive()) == "OIDC-AWAY"
    assert not asked


@pytest.mark.parametrize("path", [DISCOVERY, "/token"])
def test_a_provider_that_drips_is_given_up(arrive, client, provider, caplog, monkeypatch, path):
    monkeypatch.setattr(fetching, "DEADLINE", 0.3)
    provider.replies[path] = (200, [b" "] * 100)
    assert "does not answer within" in refused(arrive(), "OIDC-AWAY", client, caplog)


def test_a_provider_that_says_nothing_is_given_up(arrive, client, provider, caplog, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.2)
    monkeypatch.setattr(provider, "answer", lambda *args: time.sleep(1))
    refused(arrive(), "OIDC-AWAY", client, caplog)


def test_no_proxy_stands_before_a_provider_on_this_machine(arrive, client, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    arrive()
    assert user_of(client)


# Signing out


def test_who_signs_out_here_is_signed_out_there(arrive, openid, client, provider):
    provider.discovery = {"end_session_endpoint": f"{provider.issuer}/end"}
    change(openid, signed_out_uri="https://testserver/")
    arrive()
    address = client.post("/logout/", secure=True)["Location"]
    assert address.startswith(f"{provider.issuer}/end?id_token_hint=ey")
    assert "&client_id=imagetrove&post_logout_redirect_uri=https%3A%2F%2Ftestserver%2F" in address
    assert not user_of(client)


@pytest.mark.parametrize("how", ["no such endpoint", "switched off", "local account", "nobody"])
def test_everybody_else_signs_out_as_mytardis_has_it(arrive, openid, client, provider, how):
    if how != "no such endpoint":
        provider.discovery = {"end_session_endpoint": f"{provider.issuer}/end"}
    if how == "switched off":
        change(openid, sign_out=False)
    if how == "local account":
        client.force_login(User.objects.create_user("local"), "django.contrib.auth.backends.ModelBackend")
    elif how != "nobody":
        arrive()
    assert client.post("/logout/", secure=True)["Location"] == "/"
    assert not user_of(client)
