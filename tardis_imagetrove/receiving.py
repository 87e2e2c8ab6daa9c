"""The receiving service: receiver, watcher, commitment reports and other sources, run until they are stopped."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from django.core.exceptions import ImproperlyConfigured

from .conf import settings
from .errors import PermanentError, RetriableError
from .ingest.commitment import CommitmentReporter, CommitmentTiming
from .ingest.watcher import Timing, Watcher
from .scp import (
    CommitmentRequest,
    Receiver,
    ReceiverConfig,
    SenderList,
    promiscuous_mark,
    receiving_mark,
)
from .scp.commitment import CommitmentReport, ReportTarget, send_report
from .scp.metrics import Metric, MetricsServer, gauge, receiver_metrics
from .scp.pending import PendingCommitments
from .scp.systemd import notify, watchdog_seconds
from .senders import SenderWatch
from .spool import Spool, SpoolError, SpoolFull
from .tasks import queue_run, queue_series

log = logging.getLogger("tardis_imagetrove.scp")

#: Seconds that instances in flight have to be finished when the service is asked to stop.
GRACE_SECONDS = 30
#: Seconds that the database has to name the senders; then the last known ones count.
SENDERS_SECONDS = 5
#: Seconds that a source has to end after the service is asked to stop.
_SOURCE_SECONDS = 10.0
_TRASH_SECONDS = 3600.0


class ServiceEnded(RetriableError):
    """A part of the service ended before it was asked to."""


class Source(Protocol):
    """Something else that brings files into the spool, or reports: a watched folder, notices."""

    name: str

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. A source that ends by itself does not end the service."""


class TrashSource:
    """Empties the spool's trash of what is too old."""

    name = "trash"

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def run(self, stop: threading.Event) -> None:
        """Look once an hour, until ``stop`` is set."""
        while True:
            try:
                for gone in self._spool.empty_trash(settings.TRASH_DAYS):
                    log.info("series %s: %d files deleted from the trash", gone.series_uid, gone.files)
            except (SpoolError, ImproperlyConfigured) as error:
                log.warning("the trash cannot be emptied: %s", error)
            if stop.wait(_TRASH_SECONDS):
                return


@dataclass(frozen=True)
class ReceivingConfig:
    """What the service needs to know beside Django's settings.

    Attributes:
        promiscuous: everybody may store, not only the configured senders.
        metrics_port: port for Prometheus; None for none.
        metrics_host: address that it listens on. Whoever reaches it can read the counts.
    """

    receiver: ReceiverConfig
    spool: Spool
    promiscuous: bool = False
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"


class ReceivingService:
    """Receives DICOM into the spool and has complete series ingested.

    Args:
        sources: run on a thread each, beside the receiver.
    """

    def __init__(self, config: ReceivingConfig, sources: Sequence[Source] = ()) -> None:
        self.config, self.sources = config, (TrashSource(config.spool), *sources)
        self.senders = SenderList(config.spool)
        self.port = 0

    def run(self, stop: threading.Event, started: Callable[[ReceivingService], None] | None = None) -> None:
        """Serve until ``stop`` is set.

        Args:
            started: called once the port is open; :attr:`port` has its number.

        Raises:
            ImageTroveError, OSError: it cannot start.
            ServiceEnded: a part of it ended unforeseen.
        """
        spool, promiscuous = self.config.spool, self.config.promiscuous
        timing = Timing(
            quiet=settings.QUIET_SECONDS,
            stall=settings.STALL_SECONDS,
            retry=settings.RETRY_SECONDS,
            retry_max=settings.RETRY_SECONDS_MAX,
        )
        watcher = Watcher(spool, timing, partial(queue_series, spool_folder=str(spool.root)), queue_run)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(SpoolFull):  # the receiver reports it, to the log and to senders
                spool.prepare()
            if promiscuous:
                stack.enter_context(promiscuous_mark(spool))
            watch = SenderWatch(self.senders)
            watch.start(SENDERS_SECONDS)
            stack.callback(watch.stop)
            receiver = Receiver(
                self.config.receiver,
                spool,
                None if promiscuous else self.senders.admit,
                partial(take_commitment, self.senders, PendingCommitments(spool)),
            )
            reporter = commitment_reporter(self.config.receiver, spool, self.senders)
            receiver.start()
            stack.callback(receiver.stop, grace_seconds=GRACE_SECONDS)
            self.port = receiver.port
            if self.config.metrics_port is not None:
                read = partial(read_metrics, receiver, watcher, self.senders, reporter, promiscuous)
                metrics = MetricsServer(self.config.metrics_host, self.config.metrics_port, read)
                stack.callback(metrics.stop)
            with contextlib.suppress(SpoolFull):
                stack.enter_context(receiving_mark(spool))
            if started is not None:
                started(self)
            watching = _thread("watcher", watcher.run, stop, max(0.05, min(1.0, timing.quiet / 4)))
            reporting = _thread("commitments", reporter.run, stop)
            others = [_thread(source.name, _run_source, source, stop) for source in self.sources]
            notify("READY=1")
            beat = min(1.0, watchdog_seconds() or 1.0)
            try:
                while not stop.wait(beat):
                    if not (receiver.is_alive() and watching.is_alive() and reporting.is_alive()):
                        raise ServiceEnded("the receiver stopped unexpectedly; see its log")
                    notify("WATCHDOG=1")
            finally:
                notify("STOPPING=1")
                stop.set()
                receiver.stop(grace_seconds=GRACE_SECONDS)
                watching.join()
                reporting.join()
                for thread in others:
                    thread.join(_SOURCE_SECONDS)


def _run_source(source: Source, stop: threading.Event) -> None:
    try:
        source.run(stop)
    except Exception:  # a mistake in one source stops neither the receiver nor the others
        log.exception("%s: ended unforeseen", source.name)


def _thread(name: str, target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    thread.start()
    return thread


def take_commitment(senders: SenderList, pending: PendingCommitments, request: CommitmentRequest) -> None:
    """Take a storage commitment request on, from a sender that can be told the outcome.

    Raises:
        PermanentError: there is nowhere to report to.
        SpoolError: it cannot be kept.
    """
    sender = senders.find(request.caller.calling_ae, request.caller.address)
    if sender is None or sender.report_port is None:
        raise PermanentError("No port for commitment reports is configured for you")
    pending.take(request)


def commitment_reporter(config: ReceiverConfig, spool: Spool, senders: SenderList) -> CommitmentReporter:
    """Reports over TLS where receiving does."""
    tls = config.tls.client_context() if config.tls else None

    def deliver(report: CommitmentReport, target: ReportTarget) -> None:
        send_report(report, target, tls)

    timing = CommitmentTiming(
        settings.COMMITMENT_WAIT_SECONDS, settings.RETRY_SECONDS, settings.RETRY_SECONDS_MAX
    )
    return CommitmentReporter(spool, senders, timing, deliver)


def read_metrics(
    receiver: Receiver, watcher: Watcher, senders: SenderList, reporter: CommitmentReporter, promiscuous: bool
) -> list[Metric]:
    """The receiver's counts, what waits in the spool, and who may store."""
    series, oldest = watcher.waiting()
    return [
        *receiver_metrics(receiver.counters(), receiver.open_associations),
        gauge("spool_series", "Series with files in the spool.", series),
        gauge("spool_oldest_seconds", "Since the oldest of them was first seen by this process.", oldest),
        gauge("spool_free_bytes", "That receiving may still use.", watcher.spool.free_bytes()),
        gauge("senders", "Configured senders that may store.", len(senders.senders or ())),
        gauge("promiscuous", "1 if everybody may store.", promiscuous),
        gauge("commitments_waiting", "Storage commitment requests not reported yet.", reporter.waiting),
        Metric(
            "commitment_reports_total",
            "Storage commitment requests that were done with, by outcome.",
            dict(reporter.outcomes),
            "outcome",
        ),
    ]
