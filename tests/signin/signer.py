"""Assertions made by hand with hmac, apart from every JOSE library and from the code under test."""

import base64
import hashlib
import hmac
import itertools
import json
import time

SECRET = "a secret for tests, of more than thirty-two characters"
ISSUER = "https://rapid.test.aaf.edu.au"
AUDIENCE = "https://testserver/rc/"
ATTRIBUTES = "https://aaf.edu.au/attributes"

_count = itertools.count()


def targeted_id(person="ada"):
    return f"{ISSUER}!{AUDIENCE}!{base64.b64encode(hashlib.sha1(person.encode()).digest()).decode()}"


def attributes(person="ada", **changes):
    """What an institution says of a person; None takes an attribute away."""
    said = {
        "cn": f"{person.title()} Lovelace",
        "displayname": f"{person.title()} Lovelace",
        "givenname": person.title(),
        "surname": "Lovelace",
        "mail": f"{person}@example.edu",
        "edupersonscopedaffiliation": "staff@example.edu",
        "edupersontargetedid": targeted_id(person),
        **changes,
    }
    return {key: value for key, value in said.items() if value is not None}


def claims(person="ada", *, now=None, said=None, **changes):
    """A good payload with changes; None takes a claim away."""
    now = int(time.time()) if now is None else now
    payload = {
        "iss": ISSUER,
        "iat": now,
        "jti": f"{now}-{next(_count)}",
        "nbf": now - 60,
        "exp": now + 120,
        "typ": "authnresponse",
        "aud": AUDIENCE,
        "sub": targeted_id(person),
        ATTRIBUTES: attributes(person, **(said or {})),
        **changes,
    }
    return {key: value for key, value in payload.items() if value is not None}


def part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign_bytes(head, body, secret=SECRET, digest="sha256"):
    """Three parts of which the last is the HMAC of the others, whatever they are."""
    message = part(head) + b"." + part(body)
    return (message + b"." + part(hmac.new(secret.encode(), message, digest).digest())).decode()


def sign(payload, secret=SECRET, digest="sha256", **header):
    head = {"typ": "JWT", "alg": "HS256", **header}
    return sign_bytes(json.dumps(head).encode(), json.dumps(payload).encode(), secret, digest)


def assertion(person="ada", **changes):
    """A signed assertion that is good, but for `changes`."""
    return sign(claims(person, **changes))
