"""Admission of associations: who may have one, how many at once, and what the log says about them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from ..errors import ImageTroveError, RetriableError
from .association import AssociationRejected
from .records import AssociationRecord, Caller, CommitmentRequest

logger = logging.getLogger("tardis_imagetrove.scp")

#: ``admit(calling_ae, address)``: None admits the peer, a text is the reason against it.
Admit = Callable[[str, str], str | None]
#: ``commitment(request)``: accepts a storage commitment request for good, or raises an ImageTroveError.
Commitment = Callable[[CommitmentRequest], None]

_LOCAL_LIMIT = (2, 3, 2)
_NOT_RECOGNIZED = (1, 1, 3)
_NO_REASON_FOR_NOW = (2, 2, 1)


class RateLimit:
    """Lets a few events of each kind pass in a period, and counts the others.

    Args:
        burst: events of one kind that pass in ``seconds``.
        kinds: kinds that are remembered; a hostile peer can invent any number.
    """

    def __init__(self, burst: int = 5, seconds: float = 60.0, kinds: int = 1000) -> None:
        self._burst, self._seconds, self._kinds = burst, seconds, kinds
        self._seen: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def passes(self, kind: tuple[str, ...], now: float | None = None) -> tuple[bool, int]:
        """Whether an event of this kind passes, and how many were suppressed in the period before."""
        now = time.monotonic() if now is None else now
        with self._lock:
            since, count = self._seen.pop(kind, (now, 0))
            suppressed = 0
            if now - since >= self._seconds:
                suppressed = max(0, count - self._burst)
                since, count = now, 0
            self._seen[kind] = (since, count + 1)
            while len(self._seen) > self._kinds:
                self._seen.popitem(last=False)
        return count < self._burst, suppressed


class AssociationGate:
    """Counts the associations of all workers, and asks the caller's ``admit``.

    Args:
        max_associations: open at once.
        max_per_address: open at once from one address.
        max_waiting: connections without an association at once. Of more, one is closed: of the address that
            has most of them the one that has waited longest. An honest peer sends its request within milliseconds.
    """

    def __init__(
        self,
        max_associations: int,
        max_per_address: int,
        max_waiting: int,
        admit: Admit | None,
        commitment: Commitment | None,
    ) -> None:
        self._max_associations = max_associations
        self._max_per_address = max_per_address
        self._max_waiting = max_waiting
        self._admit = admit
        self._commitment = commitment
        self._lock = threading.Lock()
        self._waiting: dict[int, str] = {}  # addresses by number of connection, in order of arrival
        self._inside: dict[int, str] = {}
        self._log_limit = RateLimit()

    @property
    def open_associations(self) -> int:
        """Associations that are open now."""
        return len(self._inside)

    def connected(self, number: int, address: str) -> int | None:
        """Count a new connection; returns the number of a connection to close for it, if any."""
        with self._lock:
            self._waiting[number] = address
            if len(self._waiting) <= self._max_waiting:
                return None
            (most, _count), *_ = Counter(self._waiting.values()).most_common(1)
            oldest = next(one for one, its in self._waiting.items() if its == most)
            del self._waiting[oldest]
            return oldest

    def enter(self, number: int, caller: Caller) -> AssociationRejected | None:
        """Admit a caller, which then counts until :meth:`released`; or return the reason against it."""
        with self._lock:
            self._waiting.pop(number, None)
            if len(self._inside) >= self._max_associations:
                text = f"{self._max_associations} associations are open already"
                return AssociationRejected("local-limit", *_LOCAL_LIMIT, text)
            if sum(one == caller.address for one in self._inside.values()) >= self._max_per_address:
                text = f"{self._max_per_address} associations from {caller.address} are open already"
                return AssociationRejected("address-limit", *_LOCAL_LIMIT, text)
            self._inside[number] = caller.address
        rejected = self._ask(caller)
        if rejected is not None:
            self.released(number)
        return rejected

    def _ask(self, caller: Caller) -> AssociationRejected | None:
        if self._admit is None:
            return None
        try:
            reason = self._admit(caller.calling_ae, caller.address)
        except Exception as error:  # no failure of the caller's code may admit anybody
            if not isinstance(error, RetriableError):
                logger.exception("cannot check whether %s at %s may store", caller.calling_ae, caller.address)
            return AssociationRejected(
                "admit-failed", *_NO_REASON_FOR_NOW, f"cannot be admitted now: {error}"
            )
        return None if reason is None else AssociationRejected("not-admitted", *_NOT_RECOGNIZED, reason)

    def released(self, number: int) -> None:
        """Free the place of a connection that has ended, or whose worker has."""
        with self._lock:
            self._waiting.pop(number, None)
            self._inside.pop(number, None)

    def closed(self, number: int, record: AssociationRecord) -> None:
        """Log how a connection ended, and free its place."""
        self.released(number)
        if record.established:
            logger.info("%s", record.line(), extra={"association": record})
        elif record.rejected == "silent":  # a port check, as load balancers and monitors make
            logger.debug("%s", record.line(), extra={"association": record})
        else:
            self._warn((record.peer.rpartition(":")[0], record.rejected), record.line(), record)

    def operation_failed(self, caller: Caller, key: str, text: str) -> None:
        """Log an operation that failed."""
        self._warn(
            (caller.address, caller.calling_ae, key),
            f"refused ({key}) for {caller.calling_ae!r} at {caller.address}: {text}",
        )

    def _warn(self, kind: tuple[str, ...], line: str, record: AssociationRecord | None = None) -> None:
        passes, suppressed = self._log_limit.passes(kind)
        if passes:
            more = f" ({suppressed} similar lines suppressed)" if suppressed else ""
            logger.warning("%s%s", line, more, extra={"association": record} if record else None)

    def commit(self, request: CommitmentRequest) -> None:
        """Pass a storage commitment request on.

        Raises:
            ImageTroveError: the request is not accepted.
        """
        if self._commitment is None:
            raise RetriableError("storage commitment is not served")
        try:
            self._commitment(request)
        except ImageTroveError:
            raise
        except Exception as error:
            logger.exception("cannot accept storage commitment request %s", request.transaction_uid)
            raise RetriableError(repr(error)) from error
