"""A series' archive: one ZIP file with a manifest, written as a stream, read back file by file."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    from isal import isal_zlib
except ImportError:  # the standard library's, several times slower at the same size
    isal_zlib = None

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
    """One DICOM file of an archive.

    Attributes:
        name: its path in the archive.
        sha256: of the file's bytes, in hexadecimal.
        source: where its bytes are: a file on disk, or a member of another archive, which is open
            (opening it for each member would read its table of contents as often).
        compressible: whether deflating it can gain anything.
    """

    name: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    sha256: str
    source: Path | tuple[zipfile.ZipFile, str]
    compressible: bool = True

    def chunks(self) -> Iterator[bytes]:
        """The member's bytes, a block at a time."""
        if isinstance(self.source, Path):
            with self.source.open("rb") as file:
                yield from iter(lambda: file.read(_BLOCK), b"")
        else:
            archive, name = self.source
            with archive.open(name) as file:
                yield from iter(lambda: file.read(_BLOCK), b"")


@dataclass(frozen=True)
class ManifestEntry:
    """What the manifest says of one DICOM file."""

    file: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    sha256: str


class _Sink(io.RawIOBase):
    """Collects what :mod:`zipfile` writes until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # noqa: ANN001 (any buffer)
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def zip_stream(series_uid: str, study_uid: str, members: Iterable[Member]) -> Iterator[bytes]:
    """The bytes of the archive, in constant memory; the manifest is its last file.

    The same members give the same bytes: no time of writing is recorded. (With and without ISA-L
    they differ; both are ZIP's deflate.)
    """
    sink = _Sink()
    entries = []
    with zipfile.ZipFile(sink, "w", allowZip64=True) as archive:
        for member in members:
            info = zipfile.ZipInfo(member.name)
            info.compress_type = zipfile.ZIP_DEFLATED if member.compressible else zipfile.ZIP_STORED
            info._compresslevel = _LEVEL  # zipfile takes a level for its own ZipInfo only
            info.external_attr = 0o100644 << 16
            info.file_size = member.size
            with archive.open(info, "w", force_zip64=member.size > 2**31 - 1) as file:
                if member.compressible and isal_zlib is not None:
                    file._compressor = isal_zlib.compressobj(_ISAL_LEVEL, isal_zlib.DEFLATED, -15)
                for chunk in member.chunks():
                    file.write(chunk)
                    yield sink.take()
            entries.append(
                ManifestEntry(
                    member.name,
                    member.sop_instance_uid,
                    member.sop_class_uid,
                    member.transfer_syntax_uid,
                    member.size,
                    member.sha256,
                )
            )
            yield sink.take()
        manifest = {
            "SeriesInstanceUID": series_uid,
            "StudyInstanceUID": study_uid,
            "instances": [asdict(entry) for entry in entries],
        }
        info = zipfile.ZipInfo(MANIFEST)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o100644 << 16
        archive.writestr(info, json.dumps(manifest, indent=1))
    yield sink.take()


def read_manifest(path: Path) -> list[ManifestEntry]:
    """The manifest of an archive on disk."""
    with zipfile.ZipFile(path) as archive:
        return [ManifestEntry(**entry) for entry in json.loads(archive.read(MANIFEST))["instances"]]


def read_series_uid(path: Path) -> str:
    """SeriesInstanceUID of what an archive on disk holds."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(MANIFEST))["SeriesInstanceUID"]


def unpack(path: Path, folder: Path) -> tuple[Path, ...]:
    """Unpack the DICOM files that the manifest names into ``folder``, which must exist.

    Files keep their names, which words about them shall name, without the archive's folder; one with a name
    that is not as this package gives it, or is there twice, is named by its position: none can leave ``folder``.
    """
    files: dict[Path, None] = {}
    with zipfile.ZipFile(path) as archive:
        for number, entry in enumerate(read_manifest(path)):
            name = entry.file.rpartition("/")[2]
            target = folder / name
            if not _NAME.fullmatch(name) or target in files:
                target = folder / f"{number:06d}.dcm"
            with archive.open(entry.file) as source, target.open("wb") as out:
                for chunk in iter(lambda: source.read(_BLOCK), b""):
                    out.write(chunk)
            files[target] = None
    return tuple(files)
