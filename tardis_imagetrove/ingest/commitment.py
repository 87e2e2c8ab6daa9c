"""Storage commitment (PS3.4 annex J): what may be confirmed to a peer, and telling it until it has heard."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from django.db import DatabaseError, connections

from ..errors import RetriableError
from ..models import Instance
from ..mytardis import mytardis
from ..scp import CommitmentReference, CommitmentRequest, SenderList
from ..scp.commitment import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_OBJECT_INSTANCE,
    PROCESSING_FAILURE,
    CommitmentReport,
    FailedReference,
    ReportNotDelivered,
    ReportTarget,
)
from ..scp.pending import PendingCommitments
from ..spool import Spool, SpoolError, item_uid

log = logging.getLogger(__name__)

#: Seconds after which a report that its peer does not take is given up: a long weekend and more.
GIVE_UP_SECONDS = 7 * 86400.0
#: Longest wait between two looks at whether instances have been archived, in seconds.
_LOOK_SECONDS_MAX = 30.0
#: Peers that are told at once; one that hangs has one of these for as long as its time-outs.
_PEERS_AT_ONCE = 8
_BATCH = 500


@dataclass(frozen=True)
class Outcome:
    """How a request's references stand; ``waiting`` are received, and not safely archived yet."""

    committed: tuple[CommitmentReference, ...]
    failed: tuple[FailedReference, ...]
    waiting: tuple[CommitmentReference, ...]


def outcome_of(references: Iterable[CommitmentReference], spool: Spool) -> Outcome:
    """What the ledger says of instances.

    Committed is what stands in the ledger with the SOP class asked for, and whose archive is verified
    and there in its storage box. What the spool holds waits, also where an older copy is archived.
    Of a series that is archived de-identified it is the original that counts: a sender that is told
    "committed" may delete its own.

    Raises:
        DatabaseError, SpoolError: it cannot be told now.
    """
    references = tuple(references)
    # The spool first: what has gone from it by now is in the ledger already.
    spooled = {item_uid(file) for uid in spool.series_uids() for file in spool.files(uid)}
    ledger = _ledger({one.sop_instance for one in references})
    kept: dict[int, bool] = {}
    committed, failed, waiting = [], [], []
    for one in references:
        entries = ledger.get(one.sop_instance, [])
        if one.sop_instance in spooled:
            waiting.append(one)
        elif not entries:
            failed.append(FailedReference(one, NO_SUCH_OBJECT_INSTANCE))
        elif not (datafiles := [pk for sop_class, pk in entries if sop_class == one.sop_class]):
            failed.append(FailedReference(one, CLASS_INSTANCE_CONFLICT))
        elif all(datafile is None for datafile in datafiles):
            failed.append(FailedReference(one, NO_SUCH_OBJECT_INSTANCE))
        elif any(_is_kept(datafile, kept) for datafile in datafiles if datafile is not None):
            committed.append(one)
        else:
            waiting.append(one)
    return Outcome(tuple(committed), tuple(failed), tuple(waiting))


def _ledger(uids: set[str]) -> dict[str, list[tuple[str, int | None]]]:
    """SOP classes of instances, and the DataFiles that hold them as received (None: not kept), by SOPInstanceUID."""
    found: dict[str, list[tuple[str, int | None]]] = {}
    ordered = sorted(uids)
    for start in range(0, len(ordered), _BATCH):
        rows = Instance.objects.filter(sop_instance_uid__in=ordered[start : start + _BATCH]).order_by()
        for uid, sop_class, profile, archived, original in rows.values_list(
            "sop_instance_uid",
            "sop_class_uid",
            "archive__profile",
            "archive__datafile_id",
            "archive__original__datafile_id",
        ):
            found.setdefault(uid, []).append((sop_class, original if profile else archived))
    return found


def _is_kept(datafile_id: int, known: dict[int, bool]) -> bool:
    if datafile_id not in known:
        try:
            known[datafile_id] = mytardis().is_kept(datafile_id)
        except RetriableError as error:
            log.warning("storage commitment: %s", error)
            known[datafile_id] = False
    return known[datafile_id]


@dataclass(frozen=True)
class CommitmentTiming:
    """Seconds: how long instances may take to be archived, and between attempts to tell a peer."""

    wait: float
    retry: float
    retry_max: float
    give_up: float = GIVE_UP_SECONDS


@dataclass
class _Seen:
    """What this process knows of a request; times are of the monotonic clock."""

    token: int
    first: float
    due: float
    looks: int = 0
    attempts: int = 0
    peer: tuple[str, str] | None = None
    busy: bool = False


class CommitmentReporter:
    """Works off the requests that were taken on.

    All that must not be lost is in the spool; a restart begins the waiting times anew.

    Args:
        deliver: sends a report, and returns when the peer has confirmed it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        spool: Spool,
        senders: SenderList,
        timing: CommitmentTiming,
        deliver: Callable[[CommitmentReport, ReportTarget], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool, self._senders, self._timing = spool, senders, timing
        self._pending = PendingCommitments(spool)
        self._deliver = deliver
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._peers: set[tuple[str, str]] = set()
        self._threads: set[threading.Thread] = set()
        self.outcomes: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """How many requests are not reported yet."""
        return len(self._seen)

    def run(self, stop: threading.Event, tick_seconds: float = 1.0) -> None:
        """Work until ``stop`` is set; no trouble ends it. Reports on their way have a moment to arrive."""
        trouble = ""
        while not stop.wait(tick_seconds):
            try:
                self.tick()
                trouble = ""
            except SpoolError as error:
                if str(error) != trouble:
                    trouble = str(error)
                    log.warning("storage commitment: %s; going on as soon as it can", trouble)
            except Exception:
                log.exception("storage commitment: unexpected; going on")
        self.join(5)

    def join(self, seconds: float) -> None:
        """Wait for what is being reported now."""
        until = time.monotonic() + seconds
        for thread in list(self._threads):
            thread.join(max(0.0, until - time.monotonic()))

    def tick(self) -> None:
        """Begin whatever is due, each on a thread of its own."""
        waiting = self._pending.waiting()
        now = self._clock()
        with self._lock:
            for gone in self._seen.keys() - waiting.keys():
                del self._seen[gone]
            for name, token in waiting.items():
                seen = self._seen.get(name)
                if seen is None or seen.token != token:  # asked again, it is told at once
                    self._seen[name] = seen = _Seen(token, now, now)
                if seen.busy or seen.due > now or len(self._threads) >= _PEERS_AT_ONCE:
                    continue
                if seen.peer in self._peers:
                    continue
                seen.busy = True
                thread = threading.Thread(
                    target=self._work, args=(name, seen), name="commitment", daemon=True
                )
                self._threads.add(thread)
                thread.start()

    def _work(self, name: str, seen: _Seen) -> None:
        try:
            with self._pending.claim(name) as request:
                if request is None:
                    seen.due = self._clock() + self._timing.retry
                    return
                seen.peer = peer = (request.caller.calling_ae, request.caller.address)
                with self._lock:
                    if peer in self._peers:
                        return
                    self._peers.add(peer)
                try:
                    self._handle(name, seen, request)
                finally:
                    self._peers.discard(peer)
        except (SpoolError, DatabaseError) as error:
            self._later(seen, f"cannot be looked up: {str(error).strip() or type(error).__name__}")
        except Exception:
            log.exception("storage commitment: unexpected; going on")
            self._later(seen, "")
        finally:
            connections.close_all()
            with self._lock:
                seen.busy = False
                self._threads.discard(threading.current_thread())

    def _handle(self, name: str, seen: _Seen, request: CommitmentRequest) -> None:
        caller = request.caller
        outcome = outcome_of(request.references, self._spool)
        if outcome.waiting and self._clock() - seen.first < self._timing.wait:
            seen.looks += 1
            seen.due = self._clock() + min(2.0 ** (seen.looks - 1), _LOOK_SECONDS_MAX)
            return
        late = tuple(FailedReference(one, PROCESSING_FAILURE) for one in outcome.waiting)
        report = CommitmentReport(request.transaction_uid, outcome.committed, outcome.failed + late)
        sender = self._senders.find(caller.calling_ae, caller.address)
        try:
            if sender is None or sender.report_port is None:
                raise ReportNotDelivered(
                    f"{caller.calling_ae} at {caller.address} has no port for commitment reports any more"
                )
            target = ReportTarget(caller.address, sender.report_port, caller.calling_ae, caller.called_ae)
            self._deliver(report, target)
        except ReportNotDelivered as error:
            if self._clock() - seen.first >= self._timing.wait + self._timing.give_up:
                self._pending.remove(name)
                self.outcomes["given-up"] += 1
                log.error("storage commitment %s is given up: %s", request.transaction_uid, error)
                return
            self._later(seen, str(error))
            return
        self._pending.remove(name)
        self.outcomes["failures" if report.failed else "success"] += 1
        log.info(
            "storage commitment %s of %s: %d committed, %d failed",
            request.transaction_uid,
            caller.calling_ae,
            len(report.committed),
            len(report.failed),
        )

    def _later(self, seen: _Seen, why: str) -> None:
        seen.attempts += 1
        wait = min(self._timing.retry * 2 ** min(seen.attempts - 1, 30), self._timing.retry_max)
        seen.due = self._clock() + wait
        if why:
            log.warning("storage commitment: %s; again in %g s", why, wait)
