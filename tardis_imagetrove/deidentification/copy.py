"""Making the de-identified copy of one instance, or saying why there can be none."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pydicom
from dicomanonymizer.simpledicomanonymizer import replace_element
from pydicom import uid as uids
from pydicom.datadict import dictionary_keyword, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, UID_dictionary

from ..errors import PermanentError
from ..formats.dicom.fields import decoded
from ..formats.dicom.vendor import private_b_value
from .frames import remove_comments
from .private import keep_safe, value_of
from .profile import Option, Profile
from .pseudonyms import Pseudonyms
from .rules import Action, action
from .words import cleaned


class NotDeidentifiable(PermanentError):
    """An instance of which no safe copy can be made; the text says why and names nobody."""


@dataclass(frozen=True)
class Copy:
    """A de-identified copy.

    Attributes:
        losses: what researchers may want and the profile has taken, in words.
    """

    path: Path
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    losses: tuple[str, ...]


#: Kinds of instances whose pixels show what was imaged and nothing else, and that consist of what the
#: table is about. All others are refused: reports, documents, waveforms, raw data and presentation
#: states have their content where the Basic Profile does not look.
PLAIN_KINDS = frozenset(
    {
        uids.CTImageStorage,
        uids.EnhancedCTImageStorage,
        uids.LegacyConvertedEnhancedCTImageStorage,
        uids.MRImageStorage,
        uids.EnhancedMRImageStorage,
        uids.EnhancedMRColorImageStorage,
        uids.LegacyConvertedEnhancedMRImageStorage,
        uids.MRSpectroscopyStorage,
        uids.PositronEmissionTomographyImageStorage,
        uids.EnhancedPETImageStorage,
        uids.LegacyConvertedEnhancedPETImageStorage,
        uids.NuclearMedicineImageStorage,
        uids.RTDoseStorage,
        uids.RTStructureSetStorage,
        uids.RTPlanStorage,
        uids.SegmentationStorage,
    }
)
#: Kinds into whose pixels names are often written: taken only if they say that there are none.
DOUBTFUL_KINDS = frozenset(
    {
        uids.SecondaryCaptureImageStorage,
        uids.MultiFrameSingleBitSecondaryCaptureImageStorage,
        uids.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        uids.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        uids.MultiFrameTrueColorSecondaryCaptureImageStorage,
        uids.UltrasoundImageStorage,
        uids.UltrasoundMultiFrameImageStorage,
        uids.EnhancedUSVolumeStorage,
        uids.ComputedRadiographyImageStorage,
        uids.DigitalXRayImageStorageForPresentation,
        uids.DigitalXRayImageStorageForProcessing,
        uids.DigitalMammographyXRayImageStorageForPresentation,
        uids.DigitalMammographyXRayImageStorageForProcessing,
        uids.BreastTomosynthesisImageStorage,
        uids.XRayAngiographicImageStorage,
        uids.EnhancedXAImageStorage,
        uids.XRayRadiofluoroscopicImageStorage,
        uids.EnhancedXRFImageStorage,
        uids.XRay3DAngiographicImageStorage,
        uids.XRay3DCraniofacialImageStorage,
    }
)
#: Kinds that need none of what "X/D" and "Z/D" are about.
_LEAN_KINDS = frozenset({uids.CTImageStorage, uids.MRImageStorage})

#: Text that is about the machine and the picture; a phantom called "Philips" must not take it away.
_ABOUT_THE_MACHINE = frozenset(
    tag_for_keyword(keyword)
    for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "CodeMeaning")
)
_TEXT = ("LO", "SH")
_MIN_WORD = 3
_WORDS = re.compile(r"[^\W_]+")

_OVERLAY_BIT_POSITION = 0x0102
_PADDING = 0xFFFCFFFC


def deidentify(path: Path, out: Path, profile: Profile, pseudonyms: Pseudonyms) -> Copy:
    """Write a copy of the instance in ``path`` to ``out`` that does not say whose it is (PS3.15 annex E).

    The same instance, profile and pseudonyms give the same bytes.

    Raises:
        NotDeidentifiable: no copy can be made that is safe.
        OSError: a file cannot be read or written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            return _Deidentifier(pydicom.dcmread(path), profile, pseudonyms).write(out)
    except (OSError, MemoryError, NotDeidentifiable):  # the first two may pass
        raise
    except Exception as error:  # its words may quote a value
        raise NotDeidentifiable(
            f"de-identification fails over its contents ({type(error).__name__})"
        ) from None


def refusal(dataset: Dataset) -> str:
    """Why no safe copy can be made, as far as the header says; empty if one can."""
    kind = UID(str(dataset.get("SOPClassUID", "")))
    burned_in = str(dataset.get("BurnedInAnnotation", "") or "").strip().upper()
    if burned_in == "YES":
        return "has annotation burned into its pixels (BurnedInAnnotation is YES), which the profile does not clean"
    name = kind.name if kind in UID_dictionary else "an unknown kind"
    if kind not in PLAIN_KINDS and kind not in DOUBTFUL_KINDS:
        return f"is {name}, of which no safe copy can be made: the profile does not look into its content"
    captured = "ConversionType" in dataset or "SCREEN SAVE" in _words_of(dataset.get("ImageType"))
    if (kind in DOUBTFUL_KINDS or captured) and burned_in != "NO":
        return (
            f"is {name}{', captured from a screen' if captured else ''}, whose pixels may show names,"
            " and does not say that there are none (BurnedInAnnotation NO)"
        )
    if any(
        tag.group in range(0x6000, 0x6100) and tag.element == _OVERLAY_BIT_POSITION and dataset[tag].value
        for tag in dataset.keys()  # noqa: SIM118 (tags, not elements)
    ):
        return "has an overlay in unused bits of its pixels, which the profile does not clean"
    if "VFRAME" in _words_of(dataset.get("ImageType")):
        return (
            "is a mosaic of United Imaging, whose layout is in private elements that are not known to be safe"
        )
    return ""


def _text_of(dataset: Dataset, keyword: str) -> str:
    element = decoded(dataset, Tag(tag_for_keyword(keyword)))
    return str(element.value or "") if element is not None else ""


def _words_of(value: object) -> list[str]:
    return [str(word).upper() for word in (value if isinstance(value, (list, MultiValue)) else [value])]


class _Deidentifier:
    """The work on one instance."""

    def __init__(self, dataset: Dataset, profile: Profile, pseudonyms: Pseudonyms) -> None:
        if reason := refusal(dataset):
            raise NotDeidentifiable(reason)
        self.dataset, self.profile, self.pseudonyms = dataset, profile, pseudonyms
        self.lean = dataset.SOPClassUID in _LEAN_KINDS
        patient = _text_of(dataset, "PatientID") or _text_of(dataset, "PatientName")
        self.pseudonym = pseudonyms.patient(patient) if patient.strip() else ""
        self.moved = pseudonyms.moved(patient.strip() or str(dataset.get("StudyInstanceUID", "")))
        self.identifying = frozenset(identifying_words(dataset))

    def write(self, out: Path) -> Copy:
        losses = tuple(self._losses())
        mosaic = "MOSAIC" in _words_of(self.dataset.get("ImageType"))
        self._clean(self.dataset)
        if mosaic and not value_of(self.dataset, "SIEMENS CSA HEADER", 0x0029, 0x10):
            raise NotDeidentifiable(
                "is a Siemens mosaic, which cannot be read without its layout in private elements: "
                + (
                    "they are of a layout that is not known"
                    if Option.RETAIN_SAFE_PRIVATE in self.profile
                    else f"the option {Option.RETAIN_SAFE_PRIVATE.value} keeps what is needed"
                )
            )
        self.profile.declare(self.dataset)
        self._trim_pixels()
        remove_comments(self.dataset)
        # Anew: the former one may name the sender, and its preamble may hold anything.
        syntax = self.dataset.file_meta.TransferSyntaxUID
        self.dataset.file_meta = FileMetaDataset()
        self.dataset.file_meta.MediaStorageSOPClassUID = self.dataset.SOPClassUID
        self.dataset.file_meta.MediaStorageSOPInstanceUID = self.dataset.SOPInstanceUID
        self.dataset.file_meta.TransferSyntaxUID = syntax
        self.dataset.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
        self.dataset.preamble = b"\0" * 128
        pydicom.dcmwrite(out, self.dataset, enforce_file_format=True)
        return Copy(
            out,
            str(self.dataset.SOPInstanceUID),
            str(self.dataset.SeriesInstanceUID),
            str(self.dataset.get("StudyInstanceUID", "")),
            losses,
        )

    def _clean(self, dataset: Dataset, dummies: bool = False) -> None:
        """De-identify a dataset and its items.

        Args:
            dummies: it is an item of a sequence that gets dummy values throughout.
        """
        moved = self._moved_times(dataset)
        keep_safe(dataset, Option.RETAIN_SAFE_PRIVATE in self.profile and not dummies)
        for tag in list(dataset.keys()):
            if tag.is_private:  # what is left of them is safe
                continue
            if tag.element == 0 or tag == _PADDING:  # group lengths are wrong now
                del dataset[tag]
                continue
            element = dataset[tag]
            todo = action(tag, element.VR, self.profile, self.lean)
            if dummies and todo in (Action.KEEP, Action.MOVE, Action.CLEAN) and element.VR != "SQ":
                todo = Action.DUMMY
            self._do(todo, dataset, element, moved, dummies)

    def _do(
        self,
        todo: Action,
        dataset: Dataset,
        element: DataElement,
        moved: dict[BaseTag, object],
        dummies: bool,
    ) -> None:
        tag, vr = element.tag, element.VR
        if vr == "SQ" and todo in (Action.KEEP, Action.UID, Action.DUMMY):
            for item in element.value:
                self._clean(item, dummies or todo == Action.DUMMY)
        elif todo == Action.REMOVE or (vr == "SQ" and todo == Action.CLEAN):
            del dataset[tag]
        elif todo == Action.EMPTY:
            dataset[tag] = DataElement(tag, vr, Sequence() if vr == "SQ" else None)
        elif todo == Action.PSEUDONYM:
            dataset[tag] = DataElement(tag, vr, self.pseudonym)
        elif todo == Action.UID or (vr == "UI" and todo == Action.DUMMY):
            dataset[tag] = DataElement(tag, "UI", self._new_uids(element.value))
        elif todo == Action.DUMMY:
            self._dummy(dataset, element)
        elif todo == Action.MOVE:
            dataset[tag] = DataElement(tag, vr, moved.get(tag))
        elif todo == Action.CLEAN:
            dataset[tag] = DataElement(tag, vr, cleaned(_joined(element.value), self.identifying))
        elif (
            (vr in _TEXT and tag not in _ABOUT_THE_MACHINE and self._identifies(element.value))
            or (vr in _FORMS and not element.is_empty and _each(element.value, _FORMS[vr].match) is None)
        ):  # what a kept attribute says must not be somebody's name, nor a date or a number be anything but that
            dataset[tag] = DataElement(tag, vr, None)

    def _dummy(self, dataset: Dataset, element: DataElement) -> None:
        if element.is_empty:
            return
        try:
            replace_element(element)
        except NotImplementedError:  # of a VR that the library has no dummy for
            del dataset[element.tag]

    def _new_uids(self, value: object) -> object:
        if isinstance(value, (list, MultiValue)):
            return [self._new_uid(one) for one in value]
        return self._new_uid(value) if value else None

    def _new_uid(self, uid: object) -> str:
        # What the standard itself has given out is nobody's (well-known frames of reference).
        return str(uid) if str(uid) in UID_dictionary else self.pseudonyms.uid(str(uid))

    def _identifies(self, value: object) -> bool:
        found = {word.casefold() for word in _WORDS.findall(_joined(value))}
        return not found.isdisjoint(self.identifying)

    def _moved_times(self, dataset: Dataset) -> dict[BaseTag, object]:
        """New values of a dataset's dates and times; None for those that cannot be read."""
        if Option.SHIFT_DATES not in self.profile:
            return {}
        moved: dict[BaseTag, object] = {}
        for tag in dataset.keys():  # noqa: SIM118
            element = dataset[tag]
            if element.VR == "DT":
                moved[tag] = _each(element.value, lambda text: moved_datetime(text, self.moved))
            elif element.VR == "DA":
                time = dataset.get(_time_beside(tag))
                day, clock = moved_date_and_time(
                    _joined(element.value), _joined(time.value) if time is not None else "", self.moved
                )
                if day is None:
                    moved[tag] = _each(
                        element.value, lambda text: moved_date_and_time(text, "", self.moved)[0]
                    )
                else:
                    moved[tag] = day
                if time is not None and clock is not None:
                    moved[time.tag] = clock
        for tag in dataset.keys():  # noqa: SIM118
            element = dataset[tag]
            if element.VR == "TM" and moved.get(tag) is None:
                moved[tag] = _each(element.value, lambda text: moved_time(text, self.moved))
        return moved

    def _trim_pixels(self) -> None:
        """Cut off what lies behind the last pixel, which may be anything."""
        dataset = self.dataset
        if "PixelData" not in dataset or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            return
        bits = dataset.Rows * dataset.Columns * dataset.get("SamplesPerPixel", 1) * dataset.BitsAllocated
        if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
            bits = bits * 2 // 3
        length = -(-bits * int(dataset.get("NumberOfFrames", 1) or 1) // 8)
        if len(dataset.PixelData) > length + length % 2:
            dataset.PixelData = dataset.PixelData[:length] + b"\0" * (length % 2)

    def _losses(self) -> Iterator[str]:
        dataset, profile = self.dataset, self.profile
        siemens_epi = "EP" in _words_of(dataset.get("ScanningSequence")) and value_of(
            dataset, "SIEMENS CSA HEADER", 0x0029, 0x10
        )
        if siemens_epi:
            yield "the factor of parallel imaging, without which a sidecar's DerivedVendorReportedEchoSpacing is wrong"
        if Option.RETAIN_SAFE_PRIVATE not in profile:
            if "DiffusionBValue" not in dataset and (private_b_value(dataset) or 0) > 0:
                yield "the diffusion's b-values and directions, which are in private elements"
            if value_of(dataset, "Philips MR Imaging DD 001", 0x2005, 0x0E) is not None:
                yield "Philips' scale slope, which is a private element: values are those of RescaleSlope"
            if siemens_epi:
                yield "the slices' times and the direction of phase encoding, which are in private elements"
        if dataset.get("Modality") == "PT":
            if not {Option.RETAIN_DATES, Option.SHIFT_DATES} & profile.options:
                yield "the times that standardised uptake values (SUV) are computed from"
            if Option.RETAIN_PATIENT not in profile:
                yield "the weight that standardised uptake values (SUV) are computed from"


def _joined(value: object) -> str:
    if isinstance(value, (list, MultiValue)):
        return "\\".join(str(one) for one in value)
    return "" if value is None else str(value)


def _each(value: object, change) -> object:  # noqa: ANN001 (a function of one text)
    """``change`` of a value, or of each of several; None if it fails for one."""
    several = isinstance(value, (list, MultiValue))
    changed = [change(str(one)) for one in (value if several else [value])] if value else [None]
    if None in changed:
        return None
    return changed if several else changed[0]


def identifying_words(dataset: Dataset) -> Iterator[str]:
    """Words in small letters, three letters at least, that say whose an instance is or who had to do with it.

    Names of all persons, numbers of the patient and of the order, and the birth date.
    """
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from identifying_words(item)
        elif element.VR == "PN" or (
            not element.tag.is_private and element.tag in _NUMBERS_OF_THE_PATIENT and element.VR != "UN"
        ):
            yield from (
                word.casefold() for word in _WORDS.findall(_joined(element.value)) if len(word) >= _MIN_WORD
            )


_NUMBERS_OF_THE_PATIENT = frozenset(
    tag_for_keyword(keyword)
    for keyword in (
        "PatientID",
        "OtherPatientIDs",
        "PatientBirthDate",
        "PatientBirthName",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "AccessionNumber",
        "MedicalRecordLocator",
        "AdmissionID",
    )
)


def _time_beside(date: BaseTag) -> int:
    """Tag of the time that belongs to a date: SeriesTime to SeriesDate; 0 if there is none."""
    try:
        keyword = dictionary_keyword(date)
    except KeyError:
        return 0
    return tag_for_keyword(keyword.replace("Date", "Time")) or 0 if "Date" in keyword else 0


_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)\Z")
_TIME = re.compile(r"(\d\d):?(\d\d)?:?(\d\d)?(?:\.(\d{1,6}))?\Z")
_DATETIME = re.compile(r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)?(?:[+-]\d{4})?\Z")
_NUMBER = re.compile(r"\s*(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)?\s*\Z")
_FORMS = {
    "DA": _DATE,
    "TM": _TIME,
    "DT": _DATETIME,
    "DS": _NUMBER,
    "IS": _NUMBER,
    "AS": re.compile(r"\d{3}[DWMY]\Z"),
}


def moved_date_and_time(date: str, time: str, by: timedelta) -> tuple[str | None, str | None]:
    """A date and the time that belongs to it, moved together (PS3.5 section 6.2 DA, TM); None if not readable.

    A date by itself is moved by whole days.
    """
    day, clock = _DATE.match(date.strip()), _TIME.match(time.strip())
    try:
        start = datetime(*(int(part) for part in day.groups())) if day else None  # noqa: DTZ001 (the scanner's own)
        if start is None:
            return None, None
        moment = start + _since_midnight(clock) + by if clock else start + timedelta(days=by.days)
    except (ValueError, OverflowError):
        return None, None
    return moment.strftime("%Y%m%d").zfill(8), _time_text(moment, clock) if clock else None


def moved_time(text: str, by: timedelta) -> str | None:
    """A time of an unknown day, moved."""
    clock = _TIME.match(text.strip())
    if not clock:
        return None
    try:
        return _time_text(datetime(2000, 1, 1) + _since_midnight(clock) + by, clock)  # noqa: DTZ001
    except ValueError:
        return None


def moved_datetime(text: str, by: timedelta) -> str | None:
    """A DT of at least a day, moved; its time zone is left out, which would say where it was."""
    found = _DATETIME.match(text.strip())
    if not found:
        return None
    date, time = moved_date_and_time(found[1], found[2] or "", by)
    return None if date is None else date + (time or "")


def _since_midnight(clock: re.Match[str]) -> timedelta:
    hours, minutes, seconds, fraction = clock.groups()
    if int(hours) > 23 or int(minutes or 0) > 59 or int(seconds or 0) > 60:
        raise ValueError("no time of day")
    return timedelta(
        hours=int(hours),
        minutes=int(minutes or 0),
        seconds=int(seconds or 0),
        microseconds=int((fraction or "").ljust(6, "0")),
    )


def _time_text(moment: datetime, clock: re.Match[str]) -> str:
    """The time of day, with a fraction if there was one."""
    text = moment.strftime("%H%M%S")
    return f"{text}.{moment.microsecond:06d}" if clock[4] else text
