"""Facts of a single frame beside its place and pixels: what it shows, diffusion weighting, and times."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np

from ..formats.dicom.attributes import Attributes, number_of, numbers_of, tag_of
from ..formats.dicom.vendor import siemens_csa, typed_value

Value = float | str | None


@dataclass(frozen=True)
class Trait:
    """An attribute whose values tell images of one place apart, when the difference is not time.

    Attributes:
        keyword: in a single-frame object.
        sequence, enhanced: functional group and attribute of a multi-frame object (PS3.3 C.7.6.16);
            ``enhanced`` is empty where the keyword is the same.
        field: in the sidecar.
        label: format of the value in a file name; empty: the words that differ.
        scale: of the value, to the sidecar's unit.
        digits: decimals up to which numbers are the same; ``None`` for text.
    """

    keyword: str
    sequence: str
    field: str
    label: str = ""
    enhanced: str = ""
    scale: float = 1.0
    digits: int | None = None


TRAITS = (
    Trait("ImageType", "", "ImageType"),
    Trait("KVP", "CTXRayDetailsSequence", "KVP", "{:g}kV", digits=1),
    Trait("ConvolutionKernel", "CTReconstructionSequence", "ConvolutionKernel", "{}"),
    Trait("FilterType", "CTXRayDetailsSequence", "FilterType", "{}"),
    Trait("CorrectedImage", "", "CorrectedImage"),
    Trait("EchoTime", "MREchoSequence", "EchoTime", "TE{:g}ms", "EffectiveEchoTime", 1e-3, digits=2),
    Trait("InversionTime", "MRModifierSequence", "InversionTime", "TI{:g}ms", "InversionTimes", 1e-3, 1),
    Trait("FlipAngle", "MRTimingAndRelatedParametersSequence", "FlipAngle", "FA{:g}", digits=1),
    Trait(
        "NominalPercentageOfCardiacPhase",
        "CardiacSynchronizationSequence",
        "NominalPercentageOfCardiacPhase",
        "phase{:g}",
        digits=1,
    ),
)
"""In the order in which they stand in a file name."""

CLOCKS = ("offset", "reference", "trigger", "acquisition", "content")
"""When a frame was taken, the surest first: TemporalPositionTimeOffset; FrameReferenceTime or
FrameReferenceDateTime; TriggerTime or NominalCardiacTriggerDelayTime; FrameAcquisitionDateTime or AcquisitionDate
and AcquisitionTime; ContentDate and ContentTime. Seconds, each from a beginning of its own."""

OF_FRAMES = (
    *(trait.keyword for trait in TRAITS),
    "ComplexImageComponent",
    "ActualFrameDuration",
    "AcquisitionDateTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "ContentDate",
    "ContentTime",
    "FrameReferenceTime",
    "TriggerTime",
    "RepetitionTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "DiffusionDirectionality",
)
"""Attributes that :func:`frames_of_header` reads at the top of a dataset."""

FRAME_TYPES = (
    "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence",
    "PETFrameTypeSequence",
)

_OF_ONE_FRAME = tuple(
    map(
        tag_of,
        (
            *dict.fromkeys(trait.sequence for trait in TRAITS if trait.sequence),
            *FRAME_TYPES,
            "TemporalPositionSequence",
            "MRDiffusionSequence",
        ),
    )
)
"""Functional groups that tell what a frame shows, beside FrameContentSequence."""

_PHILIPS = "Philips MR Imaging DD 001"
VENDOR_GRADIENTS = (
    (("SIEMENS MR HEADER", 0x0019, 0x0C, "IS"), (("SIEMENS MR HEADER", 0x0019, 0x0E, "FD"),)),
    (
        ("Philips Imaging DD 001", 0x2001, 0x03, "FL"),
        tuple((_PHILIPS, 0x2005, element, "FL") for element in (0xB0, 0xB1, 0xB2)),
    ),
    (("Image Private Header", 0x0065, 0x09, "FD"), (("Image Private Header", 0x0065, 0x37, "FD"),)),
)
"""Creator, group, element in its block and VR of a b-value, and of the directions in patient coordinates."""

_VENDOR_TAGS = frozenset({0x0019100C, 0x20011003, 0x00651009, 0x00291010, 0x00291110})

COMPONENTS = {"MAGNITUDE": "M", "PHASE": "P", "REAL": "R", "IMAGINARY": "I"}
"""ComplexImageComponent (PS3.3 C.8.13.3.1.1) as the third value of ImageType."""


@dataclass(frozen=True)
class Frame:
    """Facts of one frame.

    Attributes:
        traits: a value for each of :data:`TRAITS`; ``None`` where the header has none.
        clocks: a value for each of :data:`CLOCKS`, seconds; ``nan`` where the header has none.
        duration: seconds; ``nan`` if not stated.
        repetition: RepetitionTime in seconds; ``nan`` if not stated.
        b_value: s/mm^2; ``nan`` if not stated.
        gradient: unit vector in patient coordinates (LPS); ``None`` without a direction.
        vendor_b_value, vendor_gradient: the same by private elements of Siemens, Philips and United Imaging, with
            which dcm2niix's are compared. (GE's are in the axes of the image, and turned by dcm2niix alone.)
    """

    traits: tuple[Value, ...]
    clocks: tuple[float, ...]
    duration: float
    repetition: float
    b_value: float
    gradient: tuple[float, float, float] | None
    vendor_b_value: float = math.nan
    vendor_gradient: tuple[float, float, float] | None = None


def frames_of_header(dataset: Attributes, count: int) -> tuple[Frame, ...]:
    """The facts of each frame of an instance.

    Args:
        count: frames in the instance.
    """
    groups = dataset.items("PerFrameFunctionalGroupsSequence")
    plain = _plain_frame(dataset)
    if len(groups) != count:
        return (plain,) * count
    shared = dataset.first("SharedFunctionalGroupsSequence")
    # Frames mostly differ in place, number and time alone.
    known: dict[tuple[object, ...], Frame] = {}
    frames = []
    for group in groups:
        key = tuple(map(group.identity, _OF_ONE_FRAME))
        if (frame := known.get(key)) is None:
            frame = known[key] = _enhanced_frame(group, shared, plain)
        content = group.first("FrameContentSequence") or (shared and shared.first("FrameContentSequence"))
        frames.append(_with_content(frame, content) if content else frame)
    return tuple(frames)


def _plain_frame(dataset: Attributes) -> Frame:
    value = dataset.get
    traits = tuple(_trait(trait, value(trait.keyword)) for trait in TRAITS)
    component = COMPONENTS.get(str(value("ComplexImageComponent") or ""))
    if component:
        traits = (_with_component(traits[0], component), *traits[1:])
    day = number_of(value("AcquisitionDate"))
    when = _datetime(value("AcquisitionDateTime"))
    if math.isnan(when):
        when = _time(value("AcquisitionTime"), day)
    return Frame(
        traits=traits,
        clocks=(
            math.nan,
            number_of(value("FrameReferenceTime")) / 1000,
            number_of(value("TriggerTime")) / 1000,
            when,
            _time(value("ContentTime"), number_of(value("ContentDate"))),
        ),
        duration=number_of(value("ActualFrameDuration")) / 1000,
        repetition=number_of(value("RepetitionTime")) / 1000,
        **_diffusion(value("DiffusionBValue"), value("DiffusionGradientOrientation")),
        **_vendor_diffusion(dataset),
    )


def _enhanced_frame(group: Attributes, shared: Attributes | None, plain: Frame) -> Frame:
    def item(sequence: str) -> Attributes | None:
        return group.first(sequence) or (shared.first(sequence) if shared else None)

    def of(sequence: str, keyword: str) -> object:
        found = item(sequence)
        return None if found is None else found.get(keyword)

    traits = list(plain.traits)
    for index, trait in enumerate(TRAITS):
        if trait.sequence and (found := of(trait.sequence, trait.enhanced or trait.keyword)) is not None:
            traits[index] = _trait(trait, found)
    for sequence in FRAME_TYPES:
        kind = item(sequence)
        if kind is not None:
            if (frame_type := kind.get("FrameType")) is not None:
                traits[0] = _trait(TRAITS[0], frame_type)
            component = COMPONENTS.get(str(kind.get("ComplexImageComponent") or ""))
            if component:
                traits[0] = _with_component(traits[0], component)
    trigger = number_of(of("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"))
    offset = number_of(of("TemporalPositionSequence", "TemporalPositionTimeOffset"))
    diffusion = item("MRDiffusionSequence")
    weights = {"b_value": plain.b_value, "gradient": plain.gradient}
    if diffusion is not None:
        direction = diffusion.first("DiffusionGradientDirectionSequence")
        b_value = diffusion.get("DiffusionBValue")
        if "DiffusionBValue" not in diffusion and diffusion.get("DiffusionDirectionality") == "NONE":
            b_value = 0
        weights = _diffusion(b_value, direction and direction.get("DiffusionGradientOrientation"))
    return Frame(
        traits=tuple(traits),
        clocks=(offset, math.nan, trigger / 1000, math.nan, math.nan),
        duration=math.nan,
        repetition=number_of(of("MRTimingAndRelatedParametersSequence", "RepetitionTime")) / 1000,
        **weights,
    )


def _with_content(frame: Frame, content: Attributes) -> Frame:
    """The frame with what its FrameContentSequence says."""
    offset, _, trigger, _, last = frame.clocks
    if math.isnan(offset):
        offset = number_of(content.get("TemporalPositionTimeOffset"))
    reference, acquired = (
        _datetime(content.get(name)) for name in ("FrameReferenceDateTime", "FrameAcquisitionDateTime")
    )
    duration = number_of(content.get("FrameAcquisitionDuration")) / 1000
    return replace(frame, clocks=(offset, reference, trigger, acquired, last), duration=duration)


def _trait(trait: Trait, value: object) -> Value:
    if trait.digits is None:
        texts = _texts(value)
        if trait.keyword == "ImageType":
            texts = [text for text in texts[2:] if text not in ("MOSAIC", "VFRAME")]
        return "\\".join(texts) or None
    number = number_of(value)
    return None if math.isnan(number) else round(number, trait.digits) + 0.0


def _with_component(image_type: Value, component: str) -> str:
    """ImageType's values from the third on, with the complex component in the first of them."""
    texts = str(image_type).split("\\") if image_type else []
    rest = [text for text in texts if text not in COMPONENTS and text not in COMPONENTS.values()]
    return "\\".join([component, *rest])


def _diffusion(b_value: object, orientation: object) -> dict[str, object]:
    direction = np.array(numbers_of(orientation))
    length = float(np.linalg.norm(direction)) if len(direction) == 3 else 0.0
    unit = tuple(float(part) for part in direction / length) if 0.5 < length < 2 else None
    return {"b_value": number_of(b_value), "gradient": unit}


def _vendor_diffusion(dataset: Attributes) -> dict[str, object]:
    """The weighting by a vendor's private elements; nothing without them."""
    if not dataset.elements.keys() & _VENDOR_TAGS:
        return {}
    for b_value, directions in VENDOR_GRADIENTS:
        found = _private_numbers(dataset, *b_value)
        if not found:
            continue
        direction = tuple(number for one in directions for number in _private_numbers(dataset, *one))
        told = _diffusion(found[0], direction)
        return {"vendor_b_value": told["b_value"], "vendor_gradient": told["gradient"]}
    csa = siemens_csa(dataset, ("B_value", "DiffusionGradientDirection"))
    if not csa.get("B_value"):
        return {}
    told = _diffusion(csa["B_value"][0], tuple(csa.get("DiffusionGradientDirection", ())))
    return {"vendor_b_value": told["b_value"], "vendor_gradient": told["gradient"]}


def _private_numbers(
    dataset: Attributes, creator: str, group: int, number: int, vr: str
) -> tuple[float, ...]:
    value = typed_value(dataset.private(creator, group, number), vr)
    return numbers_of(tuple(value) if isinstance(value, list) else value)


def _texts(value: object) -> list[str]:
    return [] if value is None else [part.strip() for part in str(value).split("\\")]


def _time(value: object, day: float) -> float:
    """Seconds of a TM value on a day (a DA value as a number; ``nan`` if unknown)."""
    found = re.fullmatch(r"(\d{2}):?(\d{2})?:?(\d{2}(?:\.\d+)?)?", str(value or "").strip())
    if not found:
        return math.nan
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    days = 0
    if not math.isnan(day):
        try:
            days = date(int(day) // 10_000, int(day) // 100 % 100, int(day) % 100).toordinal()
        except (ValueError, OverflowError):
            days = 0
    return days * 86400 + hours * 3600 + minutes * 60 + seconds


def _datetime(value: object) -> float:
    """Seconds of a DT value without its offset from UTC."""
    found = re.match(r"(\d{8})(\d{2}[\d.]*)", str(value or "").strip())
    return _time(found[2], float(found[1])) if found else math.nan


def distinct(values: Sequence[Value]) -> list[Value]:
    """The different values in a fixed order: numbers by size, texts by alphabet, nothing last."""
    return sorted(set(values), key=lambda value: (value is None, isinstance(value, str), value or 0))
