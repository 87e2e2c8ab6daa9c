"""The beginning of a DICOM file (PS3.10 section 7.1): written for a received data set, and read within bounds (pure)."""

from __future__ import annotations

import struct

#: This implementation, in associations and in files (PS3.7 annex D.3.3.2).
IMPLEMENTATION_CLASS_UID = "2.25.246266403155796061098558200899619936961"
#: Without the package's version: the same instance sent before and after an upgrade is the same file.
IMPLEMENTATION_VERSION_NAME = "IMAGETROVE"

_SHORT = struct.Struct("<HH2sH")


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    return _SHORT.pack(0x0002, element, vr, len(value)) + value


def _uid(element: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    return _element(element, b"UI", value + b"\0" * (len(value) % 2))


_VERSION = struct.pack("<HH2s2xI2s", 0x0002, 0x0001, b"OB", 2, b"\x00\x01")
_OURS = _uid(0x0012, IMPLEMENTATION_CLASS_UID) + _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode())


def file_beginning(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Preamble, prefix and file meta information; the data set's bytes follow as they are.

    The same arguments give the same bytes, so that an instance which is sent again can be
    recognised by its file.
    """
    meta = (
        _VERSION
        + _uid(0x0002, sop_class)
        + _uid(0x0003, sop_instance)
        + _uid(0x0010, transfer_syntax)
        + _OURS
    )
    return bytes(128) + b"DICM" + _SHORT.pack(0x0002, 0x0000, b"UL", 4) + struct.pack("<I", len(meta)) + meta


def read_file_meta(data: bytes) -> tuple[str, int] | None:
    """The transfer syntax that the file meta information names, and where the data set begins.

    Args:
        data: the beginning of a file. Its meta information must be in it, within 1000 elements.

    Returns:
        None if it is not the beginning of a DICOM file.
    """
    if data[128:132] != b"DICM":
        return None
    offset, syntax = 132, None
    for _ in range(1000):
        if len(data) < offset + 8:
            return None
        group, element, vr, length = _SHORT.unpack_from(data, offset)
        if group != 0x0002:
            break
        start = offset + 8
        if vr in (b"OB", b"OW", b"UN", b"UT"):
            if len(data) < offset + 12:
                return None
            start, length = offset + 12, struct.unpack_from("<I", data, offset + 8)[0]
        if length > len(data) - start:
            return None
        if element == 0x0010:
            syntax = data[start : start + length].decode("latin-1").rstrip("\0 ")
        offset = start + length
    return None if syntax is None else (syntax, offset)
