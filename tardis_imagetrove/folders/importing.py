"""Takes the files of a unit into the spool: each DICOM file by itself, a study of another format as one pack."""

from __future__ import annotations

import hashlib
import logging
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..archive import Entry, manifest_entry, stream
from ..errors import PermanentError
from ..formats.base import Fields
from ..formats.dicom.fields import is_keyword
from ..formats.dicom.files import NoInstance, UnreadableFile, read_header
from ..formats.paravision.study import KIND as PARAVISION
from ..formats.paravision.study import is_study, study_fields, study_uid
from ..spool import Spool
from ..uids import derived_uid, is_uid
from .journal import Journal, Taken
from .source import Kind, Source
from .tree import File, Listing, list_unit

log = logging.getLogger(__name__)

_BLOCK = 1024 * 1024
#: Bytes before the four letters that every DICOM file has (PS3.10 section 7.1).
_PREAMBLE = 128
#: Bytes of a file in a ZIP or TAR that are unpacked at most.
LARGEST_PART = 64 * 1024**3


class FileChanged(Exception):
    """A file grew or was replaced while it was read; the unit is not complete."""


@dataclass
class Imported:
    """What one import of a unit has done.

    Attributes:
        taken: files and parts that are in the spool now, with their series or studies.
        known: files that were taken before and have not changed.
        left_out: reason for each path that was not taken.
        unstable: the unit changed meanwhile, or part of it could not be read now; it is imported again.
    """

    taken: list[Taken] = field(default_factory=list)
    known: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    unstable: str = ""

    @property
    def uids(self) -> set[str]:
        return {entry.uid for entry in self.taken if entry.uid}


Progress = Callable[[Taken], None]
Announce = Callable[[str], None]


@dataclass(frozen=True)
class Unit:
    """What is imported as one: an entry of a source's root, or a study in it.

    Attributes:
        name: its path below the source's root.
    """

    name: str
    path: Path


def units(source: Source) -> Iterator[Unit]:
    """The units of a source: studies for ParaVision, wherever they lie; else the entries of the root.

    Raises:
        OSError: the root cannot be listed, as when a mount is away.
    """
    if source.kind is Kind.PARAVISION:
        yield from _studies(source)
        return
    for entry in sorted(source.root.iterdir(), key=lambda path: path.name):
        if _is_marker(entry.name, source) or source.leaves(entry.name):
            continue
        # Patterns of what to take are about files.
        if entry.is_dir() or source.wants(entry.name):
            yield Unit(entry.name, entry)


def _is_marker(name: str, source: Source) -> bool:
    if not source.marker:
        return False
    before, _, after = source.marker.partition("{name}")
    return name.startswith(before) and name.endswith(after)


_STUDY_DEPTH = 6
"""Folders between a source's root and a study at most: users, and ParaVision 5's ``nmr``."""


def _studies(source: Source) -> Iterator[Unit]:
    if is_study(source.root):
        yield Unit(".", source.root)
        return
    waiting = [(source.root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        try:
            entries = sorted(folder.iterdir(), key=lambda path: path.name)
        except OSError as error:
            if folder == source.root:  # the mount is away
                raise
            name = folder.relative_to(source.root).as_posix()
            log.warning("folder source %s: %s cannot be read: %s", source.key, name, error.strerror)
            continue
        for entry in entries:
            if entry.is_symlink() or not entry.is_dir():
                continue
            name = entry.relative_to(source.root).as_posix()
            try:
                if source.leaves(name):
                    continue
                if is_study(entry):
                    yield Unit(name, entry)
                elif depth < _STUDY_DEPTH:
                    waiting.append((entry, depth + 1))
            except OSError as error:
                log.warning("folder source %s: %s cannot be read: %s", source.key, name, error.strerror)


def listing_of(source: Source, unit: Unit) -> Listing:
    """The files of a unit that the source's patterns take."""
    prefix = "" if unit.name == "." else f"{unit.name}/"
    if not unit.path.is_dir():
        return list_unit(unit.path, source.wants)
    return list_unit(
        unit.path,
        lambda path: source.wants(prefix + path) and not _is_marker(path.rpartition("/")[2], source),
    )


def has_marker(source: Source, unit: Unit) -> bool:
    """Whether the marker that completes a unit is there, in it or beside it; ``True`` where none is asked for."""
    if not source.marker:
        return True
    name = source.marker.replace("{name}", unit.path.name)
    return (unit.path / name).exists() or (unit.path.parent / name).exists()


def import_unit(
    source: Source,
    unit: Unit,
    spool: Spool,
    journal: Journal,
    progress: Progress = lambda taken: None,
    announce: Announce = lambda uid: None,
    listing: Listing | None = None,
) -> Imported:
    """Take what is new of a unit into the spool; what was taken already is not read again.

    Args:
        progress: called for each file that was read.
        announce: called with the UID of a series or study before its first file is in the spool.

    Raises:
        SpoolError: the spool cannot be written; what was taken stays taken.
    """
    listing = listing_of(source, unit) if listing is None else listing
    result = Imported(left_out=dict(listing.left_out), unstable=listing.unreadable)
    new = []
    for file in listing.files:
        if journal.has(file):
            result.known += 1
            result.left_out.update(
                {_shown(entry): entry.reason for entry in journal.of(file.path) if entry.reason}
                if source.kind is Kind.DICOM
                else {}
            )
        else:
            new.append(file)
    if source.kind is Kind.DICOM:
        _import_dicom(unit, new, spool, journal, progress, _once(announce), result)
    elif new:
        _import_study(source, unit, new, spool, journal, progress, announce, result)
    return result


def _once(announce: Announce) -> Announce:
    announced: set[str] = set()

    def first(uid: str) -> None:
        if uid not in announced:
            announce(uid)
            announced.add(uid)

    return first


def _shown(entry: Taken) -> str:
    return f"{entry.path}: {entry.part}" if entry.part else entry.path


# DICOM


def _import_dicom(
    unit: Unit,
    files: list[File],
    spool: Spool,
    journal: Journal,
    progress: Progress,
    announce: Announce,
    result: Imported,
) -> None:
    for file in files:
        path = unit.path if unit.path.is_file() else unit.path / file.path
        entries: list[Taken] = []
        try:
            for entry in _take_file(path, file, spool, announce):
                entries.append(entry)
                progress(entry)
                if len(entries) % 500 == 0 and entry.part:
                    journal.add(*entries)
        except FileChanged as error:
            result.unstable = str(error)
            continue
        except OSError as error:
            result.unstable = f"{file.path}: {error.strerror or error}"
            result.left_out[file.path] = f"cannot be read ({error.strerror or error})"
            continue
        if entries[-1].part:  # of the archive itself, once all its parts are safe
            entries.append(Taken(file.path, file.size, file.changed))
        journal.add(*entries)
        for entry in entries:
            if entry.reason:
                result.left_out[_shown(entry)] = entry.reason
            elif entry.uid:
                result.taken.append(entry)


def _take_file(path: Path, file: File, spool: Spool, announce: Announce) -> Iterator[Taken]:
    """A DICOM file, or the DICOM files in a ZIP or TAR."""

    def refused(reason: str, part: str = "") -> Taken:
        return Taken(file.path, file.size, file.changed, part=part, reason=reason)

    with path.open("rb") as opened:
        start = opened.read(_PREAMBLE + 4)
        opened.seek(0)
        if start[_PREAMBLE:] == b"DICM":
            try:
                yield _add(spool, _checked(opened, path, file), file, announce)
            except UnreadableFile as error:
                yield refused(reason_of(error))
            return
        if start[:2] == b"PK" and zipfile.is_zipfile(opened):
            yield from _take_zip(opened, file, spool, announce, refused)
            return
        if not start:
            yield refused("empty")
            return
    if tarfile.is_tarfile(path):
        yield from _take_tar(path, file, spool, announce, refused)
        return
    yield refused("not a DICOM file")


def reason_of(error: UnreadableFile) -> str:
    """Why a file is not taken, without its name."""
    words = str(error).partition(": ")[2] or str(error)
    return (
        "a directory of DICOM media (DICOMDIR)"
        if isinstance(error, NoInstance) and "SOPInstanceUID" in words
        else words
    )


def _checked(opened: IO[bytes], path: Path, file: File) -> Iterator[bytes]:
    """A file's bytes, if it is the same before and after.

    Raises:
        FileChanged: it is not.
    """
    size = 0
    while block := opened.read(_BLOCK):
        size += len(block)
        yield block
    about = path.stat()
    if (size, about.st_size, about.st_mtime_ns) != (file.size, file.size, file.changed):
        raise FileChanged(f"{file.path} changed while it was read")


def _add(
    spool: Spool,
    chunks: Iterable[bytes],
    file: File,
    announce: Announce,
    part: str = "",
    size: int | None = None,
) -> Taken:
    def identify(path: Path) -> tuple[str, str]:
        header = read_header(path, ())
        series, instance = str(header.SeriesInstanceUID), str(header.SOPInstanceUID)
        for name, uid in (("SeriesInstanceUID", series), ("SOPInstanceUID", instance)):
            if not is_uid(uid):
                raise UnreadableFile(f"{path.name}: {name} {uid[:80]!r} is not a UID")
        announce(series)
        return series, instance

    added = spool.add(chunks, identify, most=file.size if size is None else size)
    return Taken(file.path, file.size, file.changed, added.uid, added.item, added.sha256, part)


#: What decompressors raise over damaged data; gzip and bzip2 an OSError without a number.
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, OSError)


def _demand_damage(error: Exception) -> None:
    """Raise what is the disk's or the mount's trouble, which may pass, and not the file's."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _take_zip(
    opened: IO[bytes], file: File, spool: Spool, announce: Announce, refused: Callable[[str, str], Taken]
) -> Iterator[Taken]:
    count = 0
    try:
        with zipfile.ZipFile(opened) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                count += 1
                if info.flag_bits & 1:
                    yield refused("encrypted", info.filename)
                    continue
                try:
                    with archive.open(info) as part:
                        yield _take_part(part, info.filename, info.file_size, file, spool, announce, refused)
                except (zipfile.BadZipFile, NotImplementedError, ValueError, *_DAMAGED) as error:
                    _demand_damage(error)
                    yield refused(f"damaged in the ZIP file ({error})", info.filename)
    except zipfile.BadZipFile as error:
        yield refused(f"a damaged ZIP file ({error})", "")
    else:
        if not count:
            yield refused("a ZIP file without files", "")


def _take_tar(
    path: Path, file: File, spool: Spool, announce: Announce, refused: Callable[[str, str], Taken]
) -> Iterator[Taken]:
    count = 0
    try:
        with tarfile.open(path) as archive:
            for info in archive:
                if not info.isfile():
                    continue
                count += 1
                part = archive.extractfile(info)
                if part is not None:
                    yield _take_part(part, info.name, info.size, file, spool, announce, refused)
    except (tarfile.TarError, *_DAMAGED) as error:
        _demand_damage(error)
        yield refused(f"a damaged TAR file ({error})", "")
        return
    if not count:
        yield refused("a TAR file without files", "")


def _take_part(
    opened: IO[bytes],
    name: str,
    size: int,
    file: File,
    spool: Spool,
    announce: Announce,
    refused: Callable[[str, str], Taken],
) -> Taken:
    start = opened.read(_PREAMBLE + 4)
    if start[_PREAMBLE:] != b"DICM":
        return refused("not a DICOM file", name)
    if size > LARGEST_PART:
        return refused(f"larger than {LARGEST_PART // 2**30} GiB", name)

    def chunks() -> Iterator[bytes]:
        yield start
        yield from iter(lambda: opened.read(_BLOCK), b"")

    try:
        return _add(spool, chunks(), file, announce, name, size)
    except UnreadableFile as error:
        return refused(reason_of(error), name)


# Studies of other formats


def describe_study(source: Source, unit: Unit) -> tuple[str, str, Fields, list[str]]:
    """UID, study UID and fields of a study or folder, and a sentence for each parameter file that cannot be read.

    Raises:
        OSError: a file cannot be read now.
    """
    fields: dict[str, str] = {}
    troubles: list[str] = []
    if source.kind is Kind.PARAVISION:
        found, troubles = study_fields(unit.path)
        fields = dict(found)
        uid = study_uid(unit.path, fields, source.key, unit.name)
    else:
        uid = derived_uid(source.key, unit.name)
        fields = {"SeriesDescription": unit.path.name, "Modality": "OT"}
    fields["path:entry"] = unit.path.name
    fields["path:folder"] = unit.path.parent.name
    if source.pattern and (match := re.search(source.pattern, unit.name)):
        for name, value in match.groupdict().items():
            fields[name if is_keyword(name) else f"path:{name}"] = value or ""
    fields["SeriesInstanceUID"] = uid
    fields.setdefault("StudyInstanceUID", "")
    fields["StudyInstanceUID"] = fields["StudyInstanceUID"] or uid
    return uid, fields["StudyInstanceUID"], fields, troubles


def _import_study(
    source: Source,
    unit: Unit,
    new: list[File],
    spool: Spool,
    journal: Journal,
    progress: Progress,
    announce: Announce,
    result: Imported,
) -> None:
    """Pack what is new of a study into one file of the spool: all of it, or nothing."""
    root = unit.path if unit.path.is_dir() else unit.path.parent
    try:
        uid, study, fields, troubles = describe_study(source, unit)
    except OSError as error:
        result.unstable = f"{error.filename or unit.name}: {error.strerror or error}"
        return
    for words in troubles:
        log.warning("folder source %s: %s: %s", source.key, unit.name, words)
    sums: dict[str, str] = {}

    def entries() -> Iterator[Entry]:
        for file in new:
            yield Entry(readable_name(file.path), file.size, summed(file), compressible=False)

    def summed(file: File) -> Iterator[bytes]:
        digest = hashlib.sha256()
        path = root / file.path
        with path.open("rb") as opened:
            for block in _checked(opened, path, file):
                digest.update(block)
                yield block
        sums[file.path] = digest.hexdigest()

    def manifest() -> Entry:
        return manifest_entry(
            {
                "format": PARAVISION if source.kind is Kind.PARAVISION else "folder",
                "uid": uid,
                "study_uid": study,
                "fields": fields,
                "files": [
                    {
                        "file": readable_name(file.path),
                        "path": readable_name(file.path),
                        "uid": derived_uid(uid, file.path),
                        "size": file.size,
                        "sha256": sums[file.path],
                    }
                    for file in new
                ],
            }
        )

    def identify(_: Path) -> tuple[str, str]:
        announce(uid)
        return uid, pack

    # Named by what is in it, so that the same pack twice is one file.
    pack = derived_uid(uid, *(f"{file.path}\0{file.size}\0{file.changed}" for file in new))
    try:
        spool.add(
            stream(entries(), manifest),
            identify,
            suffix=".zip",
            most=sum(file.size for file in new),
        )
    except FileChanged as error:
        result.unstable = str(error)
        return
    except OSError as error:
        result.unstable = f"{error.filename or unit.name}: {error.strerror or error}"
        return
    taken = [
        Taken(file.path, file.size, file.changed, uid, derived_uid(uid, file.path), sums[file.path])
        for file in new
    ]
    journal.add(*taken)
    result.taken += taken
    for entry in taken:
        progress(entry)


def readable_name(path: str) -> str:
    """A path in UTF-8: a name in another encoding is read as Latin-1, so that every name stays a name of its own."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogateescape").decode("latin-1")
    return path


def unit_of(folder: Path) -> Unit:
    """A folder as a unit by itself, for an import by hand.

    Raises:
        PermanentError: there is no such folder or file.
    """
    if not folder.exists():
        raise PermanentError(f"folder {folder} does not exist")
    return Unit(".", folder)
