"""Sidecars as BIDS wants them: what the converter wrote, mended, with what the dataset knows besides."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from .names import Name
from .scan import INJECTED_AT, Image, Scan

REQUIRED: dict[tuple[str, str], tuple[str, ...]] = {
    ("func", "bold"): ("RepetitionTime",),
    ("func", "cbv"): ("RepetitionTime",),
    ("fmap", "phasediff"): ("EchoTime1", "EchoTime2"),
    ("fmap", "phase1"): ("EchoTime",),
    ("fmap", "phase2"): ("EchoTime",),
    ("fmap", "fieldmap"): ("Units",),
    ("fmap", "epi"): ("PhaseEncodingDirection", "TotalReadoutTime"),
    ("anat", "MEGRE"): ("EchoTime",),
    ("anat", "MESE"): ("EchoTime",),
    ("perf", "asl"): (
        "MagneticFieldStrength",
        "MRAcquisitionType",
        "EchoTime",
        "ArterialSpinLabelingType",
        "PostLabelingDelay",
        "BackgroundSuppression",
        "M0Type",
        "RepetitionTimePreparation",
    ),
    ("pet", "pet"): (
        "Manufacturer",
        "ManufacturersModelName",
        "Units",
        "TracerName",
        "TracerRadionuclide",
        "ModeOfAdministration",
        "InjectedRadioactivity",
        "InjectedRadioactivityUnits",
        "InjectedMass",
        "InjectedMassUnits",
        "SpecificRadioactivity",
        "SpecificRadioactivityUnits",
        "TimeZero",
        "ScanStart",
        "InjectionStart",
        "FrameTimesStart",
        "FrameDuration",
        "AcquisitionMode",
        "ImageDecayCorrected",
        "ImageDecayCorrectionTime",
        "ReconMethodName",
        "ReconMethodParameterLabels",
        "ReconMethodParameterUnits",
        "ReconMethodParameterValues",
        "ReconFilterType",
        "AttenuationCorrection",
    ),
}
"""Fields without which BIDS does not accept a file."""

_DIRECTIONS = frozenset({"i", "j", "k", "i-", "j-", "k-"})
_POSITIVE = (
    "EchoTime",
    "EchoTime1",
    "EchoTime2",
    "RepetitionTime",
    "TotalReadoutTime",
    "EffectiveEchoSpacing",
)
_NUMBERS = (
    *_POSITIVE,
    "RepetitionTimePreparation",
    "InversionTime",
    "MagneticFieldStrength",
    "DwellTime",
    "NumberOfVolumesDiscardedByScanner",
)
_TEXTS = (
    "Manufacturer",
    "ManufacturersModelName",
    "DeviceSerialNumber",
    "StationName",
    "SoftwareVersions",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "ReceiveCoilName",
    "SequenceName",
    "PulseSequenceDetails",
    "BodyPart",
    "TracerName",
    "TracerRadionuclide",
)
_DROPPED = frozenset({"BidsGuess"})
"""What dcm2niix thinks of an image, which has its name by now."""


def mended(fields: Mapping[str, object], name: Name, image: Image) -> tuple[dict[str, object], list[str]]:
    """The fields that BIDS accepts, and what was changed, in words."""
    told: dict[str, object] = {}
    changed: list[str] = []
    for key, value in fields.items():
        clean = _finite(value)
        if key in _DROPPED:
            continue
        if not _accepted(key, clean):
            changed.append(f"{key} is left out: {value!r} is not what BIDS allows")
        else:
            told[key] = clean
    if name.datatype in ("func", "dwi", "perf") or name.suffix == "epi":
        _time(told, name, image, changed)
    return told, changed


def _time(told: dict[str, object], name: Name, image: Image, changed: list[str]) -> None:
    repetition = told.get("RepetitionTime")
    if name.suffix in ("bold", "cbv") and image.step > 0:
        if isinstance(repetition, (int, float)) and abs(repetition - image.step) > 0.001:
            told.setdefault("RepetitionTimeExcitation", repetition)
            changed.append(f"RepetitionTime is the {image.step:g} s between volumes, not {repetition:g} s")
        if not isinstance(repetition, (int, float)) or abs(repetition - image.step) > 0.001:
            told["RepetitionTime"] = repetition = round(image.step, 6)
    if "RepetitionTime" in told and told.pop("VolumeTiming", None) is not None:
        changed.append("VolumeTiming is left out: it excludes RepetitionTime")
    timing = told.get("SliceTiming")
    if isinstance(timing, list) and isinstance(repetition, (int, float)):
        worst = max((float(value) for value in timing if isinstance(value, (int, float))), default=0.0)
        slices = image.shape[2] if len(image.shape) > 2 else len(timing)
        if worst > repetition or len(timing) != slices:
            del told["SliceTiming"]
            changed.append(
                f"SliceTiming is left out: {len(timing)} values up to {worst:g} s for {slices} slices in {repetition:g} s"
            )


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _accepted(key: str, value: object) -> bool:
    if value is None or (isinstance(value, list) and None in value):
        return False
    if key == "PhaseEncodingDirection":
        return isinstance(value, str) and value in _DIRECTIONS
    if key in _POSITIVE and isinstance(value, (int, float)):
        return value > 0
    if key in _NUMBERS:
        return isinstance(value, (int, float, list)) and not isinstance(value, bool)
    if key in _TEXTS:
        return isinstance(value, str)
    return True


def with_pet_times(fields: Mapping[str, object], scan: Scan) -> dict[str, object]:
    """The fields of a PET scan with the times that its headers imply, and ``n/a`` for what no header holds.

    dcm2niix counts times from SeriesTime; so does BIDS from TimeZero.
    """
    told = dict(fields)
    zero = str(told.get("SeriesTime", "")).partition(".")[0]
    begun, injected = _seconds(zero), _seconds(scan.get(INJECTED_AT))
    if begun is not None:
        told.setdefault("TimeZero", zero)
        if injected is not None and abs(injected - begun) < 12 * 3600:  # not over midnight
            told.setdefault("InjectionStart", round(injected - begun, 3))
    for name in ("InjectedMass", "SpecificRadioactivity"):
        if name not in told:
            told[name] = told[f"{name}Units"] = "n/a"
    labels = told.get("ReconMethodParameterLabels")
    if isinstance(labels, list) and set(labels) <= {"subsets", "iterations"}:
        told.setdefault("ReconMethodParameterUnits", ["none"] * len(labels))
    return told


def _seconds(time: str) -> float | None:
    found = re.fullmatch(r"(\d\d):?(\d\d):?(\d\d(?:\.\d+)?)", time)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def missing(fields: Mapping[str, object], name: Name) -> list[str]:
    """Fields that BIDS requires of such a file and that are not there."""
    return [key for key in REQUIRED.get((name.datatype, name.suffix), ()) if key not in fields]


def as_bytes(content: Mapping[str, object]) -> bytes:
    """A JSON file's bytes."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
