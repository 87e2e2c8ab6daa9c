"""The DICOM format: files of one series as an acquisition."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...disk import file_sha256
from ...uids import is_uid
from ..base import DICOM, Acquisition, Fields, Item
from .fields import field_text, fields_of, is_foreign
from .files import SERIES_FIELDS, UnreadableFile, read_header

#: Read from every file beside the fields that are asked for: what an operator recognises a scan by.
DESCRIBING = ("Manufacturer", "ManufacturerModelName", "StationName")


class DicomFormat:
    """DICOM Part 10 files, one an instance."""

    name = DICOM
    suffix = ".dcm"

    def read(self, uid: str, paths: Iterable[Path], names: Iterable[str]) -> Acquisition:
        """The instances of the series ``uid``; a file of another series is unreadable."""
        asked = sorted({name for name in names if not is_foreign(name)})
        wanted = {*asked, *SERIES_FIELDS, *DESCRIBING}
        items: list[Item] = []
        unreadable: list[str] = []
        groups: dict[tuple[str, ...], Fields] = {}
        for path in paths:
            try:
                header = read_header(path, wanted)
                instance = str(header.SOPInstanceUID)
                if str(header.SeriesInstanceUID) != uid:
                    raise UnreadableFile(f"{path.name}: belongs to series {header.SeriesInstanceUID}")
                if not is_uid(instance):
                    raise UnreadableFile(f"{path.name}: SOPInstanceUID {instance!r} is not a UID")
            except UnreadableFile as error:
                unreadable.append(str(error))
                continue
            group = tuple(field_text(header, name) for name in asked)
            if group not in groups:
                sender = str(header.file_meta.get("SourceApplicationEntityTitle", "")).strip()
                groups[group] = {**fields_of(header, wanted), "SourceApplicationEntityTitle": sender}
            items.append(
                Item(
                    path,
                    instance,
                    field_text(header, "SOPClassUID")[:64],
                    str(header.file_meta.get("TransferSyntaxUID", "")),
                    path.stat().st_size,
                    file_sha256(path),
                )
            )
        read = tuple(item.path for item in items)
        return Acquisition(DICOM, uid, tuple(items), tuple(groups.values()), tuple(unreadable), read)

    def member_name(self, item: Item) -> str:
        return f"{item.uid}.dcm"
