"""The settings of a host whose federation is the stand-in."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from .assertions import ISSUER

PATH = "stand-in-federation/"


def rapid_connect_config(address, state):
    """RAPID_CONNECT_CONFIG for a host at `address`; the secret is made once and kept in the folder `state`."""
    address = address.rstrip("/")
    return {
        "secret": _secret(Path(state) / "stand-in-federation-secret"),
        "authnrequest_url": f"{address}/{PATH}",
        "iss": ISSUER,
        "aud": f"{address}/rc/",
    }


def _secret(file):
    """The text of `file`, made by whichever of the host's processes is first, and never seen half written."""
    if not file.exists():
        # A temporary file can be read by its owner only.
        with tempfile.NamedTemporaryFile("w", dir=file.parent) as new:
            new.write(secrets.token_urlsafe(48))
            new.flush()
            with contextlib.suppress(FileExistsError):
                os.link(new.name, file)
    return file.read_text()
