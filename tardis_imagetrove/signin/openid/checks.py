"""System checks of ``OPENID_CONNECT_PROVIDERS``; those that ask the providers run with ``check --deploy`` alone."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Warning
from django.http.request import validate_host
from django.urls import Resolver404, get_script_prefix, resolve

from ..addresses import ROOT_URLS, hosts_of_this_site, split
from . import config, fetching, metadata
from .config import LEEWAY, OpenIDConfig


def problems() -> list[CheckMessage]:
    """What can be seen without asking anybody."""
    known = config.current()
    found: list[CheckMessage] = []
    for one in known:
        found += [
            Warning(
                f"{problem}. Nobody can sign in through this provider.",
                hint="docs/openid-connect.md lists the keys of a provider.",
                id="imagetrove.W112",
            )
            for problem in one.problems
        ]
        found += [*_plain_http(one), *_secret(one), *_redirect(one)]
    if known and settings.SESSION_COOKIE_SAMESITE == "Strict":
        found.append(
            Warning(
                'SESSION_COOKIE_SAMESITE is "Strict": browsers leave the session out of the way back from a provider, '
                "and every sign-in is refused (OIDC-STATE).",
                hint='SESSION_COOKIE_SAMESITE = "Lax", which is Django\'s default.',
                id="imagetrove.W117",
            )
        )
    return found


def _plain_http(one: OpenIDConfig) -> list[CheckMessage]:
    if split(one.issuer).scheme != "http" or settings.DEBUG:
        return []
    return [
        Warning(
            f"The issuer of the provider {one.name!r}, {one.issuer!r}, is plain HTTP: a sign-in can be read "
            "and changed on its way.",
            hint="Plain HTTP is for trying out on one machine; name the issuer by https://.",
            id="imagetrove.W113",
        )
    ]


def _secret(one: OpenIDConfig) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if one.secret and (module := next(_settings_that_hold(one.secret), "")):
        found.append(
            Warning(
                f"The client secret of the provider {one.name!r} is written in {module}, which backups and "
                "repositories of the settings give away.",
                hint="Put it in a file that only the web server's user can read, and name it by 'client_secret_file'.",
                id="imagetrove.W114",
            )
        )
    if one.secret_file:
        problem = ""
        try:
            if not one.read_secret():
                problem = "is empty"
            elif Path(one.secret_file).stat().st_mode & 0o007:
                problem = "can be read or changed by every user of this machine: chmod o= it"
        except (OSError, UnicodeDecodeError) as error:
            problem = f"cannot be read: {error}"
        if problem:
            found.append(
                Warning(
                    f"'client_secret_file' of the provider {one.name!r}, {one.secret_file}, {problem}.",
                    id="imagetrove.W115",
                )
            )
    return found


def _settings_that_hold(text: str) -> Iterator[str]:
    """Files of settings in which ``text`` stands."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and "settings" in name.rpartition(".")[2] and str(file).endswith(".py"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if text in Path(file).read_text(encoding="utf-8"):
                    yield str(file)


def _redirect(one: OpenIDConfig) -> list[CheckMessage]:
    # Late, since the views need templates and models.
    from .views import come_back

    if not (one.name and one.redirect_uri):
        return []
    wanted = f"{get_script_prefix()}oidc/{one.name}/callback/"
    url = split(one.redirect_uri)
    hint = f"It is the address that is registered with the provider: https://YOUR.HOST{wanted}."
    if url.path != wanted or url.query or url.fragment:
        problem = f"is not the address of this provider's callback, which ends in {wanted}"
    elif not url.hostname or not validate_host(url.hostname, hosts_of_this_site()):
        problem = "names a host that is not this site's (ALLOWED_HOSTS)"
    elif url.scheme == "http" and not settings.DEBUG:
        problem = "is plain HTTP: a sign-in can be read and changed on its way"
    else:
        try:
            if resolve(wanted.replace(get_script_prefix(), "/", 1)).func is come_back:
                return []
        except Resolver404:
            pass
        problem = "does not lead to ImageTrove"
        hint = f'Set ROOT_URLCONF = "{ROOT_URLS}".'
    return [
        Warning(
            f"'redirect_uri' of the provider {one.name!r}, {one.redirect_uri!r}, {problem}.",
            hint=hint,
            id="imagetrove.W116",
        )
    ]


def examine() -> list[CheckMessage]:
    """What only the providers themselves can tell."""
    return [message for one in config.current() if not one.problems for message in _examine(one)]


def _examine(one: OpenIDConfig) -> list[CheckMessage]:
    metadata.forget()
    try:
        published = metadata.discover(one.issuer)
        usable = [
            key
            for key in metadata.keys(published)
            for algorithm in metadata.ALGORITHMS
            if metadata.choose([key], key.get("kid"), algorithm)
        ]
        if not usable:
            raise fetching.Unusable(f"{published.jwks_uri} has no key for {' or '.join(metadata.ALGORITHMS)}")
        if not {"client_secret_basic", "client_secret_post"} & {*published.token_auth}:
            raise fetching.Unusable("it accepts neither client_secret_basic nor client_secret_post")
    except (fetching.Unreachable, fetching.Unusable) as error:
        return [
            Warning(
                f"Nobody can sign in through the provider {one.name!r}: {error}.",
                hint="'issuer' must be exactly as the provider calls itself, and this machine must reach it.",
                id="imagetrove.W118",
            )
        ]
    try:
        ahead = parsedate_to_datetime(published.date).timestamp() - time.time()
    except (TypeError, ValueError):
        return []
    if abs(ahead) <= LEEWAY:
        return []
    host = urlsplit(one.issuer).hostname
    return [
        Warning(
            f"The clock of {host} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's: "
            f"sign-ins through the provider {one.name!r} are refused.",
            hint="Keep this machine's clock right, by chrony or systemd-timesyncd.",
            id="imagetrove.W119",
        )
    ]
