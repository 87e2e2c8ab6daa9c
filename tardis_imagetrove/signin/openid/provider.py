"""OpenID Connect as a protocol: any number of providers, each with its button."""

from __future__ import annotations

from django.core.checks import CheckMessage
from django.http import HttpRequest
from django.urls import NoReverseMatch, URLPattern, path, reverse

from ..provider import Button, Provider
from . import checks, config, views


class OpenID(Provider):
    """One provider of ``OPENID_CONNECT_PROVIDERS``."""

    def __init__(self, settings: config.OpenIDConfig) -> None:
        self.settings = settings
        self.issuer = settings.issuer
        self.federation = settings.federation

    @classmethod
    def configured(cls) -> list[OpenID]:
        return [cls(settings) for settings in config.current()]

    @classmethod
    def urls(cls) -> list[URLPattern]:
        return [
            path("oidc/<slug:name>/", views.begin, name="imagetrove_openid"),
            path("oidc/<slug:name>/callback/", views.come_back, name="imagetrove_openid_callback"),
        ]

    @classmethod
    def check(cls) -> list[CheckMessage]:
        return checks.problems()

    @classmethod
    def examine(cls) -> list[CheckMessage]:
        return checks.examine()

    @classmethod
    def sign_out_address(cls, request: HttpRequest) -> str:
        return views.sign_out_address(request)

    @property
    def button(self) -> Button | None:
        if self.settings.problems:
            return None
        try:
            address = reverse("imagetrove_openid", args=[self.settings.name])
        except NoReverseMatch:
            # The root of the site is not ours: a check says so.
            return None
        return Button(self.settings.name, self.settings.label, address)

    @property
    def missing(self) -> str:
        return ". ".join(self.settings.problems)
