"""Comments inside and behind compressed pictures, which are no attributes, and which nobody needs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

_JPEG = b"\xff\xd8"
_JPEG_2000 = b"\xff\x4f\xff\x51"
#: Markers of segments that may hold any text: comments, and application data but for what decoders
#: look at (JFIF, SPIFF, Adobe). ISO/IEC 10918-1 table B.1, 14495-1, 15444-1 table A.2.
_JPEG_TEXT = {0xFE, *range(0xE0, 0xF0)} - {0xE0, 0xE8, 0xEE}
_JPEG_2000_TEXT = {0x64}
_SCAN, _END, _TILE, _TILE_DATA = 0xDA, 0xD9, 0x90, 0x93
#: A marker after a scan's data, in which 0xFF is followed by a byte below 0x80, or is a restart.
_NEXT_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
#: Of a JP2 file, whose boxes may hold any text around the picture (ISO/IEC 15444-1 annex I).
_JP2 = bytes.fromhex("0000000c6a502020")


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
    """Pieces of a compressed frame: all but comments, and what lies around the picture.

    Raises:
        ValueError: it is damaged, or has comments where they cannot be taken out.
    """
    if frame.startswith(_JP2):
        frame = frame[max(0, frame.find(_JPEG_2000)) :]
    if frame.startswith(_JPEG):
        yield from _of_jpeg(frame)
    elif frame.startswith(_JPEG_2000):
        yield from _of_jpeg_2000(frame)
    else:
        yield frame


def _of_jpeg(frame: bytes) -> Iterator[bytes]:
    yield frame[:2]
    place = 2
    while frame[place : place + 1] == b"\xff" and place + 1 < len(frame):
        marker = frame[place + 1]
        if marker == 0xFF:  # fills
            yield frame[place : place + 1]
            place += 1
            continue
        if marker == _END:
            yield from _the_end(frame, place)
            return
        end = _segment_end(frame, place)
        if marker not in _JPEG_TEXT:
            yield frame[place:end]
        place = end
        if marker == _SCAN:
            found = _NEXT_MARKER.search(frame, place)
            end = found.start() if found else len(frame)
            yield frame[place:end]
            place = end
    yield frame[place:]


def _of_jpeg_2000(frame: bytes) -> Iterator[bytes]:
    yield frame[:2]
    place = 2
    while frame[place : place + 1] == b"\xff" and frame[place + 1] not in (_TILE, _END):
        end = _segment_end(frame, place)
        if frame[place + 1] not in _JPEG_2000_TEXT:
            yield frame[place:end]
        place = end
    while frame[place : place + 2] == bytes([0xFF, _TILE]):
        header = _segment_end(frame, place)
        while frame[header + 1 : header + 2] != bytes([_TILE_DATA]):
            if frame[header + 1 : header + 2] == b"" or frame[header + 1] in _JPEG_2000_TEXT:
                raise ValueError("a compressed frame is damaged, or has comments among its tiles")
            header = _segment_end(frame, header)
        length = int.from_bytes(frame[place + 6 : place + 10], "big")  # 0: to the end
        end = place + length if length else max(frame.rfind(bytes([0xFF, _END])), header)
        if end <= place:
            raise ValueError("a compressed frame is damaged")
        yield frame[place:end]
        place = end
    if frame[place : place + 2] == bytes([0xFF, _END]):
        yield from _the_end(frame, place)
    elif frame[place:].strip(b"\0"):
        raise ValueError("a compressed frame is damaged")


def _segment_end(frame: bytes, place: int) -> int:
    """Where the marker segment at ``place`` ends."""
    end = place + 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    if end <= place + 2 or end > len(frame):
        raise ValueError("a compressed frame is damaged")
    return end


def _the_end(frame: bytes, place: int) -> Iterator[bytes]:
    """The marker of the end, and the padding behind it if there is nothing else."""
    behind = frame[place + 2 :]
    yield frame[place : place + 2]
    yield b"" if behind.strip(b"\0") else behind
