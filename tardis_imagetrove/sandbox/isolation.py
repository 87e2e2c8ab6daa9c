"""Runs a filter in a process of its own, under limits, so that what it does to itself happens to nobody else.

A filter that crashes, hangs or eats memory ends its own process; the worker stays and says so. Forked,
not started anew: the libraries are there already, and a small series takes less time than their import.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImageTroveError, KilledError, PermanentError, RetriableError, is_of_system
from .programs import ProgramRun, Stopped, allow, recording, stop

GRACE_SECONDS = 5
"""From asking a process to end, so that it can stop its programs, to killing it."""

_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent dies."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one filter run may use: seconds on the wall, and MiB of memory beyond the worker's own."""

    seconds: float
    memory_mib: float


@dataclass(frozen=True)
class Report:
    """How work in a process of its own ended.

    Attributes:
        value: what the work returned; None if ``error`` says why it did not.
        programs: that it started and that have ended.
        memory_mib: the most that the process or one of its programs held at once (RSS); its own
            includes what it shares with the worker.
        cpu_seconds: of the process and its programs together.
        exit_status: of the process; negative is the number of the signal that ended it.
    """

    value: Any
    error: ImageTroveError | None
    programs: tuple[ProgramRun, ...]
    memory_mib: float
    cpu_seconds: float
    exit_status: int


def isolated(
    work: Callable[[], Any],
    limits: Limits,
    begin: Callable[[], None] = lambda: None,
    waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Report:
    """Do ``work`` in a child process; what it returns must be possible to pickle.

    Errors of this package come back as they are, those of the system as RetriableError, others as
    PermanentError. KilledError is for a process that was killed from outside.

    Args:
        begin: called in the child before ``work``, to let go of what only the parent may use.
        waiting: what the parent does meanwhile; begun after the fork, so that it may start a thread.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    # What is buffered would be written by both.
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            status = _child(work, limits, begin, writing, parent)
        finally:
            os._exit(status)  # neither exit handlers nor clean-up, which are the parent's
    os.close(writing)
    said = io.BytesIO()
    ended, late = False, False
    try:
        with waiting():
            late = not _read(reading, said, limits.seconds)
            if late:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                _read(reading, said, GRACE_SECONDS)
        ended = True
    finally:
        os.close(reading)
        if late or not ended:
            if not ended:  # the task itself is being stopped
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                time.sleep(0.2)
            for kill in (os.killpg, os.kill):
                with suppress(ProcessLookupError, PermissionError):
                    kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
    value, error, programs = _answer(said, os.waitstatus_to_exitcode(status), limits, late)
    return Report(
        value,
        error,
        programs,
        memory_mib=usage.ru_maxrss / 1024,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        exit_status=os.waitstatus_to_exitcode(status),
    )


def _read(pipe: int, said: io.BytesIO, seconds: float) -> bool:
    """Take what comes out of a pipe until its end; False if that did not come in time."""
    until = time.monotonic() + seconds
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return False
        block = os.read(pipe, 1 << 20)
        if not block:
            return True
        said.write(block)


def _answer(
    said: io.BytesIO, status: int, limits: Limits, late: bool
) -> tuple[Any, ImageTroveError | None, tuple[ProgramRun, ...]]:
    """What the process returned, or why it did not, and its programs."""
    programs: list[ProgramRun] = []
    answer: tuple[Any, ImageTroveError | None] | None = None
    said.seek(0)
    with suppress(EOFError, pickle.UnpicklingError):  # the last message may be cut off
        while True:
            message = pickle.load(said)
            if isinstance(message, ProgramRun):
                programs.append(message)
            else:
                answer = message
    value: Any = None
    error: ImageTroveError | None = None
    if late:
        error = PermanentError(f"it did not finish within {limits.seconds:g} s and was stopped")
    elif answer is not None:
        value, error = answer
    elif status == -signal.SIGKILL:
        error = KilledError("its process was killed: by the kernel, if the machine was out of memory")
    elif status < 0:
        error = PermanentError(
            f"its process died of {signal.Signals(-status).name}; it may use {limits.memory_mib:g} MiB of memory"
        )
    else:
        error = PermanentError(f"its process ended with status {status} and said nothing")
    return value, error, tuple(programs)


def _child(work: Callable[[], Any], limits: Limits, begin: Callable[[], None], pipe: int, parent: int) -> int:
    """What the child process does; returns its exit status."""
    value, error = None, None
    with os.fdopen(pipe, "wb") as out:

        def say(message: object) -> None:
            # Whole, or not at all: a value that cannot be pickled is an error of its own.
            out.write(pickle.dumps(message))
            out.flush()

        try:
            _settle(limits, parent)
            begin()
            with recording(say):
                value = work()
        except Stopped:
            return 1
        except ImageTroveError as trouble:
            error = trouble
        except MemoryError:
            error = PermanentError(
                f"out of memory: it needs more than its limit of {limits.memory_mib:g} MiB"
            )
        except OSError as trouble:
            error = (RetriableError if is_of_system(trouble) else PermanentError)(str(trouble))
        except BaseException as trouble:  # a fault in a filter, which may even raise SystemExit
            log.error("unexpected in a filter:\n%s", traceback.format_exc())
            error = PermanentError(_unexpected(trouble))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            say((value, error))
        except Exception as trouble:
            log.error("cannot pass on a filter's result: %r", trouble)
            say(
                (
                    None,
                    PermanentError(
                        "the filter has a fault in what it returned; the worker's log has the details"
                    ),
                )
            )
    return 0 if error is None else 1


_OF_PYTHON = (TypeError, AttributeError, LookupError, NameError, ArithmeticError, AssertionError, SystemExit)


def _unexpected(trouble: BaseException) -> str:
    """Words for a fault: the filter's own, unless they are Python's, which mean nothing to whoever reads them."""
    if isinstance(trouble, _OF_PYTHON) or not str(trouble):
        return f"the filter has a fault ({type(trouble).__name__}); the worker's log has the details"
    return f"the filter has a fault: {trouble}"


def _settle(limits: Limits, parent: int) -> None:
    """Make the process one of its own: session, signals, limits, and an end with its parent's."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, stop)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            raise Stopped
        with suppress(OSError):
            # When memory runs out, this process before the worker.
            Path("/proc/self/oom_score_adj").write_text("500")
    allow(limits.seconds, int(limits.memory_mib * 2**20))
    _limit(resource.RLIMIT_DATA, _data_bytes() + int(limits.memory_mib * 2**20))
    # For a process that hangs when nobody is left to stop it.
    _limit(resource.RLIMIT_CPU, int(limits.seconds * (os.cpu_count() or 1) + GRACE_SECONDS))
    _limit(resource.RLIMIT_CORE, 0)


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, hard))


def _data_bytes() -> int:
    """What counts against RLIMIT_DATA already: the memory that was the worker's before the fork."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
