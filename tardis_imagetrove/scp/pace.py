"""Shares the CPU of one process among its associations, so that no peer slows down the others."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

#: Seconds over which CPU time is counted. Short, since an instance of another peer waits that long at worst.
_WINDOW = 0.05
#: Below this share of one core nobody is slowed down.
_BUSY = 0.6


class CpuPace:
    """The CPU time of one process's associations, window by window.

    When the associations together keep a core busy, each address gets an equal share of it, and each association an
    equal share of its address's. An association that has used its share waits for the next window.

    Args:
        clock: seconds on the wall, monotonic.
        cpu_clock: CPU seconds of the calling thread.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._clock, self.cpu_clock = clock, cpu_clock
        self._lock = threading.Lock()
        self._end = clock() + _WINDOW
        self._used: dict[AssociationPace, float] = {}
        self._active: Counter[str] = Counter()  # associations by address, of this window and the one before
        self._former: dict[AssociationPace, float] = {}
        self._is_busy = False

    def charge(self, association: AssociationPace, seconds: float) -> float:
        """Count CPU time; returns the seconds that the association has to wait."""
        now = self._clock()
        with self._lock:
            if now >= self._end:
                # A window that nobody asked about is longer than the others.
                length = _WINDOW + now - self._end
                self._is_busy = sum(self._used.values()) > _BUSY * length
                self._former, self._used = self._used, {}
                self._active = Counter(one.address for one in self._former)
                self._end = now + _WINDOW
            if association not in self._used:
                self._used[association] = 0.0
                if association not in self._former:
                    self._active[association.address] += 1
            self._used[association] += seconds
            if not self._is_busy:
                return 0.0
            share = _WINDOW / len(self._active) / self._active[association.address]
            return self._end - now if self._used[association] > share and len(self._used) > 1 else 0.0


class AssociationPace:
    """The pace of one association; to be used on its thread only.

    Args:
        sleep: waits for that many seconds.
    """

    def __init__(self, pace: CpuPace, address: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.address = address
        self._pace = pace
        self._sleep = sleep
        self._last = pace.cpu_clock()

    def keep(self) -> None:
        """Wait if this association has used more than its share of the CPU."""
        now = self._pace.cpu_clock()
        seconds, self._last = now - self._last, now
        wait = self._pace.charge(self, seconds)
        if wait > 0:
            self._sleep(wait)
