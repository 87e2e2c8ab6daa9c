"""Reads what instruments write: one package for each format, one set of types for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .base import DICOM, Acquisition, Fields, Format, Item
from .dicom.series import DicomFormat
from .packed import PackedFormat

__all__ = ["DICOM", "Acquisition", "Fields", "Format", "Item", "format_of", "read"]

_DICOM = DicomFormat()
_PACKED = PackedFormat()


def format_of(kind: str) -> Format:
    """How an acquisition of the named format is read from the spool, and its files are named."""
    return _DICOM if kind == DICOM else _PACKED


def read(uid: str, paths: Sequence[Path], names: Iterable[str]) -> Acquisition:
    """What the spool holds of one acquisition, read by the format of its files."""
    names = list(names)
    packed = [path for path in paths if path.suffix == _PACKED.suffix]
    if not packed:
        return _DICOM.read(uid, paths, names)
    found = _PACKED.read(uid, packed, names)
    others = [f"{path.name}: not a packed folder" for path in paths if path.suffix != _PACKED.suffix]
    return Acquisition(
        found.kind, found.uid, found.items, found.fields, (*found.unreadable, *others), found.read
    )
