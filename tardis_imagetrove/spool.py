"""The spool: durable files on disk, one folder a series, which are the truth about what arrived.

Layout under the root::

    incoming/<receiver>/…      files being received; a dead receiver's are removed at the next start
    series/<SeriesInstanceUID>/<SOPInstanceUID>.dcm            what was acknowledged
    series/<SeriesInstanceUID>/<SOPInstanceUID>~<hash>.dcm     another file under the same UID
    locks/<SeriesInstanceUID>  held (flock) by whoever ingests the series

Beside them the receiver keeps who may send (``senders.json``, see ``scp/admission.py``) and storage
commitment requests that it has taken on (``commitments/``, see ``scp/pending.py``).

A file appears under ``series/`` complete and synced or not at all. Locks are the kernel's, so
a killed process holds none, and no time stamp is ever compared.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .disk import sync_folder
from .errors import RetriableError

#: Free space that receiving leaves on the disk, so that the host itself goes on working.
DEFAULT_RESERVE_BYTES = 512 * 1024 * 1024

#: A UID as PS3.5 section 9.1 has it, tolerant of leading zeros, which instruments do send.
UID_PATTERN = re.compile(r"[0-9]+(?:\.[0-9]+)*\Z")

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BLOCK = 1024 * 1024


class SpoolError(RetriableError):
    """The spool cannot be written or read; the text names the path."""


class SpoolFull(SpoolError):
    """Storing more would take the disk below its reserve."""


class Stored(Enum):
    """What became of a committed file."""

    NEW = "new"
    IDENTICAL = "identical"  # the same bytes were there already
    DIFFERENT = "different"  # other bytes under the same SOP Instance UID: both are kept


@dataclass(frozen=True)
class SpooledFile:
    """One acknowledged file."""

    path: Path
    sop_instance_uid: str


def is_uid(text: str) -> bool:
    """Whether ``text`` may be a UID (PS3.5 section 9.1): at most 64 digits and dots."""
    return len(text) <= 64 and UID_PATTERN.match(text) is not None


@contextlib.contextmanager
def disk_errors(what: str, path: Path) -> Iterator[None]:
    """Turn what the operating system says into a SpoolError that says what was tried, and where."""
    try:
        yield
    except OSError as error:
        family = SpoolFull if error.errno in _FULL else SpoolError
        raise family(f"{what} {path}: {error.strerror}") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class Spool:
    """The spool under ``root``; any number of processes may use it at once.

    Args:
        root: a folder on a local disk, or on NFS version 4 (which has locks and links).
        reserve_bytes: free space, in bytes, below which nothing more is accepted.
    """

    def __init__(self, root: Path | str, reserve_bytes: int = DEFAULT_RESERVE_BYTES) -> None:
        self.root = Path(root).absolute()
        self.reserve_bytes = reserve_bytes
        self._incoming: Path | None = None
        self._incoming_lock: int | None = None
        self._owner: int | None = None

    @property
    def series_root(self) -> Path:
        return self.root / "series"

    # Receiving

    def prepare(self) -> None:
        """Make the folders, prove that they can be written, remove what dead receivers left.

        Raises:
            SpoolError: the folder cannot be made or written.
        """
        with disk_errors("cannot prepare the spool", self.root):
            for folder in ("incoming", "series", "locks", "commitments"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            self._remove_dead_receivers()
            self._claim_incoming()
            sync_folder(self.root)

    def _claim_incoming(self) -> Path:
        if self._incoming is not None and self._owner == os.getpid():
            return self._incoming
        name = uuid.uuid4().hex
        lock = self.root / "incoming" / f"{name}.lock"
        # Locked before the folder appears, so that nobody takes us for dead in between.
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        folder = self.root / "incoming" / name
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            folder.mkdir()
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                lock.unlink()
            raise
        self._incoming, self._incoming_lock, self._owner = folder, descriptor, os.getpid()
        return folder

    def _remove_dead_receivers(self) -> None:
        for folder in (self.root / "incoming").iterdir():
            if not folder.is_dir() or folder == self._incoming:
                continue
            lock = folder.with_suffix(".lock")
            try:
                descriptor = os.open(lock, os.O_RDWR)
            except FileNotFoundError:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)
            finally:
                os.close(descriptor)

    def free_bytes(self) -> int:
        """Free space that receiving may still use, in bytes (below 0 when in the reserve)."""
        with disk_errors("cannot measure the spool", self.root):
            disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize - self.reserve_bytes

    def incoming(self) -> Incoming:
        """A new temporary file to receive into.

        Raises:
            SpoolFull: the disk is down to its reserve.
            SpoolError: the file cannot be made.
        """
        if self.free_bytes() <= 0:
            raise SpoolFull(
                f"the disk of {self.root} has less than {self.reserve_bytes // 1024**2} MiB free, which are kept in reserve"
            )
        if self._incoming is None or self._owner != os.getpid():
            self.prepare()  # the disk may have been full when we started
        with disk_errors("cannot write in the spool", self.root):
            return Incoming(self, self._claim_incoming() / f"{uuid.uuid4().hex}.part")

    # Reading

    def series_uids(self) -> list[str]:
        """SeriesInstanceUIDs of the series that have files waiting."""
        with disk_errors("cannot read the spool", self.series_root):
            return sorted(entry.name for entry in os.scandir(self.series_root) if is_uid(entry.name))

    def token(self, series_uid: str) -> tuple[int, int] | None:
        """Something that differs whenever files came or went; None when there are none."""
        folder = self.series_root / series_uid
        with disk_errors("cannot read the spool", folder):
            try:
                count = sum(1 for _ in os.scandir(folder))
                return (count, folder.stat().st_mtime_ns) if count else None
            except FileNotFoundError:
                return None

    def files(self, series_uid: str) -> list[SpooledFile]:
        """The files waiting in a series, by name."""
        folder = self.series_root / series_uid
        with disk_errors("cannot read the spool", folder):
            try:
                names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
            except FileNotFoundError:
                return []
        return [SpooledFile(folder / name, name.removesuffix(".dcm").partition("~")[0]) for name in names]

    @contextlib.contextmanager
    def lock(self, series_uid: str) -> Iterator[bool]:
        """Hold the right to ingest a series; yields False when somebody else holds it."""
        path = self.root / "locks" / series_uid
        with disk_errors("cannot lock", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            # The name may have been removed by the former holder while we waited.
            try:
                current = path.stat().st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                current = False
            if not current:
                yield False
                return
            try:
                yield True
            finally:
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def discard(self, series_uid: str, files: list[SpooledFile]) -> None:
        """Remove files that are safe elsewhere, and the series' folder when it is empty."""
        folder = self.series_root / series_uid
        with disk_errors("cannot clear", folder):
            for file in files:
                file.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a new instance may just have arrived
                folder.rmdir()


class Incoming:
    """One file being received; leaving the context without :meth:`commit` removes it."""

    def __init__(self, spool: Spool, path: Path) -> None:
        self._spool = spool
        self.path = path
        self._file = path.open("xb", buffering=0)
        self._committed = False

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        if not self._committed:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes.

        Raises:
            SpoolFull: no space, or the reserve is reached.
            SpoolError: anything else that the disk refuses.
        """
        with disk_errors("cannot write", self.path):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]

    def commit(self, series_uid: str, sop_instance_uid: str) -> Stored:
        """Make the file durable under its final name: synced, and its folder synced.

        Raises:
            ValueError: a UID that is none (PS3.5 section 9.1).
            SpoolError: the disk refuses; nothing may be acknowledged.
        """
        for uid in (series_uid, sop_instance_uid):
            if not is_uid(uid):
                raise ValueError(f"not a DICOM UID: {uid[:80]!r}")
        with disk_errors("cannot store", self.path):
            os.fsync(self._file.fileno())
            self._file.close()
            folder = self._spool.series_root / series_uid
            outcome = self._link(folder, sop_instance_uid)
            self.path.unlink()
            self._committed = True
            # Also for an identical file: its first sender may have died before this line.
            try:
                sync_folder(folder)
            except FileNotFoundError:
                # Ingest has just archived and verified it, and removed the folder that was empty then.
                # A spool that is gone altogether still raises here.
                sync_folder(folder.parent)
        return outcome

    def _link(self, folder: Path, sop_instance_uid: str) -> Stored:
        outcome = Stored.NEW
        final = folder / f"{sop_instance_uid}.dcm"
        while True:
            try:
                os.link(self.path, final)
                return outcome
            except FileNotFoundError:  # no folder yet, or ingest has just removed it empty
                if not self.path.exists():  # somebody cleared incoming/
                    raise
                with contextlib.suppress(FileExistsError):
                    folder.mkdir()
                    sync_folder(folder.parent)
            except FileExistsError:
                try:
                    if _same_bytes(self.path, final):
                        return Stored.IDENTICAL
                except FileNotFoundError:  # ingest has just taken it: ours is the next
                    continue
                outcome = Stored.DIFFERENT
                final = folder / f"{sop_instance_uid}~{file_sha256(self.path)[:16]}.dcm"


def _same_bytes(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while block := a.read(_BLOCK):
            if block != b.read(_BLOCK):
                return False
    return True
