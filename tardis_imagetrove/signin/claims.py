"""Reads what a provider says of a person: text that databases and pages can hold, well-formed addresses, times."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

MAX_MAIL = 254
"""Characters, as Django's ``email`` holds."""

MAX_NAME = 150
"""Characters, as Django's ``first_name`` and ``last_name`` hold."""

MAX_SHARED_TOKEN = 255
"""Characters. Those of the federations have 27."""

# They turn the text around them and could make one name look like another.
_DIRECTION_OVERRIDES = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def seconds(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519, section 2); None if the claim is missing or anything else."""
    value = claims.get(name)
    try:
        # A bool is an int to Python, a text is a number to some libraries: neither is one to the RFC.
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    return None


def mail(claims: Mapping[str, Any], name: str) -> str:
    """A well-formed address, or an empty text."""
    value = claims.get(name)
    # As it is, without the mending of names: that makes an ordinary k of the Kelvin sign, and so
    # another person's address of this one.
    address = value.strip() if isinstance(value, str) else ""
    try:
        validate_email(address)
    except ValidationError:
        return ""
    return address if address.isprintable() and len(address) <= MAX_MAIL else ""


def names(claims: Mapping[str, Any], given: str, family: str, *whole: str) -> tuple[str, str]:
    """Given and family name; made from the first of ``whole`` that is there if the institution gives no parts."""
    first, last = text(claims, given), text(claims, family)
    if not first and not last:
        first, _, last = next(filter(None, (text(claims, name) for name in whole)), "").partition(" ")
    return first[:MAX_NAME].strip(), last[:MAX_NAME].strip()


def shared_token(claims: Mapping[str, Any], name: str) -> str:
    """``auEduPersonSharedToken``, or an empty text for what cannot be one."""
    value = claims.get(name)
    return value if isinstance(value, str) and is_key(value, MAX_SHARED_TOKEN) else ""


def is_key(value: str, longest: int) -> bool:
    """Whether an opaque key can be kept as it is; it is never mended, as a mended one could be somebody else's."""
    return 0 < len(value) <= longest and value == clean(value)


def text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return clean(value) if isinstance(value, str) else ""


def clean(value: str) -> str:
    """``value`` as every database and page can hold it: no control characters, no halves of characters."""
    kept = (
        c
        for c in unicodedata.normalize("NFC", value)
        if c.isspace() or (unicodedata.category(c) not in ("Cc", "Cs") and c not in _DIRECTION_OVERRIDES)
    )
    return " ".join("".join(kept).split())


def short(value: object) -> str:
    """``value`` for the log: ASCII, one line, and too short to hold a token."""
    if isinstance(value, (list, dict)):
        # Not spelt out: what is nested deeply enough to be read may still be too deep to be written.
        return f"a {type(value).__name__} of {len(value)}"
    said = ascii(value)
    return said if len(said) <= 80 else f"{said[:80]}…"
