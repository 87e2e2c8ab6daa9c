"""Runs what parses a sender's files in a process with limits of time and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from django.db import connections

from ..errors import PermanentError
from ..formats.dicom.files import time_limit
from ..sandbox.isolation import Limits, isolated

Result = TypeVar("Result")

#: Memory, in MiB, and that of the largest file so many times. Honest files need a few times their size; a bomb
#: needs thousands of times.
MEMORY_MIB = 1024
FILE_SIZES = 4
#: Seconds for a series, for each of its files, and bytes read in a second. An instance takes milliseconds.
SECONDS = 300.0
SECONDS_PER_FILE = 0.1
BYTES_PER_SECOND = 5e6
#: CPU seconds for the attributes of one file: one that needs more is unreadable, and the others are read.
FILE_CPU_SECONDS = 30.0

_left: list[object] = []


def limits_for(paths: Iterable[Path]) -> Limits:
    """The limits for reading files, by their number and size.

    Raises:
        OSError: a file is gone.
    """
    sizes = [path.stat().st_size for path in paths]
    return Limits(
        seconds=SECONDS + SECONDS_PER_FILE * len(sizes) + sum(sizes) / BYTES_PER_SECOND,
        memory_mib=MEMORY_MIB + FILE_SIZES * max(sizes, default=0) / 2**20,
    )


def within_limits(work: Callable[[], Result], paths: Iterable[Path], doing: str) -> Result:
    """Run ``work``, which parses ``paths``, in a child process; its result must be possible to pickle.

    Args:
        doing: for the message, such as "reading".

    Raises:
        PermanentError: the work needs more time or memory than the limits allow, or has failed for good.
        RetriableError: the disk failed, or the process was killed from outside.
    """

    def bounded() -> Result:
        with time_limit(FILE_CPU_SECONDS):
            return work()

    report = isolated(bounded, limits_for(paths), begin=leave_connections)
    if report.error is None:
        return report.value
    if type(report.error) is PermanentError:  # the limits', not the work's own
        raise PermanentError(f"{doing} failed: {report.error}") from report.error
    raise report.error


def leave_connections() -> None:
    """Let go of the database connections, which are the parent's; a child that wants one opens its own."""
    for alias in connections:
        if (found := getattr(connections[alias], "connection", None)) is not None:
            _left.append(found)  # kept, since closing it would close the parent's
            connections[alias].connection = None
