"""System checks of signing in: all warnings, because a sign-in that is set up badly must not stop the receiver."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register
from django.http.request import validate_host
from django.urls import Resolver404, get_script_prefix, resolve

from ..mytardis import accounts
from . import backend, config

ADDRESSES = ("rc/", "rc", "rc/auth/jwt")
"""Where the federation may post to, below the site's prefix."""

SIGN_IN_VIEW = "tardis_imagetrove.signin.views.sign_in"
ROOT_URLS = "tardis_imagetrove.signin.root_urls"
FORMER_SIGN_IN_VIEW = "tardis_imagetrove.rapidconnect.views.sign_in"
FORMER_ROOT_URLS = "tardis_imagetrove.rapidconnect.root_urls"
SHORT_SECRET = 32
"""Characters: as many as a SHA-256 digest has bytes (RFC 7518, section 3.2), and as the federation advises."""

FEW_CHARACTERS = 8
"""Different ones: even of 32 random hexadecimal digits, one in 28 million secrets has fewer."""


@register(Tags.security)
def check_rapid_connect(app_configs: object, **kwargs: object) -> list[CheckMessage]:
    """What keeps people from signing in, or would sign in the wrong ones; nothing where it is switched off."""
    now = config.current()
    if not now.enabled:
        return []
    return [
        *_secret(now),
        *_addresses(),
        *_audience(now),
        *_sign_in_page(now),
        *_accounts(),
        *_leeway(),
        *_former_paths(),
    ]


def _former_paths() -> list[CheckMessage]:
    """Paths of 0.1, which still work."""
    used = {
        "ROOT_URLCONF": (settings.ROOT_URLCONF == FORMER_ROOT_URLS, ROOT_URLS),
        "AUTHENTICATION_BACKENDS": (
            backend.FORMER_PATH in settings.AUTHENTICATION_BACKENDS
            and backend.PATH not in settings.AUTHENTICATION_BACKENDS,
            backend.PATH,
        ),
        "LOGIN_VIEWS": (
            FORMER_SIGN_IN_VIEW in (getattr(settings, "LOGIN_VIEWS", None) or {}).values(),
            SIGN_IN_VIEW,
        ),
    }
    return [
        Warning(
            f"{setting} names a path below tardis_imagetrove.rapidconnect, which is deprecated.",
            hint=f'Name "{path}" instead.',
            id="imagetrove.W111",
        )
        for setting, (former, path) in used.items()
        if former
    ]


def _secret(now: config.RapidConnectConfig) -> list[CheckMessage]:
    if now.secret_is_known:
        return [
            Warning(
                "RAPID_CONNECT_CONFIG['secret'] is empty or MyTARDIS's default: every sign-in is refused, "
                "since anybody could sign one.",
                hint="Make one of at least 32 random characters and give it to the federation with your service.",
                id="imagetrove.W101",
            )
        ]
    if len(now.secret) < SHORT_SECRET or len(set(now.secret)) < FEW_CHARACTERS:
        return [
            Warning(
                f"RAPID_CONNECT_CONFIG['secret'] has {len(now.secret)} characters, {len(set(now.secret))} "
                "of them different, and could be guessed.",
                hint=f"Make one of at least {SHORT_SECRET} random characters.",
                id="imagetrove.W102",
            )
        ]
    return []


def _addresses() -> list[CheckMessage]:
    # A function, and so imported late: the views need templates and models.
    from .views import receive_assertion

    def answered_by_us(path: str) -> bool:
        try:
            return resolve(f"/{path}").func is receive_assertion
        except Resolver404:
            return False

    elsewhere = [f"{get_script_prefix()}{path}" for path in ADDRESSES if not answered_by_us(path)]
    if not elsewhere:
        return []
    return [
        Warning(
            f"What the federation posts to {', '.join(elsewhere)} does not reach ImageTrove.",
            hint=f'Set ROOT_URLCONF = "{ROOT_URLS}".',
            id="imagetrove.W103",
        )
    ]


def _audience(now: config.RapidConnectConfig) -> list[CheckMessage]:
    found = []
    if not now.issuer:
        found.append(
            Warning(
                "RAPID_CONNECT_CONFIG['iss'] is empty: every sign-in is refused.",
                hint="https://rapid.aaf.edu.au, or https://rapid.test.aaf.edu.au for the test federation.",
                id="imagetrove.W105",
            )
        )
    url = _split(now.audience)
    ours = [f"{get_script_prefix()}{path}" for path in ADDRESSES]
    hosts = settings.ALLOWED_HOSTS or ([".localhost", "127.0.0.1", "[::1]"] if settings.DEBUG else [])
    if url.scheme not in ("http", "https") or url.path not in ours or url.query or url.fragment:
        problem = f"is not an address of ours, which end in {', '.join(ours)}"
    elif url.hostname in ("example.com", None) or not validate_host(url.hostname, hosts):
        problem = "names a host that is not this site's (ALLOWED_HOSTS)"
    elif url.scheme == "http" and not settings.DEBUG:
        problem = "is plain HTTP, by which a sign-in can be read and changed on its way"
    else:
        return found
    found.append(
        Warning(
            f"RAPID_CONNECT_CONFIG['aud'], {now.audience!r}, {problem}.",
            hint="It is the address that is registered with the federation: https://YOUR.HOST/rc/.",
            id="imagetrove.W104",
        )
    )
    return found


def _split(address: str) -> SplitResult:
    """The parts of an address; all empty for what is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _sign_in_page(now: config.RapidConnectConfig) -> list[CheckMessage]:
    found = []
    if _split(now.login_url).scheme not in ("http", "https"):
        found.append(
            Warning(
                "RAPID_CONNECT_ENABLED is True and RAPID_CONNECT_CONFIG['authnrequest_url'] is no address: "
                "nobody is offered to sign in through the federation.",
                hint="Put in the address that the federation shows for your service, "
                "or set RAPID_CONNECT_ENABLED = False until you have it.",
                id="imagetrove.W106",
            )
        )
    views = getattr(settings, "LOGIN_VIEWS", None) or {}
    # A key that is a text is a domain, which the database knows, and checks do not ask it.
    if not any(
        view in (SIGN_IN_VIEW, FORMER_SIGN_IN_VIEW)
        and (isinstance(key, str) or key == getattr(settings, "SITE_ID", key))
        for key, view in views.items()
    ):
        found.append(
            Warning(
                "MyTARDIS's own sign-in page has no form for local accounts while RAPID_CONNECT_ENABLED is True.",
                hint=f'Set LOGIN_VIEWS = {{1: "{SIGN_IN_VIEW}"}}, where 1 is your SITE_ID.',
                id="imagetrove.W107",
            )
        )
    return found


def _accounts() -> list[CheckMessage]:
    found = []
    backends = list(settings.AUTHENTICATION_BACKENDS)
    ours = (backend.PATH, backend.FORMER_PATH)
    if not backends or backends[0] not in ours:
        found.append(
            Warning(
                f"AUTHENTICATION_BACKENDS does not begin with {backend.PATH}: "
                + (
                    "another one is asked first."
                    if any(path in backends for path in ours)
                    else "every sign-in is refused."
                ),
                hint=f'AUTHENTICATION_BACKENDS = ("{backend.PATH}", *AUTHENTICATION_BACKENDS)',
                id="imagetrove.W108",
            )
        )
    if problem := accounts.missing_setting():
        found.append(Warning(f"{problem}.", hint="DEFAULT_PERMISSIONS = [] is enough.", id="imagetrove.W109"))
    return found


def _leeway() -> list[CheckMessage]:
    given = getattr(settings, "RAPID_CONNECT_CONFIG", None)
    leeway = given.get("leeway", config.DEFAULT_LEEWAY) if isinstance(given, dict) else config.DEFAULT_LEEWAY
    if config.is_leeway(leeway):
        return []
    return [
        Warning(
            f"RAPID_CONNECT_CONFIG['leeway'] is {leeway!r}: {config.DEFAULT_LEEWAY} s are used.",
            hint=f"Whole seconds, from 0 to {config.MAX_LEEWAY}.",
            id="imagetrove.W110",
        )
    ]
