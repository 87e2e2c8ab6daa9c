"""BIDS sidecars: dcm2niix's, brought into agreement with the headers; or made of the headers alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.charset import decode_bytes

from ..formats.dicom.attributes import Attributes, numbers_of, read, tag_of
from .frames import TRAITS, Frame
from .gradients import read_table, write_table
from .headers import Header
from .image import Image

OWN_SOFTWARE = f"pydicom {pydicom.__version__}, nibabel {nibabel.__version__}"
"""What makes an image where dcm2niix does not."""

TEXTS = {
    "Modality": "Modality",
    "Manufacturer": "Manufacturer",
    "ManufacturersModelName": "ManufacturerModelName",
    "SoftwareVersions": "SoftwareVersions",
    "InstitutionName": "InstitutionName",
    "InstitutionalDepartmentName": "InstitutionalDepartmentName",
    "StationName": "StationName",
    "DeviceSerialNumber": "DeviceSerialNumber",
    "BodyPart": "BodyPartExamined",
    "BodyPartExamined": "BodyPartExamined",
    "PatientPosition": "PatientPosition",
    "ProcedureStepDescription": "PerformedProcedureStepDescription",
    "StudyDescription": "StudyDescription",
    "SeriesDescription": "SeriesDescription",
    "ProtocolName": "ProtocolName",
    "SequenceName": "SequenceName",
    "ScanningSequence": "ScanningSequence",
    "SequenceVariant": "SequenceVariant",
    "ScanOptions": "ScanOptions",
    "MRAcquisitionType": "MRAcquisitionType",
    "ReceiveCoilName": "ReceiveCoilName",
    "ConvolutionKernel": "ConvolutionKernel",
    "Radiopharmaceutical": "Radiopharmaceutical",
    "ContrastBolusAgent": "ContrastBolusAgent",
}
"""A sidecar's fields of text, as dcm2niix names them, and their DICOM keywords."""

ALWAYS_STATED = (
    "Modality",
    "Manufacturer",
    "ManufacturersModelName",
    "SoftwareVersions",
    "BodyPartExamined",
    "PatientPosition",
    "ProtocolName",
    "SeriesDescription",
)
"""Fields of text in a sidecar that is made of the headers alone."""

NUMBERS = {
    "MagneticFieldStrength": ("MagneticFieldStrength", 1.0),
    "SeriesNumber": ("SeriesNumber", 1.0),
    "SliceThickness": ("SliceThickness", 1.0),
    "SpacingBetweenSlices": ("SpacingBetweenSlices", 1.0),
    "EchoTime": ("EchoTime", 1e-3),
    "RepetitionTime": ("RepetitionTime", 1e-3),
    "InversionTime": ("InversionTime", 1e-3),
    "FlipAngle": ("FlipAngle", 1.0),
}
"""Fields of numbers, with keyword and scale."""

PER_VOLUME = frozenset(
    {
        "FrameDuration",
        "FrameReferenceTime",
        "FrameTimesStart",
        "DecayFactor",
        "VolumeTiming",
        "ScatterFraction",
    }
)
"""Fields that hold one value a volume, in the image's order."""

OF_ONE_VOLUME = frozenset(
    {"AcquisitionTime", "AcquisitionNumber", "TriggerDelayTime", "SeriesNumber", "InstanceNumber"}
)
"""Fields by which images that belong together may differ."""

Owners = Sequence[tuple[Header, int]]


@dataclass(frozen=True)
class Carried:
    """The files beside an image that replaces another."""

    sidecar: Path | None = None
    bval: Path | None = None
    bvec: Path | None = None


def load_sidecar(path: Path) -> dict[str, object]:
    """A sidecar's fields; bytes that are not UTF-8 are replaced."""
    return json.loads(path.read_text(encoding="utf-8", errors="replace"), strict=False)


def save_sidecar(path: Path, fields: Mapping[str, object]) -> None:
    """Write a sidecar as UTF-8."""
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def carried(template: Image, before: Owners | None, after: Owners, target: Path) -> Carried:
    """The sidecar and gradients of an image that replaces ``template``, with all that stays true.

    Args:
        before: the owners of the template's volumes, in its order; ``None`` if unknown.
        after: the owners of the new image's volumes.
        target: the path of the files, apart from the suffix.
    """
    order = None
    if before is not None:
        places = {(header.path, index): t for t, (header, index) in enumerate(before)}
        found = [places.get((header.path, index)) for header, index in after]
        order = None if None in found else found
    sidecar = None
    if template.sidecar:
        fields = load_sidecar(template.sidecar)
        for name in PER_VOLUME & fields.keys():
            values = fields[name]
            if order is not None and isinstance(values, list) and before and len(values) == len(before):
                fields[name] = [values[t] for t in order]
            elif isinstance(values, list):
                del fields[name]
        sidecar = target.with_suffix(".json")
        save_sidecar(sidecar, fields)
    table = read_table(template.bval, template.bvec) if template.bval and template.bvec else None
    if table is None or order is None or before is None or len(table[0]) != len(before):
        return Carried(sidecar)
    bval, bvec = target.with_suffix(".bval"), target.with_suffix(".bvec")
    write_table((table[0][order], table[1][:, order]), bval, bvec)
    return Carried(sidecar, bval, bvec)


def own_sidecar(path: Path) -> dict[str, object]:
    """The fields of a sidecar that is made of an instance's header alone."""
    dataset = read(path, _TAGS).attributes
    fields: dict[str, object] = {"ConversionSoftware": OWN_SOFTWARE}
    for field in ALWAYS_STATED:
        if text := _text(dataset.get(TEXTS[field])):
            fields[field] = text
    for field, (keyword, scale) in NUMBERS.items():
        numbers = numbers_of(dataset.get(keyword))
        if len(numbers) == 1:
            fields[field] = round(numbers[0] * scale, 9) if scale != 1 else _plain(numbers[0])
    fields.update(deidentification_in(dataset))
    if kinds := dataset.text("ImageType"):
        fields["ImageType"] = kinds.split("\\")
    return fields


def with_texts(fields: dict[str, object], path: Path) -> dict[str, object]:
    """The fields with the header's text where that is not plain ASCII, as dcm2niix takes bytes for Latin-1, and with
    how it was de-identified.

    Args:
        path: an instance of the image.
    """
    dataset = read(path, _TAGS).attributes
    told = dict(fields) | deidentification_in(dataset)
    for field, keyword in TEXTS.items():
        if field in fields and isinstance(fields[field], str):
            text = dataset.text(keyword)
            if not text.isascii():
                told[field] = text
    for field, value in told.items():
        if field not in TEXTS and isinstance(value, str) and not value.isascii():
            try:
                told[field] = decode_bytes(value.encode("latin-1"), dataset.characters, set())
            except (UnicodeError, LookupError):
                continue
    return told


DEIDENTIFICATION = (
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
)
"""What says that an instance is a de-identified copy (PS3.3 C.7.1.1)."""


_TAGS = frozenset(
    map(
        tag_of,
        (
            *TEXTS.values(),
            *(keyword for keyword, _ in NUMBERS.values()),
            *DEIDENTIFICATION,
            "ImageType",
            "SpecificCharacterSet",
        ),
    )
)


def deidentification_in(dataset: Attributes) -> dict[str, object]:
    """The fields in which a sidecar says how an instance was de-identified; none if it was not.

    BIDS has DeidentificationMethod, a list, and DeidentificationMethodCodeSequence, a list of objects. That dates were
    shifted is said under DICOM's keyword, LongitudinalTemporalInformationModified.
    """
    told: dict[str, object] = {}
    if method := dataset.get("DeidentificationMethod"):
        text = _text(method)
        told["DeidentificationMethod"] = text if isinstance(text, list) else [text]
    codes = [
        {
            keyword: text
            for keyword in ("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")
            if (text := item.text(keyword))
        }
        for item in dataset.items("DeidentificationMethodCodeSequence")
    ]
    if codes:
        told["DeidentificationMethodCodeSequence"] = codes
    if told and (modified := dataset.get("LongitudinalTemporalInformationModified")):
        told["LongitudinalTemporalInformationModified"] = _text(modified)
    return told


def traits_in(
    fields: Mapping[str, object], frames: Sequence[Frame], named: Sequence[int]
) -> dict[str, object]:
    """The fields with what all frames of an image show, for the traits ``named``."""
    told = dict(fields)
    for index in named:
        trait, values = TRAITS[index], {frame.traits[index] for frame in frames}
        value = values.pop()
        if values or value is None:
            continue
        if trait.digits is None:
            if trait.keyword == "ImageType":
                first = fields.get("ImageType")
                kept = list(first[:2]) if isinstance(first, list) else []
                told["ImageType"] = [*kept, *str(value).split("\\")]
            else:
                told[trait.field] = value
        else:
            told[trait.field] = _plain(round(float(value) * trait.scale, 9))
    return told


def pet_times(frames: Sequence[Frame]) -> dict[str, list[float]]:
    """FrameDuration, FrameReferenceTime and FrameTimesStart of a dynamic PET, in seconds, as far as headers say them.

    FrameReferenceTime lies within its frame (PS3.3 C.8.9.4.1.3); a start is half a frame before it where that
    makes frames that follow each other.
    """
    durations = np.array([frame.duration for frame in frames])
    references = np.array([frame.clocks[1] for frame in frames])
    told: dict[str, list[float]] = {}
    if not np.isnan(durations).any() and (durations > 0).all():
        told["FrameDuration"] = [_plain(value) for value in durations]
    if not np.isnan(references).any() and references.max() < 1e6:  # not a date
        told["FrameReferenceTime"] = [_plain(value) for value in references]
        if "FrameDuration" in told:
            starts = references - durations / 2
            follow = starts[1:] - starts[:-1] - durations[:-1]
            if (starts > -0.5).all() and (np.abs(follow) < 0.05 * durations[:-1] + 0.1).all():
                told["FrameTimesStart"] = [_plain(round(float(value), 6)) for value in np.maximum(starts, 0)]
    return told


def _text(value: object) -> str | list[str]:
    texts = [part.strip() for part in str("" if value is None else value).split("\\")]
    return texts if len(texts) > 1 else texts[0]


def _plain(value: float) -> float:
    return int(value) if float(value).is_integer() else float(value)
