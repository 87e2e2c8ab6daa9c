"""The front desk: who may have an association, how many at once, and what is said about it in the log."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from ..errors import ImageTroveError, RetriableError
from .association import Denial
from .pdu import Rejection
from .records import AssociationRecord, Caller, CommitmentRequest

logger = logging.getLogger("tardis_imagetrove.scp")

#: ``admit(calling_ae, address)``: None lets the peer in, a text is the reason against it.
Admit = Callable[[str, str], str | None]
#: ``commitment(request)``: takes a storage commitment request on for good, or raises an ImageTroveError.
Commitment = Callable[[CommitmentRequest], None]

_LOCAL_LIMIT = (2, 3, 2)
_NOT_RECOGNIZED = (1, 1, 3)
_NO_REASON_FOR_NOW = (2, 2, 1)


class RateLimit:
    """Lets a few of each kind through in a while, and counts the others.

    Args:
        burst: how many of a kind pass in ``seconds``.
        kinds: how many kinds are remembered; a hostile peer may invent any number.
    """

    def __init__(self, burst: int = 5, seconds: float = 60.0, kinds: int = 1000) -> None:
        self._burst, self._seconds, self._kinds = burst, seconds, kinds
        self._seen: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def passes(self, kind: tuple[str, ...], now: float | None = None) -> tuple[bool, int]:
        """Whether another of this kind passes, and how many were held back before it in the last while."""
        now = time.monotonic() if now is None else now
        with self._lock:
            since, count = self._seen.pop(kind, (now, 0))
            held = 0
            if now - since >= self._seconds:
                held = max(0, count - self._burst)
                since, count = now, 0
            self._seen[kind] = (since, count + 1)
            while len(self._seen) > self._kinds:
                self._seen.popitem(last=False)
        return count < self._burst, held


class Desk:
    """Counts who is inside, over all workers, and asks the caller's ``admit``.

    Args:
        max_associations: how many may be inside at once.
        max_waiting: how many connections may be open without an association yet. Beyond that the one
            that has been silent longest is cut: an honest peer says who it is within milliseconds.
    """

    def __init__(
        self, max_associations: int, max_waiting: int, admit: Admit | None, commitment: Commitment | None
    ) -> None:
        self._max_associations = max_associations
        self._max_waiting = max_waiting
        self._admit = admit
        self._commitment = commitment
        self._lock = threading.Lock()
        self._waiting: OrderedDict[int, None] = OrderedDict()
        self._inside: set[int] = set()
        self._lines = RateLimit()

    @property
    def open_associations(self) -> int:
        """How many are inside now."""
        return len(self._inside)

    def arrived(self, number: int) -> int | None:
        """A connection was accepted; the answer is the number of one to cut for it, if any."""
        with self._lock:
            self._waiting[number] = None
            if len(self._waiting) <= self._max_waiting:
                return None
            return self._waiting.popitem(last=False)[0]

    def enter(self, number: int, caller: Caller) -> Denial | None:
        """Whether a caller may come in; it counts as inside from then on until :meth:`gone`."""
        with self._lock:
            self._waiting.pop(number, None)
            if len(self._inside) >= self._max_associations:
                words = f"{self._max_associations} associations are open already"
                return Denial("local-limit", Rejection(*_LOCAL_LIMIT, words))
            self._inside.add(number)
        denial = self._ask(caller)
        if denial is not None:
            self.gone(number)
        return denial

    def _ask(self, caller: Caller) -> Denial | None:
        if self._admit is None:
            return None
        try:
            reason = self._admit(caller.calling_ae, caller.address)
        except RetriableError as error:
            return Denial("admit-failed", Rejection(*_NO_REASON_FOR_NOW, f"cannot be admitted now: {error}"))
        except Exception as error:  # whatever the caller's code stumbles over must not let anybody in
            logger.exception("cannot tell whether %s at %s may store", caller.calling_ae, caller.address)
            return Denial("admit-failed", Rejection(*_NO_REASON_FOR_NOW, f"cannot be admitted now: {error}"))
        return None if reason is None else Denial("not-admitted", Rejection(*_NOT_RECOGNIZED, reason))

    def gone(self, number: int) -> None:
        """A connection has ended, or its worker has."""
        with self._lock:
            self._waiting.pop(number, None)
            self._inside.discard(number)

    def closed(self, number: int, record: AssociationRecord) -> None:
        """Log what became of a connection, and free its place."""
        self.gone(number)
        if record.established:
            logger.info("%s", record.line(), extra={"association": record})
        elif record.rejected == "silent":  # somebody only looked whether the port is open
            logger.debug("%s", record.line(), extra={"association": record})
        else:
            self._limited((record.peer.rpartition(":")[0], record.rejected), record.line(), record)

    def refused(self, caller: Caller, key: str, words: str) -> None:
        """Log an operation that was refused."""
        self._limited(
            (caller.address, caller.calling_ae, key),
            f"refused ({key}) for {caller.calling_ae!r} at {caller.address}: {words}",
        )

    def _limited(self, kind: tuple[str, ...], line: str, record: AssociationRecord | None = None) -> None:
        passes, held = self._lines.passes(kind)
        if passes:
            more = f" ({held} alike were not logged)" if held else ""
            logger.warning("%s%s", line, more, extra={"association": record} if record else None)

    def commit(self, request: CommitmentRequest) -> None:
        """Hand a storage commitment request on.

        Raises:
            ImageTroveError: it was not taken on.
        """
        if self._commitment is None:
            raise RetriableError("storage commitment is not served")
        try:
            self._commitment(request)
        except ImageTroveError:
            raise
        except Exception as error:
            logger.exception("cannot take on storage commitment %s", request.transaction_uid)
            raise RetriableError(repr(error)) from error
