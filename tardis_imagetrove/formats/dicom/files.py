"""DICOM files: their attributes without their pixels."""

from __future__ import annotations

import io
import logging
import signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import MediaStorageDirectoryStorage

from ...errors import PermanentError, is_of_system
from ..base import Fields
from .fields import decoded, field_text, is_foreign, parse_field

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


_cpu_seconds: ContextVar[float | None] = ContextVar("cpu_seconds", default=None)


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


class _TooLong(Exception):
    """A file takes more CPU time than it may."""


@contextmanager
def time_limit(cpu_seconds: float) -> Iterator[None]:
    """Within the block :func:`read_header` gives a file up after so many CPU seconds.

    For the main thread of a process that is made for reading: the limit is a signal's (SIGPROF).
    """
    token = _cpu_seconds.set(cpu_seconds)
    try:
        yield
    finally:
        _cpu_seconds.reset(token)


@contextmanager
def _timed() -> Iterator[None]:
    seconds = _cpu_seconds.get()
    if seconds is None:
        yield
        return

    def stop(*_: object) -> None:
        raise _TooLong(f"its attributes take more than {seconds:g} s of CPU time")

    former = signal.signal(signal.SIGPROF, stop)
    # Once more each second, if the first is caught on its way.
    signal.setitimer(signal.ITIMER_PROF, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)


def fields_in(content: bytes, names: Iterable[str], whole: bool) -> Fields | None:
    """Fields of a DICOM file by its beginning; ``None`` if some of them may come after it.

    Args:
        names: as a configuration has them; ``Sequence.Field`` is a field of a sequence's first item.
        whole: ``content`` is all of the file.

    Raises:
        UnreadableFile: the beginning is damaged.
    """
    wanted = [name for name in names if not is_foreign(name)]
    tags: list[BaseTag | int] = [
        parse_field(name.partition(".")[0]) for name in (*wanted, "SpecificCharacterSet")
    ]
    passed, last = whole, int(max(tags))

    def beyond(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal passed
        beyond_all = int(tag) > last or tag in PIXEL_TAGS
        passed = passed or beyond_all
        return beyond_all

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = read_partial(io.BytesIO(content), beyond, specific_tags=tags)
            return {name: _field_or_nested(header, name) for name in wanted} if passed else None
    except Exception as error:  # pydicom raises errors of many kinds for damaged files
        if not passed:
            return None
        raise UnreadableFile(f"damaged ({type(error).__name__}: {error})") from error


def _field_or_nested(header: Dataset, name: str) -> str:
    outer, _, inner = name.partition(".")
    if not inner:
        return field_text(header, outer)
    items = header.get(parse_field(outer))
    return field_text(items.value[0], inner) if items is not None and items.value else ""


def read_header(path: Path, fields: Iterable[str] | None = None) -> Dataset:
    """A file's attributes without its pixels, decoded; only ``fields`` if they are named.

    Raises:
        UnreadableFile: not a DICOM file, or damaged.
        OSError: the file cannot be read.
    """
    tags = (
        None
        if fields is None
        else [parse_field(name) for name in {*SERIES_FIELDS, *fields} if not is_foreign(name)]
    )
    with named_errors(path), warnings.catch_warnings(), _timed():
        warnings.simplefilter("ignore")
        header, _ = read_attributes(path, tags)
        for tag in list(header.keys()):  # decodes now, so that damage is found here
            decoded(header, tag)
        if not header.get("SOPInstanceUID") or not header.get("SeriesInstanceUID"):
            directory = header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
            kind = NoInstance if directory else UnreadableFile
            raise kind(f"{path.name}: has no SOPInstanceUID or no SeriesInstanceUID")
    return header


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Within the block, what goes wrong with reading ``path`` is an UnreadableFile, or an OSError of the system."""
    try:
        yield
    except OSError as error:
        if is_of_system(error):
            raise
        raise UnreadableFile(
            f"{path.name}: damaged; it ends too early, or a length in it is wrong"
        ) from error
    except InvalidDicomError as error:
        raise NoInstance(f"{path.name}: not a DICOM file") from error
    except UnreadableFile:
        raise
    except MemoryError:
        raise UnreadableFile(f"{path.name}: its attributes need more memory than reading may use") from None
    except _TooLong as error:
        raise UnreadableFile(f"{path.name}: {error}") from None
    except Exception as error:  # pydicom raises errors of many kinds for damaged files
        raise UnreadableFile(f"{path.name}: damaged; its attributes cannot be decoded") from error
