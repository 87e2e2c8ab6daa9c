"""Checks an ID token: every MUST of OpenID Connect Core 1.0, section 3.1.3.7, for a sign-in by code."""

from __future__ import annotations

from typing import Any

from .. import claims, jws, refusals
from ..claims import short
from .config import LEEWAY, OpenIDConfig
from .metadata import ALGORITHMS, Metadata, signing_key

MAX_AGE = 600
"""Seconds since the token was made: it comes straight from the provider, for a code that is as new."""

MAX_SUBJECT = 255
"""Characters (Core 1.0, section 2)."""

_REFUSALS = {
    jws.TooLarge: refusals.BadIDToken,
    jws.Malformed: refusals.BadIDToken,
    jws.UnusableKey: refusals.UnknownKey,
    jws.WrongAlgorithm: refusals.IDTokenAlgorithm,
    jws.WrongSignature: refusals.IDTokenSignature,
}


def verify(token: str, config: OpenIDConfig, metadata: Metadata, nonce: str, now: float) -> dict[str, Any]:
    """The claims of ``token``, if it is for this site, this sign-in and this moment.

    Raises:
        SignInRefused: the subclass says which check failed.
    """
    try:
        said = jws.read(token, ALGORITHMS, lambda header: signing_key(metadata, header))
    except jws.JwsError as error:
        raise _REFUSALS[type(error)](str(error)) from None
    if said.get("iss") != config.issuer:
        raise refusals.IDTokenIssuer(f"iss is {short(said.get('iss'))}, not {config.issuer!r}")
    _check_audience(said, config.client_id)
    _check_times(said, now)
    if said.get("nonce") != nonce:
        raise refusals.IDTokenNonce("nonce is not that of this sign-in")
    subject = said.get("sub")
    if not isinstance(subject, str) or not subject.strip() or not claims.is_key(subject, MAX_SUBJECT):
        raise refusals.NoSubject(f"sub is {'missing' if subject is None else 'no text that can be kept'}")
    return said


def _check_audience(said: dict[str, Any], client_id: str) -> None:
    audience = said.get("aud")
    party = said.get("azp")
    several = audience if isinstance(audience, list) else [audience]
    if client_id not in several:
        raise refusals.IDTokenAudience(f"aud is {short(audience)}, not {client_id!r}")
    # Others who get the same token could sign in with it here.
    if (len(several) > 1 or party is not None) and party != client_id:
        raise refusals.IDTokenAudience(
            f"azp is {short(party)}, not {client_id!r}, of {len(several)} audiences"
        )


def _check_times(said: dict[str, Any], now: float) -> None:
    times = {}
    for name, needed in (("exp", True), ("iat", True), ("nbf", False)):
        times[name] = claims.seconds(said, name)
        if times[name] is None and (needed or name in said):
            raise refusals.IDTokenClaim(f"{name} is {short(said.get(name))}, not a number of seconds")
    if now - LEEWAY >= times["exp"]:
        raise refusals.IDTokenExpired(f"exp is {now - times['exp']:.0f} s behind this machine's clock")
    if now - LEEWAY - MAX_AGE >= times["iat"]:
        raise refusals.IDTokenExpired(f"iat is {now - times['iat']:.0f} s behind this machine's clock")
    ahead = max(times["iat"], times["nbf"] if times["nbf"] is not None else times["iat"]) - now
    if ahead > LEEWAY:
        raise refusals.IDTokenEarly(f"iat or nbf is {ahead:.0f} s ahead of this machine's clock")
