"""A few fields of a file, read within tight bounds in the calling process.

For the watcher, which runs in the receiver and must not be stopped by any file. It parses no sequence, decodes
nothing but the fields asked for, and gives up where an honest file would have shown them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from ..errors import PermanentError
from ..formats.dicom.fields import is_foreign, parse_field
from ..scp.head import HeadScanner, UnreadableDataSet
from ..scp.part10 import read_file_meta

#: Most bytes of a file that are read.
MAX_BYTES = 16 * 1024 * 1024
#: Longest value that is read; the fields that tell instruments apart have at most 64 characters.
MAX_VALUE = 1024
_PIECE = 64 * 1024
_CHARACTER_SET = "SpecificCharacterSet"


class CannotGlance(PermanentError):
    """The fields are not to be had within the bounds."""


def glance(path: Path, fields: Iterable[str]) -> Dataset:
    """The fields of a DICOM file that it has at its top level, before its pixels.

    Raises:
        CannotGlance: not a DICOM file, damaged, or larger up to the last field than :data:`MAX_BYTES` or
            :data:`scp.head.MAX_ELEMENTS` allow.
        OSError: the file cannot be read.
    """
    tags = {Tag(parse_field(field)) for field in (*fields, _CHARACTER_SET) if not is_foreign(field)}
    with path.open("rb") as file:
        meta = read_file_meta(file.read(_PIECE))
        if meta is None:
            raise CannotGlance(f"{path.name}: not a DICOM file")
        syntax, start = meta
        scanner = HeadScanner(syntax, {(tag.group, tag.element) for tag in tags}, MAX_VALUE)
        file.seek(start)
        left = MAX_BYTES
        try:
            while not scanner.done and left > 0 and (piece := file.read(min(_PIECE, left))):
                left -= len(piece)
                scanner.feed(piece)
        except UnreadableDataSet as error:
            raise CannotGlance(f"{path.name}: {error}") from None
    header = Dataset()
    uid = UID(syntax)
    little = uid.is_little_endian if uid.is_transfer_syntax else True
    for (group, element), (vr, value) in scanner.values.items():
        tag = Tag(group, element)
        header[tag] = RawDataElement(tag, vr, len(value), value, 0, vr is None, little)
    # What RawDataElements are decoded by.
    header.set_original_encoding(scanner.is_implicit, little, _encoding(header))
    return header


def _encoding(header: Dataset) -> list[str]:
    """Python's names of the character sets."""
    try:
        return convert_encodings(header.get(_CHARACTER_SET))
    except Exception:  # pydicom raises errors of many kinds for damaged values
        return [default_encoding]
