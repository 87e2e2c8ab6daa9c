"""Bulk data that a copy keeps: exactly as long as its description says, with nothing behind it."""

from __future__ import annotations

from typing import Any

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import MRSpectroscopyStorage

_PIXELS = {"PixelData": 0, "FloatPixelData": 32, "DoubleFloatPixelData": 64}
"""Bits of a sample; 0 is BitsAllocated."""
_COLOURS = ("Red", "Green", "Blue", "Alpha")


def is_filled_by_numbers(dataset: Dataset, element: DataElement) -> bool:
    """Whether kept bulk data is what its own description says, and used by the object at all.

    Pixels are not looked at here; see :func:`trim_pixels`.
    """
    keyword, size = keyword_for_tag(element.tag), len(element.value)
    if keyword in _PIXELS:
        return True
    if keyword == "SpectroscopyData":
        return dataset.get("SOPClassUID") == MRSpectroscopyStorage and size == _spectroscopy_bytes(dataset)
    if keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        return size == 8 * int(dataset.get("NumberOfFrames", 1) or 1)
    if keyword == "LUTData":
        return _has_entries(size, dataset.get("LUTDescriptor"))
    for colour in _COLOURS:
        if keyword == f"{colour}PaletteColorLookupTableData":
            return _has_entries(size, dataset.get(f"{colour}PaletteColorLookupTableDescriptor"))
        if keyword == f"Segmented{colour}PaletteColorLookupTableData":
            return dataset.get("PhotometricInterpretation") == "PALETTE COLOR" and size % 2 == 0
    return keyword.endswith("Descriptor") and size == 6


def _has_entries(size: int, descriptor: Any) -> bool:
    """Whether data have the number of entries that a descriptor names (PS3.3 C.7.6.3.1.5)."""
    try:
        entries = int(descriptor[0]) or 65536
    except (TypeError, ValueError, IndexError):
        return False
    return size in (entries + entries % 2, 2 * entries)


def _spectroscopy_bytes(dataset: Dataset) -> int:
    """Bytes of SpectroscopyData (PS3.3 C.8.14.4)."""
    points = int(dataset.get("DataPointRows", 1) or 1) * int(dataset.get("DataPointColumns", 1) or 1)
    voxels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames", 1) or 1)
    parts = 2 if dataset.get("DataRepresentation", "COMPLEX") == "COMPLEX" else 1
    return 4 * points * voxels * parts


def trim_pixels(dataset: Dataset) -> None:
    """Cut off what lies behind the last pixel, which may be anything."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    for keyword, bits in _PIXELS.items():
        if keyword not in dataset:
            continue
        bits = bits or int(dataset.BitsAllocated)
        bits *= int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel", 1) or 1)
        if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
            bits = bits * 2 // 3
        length = -(-bits * int(dataset.get("NumberOfFrames", 1) or 1) // 8)
        samples, even = dataset[keyword].value, length + length % 2
        if length % 2 and is_in_big_endian_words(dataset):
            trimmed = samples[: length - 1] + b"\0" + samples[length:even]
        else:
            trimmed = samples[:length] + b"\0" * (length % 2)
        if len(samples) >= length and samples != trimmed:
            dataset[keyword].value = trimmed


def is_in_big_endian_words(dataset: Dataset) -> bool:
    """Whether samples of a byte stand two in a word, in the other order (PS3.5 section 8.1.1, A.3)."""
    is_little = dataset.file_meta.TransferSyntaxUID.is_little_endian
    return not is_little and dataset["PixelData"].VR == "OW" and dataset.BitsAllocated == 8
