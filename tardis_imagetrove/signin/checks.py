"""System checks of signing in: all warnings, because a sign-in that is set up badly must not stop the receiver."""

from __future__ import annotations

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register

from ..mytardis import mytardis
from . import providers
from .addresses import ROOT_URLS
from .session import BACKEND, FORMER_BACKENDS

SIGN_IN_VIEW = "tardis_imagetrove.signin.views.sign_in"
FORMER_SIGN_IN_VIEW = "tardis_imagetrove.rapidconnect.views.sign_in"
FORMER_ROOT_URLS = "tardis_imagetrove.rapidconnect.root_urls"


@register(Tags.security)
def check_sign_in(app_configs: object, **kwargs: object) -> list[CheckMessage]:
    """What keeps people from signing in, or would sign in the wrong ones; nothing where no provider is switched on."""
    found = [message for protocol in providers.PROTOCOLS for message in protocol.check()]
    if providers.configured():
        found += [*_sign_in_page(), *_accounts(), *_former_paths()]
    return found


@register(Tags.security, deploy=True)
def check_providers(app_configs: object, **kwargs: object) -> list[CheckMessage]:
    """What only the providers themselves can tell: with ``check --deploy``, never at a start."""
    return [message for protocol in providers.PROTOCOLS for message in protocol.examine()]


def _former_paths() -> list[CheckMessage]:
    """Paths of earlier versions, which still work."""
    used = {
        "ROOT_URLCONF": (settings.ROOT_URLCONF == FORMER_ROOT_URLS, ROOT_URLS),
        "AUTHENTICATION_BACKENDS": (
            any(path in settings.AUTHENTICATION_BACKENDS for path in FORMER_BACKENDS)
            and BACKEND not in settings.AUTHENTICATION_BACKENDS,
            BACKEND,
        ),
        "LOGIN_VIEWS": (
            FORMER_SIGN_IN_VIEW in (getattr(settings, "LOGIN_VIEWS", None) or {}).values(),
            SIGN_IN_VIEW,
        ),
    }
    return [
        Warning(
            f"{setting} has a deprecated path of this app.",
            hint=f'Name "{path}" instead.',
            id="imagetrove.W111",
        )
        for setting, (former, path) in used.items()
        if former
    ]


def _sign_in_page() -> list[CheckMessage]:
    views = getattr(settings, "LOGIN_VIEWS", None) or {}
    # A key that is a text is a domain, which the database knows, and checks do not ask it.
    if any(
        view in (SIGN_IN_VIEW, FORMER_SIGN_IN_VIEW)
        and (isinstance(key, str) or key == getattr(settings, "SITE_ID", key))
        for key, view in views.items()
    ):
        return []
    return [
        Warning(
            "LOGIN_VIEWS does not name ImageTrove's sign-in page. MyTARDIS's own has no button for OpenID Connect, and "
            "no form for local accounts while RAPID_CONNECT_ENABLED is True.",
            hint=f'Set LOGIN_VIEWS = {{1: "{SIGN_IN_VIEW}"}}, where 1 is your SITE_ID.',
            id="imagetrove.W107",
        )
    ]


def _accounts() -> list[CheckMessage]:
    found = []
    backends = list(settings.AUTHENTICATION_BACKENDS)
    ours = (BACKEND, *FORMER_BACKENDS)
    if not backends or backends[0] not in ours:
        found.append(
            Warning(
                f"AUTHENTICATION_BACKENDS does not begin with {BACKEND}: "
                + (
                    "another one is asked first."
                    if any(path in backends for path in ours)
                    else "every sign-in is refused."
                ),
                hint=f'AUTHENTICATION_BACKENDS = ("{BACKEND}", *AUTHENTICATION_BACKENDS)',
                id="imagetrove.W108",
            )
        )
    if problem := mytardis().missing_setting():
        found.append(Warning(f"{problem}.", hint="DEFAULT_PERMISSIONS = [] is enough.", id="imagetrove.W109"))
    return found
