"""Finds elements of a data set while its bytes pass by, without keeping the data set (pure).

A scanner of its own, since pydicom needs all bytes at once: here they come in pieces, and before
(0020,000E) there may be a private element of megabytes or a sequence of ten thousand references.
The tests compare it with pydicom.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection

from pydicom.uid import UID_dictionary

SOP_CLASS = (0x0008, 0x0016)
SOP_INSTANCE = (0x0008, 0x0018)
SERIES = (0x0020, 0x000E)

#: Most inflated bytes that are looked through in a deflated data set; a bomb costs no more than that.
MAX_INFLATED_BYTES = 64 * 1024 * 1024
#: Most elements, items and delimiters that are read one by one before the last UID.
MAX_ELEMENTS = 250_000
#: Deepest nesting of sequences of undefined length.
MAX_DEPTH = 128
#: Longest UID value that is read; 64 is the standard's limit, and what is longer is judged by its beginning.
_MAX_UID_BYTES = 128
_PIECE = 65536
#: The group of pixel data (PS3.3 section C.7.6.3), which ends every header.
_PIXELS = (0x7FE0, 0x0000)

_WANTED = frozenset((SOP_CLASS, SOP_INSTANCE, SERIES))

_IMPLICIT = "1.2.840.10008.1.2"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_DEFLATED = frozenset(
    uid
    for uid, entry in UID_dictionary.items()
    if entry[1] == "Transfer Syntax" and "Deflate" in entry[0] and "Frame" not in entry[0]
)
UNDEFINED = 0xFFFFFFFF
ITEM_GROUP = 0xFFFE
ITEM = 0xE000
ITEM_END = 0xE00D
SEQUENCE_END = 0xE0DD

#: VRs whose length has 2 bytes in explicit VR (PS3.5 section 7.1.2); all others, also future ones, have 4.
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())


class UnreadableDataSet(Exception):
    """The data set does not follow its transfer syntax; the text says where."""


class HeadScanner:
    """Reads a data set piece by piece until the wanted elements of its top level are found.

    After each :meth:`feed`, :attr:`done` is True if no more bytes are needed. Values are in :attr:`values`, by tag.

    Args:
        wanted: tags; by default the three UIDs of an instance.
        max_value: bytes of a value that are kept.
    """

    def __init__(
        self,
        transfer_syntax: str,
        wanted: Collection[tuple[int, int]] = _WANTED,
        max_value: int = _MAX_UID_BYTES,
    ) -> None:
        self.values: dict[tuple[int, int], tuple[str | None, bytes]] = {}
        self.done = False
        self._wanted = frozenset(wanted)
        self._max_value = max_value
        # Elements stand in ascending order; an instrument that breaks it for the UIDs is put up with.
        self._last = _PIXELS if wanted is _WANTED else max(self._wanted, default=(0, 0))
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if transfer_syntax in _DEFLATED else None
        self._inflated = 0
        self._offset = 0  # in the data set, for messages
        self._skip = 0
        self._elements = 0
        self._carry = b""
        # For each open sequence or item of undefined length: (is an item, was implicit before it).
        self._open: list[tuple[bool, bool]] = []
        self._order = ">" if transfer_syntax == _BIG_ENDIAN else "<"
        # A private syntax may be either: its first element tells (None).
        known = transfer_syntax.startswith("1.2.840.10008.1.2.") or transfer_syntax == _IMPLICIT
        self._implicit: bool | None = (transfer_syntax == _IMPLICIT) if known else None
        self._tag = struct.Struct(self._order + "HH")
        self._short = struct.Struct(self._order + "H")
        self._long = struct.Struct(self._order + "I")

    @property
    def found(self) -> dict[tuple[int, int], str]:
        """The values found so far as text, by tag, without padding."""
        return {tag: value.decode("latin-1").rstrip("\0 ") for tag, (_vr, value) in self.values.items()}

    @property
    def is_implicit(self) -> bool:
        """Whether the data set is in implicit VR; of a private syntax its first element tells."""
        return bool(self._implicit)

    def feed(self, data: memoryview | bytes) -> None:
        """Take the next bytes.

        Raises:
            UnreadableDataSet: they are no DICOM of this transfer syntax.
        """
        if self.done:
            return
        if self._inflate is None:
            self._scan(data)
            return
        try:
            piece = b""
            # zlib may hold back output after it has taken all input, hence the second condition.
            while not self.done and not self._inflate.eof and (data or len(piece) == _PIECE):
                piece = self._inflate.decompress(data, _PIECE)
                data = self._inflate.unconsumed_tail
                self._inflated += len(piece)
                if self._inflated > MAX_INFLATED_BYTES:
                    raise UnreadableDataSet(f"no UIDs in the first {MAX_INFLATED_BYTES} inflated bytes")
                self._scan(piece)
        except zlib.error as error:
            raise UnreadableDataSet(f"cannot be inflated ({error})") from None

    def _scan(self, data: memoryview | bytes) -> None:
        size = len(data)
        if self._skip >= size:
            self._skip -= size
            self._offset += size
            return
        if self._skip:
            data = data[self._skip :]
            self._offset += self._skip
            self._skip = 0
        if self._carry:
            data = self._carry + bytes(data)
            self._carry = b""
        position, end = 0, len(data)
        while not self.done:
            used = self._element(data, position, end)
            if used == 0:  # the element goes on in the next piece
                self._carry = bytes(data[position:])
                break
            self._elements += 1
            if self._elements > MAX_ELEMENTS:
                raise UnreadableDataSet(f"no UIDs in the first {MAX_ELEMENTS} elements and items")
            if used > end - position:
                self._skip = used - (end - position)
                position = end
                break
            position += used
        self._offset += position

    def _element(self, data: memoryview | bytes, at: int, end: int) -> int:
        """Handle the element or delimiter at ``at``; how many bytes to go on by, 0 when more must be seen."""
        if end - at < 8:
            return 0
        group, element = self._tag.unpack_from(data, at)
        if group == ITEM_GROUP:
            return self._delimiter(element, self._long.unpack_from(data, at + 4)[0], at)
        if self._open and not self._open[-1][0]:
            raise UnreadableDataSet(
                f"({group:04X},{element:04X}) at byte {self._offset + at} is in a sequence but not in an item"
            )
        vr = bytes(data[at + 4 : at + 6])
        if self._implicit is None:
            self._implicit = not (vr.isalpha() and vr.isupper())
        if self._implicit:
            header, length = 8, self._long.unpack_from(data, at + 4)[0]
        elif vr in SHORT_VRS:
            header, length = 8, self._short.unpack_from(data, at + 6)[0]
        elif vr.isalpha() and vr.isupper():
            if end - at < 12:
                return 0
            header, length = 12, self._long.unpack_from(data, at + 8)[0]
        else:
            raise UnreadableDataSet(f"({group:04X},{element:04X}) at byte {self._offset + at} has no VR")
        top = not self._open
        if top and ((group, element) > self._last or group >= _PIXELS[0]):
            self.done = True
            return header
        if length == UNDEFINED:
            self._enter(False, implicit=self._implicit or vr == b"UN")
            return header
        if top and (group, element) in self._wanted:
            return self._value(
                (group, element), None if self._implicit else vr, data, at, end, header, length
            )
        return int(header + length)

    def _value(
        self,
        tag: tuple[int, int],
        vr: bytes | None,
        data: memoryview | bytes,
        at: int,
        end: int,
        header: int,
        length: int,
    ) -> int:
        size = min(length, self._max_value)
        if end - at < header + size:
            return 0
        start = at + header
        self.values[tag] = (vr.decode() if vr else None, bytes(data[start : start + size]))
        if len(self.values) == len(self._wanted):
            self.done = True
        return int(header + length)

    def _enter(self, item: bool, implicit: bool) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise UnreadableDataSet(f"sequences are nested more than {MAX_DEPTH} deep")
        self._open.append((item, bool(self._implicit)))
        self._implicit = implicit

    def _leave(self, item: bool, at: int) -> None:
        if not self._open or self._open[-1][0] is not item:
            raise UnreadableDataSet(f"the delimiter at byte {self._offset + at} ends nothing")
        self._implicit = self._open.pop()[1]

    def _delimiter(self, element: int, length: int, at: int) -> int:
        if element == ITEM:
            if not self._open or self._open[-1][0]:
                raise UnreadableDataSet(f"the item at byte {self._offset + at} is in no sequence")
            if length != UNDEFINED:
                return 8 + length
            self._enter(True, implicit=bool(self._implicit))
        elif element == ITEM_END:
            self._leave(True, at)
        elif element == SEQUENCE_END:
            self._leave(False, at)
        else:
            raise UnreadableDataSet(f"(FFFE,{element:04X}) at byte {self._offset + at} is not a delimiter")
        return 8
