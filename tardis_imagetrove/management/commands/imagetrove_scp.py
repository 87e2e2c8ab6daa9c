"""``manage.py imagetrove_scp``: receive DICOM, and see that complete series are ingested."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...checks import RECEIVING
from ...conf import settings
from ...errors import ImageTroveError, PermanentError
from ...ingest.commitment import CommitmentReporter, CommitmentTiming
from ...ingest.watcher import Timing, Watcher
from ...logs import JsonFormatter
from ...scp import CommitmentRequest, Receiver, ReceiverConfig, SenderList, TLSFiles, promiscuous_mark
from ...scp.commitment import CommitmentReport, ReportTarget, send_report
from ...scp.metrics import Metric, MetricsServer, gauge, receiver_metrics
from ...scp.pending import PendingCommitments
from ...scp.systemd import notify, watchdog_seconds
from ...senders import SenderWatch
from ...spool import Spool, SpoolFull
from ...tasks import open_spool, queue_run, queue_series

log = logging.getLogger("tardis_imagetrove.scp")

#: Seconds that instances in flight have to be finished when the receiver is asked to stop.
GRACE_SECONDS = 30
#: Seconds that the database has to say who may store; then the last known senders count.
SENDERS_SECONDS = 5


class Command(BaseCommand):
    help = (
        "Receive DICOM (C-ECHO, C-STORE, storage commitment) from the configured instruments' senders into the "
        "spool, and have complete series ingested."
    )
    # Another app's mistake, or a filter that is missing, is no reason to turn scans away.
    requires_system_checks = [RECEIVING]

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")
        parser.add_argument("--port", type=int, default=4242)
        parser.add_argument("--ae-title", default="IMAGETROVE")
        parser.add_argument(
            "--spool", type=Path, help="folder of received files (default: IMAGETROVE['SPOOL'])"
        )
        parser.add_argument("--workers", type=int, default=1, help="receiving processes (default: 1)")
        parser.add_argument(
            "--promiscuous", action="store_true", help="let everybody store, not only the configured senders"
        )
        parser.add_argument("--tls-cert", type=Path, help="our certificate, PEM; with key and CA, TLS only")
        parser.add_argument("--tls-key", type=Path, help="its key, PEM")
        parser.add_argument("--tls-ca", type=Path, help="the CA that senders' certificates must be of, PEM")
        parser.add_argument("--metrics-port", type=int, help="serve counts for Prometheus on this port")
        parser.add_argument("--log-json", action="store_true", help="log one JSON object a line")

    def handle(self, **options: object) -> None:
        set_up_logging(bool(options["log_json"]))
        try:
            spool = open_spool(options["spool"])
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        timing = Timing(
            quiet=settings.QUIET_SECONDS,
            stall=settings.STALL_SECONDS,
            retry=settings.RETRY_SECONDS,
            retry_max=settings.RETRY_SECONDS_MAX,
        )
        queue_here = partial(queue_series, spool_folder=str(spool.root))
        watcher = Watcher(spool, timing, queue_here, queue_run)
        stop = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stop.set())
        promiscuous = bool(options["promiscuous"])
        with contextlib.ExitStack() as stack:
            try:
                config = receiver_config(options)
                with contextlib.suppress(SpoolFull):  # the receiver tells it, to the log and to senders
                    spool.prepare()
                if promiscuous:
                    stack.enter_context(promiscuous_mark(spool))
                senders = SenderList(spool)
                watch = SenderWatch(senders)
                watch.start(SENDERS_SECONDS)
                stack.callback(watch.stop)
                receiver = Receiver(
                    config,
                    spool,
                    None if promiscuous else senders.admit,
                    partial(take_commitment, senders, PendingCommitments(spool)),
                )
                reporter = commitment_reporter(config, spool, senders)
                receiver.start()
                stack.callback(receiver.stop, grace_seconds=GRACE_SECONDS)
                if options["metrics_port"] is not None:
                    read = partial(read_metrics, receiver, watcher, senders, reporter, promiscuous)
                    metrics = MetricsServer(options["host"], options["metrics_port"], read)
                    stack.callback(metrics.stop)
            except (ImageTroveError, OSError) as error:
                raise CommandError(str(error)) from error
            self._tell(config, receiver, spool, senders, promiscuous)
            watching = _thread("watcher", watcher.run, stop, max(0.05, min(1.0, timing.quiet / 4)))
            reporting = _thread("commitments", reporter.run, stop)
            notify("READY=1")
            beat = min(1.0, watchdog_seconds() or 1.0)
            try:
                while not stop.wait(beat):
                    if not (receiver.is_alive() and watching.is_alive() and reporting.is_alive()):
                        raise CommandError("the receiver has ended unforeseen; its log says why")
                    notify("WATCHDOG=1")
            finally:
                notify("STOPPING=1")
                stop.set()
                receiver.stop(grace_seconds=GRACE_SECONDS)
                watching.join()
                reporting.join()

    def _tell(
        self, config: ReceiverConfig, receiver: Receiver, spool: Spool, senders: SenderList, promiscuous: bool
    ) -> None:
        """Say what it receives, and from whom."""
        self.stdout.write(f"{config.ae_title} receives on {config.host}:{receiver.port} into {spool.root}")
        if promiscuous:
            log.warning(
                "PROMISCUOUS: whoever reaches this port may store, whatever instruments have as senders"
            )
        elif senders.senders is None:
            log.warning("nobody may store until the database can say who may")
        elif not senders.senders:
            log.warning("nobody may store: no enabled instrument has a sender; add them in admin")
        self.stdout.flush()


def _thread(name: str, target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, name=name)
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


def receiver_config(options: dict[str, object]) -> ReceiverConfig:
    """What the options ask for.

    Raises:
        CommandError: only one or two of the three files of TLS are named.
        ReceiverConfigError: an option makes no sense; the text names it.
    """
    tls = None
    files = {name: options[name] for name in ("tls_cert", "tls_key", "tls_ca")}
    if any(files.values()):
        missing = [f"--{name.replace('_', '-')}" for name, file in files.items() if not file]
        if missing:
            raise CommandError(f"TLS needs {' and '.join(missing)} as well")
        tls = TLSFiles(certificate=files["tls_cert"], key=files["tls_key"], ca=files["tls_ca"])
    return ReceiverConfig(
        host=options["host"],
        port=options["port"],
        ae_title=options["ae_title"],
        workers=options["workers"],
        tls=tls,
    )


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


def set_up_logging(as_json: bool) -> None:
    """Log to standard error, unless the site's LOGGING has a place for this app's lines."""
    logger = logging.getLogger("tardis_imagetrove")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if logger.handlers and not as_json:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logger.addHandler(handler)
    logger.propagate = False
