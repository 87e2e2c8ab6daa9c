"""Checks an assertion of AAF Rapid Connect: every MUST except "never seen before", and no database."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import jwt
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from . import refusals
from .config import RapidConnectConfig

ALGORITHM = "HS256"
"""The one that Rapid Connect signs with; whatever else a header names is refused."""

ATTRIBUTES = "https://aaf.edu.au/attributes"
"""The claim that holds what the institution says of the person."""

MAX_CHARACTERS = 16 * 1024
"""Of an assertion. Those of the federation have one to two thousand."""

MAX_LIFETIME = 24 * 3600
"""Seconds. The federation gives two minutes; how long we must remember one hangs on it."""

MAX_TARGETED_ID = 400
"""Characters, as MyTARDIS's ``rapidConnectEduPersonTargetedID`` holds."""

MAX_MAIL = 254
"""Characters, as Django's ``email`` holds."""

MAX_NAME = 150
"""Characters, as Django's ``first_name`` and ``last_name`` hold."""

# RFC 7515, sections 2 and 7.1: no padding, no white space. The library skips whatever is not of the alphabet.
_COMPACT = re.compile(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")

# They turn the text around them and could make one name look like another.
_DIRECTION_OVERRIDES = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Assertion:
    """What a valid assertion says; text is clean and empty where the institution said nothing.

    Attributes:
        jti: names this assertion; it must not have been seen before.
        expires: seconds since 1970.
        issuer: the federation.
        targeted_id: names the person, for good, at one institution and for one audience. Opaque.
        mail: a well-formed address, or empty.
    """

    jti: str
    expires: float
    issuer: str
    targeted_id: str
    mail: str
    given_name: str
    family_name: str


def verify(token: str, config: RapidConnectConfig, now: float) -> Assertion:
    """The assertion in ``token``, if all but the jti's novelty holds at ``now`` (seconds since 1970).

    Source: AAF Rapid Connect, "Integrating your application", steps of the callback; RFC 7515 and 7519.

    Raises:
        SignInRefused: the subclass says which check failed.
    """
    if not config.enabled:
        raise refusals.SwitchedOff("RAPID_CONNECT_ENABLED is not True")
    if config.missing:
        raise refusals.NotSetUp(f"RAPID_CONNECT_CONFIG lacks {', '.join(config.missing)} of its own")
    claims = _read(token, config.secret)

    issuer, audience, kind = claims.get("iss"), claims.get("aud"), claims.get("typ")
    if issuer != config.issuer:
        raise refusals.WrongIssuer(f"iss is {_short(issuer)}, not {config.issuer!r}")
    # A list of audiences would be an assertion that other services may use too: the federation makes none.
    if audience != config.audience:
        raise refusals.WrongAudience(f"aud is {_short(audience)}, not {config.audience!r}")
    if kind != "authnresponse":
        raise refusals.WrongType(f"typ is {_short(kind)}, not 'authnresponse'")
    if now + config.leeway < (not_before := _seconds(claims, "nbf")):
        raise refusals.TooEarly(f"nbf is {not_before - now:.0f} s ahead of this machine's clock")
    if now - config.leeway >= (expires := _seconds(claims, "exp")):
        raise refusals.Expired(f"exp is {now - expires:.0f} s behind this machine's clock")
    if expires > now + MAX_LIFETIME:
        raise refusals.TooLongLived(f"exp is {expires - now:.3g} s ahead")
    jti = claims.get("jti")
    if not isinstance(jti, str) or not jti.strip():
        raise refusals.WrongClaim(f"jti is {_short(jti)}, not a text")

    attributes = claims.get(ATTRIBUTES)
    if attributes is None:
        attributes = {}
    if not isinstance(attributes, dict):
        raise refusals.WrongClaim(f"{ATTRIBUTES} is {_short(attributes)}, not an object")
    given_name, family_name = _names(attributes)
    return Assertion(
        jti=jti,
        expires=expires,
        issuer=issuer,
        targeted_id=_targeted_id(claims, attributes),
        mail=_mail(attributes),
        given_name=given_name,
        family_name=family_name,
    )


def _read(token: str, secret: str) -> dict[str, Any]:
    """The claims of a token that ``secret`` signed with HS256."""
    if len(token) > MAX_CHARACTERS:
        raise refusals.TooLarge(f"{len(token)} characters")
    if not _COMPACT.fullmatch(token):
        raise refusals.Malformed("not three parts in base64url")
    try:
        header = jwt.get_unverified_header(token)
    # Old versions of the library let through what its JSON and base64 readers raise.
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise refusals.Malformed(f"not a JSON web signature ({type(error).__name__})") from None
    if header.get("alg") != ALGORITHM:
        raise refusals.WrongAlgorithm(f"alg is {_short(header.get('alg'))}, not {ALGORITHM!r}")
    # RFC 7515 4.1.11: what is critical must be understood, and we understand none. RFC 7797: b64 must be
    # critical, and versions of the library differ over one that is not.
    for name in ("crit", "b64"):
        if name in header:
            raise refusals.Malformed(f"{name} asks for {_short(header[name])}")
    try:
        payload = jwt.PyJWS().decode(token, secret, algorithms=[ALGORITHM])
    except jwt.InvalidSignatureError:
        raise refusals.WrongSignature("signed with another secret") from None
    except jwt.InvalidKeyError as error:
        raise refusals.NotSetUp(f"RAPID_CONNECT_CONFIG['secret'] cannot be used: {error}") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise refusals.Malformed(f"not a JSON web signature ({type(error).__name__})") from None
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise refusals.Malformed(f"its payload is not JSON ({type(error).__name__})") from None
    if not isinstance(claims, dict):
        raise refusals.Malformed("its payload is not a JSON object")
    return claims


def _seconds(claims: dict[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519, section 2) of the claims."""
    value = claims.get(name)
    try:
        # A bool is an int to Python, a text is a number to some libraries: neither is one to the RFC.
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise refusals.WrongClaim(f"{name} is {_short(value)}, not a number of seconds")


def _targeted_id(claims: dict[str, Any], attributes: dict[str, Any]) -> str:
    """``sub``, which always stands for the targeted id; the attribute of that name where ``sub`` is empty."""
    value = claims.get("sub") or attributes.get("edupersontargetedid")
    if not isinstance(value, str) or not value.strip():
        raise refusals.NoIdentity("neither sub nor edupersontargetedid is a text")
    if len(value) > MAX_TARGETED_ID:
        raise refusals.NoIdentity(f"the targeted id has {len(value)} characters, more than {MAX_TARGETED_ID}")
    if value != _clean(value):
        # An opaque key is never mended: a mended one could be somebody else's.
        raise refusals.NoIdentity("the targeted id has characters that cannot be kept")
    return value


def _mail(attributes: dict[str, Any]) -> str:
    value = attributes.get("mail")
    # As it is, without the mending of names: that makes an ordinary k of the Kelvin sign, and so
    # another person's address of this one.
    mail = value.strip() if isinstance(value, str) else ""
    try:
        validate_email(mail)
    except ValidationError:
        return ""
    return mail if mail.isprintable() and len(mail) <= MAX_MAIL else ""


def _names(attributes: dict[str, Any]) -> tuple[str, str]:
    """Given and family name; made from the displayed name where the institution gives no parts."""
    given, family = _text(attributes, "givenname"), _text(attributes, "surname")
    if not given and not family:
        whole = _text(attributes, "displayname") or _text(attributes, "cn")
        given, _, family = whole.partition(" ")
    return given[:MAX_NAME].strip(), family[:MAX_NAME].strip()


def _text(attributes: dict[str, Any], name: str) -> str:
    value = attributes.get(name)
    return _clean(value) if isinstance(value, str) else ""


def _clean(text: str) -> str:
    """``text`` as every database and page can hold it: no control characters, no halves of characters."""
    kept = (
        c
        for c in unicodedata.normalize("NFC", text)
        if c.isspace() or (unicodedata.category(c) not in ("Cc", "Cs") and c not in _DIRECTION_OVERRIDES)
    )
    return " ".join("".join(kept).split())


def _short(value: object) -> str:
    """``value`` for the log: ASCII, one line, and too short to hold an assertion."""
    if isinstance(value, (list, dict)):
        # Not spelt out: what is nested deeply enough to be read may still be too deep to be written.
        return f"a {type(value).__name__} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
