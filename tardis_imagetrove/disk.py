"""Makes files and names durable, so that a power cut does not take them."""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

#: Folders that one process syncs at the same time.
_SYNC_THREADS = 8


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1024 * 1024):
            digest.update(block)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Write a file's bytes to the disk, whichever process wrote them."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SyncThreads:
    """Threads of this process that sync folders, started when they are needed."""

    def __init__(self, limit: int = _SYNC_THREADS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads = 0
        self._unfinished = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job``, which must not raise, on one of the threads."""
        with self._lock:
            self._unfinished += 1
            more = self._unfinished > self._threads and self._threads < self._limit
            if more:
                try:
                    threading.Thread(target=self._run, name="sync", daemon=True).start()
                    self._threads += 1
                except RuntimeError:  # the system has no more threads
                    more = False
            alone = self._threads == 0
        if not alone:
            self._jobs.put(job)
            return
        job()
        self._finished()

    def _finished(self) -> None:
        with self._lock:
            self._unfinished -= 1

    def _run(self) -> None:
        while True:
            self._jobs.get()()
            self._finished()


class _Round:
    """One sync, for everybody who asked before it began."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._error: OSError | None = None

    def finish(self, error: OSError | None) -> None:
        self._error = error
        self._done.set()

    def wait(self) -> None:
        """Return when the sync has succeeded.

        Raises:
            OSError: it has failed.
        """
        self._done.wait()
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror)


class SharedFolder:
    """An open folder that many threads put names into; one sync serves all who wait for one.

    The open descriptor keeps the folder's inode number from being used again, so :meth:`is_at`
    recognises a folder that was removed and made anew.

    Raises:
        OSError: the folder cannot be opened.
    """

    def __init__(self, path: Path, threads: SyncThreads) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.fstat(self.descriptor)
        self._identity = (status.st_dev, status.st_ino)
        #: Whether this process has synced the folder's own name in its parent.
        self.is_listed = False
        self._threads = threads
        self._lock = threading.Lock()
        self._next: _Round | None = None
        self._busy = False

    def __del__(self) -> None:
        descriptor = getattr(self, "descriptor", None)
        if descriptor is not None:
            os.close(descriptor)

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` still names this folder."""
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def request_sync(self) -> _Round:
        """Have the names that are in the folder now made durable; ``wait()`` of the answer says when they are."""
        with self._lock:
            if self._next is None:
                self._next = _Round()
            asked = self._next
            start, self._busy = not self._busy, True
        if start:
            self._threads.submit(self._sync_rounds)
        return asked

    def _sync_rounds(self) -> None:
        while True:
            with self._lock:
                current, self._next = self._next, None
                if current is None:
                    self._busy = False
                    return
            try:
                os.fsync(self.descriptor)
            except Exception as error:
                # Whatever it is, those who wait must hear of it.
                current.finish(error if isinstance(error, OSError) else OSError(errno.EIO, repr(error)))
            else:
                current.finish(None)
