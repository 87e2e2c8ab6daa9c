"""Tells when something that is looked at again and again has stopped changing. Pure; time is monotonic."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass
class _Seen:
    what: Hashable
    since: float


class StabilityTracker:
    """Remembers what was seen last of each unit, and since when.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def see(self, unit: str, what: Hashable, quiet_seconds: float) -> bool:
        """Whether ``what`` has been the same for ``quiet_seconds``; the first look never is enough unless it is 0."""
        seen = self._seen.get(unit)
        if seen is None or seen.what != what:
            self._seen[unit] = seen = _Seen(what, self._clock())
        return self._clock() - seen.since >= quiet_seconds

    def forget_others(self, units: set[str]) -> None:
        """Drop what is remembered of all units but these."""
        for gone in self._seen.keys() - units:
            del self._seen[gone]
