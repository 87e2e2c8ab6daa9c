"""Folders for a piece of work that do not outlive it, not even if its worker is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

PREFIX = "imagetrove-"
_LOCK = "lock"

YOUNG_SECONDS = 3600.0
"""A folder is left alone for so long, whatever its lock says: it may be about to be locked."""


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new, empty folder below ``parent``, removed at the end, with what killed processes have left there.

    It is in use as long as the process that made it, or a child of that, keeps the lock beside it.

    Raises:
        OSError: it cannot be made.
    """
    _sweep(parent)
    with (
        TemporaryDirectory(prefix=PREFIX, dir=parent) as place,
        Path(place, _LOCK).open("xb") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(place, "work")
        folder.mkdir()
        yield folder


def _sweep(parent: Path) -> None:
    """Remove the folders that nobody uses any more: unpacked scans fill a disk, and may name people."""
    for place in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = place / _LOCK
            if place.lstat().st_uid != os.getuid() or time.time() - lock.stat().st_mtime < YOUNG_SECONDS:
                continue
            with lock.open("r+b") as file:  # for writing, which a lock on NFS needs
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place)
