"""Makes assertions as the federation does, by hand with hmac: nothing here is shared with the code that checks them."""

import base64
import hashlib
import hmac
import json
import secrets
import time

ISSUER = "https://stand-in.federation.invalid"


def targeted_id(person, audience):
    """Opaque, the same for a person at every sign-in, and bound to the audience."""
    of_person = hashlib.sha1(f"{person}@{audience}".encode()).digest()
    return f"{ISSUER}!{audience}!{base64.b64encode(of_person).decode()}"


def claims(subject, attributes, audience, now=None):
    """The payload, with the federation's own lifetimes."""
    now = int(time.time()) if now is None else now
    return {
        "iss": ISSUER,
        "iat": now,
        "jti": secrets.token_urlsafe(24),
        "nbf": now - 60,
        "exp": now + 120,
        "typ": "authnresponse",
        "aud": audience,
        "sub": subject,
        "https://aaf.edu.au/attributes": {**attributes, "edupersontargetedid": subject},
    }


def sign(payload, secret):
    """A JSON web signature (RFC 7515, compact) by HMAC with SHA-256."""

    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    head = part(json.dumps({"typ": "JWT", "alg": "HS256"}).encode())
    body = part(json.dumps(payload).encode())
    signature = hmac.new(secret.encode(), head + b"." + body, hashlib.sha256).digest()
    return b".".join((head, body, part(signature))).decode()
