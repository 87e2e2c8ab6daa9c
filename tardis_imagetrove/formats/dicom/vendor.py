"""Private elements of Siemens, GE, Philips and United Imaging: typed values, CSA headers and b-values."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_DECIMALS = re.compile(r"[-+]?\d{1,9}(?:\.\d{0,16})?(?:[eE][-+]?\d{1,3})?|[-+]?\.\d{1,16}")

#: Creator, group, element of its block, and VR of what holds a b-value.
B_VALUES = (
    ("SIEMENS MR HEADER", 0x0019, 0x0C, "IS"),
    ("GEMS_PARM_01", 0x0043, 0x39, "IS"),
    ("Philips Imaging DD 001", 0x2001, 0x03, "FL"),
    ("Image Private Header", 0x0065, 0x09, "FD"),
)

#: Creator, group and element of Siemens' CSA image header.
CSA_IMAGE_HEADER = ("SIEMENS CSA HEADER", 0x0029, 0x10)

_CSA_LIMIT = 1024
_CSA_INTEGERS = frozenset({"IS", "SL", "SS", "UL", "US"})
_CSA_REALS = frozenset({"DS", "FD", "FL"})


def creator_of(dataset: Dataset, tag: BaseTag) -> str:
    """The private creator that reserves a private element's block (PS3.5 section 7.8.1)."""
    element = dataset.get(Tag(tag.group, tag.element >> 8))
    return str(element.value).strip() if element is not None and element.value else ""


class PrivateValues(Protocol):
    """What gives the bytes of private elements: :class:`.attributes.Attributes`."""

    def private(self, creator: str, group: int, number: int) -> object: ...


def private_element(dataset: Dataset, creator: str, group: int, element: int) -> DataElement | None:
    """A private element by creator, group and number in the creator's block, whichever block that is."""
    for tag in dataset.keys():  # noqa: SIM118 (tags, not elements)
        here = tag.group == group and tag.element & 0xFF == element and tag.element > 0xFF
        if here and creator_of(dataset, tag) == creator:
            return dataset[tag]
    return None


def _private_value(dataset: Dataset | PrivateValues, creator: str, group: int, number: int) -> object:
    if isinstance(dataset, Dataset):
        element = private_element(dataset, creator, group, number)
        return None if element is None else element.value
    return dataset.private(creator, group, number)


def typed_value(value: object, vr: str, words: tuple[str, ...] = ()) -> object | None:
    """An element's value as ``vr``, also where the file has it as ``UN``; ``None`` if it is anything else.

    Args:
        words: the only texts that are accepted; without them text must be decimal numbers.
    """
    if vr in _NUMBERS:
        if isinstance(value, bytes):
            size = struct.calcsize(_NUMBERS[vr])
            if not value or len(value) % size:
                return None
            value = list(struct.unpack(f"<{len(value) // size}{_NUMBERS[vr]}", value))
        numbers = list(value) if isinstance(value, (list, tuple, MultiValue)) else [value]
        if not numbers or not all(_is_plain(number) for number in numbers):
            return None
        return numbers if len(numbers) > 1 else numbers[0]
    if isinstance(value, bytes):
        value = value.decode("latin-1").strip(" \0").split("\\")
    texts = [
        str(part).strip(" \0")
        for part in (value if isinstance(value, (list, tuple, MultiValue)) else [value])
    ]
    if words:
        return texts[0] if len(texts) == 1 and texts[0] in words else None
    if not texts or not all(is_decimal(text) and len(text) <= 16 for text in texts):
        return None
    return texts if len(texts) > 1 else texts[0]


def is_decimal(text: str) -> bool:
    """Whether the text is a decimal number, as in DS and IS."""
    return _DECIMALS.fullmatch(text) is not None


def _is_plain(number: object) -> bool:
    """Whether it is a number of a plausible size; letters that are read as a number are not."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return False
    return math.isfinite(number) and (number == 0 or 1e-12 < abs(number) < 1e7)


def private_b_value(dataset: Dataset | PrivateValues) -> float | None:
    """The diffusion b-value in s/mm^2 from the private element of Siemens, GE, Philips or United Imaging."""
    for creator, group, number, vr in B_VALUES:
        found = _private_value(dataset, creator, group, number)
        value = typed_value(found, vr) if found is not None else None
        if value is not None:
            b_value = float(str(value[0] if isinstance(value, list) else value))
            # GE adds 10^9 where the gradients are those of a table.
            return b_value % 100_000 if creator == "GEMS_PARM_01" and b_value >= 1e9 else b_value
    return None


@dataclass(frozen=True)
class CsaField:
    """One field of a CSA header.

    Attributes:
        multiplicity: number of values that count; 0 if all items do.
        items: bytes of each item, as they are in the header.
    """

    name: str
    multiplicity: int
    vr: str
    kind: int
    items: tuple[bytes, ...]

    def values(self) -> list[float | int | str]:
        """The values: numbers as numbers, text without padding.

        Raises:
            ValueError: a number is not one.
        """
        found: list[float | int | str] = []
        for item in self.items[: self.multiplicity or None]:
            text = item.partition(b"\0")[0].strip().decode("latin-1")
            if self.vr in _CSA_INTEGERS and text:
                found.append(int(text))
            elif self.vr in _CSA_REALS and text:
                found.append(float(text))
            elif self.vr not in _CSA_INTEGERS | _CSA_REALS:
                found.append(text)
        return found


def read_csa(header: bytes) -> Iterator[CsaField]:
    """The fields of a Siemens CSA header, of either layout, little endian.

    "CSA2" begins with ``SV10`` and 4 bytes; then, as in "CSA1": number of fields, 77; then each field: name
    (64 bytes), multiplicity, VR (4 bytes), type, number of items, 77 or 205; then each item: four numbers and its
    bytes, filled up to four. Its length is the second number in CSA2; in CSA1 the first, less the number of items
    of the first field, and an impossible length ends the field (as SPM's ``spm_dicom_headers`` reads it).

    Raises:
        ValueError: neither layout, or damaged.
    """
    second = header[:4] == b"SV10"
    place = 8 if second else 0
    try:
        count, check = struct.unpack_from("<2I", header, place)
        if not 0 < count <= _CSA_LIMIT or check not in (77, 205):
            raise ValueError("not a CSA header")
        place += 8
        less: int | None = None
        for _ in range(count):
            name, multiplicity, vr, kind, number, _check = struct.unpack_from("<64si4siii", header, place)
            place += 84
            if not 0 <= number <= _CSA_LIMIT * 64:
                raise ValueError("damaged CSA header")
            less = number if less is None else less
            items = []
            for _ in range(number):
                numbers = struct.unpack_from("<4i", header, place)
                place += 16
                length = numbers[1] if second else numbers[0] - less
                if not second and not 0 <= length <= len(header) - place:
                    break
                if not 0 <= length <= len(header) - place:
                    raise ValueError("damaged CSA header")
                items.append(header[place : place + length])
                place += (length + 3) // 4 * 4
            yield CsaField(
                name.partition(b"\0")[0].decode("latin-1"),
                multiplicity,
                vr.partition(b"\0")[0][:2].decode("latin-1"),
                kind,
                tuple(items),
            )
    except struct.error as error:
        raise ValueError("damaged CSA header") from error


def siemens_csa(
    dataset: Dataset | PrivateValues, names: Collection[str] = ()
) -> dict[str, list[float | int | str]]:
    """The fields of a Siemens CSA image header that have values; empty without a readable header.

    Args:
        names: only these.
    """
    header = _private_value(dataset, *CSA_IMAGE_HEADER)
    if not isinstance(header, bytes):
        return {}
    try:
        fields = (field for field in read_csa(header) if not names or field.name in names)
        found = {field.name: field.values() for field in fields}
    except ValueError:
        return {}
    return {name: values for name, values in found.items() if values}
