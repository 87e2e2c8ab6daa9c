"""Shares the CPU of one process among its associations, so that no peer slows down the others."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable

#: Seconds over which CPU time is counted. Short, since an instance of another peer waits that long at worst.
_WINDOW = 0.05
#: Below this share of one core nobody is slowed down.
_BUSY = 0.6
#: Least CPU seconds of a window that are shared out, where the rest of the machine leaves next to none.
_LEAST = 0.005
#: Most CPU seconds that an association has to pay for later, when a piece of work took longer than a window.
_LONGEST_DEBT = 0.2
#: Most windows that an association waits at once, so that nobody's time-out passes because of us.
_MOST_WINDOWS = 20


class CpuPace:
    """The CPU time of one process's associations, window by window.

    When the associations together would keep a core busy, each address gets an equal share of the CPU time that the
    process had, and each association an equal share of its address's. Who has used its share waits for the next
    window. A peer that connects again and again has one address, so it gains nothing by it.

    Args:
        clock: seconds on the wall, monotonic.
        cpu_clock: CPU seconds of the calling thread.
        queue_clock: seconds that the calling thread was ready to run while other programs had the CPU.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
        queue_clock: Callable[[], float] | None = None,
    ) -> None:
        self.clock, self.cpu_clock = clock, cpu_clock
        self.queue_clock = queue_clock or run_queue_seconds
        self._lock = threading.Lock()
        self._end = clock() + _WINDOW
        self._addresses: dict[str, dict[AssociationPace, float]] = defaultdict(dict)
        self._had = self._wanted = 0.0
        #: CPU seconds to share out in this window; None while the core is not busy.
        self._supply: float | None = None

    def charge(self, association: AssociationPace, used: float, queued: float) -> float:
        """Count CPU time, and time in the queue for it; returns the seconds that the association has to wait."""
        now = self.clock()
        with self._lock:
            self._had += used
            self._wanted += used + queued
            own = self._addresses[association.address]
            own[association] = own.get(association, 0.0) + used
            if now >= self._end:
                self._next_window(now)
                own = self._addresses[association.address]
                own.setdefault(association, 0.0)
            if self._supply is None:
                return 0.0
            share = self._supply / len(self._addresses)
            is_alone = len(self._addresses) == len(own) == 1
            if is_alone or (sum(own.values()) <= share and own[association] <= share / len(own)):
                return 0.0
            return self._end - now

    def _next_window(self, now: float) -> None:
        # A window that nobody asked about is longer than the others.
        length = _WINDOW + now - self._end
        is_busy = self._wanted > _BUSY * length
        # What was not used last time is there as well, but for what other programs took.
        free = max(length - self._wanted, 0.0)
        self._supply = max(self._had + free, _LEAST) * _WINDOW / length if is_busy else None
        former, self._addresses = self._addresses, defaultdict(dict)
        for address, own in former.items():
            # Who used more than a share goes on paying for it. Who has not been heard is forgotten.
            paid = (self._supply or length) / len(former) / len(own) * (length / _WINDOW)
            if heard := {one: min(max(used - paid, 0.0), _LONGEST_DEBT) for one, used in own.items() if used}:
                self._addresses[address] = heard
        self._had = self._wanted = 0.0
        self._end = now + _WINDOW


class AssociationPace:
    """The pace of one association; to be used on its thread only.

    Args:
        sleep: waits for that many seconds.
    """

    def __init__(self, pace: CpuPace, address: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.address = address
        self._pace = pace
        self._sleep = sleep
        self._cpu = pace.cpu_clock()
        self._queue = pace.queue_clock()
        self._looked = pace.clock()

    def keep(self) -> None:
        """Wait if this association has used more than its share of the CPU."""
        cpu, queued = self._pace.cpu_clock(), 0.0
        used, self._cpu = cpu - self._cpu, cpu
        now = self._pace.clock()
        if now - self._looked >= _WINDOW / 4:  # a system call, so not each time
            self._looked = now
            queue = self._pace.queue_clock()
            queued, self._queue = queue - self._queue, queue
        for _ in range(_MOST_WINDOWS):
            wait = self._pace.charge(self, used, queued)
            if wait <= 0:
                break
            self._sleep(wait)
            used = queued = 0.0


def run_queue_seconds() -> float:
    """Seconds that this thread was ready to run and did not; 0 where the kernel does not say (proc(5), schedstat)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        descriptor = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(descriptor, 100).split()[1]) / 1e9
        finally:
            os.close(descriptor)
    return 0.0
