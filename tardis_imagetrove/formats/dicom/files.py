"""DICOM files: their attributes without their pixels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import MediaStorageDirectoryStorage

from ...errors import PermanentError
from .fields import decoded, parse_field

# pydicom's warnings quote values, which may be a patient's name; logs are read by more people than scans are.
logging.getLogger("pydicom").addFilter(lambda record: record.levelno >= logging.ERROR)
# It logs a traceback for each decoder that fails, beside the error that it raises for all of them;
# a filter reports the file and that error.
logging.getLogger("pydicom.pixels").setLevel(logging.CRITICAL)

#: Read from every file, whatever an instrument's configuration names.
SERIES_FIELDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "InstanceNumber",
    "Modality",
    "InstitutionName",
    "SpecificCharacterSet",
)

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float, double float and integer pixel data."""

UNDEFINED_LENGTH = 0xFFFFFFFF
"""Of pixel data in fragments (PS3.5 A.4)."""


class UnreadableFile(PermanentError):
    """A file that is not DICOM, or is damaged; the text names it."""


class NoInstance(UnreadableFile):
    """A file that is not a DICOM instance: of another format, or a DICOMDIR."""


def read_attributes(path: Path, tags: Iterable[BaseTag] | None = None) -> tuple[Dataset, int | None]:
    """The attributes before a file's pixels, undecoded, and the length of the pixel data.

    Args:
        tags: read only these.

    Returns:
        The length is in bytes, :data:`UNDEFINED_LENGTH` for fragments, ``None`` without pixel data.

    Raises:
        InvalidDicomError: not a DICOM file.
        OSError: the file cannot be read.
        Exception: pydicom raises errors of many kinds for damaged files.
    """
    pixels: list[int] = []

    def at_pixels(tag: int, _vr: str | None, length: int) -> bool:
        if tag in PIXEL_TAGS:
            pixels.append(length)
        return bool(pixels)

    with path.open("rb") as file:
        dataset = read_partial(file, at_pixels, specific_tags=None if tags is None else list(tags))
    return dataset, pixels[0] if pixels else None


def read_header(path: Path, fields: Iterable[str] | None = None) -> Dataset:
    """A file's attributes without its pixels, decoded; only ``fields`` if they are named.

    Raises:
        UnreadableFile: not a DICOM file, or damaged.
        OSError: the file cannot be read.
    """
    tags = None if fields is None else [parse_field(name) for name in {*SERIES_FIELDS, *fields}]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header, _ = read_attributes(path, tags)
            for tag in list(header.keys()):  # decodes now, so that damage is found here
                decoded(header, tag)
            if not header.get("SOPInstanceUID") or not header.get("SeriesInstanceUID"):
                directory = header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
                kind = NoInstance if directory else UnreadableFile
                raise kind(f"{path.name}: has no SOPInstanceUID or no SeriesInstanceUID")
    except OSError:
        raise
    except InvalidDicomError as error:
        raise NoInstance(f"{path.name}: not a DICOM file") from error
    except UnreadableFile:
        raise
    except Exception as error:  # pydicom raises errors of many kinds for damaged files
        raise UnreadableFile(f"{path.name}: damaged ({type(error).__name__}: {error})") from error
    return header
