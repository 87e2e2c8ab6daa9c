"""A small OpenID provider over HTTP, with joserfc, apart from the code under test; a test can spoil each of its answers."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlsplit

from joserfc import jwk, jwt

SECRET = "a client's secret: with / and +"


@functools.cache
def rsa(name):
    return jwk.RSAKey.generate_key(2048, {"kid": name})


@functools.cache
def elliptic(name):
    return jwk.ECKey.generate_key("P-256", {"kid": name})


class OpenIDProvider:
    """Signs in whoever comes, as the person of ``said``.

    Attributes:
        key: signs ID tokens.
        published: keys at ``jwks_uri``.
        said: claims of the ID token beside the protocol's own, or functions of the time; None takes one away.
        userinfo: claims of the userinfo endpoint; None for no such endpoint.
        discovery: changes to what is published; None takes a key away.
        replies: (status, body) by path, instead of the proper answer; a body may be a list of parts, with
            a pause after each.
        make: makes the ID token of claims, instead of a proper signature.
        asked: paths that were asked for, in order.
    """

    client_id = "imagetrove"

    def __init__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.reset()

    def reset(self):
        self.key = rsa("one")
        self.alg = "RS256"
        self.published = [self.key]
        self.said = {"email": "ada@example.edu", "email_verified": True, "given_name": "Ada", "family_name": "Lovelace"}  # fmt: skip
        self.userinfo = {}
        self.discovery = {}
        self.replies = {}
        self.make = self.sign
        self.asked = []
        self.auth = "client_secret_basic"
        self.codes = {}
        self.clock = time.time

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    # The browser's part

    def authorize(self, url, **changes):
        """What the provider sends a browser back with that came by ``url``."""
        parts = urlsplit(url)
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{self.issuer}/authorize"
        query = dict(parse_qsl(parts.query, strict_parsing=True))
        assert query["response_type"] == "code" and query["client_id"] == self.client_id
        assert query["code_challenge_method"] == "S256" and "openid" in query["scope"].split()
        code = secrets.token_urlsafe()
        self.codes[code] = query
        return {
            key: value
            for key, value in {"code": code, "state": query["state"], **changes}.items()
            if value is not None
        }

    # The provider's part

    def claims(self, query):
        now = int(self.clock())
        said = {
            **{
                "iss": self.issuer,
                "aud": self.client_id,
                "sub": "subject-of-ada",
                "iat": now,
                "exp": now + 300,
            },
            **{"nonce": query["nonce"], **self.said},
        }
        said = {key: value(now) if callable(value) else value for key, value in said.items()}
        return {key: value for key, value in said.items() if value is not None}

    def sign(self, claims, **header):
        kid = {"kid": self.key.kid} if self.key.kid else {}
        return jwt.encode({"alg": self.alg, **kid, **header}, claims, self.key, algorithms=[self.alg])

    def answer(self, path, headers, form):
        if path == "/.well-known/openid-configuration":
            return 200, self._metadata()
        if path == "/keys":
            return 200, {"keys": [key.as_dict(private=False, use="sig") for key in self.published]}
        if path == "/token":
            return self._token(headers, form)
        if path == "/userinfo":
            assert headers["Authorization"] == "Bearer access"
            return 200, {"sub": "subject-of-ada", **self.userinfo}
        return 404, {"error": "not_found"}

    def _metadata(self):
        said = {
            "issuer": self.issuer,
            **{f"{one}_endpoint": f"{self.issuer}/{one}" for one in ("authorization", "token", "userinfo")},
            "authorization_endpoint": f"{self.issuer}/authorize",
            "jwks_uri": f"{self.issuer}/keys",
            "token_endpoint_auth_methods_supported": [self.auth],
            **self.discovery,
        }
        if self.userinfo is None:
            del said["userinfo_endpoint"]
        return {key: value for key, value in said.items() if value is not None}

    def _token(self, headers, form):
        if self.auth == "client_secret_basic":
            given = base64.b64decode(headers.get("Authorization", "").removeprefix("Basic ")).decode()
            client = [unquote_plus(part) for part in given.split(":")]
        else:
            client = [form.get("client_id"), form.get("client_secret")]
        if client != [self.client_id, SECRET]:
            return 401, {"error": "invalid_client"}
        query = self.codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
        if (
            query is None
            or query["redirect_uri"] != form["redirect_uri"]
            or challenge.rstrip(b"=").decode() != query["code_challenge"]
        ):
            return 400, {"error": "invalid_grant"}
        return 200, {
            "access_token": "access",
            "token_type": "Bearer",
            "id_token": self.make(self.claims(query)),
        }


def _handler(provider):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = urlsplit(self.path).path
            provider.asked.append(path)
            length = int(self.headers.get("Content-Length") or 0)
            form = {key: values[0] for key, values in parse_qs(self.rfile.read(length).decode()).items()}
            status, body = provider.replies.get(path) or provider.answer(path, self.headers, form)
            parts = (
                body
                if isinstance(body, list)
                else [body if isinstance(body, bytes) else json.dumps(body).encode()]
            )
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Location", f"{provider.issuer}/elsewhere")
                self.end_headers()
                for part in parts:
                    self.wfile.write(part)
                    self.wfile.flush()
                    if len(parts) > 1:
                        time.sleep(0.05)
            except OSError:
                pass  # who asked has had enough

        do_POST = do_GET

        def date_time_string(self, timestamp=None):
            return super().date_time_string(provider.clock())

        def log_message(self, *args):
            pass

    return Handler
