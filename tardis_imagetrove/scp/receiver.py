"""The receiver: listens, hands connections to threads or worker processes, keeps the workers alive, stops in order."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import PermanentError, RetriableError
from ..spool import Spool, SpoolError, SpoolFull
from .config import ReceiverConfig
from .gate import Admit, AssociationGate, Commitment, RateLimit
from .records import Counters
from .server import AssociationServer
from .worker import WorkerProcess, commitment_answer

logger = logging.getLogger("tardis_imagetrove.scp")

_READY_SECONDS = 60.0
_ADMITTING_THREADS = 4
#: Longest wait before a worker that keeps dying is started once more, in seconds.
_MAX_RESTART_SECONDS = 30.0
#: A worker that ends sooner than this may do so again and again.
_EARLY_SECONDS = 10.0


class ReceiverError(RetriableError):
    """The receiver could not start."""


class _ThreadBackend:
    """Associations in threads of this process."""

    def __init__(self, server: AssociationServer, gate: AssociationGate) -> None:
        self._server, self._gate = server, gate

    def serve(self, number: int, sock: socket.socket) -> None:
        try:
            self._server.serve(number, sock)
        except RuntimeError as error:
            self._gate.released(number)
            raise OSError(errno.EAGAIN, str(error)) from error

    def drop(self, number: int) -> None:
        self._server.drop(number)

    def counters(self) -> Counters:
        return self._server.counters()

    def stop(self, grace_seconds: float) -> None:
        self._server.drain(grace_seconds)


class _WorkerPool:
    """Associations in worker processes; a connection goes to the worker that has the fewest."""

    def __init__(self, config: ReceiverConfig, spool: Spool, gate: AssociationGate, commitment: bool) -> None:
        self._config, self._spool, self._gate, self._commitment = config, spool, gate, commitment
        self._lock = threading.Condition()
        self._workers: list[WorkerProcess] = []
        self._past = Counters()  # of workers that have ended
        self._stopping = False
        self._early_deaths = 0
        # ``admit`` may query a database; the threads that read from the workers must not wait for it.
        self._pool = ThreadPoolExecutor(_ADMITTING_THREADS, thread_name_prefix="admit")
        # A spool that hangs may hold up requests for commitment, and must not hold up admission.
        self._committing = ThreadPoolExecutor(1, thread_name_prefix="commit")

    def start(self) -> None:
        for _ in range(self._config.workers):
            self._start_one()
        deadline = time.monotonic() + _READY_SECONDS
        for worker in list(self._workers):
            worker.ready.wait(max(0.0, deadline - time.monotonic()))
            failure = worker.failure if worker.ready.is_set() else f"not ready in {_READY_SECONDS:g} s"
            if failure is not None:
                self.stop(0)
                raise ReceiverError(f"a worker process could not start: {failure}")

    def _start_one(self) -> None:
        level = logger.getEffectiveLevel()
        worker = WorkerProcess(
            self._config, self._spool, self._commitment, level, self._answer, self._news, self._lost
        )
        with self._lock:
            self._workers.append(worker)
        worker.listen()

    def serve(self, number: int, sock: socket.socket) -> None:
        while True:
            with self._lock:
                ready = [
                    one for one in self._workers if one.ready.is_set() and not one.leaving and not one.failure
                ]
                if not ready:
                    if self._stopping:
                        raise OSError(errno.ESHUTDOWN, "the receiver stops")
                    self._lock.wait(0.05)
                    continue
                worker = min(ready, key=lambda one: len(one.connections))
                worker.connections.add(number)
            try:
                worker.hand_over(number, sock)
            except OSError as error:
                # It is dying, or hangs: another takes its place, and the connection, which is still ours.
                logger.error("worker %d takes no connections and is ended: %s", worker.pid, error)
                with self._lock:
                    worker.connections.discard(number)
                    worker.leaving = True
                worker.kill()
                continue
            return

    def _answer(self, worker: WorkerProcess, call: int, method: str, arguments: tuple[Any, ...]) -> None:
        if method == "enter":
            self._pool.submit(lambda: worker.reply(call, self._gate.enter(*arguments)))
        else:
            self._committing.submit(
                lambda: worker.reply(call, commitment_answer(self._gate.commit, *arguments))
            )

    def _news(self, worker: WorkerProcess, kind: str, arguments: tuple[Any, ...]) -> None:
        if kind == "closed":
            with self._lock:
                worker.connections.discard(arguments[0])
            self._gate.closed(*arguments)
        elif kind == "operation-failed":
            self._gate.operation_failed(*arguments)
        elif kind == "log":
            (record,) = arguments
            logging.getLogger(record.name).handle(record)

    def _lost(self, worker: WorkerProcess) -> None:
        with self._lock:
            if worker in self._workers:
                self._workers.remove(worker)
            self._past.add(worker.counters)
            numbers = set(worker.connections)
            stopping = self._stopping
        for number in numbers:
            self._gate.released(number)
        if stopping:
            return
        if not worker.leaving:
            logger.error(
                "worker %d ended with %s (%s); %d associations were cut; another is started",
                worker.pid,
                worker.exit_code,
                worker.failure or "unforeseen",
                len(numbers),
            )
        early = time.monotonic() - worker.started < _EARLY_SECONDS
        self._early_deaths = min(self._early_deaths + 1, 10) if early else 0
        if self._early_deaths > 1:
            time.sleep(min(2.0 ** (self._early_deaths - 4), _MAX_RESTART_SECONDS))
        with contextlib.suppress(SpoolError):
            self._spool.prepare()  # removes what it was receiving
        with self._lock:
            stopping = self._stopping
        if not stopping:
            self._start_one()

    def drop(self, number: int) -> None:
        with self._lock:
            holders = [one for one in self._workers if number in one.connections]
        for worker in holders:
            worker.drop(number)

    def counters(self) -> Counters:
        total = Counters()
        with self._lock:
            total.add(self._past)
            for worker in self._workers:
                total.add(worker.counters)
        return total

    def stop(self, grace_seconds: float) -> None:
        with self._lock:
            self._stopping = True
            workers = list(self._workers)
            self._lock.notify_all()
        for worker in workers:
            worker.drain(grace_seconds)
        deadline = time.monotonic() + grace_seconds + 8
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        self._pool.shutdown(wait=False)
        self._committing.shutdown(wait=False)


class Receiver:
    """A DICOM receiver (C-ECHO, C-STORE): start it, and stop it.

    Args:
        spool: where instances go; a success status is sent once it has them durably.
        admit: asked once for each association, with calling AE title and IP address; None lets the
            peer in, a text is the reason against it. Called on threads of this process, several at
            once; an exception rejects the association for now. Without it everybody is let in.
        commitment: takes on storage commitment requests (PS3.4 annex J); without it the service is not offered.
    """

    def __init__(
        self,
        config: ReceiverConfig,
        spool: Spool,
        admit: Admit | None = None,
        commitment: Commitment | None = None,
    ) -> None:
        self.config = config
        self._spool = spool
        self._gate = AssociationGate(
            config.max_associations,
            config.max_associations_per_address,
            2 * config.max_associations + 64,
            admit,
            commitment,
        )
        self._commitment = commitment is not None
        self._backend: _ThreadBackend | _WorkerPool | None = None
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._stopping = threading.Event()
        self._port = 0

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        return self._port

    @property
    def open_associations(self) -> int:
        """How many associations are open now."""
        return self._gate.open_associations

    def counters(self) -> Counters:
        """What was received since the start; of worker processes as of a second ago."""
        return self._backend.counters() if self._backend else Counters()

    def is_alive(self) -> bool:
        """Whether connections are being accepted."""
        return self._acceptor is not None and self._acceptor.is_alive() and not self._stopping.is_set()

    def start(self) -> None:
        """Prepare the spool, listen, and return when connections are accepted.

        Raises:
            OSError: the address cannot be listened on; the text says which and why.
            SpoolError: the spool cannot be written; a full disk is no reason not to start.
            ReceiverConfigError: the TLS files cannot be used.
            ReceiverError: a worker process could not start.
        """
        if self.config.tls is not None:
            self.config.tls.context()  # raises what is wrong with the files, before anything runs
        try:
            self._spool.prepare()
        except SpoolFull as error:  # senders are told so, which is better than nobody answering
            logger.warning("%s; instances are refused until there is room", error)
        self._listener = _listen(self.config.host, self.config.port)
        self._port = self._listener.getsockname()[1]
        try:
            if self.config.workers == 1:
                server = AssociationServer(self.config, self._spool, self._gate, self._commitment)
                self._backend = _ThreadBackend(server, self._gate)
            else:
                pool = _WorkerPool(self.config, self._spool, self._gate, self._commitment)
                pool.start()
                self._backend = pool
        except (PermanentError, RetriableError, OSError):
            self._listener.close()
            raise
        self._acceptor = threading.Thread(target=self._accept, name="acceptor", daemon=True)
        self._acceptor.start()
        logger.info("listening on %s port %d as %s", self.config.host, self._port, self.config.ae_title)

    def _accept(self) -> None:
        assert self._listener is not None and self._backend is not None
        complaints = RateLimit(burst=1)
        for number in itertools.count():
            try:
                sock, address = self._listener.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                # Out of file descriptors or memory, or a peer that left before we came: never the end.
                if complaints.passes((str(error.errno),))[0]:
                    logger.warning("cannot accept a connection: %s", error)
                time.sleep(0.05)
                continue
            if self._stopping.is_set():
                sock.close()
                return
            too_many = self._gate.connected(number, address[0].removeprefix("::ffff:"))
            if too_many is not None:
                self._backend.drop(too_many)
            try:
                self._backend.serve(number, sock)
            except OSError as error:
                logger.warning("cannot serve a connection: %s", error)
                self._gate.released(number)
                sock.close()

    def stop(self, grace_seconds: float = 30.0) -> None:
        """Accept nothing more, let what is in flight finish for up to ``grace_seconds``, then cut the rest."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()
        if self._backend is not None:
            self._backend.stop(grace_seconds)
        if self._acceptor is not None:
            self._acceptor.join(5)
            logger.info("stopped")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(512)
    except OSError as error:
        listener.close()
        why = "another program listens there already" if error.errno == errno.EADDRINUSE else error.strerror
        raise OSError(error.errno, f"cannot listen on {host} port {port}: {why}") from error
    return listener


@contextlib.contextmanager
def running_receiver(
    config: ReceiverConfig,
    spool: Spool,
    admit: Admit | None = None,
    commitment: Commitment | None = None,
    grace_seconds: float = 5.0,
) -> Iterator[Receiver]:
    """A receiver that runs as long as the ``with`` block."""
    receiver = Receiver(config, spool, admit, commitment)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop(grace_seconds)
