"""Addresses of this site, as checks look at them."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from django.conf import settings

ROOT_URLS = "tardis_imagetrove.signin.root_urls"
"""For ``ROOT_URLCONF``."""


def hosts_of_this_site() -> list[str]:
    """As Django takes them."""
    return settings.ALLOWED_HOSTS or ([".localhost", "127.0.0.1", "[::1]"] if settings.DEBUG else [])


def split(address: str) -> SplitResult:
    """The parts of an address; all empty for what is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")
