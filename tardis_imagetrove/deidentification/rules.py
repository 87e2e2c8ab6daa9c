"""What a profile does with each attribute: table E.1-1 of PS3.15, its options, and the rule for all others.

The table and the dummy values come from dicom-anonymizer, which generates them from the standard.
Its own walk through a file is not used: it does not enter sequences, sets dates to 1 January of the
year 1 where the standard removes them, and remembers UIDs in one process only.

What the table does not name is removed, unless it is listed in :mod:`.kept`.
"""

from __future__ import annotations

from enum import Enum
from functools import cache, lru_cache

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.tag import BaseTag, Tag

from .kept import KEPT
from .profile import EDITION, Option, Profile


class Action(Enum):
    """What happens to an attribute."""

    KEEP = "keep"  # the items of a sequence are de-identified in turn
    REMOVE = "remove"
    EMPTY = "empty"
    DUMMY = "dummy"
    UID = "uid"
    PSEUDONYM = "pseudonym"
    MOVE = "move"
    CLEAN = "clean"


def tags_of(keywords: str) -> frozenset[int]:
    """Tags of keywords with a space between them."""
    return frozenset(int(Tag(keyword)) for keyword in keywords.split())


#: Attributes kept by an option: "K" in its column of table E.1-1. Those that the table allows to be
#: cleaned ("C") are removed, which is always allowed.
DEVICE = tags_of(
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
INSTITUTION = tags_of(
    "ClinicalTrialCoordinatingCenterName ClinicalTrialProtocolEthicsCommitteeName ClinicalTrialSiteID"
    " ClinicalTrialSiteName InstitutionAddress InstitutionalDepartmentName"
    " InstitutionalDepartmentTypeCodeSequence InstitutionCodeSequence InstitutionName"
    " SourceOfPreviousValues"
)
PATIENT = tags_of(
    "EthnicGroup PatientAge PatientSex PatientSexNeutered PatientSize PatientWeight PregnancyStatus"
    " SelectorASValue SmokingStatus"
)
#: The descriptions, of all that the Clean Descriptors Option covers, that tell series apart.
DESCRIPTORS = tags_of(
    "SeriesDescription StudyDescription ProtocolName PerformedProcedureStepDescription"
    " RequestedProcedureDescription"
)
PSEUDONYMS = tags_of("PatientID PatientName")

_TIMES = ("DA", "DT", "TM")
#: Dates and times of the person, not of the examination: no option keeps them.
_NOT_LONGITUDINAL = tags_of("PatientBirthDate PatientBirthTime GPSTimeStamp")
#: Not of a date VR, but kept with the dates.
_WITH_FULL_DATES = tags_of("TimezoneOffsetFromUTC FrameOriginTimestamp CertifiedTimestamp")

_NUMERIC = ("IS", "DS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD")
_ALWAYS_DUMMY = tags_of("DeviceSerialNumber")  # of type 1 in enhanced objects (PS3.3 C.7.5.2)


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
    """An attribute's code in table E.1-1; empty if the table does not name it."""
    return _table().get(int(tag), "")


class Why(Enum):
    """Why a rule applies to an attribute; the value is how a report says it."""

    TABLE = "PS3.15 table E.1-1"
    OPTION = "kept by an option of the profile"
    DESCRIPTOR = "only known imaging words are kept"
    SHIFTED = "dates are shifted"
    PSEUDONYM = "pseudonym of the patient"
    VR = "value representation differs from the dictionary"
    LISTED = "on the list of kept attributes"
    UNLISTED = "not on the list of kept attributes"


@lru_cache(maxsize=8192)
def decide(tag: BaseTag, vr: str, profile: Profile, lean: bool) -> tuple[Action, Why]:
    """What happens to a standard attribute, and by which rule.

    Args:
        vr: its value representation in the file.
        lean: the object needs nothing that is removed, so that "X/D" removes and "Z/D" empties.
    """
    if tag in PSEUDONYMS:
        return Action.PSEUDONYM, Why.PSEUDONYM
    # The dictionary says what an attribute is, not the file: with a wrong VR a date or a code could be any text.
    known_vr = dictionary_VR(tag) if dictionary_has_tag(tag) else ""
    if not _agree(known_vr, vr):
        in_table = code(tag)
        return (
            _by_code(in_table, tag, vr, lean) if in_table[:1] in ("D", "U", "Z") else Action.REMOVE,
            Why.VR if known_vr else Why.UNLISTED,
        )
    if (
        (Option.RETAIN_DEVICE in profile and tag in DEVICE)
        or (Option.RETAIN_INSTITUTION in profile and tag in INSTITUTION)
        or (Option.RETAIN_PATIENT in profile and tag in PATIENT)
    ):
        return Action.KEEP, Why.OPTION
    if known_vr in _TIMES and tag not in _NOT_LONGITUDINAL:
        if Option.RETAIN_DATES in profile:
            return Action.KEEP, Why.OPTION
        if Option.SHIFT_DATES in profile:
            return Action.MOVE, Why.SHIFTED
    if tag in _WITH_FULL_DATES and Option.RETAIN_DATES in profile:
        return Action.KEEP, Why.OPTION
    if tag in DESCRIPTORS and Option.CLEAN_DESCRIPTORS in profile:
        return Action.CLEAN, Why.DESCRIPTOR
    if in_table := code(tag):
        return _by_code(in_table, tag, vr, lean), Why.TABLE
    if tag not in KEPT:
        return Action.REMOVE, Why.UNLISTED
    is_uid = vr == "UI" and "Class" not in keyword_for_tag(tag)
    return Action.UID if is_uid else Action.KEEP, Why.LISTED


def action(tag: BaseTag, vr: str, profile: Profile, lean: bool) -> Action:
    """What happens to a standard attribute; see :func:`decide`."""
    return decide(tag, vr, profile, lean)[0]


def _agree(known_vr: str, vr: str) -> bool:
    """Whether a VR is one that the dictionary allows, or both are numbers."""
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


def stays(tag: BaseTag, profile: Profile) -> bool:
    """Whether a copy keeps an attribute's value as received, so that it may be shown from elsewhere too."""
    vr = dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
    return not tag.is_private and action(tag, vr, profile, lean=True) == Action.KEEP


def survives(tag: BaseTag, profile: Profile) -> bool:
    """Whether an attribute still holds something after de-identification, so that a title can be made of it."""
    vr = dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
    return not tag.is_private and action(tag, vr, profile, lean=True) not in (
        Action.REMOVE,
        Action.EMPTY,
        Action.DUMMY,
    )
