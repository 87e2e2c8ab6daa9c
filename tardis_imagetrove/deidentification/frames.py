"""Comments inside compressed pictures, which are no attributes, and which nobody needs."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

_JPEG = b"\xff\xd8"
_JPEG_2000 = b"\xff\x4f\xff\x51"
#: Markers of segments that may hold any text: comments, and application data but for what decoders
#: look at (JFIF, SPIFF, Adobe). ISO/IEC 10918-1 table B.1, 14495-1, 15444-1 table A.2.
_JPEG_TEXT = {0xFE, *range(0xE0, 0xF0)} - {0xE0, 0xE8, 0xEE}
_JPEG_2000_TEXT = {0x64}
_DATA_BEGINS = {0xDA, 0x90}


def remove_comments(dataset: Dataset) -> None:
    """Remove the comments from a dataset's compressed frames; one without any stays as it is, byte for byte."""
    if "PixelData" not in dataset or not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=count))
    clean = [b"".join(_without_comments(frame)) for frame in frames]
    if clean == frames:
        return
    dataset.PixelData = encapsulate(clean)
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):  # which are wrong now
        if keyword in dataset:
            del dataset[keyword]


def _without_comments(frame: bytes) -> Iterator[bytes]:
    if frame.startswith(_JPEG):
        text = _JPEG_TEXT
    elif frame.startswith(_JPEG_2000):
        text = _JPEG_2000_TEXT
    else:
        yield frame
        return
    yield frame[:2]
    place = 2
    while frame[place : place + 1] == b"\xff" and frame[place + 1] not in _DATA_BEGINS:
        end = place + 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
        if end <= place + 2 or end > len(frame):
            raise ValueError("a compressed frame is damaged")
        if frame[place + 1] not in text:
            yield frame[place:end]
        place = end
    yield frame[place:]
