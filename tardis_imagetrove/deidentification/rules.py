"""What a profile does with each attribute: table E.1-1 of PS3.15, its options, and the rule for all others.

The table comes from dicom-anonymizer, which makes it from the standard, and so do the dummy values.
Its own walk through a file is not used: it does not enter sequences, leaves dates of 1 January of
the year 1 where the standard removes them, and remembers UIDs in one process only.
"""

from __future__ import annotations

from enum import Enum
from functools import cache

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.tag import BaseTag, Tag

from .profile import EDITION, Option, Profile


class Action(Enum):
    """What becomes of an attribute."""

    KEEP = "keep"  # a sequence's items are gone through
    REMOVE = "remove"
    EMPTY = "empty"
    DUMMY = "dummy"
    UID = "uid"
    PSEUDONYM = "pseudonym"
    MOVE = "move"
    CLEAN = "clean"


def _tags(keywords: str) -> frozenset[int]:
    return frozenset(tag_for_keyword(keyword) for keyword in keywords.split())


#: Attributes that stay under an option: "K" in its column of table E.1-1. Those that the table lets
#: stay cleaned ("C") are removed, which is always allowed.
DEVICE = _tags(
    "BeamHoldTransitionDateTime CalibrationDate CalibrationDateTime CalibrationTime CassetteID DateOfInstallation"
    " DateOfLastCalibration DateOfLastDetectorCalibration DateOfManufacture DateTimeOfLastCalibration DetectorID"
    " DeviceDescription DeviceLabel DeviceSerialNumber DeviceUID GantryID GeneratorID LensMake LensModel"
    " LensSerialNumber LensSpecification ManufacturerDeviceClassUID ManufacturerDeviceIdentifier"
    " ModifyingDeviceID ModifyingSystem PerformedStationGeographicLocationCodeSequence PerformedStationName"
    " PerformedStationNameCodeSequence PlateID ScheduledProcedureStepLocation"
    " ScheduledStationGeographicLocationCodeSequence ScheduledStationName ScheduledStationNameCodeSequence"
    " ScheduledStudyLocation SourceManufacturer SourceSerialNumber StationName TimeOfLastCalibration"
    " TimeOfLastDetectorCalibration TransducerIdentificationSequence TreatmentMachineName UDISequence"
    " UniqueDeviceIdentifier XRayDetectorID XRayDetectorLabel XRaySourceID"
)
INSTITUTION = _tags(
    "ClinicalTrialCoordinatingCenterName ClinicalTrialProtocolEthicsCommitteeName ClinicalTrialSiteID"
    " ClinicalTrialSiteName InstitutionAddress InstitutionalDepartmentName"
    " InstitutionalDepartmentTypeCodeSequence InstitutionCodeSequence InstitutionName"
    " SourceOfPreviousValues"
)
PATIENT = _tags(
    "EthnicGroup PatientAge PatientSex PatientSexNeutered PatientSize PatientWeight PregnancyStatus"
    " SelectorASValue SmokingStatus"
)
#: Those descriptions, of all that the Clean Descriptors Option lets stay cleaned, that tell series apart.
DESCRIPTORS = _tags(
    "SeriesDescription StudyDescription ProtocolName PerformedProcedureStepDescription"
    " RequestedProcedureDescription"
)
PSEUDONYMS = _tags("PatientID PatientName")

_TIMES = ("DA", "DT", "TM")
#: Dates and times that are of the person, not of the course of things: no option keeps them.
_NOT_LONGITUDINAL = _tags("PatientBirthDate PatientBirthTime GPSTimeStamp")
#: Of no VR for dates, but kept with them.
_WITH_FULL_DATES = _tags("TimezoneOffsetFromUTC FrameOriginTimestamp CertifiedTimestamp")

_FREE_TEXT = ("LT", "ST", "UT", "UC", "UR")
_NAMES = ("PN", "AE")
_NUMERIC = ("IS", "DS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD")
_BULK_VRS = ("OB", "OW", "OF", "OD", "OL", "OV", "UN")
#: Bulk data of images, which no other rule is about; all other bulk data may hold anything.
_BULK = _tags(
    "PixelData FloatPixelData DoubleFloatPixelData SpectroscopyData ExtendedOffsetTable"
    " ExtendedOffsetTableLengths RedPaletteColorLookupTableData GreenPaletteColorLookupTableData"
    " BluePaletteColorLookupTableData AlphaPaletteColorLookupTableData"
    " SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData"
    " SegmentedBluePaletteColorLookupTableData LUTData DVHData"
) | {0x00281101, 0x00281102, 0x00281103, 0x00281104, 0x00280106, 0x00280107, 0x00280120}
_ALWAYS_DUMMY = _tags("DeviceSerialNumber")  # of type 1 in enhanced objects (PS3.3 C.7.5.2)


@cache
def _table() -> dict[int, str]:
    """Code of table E.1-1 by tag, as the library spells it: ``X``, ``Z_D``, ``X_Z_U_STAR``."""
    lists = dicom_anonymization_database_selector(f"dicomfields_{EDITION}")
    return {
        Tag(*tag): name.removesuffix("_TAGS")
        for name, tags in lists.items()
        if name != "ALL_TAGS"
        for tag in tags
        if len(tag) == 2  # groups that repeat are removed as a whole
    }


def code(tag: int) -> str:
    """An attribute's code in table E.1-1; empty if it is not there."""
    return _table().get(int(tag), "")


def action(tag: BaseTag, vr: str, profile: Profile, lean: bool) -> Action:
    """What becomes of a standard attribute.

    What the table does not name stays if it cannot say much: dates, names of persons and of network
    addresses, free text, bulk data and attributes that the dictionary does not know are removed all the same.

    Args:
        vr: its value representation, in the file.
        lean: the object needs nothing that is removed, so that "X/D" is to remove and "Z/D" to empty.
    """
    if tag in PSEUDONYMS:
        return Action.PSEUDONYM
    # The dictionary says what an attribute is, not the file: with a wrong VR a date or a code could be any text.
    known_vr = dictionary_VR(tag) if dictionary_has_tag(tag) else ""
    if not _agree(known_vr, vr):
        return _by_code(code(tag), tag, vr, lean) if code(tag)[:1] in ("D", "U", "Z") else Action.REMOVE
    if (
        (Option.RETAIN_DEVICE in profile and tag in DEVICE)
        or (Option.RETAIN_INSTITUTION in profile and tag in INSTITUTION)
        or (Option.RETAIN_PATIENT in profile and tag in PATIENT)
    ):
        return Action.KEEP
    if known_vr in _TIMES and tag not in _NOT_LONGITUDINAL:
        if Option.RETAIN_DATES in profile:
            return Action.KEEP
        if Option.SHIFT_DATES in profile:
            return Action.MOVE
    if tag in _WITH_FULL_DATES and Option.RETAIN_DATES in profile:
        return Action.KEEP
    if tag in DESCRIPTORS and Option.CLEAN_DESCRIPTORS in profile:
        return Action.CLEAN
    if in_table := code(tag):
        return _by_code(in_table, tag, vr, lean)
    return _not_in_table(tag, vr)


def _agree(known_vr: str, vr: str) -> bool:
    """Whether a VR is the dictionary's, one of those it leaves open, or a number where it is a number."""
    return vr in known_vr.split(" or ") or (vr in _NUMERIC and known_vr.partition(" ")[0] in _NUMERIC)


def _by_code(in_table: str, tag: BaseTag, vr: str, lean: bool) -> Action:
    if in_table in ("U", "X_Z_U_STAR"):
        return Action.KEEP if vr == "SQ" else Action.UID
    if in_table == "D":
        return Action.DUMMY
    if in_table == "X":
        return Action.REMOVE
    if in_table in ("Z", "X_Z"):
        return Action.EMPTY
    if tag in _ALWAYS_DUMMY:
        return Action.DUMMY
    if vr == "SQ":
        return Action.REMOVE if in_table.startswith("X") else Action.EMPTY
    if in_table == "X_Z_D":
        return Action.EMPTY if lean or vr not in _TIMES else Action.DUMMY
    if in_table == "X_D":
        return Action.REMOVE if lean else Action.DUMMY
    return Action.EMPTY if lean else Action.DUMMY  # Z_D


def _not_in_table(tag: BaseTag, vr: str) -> Action:
    if tag in _BULK:
        return Action.KEEP
    repeats = tag.group in range(0x5000, 0x5100) or tag.group in range(0x6000, 0x6100)  # curves, overlays
    if repeats or vr in _TIMES or vr in _FREE_TEXT or vr in _NAMES or vr in _BULK_VRS:
        return Action.REMOVE
    if vr == "UI" and "Class" not in keyword_for_tag(tag):
        return Action.UID
    return Action.KEEP


def stays(tag: BaseTag, profile: Profile) -> bool:
    """Whether an attribute's value is in a copy as it was received, so that it may be shown from elsewhere."""
    vr = dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
    return not tag.is_private and action(tag, vr, profile, lean=True) == Action.KEEP


def survives(tag: BaseTag, profile: Profile) -> bool:
    """Whether an attribute says anything after de-identification, so that a title can be made of it."""
    vr = dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
    return not tag.is_private and action(tag, vr, profile, lean=True) not in (
        Action.REMOVE,
        Action.EMPTY,
        Action.DUMMY,
    )
