"""What MyTARDIS's own settings say of Rapid Connect, as one typed value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.urls import reverse_lazy

DEFAULT_LEEWAY = 30
"""Seconds by which this machine's clock and the federation's may differ."""

MAX_LEEWAY = 300
"""Seconds. More would keep a stolen assertion alive for longer than a sign-in takes."""

PLACEHOLDER_SECRET = "CHANGE_ME"
"""The secret that MyTARDIS ships: known to everybody."""


_FEDERATIONS_URL = "authnrequest_url of the federation"
"""Where :func:`lead_to_the_sign_in_page` keeps it."""

FEDERATIONS = {
    "https://rapid.aaf.edu.au": "the Australian Access Federation",
    "https://rapid.test.aaf.edu.au": "the test federation of AAF",
    "https://rapidconnect.tuakiri.ac.nz": "Tuakiri",
    "https://rapidconnect.staging.tuakiri.ac.nz": "the test federation of Tuakiri",
}
"""Names by ``iss``, for sites that give no name of their own."""


@dataclass(frozen=True)
class RapidConnectConfig:
    """``RAPID_CONNECT_ENABLED`` and ``RAPID_CONNECT_CONFIG``.

    Attributes:
        enabled: the site takes assertions.
        secret: shared with the federation; signs the assertions.
        issuer: ``iss``, the federation.
        audience: ``aud``, the address that is registered with the federation.
        login_url: ``authnrequest_url``, where a person is sent to sign in; empty until the service is registered.
        leeway: seconds, from 0 to :data:`MAX_LEEWAY`; ``leeway`` is our own key of the dictionary.
        label: text of the button; our own key as well.
        federation: name shared with OpenID providers of the same federation; our own key as well.
    """

    enabled: bool = False
    secret: str = field(default="", repr=False)
    issuer: str = ""
    audience: str = ""
    login_url: str = ""
    leeway: int = DEFAULT_LEEWAY
    label: str = ""
    federation: str = ""

    @property
    def secret_is_known(self) -> bool:
        """True for a secret that protects nothing: anybody could sign as anyone."""
        return self.secret.strip() in ("", PLACEHOLDER_SECRET)

    @property
    def missing(self) -> tuple[str, ...]:
        """Keys of ``RAPID_CONNECT_CONFIG`` without which no assertion can be checked."""
        found = {"secret": not self.secret_is_known, "iss": self.issuer, "aud": self.audience}
        return tuple(key for key, given in found.items() if not given)


def is_leeway(value: Any) -> bool:
    """True for a whole number of seconds within bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_LEEWAY


def lead_to_the_sign_in_page(**changed: Any) -> None:
    """Have the *Log In* button of MyTARDIS's front page lead to the sign-in page where the federation is not all.

    With ``RAPID_CONNECT_ENABLED`` MyTARDIS leads to ``authnrequest_url`` at once: without the others of
    ``OPENID_CONNECT_PROVIDERS``, and with a page that answers 500 until the federation has given that address. The
    address that stands in is no text, and so :func:`current` does not take it for the federation's.

    Args:
        changed: of Django's signal ``setting_changed``.
    """
    given = getattr(settings, "RAPID_CONNECT_CONFIG", None)
    if (
        changed.get("setting", "RAPID_CONNECT_CONFIG")
        not in ("RAPID_CONNECT_ENABLED", "RAPID_CONNECT_CONFIG", "OPENID_CONNECT_PROVIDERS")
        or not getattr(settings, "RAPID_CONNECT_ENABLED", False)
        or not isinstance(given, dict)
    ):
        return
    url = given.get("authnrequest_url")
    if not url or (isinstance(url, str) and getattr(settings, "OPENID_CONNECT_PROVIDERS", None)):
        given[_FEDERATIONS_URL] = url
        given["authnrequest_url"] = reverse_lazy("tardis.tardis_portal.views.login")


def current() -> RapidConnectConfig:
    """The configuration as it is now; values of a wrong type count as not given."""
    given = getattr(settings, "RAPID_CONNECT_CONFIG", None)
    given = given if isinstance(given, dict) else {}

    def text(key: str) -> str:
        value = given.get(key)
        return value if isinstance(value, str) else ""

    leeway = given.get("leeway", DEFAULT_LEEWAY)
    return RapidConnectConfig(
        enabled=bool(getattr(settings, "RAPID_CONNECT_ENABLED", False)),
        secret=text("secret"),
        issuer=text("iss"),
        audience=text("aud"),
        login_url=text("authnrequest_url") or text(_FEDERATIONS_URL),
        leeway=leeway if is_leeway(leeway) else DEFAULT_LEEWAY,
        federation=text("federation"),
        label=text("label") or f"Sign in with {FEDERATIONS.get(text('iss'), 'your institution')}",
    )
