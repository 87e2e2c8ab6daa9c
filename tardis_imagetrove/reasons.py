"""Reasons as data: why a series or a filter run is in its state (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from .errors import ImageTroveError

#: Reasons that one row keeps; a series with 10,000 unreadable files would otherwise carry 10,000 texts.
MOST_REASONS = 50


@dataclass(frozen=True)
class Reason:
    """One reason for a state.

    Attributes:
        code: stable and short, for filters and notices: ``no-instrument``, ``broker-unreachable``.
        text: for operators, with the value and where it came from.
        subject: what the reason is about, such as a filter or an instrument; may be empty.
    """

    code: str
    text: str
    subject: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}" if self.subject else self.text

    @classmethod
    def of(cls, error: BaseException, text: str = "", otherwise: str = "unavailable") -> Reason:
        """The reason that an exception gives.

        Args:
            text: replaces the error message.
            otherwise: the code of an exception that is not of this package.
        """
        code = error.code if isinstance(error, ImageTroveError) else otherwise
        return cls(code, text or str(error).strip())


def as_json(reasons: Iterable[Reason]) -> list[dict[str, str]]:
    """Reasons for a JSON field; text that PostgreSQL cannot store is replaced."""
    every = list(reasons)
    kept = every[:MOST_REASONS]
    if len(every) > MOST_REASONS:
        kept[-1] = Reason("more", f"and {len(every) - MOST_REASONS + 1} more")
    return [{name: _storable(text) for name, text in asdict(reason).items()} for reason in kept]


def from_json(stored: Iterable[Mapping[str, str]]) -> tuple[Reason, ...]:
    """The reasons in a JSON field."""
    return tuple(Reason(one["code"], one["text"], one.get("subject", "")) for one in stored)


def render(reasons: Iterable[Reason | Mapping[str, str]]) -> str:
    """Reasons as one line of text, for pages and the API."""
    return "; ".join(str(one) if isinstance(one, Reason) else str(Reason(**one)) for one in reasons)


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
