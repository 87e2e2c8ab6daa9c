"""Makes the de-identified copy of one instance, or says why there can be none."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from dicomanonymizer.simpledicomanonymizer import replace_element
from pydicom import uid as uids
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_keyword, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, UID_dictionary

from ..errors import PermanentError, is_of_system
from ..formats.dicom.fields import decoded
from ..formats.dicom.vendor import private_b_value
from .bulk import is_filled_by_numbers, trim_pixels
from .frames import clean_frames
from .identity import Identity, Trace
from .pixels import CannotClean, PixelRegions, black_out
from .private import keep_safe, value_of
from .profile import Option, Profile
from .pseudonyms import Pseudonyms
from .report import Done, Report, Row, name_of
from .rules import Action, decide
from .shift import DATE, DATETIME, TIME, moved_date_and_time, moved_datetime, moved_time
from .words import cleaned


class NotDeidentifiable(PermanentError):
    """No safe copy of an instance can be made; the text says why and names nobody."""


@dataclass(frozen=True)
class Copy:
    """A de-identified copy.

    Attributes:
        losses: what the profile took that researchers may want, in words.
        report: what was done with each attribute, and how often.
    """

    path: Path
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    losses: tuple[str, ...]
    report: Report = field(default_factory=Counter, compare=False)


#: Kinds of instances whose pixels show what was imaged and nothing else, and whose attributes the table
#: covers. All others are refused: reports, documents, waveforms, raw data and presentation states hold
#: their content where the Basic Profile does not look.
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
#: Kinds whose pixels often show names: copied only if BurnedInAnnotation is NO.
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
#: Kinds in which no attribute of "X/D" and "Z/D" is required.
_LEAN_KINDS = frozenset({uids.CTImageStorage, uids.MRImageStorage})

_TEXT = ("LO", "SH", "CS", "ST", "LT", "UT", "UC", "UR", "PN", "AE")
_NUMBERS = ("IS", "DS", "UL", "SL", "UV", "SV", "FL", "FD")
_BULK = ("OB", "OW", "OF", "OD", "OL", "OV")
#: More values are those of contours and curves, not a number that somebody was given.
_MOST_NUMBERS = 64

_OVERLAY_BIT_POSITION = 0x0102
_PADDING = 0xFFFCFFFC
_CHARACTER_SET = Tag("SpecificCharacterSet")
_ASCII = ("", "ISO_IR 6", "ISO 2022 IR 6")

_DONE = {
    Action.KEEP: Done.KEPT,
    Action.REMOVE: Done.REMOVED,
    Action.EMPTY: Done.EMPTIED,
    Action.DUMMY: Done.REPLACED,
    Action.UID: Done.REPLACED,
    Action.PSEUDONYM: Done.REPLACED,
    Action.MOVE: Done.SHIFTED,
    Action.CLEAN: Done.CLEANED,
}


def deidentify(
    path: Path, out: Path, profile: Profile, pseudonyms: Pseudonyms, rules: Iterable[PixelRegions] = ()
) -> Copy:
    """Write a de-identified copy of the instance in ``path`` to ``out`` (PS3.15 annex E).

    The same instance, profile, pseudonyms and rules give the same bytes.

    Args:
        rules: for images with burned-in text, if the profile has the option of clean pixels; the first that fits
            is used.

    Raises:
        NotDeidentifiable: no safe copy can be made.
        OSError: a file cannot be read or written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            return _Deidentifier(pydicom.dcmread(path), profile, pseudonyms, rules).write(out)
    except (MemoryError, NotDeidentifiable):  # the first may pass
        raise
    except Exception as error:  # its message may quote a value
        if isinstance(error, OSError) and is_of_system(error):
            raise
        raise NotDeidentifiable(
            f"de-identification fails over its contents ({type(error).__name__})"
        ) from None


def refusal(dataset: Dataset, cleaned: bool = False) -> str:
    """Why no safe copy can be made, as far as the header tells; empty if one can.

    Args:
        cleaned: what is burned into its pixels will be blacked out.
    """
    kind = UID(str(dataset.get("SOPClassUID", "")))
    burned_in = "NO" if cleaned else str(dataset.get("BurnedInAnnotation", "") or "").strip().upper()
    if burned_in == "YES":
        return "has annotation burned into its pixels (BurnedInAnnotation is YES), which the profile does not clean"
    name = kind.name if kind in UID_dictionary else "an unknown kind"
    if kind not in PLAIN_KINDS and kind not in DOUBTFUL_KINDS:
        return f"is {name}, which cannot be copied safely: the profile does not cover its content"
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
    element = decoded(dataset, Tag(keyword))
    return str(element.value or "") if element is not None else ""


def _words_of(value: object) -> list[str]:
    return [str(word).upper() for word in _values(value)]


class _Deidentifier:
    """The work on one instance."""

    def __init__(
        self, dataset: Dataset, profile: Profile, pseudonyms: Pseudonyms, rules: Iterable[PixelRegions]
    ) -> None:
        cleans = Option.CLEAN_PIXELS in profile and bool(refusal(dataset))
        self.rule = next((rule for rule in rules if cleans and rule.fits(dataset)), None)
        if reason := refusal(dataset, cleaned=self.rule is not None):
            if cleans and not refusal(dataset, cleaned=True):
                reason += f"; no approved pixel rule matches it ({dataset.get('Rows')} rows, {dataset.get('Columns')} columns)"
            raise NotDeidentifiable(reason)
        self.dataset, self.profile, self.pseudonyms = dataset, profile, pseudonyms
        self.lean = dataset.SOPClassUID in _LEAN_KINDS
        patient = _text_of(dataset, "PatientID") or _text_of(dataset, "PatientName")
        self.pseudonym = pseudonyms.patient(patient) if patient.strip() else ""
        self.moved = pseudonyms.moved(patient.strip() or str(dataset.get("StudyInstanceUID", "")))
        self.identity = Identity.of(dataset, profile)
        self.report: Report = Counter()
        self.traces: dict[BaseTag, Trace] = {}

    def write(self, out: Path) -> Copy:
        losses = tuple(self._losses())
        mosaic = "MOSAIC" in _words_of(self.dataset.get("ImageType"))
        self._clean(self.dataset)
        if self.rule is not None:
            self._clean_pixels(self.rule)
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
        trim_pixels(self.dataset)
        clean_frames(self.dataset)
        # Written anew: the original's may name the sender, and its preamble may hold anything.
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
            (*losses, *self._traces_in_words()),
            self.report,
        )

    def _clean_pixels(self, rule: PixelRegions) -> None:
        try:
            black_out(self.dataset, rule.regions)
        except CannotClean as error:
            raise NotDeidentifiable(str(error)) from None
        self.dataset.BurnedInAnnotation = "NO"
        self.report[Row(name_of(Tag("PixelData")), Done.CLEANED, f"pixel rule {rule.name}")] += 1

    def _traces_in_words(self) -> Iterator[str]:
        for tag, trace in sorted(self.traces.items()):
            yield f"{keyword_for_tag(tag)}, which {trace.value}"

    def _clean(self, dataset: Dataset, dummies: bool = False, ascii_only: bool = True) -> None:
        """De-identify a dataset and its items.

        Args:
            dummies: it is an item of a sequence that gets dummy values throughout.
            ascii_only: what holds unless the dataset declares a character set of its own.
        """
        if _CHARACTER_SET in dataset:
            ascii_only = all(term in _ASCII for term in _words_of(dataset[_CHARACTER_SET].value))
        moved = self._moved_times(dataset)
        self._clean_private(dataset, dummies)
        for tag in list(dataset.keys()):
            if tag.is_private:  # the remaining ones are safe
                continue
            if tag.element == 0 or tag == _PADDING:  # group lengths are wrong now
                del dataset[tag]
                continue
            element = dataset[tag]
            todo, why = decide(tag, element.VR, self.profile, self.lean)
            if dummies and todo in (Action.KEEP, Action.MOVE, Action.CLEAN) and element.VR != "SQ":
                todo = Action.DUMMY
            if todo == Action.KEEP and element.VR == "SQ" or (element.VR == "SQ" and todo in _OF_ITEMS):
                for item in element.value:
                    self._clean(item, dummies or todo == Action.DUMMY, ascii_only)
                self.report[Row(name_of(tag), Done.KEPT, why.value)] += 1
                continue
            if todo == Action.KEEP and (trace := self._keep(dataset, element, ascii_only)):
                self.report[Row(name_of(tag), Done.EMPTIED, trace)] += 1
                continue
            if todo == Action.REMOVE or (element.VR == "SQ" and todo == Action.CLEAN):
                del dataset[tag]
            elif todo != Action.KEEP:
                self._replace(todo, dataset, element, moved)
            done = Done.REPLACED if todo == Action.KEEP and element.VR == "UI" else _DONE[todo]
            self.report[Row(name_of(tag), done, why.value)] += 1

    def _clean_private(self, dataset: Dataset, dummies: bool) -> None:
        before = [tag for tag in dataset.keys() if tag.is_private]  # noqa: SIM118 (tags, not elements)
        if not before:
            return
        names = {tag: name_of(tag, dataset) for tag in before if tag.element > 0xFF}
        keep_safe(dataset, Option.RETAIN_SAFE_PRIVATE in self.profile and not dummies)
        for tag, name in names.items():
            if tag in dataset and any(self.identity.is_own(one) for one in _values(dataset[tag].value)):
                del dataset[tag]
            kept = tag in dataset
            why = "known to be safe" if kept else "not known to be safe"
            self.report[Row(name, Done.KEPT if kept else Done.REMOVED, f"private element {why}")] += 1

    def _replace(
        self, todo: Action, dataset: Dataset, element: DataElement, moved: dict[BaseTag, object]
    ) -> None:
        tag, vr = element.tag, element.VR
        if todo == Action.EMPTY:
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
            text = "\\".join(map(str, _values(element.value)))
            dataset[tag] = DataElement(tag, vr, cleaned(text, self.identity.has_part))

    def _keep(self, dataset: Dataset, element: DataElement, ascii_only: bool) -> str:
        """Check what a kept attribute holds; what is emptied, and why, or an empty text.

        Its value must not contain a name or number of the patient, and a date or number must be one.
        """
        tag, vr, value = element.tag, element.VR, element.value
        if element.is_empty:
            return ""
        if vr == "UI":  # classes; those that the standard does not define may be anything
            dataset[tag] = DataElement(tag, vr, self._new_uids(value))
            return ""
        if vr in _BULK or (vr == "US" and tag.group == 0x0028 and isinstance(value, bytes)):
            if is_filled_by_numbers(dataset, element):
                return ""
            del dataset[tag]
            return "bulk data whose size does not match its description"
        if tag == _CHARACTER_SET:
            dataset[tag] = DataElement(tag, vr, [one for one in _values(value) if one in python_encoding])
            return ""
        if vr in _TEXT:
            return self._keep_text(dataset, element, ascii_only)
        if vr in _FORMS and _each(value, _FORMS[vr].match) is None:
            dataset[tag] = DataElement(tag, vr, None)
            return "malformed value"
        if vr in _NUMBERS and self.identity.values:
            numbers = _values(value)
            if len(numbers) <= _MOST_NUMBERS and any(map(self.identity.is_own, numbers)):
                dataset[tag] = DataElement(tag, vr, None)
                self.traces.setdefault(tag, Trace.NUMBER)
                return Trace.NUMBER.value
        return ""

    def _keep_text(self, dataset: Dataset, element: DataElement, ascii_only: bool) -> str:
        tag, vr = element.tag, element.VR
        texts, found = [], None
        for text in map(str, _values(element.value)):
            trace = self.identity.found_in(text, tag, vr)
            if trace is None and ascii_only and not text.isascii():
                trace = Trace.UNREADABLE
            texts.append("" if trace else text)
            found = found or trace
        if found is None:
            return ""
        # Of several values the others keep their places.
        dataset[tag] = DataElement(tag, vr, texts if len(texts) > 1 and any(texts) else None)
        self.traces.setdefault(tag, found)
        return found.value

    def _dummy(self, dataset: Dataset, element: DataElement) -> None:
        if element.is_empty:
            return
        try:
            replace_element(element)
        except NotImplementedError:  # of a VR for which the library has no dummy
            del dataset[element.tag]

    def _new_uids(self, value: object) -> object:
        if isinstance(value, (list, MultiValue)):
            return [self._new_uid(one) for one in value]
        return self._new_uid(value) if value else None

    def _new_uid(self, uid: object) -> str:
        # What the standard itself defines identifies nobody (classes, well-known frames of reference).
        return str(uid) if str(uid) in UID_dictionary else self.pseudonyms.uid(str(uid))

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

    def _losses(self) -> Iterator[str]:
        dataset, profile = self.dataset, self.profile
        siemens_epi = "EP" in _words_of(dataset.get("ScanningSequence")) and value_of(
            dataset, "SIEMENS CSA HEADER", 0x0029, 0x10
        )
        if siemens_epi:
            yield "the parallel imaging factor, without which a sidecar's DerivedVendorReportedEchoSpacing is wrong"
        if Option.RETAIN_SAFE_PRIVATE not in profile:
            if "DiffusionBValue" not in dataset and (private_b_value(dataset) or 0) > 0:
                yield "diffusion b-values and directions, which are in private elements"
            if value_of(dataset, "Philips MR Imaging DD 001", 0x2005, 0x0E) is not None:
                yield "Philips' scale slope, a private element: values are those of RescaleSlope"
            if siemens_epi:
                yield "slice times and phase encoding direction, which are in private elements"
        if dataset.get("Modality") == "PT":
            if not {Option.RETAIN_DATES, Option.SHIFT_DATES} & profile.options:
                yield "the times that standardised uptake values (SUV) are computed from"
            if Option.RETAIN_PATIENT not in profile:
                yield "the weight that standardised uptake values (SUV) are computed from"


_OF_ITEMS = (Action.UID, Action.DUMMY)
"""With these, too, the items of a sequence are gone through."""


def _values(value: object) -> list[object]:
    if isinstance(value, (list, MultiValue)):
        return list(value)
    return [] if value is None else [value]


def _joined(value: object) -> str:
    return "\\".join(map(str, _values(value)))


def _each(value: object, change: Callable[[str], object]) -> object:
    """``change`` of a value, or of each of several; None if it fails for one."""
    several = isinstance(value, (list, MultiValue))
    changed = [change(str(one)) for one in _values(value)] if value else [None]
    if None in changed:
        return None
    return changed if several else changed[0]


def _time_beside(date: BaseTag) -> int:
    """Tag of the time that belongs to a date: SeriesTime to SeriesDate; 0 if there is none."""
    try:
        keyword = dictionary_keyword(date)
    except KeyError:
        return 0
    return tag_for_keyword(keyword.replace("Date", "Time")) or 0 if "Date" in keyword else 0


_NUMBER = re.compile(r"\s*(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)?\s*\Z")
_FORMS = {
    "DA": DATE,
    "TM": TIME,
    "DT": DATETIME,
    "DS": _NUMBER,
    "IS": _NUMBER,
    "AS": re.compile(r"\d{3}[DWMY]\Z"),
}
