"""Attributes of DICOM files, undecoded until they are asked for: what conversion reads of thousands of instances.

pydicom makes objects of every element, and of every item of every sequence; here a file is walked once, and a value
is decoded when it is asked for. A file that is written in an unusual way, or damaged, is read by pydicom.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from .fields import without_padding
from .files import PIXEL_TAGS, UNDEFINED_LENGTH, UnreadableFile, named_errors, read_attributes

_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs whose length takes four bytes, after two that are reserved (PS3.5 7.1.2)."""

_SHORT = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()  # noqa: SIM905
)

_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_IN_CHARACTER_SET = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_TEXTS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}) | _IN_CHARACTER_SET

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHARACTER_SET = 0x00080005

_FIRST_BYTES = 1 << 14
_MOST_SKIPPED = 1 << 24
_DEEPEST = 12

_SLOWLY = frozenset({DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, "1.2.840.113619.5.2"})
"""Transfer syntaxes that pydicom reads: deflated, big endian, and GE's of both byte orders."""

_explicit = struct.Struct("<HH2sH").unpack_from
_implicit = struct.Struct("<HHI").unpack_from
_length = struct.Struct("<I").unpack_from


class _Unusual(Exception):
    """Something that pydicom shall read."""


@cache
def tag_of(keyword: str) -> int:
    """The tag of a DICOM keyword (PS3.6) as a number."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


@cache
def _vr_of(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def is_sequence(tag: int) -> bool:
    """Whether a public attribute is a sequence."""
    return _vr_of(tag) == "SQ"


@dataclass(frozen=True)
class _Encoding:
    """How a data set is written.

    Attributes:
        items: sequences' bytes that have been parsed: most frames of a multi-frame object repeat the first one's.
    """

    implicit: bool
    little: bool
    characters: list[str]
    items: dict[bytes, list[Attributes]]


class Attributes:
    """A data set, or an item of a sequence: VR and bytes by tag.

    Of an item private elements are left out.
    """

    __slots__ = ("_decoded", "_encoding", "elements")

    def __init__(self, elements: dict[int, tuple[str | None, object]], encoding: _Encoding) -> None:
        self.elements = elements
        self._encoding = encoding
        self._decoded: dict[int, object] = {}

    @property
    def characters(self) -> list[str]:
        """Python's encodings of its text."""
        return self._encoding.characters

    def __reduce__(self) -> tuple[object, ...]:
        # Without what has been decoded: most of it is not asked for twice.
        encoding = self._encoding
        return _unpickled, (self.elements, encoding.implicit, encoding.little, encoding.characters)

    def __contains__(self, keyword: str) -> bool:
        return tag_of(keyword) in self.elements

    def get(self, keyword: str) -> object:
        """An attribute's value: text with its backslashes, a number or several, items; None if it is absent or empty.

        Raises:
            ValueError: its bytes are not of its VR.
        """
        return self.value(tag_of(keyword))

    def value(self, tag: int) -> object:
        """The value of :meth:`get` by tag."""
        if tag in self._decoded:
            return self._decoded[tag]
        element = self.elements.get(tag)
        value = None if element is None else self._value(tag, *element)
        self._decoded[tag] = value
        return value

    def text(self, keyword: str) -> str:
        """An attribute's value as text, without padding; empty if it is absent, or its bytes are not of its VR."""
        try:
            value = self.get(keyword)
        except ValueError:
            return ""
        values = (
            value.split("\\") if isinstance(value, str) else value if isinstance(value, tuple) else [value]
        )
        return "" if value is None else "\\".join(without_padding(str(one)) for one in values).strip()

    def private(self, creator: str, group: int, number: int) -> object:
        """The bytes of a private element, by creator and number in the creator's block; None if it is absent."""
        for tag, (_, value) in self.elements.items():
            if tag >> 16 == group and tag & 0xFF == number and tag & 0xFFFF > 0xFF:
                block = self.elements.get(group << 16 | (tag >> 8 & 0xFF))
                if block is not None and _plain_text(block[1]) == creator:
                    return value
        return None

    def identity(self, tag: int) -> object:
        """What two elements have in common if they are the same: their bytes; None if it is absent."""
        element = self.elements.get(tag)
        if element is None or isinstance(element[1], bytes):
            return element
        return id(element[1])

    def items(self, keyword: str) -> list[Attributes]:
        """The items of a sequence; none if it is absent."""
        found = self.get(keyword)
        return found if isinstance(found, list) else []

    def first(self, keyword: str) -> Attributes | None:
        """The first item of a sequence."""
        found = self.items(keyword)
        return found[0] if found else None

    def _value(self, tag: int, vr: str | None, raw: object) -> object:
        if vr is None or (vr == "UN" and not tag >> 16 & 1):
            vr = _vr_of(tag)
        if not isinstance(raw, bytes):
            return None if raw == "" else raw
        if vr == "SQ":
            return self._items(raw)
        if vr in _TEXTS:
            return text_of(raw, self._encoding.characters if vr in _IN_CHARACTER_SET else None) or None
        if vr == "US or SS":
            vr = "US"
        if vr in _NUMBERS:
            try:
                form = f"{'<' if self._encoding.little else '>'}{len(raw) // struct.calcsize(_NUMBERS[vr])}{_NUMBERS[vr]}"
                numbers = struct.unpack(form, raw)
            except struct.error:
                raise ValueError(f"{BaseTag(tag)} has {len(raw)} bytes, which are no {vr}") from None
            return numbers[0] if len(numbers) == 1 else numbers or None
        return raw

    def _items(self, raw: bytes) -> list[Attributes]:
        found = self._encoding.items.get(raw)
        if found is None:
            try:
                found = _parse_items(raw, self._encoding)
            except (_Unusual, struct.error):
                found = []
            self._encoding.items[raw] = found
        return found


def _unpickled(
    elements: dict[int, tuple[str | None, object]], implicit: bool, little: bool, characters: list[str]
) -> Attributes:
    return Attributes(elements, _Encoding(implicit, little, characters, {}))


def text_of(raw: bytes, characters: list[str] | None) -> str:
    """Text without padding; what is outside its character set is read as Latin-1."""
    if characters is None or raw.isascii() and b"\x1b" not in raw:
        return raw.decode("latin-1").strip(" \0")
    text = decode_bytes(raw, characters, set())
    return (raw.decode("latin-1") if "\ufffd" in text else text).strip(" \0")


@dataclass(frozen=True)
class Read:
    """What was read of a file.

    Attributes:
        attributes: those before the pixels that were asked for.
        transfer_syntax: UID; empty if the file does not say it.
        size: of the file.
        pixel_tag, pixel_bytes, pixel_offset: of the pixel data element and its value; None without pixels, and the
            first and last if pydicom read the file. The length is :data:`UNDEFINED_LENGTH` for fragments.
    """

    attributes: Attributes
    transfer_syntax: str
    pixel_tag: int | None
    pixel_bytes: int | None
    pixel_offset: int | None
    size: int


def read(path: Path, tags: Collection[int]) -> Read:
    """Some attributes before a file's pixels.

    Raises:
        InvalidDicomError: not a DICOM file.
        OSError: the file cannot be read.
        Exception: pydicom raises errors of many kinds for damaged files.
    """
    try:
        return _read(path, tags)
    except (_Unusual, struct.error, UnicodeError, LookupError):
        return _read_slowly(path, tags)


@dataclass(frozen=True)
class Instance:
    """A file of a series.

    Attributes:
        found: what was read of it; ``None`` if it could not be read.
        trouble: words for that.
    """

    path: Path
    found: Read | None
    trouble: str = ""

    @property
    def attributes(self) -> Attributes | None:
        return None if self.found is None else self.found.attributes


def read_instances(paths: Iterable[Path], tags: Collection[int]) -> list[Instance]:
    """Some attributes of each file.

    Raises:
        OSError: of the system.
    """
    read_ones = []
    for path in paths:
        try:
            with named_errors(path):
                read_ones.append(Instance(path, read(path, tags)))
        except UnreadableFile as error:
            read_ones.append(Instance(path, None, str(error)))
    return read_ones


def _read(path: Path, tags: Collection[int]) -> Read:
    with path.open("rb", buffering=0) as file:
        data = file.read(_FIRST_BYTES)
        if data[128:132] != b"DICM":
            raise _Unusual

        def more(end: int) -> bytes:
            """The bytes up to ``end`` at least."""
            nonlocal data
            wanted = max(end, 2 * len(data)) - len(data)
            while wanted > 0 and (block := file.read(wanted)):
                data += block
                wanted -= len(block)
            if len(data) < end:
                raise _Unusual
            return data

        at, syntax = _read_meta(data)
        implicit = syntax == ImplicitVRLittleEndian
        if not syntax or syntax in _SLOWLY or (implicit and data[at + 4 : at + 6] in _LONG | _SHORT):
            raise _Unusual
        attributes, pixels = _walk_file(data, at, more, implicit, tags)
        return Read(attributes, syntax, *pixels, os.fstat(file.fileno()).st_size)


def _read_meta(data: bytes) -> tuple[int, str]:
    """Where the data set begins, and its transfer syntax."""
    at, syntax = 132, ""
    while True:
        group, element, vr, length = _explicit(data, at)
        if group != 2:
            return at, syntax
        at += 8
        if vr in _LONG:
            (length,) = _length(data, at)
            at += 4
        elif vr not in _SHORT:
            raise _Unusual
        if length > _FIRST_BYTES:
            raise _Unusual
        if element == 0x10:
            syntax = data[at : at + length].decode("ascii").strip(" \0")
        at += length


def _walk_file(
    data: bytes, at: int, more: Callable[[int], bytes], implicit: bool, tags: Collection[int]
) -> tuple[Attributes, tuple[int | None, int | None, int | None]]:
    elements: dict[int, tuple[str | None, object]] = {}
    size = len(data)
    pixels: tuple[int | None, int | None, int | None] = (None, None, None)
    while True:
        if at + 12 > size:
            try:
                data = more(at + 12)
            except _Unusual:
                data = more(at)  # which is the end of a file without pixels
                if len(data) != at:
                    raise
                break
            size = len(data)
        if implicit:
            group, number, length = _implicit(data, at)
            vr = None
            at += 8
        else:
            group, number, vr, length = _explicit(data, at)
            at += 8
            if vr in _LONG:
                (length,) = _length(data, at)
                at += 4
            elif vr not in _SHORT:
                raise _Unusual
        tag = group << 16 | number
        if tag in PIXEL_TAGS:
            pixels = (tag, length, at)
            break
        if group < 8 or group == 0xFFFE:
            raise _Unusual
        if length == UNDEFINED_LENGTH:
            if vr == b"UN" or (implicit and _vr_of(tag) != "SQ") or (vr not in (None, b"SQ")):
                raise _Unusual
            while True:
                try:
                    end = _skip_items(data, at, implicit, 1)
                    break
                except struct.error:
                    data = more(size + 1)
                    size = len(data)
            if tag in tags:
                elements[tag] = ("SQ", data[at : end - 8])
            at = end
            continue
        if length > _MOST_SKIPPED:
            raise _Unusual
        end = at + length
        if tag in tags or tag == _CHARACTER_SET:
            if end > size:
                data = more(end)
                size = len(data)
            elements[tag] = (None if vr is None else vr.decode("ascii"), data[at:end])
        at = end
    characters = elements.get(_CHARACTER_SET)
    encoding = _Encoding(implicit, True, _characters(characters[1] if characters else None), {})
    return Attributes(elements, encoding), pixels


def _characters(raw: object) -> list[str]:
    return _encodings(_plain_text(raw))


def _plain_text(raw: object) -> str:
    return raw.decode("latin-1").strip(" \0") if isinstance(raw, bytes) else str(raw or "").strip()


@cache
def _encodings(text: str) -> list[str]:
    parts = [part.strip() for part in text.split("\\")]
    return list(convert_encodings(parts if len(parts) > 1 else parts[0]))


def _skip_items(data: bytes, at: int, implicit: bool, depth: int) -> int:
    """Where a sequence of undefined length ends, after its delimiter."""
    if depth > _DEEPEST:
        raise _Unusual
    while True:
        group, number, length = _implicit(data, at)
        tag = group << 16 | number
        at += 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _Unusual
        at = _skip_item(data, at, implicit, depth) if length == UNDEFINED_LENGTH else at + length


def _skip_item(
    data: bytes, at: int, implicit: bool, depth: int, kept: dict[int, tuple[str | None, object]] | None = None
) -> int:
    """Where an item of undefined length ends, after its delimiter.

    Args:
        kept: for its elements.
    """
    while True:
        if implicit:
            group, number, length = _implicit(data, at)
            vr = None
            at += 8
        else:
            group, number, vr, length = _explicit(data, at)
            at += 8
            if vr in _LONG:
                (length,) = _length(data, at)
                at += 4
            elif vr not in _SHORT:
                if group << 16 | number == _ITEM_END:
                    return at
                raise _Unusual
        tag = group << 16 | number
        if tag == _ITEM_END:
            return at
        if group == 0xFFFE:
            raise _Unusual
        start = at
        if length == UNDEFINED_LENGTH:
            if vr is None:
                # A private sequence has no VR in the dictionary; it begins with an item.
                if _vr_of(tag) not in ("SQ", "UN") or _implicit(data, at)[:2] not in (
                    (0xFFFE, 0xE000),
                    (0xFFFE, 0xE0DD),
                ):
                    raise _Unusual
            elif vr != b"SQ":
                raise _Unusual
            at = _skip_items(data, at, implicit, depth + 1)
            end = at - 8
            name: str | None = "SQ"
        else:
            at = end = at + length
            name = None if vr is None else vr.decode("ascii")
        if kept is not None and not group & 1:
            kept[tag] = (name, data[start:end])


def _parse_items(raw: bytes, encoding: _Encoding) -> list[Attributes]:
    found, at, size = [], 0, len(raw)
    while at < size:
        group, number, length = _implicit(raw, at)
        at += 8
        if group << 16 | number == _SEQUENCE_END:
            break
        if group << 16 | number != _ITEM:
            raise _Unusual
        elements: dict[int, tuple[str | None, object]] = {}
        if length == UNDEFINED_LENGTH:
            at = _skip_item(raw, at, encoding.implicit, 0, elements)
        else:
            if at + length > size:
                raise _Unusual
            # A delimiter after it, so that both kinds of items end alike.
            _skip_item(raw[at : at + length] + _END_OF_ITEM, 0, encoding.implicit, 0, elements)
            at += length
        own = elements.get(_CHARACTER_SET)
        within = encoding if own is None else _Encoding(encoding.implicit, True, _characters(own[1]), {})
        found.append(Attributes(elements, within))
    return found


_END_OF_ITEM = b"\xfe\xff\x0d\xe0\0\0\0\0"


def _read_slowly(path: Path, tags: Collection[int]) -> Read:
    dataset, pixel_bytes = read_attributes(path, [BaseTag(tag) for tag in tags])
    syntax = str(getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID", ""))
    return Read(attributes_of(dataset), syntax, None, pixel_bytes, None, path.stat().st_size)


def attributes_of(dataset: Dataset) -> Attributes:
    """The attributes of a data set that pydicom has read."""
    elements: dict[int, tuple[str | None, object]] = {}
    little = True
    for tag in dataset.keys():  # noqa: SIM118 (tags, not elements)
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            little = element.is_little_endian
            if (
                element.VR == "SQ"
                or (not little and tag.is_private)
                or (element.VR is None and _vr_of(tag) == "SQ")
            ):
                element = dataset[tag]
            else:
                elements[tag] = (element.VR, b"" if element.value is None else element.value)
                continue
        value = element.value
        if element.VR == "SQ":
            value = [attributes_of(item) for item in value or ()]
        elif isinstance(value, MultiValue):
            texts = any(isinstance(one, str) for one in value)
            value = "\\".join(map(str, value)) if texts else tuple(value)
        elements[tag] = (element.VR, value)
    characters = _characters(elements.get(_CHARACTER_SET, (None, b""))[1])
    return Attributes(elements, _Encoding(False, little, characters, {}))


def numbers_of(value: object) -> tuple[float, ...]:
    """The numbers of a value that :meth:`Attributes.get` gave; none if it is absent, empty, or holds something else."""
    if isinstance(value, (int, float)):
        return (float(value),)
    if isinstance(value, str):
        value = [part for part in value.split("\\") if part.strip()]
    try:
        return tuple(float(part) for part in value) if isinstance(value, Iterable) else ()
    except (ValueError, TypeError):
        return ()


def number_of(value: object) -> float:
    """The first of a value's numbers; ``nan`` without any."""
    found = numbers_of(value)
    return found[0] if found else math.nan
