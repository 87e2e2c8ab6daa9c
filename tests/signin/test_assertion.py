"""Every MUST of an assertion by itself, against tokens made by hand and by another JOSE library."""

import hmac
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tardis_imagetrove.signin import refusals
from tardis_imagetrove.signin.rapid_connect.assertion import MAX_LIFETIME, verify
from tardis_imagetrove.signin.rapid_connect.config import RapidConnectConfig

from . import signer
from .signer import ATTRIBUTES, AUDIENCE, ISSUER, SECRET, claims, sign, sign_bytes, targeted_id

NOW = 1_900_000_000
CONFIG = RapidConnectConfig(enabled=True, secret=SECRET, issuer=ISSUER, audience=AUDIENCE, leeway=30)


def check(token, config=CONFIG, now=NOW):
    return verify(token, config, now)


def refused(token, kind, **kwargs):
    with pytest.raises(kind) as caught:
        check(token, **kwargs)
    # Exactly that reason, and nothing of the assertion in what is logged.
    assert type(caught.value) is kind
    assert token[:40] not in str(caught.value)
    assert SECRET not in str(caught.value)
    return caught.value


def made(**changes):
    return sign(claims(now=NOW, **changes))


def test_a_good_assertion_says_who_it_is():
    said = check(made(jti="one"))
    assert said.jti == "one"
    assert said.expires == NOW + 120
    assert said.issuer == ISSUER
    assert said.targeted_id == targeted_id()
    assert (said.given_name, said.family_name, said.mail) == ("Ada", "Lovelace", "ada@example.edu")


def test_an_assertion_of_another_jose_library_is_good():
    pytest.importorskip("joserfc")
    from joserfc import jwk, jwt

    token = jwt.encode({"alg": "HS256", "typ": "JWT"}, claims(now=NOW), jwk.OctKey.import_key(SECRET))
    assert check(token).targeted_id == targeted_id()


def test_the_assertion_is_not_spelt_out_by_the_configuration():
    assert SECRET not in repr(CONFIG)


# Whether anything is taken at all


def test_nothing_is_taken_where_it_is_switched_off():
    refused(made(), refusals.SwitchedOff, config=RapidConnectConfig(False, SECRET, ISSUER, AUDIENCE))


@pytest.mark.parametrize("secret", ["", "CHANGE_ME", " CHANGE_ME ", "   "])
def test_a_secret_that_everybody_knows_signs_nobody_in(secret):
    token = sign(claims(now=NOW), secret=secret)
    with pytest.raises(refusals.NotSetUp, match="secret"):
        check(token, config=RapidConnectConfig(True, secret, ISSUER, AUDIENCE))


@pytest.mark.parametrize(("key", "place"), [("iss", 2), ("aud", 3)])
def test_an_empty_setting_is_never_matched_by_an_empty_claim(key, place):
    parts = [True, SECRET, ISSUER, AUDIENCE]
    parts[place] = ""
    error = refused(made(**{key: ""}), refusals.NotSetUp, config=RapidConnectConfig(*parts))
    assert key in str(error)


# Signature


def test_another_secret_is_refused():
    refused(sign(claims(now=NOW), secret="another " + SECRET), refusals.WrongSignature)


def test_a_changed_payload_is_refused():
    head, _, signature = made().split(".")
    _, body, _ = made(sub="somebody else").split(".")
    refused(f"{head}.{body}.{signature}", refusals.WrongSignature)


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", "hs256", "HS256 ", None, 1, [], ["HS256"], {}]
)
@pytest.mark.parametrize("signed", [True, False])
def test_no_signature_under_any_spelling_is_refused(alg, signed):
    token = sign(claims(now=NOW), alg=alg)
    refused(token if signed else token.rpartition(".")[0] + ".", refusals.WrongAlgorithm)


def test_a_missing_algorithm_is_refused():
    refused(sign_bytes(b'{"typ":"JWT"}', json.dumps(claims(now=NOW)).encode()), refusals.WrongAlgorithm)


@pytest.mark.parametrize(("alg", "digest"), [("HS384", "sha384"), ("HS512", "sha512")])
def test_other_hmacs_with_the_right_secret_are_refused(alg, digest):
    refused(sign(claims(now=NOW), digest=digest, alg=alg), refusals.WrongAlgorithm)


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "EdDSA"])
def test_asymmetric_signatures_are_refused(alg):
    pytest.importorskip("joserfc")
    from joserfc import jwk, jwt

    key = {
        "RS256": lambda: jwk.RSAKey.generate_key(2048),
        "PS256": lambda: jwk.RSAKey.generate_key(2048),
        "ES256": lambda: jwk.ECKey.generate_key("P-256"),
        "EdDSA": lambda: jwk.OKPKey.generate_key("Ed25519"),
    }[alg]()
    refused(jwt.encode({"alg": alg}, claims(now=NOW), key, algorithms=[alg]), refusals.WrongAlgorithm)


@pytest.mark.parametrize("alg", ["RS256", "ES256", "PS256"])
def test_an_hmac_called_asymmetric_is_refused(alg):
    """Key confusion: the header says a public key was used, the signature is the HMAC of the secret."""
    refused(sign(claims(now=NOW), alg=alg), refusals.WrongAlgorithm)


def test_a_public_key_as_the_secret_signs_nobody_in():
    """Key confusion the other way: who has the public key could sign with it as an HMAC secret."""
    pytest.importorskip("joserfc")
    from joserfc import jwk

    public = jwk.RSAKey.generate_key(2048).as_pem(private=False).decode()
    token = sign(claims(now=NOW), secret=public)
    with pytest.raises(refusals.NotSetUp):
        check(token, config=RapidConnectConfig(True, public, ISSUER, AUDIENCE))


def test_a_key_in_the_header_is_not_used():
    jwk = {"kty": "oct", "k": signer.part(b"the attacker's own secret, long enough").decode()}
    token = sign(
        claims(now=NOW), secret="the attacker's own secret, long enough", jwk=jwk, jku="https://evil.example"
    )
    refused(token, refusals.WrongSignature)


@pytest.mark.parametrize("critical", [["b64"], ["exp"], [], "b64"])
def test_critical_extensions_are_refused(critical):
    refused(sign(claims(now=NOW), crit=critical), refusals.Malformed)


@pytest.mark.parametrize("b64", [True, False, None])
def test_a_payload_that_may_not_be_encoded_is_refused(b64):
    refused(sign(claims(now=NOW), b64=b64), refusals.Malformed)


# Form


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "a.b",
        "{}",
        "é.é.é",
        "\ud800.a.b",
        "\0.\0.\0",
        "e30.e30.e30",
        "bnVsbA.e30.e30",
    ],
)
def test_what_is_no_signature_at_all_is_refused(token):
    with pytest.raises(refusals.SignInRefused) as caught:
        check(token)
    assert type(caught.value) in (refusals.Malformed, refusals.WrongAlgorithm)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'"text"', b"1", b"{", b"\xff\xfe", b"[" * 9000, b'{"a":' * 1500]
)
def test_a_signed_payload_that_is_no_object_is_refused(body):
    refused(sign_bytes(b'{"alg":"HS256"}', body), refusals.Malformed)


@pytest.mark.parametrize(
    "head", [b"[" * 9000, b'{"alg":' * 1500, b'{"alg":' + b"[" * 900 + b"]" * 900 + b"}"]
)
def test_a_header_nested_too_deeply_is_refused(head):
    with pytest.raises((refusals.Malformed, refusals.WrongAlgorithm)):
        check(sign_bytes(head, b"{}"))


def test_a_megabyte_is_refused_before_it_is_read():
    refused("a" * 2**20, refusals.TooLarge)
    refused(made(padding="x" * 2**20), refusals.TooLarge)


@pytest.mark.parametrize("odd", ["{}=", "{}\n", " {}", "{}!!", "{}.", ".{}", "{}\0", "{}é"])
def test_what_is_not_of_the_alphabet_is_refused_and_not_skipped(odd):
    refused(odd.format(made()), refusals.Malformed)


def test_more_than_three_parts_are_refused_however_they_are_signed():
    head, body, _ = made().split(".")
    for parts in ([head, body[:10], body[10:]], [head, "", body, ""]):
        message = ".".join(parts).encode()
        signature = signer.part(hmac.new(SECRET.encode(), message, "sha256").digest())
        refused(f"{message.decode()}.{signature.decode()}", refusals.Malformed)


def test_an_encrypted_or_nested_assertion_is_refused():
    refused(sign_bytes(b'{"alg":"HS256","cty":"JWT"}', made().encode()), refusals.Malformed)
    jwe = b'{"alg":"dir","enc":"A128CBC-HS256"}'
    refused(".".join(signer.part(x).decode() for x in (jwe, b"", b"iv", b"text", b"tag")), refusals.Malformed)


# Claims


@pytest.mark.parametrize(
    "issuer", ["https://rapid.aaf.edu.au", ISSUER + "/", ISSUER.upper(), None, 1, [ISSUER], {}, True, ""]
)
def test_another_issuer_is_refused(issuer):
    refused(made(iss=issuer), refusals.WrongIssuer)


@pytest.mark.parametrize(
    "audience",
    [
        "https://another.example.org/rc/",
        AUDIENCE.rstrip("/"),
        AUDIENCE.upper(),
        None,
        "",
        1,
        {},
        [],
        [AUDIENCE],
        [AUDIENCE, AUDIENCE],
        [AUDIENCE, "https://another.example.org/rc/"],
    ],
)
def test_another_audience_is_refused(audience):
    refused(made(aud=audience), refusals.WrongAudience)


@pytest.mark.parametrize("kind", ["authnrequest", "AuthnResponse", None, "", 1, ["authnresponse"]])
def test_another_type_is_refused(kind):
    refused(made(typ=kind), refusals.WrongType)


def test_the_type_in_the_header_is_not_the_claim():
    refused(sign(claims(now=NOW, typ=None), typ="authnresponse"), refusals.WrongType)
    assert check(sign(claims(now=NOW), typ="anything"))


def test_expiry_holds_to_the_second_with_the_leeway():
    token = made(exp=NOW)
    assert check(token, now=NOW + 29.9)
    refused(token, refusals.Expired, now=NOW + 30)


def test_the_leeway_is_as_configured():
    token = made(exp=NOW)
    refused(token, refusals.Expired, config=RapidConnectConfig(True, SECRET, ISSUER, AUDIENCE, leeway=0))
    assert check(token, config=RapidConnectConfig(True, SECRET, ISSUER, AUDIENCE, leeway=1))


def test_not_before_holds_to_the_second_with_the_leeway():
    token = made(nbf=NOW + 30)
    assert check(token)
    refused(token, refusals.TooEarly, now=NOW - 0.1)


@pytest.mark.parametrize("claim", ["exp", "nbf"])
@pytest.mark.parametrize(
    "value", [None, "", str(NOW + 60), True, [], {}, [NOW], math.inf, -math.inf, math.nan, 10**400]
)
def test_a_time_that_is_no_number_is_refused(claim, value):
    refused(made(**{claim: value}), refusals.WrongClaim)


def test_times_may_have_fractions():
    assert check(made(exp=NOW + 0.5, nbf=NOW - 0.5)).expires == NOW + 0.5


@pytest.mark.parametrize("exp", [NOW + MAX_LIFETIME + 1, 10**18, 1e300])
def test_an_assertion_for_ever_is_refused(exp):
    refused(made(exp=exp), refusals.TooLongLived)


@pytest.mark.parametrize("exp", [0, -1, -1e300, -(10**300)])
def test_an_ancient_assertion_is_refused(exp):
    refused(made(exp=exp), refusals.Expired)


@pytest.mark.parametrize("nbf", [NOW + 3600, 1e300, 10**300])
def test_a_future_assertion_is_refused(nbf):
    refused(made(nbf=nbf), refusals.TooEarly)


@pytest.mark.parametrize("jti", [None, "", " ", 1, [], {}, True])
def test_a_missing_jti_is_refused(jti):
    refused(made(jti=jti), refusals.WrongClaim)


# Attributes


@pytest.mark.parametrize("attributes", [[], "text", 1, True])
def test_attributes_that_are_no_object_are_refused(attributes):
    refused(made(**{ATTRIBUTES: attributes}), refusals.WrongClaim)


def test_a_person_of_whom_nothing_is_said_is_known_by_the_targeted_id():
    said = check(made(**{ATTRIBUTES: None}))
    assert (said.targeted_id, said.mail, said.given_name, said.family_name) == (targeted_id(), "", "", "")


def test_sub_is_the_key_whatever_the_attribute_says():
    assert check(made(said={"edupersontargetedid": "another"})).targeted_id == targeted_id()


def test_the_attribute_stands_in_for_a_missing_sub():
    assert check(made(sub=None)).targeted_id == targeted_id()


@pytest.mark.parametrize(
    "subject", [None, "", " ", 7, [], {"a": 1}, "x" * 401, "a\nb", " a", "a\0b", "\ud800"]
)
def test_without_a_usable_targeted_id_nobody_is_signed_in(subject):
    refused(made(sub=subject, said={"edupersontargetedid": None}), refusals.NoIdentity)


@pytest.mark.parametrize("value", [None, "", 3, ["a"], {"a": 1}, True])
@pytest.mark.parametrize("name", ["mail", "givenname", "surname", "cn", "displayname"])
def test_an_attribute_that_says_nothing_is_left_out(name, value):
    assert check(made(said={name: value})).targeted_id == targeted_id()


@pytest.mark.parametrize(
    "mail",
    [
        "no address",
        "a@b@c",
        "a@example.edu;b@example.edu",
        "a@example.edu\nBcc: x@y",
        "@",
        '"\x01"@example.edu',
        "x" * 300 + "@example.edu",
    ],
)
def test_an_address_that_is_none_is_left_out(mail):
    assert check(made(said={"mail": mail})).mail == ""


def test_an_address_is_kept_letter_by_letter():
    assert check(made(said={"mail": " Ada@Example.edu\n"})).mail == "Ada@Example.edu"
    assert check(made(said={"mail": "\u212aim@example.edu"})).mail == "\u212aim@example.edu"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"givenname": "Björk", "surname": "Guðmundsdóttir"}, ("Björk", "Guðmundsdóttir")),
        ({"givenname": "Bjo\u0308rk", "surname": "O\u2019Brien"}, ("Björk", "O\u2019Brien")),
        ({"givenname": "美", "surname": "王"}, ("美", "王")),
        ({"givenname": "محمد", "surname": "الفارسی"}, ("محمد", "الفارسی")),
        ({"givenname": "👩‍🔬", "surname": "𝔘"}, ("👩‍🔬", "𝔘")),
        ({"givenname": " A\tda\n", "surname": "Love\0lace\x1b"}, ("A da", "Lovelace")),
        ({"givenname": "\u202eadA", "surname": "\u2066Lovelace"}, ("adA", "Lovelace")),
        ({"givenname": "A\ud800da", "surname": "\udfff"}, ("Ada", "")),
        ({"givenname": "x" * 1000, "surname": "y" * 1000}, ("x" * 150, "y" * 150)),
        ({"givenname": "<script>", "surname": "'; DROP TABLE"}, ("<script>", "'; DROP TABLE")),
        ({"givenname": None, "surname": None}, ("Ada", "Lovelace")),
        ({"givenname": "", "surname": "", "displayname": "", "cn": "Sukarno"}, ("Sukarno", "")),
        ({"givenname": None, "surname": None, "displayname": "Ana María López", "cn": None}, ("Ana", "María López")),
        ({"givenname": "Sukarno", "surname": None}, ("Sukarno", "")),
    ],
)  # fmt: skip
def test_names_come_out_whole_and_clean(said, name):
    found = check(made(said=said))
    assert (found.given_name, found.family_name) == name
    found.given_name.encode()


# Whatever arrives

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def answer(token):
    """Either an assertion or a refusal; anything else fails the test."""
    try:
        return check(token)
    except refusals.SignInRefused as refusal:
        assert refusal.status in (400, 403)
        return refusal


@settings(deadline=None)
@given(
    st.text(max_size=300)
    | st.from_regex(r"[A-Za-z0-9_\-]*\.[A-Za-z0-9_\-]*\.[A-Za-z0-9_\-]*", fullmatch=True)
)
def test_garbage_is_refused_in_so_many_words(token):
    assert isinstance(answer(token), refusals.SignInRefused)


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_signed_garbage_is_refused_in_so_many_words(head, body):
    assert isinstance(answer(sign_bytes(head, body)), refusals.SignInRefused)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["alg", "typ", "crit", "b64", "kid", "jwk", "x5c", "zip"]), json_values)
)
def test_any_header_is_refused_or_good(header):
    token = sign_bytes(json.dumps({"alg": "HS256", **header}).encode(), json.dumps(claims(now=NOW)).encode())
    found = answer(token)
    if isinstance(found, refusals.SignInRefused):
        assert header
    else:
        assert header.get("alg", "HS256") == "HS256"
        assert not header.keys() & {"crit", "b64"}


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["iss", "aud", "typ", "nbf", "exp", "jti", "sub", ATTRIBUTES]), json_values
    ),
    st.dictionaries(
        st.sampled_from(["mail", "givenname", "surname", "cn", "edupersontargetedid"]), json_values
    ),
)
def test_any_signed_claims_are_refused_or_make_a_clean_assertion(changed, said):
    payload = {**claims(now=NOW, said=None), **changed}
    if isinstance(payload.get(ATTRIBUTES), dict):
        payload[ATTRIBUTES] = {**payload[ATTRIBUTES], **said}
    found = answer(sign(payload))
    if not isinstance(found, refusals.SignInRefused):
        assert payload["iss"] == ISSUER
        assert payload["aud"] == AUDIENCE
        assert payload["typ"] == "authnresponse"
        assert found.expires > NOW - 30
        for text in (found.targeted_id, found.mail, found.given_name, found.family_name):
            assert "\0" not in text
            text.encode()
