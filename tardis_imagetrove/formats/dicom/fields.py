"""DICOM headers: how a configuration names a field, and what a file says in it."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import pydicom
from pydicom.datadict import keyword_dict, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import MediaStorageDirectoryStorage

from ...errors import PermanentError

# pydicom's warnings quote values, which may be a patient's name; logs are read by more people than scans are.
logging.getLogger("pydicom").addFilter(lambda record: record.levelno >= logging.ERROR)
# Of each decoder that fails it logs a traceback, beside the error that it raises of them all; a filter's words
# name the file and that error.
logging.getLogger("pydicom.pixels").setLevel(logging.CRITICAL)

_TAG = re.compile(r"\(?\s*([0-9A-Fa-f]{4})\s*,?\s*([0-9A-Fa-f]{4})\s*\)?\Z")

_TEXT_VRS = {"LO", "SH", "PN", "LT", "ST", "UT", "UC"}

#: What every series is looked at for, whatever an instrument's configuration names.
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


class UnknownField(PermanentError):
    """A configuration names a field that is neither a DICOM keyword nor a tag."""


class UnreadableFile(PermanentError):
    """A file that is no DICOM, or is damaged; the text names it."""


class NoInstance(UnreadableFile):
    """A file that is none of DICOM's instances: of another format, or a DICOMDIR."""


def parse_field(text: str) -> BaseTag:
    """The tag of a field: a DICOM keyword (PS3.6), or a tag such as ``(0019,100a)``.

    Raises:
        UnknownField: neither.
    """
    name = text.strip()
    tag = tag_for_keyword(name)
    if name and tag is not None:
        return Tag(tag)
    if match := _TAG.match(name):
        return Tag(int(match[1], 16), int(match[2], 16))
    by_letters = {word.lower(): word for word in keyword_dict if word}
    near = [by_letters[word] for word in get_close_matches(name.lower().replace(" ", ""), by_letters, 1, 0.8)]
    hint = f"; did you mean {near[0]}?" if near else "; use a DICOM keyword, or a tag as (0019,100a)"
    raise UnknownField(f"{text!r} is not a DICOM field{hint}")


def field_text(header: Dataset, field: str) -> str:
    """A field's value as text, without padding; empty when it is absent or empty.

    Several values are joined by a backslash, as DICOM itself writes them.
    """
    element = header.get(parse_field(field))
    if element is None or element.value is None:
        return ""
    value = element.value
    values = value if isinstance(value, (MultiValue, list, tuple)) else [value]
    return "\\".join(_one_text(item) for item in values).strip()


def _one_text(value: object) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    text = text.replace("\0", "")  # which PostgreSQL has no room for
    # Components that are empty at the end of a person's name say nothing (PS3.5 section 6.2).
    return text.strip(" \r\n\t").rstrip("^")


def _decode(header: Dataset, tag: BaseTag) -> None:
    """Have an element decoded: text that is not of the character set that the file names as Latin-1.

    Each of its bytes would else become the same sign, and with them two patients one.
    """
    raw = header.get_item(tag)
    element = header[tag]
    undecoded = raw.value if isinstance(raw, RawDataElement) else None
    if element.VR in _TEXT_VRS and undecoded and "\ufffd" in str(element.value):
        header[tag] = DataElement(tag, element.VR, undecoded.decode("latin-1"))


def read_header(path: Path, fields: Iterable[str] | None = None) -> Dataset:
    """A file's attributes without its pixels, only ``fields`` if they are named.

    Raises:
        UnreadableFile: no DICOM file, or damaged.
        OSError: the file cannot be read.
    """
    tags = None if fields is None else [parse_field(name) for name in {*SERIES_FIELDS, *fields}]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
            for tag in list(header.keys()):  # decodes now, so that what is damaged is found here
                _decode(header, tag)
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
    except Exception as error:  # pydicom raises whatever its parsing stumbles over
        raise UnreadableFile(f"{path.name}: damaged ({type(error).__name__}: {error})") from error
    return header
