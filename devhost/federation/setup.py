"""The settings of a host whose federation is the stand-in."""

import contextlib
import functools
import json
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from django.conf import settings

from .assertions import ISSUER

PATH = "stand-in-federation/"
OPENID_PATH = "stand-in-openid"
CLIENT_ID = "stand-in-host"
FEDERATION = "stand-in"


def rapid_connect_config(address, state):
    """RAPID_CONNECT_CONFIG for a host at `address`; the secret is made once and kept in the folder `state`."""
    address = address.rstrip("/")
    return {
        "secret": _secret(Path(state) / "stand-in-federation-secret"),
        "authnrequest_url": f"{address}/{PATH}",
        "iss": ISSUER,
        "aud": f"{address}/rc/",
        "federation": FEDERATION,
        "label": "Sign in by the stand-in's Rapid Connect",
    }


def openid_connect_provider(address, state):
    """The entry of OPENID_CONNECT_PROVIDERS for a host at `address`; secrets are made once, in the folder `state`."""
    address = address.rstrip("/")
    secret, key = Path(state) / "stand-in-openid-secret", Path(state) / "stand-in-openid-key"
    _kept(secret, lambda: secrets.token_urlsafe(48))
    _kept(key, _new_key)
    return {
        "name": "stand-in",
        "label": "Sign in by the stand-in's OpenID Connect",
        "issuer": f"{address}/{OPENID_PATH}",
        "client_id": CLIENT_ID,
        "client_secret_file": str(secret),
        "redirect_uri": f"{address}/oidc/stand-in/callback/",
        "signed_out_uri": f"{address}/",
        "federation": FEDERATION,
    }


def _new_key():
    from joserfc.jwk import RSAKey

    return json.dumps(RSAKey.generate_key(2048, {"kid": secrets.token_hex(4)}).as_dict(private=True))


def openid_key():
    """The key that signs the stand-in's ID tokens: it lies beside the client's secret."""
    (one,) = (one for one in settings.OPENID_CONNECT_PROVIDERS if one["client_id"] == CLIENT_ID)
    return _read_key(Path(one["client_secret_file"]).with_name("stand-in-openid-key"))


@functools.cache
def _read_key(file):
    from joserfc.jwk import RSAKey

    return RSAKey.import_key(json.loads(file.read_text()))


def _secret(file):
    return _kept(file, lambda: secrets.token_urlsafe(48))


def _kept(file, make: Callable[[], str]):
    """The text of `file`, made by whichever of the host's processes is first, and never seen half written."""
    if not file.exists():
        # A temporary file can be read by its owner only.
        with tempfile.NamedTemporaryFile("w", dir=file.parent) as new:
            new.write(make())
            new.flush()
            with contextlib.suppress(FileExistsError):
                os.link(new.name, file)
    return file.read_text()
