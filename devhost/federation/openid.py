"""The stand-in's OpenID provider, with Authlib's server: nothing here is shared with the code that checks its tokens."""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from authlib.integrations.django_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode
from django.conf import settings
from django.core.cache import cache
from django.http import Http404, HttpResponseBadRequest, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from joserfc.jwk import KeySet

from .people import PEOPLE
from .setup import CLIENT_ID, OPENID_PATH, openid_key

# How an ID token can be spoilt, to show what the host makes of it.
SPOILT = {
    "": "a good one",
    "expired": "expired an hour ago",
    "signature": "signed with another key",
    "audience": "made for another site",
    "nonce": "made for another sign-in",
    "mail": "a mail address that nobody has verified",
}
LIFETIME = 120


@dataclass
class Person:
    """Whom a visitor chose to be.

    Attributes:
        name: of :data:`PEOPLE`.
    """

    name: str
    spoilt: str

    @property
    def subject(self):
        """Opaque, the same at every sign-in, and not what Rapid Connect's stand-in says."""
        return hashlib.sha256(f"{self.name}@{issuer()}".encode()).hexdigest()[:32]

    def claims(self):
        said = PEOPLE[self.name]
        found = {
            "sub": self.subject,
            "name": said["cn"],
            "given_name": said.get("givenname"),
            "family_name": said.get("surname"),
            "email": said["mail"],
            "email_verified": self.spoilt != "mail",
            "au_edu_person_shared_token": said["auedupersonsharedtoken"],
        }
        return {key: value for key, value in found.items() if value is not None}


class Client(ClientMixin):
    """The host, as it is registered here."""

    def __init__(self, config):
        self.config = config

    def get_client_id(self):
        return self.config["client_id"]

    def get_default_redirect_uri(self):
        return self.config["redirect_uri"]

    def get_allowed_scope(self, scope):
        return scope

    def check_redirect_uri(self, redirect_uri):
        return redirect_uri == self.config["redirect_uri"]

    def check_client_secret(self, client_secret):
        return client_secret == Path(self.config["client_secret_file"]).read_text(encoding="utf-8")

    def check_endpoint_auth_method(self, method, endpoint):
        return method == "client_secret_basic"

    def check_response_type(self, response_type):
        return response_type == "code"

    def check_grant_type(self, grant_type):
        return grant_type == "authorization_code"


@dataclass
class Code(AuthorizationCodeMixin):
    """What is kept from the browser's request until the host's."""

    code: str
    redirect_uri: str
    scope: str
    nonce: str
    code_challenge: str
    code_challenge_method: str
    person: str
    spoilt: str

    def get_redirect_uri(self):
        return self.redirect_uri

    def get_scope(self):
        return self.scope

    def get_nonce(self):
        return self.nonce

    def get_auth_time(self):
        return None

    get_acr = get_amr = get_auth_time


class Grant(AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic"]

    def save_authorization_code(self, code, request):
        data = request.payload.data
        kept = Code(
            code=code,
            redirect_uri=request.payload.redirect_uri,
            scope=request.payload.scope,
            nonce=data.get("nonce"),
            code_challenge=data.get("code_challenge"),
            code_challenge_method=data.get("code_challenge_method"),
            person=request.user.name,
            spoilt=request.user.spoilt,
        )
        cache.set(f"stand-in-code-{code}", asdict(kept), LIFETIME)

    def query_authorization_code(self, code, client):
        kept = cache.get(f"stand-in-code-{code}")
        return kept and Code(**kept)

    def delete_authorization_code(self, authorization_code):
        cache.delete(f"stand-in-code-{authorization_code.code}")

    def authenticate_user(self, authorization_code):
        return Person(authorization_code.person, authorization_code.spoilt)


class IDToken(OpenIDCode):
    def exists_nonce(self, nonce, request):
        return False

    def resolve_client_private_key(self, client):
        return openid_key()

    def get_encode_header(self, client):
        return {"alg": "RS256", "kid": openid_key().kid}

    def get_client_claims(self, client):
        return {"iss": issuer(), "aud": [client.get_client_id()]}

    def generate_user_info(self, user, scope):
        spoiling = {
            "expired": {"iat": int(time.time()) - 3900, "exp": int(time.time()) - 3600},
            "audience": {"aud": "https://another.example.org/"},
            "nonce": {"nonce": "of another sign-in"},
        }
        return {**user.claims(), **spoiling.get(user.spoilt, {})}

    def encode_id_token(self, token, request):
        made = super().encode_id_token(token, request)
        if request.user.spoilt == "signature":
            head, body, signature = made.split(".")
            return f"{head}.{body}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
        return made


class Server(AuthorizationServer):
    def __init__(self):
        super().__init__(None, None)
        self.register_grant(Grant, [CodeChallenge(required=True), IDToken(require_nonce=True)])

    def query_client(self, client_id):
        return Client(config()) if client_id == CLIENT_ID else None

    def save_token(self, token, request):
        cache.set(f"stand-in-token-{token['access_token']}", asdict(request.user), LIFETIME)


server = Server()


def config():
    """The host's own settings of this provider; 404 where the stand-in is off."""
    for one in settings.OPENID_CONNECT_PROVIDERS if getattr(settings, "DEVHOST_FEDERATION", "") else ():
        if one["client_id"] == CLIENT_ID:
            return one
    raise Http404


def issuer():
    return config()["issuer"]


@never_cache
def discovery(request):
    here = issuer()
    return JsonResponse(
        {
            "issuer": here,
            "authorization_endpoint": f"{here}/authorize",
            "token_endpoint": f"{here}/token",
            "userinfo_endpoint": f"{here}/userinfo",
            "jwks_uri": f"{here}/keys",
            "end_session_endpoint": f"{here}/end-session",
            "response_types_supported": ["code"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "code_challenge_methods_supported": ["S256"],
        }
    )


@never_cache
def keys(request):
    issuer()
    return JsonResponse(KeySet([openid_key()]).as_dict(private=False))


@never_cache
def authorize(request):
    """Without `person`, a page to choose one; with it, the way back to the host."""
    issuer()
    name, spoilt = request.GET.get("person"), request.GET.get("spoilt", "")
    chosen = Person(name, spoilt) if name in PEOPLE and spoilt in SPOILT else None
    try:
        grant = server.get_consent_grant(request, end_user=chosen)
    except OAuth2Error as error:
        return HttpResponseBadRequest(f"{error.error}: {error.description}", content_type="text/plain")
    if chosen is None and request.GET.get("person") != "nobody":
        asked = {key: value for key, value in request.GET.items() if key not in ("person", "spoilt")}
        context = {"people": PEOPLE, "spoilt": SPOILT, "asked": asked}
        return render(request, "federation/openid.html", context)
    return server.create_authorization_response(request, grant_user=chosen, grant=grant)


@csrf_exempt
@never_cache
def token(request):
    issuer()
    return server.create_token_response(request)


@never_cache
def userinfo(request):
    issuer()
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    kept = cache.get(f"stand-in-token-{given}")
    return (
        JsonResponse(Person(**kept).claims())
        if kept
        else JsonResponse({"error": "invalid_token"}, status=401)
    )


@never_cache
def end_session(request):
    """Nobody stays signed in here: only the way back, or a page that says so."""
    ours, back = config(), request.GET.get("post_logout_redirect_uri", "")
    if back and back == ours.get("signed_out_uri"):
        return HttpResponseRedirect(back)
    return render(request, "federation/signed_out.html")


urlpatterns = [
    path(f"{OPENID_PATH}/.well-known/openid-configuration", discovery),
    path(f"{OPENID_PATH}/keys", keys),
    path(f"{OPENID_PATH}/authorize", authorize),
    path(f"{OPENID_PATH}/token", token),
    path(f"{OPENID_PATH}/userinfo", userinfo),
    path(f"{OPENID_PATH}/end-session", end_session),
]
