"""System checks of Rapid Connect's settings."""

from __future__ import annotations

from django.conf import settings
from django.core.checks import CheckMessage, Warning
from django.http.request import validate_host
from django.urls import Resolver404, get_script_prefix, resolve

from ..addresses import ROOT_URLS, hosts_of_this_site, split
from . import config

ADDRESSES = ("rc/", "rc", "rc/auth/jwt")
"""Where the federation may post to, below the site's prefix."""

SHORT_SECRET = 32
"""Characters: as many as a SHA-256 digest has bytes (RFC 7518, section 3.2), and as the federation advises."""

FEW_CHARACTERS = 8
"""Different ones: even of 32 random hexadecimal digits, one in 28 million secrets has fewer."""


def problems() -> list[CheckMessage]:
    """What keeps people from signing in, or would sign in the wrong ones; nothing where it is switched off."""
    now = config.current()
    if not now.enabled:
        return []
    return [*_secret(now), *_addresses(), *_audience(now), *_login_url(now), *_leeway()]


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
    url = split(now.audience)
    ours = [f"{get_script_prefix()}{path}" for path in ADDRESSES]
    if url.scheme not in ("http", "https") or url.path not in ours or url.query or url.fragment:
        problem = f"is not a callback of this site; those end in {', '.join(ours)}"
    elif url.hostname in ("example.com", None) or not validate_host(url.hostname, hosts_of_this_site()):
        problem = "names a host that is not this site's (ALLOWED_HOSTS)"
    elif url.scheme == "http" and not settings.DEBUG:
        problem = "is plain HTTP: a sign-in can be read and changed on its way"
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


def _login_url(now: config.RapidConnectConfig) -> list[CheckMessage]:
    found = []
    if split(now.login_url).scheme not in ("http", "https"):
        found.append(
            Warning(
                "RAPID_CONNECT_ENABLED is True and RAPID_CONNECT_CONFIG['authnrequest_url'] is no address: "
                "nobody is offered to sign in through the federation.",
                hint="Put in the address that the federation shows for your service, "
                "or set RAPID_CONNECT_ENABLED = False until you have it.",
                id="imagetrove.W106",
            )
        )
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
