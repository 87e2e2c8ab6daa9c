"""Runs a converter program under limits, and keeps a record of each for the filter run it belongs to."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from ..errors import KilledError, PermanentError


@dataclass(frozen=True)
class ProgramRun:
    """One program that a filter started, after its end.

    Attributes:
        arguments: with its name; folders are left out.
        exit_status: negative is the number of the signal that ended it.
        memory_mib: the most that it, or one of the processes it waited for, held at once (RSS).
    """

    arguments: tuple[str, ...]
    exit_status: int
    seconds: float
    memory_mib: float


_allowed: ContextVar[tuple[float, int]] = ContextVar("allowed", default=(3600.0, 8 << 30))


def allow(seconds: float, memory_bytes: int) -> None:
    """Set the limits of each program that is started from here on: those of the filter that starts it."""
    _allowed.set((seconds, memory_bytes))


def allowed() -> tuple[float, int]:
    """Seconds, and bytes of address space, that a program may have where nothing else is said."""
    return _allowed.get()


class Stopped(BaseException):
    """The process was asked to end."""


class Stop:
    """A process's handler for SIGTERM: raises :class:`Stopped`, but not while a program is being started.

    In between, nobody would know the program that is to be stopped as well.
    """

    def __init__(self) -> None:
        self._starting = self._wanted = False

    def __call__(self, *_: object) -> None:
        if self._starting:
            self._wanted = True
        else:
            raise Stopped

    def hold(self) -> None:
        self._starting = True

    def release(self) -> None:
        self._starting = False
        if self._wanted:
            raise Stopped


stop = Stop()

_recorders: ContextVar[tuple[Callable[[ProgramRun], object], ...]] = ContextVar("recorders", default=())


@contextmanager
def recording(take: Callable[[ProgramRun], object]) -> Iterator[None]:
    """Have ``take`` called with each program that ends within the block."""
    token = _recorders.set((*_recorders.get(), take))
    try:
        yield
    finally:
        _recorders.reset(token)


def record(run: ProgramRun) -> None:
    """Enter a program into the record of whoever is recording."""
    for take in _recorders.get():
        take(run)


def run_program(
    argv: Sequence[str],
    *,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    arguments: Sequence[str] | None = None,
) -> tuple[int, str]:
    """Run a program to its end; returns its exit status, and what it wrote.

    Args:
        time_limit: seconds after which it is killed, with the processes that it started; by default the
            filter's own limit.
        memory_limit: bytes of address space that each of its processes may have, likewise.
        arguments: what is recorded instead of ``argv``; by default that with paths cut to file names.

    Raises:
        PermanentError: it did not end in time.
        KilledError: somebody has killed it: the kernel, when the machine is out of memory, or a person.
    """
    time_limit = allowed()[0] if time_limit is None else time_limit
    memory_limit = allowed()[1] if memory_limit is None else memory_limit
    shown = tuple(arguments or (Path(part).name if part.startswith("/") else part for part in argv))
    started = time.monotonic()
    over = threading.Event()

    def end() -> None:
        over.set()
        _kill(child.pid)

    timer = threading.Timer(time_limit, end)
    output = b""
    stop.hold()
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except BaseException:
        stop.release()
        raise
    try:
        stop.release()
        timer.start()
        # Not by preexec_fn, which may deadlock in a worker with threads.
        if hasattr(resource, "prlimit"):
            with suppress(ProcessLookupError):  # already done
                resource.prlimit(child.pid, resource.RLIMIT_AS, (memory_limit, memory_limit))
        assert child.stdout is not None  # it is a pipe
        output = child.stdout.read()
    except BaseException:  # the filter itself is being stopped
        _kill(child.pid)
        raise
    finally:
        # Not by Popen.wait(), which does not say what this one child has used.
        _, status, usage = os.wait4(child.pid, 0)
        timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.stdout is not None:
            child.stdout.close()
        seconds = time.monotonic() - started
        record(ProgramRun(shown, child.returncode, seconds, usage.ru_maxrss / 1024))
    if over.is_set():
        raise PermanentError(f"{shown[0]} did not finish within {time_limit:g} s and was stopped")
    if child.returncode == -signal.SIGKILL:
        raise KilledError(f"{shown[0]} was killed: by the kernel, if the machine was out of memory")
    return child.returncode, output.decode(errors="replace")


def _kill(pid: int) -> None:
    """Kill a program that leads a session, with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
