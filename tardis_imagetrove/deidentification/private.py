"""Private elements that stay under the Retain Safe Private Option (PS3.15 section E.3.10).

Each is decided by its creator and its number in the creator's block, and by its value: numbers, or
one of a few words. So nothing that a vendor, or somebody else, has put there in another meaning
comes through. Siemens' CSA image header is a bag of named values; it is written anew with those
that geometry, timing and diffusion need. The CSA series header, which holds the whole protocol with
names and UIDs, goes.
"""

from __future__ import annotations

import struct

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from ..formats.dicom.vendor import creator_of, is_decimal, private_element, read_csa, typed_value

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

#: Values of a CSA image header that stay; all of them numbers but the one of words.
CSA_VALUES = frozenset(
    [
        "NumberOfImagesInMosaic",
        "MosaicRefAcqTimes",
        "SliceNormalVector",
        "SliceMeasurementDuration",
        "ProtocolSliceNumber",
        "BandwidthPerPixelPhaseEncode",
        "PhaseEncodingDirectionPositive",
        "B_value",
        "B_matrix",
        "DiffusionGradientDirection",
        "DiffusionDirectionality",
        "EchoColumnPosition",
        "EchoLinePosition",
        "EchoPartitionPosition",
        "Columns",
        "Rows",
        "PixelSpacing",
        "SliceThickness",
        "SpacingBetweenSlices",
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "RealDwellTime",
        "TimeAfterStart",
    ]
)


def keep_safe(dataset: Dataset, keep: bool) -> None:
    """Remove a dataset's private elements, all or, if ``keep``, those that are not safe; items not entered.

    What stays keeps its tag, since converters look for it there whatever its block is.
    """
    kept: dict[BaseTag, DataElement] = {}
    private = [tag for tag in dataset.keys() if tag.is_private]  # noqa: SIM118 (tags, not elements)
    for tag in private:
        if keep and tag.element > 0xFF:
            creator = creator_of(dataset, tag)
            safe = SAFE.get((creator, tag.group), {}).get(tag.element & 0xFF)
            if safe is None:
                continue
            value = _safe_value(dataset[tag], *safe)
            if value is not None:
                block = Tag(tag.group, tag.element >> 8)
                kept[block] = DataElement(block, "LO", creator)
                kept[tag] = DataElement(tag, "OB" if safe[0] == _CSA else safe[0], value)
    for tag in private:
        del dataset[tag]
    for element in kept.values():
        dataset.add(element)


def value_of(dataset: Dataset, creator: str, group: int, element: int) -> object | None:
    """Value of a private element if it is there and safe."""
    found = private_element(dataset, creator, group, element)
    return None if found is None else _safe_value(found, *SAFE[creator, group][element])


def _safe_value(element: DataElement, vr: str, words: tuple[str, ...]) -> object | None:
    if vr == _CSA:
        return clean_csa(element.value) if isinstance(element.value, bytes) else None
    return typed_value(element.value, vr, words)


def clean_csa(header: bytes) -> bytes | None:
    """A CSA image header with its safe values alone, as "CSA2"; ``None`` if it has none or cannot be read."""
    parts = []
    try:
        for field in read_csa(header):
            if field.name not in CSA_VALUES:
                continue
            texts = [item.partition(b"\0")[0].strip() for item in field.items]
            decoded = [text.decode("latin-1") for text in texts]
            if not all(not text or text in _SIEMENS or is_decimal(text) for text in decoded):
                continue
            part = struct.pack(
                "<64si4siii",
                field.name.encode(),
                field.multiplicity,
                field.vr.encode("latin-1"),
                field.kind,
                len(texts),
                77,
            )
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
