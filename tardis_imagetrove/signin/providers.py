"""The protocols of this package, and the providers that a site has switched on."""

from __future__ import annotations

from .openid.provider import OpenID
from .provider import Provider
from .rapid_connect.provider import RapidConnect

PROTOCOLS: tuple[type[Provider], ...] = (RapidConnect, OpenID)


def configured() -> list[Provider]:
    """In the order of their buttons."""
    return [provider for protocol in PROTOCOLS for provider in protocol.configured()]


def kin(issuer: str) -> frozenset[str]:
    """The other issuers that belong to the same federation, by this site's settings."""
    known = configured()
    federations = {one.federation for one in known if one.issuer == issuer and one.federation}
    return frozenset(one.issuer for one in known if one.federation in federations) - {issuer}
