"""Private elements that stay under the Retain Safe Private Option (PS3.15 section E.3.10).

Each is decided by its creator and its number in the creator's block, and by its value: numbers, or
one of a few words. So nothing that a vendor, or somebody else, has put there in another meaning
comes through. Siemens' CSA image header is a bag of named values; it is written anew with those
that geometry, timing and diffusion need. The CSA series header, which holds the whole protocol with
names and UIDs, goes.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_DECIMALS = re.compile(r"[-+]?\d{1,9}(?:\.\d{0,16})?(?:[eE][-+]?\d{1,3})?|[-+]?\.\d{1,16}")

_SIEMENS = ("NONE", "DIRECTIONAL", "ISOTROPIC", "BMATRIX")
_CSA = "CSA"

#: VR and, for text, the words that may stand there, by creator, group and element of its block.
SAFE: dict[tuple[str, int], dict[int, tuple[str, tuple[str, ...]]]] = {
    ("SIEMENS MR HEADER", 0x0019): {
        0x0A: ("US", ()),  # number of images in mosaic
        0x0B: ("DS", ()),  # slice measurement duration
        0x0C: ("IS", ()),  # b-value
        0x0D: ("CS", _SIEMENS),  # diffusion directionality
        0x0E: ("FD", ()),  # diffusion gradient direction
        0x27: ("FD", ()),  # b-matrix
        0x28: ("FD", ()),  # bandwidth per pixel, phase encode
        0x29: ("FD", ()),  # slices' times in a mosaic
    },
    ("SIEMENS CSA HEADER", 0x0029): {0x08: ("CS", ("IMAGE NUM 4",)), 0x10: (_CSA, ())},
    ("GEMS_ACQU_01", 0x0019): {
        0x23: ("DS", ()),  # table speed
        0x24: ("DS", ()),  # mid scan time
        0x27: ("DS", ()),  # rotation speed
        0xBB: ("DS", ()),  # diffusion gradient direction, three elements
        0xBC: ("DS", ()),
        0xBD: ("DS", ()),
    },
    ("GEMS_PARM_01", 0x0043): {0x39: ("IS", ()), 0x6F: ("DS", ())},  # b-value; table entry
    ("GEMS_HELIOS_01", 0x0045): {0x01: ("SS", ()), 0x02: ("FL", ())},
    ("Philips Imaging DD 001", 0x2001): {
        0x03: ("FL", ()),  # b-value
        0x04: ("CS", ("P", "R", "S", "O", "I", "N", "NONE")),  # diffusion direction
        0x0A: ("IS", ()),  # slice number
        0x0B: ("CS", ("TRANSVERSAL", "SAGITTAL", "CORONAL")),
        0x18: ("SL", ()),  # number of slices
        0x22: ("FL", ()),  # water-fat shift
    },
    ("Philips MR Imaging DD 001", 0x2005): {
        0x0D: ("FL", ()),  # scale intercept
        0x0E: ("FL", ()),  # scale slope
        0xB0: ("FL", ()),  # diffusion direction, three elements
        0xB1: ("FL", ()),
        0xB2: ("FL", ()),
    },
    ("Philips MR Imaging DD 005", 0x2005): {
        0x12: ("IS", ()),
        0x13: ("IS", ()),
    },  # numbers of b-value, direction
    ("Philips PET Private Group", 0x7053): {0x00: ("DS", ()), 0x09: ("DS", ())},
    ("ELSCINT1", 0x01F1): {0x07: ("DS", ()), 0x26: ("DS", ()), 0x27: ("DS", ())},
    ("Image Private Header", 0x0065): {0x09: ("FD", ()), 0x37: ("FD", ())},  # United Imaging: diffusion
}

#: Creator, group and element of what holds a b-value.
B_VALUES = (
    ("SIEMENS MR HEADER", 0x0019, 0x0C),
    ("GEMS_PARM_01", 0x0043, 0x39),
    ("Philips Imaging DD 001", 0x2001, 0x03),
    ("Image Private Header", 0x0065, 0x09),
)

#: Values of a CSA image header that stay; all of them numbers but the one of words.
CSA_VALUES = frozenset(
    (
        b"NumberOfImagesInMosaic MosaicRefAcqTimes SliceNormalVector SliceMeasurementDuration ProtocolSliceNumber"
        b" BandwidthPerPixelPhaseEncode PhaseEncodingDirectionPositive B_value B_matrix"
        b" DiffusionGradientDirection DiffusionDirectionality EchoColumnPosition EchoLinePosition"
        b" EchoPartitionPosition Columns Rows PixelSpacing SliceThickness SpacingBetweenSlices"
        b" ImageOrientationPatient ImagePositionPatient RealDwellTime TimeAfterStart"
    ).split()
)
_CSA_WORDS = frozenset(word.encode() for word in _SIEMENS)
_CSA_LIMIT = 1024


def keep_safe(dataset: Dataset, keep: bool) -> None:
    """Remove a dataset's private elements, all or, if ``keep``, those that are not safe; items not entered.

    What stays keeps its tag, since converters look for it there whatever its block is.
    """
    kept: dict[BaseTag, DataElement] = {}
    private = [tag for tag in dataset.keys() if tag.is_private]  # noqa: SIM118 (tags, not elements)
    for tag in private:
        if keep and tag.element > 0xFF:
            creator = _creator(dataset, tag)
            safe = SAFE.get((creator, tag.group), {}).get(tag.element & 0xFF)
            value = _safe_value(dataset[tag], *safe) if safe is not None else None
            if value is not None:
                block = Tag(tag.group, tag.element >> 8)
                kept[block] = DataElement(block, "LO", creator)
                kept[tag] = DataElement(tag, "OB" if safe[0] == _CSA else safe[0], value)
    for tag in private:
        del dataset[tag]
    for element in kept.values():
        dataset.add(element)


def _creator(dataset: Dataset, tag: BaseTag) -> str:
    element = dataset.get(Tag(tag.group, tag.element >> 8))
    return str(element.value).strip() if element is not None and element.value else ""


def value_of(dataset: Dataset, creator: str, group: int, element: int) -> object | None:
    """Value of a private element if it is there and safe."""
    safe = SAFE[creator, group][element]
    for tag in dataset.keys():  # noqa: SIM118
        here = tag.group == group and tag.element & 0xFF == element and tag.element > 0xFF
        if here and _creator(dataset, tag) == creator:
            return _safe_value(dataset[tag], *safe)
    return None


def private_b_value(dataset: Dataset) -> float | None:
    """Diffusion's b-value in s/mm^2 from where Siemens, GE, Philips or United Imaging keeps it."""
    for creator, group, element in B_VALUES:
        value = value_of(dataset, creator, group, element)
        if value is not None:
            number = float(value[0] if isinstance(value, list) else value)
            # GE adds 10^9 where the gradients are those of a table.
            return number % 100_000 if creator == "GEMS_PARM_01" and number >= 1e9 else number
    return None


def _safe_value(element: DataElement, vr: str, words: tuple[str, ...]) -> object | None:
    """The element's value as ``vr`` if it is nothing but that; None if it is anything else."""
    value = element.value
    if vr == _CSA:
        return clean_csa(value) if isinstance(value, bytes) else None
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
    texts = [str(part).strip(" \0") for part in (value if isinstance(value, (list, MultiValue)) else [value])]
    if words:
        return texts[0] if len(texts) == 1 and texts[0] in words else None
    if not texts or not all(_DECIMALS.fullmatch(text) and len(text) <= 16 for text in texts):
        return None
    return texts if len(texts) > 1 else texts[0]


def _is_plain(number: object) -> bool:
    """Whether it is a number of a size that is measured; letters read as a number are not."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return False
    return math.isfinite(number) and (number == 0 or 1e-12 < abs(number) < 1e7)


def clean_csa(header: bytes) -> bytes | None:
    """A CSA image header of its safe values alone; None if it has none or cannot be read.

    The layout is that of ``SV10`` headers ("CSA2"), little endian: "SV10", 4 bytes, number of values,
    77; then each value: name (64 bytes), multiplicity, VR (4 bytes), type, number of items, 77 or 205;
    then each item: four numbers, of which the second is its length, and its bytes, filled up to four.
    """
    parts = []
    try:
        for name, multiplicity, vr, kind, items in _csa_values(header):
            if name not in CSA_VALUES:
                continue
            texts = [item.partition(b"\0")[0].strip() for item in items]
            if not all(
                not text or text in _CSA_WORDS or _DECIMALS.fullmatch(text.decode("latin-1"))
                for text in texts
            ):
                continue
            part = struct.pack("<64si4siii", name, multiplicity, vr, kind, len(texts), 77)
            for text in texts:
                text = text + b"\0" if text else b""
                part += struct.pack("<4i", len(text), len(text), 77, len(text))
                part += text.ljust((len(text) + 3) // 4 * 4, b"\0")
            parts.append(part)
    except (struct.error, ValueError):
        return None
    if not parts:
        return None
    return b"SV10\4\3\2\1" + struct.pack("<2I", len(parts), 77) + b"".join(parts)


def _csa_values(header: bytes) -> Iterator[tuple[bytes, int, bytes, int, list[bytes]]]:
    if header[:4] != b"SV10":
        raise ValueError("not of the layout that is known")
    count, check = struct.unpack_from("<2I", header, 8)
    if not 0 < count <= _CSA_LIMIT or check not in (77, 205):
        raise ValueError("not of the layout that is known")
    place = 16
    for _ in range(count):
        name, multiplicity, vr, kind, number, _check = struct.unpack_from("<64si4siii", header, place)
        place += 84
        if not 0 <= number <= _CSA_LIMIT * 64:
            raise ValueError("damaged")
        items = []
        for _ in range(number):
            length = struct.unpack_from("<4i", header, place)[1]
            place += 16
            if not 0 <= length <= len(header) - place:
                raise ValueError("damaged")
            items.append(header[place : place + length])
            place += (length + 3) // 4 * 4
        yield name.partition(b"\0")[0], multiplicity, vr.partition(b"\0")[0][:2], kind, items
