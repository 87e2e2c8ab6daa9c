"""What stands in place of UIDs, patients and dates: computed from a secret, so that nothing need be remembered.

Whoever has the secret gets the same substitute for the same original: late slices, other series of
a study, another worker and a restart agree without a table of what was given to whom. Without it a
substitute cannot be traced back, nor can a guess be tried.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import uuid
from datetime import timedelta

DAYS = 3650
"""Dates are moved into the past by one day at least and this many at most."""


def new_secret() -> str:
    """A new secret: 256 random bits, in hexadecimal."""
    return secrets.token_hex(32)


class Pseudonyms:
    """Substitutes of one project: the same secret gives the same ones.

    Args:
        secret: of :func:`new_secret`.
    """

    def __init__(self, secret: str) -> None:
        self._secret = bytes.fromhex(secret)

    def _bytes(self, purpose: str, text: str) -> bytes:
        return hmac.new(self._secret, f"{purpose}\0{text}".encode(), hashlib.sha256).digest()

    def uid(self, uid: str) -> str:
        """A UID in place of another: of the root 2.25, which needs no registration (PS3.5 B.2)."""
        # Marked as a UUID made from a name (RFC 9562), since that is what it is.
        return f"2.25.{uuid.UUID(bytes=self._bytes('uid', uid.strip())[:16], version=5).int}"

    def patient(self, patient_id: str) -> str:
        """What stands for a patient, as ID and as name: P and 16 letters and digits."""
        return "P" + base64.b32encode(self._bytes("patient", patient_id.strip())[:10]).decode()

    def moved(self, patient_id: str) -> timedelta:
        """By how much a patient's dates and times are moved; below zero, to the microsecond of none."""
        digest = self._bytes("dates", patient_id.strip())
        days = 1 + int.from_bytes(digest[:8], "big") % DAYS
        return -timedelta(days=days, seconds=int.from_bytes(digest[8:16], "big") % 86400)

    def digest(self, value: object) -> str:
        """A digest by which equal values are recognised and nothing else: 64 hexadecimal digits."""
        return self._bytes("digest", json.dumps(value, ensure_ascii=True)).hex()
