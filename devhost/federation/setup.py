"""The settings of a host whose federation is the stand-in."""

import secrets
from pathlib import Path

from .assertions import ISSUER

PATH = "stand-in-federation/"


def rapid_connect_config(address, state):
    """RAPID_CONNECT_CONFIG for a host at `address`; the secret is made once and kept in the folder `state`."""
    file = Path(state) / "stand-in-federation-secret"
    try:
        with file.open("x") as new:
            new.write(secrets.token_urlsafe(48))
        file.chmod(0o600)
    except FileExistsError:
        pass
    address = address.rstrip("/")
    return {
        "secret": file.read_text(),
        "authnrequest_url": f"{address}/{PATH}",
        "iss": ISSUER,
        "aud": f"{address}/rc/",
    }
