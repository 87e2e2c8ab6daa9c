"""An acquisition's archive: one ZIP file with a manifest, written as a stream, read back file by file."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pydicom.uid import UID

from .errors import PermanentError
from .formats.base import DICOM, Fields, Item

try:
    from isal import isal_zlib
except ImportError:  # the standard library's, several times slower at the same size
    isal_zlib = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
_BLOCK = 1024 * 1024
# Level 1 halves MR at several times the speed of the default, which gains little more.
_LEVEL = 1
# ISA-L's levels are another scale: this makes 5 % more than zlib's level 1, at five times its speed.
_ISAL_LEVEL = 2

_NAME = re.compile(r"\d+(\.\d+)+(~[0-9a-f]+)?\.dcm")
"""Of a member, without its folder: a SOPInstanceUID, and a part of its checksum where two instances share it."""


@dataclass(frozen=True)
class Member:
    """One file of an archive: its path in the archive, and the item that it is."""

    name: str
    item: Item


@dataclass(frozen=True)
class Entry:
    """One file to be written into a ZIP file as a stream.

    Attributes:
        size: bytes that are expected; ZIP64 is used for large ones.
        compressible: whether deflating it can gain anything.
    """

    name: str
    size: int
    chunks: Iterable[bytes]
    compressible: bool = True


class _Sink(io.RawIOBase):
    """Collects what :mod:`zipfile` writes until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def stream(entries: Iterable[Entry], last: Callable[[], Entry]) -> Iterator[bytes]:
    """The bytes of a ZIP file, in constant memory.

    The same entries give the same bytes: no time of writing is recorded. (With and without ISA-L
    they differ; both are ZIP's deflate.)

    Args:
        last: called for the last entry when all others are written.
    """
    sink = _Sink()

    def written(archive: zipfile.ZipFile, entry: Entry) -> Iterator[bytes]:
        info = zipfile.ZipInfo(entry.name)
        info.compress_type = zipfile.ZIP_DEFLATED if entry.compressible else zipfile.ZIP_STORED
        info._compresslevel = _LEVEL  # type: ignore[attr-defined] # zipfile takes a level for its own ZipInfo only
        info.external_attr = 0o100644 << 16
        info.file_size = entry.size
        with archive.open(info, "w", force_zip64=entry.size > 2**31 - 1) as file:
            if entry.compressible and isal_zlib is not None:
                file._compressor = isal_zlib.compressobj(  # type: ignore[attr-defined]
                    _ISAL_LEVEL, isal_zlib.DEFLATED, -15
                )
            for chunk in entry.chunks:
                file.write(chunk)
                yield sink.take()
        yield sink.take()

    with zipfile.ZipFile(sink, "w", allowZip64=True) as archive:
        for entry in entries:
            yield from written(archive, entry)
        yield from written(archive, last())
    yield sink.take()


def manifest_entry(manifest: dict[str, object]) -> Entry:
    """The manifest as the entry of a ZIP file."""
    content = json.dumps(manifest, indent=1).encode()
    return Entry(MANIFEST, len(content), [content])


def zip_stream(
    uid: str, study_uid: str, members: Iterable[Member], kind: str = DICOM, fields: Fields | None = None
) -> Iterator[bytes]:
    """The bytes of an archive; the manifest is its last file.

    Args:
        uid, study_uid: SeriesInstanceUID and StudyInstanceUID, or what another format has for them.
        kind: name of the format.
        fields: what was read of the study; for formats whose files need not say it.
    """
    listed: list[dict[str, object]] = []
    with ExitStack() as stack:
        archives: dict[Path, zipfile.ZipFile] = {}

        def chunks(item: Item) -> Iterator[bytes]:
            if not item.member:
                with item.path.open("rb") as file:
                    yield from iter(lambda: file.read(_BLOCK), b"")
                return
            if item.path not in archives:  # opened once: a table of contents may be long
                archives[item.path] = stack.enter_context(zipfile.ZipFile(item.path))
            with archives[item.path].open(item.member) as file:
                yield from iter(lambda: file.read(_BLOCK), b"")

        def entries() -> Iterator[Entry]:
            for member in members:
                item = member.item
                listed.append(_listed(member, kind))
                yield Entry(member.name, item.size, chunks(item), _is_compressible(item))

        def manifest() -> Entry:
            if kind == DICOM:
                return manifest_entry(
                    {"SeriesInstanceUID": uid, "StudyInstanceUID": study_uid, "instances": listed}
                )
            return manifest_entry(
                {
                    "format": kind,
                    "uid": uid,
                    "study_uid": study_uid,
                    "fields": dict(fields or {}),
                    "files": listed,
                }
            )

        yield from stream(entries(), manifest)


def _is_compressible(item: Item) -> bool:
    syntax = UID(item.encoding)
    return not (syntax.is_transfer_syntax and syntax.is_compressed)


#: Keys of a file in the manifest of a DICOM archive, and the attributes of an item that they are.
_DICOM_KEYS = {
    "sop_instance_uid": "uid",
    "sop_class_uid": "kind",
    "transfer_syntax_uid": "encoding",
    "size": "size",
    "sha256": "sha256",
}
_KEYS = {"uid": "uid", "size": "size", "sha256": "sha256", "path": "name"}


def _listed(member: Member, kind: str) -> dict[str, object]:
    keys = _DICOM_KEYS if kind == DICOM else _KEYS
    return {"file": member.name, **{key: getattr(member.item, name) for key, name in keys.items()}}


@dataclass(frozen=True)
class Manifest:
    """What an archive says of itself."""

    kind: str
    uid: str
    members: tuple[Member, ...]
    fields: Fields = field(default_factory=dict)


def read_manifest(path: Path) -> Manifest:
    """The manifest of an archive on disk; its members' items are in that archive."""
    with zipfile.ZipFile(path) as archive:
        found = json.loads(archive.read(MANIFEST))
    kind = found.get("format", DICOM)
    keys, files, uid = (
        (_DICOM_KEYS, found["instances"], found["SeriesInstanceUID"])
        if kind == DICOM
        else (_KEYS, found["files"], found["uid"])
    )
    members = (
        Member(
            entry["file"],
            Item(
                path=path,
                member=entry["file"],
                **{"kind": "", "encoding": "", **{name: entry[key] for key, name in keys.items()}},
            ),
        )
        for entry in files
    )
    return Manifest(kind, uid, tuple(members), found.get("fields", {}))


def first_instance(file: IO[bytes], most: int) -> bytes:
    """Up to ``most`` bytes of the first DICOM file of an archive; empty for an archive of another format."""
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".dcm"):
                with archive.open(info) as member:
                    return member.read(most)
            break
    return b""


def study_fields(file: IO[bytes]) -> Fields:
    """What was read of a study of another format than DICOM when it was archived."""
    with zipfile.ZipFile(file) as archive:
        fields: Fields = json.loads(archive.read(MANIFEST)).get("fields", {})
    return fields


def unpack(path: Path, folder: Path) -> tuple[Path, ...]:
    """Unpack the files that the manifest names into ``folder``, which must exist.

    DICOM files keep their names without the archive's folder, since messages name them; one with an unusual or
    repeated name is named by its position. Files of other formats keep their paths.

    Raises:
        PermanentError: a path that would leave ``folder``.
    """
    manifest = read_manifest(path)
    files: dict[Path, None] = {}
    with zipfile.ZipFile(path) as archive:
        for number, member in enumerate(manifest.members):
            if manifest.kind == DICOM:
                name = member.name.rpartition("/")[2]
                target = folder / name
                if not _NAME.fullmatch(name) or target in files:
                    target = folder / f"{number:06d}.dcm"
            else:
                target = folder / inner_path(member.name.partition("/")[2])
                target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member.name) as source, target.open("wb") as out:
                for chunk in iter(lambda: source.read(_BLOCK), b""):
                    out.write(chunk)
            files[target] = None
    return tuple(files)


def inner_path(name: str) -> PurePosixPath:
    """A file's path below a folder.

    Raises:
        PermanentError: it would leave the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
        raise PermanentError(f"{name!r} is not a path below the archive's folder")
    return path
