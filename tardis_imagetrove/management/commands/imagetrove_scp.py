"""``manage.py imagetrove_scp``: receive DICOM, and see that complete series are ingested."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...checks import RECEIVING
from ...errors import ImageTroveError
from ...folder_sources import FolderDoor
from ...logs import JsonFormatter
from ...operations.notices import NoticeSource
from ...receiving import ReceivingConfig, ReceivingService
from ...scp import ReceiverConfig, TLSFiles
from ...tasks import open_spool

log = logging.getLogger("tardis_imagetrove.scp")


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
            "--promiscuous", action="store_true", help="accept every sender, not only the configured ones"
        )
        parser.add_argument("--tls-cert", type=Path, help="our certificate, PEM; with key and CA, TLS only")
        parser.add_argument("--tls-key", type=Path, help="its key, PEM")
        parser.add_argument("--tls-ca", type=Path, help="the CA that senders' certificates must be of, PEM")
        parser.add_argument("--metrics-port", type=int, help="serve counts for Prometheus on this port")
        parser.add_argument(
            "--metrics-host",
            default="127.0.0.1",
            help="address for the metrics (default: this machine only; metrics need no sign-in)",
        )
        parser.add_argument("--log-json", action="store_true", help="log one JSON object a line")

    def handle(self, **options: object) -> None:
        set_up_logging(bool(options["log_json"]))
        stop = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stop.set())
        try:
            config = ReceivingConfig(
                receiver_config(options),
                open_spool(options["spool"]),
                bool(options["promiscuous"]),
                options["metrics_port"],
                str(options["metrics_host"]),
            )
            ReceivingService(config, [NoticeSource(), FolderDoor(config.spool)]).run(stop, self._tell)
        except (ImproperlyConfigured, ImageTroveError, OSError) as error:
            raise CommandError(str(error)) from error

    def _tell(self, service: ReceivingService) -> None:
        """Print what is received, and from whom."""
        config, senders = service.config, service.senders.senders
        self.stdout.write(
            f"{config.receiver.ae_title} receives on {config.receiver.host}:{service.port} into {config.spool.root}"
        )
        if config.promiscuous:
            log.warning("PROMISCUOUS: every sender that reaches this port may store")
        elif senders is None:
            log.warning("nobody may store until the database is back to name the senders")
        elif not senders:
            log.warning("nobody may store: no enabled instrument has a sender; add them in admin")
        self.stdout.flush()


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
