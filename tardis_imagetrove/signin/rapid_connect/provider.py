"""AAF Rapid Connect as a provider: its addresses, its button, its checks."""

from __future__ import annotations

from django.core.checks import CheckMessage
from django.urls import URLPattern, path

from ..provider import Button, Provider
from . import checks, config, views


class RapidConnect(Provider):
    """The federation of ``RAPID_CONNECT_CONFIG``."""

    def __init__(self, settings: config.RapidConnectConfig) -> None:
        self.settings = settings
        self.issuer = settings.issuer
        self.federation = settings.federation

    @classmethod
    def configured(cls) -> list[RapidConnect]:
        settings = config.current()
        return [cls(settings)] if settings.enabled else []

    @classmethod
    def urls(cls) -> list[URLPattern]:
        return [
            path("rc/", views.receive_assertion, name="imagetrove_rapid_connect"),
            # As registered without the slash: a redirect would lose what was posted.
            path("rc", views.receive_assertion),
            # Where MyTARDIS's own documentation has it registered.
            path("rc/auth/jwt", views.receive_assertion),
        ]

    @classmethod
    def check(cls) -> list[CheckMessage]:
        return checks.problems()

    @property
    def button(self) -> Button | None:
        url = self.settings.login_url
        return Button("rapid-connect", self.settings.label, url) if url else None

    @property
    def missing(self) -> str:
        if self.settings.login_url:
            return ""
        return 'RAPID_CONNECT_CONFIG["authnrequest_url"] is empty: enter the address that the federation gave this service'
