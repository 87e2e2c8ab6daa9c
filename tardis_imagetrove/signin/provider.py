"""What a way of signing in has to offer; a further protocol is one subclass, listed in :mod:`.providers`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from django.core.checks import CheckMessage
from django.http import HttpRequest
from django.urls import URLPattern


@dataclass(frozen=True)
class Button:
    """On the sign-in page.

    Attributes:
        key: names the provider in the page, for scripts and tests.
        url: where the button leads.
    """

    key: str
    label: str
    url: str


class Provider(ABC):
    """One federation or institution that vouches for people, as this site's settings have it.

    Attributes:
        issuer: as it calls itself in what it signs; with a person's subject the key of an account.
        federation: providers that name the same federation give a person the same shared token, and one can
            link an account that another one made; empty links nothing.
    """

    issuer: str
    federation: str

    @classmethod
    @abstractmethod
    def configured(cls) -> Sequence[Provider]:
        """Those of this protocol that are switched on."""

    @classmethod
    @abstractmethod
    def urls(cls) -> list[URLPattern]:
        """Addresses of the protocol, below the root of the site."""

    @classmethod
    @abstractmethod
    def check(cls) -> list[CheckMessage]:
        """What keeps people from signing in; nothing where the protocol is switched off."""

    @classmethod
    def examine(cls) -> list[CheckMessage]:
        """What only asking the providers tells; not at each start of a process."""
        return []

    @classmethod
    def sign_out_address(cls, request: HttpRequest) -> str:
        """Where to go after signing out here, for who came by this protocol; empty for everybody else."""
        return ""

    @property
    @abstractmethod
    def button(self) -> Button | None:
        """None where nobody can be sent to the provider yet."""

    @property
    def missing(self) -> str:
        """What an administrator has to mend before there is a button; empty if there is one."""
        return ""
