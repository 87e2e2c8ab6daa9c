"""The spool: received files on disk, one folder a series, until they are archived.

Layout under the root::

    incoming/<receiver>/<n>.part         a file that is being received
    incoming/<receiver>/<n>.<size>.part  a complete file of <size> bytes that is being made durable
    series/<SeriesInstanceUID>/<SOPInstanceUID>.dcm            an acknowledged file
    series/<SeriesInstanceUID>/<SOPInstanceUID>~<hash>.dcm     a different file with the same UID
    series/<study UID>/<UID>.zip         files of a study of another format, packed (``formats/packed.py``)
    locks/<SeriesInstanceUID>  held (flock) by the process that ingests the series
    trash/<SeriesInstanceUID>.<time>/  files that a person discarded

Beside them the receiver keeps the senders (``senders.json``, see ``scp/admission.py``) and the accepted
storage commitment requests (``commitments/``, see ``scp/pending.py``).

Order of storing: the complete file gets its name in ``series/`` beside its name in ``incoming/``, then file,
series folder and (once) the series folder's own name are synced at the same time, then the sender gets its
answer, then the name in ``incoming/`` goes. So a file with one name is durable. A file with two names was not
acknowledged, or only just: the next start finds it by its name in ``incoming/``, and keeps it if it is complete.
Locks are the kernel's, so a killed process holds none, and time stamps are never compared.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .disk import SharedFolder, SyncThreads, file_sha256, sync_file, sync_folder
from .errors import RetriableError
from .uids import is_uid

#: Free space that receiving leaves on the disk, so that the host itself goes on working.
DEFAULT_RESERVE_BYTES = 512 * 1024 * 1024

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BLOCK = 1024 * 1024
#: Series folders that a process keeps open.
_OPEN_FOLDERS = 128
#: Most bytes that a process writes, and most seconds that pass, before it measures free space again.
_MOST_LEASED = 64 * 1024 * 1024
_LEASE_SECONDS = 1.0
#: A process takes this share of the free space at once: as many processes can receive without touching the reserve.
_LEASE_SHARE = 64
_COMPLETE = re.compile(r"\d+\.(\d+)\.part\Z")

logger = logging.getLogger(__name__)


class SpoolError(RetriableError):
    """The spool cannot be read or written; the message names the path."""


class SpoolFull(SpoolError):
    """Storing more would take the disk below its reserve."""


class Stored(Enum):
    """How a file was stored."""

    NEW = "new"
    IDENTICAL = "identical"  # a file with the same bytes was already there
    DIFFERENT = "different"  # a file with other bytes and the same SOP Instance UID was there: both are kept


@dataclass(frozen=True)
class Added:
    """A file that :meth:`Spool.add` has stored.

    Attributes:
        uid: of its series, or study.
        item: its own UID.
        size: bytes.
        sha256: of its bytes, in hexadecimal.
    """

    outcome: Stored
    uid: str
    item: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Trashed:
    """Files of a series in the trash.

    Attributes:
        since: when they were moved there, in seconds since 1970.
    """

    series_uid: str
    since: int
    path: Path
    files: int
    bytes: int


def _trashed(folder: Path) -> Trashed | None:
    """A folder of the trash; None if it is none."""
    uid, _, since = folder.name.rpartition(".")
    if not is_uid(uid) or not since.isdecimal():
        return None
    sizes = [entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()]
    return Trashed(uid, int(since), folder, len(sizes), sum(sizes))


def item_uid(path: Path) -> str:
    """The UID that a file in the spool was stored under."""
    return path.stem.partition("~")[0]


@contextlib.contextmanager
def disk_errors(what: str, path: Path) -> Iterator[None]:
    """Raise errors of the operating system as SpoolError, with the operation and the path."""
    try:
        yield
    except OSError as error:
        family = SpoolFull if error.errno in _FULL else SpoolError
        raise family(f"{what} {path}: {error.strerror}") from error


class _FreeSpace:
    """The space on one disk that this process may still use, shared by its threads.

    Free space is measured for a share at a time, at least once a second, and not for every write. The kernel counts
    the writes of all processes, so the shares of up to 64 receiving processes together leave the reserve alone.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._left = 0
        self._measured = 0.0

    def take(self, size: int) -> None:
        """Reserve ``size`` bytes for a write; 0 asks whether there is any space.

        Raises:
            SpoolFull: the write would use the reserve.
        """
        if not self._spool.reserve_bytes:
            return
        now = time.monotonic()
        with self._lock:
            if not 0 <= size < self._left or now - self._measured > _LEASE_SECONDS:
                free = self._spool.free_bytes()
                if free <= size:
                    self._left = 0
                    raise SpoolFull(
                        f"free space on the disk of {self._spool.root} is below the reserve of"
                        f" {self._spool.reserve_bytes // 1024**2} MiB"
                    )
                self._left = max(size + 1, min(_MOST_LEASED, free // _LEASE_SHARE))
                self._measured = now
            self._left -= size


class _ReceivingProcess:
    """The state of one process that receives: its folder under ``incoming/``, and the series folders that it has open."""

    def __init__(self, spool: Spool) -> None:
        self.pid = os.getpid()
        name = uuid.uuid4().hex
        lock = spool.root / "incoming" / f"{name}.lock"
        # Locked before the folder appears, so that no other process takes this one for dead in between.
        self._lock_file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self.folder = spool.root / "incoming" / name
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            self.folder.mkdir()
        except OSError:
            os.close(self._lock_file)
            with contextlib.suppress(OSError):
                lock.unlink()
            raise
        self.numbers = itertools.count()
        self.space = _FreeSpace(spool)
        self._series_root = spool.series_root
        self._threads = SyncThreads()
        self._lock = threading.Lock()
        self._root: SharedFolder | None = None
        self._folders: OrderedDict[str, SharedFolder] = OrderedDict()

    def series_root(self) -> SharedFolder:
        """The folder of all series.

        Raises:
            OSError: it cannot be opened.
        """
        with self._lock:
            if self._root is None or not self._root.is_at(self._series_root):
                self._root = SharedFolder(self._series_root, self._threads)
            return self._root

    def series_folder(self, series_uid: str) -> SharedFolder:
        """The folder of a series, made if it does not exist.

        Raises:
            OSError: it cannot be made or opened.
        """
        path = self._series_root / series_uid
        with self._lock:
            folder = self._folders.pop(series_uid, None)
            while folder is None or not folder.is_at(path):
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                with contextlib.suppress(FileNotFoundError):  # ingest has just removed it
                    folder = SharedFolder(path, self._threads)
            self._folders[series_uid] = folder
            while len(self._folders) > _OPEN_FOLDERS:
                self._folders.popitem(last=False)
            return folder


class Spool:
    """The spool under ``root``; any number of processes may use it at once.

    Args:
        root: a folder on a local disk, or on NFS version 4 (which has locks and links). On ext4 with the default
            ``data=ordered``, or on XFS: the size of a file on disk does not run ahead of its bytes there.
        reserve_bytes: free space, in bytes, that receiving leaves alone.
    """

    def __init__(self, root: Path | str, reserve_bytes: int = DEFAULT_RESERVE_BYTES) -> None:
        self.root = Path(root).absolute()
        self.reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._process: _ReceivingProcess | None = None

    def __reduce__(self) -> tuple[type[Spool], tuple[Path, int]]:
        return Spool, (self.root, self.reserve_bytes)

    @property
    def series_root(self) -> Path:
        return self.root / "series"

    # Receiving

    def prepare(self) -> None:
        """Make the folders, check that they can be written, and clear up after dead receivers.

        Raises:
            SpoolError: a folder cannot be made or written.
        """
        with disk_errors("cannot prepare the spool", self.root):
            for folder in ("incoming", "series", "locks", "commitments"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            self._clear_up()
            self._receiving_process()
            sync_folder(self.root)

    def _receiving_process(self) -> _ReceivingProcess:
        with self._lock:
            if self._process is None or self._process.pid != os.getpid():
                self._process = _ReceivingProcess(self)
            return self._process

    def _clear_up(self) -> None:
        for folder in (self.root / "incoming").iterdir():
            if not folder.is_dir() or (self._process is not None and folder == self._process.folder):
                continue
            lock = folder.with_suffix(".lock")
            try:
                descriptor = os.open(lock, os.O_RDWR)
            except FileNotFoundError:
                self._remove_incoming(folder)
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                if self._remove_incoming(folder):
                    lock.unlink(missing_ok=True)
            finally:
                os.close(descriptor)

    def _remove_incoming(self, folder: Path) -> bool:
        """Remove a dead receiver's folder, after its files with a second name in ``series/`` are settled."""
        linked = {}
        for entry in os.scandir(folder):
            status = entry.stat(follow_symlinks=False)
            if status.st_nlink > 1:
                linked[status.st_ino] = (Path(entry.path), status.st_size)
        try:
            if linked:
                self._settle(linked)
        except OSError as error:
            logger.error("cannot clear up %s, trying again at the next start: %s", folder, error)
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return True

    def _settle(self, linked: dict[int, tuple[Path, int]]) -> None:
        """Make complete files of a dead receiver durable, and take the names of others away.

        A file whose receiver died between its second name and its sync is complete unless the power failed: then
        it may be shorter than it was. Nobody has acknowledged a short one.
        """
        for series in os.scandir(self.series_root):
            if not series.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(series.path):
                part, size = linked.get(entry.inode(), (None, 0))
                if part is None:
                    continue
                path = Path(entry.path)
                complete = _COMPLETE.search(part.name)
                if complete is None or int(complete[1]) == size:
                    sync_file(path)
                else:
                    logger.warning(
                        "removing %s: it has %d of %s bytes and was not acknowledged", path, size, complete[1]
                    )
                    path.unlink(missing_ok=True)
                sync_folder(path.parent)
                sync_folder(self.series_root)

    def free_bytes(self) -> int:
        """Free space above the reserve, in bytes; negative in the reserve."""
        with disk_errors("cannot measure the spool", self.root):
            disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize - self.reserve_bytes

    def incoming(self) -> Incoming:
        """A new temporary file to receive into.

        Raises:
            SpoolFull: free space is below the reserve.
            SpoolError: the file cannot be made.
        """
        process = self._process
        if process is None or process.pid != os.getpid():
            if self.free_bytes() <= 0:
                raise SpoolFull(
                    f"free space on the disk of {self.root} is below the reserve of"
                    f" {self.reserve_bytes // 1024**2} MiB"
                )
            self.prepare()  # the disk may have been full when the receiver started
            process = self._receiving_process()
        process.space.take(0)
        with disk_errors("cannot write in the spool", self.root):
            return Incoming(process, process.folder / f"{next(process.numbers)}.part")

    def add(
        self,
        chunks: Iterable[bytes],
        identify: Callable[[Path], tuple[str, str]],
        suffix: str = ".dcm",
        most: int = 0,
    ) -> Added:
        """Store bytes that are at hand: durable when this returns.

        Args:
            identify: called with the complete file, which has a temporary name; says the UIDs of the series (or
                study) and of the file.
            suffix: of the file in the spool, by which its format is known.
            most: bytes that are expected; there must be room for them.

        Raises:
            SpoolFull: no space, or the write would use the reserve.
            SpoolError: another error of the disk.
            ValueError: an invalid UID (PS3.5 section 9.1).
            Exception: what ``chunks`` or ``identify`` raises; then nothing is stored.
        """
        if most and self.free_bytes() < most:
            raise SpoolFull(
                f"the disk of {self.root} has no room for {most / 2**20:.0f} MiB beside the reserve of"
                f" {self.reserve_bytes // 2**20} MiB"
            )
        digest, size = hashlib.sha256(), 0
        with self.incoming() as incoming:
            for chunk in chunks:
                incoming.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            uid, item = identify(incoming.path)
            return Added(incoming.commit(uid, item, suffix), uid, item, size, digest.hexdigest())

    # Reading

    def series_uids(self) -> list[str]:
        """SeriesInstanceUIDs of the series that have files waiting."""
        with disk_errors("cannot read the spool", self.series_root):
            return sorted(entry.name for entry in os.scandir(self.series_root) if is_uid(entry.name))

    def token(self, series_uid: str) -> tuple[int, int] | None:
        """A value that changes whenever files come or go; None without files."""
        folder = self.series_root / series_uid
        with disk_errors("cannot read the spool", folder):
            try:
                count = sum(1 for _ in os.scandir(folder))
                return (count, folder.stat().st_mtime_ns) if count else None
            except FileNotFoundError:
                return None

    def files(self, series_uid: str) -> list[Path]:
        """The files waiting in a series, by name."""
        folder = self.series_root / series_uid
        with disk_errors("cannot read the spool", folder):
            try:
                names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
            except FileNotFoundError:
                return []
        return [folder / name for name in names]

    @contextlib.contextmanager
    def lock(self, series_uid: str) -> Iterator[bool]:
        """Lock a series for ingest; yields False if another process holds the lock."""
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

    def discard(self, series_uid: str, files: Iterable[Path]) -> None:
        """Remove archived files, and the series' folder if it is then empty."""
        folder = self.series_root / series_uid
        with disk_errors("cannot clear", folder):
            for path in files:
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a new instance may just have arrived
                folder.rmdir()

    # The trash: what a person discarded, until it is restored or too old

    @property
    def trash_root(self) -> Path:
        return self.root / "trash"

    def move_to_trash(self, series_uid: str) -> Trashed | None:
        """Move what waits in a series to the trash; None if nothing does. Hold the series' lock.

        It comes back by :meth:`restore`. What arrives meanwhile stays in the series.
        """
        folder = self.series_root / series_uid
        with disk_errors("cannot discard", folder):
            # One by one: a receiver may just be putting another file into the folder.
            files = [path for path in self.files(series_uid) if path.stat().st_nlink == 1]
            if not files:
                return None
            self.trash_root.mkdir(exist_ok=True)
            for now in itertools.count(int(time.time())):
                target = self.trash_root / f"{series_uid}.{now}"
                with contextlib.suppress(FileExistsError):
                    target.mkdir()
                    break
            sync_folder(self.trash_root)
            for path in files:
                path.rename(target / path.name)
            sync_folder(target)
            sync_folder(folder)
            with contextlib.suppress(OSError):  # a new instance may just have arrived
                folder.rmdir()
        return _trashed(target)

    def trash(self, series_uid: str = "") -> list[Trashed]:
        """What is in the trash, of one series or of all, the oldest first."""
        with disk_errors("cannot read", self.trash_root):
            if not self.trash_root.exists():
                return []
            found = [_trashed(Path(entry.path)) for entry in os.scandir(self.trash_root) if entry.is_dir()]
        own = [one for one in found if one is not None and series_uid in ("", one.series_uid)]
        return sorted(own, key=lambda one: (one.since, one.series_uid))

    def restore(self, series_uid: str) -> int:
        """Move what the trash has of a series back; returns the number of files. Hold the series' lock.

        A file that has come again meanwhile with the same bytes is removed from the trash; of other bytes, it comes
        back under a name of its own.
        """
        folder = self.series_root / series_uid
        count = 0
        for one in self.trash(series_uid):
            with disk_errors("cannot restore", one.path):
                folder.mkdir(exist_ok=True)
                for path in sorted(one.path.iterdir()):
                    digest = file_sha256(path)
                    target = folder / path.name
                    if target.exists() and file_sha256(target) != digest:
                        target = folder / f"{item_uid(path)}~{digest[:16]}{path.suffix}"
                    path.replace(target)
                    count += 1
                sync_folder(folder)
                sync_folder(self.series_root)
                one.path.rmdir()
                sync_folder(self.trash_root)
        return count

    def empty_trash(self, days: float) -> list[Trashed]:
        """Remove for good what has been in the trash for so many days; returns it."""
        old = [one for one in self.trash() if one.since < time.time() - days * 86400]
        for one in old:
            with disk_errors("cannot remove", one.path):
                shutil.rmtree(one.path)
        return old


class Incoming:
    """One file that is being received; leaving the context without :meth:`commit` removes it."""

    def __init__(self, process: _ReceivingProcess, path: Path) -> None:
        self._process = process
        self.path = path
        self._file = path.open("xb", buffering=0)
        self._size = 0
        self._must_stay = False

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        if not self._must_stay:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes.

        Raises:
            SpoolFull: no space, or the write would use the reserve.
            SpoolError: another error of the disk.
        """
        view = memoryview(data)
        self._process.space.take(len(view))
        with disk_errors("cannot write", self.path):
            self._size += len(view)
            while view:
                view = view[self._file.write(view) :]

    def commit(self, series_uid: str, uid: str, suffix: str = ".dcm") -> Stored:
        """Store the file durably: its bytes, its name, and the name of its folder are synced.

        Leaving the context afterwards removes the temporary name, which may wait until the sender has its answer.

        Raises:
            ValueError: an invalid UID (PS3.5 section 9.1).
            SpoolError: the disk fails; nothing may be acknowledged, and the name is taken away again.
        """
        for given in (series_uid, uid):
            if not is_uid(given):
                raise ValueError(f"not a DICOM UID: {given[:80]!r}")
        with disk_errors("cannot store", self.path):
            # The next start compares the size with the file's, if this process does not get to the end.
            complete = self.path.with_suffix(f".{self._size}.part")
            self.path.rename(complete)
            self.path = complete
            while True:
                folder = self._process.series_folder(series_uid)
                try:
                    return self._store(folder, uid, suffix)
                except FileNotFoundError:
                    # Ingest has removed the folder, which was empty; or incoming/ was cleared away.
                    if not self.path.exists():
                        raise

    def _store(self, folder: SharedFolder, uid: str, suffix: str) -> Stored:
        name, outcome = f"{uid}{suffix}", Stored.NEW
        while True:
            try:
                os.link(self.path, name, dst_dir_fd=folder.descriptor)
            except FileExistsError:
                try:
                    if self._is_same(folder, name):
                        self._sync_duplicate(folder, name)
                        return Stored.IDENTICAL
                except FileNotFoundError:  # ingest has just taken it
                    continue
                name = f"{uid}~{file_sha256(self.path)[:16]}{suffix}"
                outcome = Stored.DIFFERENT
                continue
            try:
                self._sync(folder)
            except OSError:
                self._take_back(folder, name)
                raise
            return outcome

    def _sync(self, folder: SharedFolder, file: bool = True) -> None:
        """Sync file, folder and the folder's own name at the same time: the file system joins them in one commit."""
        rounds = [folder.request_sync()]
        listed = folder.is_listed
        if not listed:
            rounds.append(self._process.series_root().request_sync())
        if file:
            os.fsync(self._file.fileno())
        for one in rounds:
            one.wait()
        if not listed:
            folder.is_listed = True

    def _is_same(self, folder: SharedFolder, name: str) -> bool:
        """Whether the file there has the same bytes."""
        with open(name, "rb", opener=_opener(folder)) as other:
            if os.fstat(other.fileno()).st_size != self._size:
                return False
            with self.path.open("rb") as own:
                while block := own.read(_BLOCK):
                    if block != other.read(_BLOCK):
                        return False
        return True

    def _sync_duplicate(self, folder: SharedFolder, name: str) -> None:
        """Sync what is needed to acknowledge a file that is already there.

        A file with one name is durable. One with two may be waiting for its sync, which may fail, or its receiver
        was killed: then this file takes its place.
        """
        if os.stat(name, dir_fd=folder.descriptor).st_nlink > 1:
            os.fsync(self._file.fileno())
            with _locked(folder):
                os.replace(self.path, name, dst_dir_fd=folder.descriptor)
        self._sync(folder, file=False)

    def _take_back(self, folder: SharedFolder, name: str) -> None:
        """Remove the name of a file that could not be synced, unless another file has it now."""
        self._must_stay = True  # two names say that it is not durable
        with contextlib.suppress(OSError), _locked(folder):
            own = os.fstat(self._file.fileno())
            with contextlib.suppress(FileNotFoundError):
                there = os.stat(name, dir_fd=folder.descriptor)
                if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino):
                    os.unlink(name, dir_fd=folder.descriptor)
            self._must_stay = False


@contextlib.contextmanager
def _locked(folder: SharedFolder) -> Iterator[None]:
    """Hold a series folder against others who replace or take back a name in it."""
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder.descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _opener(folder: SharedFolder) -> Callable[[str, int], int]:
    return lambda name, flags: os.open(name, flags | os.O_CLOEXEC, dir_fd=folder.descriptor)
