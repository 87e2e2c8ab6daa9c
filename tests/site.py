"""A site as an operator runs it: receiver and worker are processes, started, stopped and killed by tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from django.db import close_old_connections, connection
from pynetdicom import AE
from tardis.celery import tardis_app

from devhost.send import send
from tardis_imagetrove.spool import Spool

REPOSITORY = Path(__file__).resolve().parent.parent
HOST = os.environ.get("MYTARDIS_HOME", str(REPOSITORY / "devhost"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, seconds: float = 60) -> None:
    """Wait until somebody listens."""
    until = time.monotonic() + seconds
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < until, f"nobody listens on port {port} after {seconds} s"
        time.sleep(0.1)


def eventually(condition: Callable[[], object], seconds: float = 60, what: str = "") -> object:
    """Wait for ``condition`` to hold; the last value it had is in the failure's words."""
    until = time.monotonic() + seconds
    while True:
        close_old_connections()
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"not within {seconds} s: {what or condition}: {value!r}"
        time.sleep(0.1)


class Site:
    """Receiver and worker over the test's database, with a spool and a broker of their own."""

    def __init__(self, folder: Path, **imagetrove: object) -> None:
        self.folder = folder
        self.port = free_port()
        self.spool = Spool(folder / "site-spool", reserve_bytes=0)
        self.spool.prepare()
        self.log = folder / "site.log"
        self.processes: dict[str, subprocess.Popen] = {}
        with contextlib.closing(tardis_app.connection_for_write()) as broker:
            tardis_app.control.purge(broker)
        self.env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "IMAGETROVE_TEST_DATABASE": str(connection.settings_dict["NAME"]),
            "IMAGETROVE_TEST_SETTINGS": json.dumps(
                {"SPOOL": str(self.spool.root), "SPOOL_RESERVE_MIB": 0, **imagetrove}
            ),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), HOST]),
            "PYTHONWARNINGS": "ignore",
        }

    def start(self, name: str, command: list[str]) -> subprocess.Popen:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=HOST,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def start_receiver(self, *options: str, closed: bool = False) -> None:
        """Start it; open to everybody, unless a test is about who may store."""
        self.start(
            "receiver",
            [
                *("-m", "django", "imagetrove_scp", "--host", "127.0.0.1", "--port", str(self.port)),
                *(() if closed else ("--promiscuous",)),
                *options,
            ],
        )
        wait_for_port(self.port)

    def start_worker(self, name: str = "worker", *options: str) -> None:
        self.start(
            name,
            [
                *("-m", "celery", "-A", "tardis.celery.tardis_app", "worker", "--concurrency", "2"),
                *("--without-gossip", "--without-mingle", "--loglevel", "INFO"),
                *("--hostname", f"{name}@%h", *options),
            ],
        )

    def kill(self, name: str) -> None:
        """SIGKILL the process and its children, as a crash or an out-of-memory killer does."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def send(self, *paths: Path) -> int:
        """Send files on one association; returns how many were acknowledged."""
        return send(list(paths), "127.0.0.1", self.port)

    def echo(self) -> bool:
        entity = AE()
        entity.add_requested_context("1.2.840.10008.1.1")
        association = entity.associate("127.0.0.1", self.port, ae_title="IMAGETROVE")
        if not association.is_established:
            return False
        status = association.send_c_echo()
        association.release()
        return bool(status) and status.Status == 0

    @staticmethod
    def ended(uids: Iterable[str]) -> bool:
        """Whether all these series have reached an end."""
        from tardis_imagetrove.models import Series

        ends = (Series.State.DONE, Series.State.PARTIAL, Series.State.HELD)
        uids = set(uids)
        return Series.objects.filter(series_uid__in=uids, state__in=ends).count() == len(uids)

    def wait(self, uids: Iterable[str], seconds: float = 90) -> None:
        from tardis_imagetrove.models import FilterRun, Series

        def stands() -> str:
            series = list(Series.objects.values_list("series_uid", "state", "reason"))
            runs = list(FilterRun.objects.exclude(state="done").values_list("filter", "state", "reason"))
            return f"{series} {runs}"

        uids = list(uids)
        try:
            eventually(lambda: self.ended(uids), seconds, "the series end")
        except AssertionError as error:
            tail = self.log.read_text(errors="replace")[-4000:]
            raise AssertionError(f"{error}\n{stands()}\n{tail}") from None
