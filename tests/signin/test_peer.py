"""Sign-ins through somebody else's OpenID provider (npm's oidc-provider), in a process of its own."""

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests
from django.contrib.auth import get_user_model
from django.test import Client

from tardis_imagetrove.signin.checks import check_providers
from tardis_imagetrove.signin.openid import metadata

from ..browser import Browser
from ..site import free_port
from .conftest import code_of, user_of
from .openid_provider import SECRET, elliptic, rsa

FOLDER = Path(__file__).parent / "peer"
CALLBACK = "https://testserver/oidc/peer/callback/"

pytestmark = pytest.mark.peer
User = get_user_model()

DIRECT = requests.Session()
DIRECT.trust_env = False  # no proxy


@contextmanager
def running(settings, redirect_uri, algorithm):
    """The provider's process, and the settings for it."""
    if not shutil.which("node") or not (FOLDER / "node_modules").exists():
        pytest.skip("oidc-provider is not installed: npm ci --prefix tests/signin/peer")
    port = free_port()
    keys = [key.as_dict(private=True, use="sig") for key in (rsa("one"), elliptic("e"))]
    process = subprocess.Popen(
        ["node", str(FOLDER / "provider.js"), str(port), redirect_uri, algorithm],
        env={**os.environ, "PEER_KEYS": json.dumps(keys)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout.readline() == "listening\n"
        metadata.forget()
        entry = {
            "name": "peer",
            "issuer": f"http://127.0.0.1:{port}",
            "client_id": "imagetrove",
            "client_secret": SECRET,
            "redirect_uri": redirect_uri,
            "signed_out_uri": urljoin(redirect_uri, "/"),
        }
        settings.RAPID_CONNECT_ENABLED = False
        settings.OPENID_CONNECT_PROVIDERS = [entry]
        settings.LANGUAGE_CODE = "en"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(params=["RS256", "ES256"])
def peer(request, settings, db):
    with running(settings, CALLBACK, request.param):
        settings.ALLOWED_HOSTS = ["testserver"]
        yield settings


def come_back(leave):
    """Where the provider sends a browser back to that came by the address ``leave``."""
    with requests.Session() as browser:
        browser.trust_env = False  # no proxy
        until = time.monotonic() + 30
        while not leave.startswith(CALLBACK):
            assert time.monotonic() < until
            answer = browser.get(leave, allow_redirects=False, timeout=10)
            assert answer.status_code in (302, 303), answer.text
            leave = urljoin(leave, answer.headers["Location"])
    return leave


def test_whole_sign_ins(peer, client):
    assert not check_providers(None)
    back = come_back(client.get("/oidc/peer/", secure=True)["Location"])
    assert client.get(back, secure=True)["Location"] == "/"
    user = User.objects.get(pk=user_of(client))
    # Its ID tokens hold the sub alone: the rest is of the userinfo endpoint.
    assert (user.email, user.first_name, user.last_name) == ("ada@example.edu", "Ada", "Lovelace")

    other = Client()
    leave = other.get("/oidc/peer/", secure=True)["Location"]
    back = come_back(leave)
    assert code_of(Client().get(back, secure=True)) == "OIDC-STATE"
    other.get(back, secure=True)
    assert user_of(other) == user.pk

    # The same code once more, which the provider refuses.
    third = Client()
    code = third.get("/oidc/peer/", secure=True)["Location"]
    state = dict(part.split("=") for part in code.partition("?")[2].split("&"))["state"]
    used = dict(part.split("=") for part in back.partition("?")[2].split("&"))
    used["state"] = state
    used["iss"] = peer.OPENID_CONNECT_PROVIDERS[0]["issuer"]
    assert code_of(third.get("/oidc/peer/callback/", used, secure=True)) == "OIDC-CODE"

    leads_to = client.post("/logout/", secure=True)["Location"]
    page = DIRECT.get(leads_to, timeout=10)
    assert page.status_code == 200 and "/session/end/confirm" in page.text
    assert not user_of(client)


def test_refusals(peer, client):
    entry = peer.OPENID_CONNECT_PROVIDERS[0]
    peer.OPENID_CONNECT_PROVIDERS = [{**entry, "client_secret": "another"}]
    back = come_back(client.get("/oidc/peer/", secure=True)["Location"])
    assert code_of(client.get(back, secure=True)) == "OIDC-CLIENT"
    peer.OPENID_CONNECT_PROVIDERS = [{**entry, "redirect_uri": "https://testserver/oidc/other/callback/"}]
    leave = client.get("/oidc/peer/", secure=True)["Location"]
    assert DIRECT.get(leave, timeout=10).status_code == 400


@pytest.mark.django_db(transaction=True)
def test_a_person_with_a_browser(settings, live_server, tmp_path):
    here = live_server.url.replace("localhost", "127.0.0.1")
    browser = Browser(tmp_path / "browser", "--disable-gpu")
    try:
        with running(settings, f"{here}/oidc/peer/callback/", "RS256"):
            browser.go(f"{here}/login/")
            browser.run("document.querySelector('[data-provider=peer]').click()")
            browser.wait("location.pathname == '/' && document.readyState == 'complete'")
            user = User.objects.get(email="ada@example.edu")
            # Who is signed in is sent on from the sign-in page.
            assert browser.run("fetch('/login/').then(answer => new URL(answer.url).pathname)") == "/"
            assert user.last_login
            browser.run("window.before = true; location.href = '/logout/'")
            browser.wait("location.pathname == '/session/end'")
            browser.wait("document.readyState == 'complete'")
            browser.run("document.querySelector('button[value=yes]').click()")
            browser.wait(f"location.href == '{here}/' && document.readyState == 'complete'")
            browser.go(f"{here}/login/")
            assert browser.run("document.querySelectorAll('#login-form').length") == 1
    finally:
        browser.close()
