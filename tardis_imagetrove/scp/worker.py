"""A worker process of the receiver: takes connections from its parent and serves them; knows no Django.

Started as a fresh interpreter, so that nothing of the parent is in it: no thread, no lock, no
database connection. Two socket pairs lead to the parent. Over one come the accepted connections,
over the other go questions ("may this caller enter?"), log records and counts. When the parent is
gone, the worker finishes what is in flight and leaves.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import logging
import logging.handlers
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ..errors import ImageTroveError, PermanentError, RetriableError
from ..spool import Spool, SpoolFull
from .association import AssociationRejected
from .config import ReceiverConfig
from .records import AssociationRecord, Caller, CommitmentRequest, Counters
from .server import AssociationServer

logger = logging.getLogger("tardis_imagetrove.scp")

#: How long a worker waits for its parent's answer, in seconds: ``admit`` may be a database query.
_ANSWER_SECONDS = 20.0
_COUNT_SECONDS = 1.0
#: How long a worker whose parent is gone lets instances in flight take, in seconds.
_ORPHAN_GRACE_SECONDS = 10.0
_NUMBER_BYTES = 8


class _ParentGone(Exception):
    """The parent does not answer any more."""


class _ParentGate:
    """The gate as a worker sees it: its questions and news go to the parent."""

    def __init__(self, control: Connection) -> None:
        self._control = control
        self._sending = threading.Lock()
        self._calls: dict[int, tuple[threading.Event, list[Any]]] = {}
        self._numbers = itertools.count()

    def send(self, *message: object) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._control.send(message)

    def answered(self, call: int, value: object) -> None:
        waiting = self._calls.get(call)
        if waiting is not None:
            waiting[1].append(value)
            waiting[0].set()

    def _ask(self, method: str, *arguments: object) -> Any:
        call, event = next(self._numbers), threading.Event()
        answer: list[Any] = []
        self._calls[call] = (event, answer)
        try:
            self.send("ask", call, method, arguments)
            if not event.wait(_ANSWER_SECONDS):
                raise _ParentGone(f"no answer in {_ANSWER_SECONDS:g} s")
            return answer[0]
        finally:
            del self._calls[call]

    def enter(self, number: int, caller: Caller) -> AssociationRejected | None:
        try:
            rejected: AssociationRejected | None = self._ask("enter", number, caller)
            return rejected
        except _ParentGone as gone:
            return AssociationRejected(
                "admit-failed", 2, 2, 1, f"the association cannot be accepted now: {gone}"
            )

    def commit(self, request: CommitmentRequest) -> None:
        try:
            error = self._ask("commit", request)
        except _ParentGone as gone:
            raise RetriableError(str(gone)) from None
        if error is not None:
            raise error

    def closed(self, number: int, record: AssociationRecord) -> None:
        self.send("closed", number, record)

    def operation_failed(self, caller: Caller, key: str, text: str) -> None:
        self.send("operation-failed", caller, key, text)


class _LogToParent(logging.handlers.QueueHandler):
    """Sends records, made ready for pickling, to the parent's logging."""

    def __init__(self, gate: _ParentGate) -> None:
        super().__init__(queue=None)  # type: ignore[arg-type]
        self._gate = gate

    def enqueue(self, record: logging.LogRecord) -> None:
        self._gate.send("log", record)


def main(control_fd: int, handover_fd: int) -> None:
    """A worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which tells us
    control = Connection(control_fd)
    handover = socket.socket(fileno=handover_fd)
    gate = _ParentGate(control)
    logging.getLogger().addHandler(_LogToParent(gate))
    level, config, spool, commitment = control.recv()
    logging.getLogger().setLevel(level)
    try:
        with contextlib.suppress(SpoolFull):  # the parent has said it
            spool.prepare()
        server = AssociationServer(config, spool, gate, commitment)
    except Exception as error:
        gate.send("failed", str(error))
        return
    # A worker that alone is told to end does so in order; its parent starts another.
    # The thread is for the signal handler's sake, which must not wait for a lock.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=gate.send, args=("leaving",)).start())
    threading.Thread(target=_take_connections, args=(handover, server), name="handover", daemon=True).start()
    ended = threading.Event()
    threading.Thread(target=_send_counts, args=(server, gate, ended), name="counts", daemon=True).start()
    gate.send("ready")
    grace = _ORPHAN_GRACE_SECONDS
    with contextlib.suppress(EOFError, OSError):
        while True:
            kind, *arguments = control.recv()
            if kind == "answer":
                gate.answered(*arguments)
            elif kind == "drop":
                server.drop(*arguments)
            elif kind == "drain":
                (grace,) = arguments
                break
    # The parent goes on answering while we drain.
    threading.Thread(target=_pass_on_answers, args=(control, gate), name="answers", daemon=True).start()
    server.drain(grace)
    ended.set()
    gate.send("counts", server.counters())
    control.close()


def _pass_on_answers(control: Connection, gate: _ParentGate) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            kind, *arguments = control.recv()
            if kind == "answer":
                gate.answered(*arguments)


def _take_connections(handover: socket.socket, server: AssociationServer) -> None:
    while True:
        try:
            data, descriptors, _flags, _address = socket.recv_fds(handover, _NUMBER_BYTES, 1)
        except OSError:
            return
        if not data:
            return
        for descriptor in descriptors:
            number = int.from_bytes(data, "big")
            try:
                server.serve(number, socket.socket(fileno=descriptor))
            except Exception:
                logger.exception("cannot serve a connection")


def _send_counts(server: AssociationServer, gate: _ParentGate, ended: threading.Event) -> None:
    last = Counters()
    while not ended.wait(_COUNT_SECONDS):
        counters = server.counters()
        if counters != last:
            gate.send("counts", counters)
            last = counters


class WorkerProcess:
    """A worker as its parent sees it.

    Args:
        level: of its logging.
        ask: called with a call number, a method's name and its arguments for each question; must
            return soon, and see that :meth:`reply` is called.
        news: called with everything else that the worker tells.
        lost: called once, when the process has ended.
    """

    def __init__(
        self,
        config: ReceiverConfig,
        spool: Spool,
        commitment: bool,
        level: int,
        ask: Callable[[WorkerProcess, int, str, tuple[Any, ...]], None],
        news: Callable[[WorkerProcess, str, tuple[Any, ...]], None],
        lost: Callable[[WorkerProcess], None],
    ) -> None:
        self._ask, self._news, self._lost = ask, news, lost
        self.connections: set[int] = set()
        self.counters = Counters()
        self.ready = threading.Event()
        self.failure: str | None = None
        self.leaving = False
        ours, theirs = socket.socketpair()
        handover, their_handover = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "import sys; from tardis_imagetrove.scp.worker import main; main(*map(int, sys.argv[1:]))",
                    str(theirs.fileno()),
                    str(their_handover.fileno()),
                ],
                pass_fds=(theirs.fileno(), their_handover.fileno()),
                stdin=subprocess.DEVNULL,
                # Where Python finds its modules here, it does there, however it came about.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,
            )
        finally:
            theirs.close()
            their_handover.close()
        self.pid = self._process.pid
        self._handover = handover
        self._handover.settimeout(5)
        self._control = Connection(ours.detach())
        self._sending = threading.Lock()
        self._send((level, config, spool, commitment))
        self.started = time.monotonic()
        self._reader = threading.Thread(target=self._read, name=f"worker-{self.pid}", daemon=True)

    def listen(self) -> None:
        """Begin to hear from it; ``lost`` may be called from now on."""
        self._reader.start()

    def _send(self, message: object) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._control.send(message)

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, *arguments = self._control.recv()
                if kind == "ask":
                    self._ask(self, *arguments)
                elif kind == "ready":
                    self.ready.set()
                elif kind == "failed":
                    self.failure = arguments[0]
                elif kind == "counts":
                    self.counters = arguments[0]
                elif kind == "leaving":
                    self.leaving = True
                    self.drain(_ORPHAN_GRACE_SECONDS)
                else:
                    self._news(self, kind, tuple(arguments))
        self._process.wait()
        if self.failure is None and not self.ready.is_set():
            self.failure = f"the worker process ended with {self._process.returncode} before it was ready"
        self.ready.set()
        self._lost(self)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    def hand_over(self, number: int, sock: socket.socket) -> None:
        """Give it a connection; ours is closed.

        Raises:
            OSError: the worker does not take it.
        """
        descriptors = array.array("i", [sock.fileno()])
        socket.send_fds(self._handover, [number.to_bytes(_NUMBER_BYTES, "big")], descriptors)
        sock.close()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def drop(self, number: int) -> None:
        """Cut a connection."""
        self._send(("drop", number))

    def reply(self, call: int, value: object) -> None:
        """Answer a question."""
        self._send(("answer", call, value))

    def drain(self, grace_seconds: float) -> None:
        """Tell it to finish what is in flight, and to leave."""
        self._send(("drain", grace_seconds))

    def join(self, seconds: float) -> None:
        """Wait for its end; what does not end in time is killed."""
        self._reader.join(seconds)
        if self._reader.is_alive():
            logger.error("worker %d did not leave in time and is killed", self.pid)
            self._process.kill()
            self._reader.join(5)
        self._handover.close()


def commitment_answer(
    commit: Callable[[CommitmentRequest], None], request: CommitmentRequest
) -> ImageTroveError | None:
    """``commit``'s outcome as a value that can be sent to a worker."""
    try:
        commit(request)
    except RetriableError as error:
        return RetriableError(str(error))
    except ImageTroveError as error:
        return PermanentError(str(error))
    return None
