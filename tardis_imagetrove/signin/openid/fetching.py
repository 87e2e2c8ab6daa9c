"""Asks a provider by HTTP, within bounds: seconds, bytes, no redirects, JSON only."""

from __future__ import annotations

import json
import time
from typing import Any

import requests

from ...errors import PermanentError

TIMEOUT = 5.0
"""Seconds for the connection, and for each wait between bytes."""

DEADLINE = 10.0
"""Seconds for a whole answer."""

MAX_BYTES = 256 * 1024
"""Of an answer. Those of large providers have some ten thousand."""


class Unreachable(PermanentError):
    """The provider does not answer, or not in time."""


class Unusable(PermanentError):
    """The provider's answer is not what the protocol asks for."""


class Answer:
    """What a provider answered.

    Attributes:
        status: of HTTP, below 500.
        content: of the JSON object.
        date: the provider's clock, as the header ``Date`` has it; may be empty.
    """

    def __init__(self, status: int, content: dict[str, Any], date: str) -> None:
        self.status = status
        self.content = content
        self.date = date


def fetch(url: str, method: str = "GET", **request: Any) -> Answer:
    """Ask ``url``.

    Args:
        request: as :func:`requests.request` takes it: data, headers, auth.

    Raises:
        Unreachable, Unusable: the text names the address and what is wrong.
    """
    until = time.monotonic() + DEADLINE
    # Answers are small. Without compression, what is counted is what was sent.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", **request.pop("headers", {})}
    try:
        with requests.Session() as session:
            # Plain HTTP is for a provider on this machine, which no proxy leads to.
            session.trust_env = url.startswith("https://")
            with session.request(
                method,
                url,
                headers=headers,
                timeout=TIMEOUT,
                stream=True,
                allow_redirects=False,
                **request,
            ) as response:
                content = _read(response, url, until)
    except requests.RequestException as error:
        raise Unreachable(f"{url} does not answer ({type(error).__name__})") from error
    # What urllib3 and the standard library let through, of addresses and headers that are none.
    except (OSError, ValueError) as error:
        raise Unreachable(f"{url} is unreachable ({type(error).__name__})") from error
    if response.status_code >= 500:
        raise Unreachable(f"{url} answers {response.status_code}")
    if 300 <= response.status_code < 400:
        raise Unusable(f"{url} leads elsewhere ({response.status_code})")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise Unusable(f"{url} answers {response.status_code} without JSON") from None
    if not isinstance(found, dict):
        raise Unusable(f"{url} returns JSON that is not an object")
    return Answer(response.status_code, found, response.headers.get("Date", ""))


def _read(response: requests.Response, url: str, until: float) -> bytes:
    content = bytearray()
    # One at a time: a larger read would wait until it is full, however slowly the bytes come.
    for part in response.iter_content(1):
        content += part
        if len(content) > MAX_BYTES:
            raise Unusable(f"{url} answers with more than {MAX_BYTES} bytes")
        if time.monotonic() > until:
            raise Unreachable(f"{url} does not answer within {DEADLINE:.0f} s")
    return bytes(content)
