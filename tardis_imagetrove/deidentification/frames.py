"""Compressed frames without what decoders do not need: comments, application data, and text around the picture."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

_JPEG = b"\xff\xd8"
_JPEG_2000 = b"\xff\x4f\xff\x51"
_APP0, _APP8, _APP14 = 0xE0, 0xE8, 0xEE
#: Marker segments that decoders need (ISO/IEC 10918-1 table B.1, 14495-1); application data see :func:`_application`.
_JPEG_SEGMENTS = {*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDA, 0xE0), 0xF7, 0xF8}
#: The same of a main header of JPEG 2000 (ISO/IEC 15444-1 table A.2, 15444-2, 15444-15).
_JPEG_2000_SEGMENTS = {*range(0x50, 0x60), 0x60, 0x61, 0x63, *range(0x72, 0x7A)}
_SCAN, _END, _TILE, _TILE_DATA = 0xDA, 0xD9, 0x90, 0x93
#: A marker after a scan's data, in which 0xFF is followed by a byte below 0x80, or is a restart.
_NEXT_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
#: Start of a JP2 file, whose boxes may hold any text around the picture (ISO/IEC 15444-1 annex I).
_JP2 = bytes.fromhex("0000000c6a502020")

_RLE_HEADER = 64
_MOST_SEGMENTS = 15
_PICTURES = (
    "1.2.840.10008.1.2.4.5",
    "1.2.840.10008.1.2.4.6",
    "1.2.840.10008.1.2.4.7",
    "1.2.840.10008.1.2.4.8",
)
"""How the transfer syntaxes of JPEG and JPEG-LS begin; those of JPEG 2000 are 4.90 to 4.93 and 4.201 to 4.203."""
_JPEG_2000_SYNTAXES = ("4.90", "4.91", "4.92", "4.93", "4.201", "4.202", "4.203")


def clean_frames(dataset: Dataset) -> None:
    """Remove from compressed frames, and from between them, all that is not picture.

    Frames without anything to remove stay byte for byte as they are.

    Raises:
        ValueError: a frame is damaged, has comments that cannot be removed, or is of a video format.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if "PixelData" not in dataset or not syntax.is_encapsulated:
        return
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=count))
    clean = [b"".join(_cleaned(frame, syntax)) for frame in frames]
    # The offset table, and items behind the last frame, may hold anything.
    written = encapsulate(clean)
    if clean == frames and dataset.PixelData in (written, encapsulate(clean, has_bot=False)):
        return
    dataset.PixelData = written
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):  # which are wrong now
        if keyword in dataset:
            del dataset[keyword]


def _cleaned(frame: bytes, syntax: str) -> Iterator[bytes]:
    """Pieces of a compressed frame, without comments and without what lies around the picture."""
    if syntax == uids.RLELossless:
        yield from _of_rle(frame)
        return
    if not (syntax.startswith(_PICTURES) or syntax.removeprefix("1.2.840.10008.1.2.") in _JPEG_2000_SYNTAXES):
        raise ValueError("frames of this transfer syntax cannot be cleaned")
    if frame.startswith(_JP2):
        frame = frame[max(0, frame.find(_JPEG_2000)) :]
    if frame.startswith(_JPEG):
        yield from _of_jpeg(frame)
    elif frame.startswith(_JPEG_2000):
        yield from _of_jpeg_2000(frame)
    else:
        raise ValueError("a compressed frame is damaged")


def _of_rle(frame: bytes) -> Iterator[bytes]:
    """RLE (PS3.5 annex G): its header names up to 15 segments; unused offsets and the end may hold anything."""
    count, *offsets = struct.unpack_from("<16I", frame)
    if not 0 < count <= _MOST_SEGMENTS:
        raise ValueError("a compressed frame is damaged")
    offsets = offsets[:count]
    if offsets[0] != _RLE_HEADER or sorted(offsets) != offsets or offsets[-1] > len(frame):
        raise ValueError("a compressed frame is damaged")
    yield struct.pack("<16I", count, *offsets, *[0] * (_MOST_SEGMENTS - count))
    yield frame[_RLE_HEADER:]


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
        if marker in _JPEG_SEGMENTS:
            yield frame[place:end]
        elif marker in (_APP0, _APP8, _APP14):
            yield _application(frame[place:end])
        place = end
        if marker == _SCAN:
            found = _NEXT_MARKER.search(frame, place)
            end = found.start() if found else len(frame)
            yield frame[place:end]
            place = end
    yield frame[place:]


def _application(segment: bytes) -> bytes:
    """An application segment that says how to decode, without thumbnails and text; empty if it is another."""
    content = segment[4:]
    if segment[1] == _APP0 and content.startswith(b"JFIF\0") and len(content) >= 14:
        return segment[:2] + b"\0\x10" + content[:12] + b"\0\0"
    if segment[1] == _APP14 and content.startswith(b"Adobe") and len(content) >= 12:
        return segment[:2] + b"\0\x0e" + content[:12]
    if segment[1] == _APP8 and content.startswith(b"mrfx") and len(content) == 5:  # colours of JPEG-LS
        return segment
    if segment[1] == _APP8 and content.startswith(b"SPIFF\0") and len(content) == 30:
        return segment
    return b""


def _of_jpeg_2000(frame: bytes) -> Iterator[bytes]:
    yield frame[:2]
    place = 2
    while frame[place : place + 1] == b"\xff" and frame[place + 1] not in (_TILE, _END):
        end = _segment_end(frame, place)
        if frame[place + 1] in _JPEG_2000_SEGMENTS:
            yield frame[place:end]
        place = end
    while frame[place : place + 2] == bytes([0xFF, _TILE]):
        header = _segment_end(frame, place)
        while frame[header + 1 : header + 2] != bytes([_TILE_DATA]):
            if frame[header + 1 : header + 2] == b"" or frame[header + 1] not in _JPEG_2000_SEGMENTS:
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
    """The end marker, and the padding behind it if there is nothing else."""
    behind = frame[place + 2 :]
    yield frame[place : place + 2]
    yield b"" if behind.strip(b"\0") else behind
