"""UIDs as DICOM has them (PS3.5 section 9.1), and UIDs for what has none."""

from __future__ import annotations

import hashlib
import re
import uuid

#: Tolerant of leading zeros, which instruments do send.
UID_PATTERN = re.compile(r"[0-9]+(?:\.[0-9]+)*\Z")

_NAMESPACE = uuid.UUID("6f0a4f57-6f0e-5b70-9a3c-4d1c2f6f2a11")


def is_uid(text: str) -> bool:
    """Whether ``text`` may be a UID: at most 64 digits and dots."""
    return len(text) <= 64 and UID_PATTERN.match(text) is not None


def derived_uid(*names: str) -> str:
    """A UID made from names: the same names always give the same one (PS3.5 section B.2, UUID version 5)."""
    content = chr(0).join(names).encode("utf-8", "surrogateescape")
    return f"2.25.{uuid.UUID(bytes=hashlib.sha1(_NAMESPACE.bytes + content).digest()[:16], version=5).int}"  # noqa: S324
