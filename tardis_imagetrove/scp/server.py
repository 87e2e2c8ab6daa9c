"""The associations of one process: a thread for each connection that it is handed."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import sys
import threading
import time

from ..spool import Spool
from .association import Association, Gate, ServerContext
from .config import ReceiverConfig
from .connection import StopSignal
from .records import Counters

_SWITCH_SECONDS = 0.0005

logger = logging.getLogger("tardis_imagetrove.scp")


class AssociationServer:
    """Serves connections that were accepted elsewhere.

    Args:
        commitment: whether storage commitment is offered to peers.
    """

    def __init__(self, config: ReceiverConfig, spool: Spool, gate: Gate, commitment: bool) -> None:
        tls: ssl.SSLContext | None = config.tls.context() if config.tls else None
        # A thread that is busy keeps the interpreter for this long, whenever another comes back from the network or
        # the disk, which an instance does ten times.
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
        self._stop = StopSignal()
        self._shared = ServerContext(config, spool, gate, self._stop, tls, commitment)
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, Association] = {}

    def serve(self, number: int, sock: socket.socket) -> None:
        """Serve a connection under the number that the gate knows it by; returns at once."""
        association = Association(number, sock, self._shared)
        thread = threading.Thread(
            target=self._run, args=(association,), name=f"association-{number}", daemon=True
        )
        # Started under the lock: a thread that others can see can be joined.
        with self._lock:
            self._threads[thread] = association
            try:
                thread.start()
            except RuntimeError:  # no more threads; the gate is told, as nobody else will
                del self._threads[thread]
                sock.close()
                raise

    def _run(self, association: Association) -> None:
        try:
            association.run()
        except Exception:
            logger.exception("an association's thread failed")
        finally:
            with self._lock:
                self._threads.pop(threading.current_thread(), None)

    def drop(self, number: int) -> None:
        """Cut a connection; harmless if it has gone."""
        with self._lock:
            found = [one for one in self._threads.values() if one.number == number]
        for association in found:
            association.shut()

    def counters(self) -> Counters:
        """A copy of the counts so far."""
        with self._shared.counting:
            copy = Counters()
            copy.add(self._shared.counters)
        return copy

    def drain(self, grace_seconds: float) -> None:
        """Come to an end: what is in flight may finish within the grace time, what is idle is aborted now."""
        self._stop.set()
        deadline = time.monotonic() + grace_seconds
        self._join(deadline)
        with self._lock:
            late = list(self._threads.values())
        if late:
            logger.warning(
                "%d associations were cut, as they did not finish in %g s", len(late), grace_seconds
            )
        for association in late:
            association.shut()
        self._join(time.monotonic() + 5)
        with contextlib.suppress(OSError):
            self._stop.close()

    def _join(self, deadline: float) -> None:
        while True:
            with self._lock:
                threads = list(self._threads)
            if not threads or time.monotonic() >= deadline:
                return
            threads[0].join(max(0.0, min(deadline - time.monotonic(), 1.0)))
