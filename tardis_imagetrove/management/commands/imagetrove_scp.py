"""``manage.py imagetrove_scp``: receive DICOM, and see that complete series are ingested."""

from __future__ import annotations

import logging
import signal
import threading
from functools import partial
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...conf import settings
from ...errors import ImageTroveError
from ...ingest.watcher import Timing, Watcher
from ...logs import JsonFormatter
from ...scp import Receiver, ReceiverConfig, TLSFiles
from ...scp.metrics import Metric, MetricsServer, gauge, receiver_metrics
from ...scp.systemd import notify, watchdog_seconds
from ...tasks import open_spool, queue_run, queue_series

#: Seconds that instances in flight have to be finished when the receiver is asked to stop.
GRACE_SECONDS = 30


class Command(BaseCommand):
    help = "Receive DICOM (C-ECHO, C-STORE) into the spool, and have complete series ingested."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")
        parser.add_argument("--port", type=int, default=4242)
        parser.add_argument("--ae-title", default="IMAGETROVE")
        parser.add_argument(
            "--spool", type=Path, help="folder of received files (default: IMAGETROVE['SPOOL'])"
        )
        parser.add_argument("--workers", type=int, default=1, help="receiving processes (default: 1)")
        parser.add_argument("--tls-cert", type=Path, help="our certificate, PEM; with key and CA, TLS only")
        parser.add_argument("--tls-key", type=Path, help="its key, PEM")
        parser.add_argument("--tls-ca", type=Path, help="the CA that senders' certificates must be of, PEM")
        parser.add_argument("--metrics-port", type=int, help="serve counts for Prometheus on this port")
        parser.add_argument("--log-json", action="store_true", help="log one JSON object a line")

    def handle(self, **options: object) -> None:
        set_up_logging(bool(options["log_json"]))
        spool = open_spool(options["spool"])
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
        metrics = None
        try:
            spool.prepare()
            receiver = Receiver(receiver_config(options), spool)
            receiver.start()
            if options["metrics_port"] is not None:
                metrics = MetricsServer(
                    options["host"], options["metrics_port"], partial(read_metrics, receiver, watcher)
                )
        except (ImageTroveError, OSError) as error:
            raise CommandError(str(error)) from error
        watching = threading.Thread(
            target=watcher.run, args=(stop, max(0.05, min(1.0, timing.quiet / 4))), name="watcher"
        )
        watching.start()
        self.stdout.write(
            f"{options['ae_title']} receives on {options['host']}:{receiver.port} into {spool.root}"
        )
        self.stdout.flush()
        notify("READY=1")
        beat = min(1.0, watchdog_seconds() or 1.0)
        try:
            while not stop.wait(beat):
                if not (receiver.is_alive() and watching.is_alive()):
                    raise CommandError("the receiver has ended unforeseen; its log says why")
                notify("WATCHDOG=1")
        finally:
            notify("STOPPING=1")
            stop.set()
            receiver.stop(grace_seconds=GRACE_SECONDS)
            if metrics is not None:
                metrics.stop()
            watching.join()


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


def read_metrics(receiver: Receiver, watcher: Watcher) -> list[Metric]:
    """The receiver's counts, and what waits in the spool."""
    series, oldest = watcher.waiting()
    return [
        *receiver_metrics(receiver.counters(), receiver.open_associations),
        gauge("spool_series", "Series with files in the spool.", series),
        gauge("spool_oldest_seconds", "Since the oldest of them was first seen by this process.", oldest),
        gauge("spool_free_bytes", "That receiving may still use.", watcher.spool.free_bytes()),
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
