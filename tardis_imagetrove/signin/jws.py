"""Reads a JSON web signature (RFC 7515, compact): its algorithm is one of ours, its signature holds, its claims are JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any

import jwt

from ..errors import PermanentError
from .claims import short

MAX_CHARACTERS = 16 * 1024
"""Of a token. Those of federations have one to two thousand."""

# RFC 7515, sections 2 and 7.1: no padding, no white space. The library skips whatever is not of the alphabet.
_COMPACT = re.compile(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")


class JwsError(PermanentError):
    """A token that is not accepted."""


class TooLarge(JwsError):
    pass


class Malformed(JwsError):
    pass


class WrongAlgorithm(JwsError):
    pass


class WrongSignature(JwsError):
    pass


class UnusableKey(JwsError):
    """The key on our side."""


def read(token: str, algorithms: Collection[str], key: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The claims of a token whose signature holds.

    Args:
        algorithms: those that are accepted; the header alone never decides.
        key: gives the key for a header whose algorithm is one of these.

    Raises:
        JwsError: the subclass says what is wrong.
    """
    if len(token) > MAX_CHARACTERS:
        raise TooLarge(f"{len(token)} characters")
    if not _COMPACT.fullmatch(token):
        raise Malformed("not three parts in base64url")
    try:
        header = jwt.get_unverified_header(token)
    # Old versions of the library let through what its JSON and base64 readers raise.
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise Malformed(f"not a JSON web signature ({type(error).__name__})") from None
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise WrongAlgorithm(f"alg is {short(algorithm)}, not {' or '.join(map(repr, algorithms))}")
    # RFC 7515 4.1.11: what is critical must be understood, and we understand none. RFC 7797: b64 must be
    # critical, and versions of the library differ over one that is not.
    for name in ("crit", "b64"):
        if name in header:
            raise Malformed(f"{name} asks for {short(header[name])}")
    secret = key(header)
    try:
        payload = jwt.PyJWS().decode(token, secret, algorithms=[algorithm])
    except jwt.InvalidSignatureError:
        raise WrongSignature("signed with another key") from None
    except jwt.InvalidKeyError as error:
        raise UnusableKey(str(error)) from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise Malformed(f"not a JSON web signature ({type(error).__name__})") from None
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"its payload is not JSON ({type(error).__name__})") from None
    if not isinstance(claims, dict):
        raise Malformed("its payload is not a JSON object")
    return claims
