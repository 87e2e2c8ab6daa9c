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
from ...scp import Receiver, ReceiverConfig
from ...tasks import open_spool, queue_run, queue_series


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

    def handle(self, **options: object) -> None:
        logging.getLogger("tardis_imagetrove").setLevel(logging.INFO)
        spool = open_spool(options["spool"])
        config = ReceiverConfig(
            host=options["host"],
            port=options["port"],
            ae_title=options["ae_title"],
            workers=options["workers"],
        )
        receiver = Receiver(config, spool)
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
        try:
            spool.prepare()
            receiver.start()
        except (ImageTroveError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{config.ae_title} receives on {config.host}:{receiver.port} into {spool.root}")
        self.stdout.flush()
        watching = threading.Thread(
            target=watcher.run, args=(stop, min(1.0, timing.quiet / 4)), name="watcher"
        )
        watching.start()
        try:
            while not stop.wait(1):
                pass
        finally:
            stop.set()
            receiver.stop(grace_seconds=30)
            watching.join()
