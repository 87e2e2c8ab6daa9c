"""Checks an assertion of AAF Rapid Connect: every MUST except "never seen before", and no database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import claims, jws, refusals
from ..claims import short
from .config import RapidConnectConfig

ALGORITHM = "HS256"
"""The one that Rapid Connect signs with; whatever else a header names is refused."""

ATTRIBUTES = "https://aaf.edu.au/attributes"
"""The claim that holds what the institution says of the person."""

MAX_LIFETIME = 24 * 3600
"""Seconds. The federation gives two minutes; how long we must remember one hangs on it."""

MAX_TARGETED_ID = 400
"""Characters, as MyTARDIS's ``rapidConnectEduPersonTargetedID`` holds."""

_REFUSALS = {
    jws.TooLarge: refusals.TooLarge,
    jws.Malformed: refusals.Malformed,
    jws.WrongAlgorithm: refusals.WrongAlgorithm,
}


@dataclass(frozen=True)
class Assertion:
    """What a valid assertion says; text is clean and empty where the institution said nothing.

    Attributes:
        jti: names this assertion; it must not have been seen before.
        expires: seconds since 1970.
        issuer: the federation.
        targeted_id: names the person, for good, at one institution and for one audience. Opaque.
        mail: a well-formed address, or empty.
        shared_token: auEduPersonSharedToken, which the federation's other protocols tell as well.
    """

    jti: str
    expires: float
    issuer: str
    targeted_id: str
    mail: str
    given_name: str
    family_name: str
    shared_token: str = ""


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
    payload = _read(token, config.secret)

    issuer, audience, kind = payload.get("iss"), payload.get("aud"), payload.get("typ")
    if issuer != config.issuer:
        raise refusals.WrongIssuer(f"iss is {short(issuer)}, not {config.issuer!r}")
    # A list of audiences would be an assertion that other services may use too: the federation makes none.
    if audience != config.audience:
        raise refusals.WrongAudience(f"aud is {short(audience)}, not {config.audience!r}")
    if kind != "authnresponse":
        raise refusals.WrongType(f"typ is {short(kind)}, not 'authnresponse'")
    if now + config.leeway < (not_before := _seconds(payload, "nbf")):
        raise refusals.TooEarly(f"nbf is {not_before - now:.0f} s ahead of this machine's clock")
    if now - config.leeway >= (expires := _seconds(payload, "exp")):
        raise refusals.Expired(f"exp is {now - expires:.0f} s behind this machine's clock")
    if expires > now + MAX_LIFETIME:
        raise refusals.TooLongLived(f"exp is {expires - now:.3g} s ahead")
    jti = payload.get("jti")
    if not isinstance(jti, str) or not jti.strip():
        raise refusals.WrongClaim(f"jti is {short(jti)}, not a text")

    attributes = payload.get(ATTRIBUTES)
    if attributes is None:
        attributes = {}
    if not isinstance(attributes, dict):
        raise refusals.WrongClaim(f"{ATTRIBUTES} is {short(attributes)}, not an object")
    given_name, family_name = claims.names(attributes, "givenname", "surname", "displayname", "cn")
    return Assertion(
        jti=jti,
        expires=expires,
        issuer=issuer,
        targeted_id=_targeted_id(payload, attributes),
        mail=claims.mail(attributes, "mail"),
        given_name=given_name,
        family_name=family_name,
        shared_token=claims.shared_token(attributes, "auedupersonsharedtoken"),
    )


def _read(token: str, secret: str) -> dict[str, Any]:
    """The claims of a token that ``secret`` signed with HS256."""
    try:
        return jws.read(token, [ALGORITHM], lambda header: secret)
    except jws.WrongSignature:
        raise refusals.WrongSignature("signed with another secret") from None
    except jws.UnusableKey as error:
        raise refusals.NotSetUp(f"RAPID_CONNECT_CONFIG['secret'] cannot be used: {error}") from None
    except jws.JwsError as error:
        raise _REFUSALS[type(error)](str(error)) from None


def _seconds(payload: dict[str, Any], name: str) -> float:
    value = claims.seconds(payload, name)
    if value is None:
        raise refusals.WrongClaim(f"{name} is {short(payload.get(name))}, not a number of seconds")
    return value


def _targeted_id(payload: dict[str, Any], attributes: dict[str, Any]) -> str:
    """``sub``, which always stands for the targeted id; the attribute of that name where ``sub`` is empty."""
    value = payload.get("sub") or attributes.get("edupersontargetedid")
    if not isinstance(value, str) or not value.strip():
        raise refusals.NoIdentity("neither sub nor edupersontargetedid is a text")
    if len(value) > MAX_TARGETED_ID:
        raise refusals.NoIdentity(f"the targeted id has {len(value)} characters, more than {MAX_TARGETED_ID}")
    if not claims.is_key(value, MAX_TARGETED_ID):
        raise refusals.NoIdentity("the targeted id has characters that cannot be kept")
    return value
