"""Finds a patient's names, numbers and dates in text that a copy would otherwise keep.

The names and numbers are those that the instance itself carries, in every script and component group
of its PN values (PS3.5 section 6.2.1). Words are compared, not letters: ``Li`` is found in ``li_t1`` and
not in ``slice``. Scripts that put no space between words are searched as strings instead. Text is
also searched for what is identifying by its form: dates, UIDs, long numbers, telephone numbers, mail
addresses and names with a title.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from itertools import groupby, pairwise, permutations
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from .profile import Option, Profile
from .rules import tags_of
from .words import KNOWN


def _words(text: str, separator: str = " ") -> frozenset[str]:
    return frozenset(text.split(separator))


class Trace(Enum):
    """What was found in a text; the value is how a report says it."""

    NAME = "contains a name that the instance carries"
    NUMBER = "contains a number that the instance carries"
    DATE = "contains a date"
    UID = "contains a UID"
    CONTACT = "contains an address or a telephone number"
    UNREADABLE = "is not in the declared character set"


#: Numbers of the patient, the visit and the order, at any depth.
_NUMBERS = tags_of(
    "PatientID OtherPatientIDs MedicalRecordLocator AdmissionID ServiceEpisodeID AccessionNumber"
    " ClinicalTrialSubjectID ClinicalTrialSubjectReadingID PatientTelephoneNumbers PersonTelephoneNumbers"
    " PatientTelecomInformation StudyID RequestedProcedureID"
    " ScheduledProcedureStepID PerformedProcedureStepID"
    " PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest"
    " PlacerOrderNumberImagingServiceRequestRetired FillerOrderNumberImagingServiceRequestRetired"
    " PlacerOrderNumberProcedure FillerOrderNumberProcedure SpecimenIdentifier ContainerIdentifier"
    " OrderCallbackPhoneNumber ResultsID InterpretationID"
)
#: Numbers of the patient alone, of which parts are searched too.
_OWN = tags_of(
    "PatientID OtherPatientIDs MedicalRecordLocator AdmissionID AccessionNumber ClinicalTrialSubjectID"
    " PatientTelephoneNumbers"
)
#: Searched as a phrase, unless an option keeps it.
_PHRASES = {
    "PatientBirthName": None,
    "PatientMotherBirthName": None,
    "OtherPatientNames": None,
    "PatientAddress": None,
    "PatientBirthDateInAlternativeCalendar": None,
    "PatientDeathDateInAlternativeCalendar": None,
    "ReferringPhysicianAddress": None,
    "PersonAddress": None,
    "CountryOfResidence": None,
    "RegionOfResidence": None,
    "InstitutionName": Option.RETAIN_INSTITUTION,
    "InstitutionAddress": Option.RETAIN_INSTITUTION,
    "InstitutionalDepartmentName": Option.RETAIN_INSTITUTION,
    "StationName": Option.RETAIN_DEVICE,
    "DeviceSerialNumber": Option.RETAIN_DEVICE,
}
_PHRASE_TAGS = {tag_for_keyword(keyword): option for keyword, option in _PHRASES.items()}

#: Parts of names and IDs that say nothing by themselves. They are still found as part of a whole name.
_COMMON = _words(
    "van von der den de del della di da do dos das du la le les el al bin ibn bint abu ben san st "
    "zu zur ter ten op mac mc y e i mr mrs ms miss mme dr prof sir herr frau jr sr ii iii iv md phd "
    "msc bsc phantom test testing qa qc anon anonymous anonymized unknown none patient pat pid mrn "
    "subject subj sub volunteer vol control ctrl pilot study id no nr case the and"
)
#: What may stand before a number in place of its own prefix.
_PREFIXES = "id pid mrn pat patient subj subject sub no nr number case acc accession #"

#: Defined terms of coded strings that are common in images and can be a name as well (PS3.3).
_TERMS = _words(
    "original derived primary secondary localizer axial norm nd dis2d dis3d fm mosaic other mixed "
    "volume none yes no add sub max min mean median ffe se ir gr ep rm ss mtc tof sp mp osp nll sk "
    "sk\\sp per rg cg ppg pfp pff sfs fc fsa ca mr ct pt nm us cr dx mg xa rf rtimage rtdose "
    "rtstruct rtplan seg ot sc sr au reg hfs hfp ffs ffp hfdr hfdl ffdr ffdl monochrome1 "
    "monochrome2 rgb ybr_full ybr_full_422 ybr_ict ybr_rct argb hsv cmyk col row linear cartesian "
    "radial spiral magnitude phase real imaginary map image frame static dynamic gated tomo decy "
    "dcal attn scat dtim motn dec rads cnts bqml start admin prompt dlyd randoms l r b u lr mlo cc "
    "lm ml gy gray grey plan beam point brain head neck chest abdomen pelvis spine cspine tspine "
    "lspine sspine heart breast knee hip ankle foot hand wrist elbow shoulder arm leg thigh calf "
    "skull face orbit eye jaw ear nose tongue skin rib bone lung liver kidney bladder prostate "
    "uterus tendon vein artery extremity wholebody"
)

#: Kept as they are but for names and numbers of the instance: they hold numbers and dates of other things.
_TECHNICAL = tags_of(
    "SoftwareVersions ManufacturerModelVersion SecondaryCaptureDeviceSoftwareVersions ApplicationVersion"
    " AlgorithmVersion CodeValue CodingSchemeVersion ContextIdentifier PulseSequenceName SequenceName"
)
#: Kept although a name is the same word: what a manufacturer, a kernel or a coded string is called.
_VOCABULARY = tags_of(
    "Manufacturer ConvolutionKernel FilterType CodingSchemeDesignator ReceiveCoilManufacturerName"
    " TransmitCoilManufacturerName DetectorManufacturerName SecondaryCaptureDeviceManufacturer"
)
_MANUFACTURERS = _words(
    "siemens|siemens healthineers|siemens healthcare|ge|ge medical systems|ge healthcare|"
    "philips|philips healthcare|philips medical systems|toshiba|toshiba mec|canon mec|canon|"
    "hitachi|hitachi medical corporation|uih|bruker|bruker biospin|bruker biospin mri gmbh|"
    "agilent|varian|varian medical systems|elekta|brainlab|fujifilm|hologic|mediso|agfa|kodak|"
    "carestream|shimadzu|samsung|mindray|esaote|neusoft|hyperfine|dicom",
    "|",
)


# Letters


_STROKES = str.maketrans(
    {
        "ø": "o",
        "æ": "ae",
        "œ": "oe",
        "ł": "l",
        "đ": "d",
        "ð": "d",
        "þ": "th",
        "ı": "i",
        "ħ": "h",
        "ŋ": "n",
        "ŀ": "l",
    }
)
_GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
#: Signs over and under letters that are left out in writing: European, Hebrew and Arabic.
_SIGNS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0640\u064b-\u065f\u0670]")
#: Scripts without a space between words: Thai to Tibetan, Myanmar, Khmer, kana, Han, Hangul.
_UNSPACED = (
    (0x0E00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1100, 0x11FF),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3130, 0x318F),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF),
    (0x20000, 0x3134F),
)
_AFTER = tuple(
    _words(
        "先生 女士 小姐 太太 夫人 氏 様 样 さま さん くん ちゃん 君 殿 医生 醫生 医师 医師 大夫 教授 老师 老師 护士 工 某 患者 病人 씨 님 선생 군 양 환자"
    )
)
_BEFORE = tuple(_words("患者 病人 姓名 氏名 姓 小 老 阿 환자 이름"))


def fold(text: str) -> str:
    """Text in one spelling: no case, no accents, one width of letters and digits, one kind of kana."""
    text = unicodedata.normalize("NFC", text).casefold().translate(_STROKES)
    text = unicodedata.normalize("NFC", _SIGNS.sub("", unicodedata.normalize("NFKD", text)))
    return "".join(map(_one, text))


@lru_cache(maxsize=4096)
def _one(letter: str) -> str:
    if 0x30A1 <= ord(letter) <= 0x30F6:  # katakana
        return chr(ord(letter) - 0x60)
    if unicodedata.category(letter) in ("Cf", "Cc"):  # joiners, marks of direction
        return "" if unicodedata.category(letter) == "Cf" else " "
    digit = unicodedata.decimal(letter, None)
    return letter if digit is None else str(digit)


def _spellings(text: str) -> set[str]:
    """A text folded: as it is, and with umlauts written as two letters."""
    small = unicodedata.normalize("NFC", text).casefold()
    return {fold(text), fold(small.translate(_GERMAN))}


@lru_cache(maxsize=4096)
def _kind(letter: str) -> str:
    """``L`` letter or mark, ``C`` letter of a script without spaces, ``N`` digit, or a space."""
    category = unicodedata.category(letter)[0]
    if category in "LM":
        return "C" if any(low <= ord(letter) <= high for low, high in _UNSPACED) else "L"
    return "N" if category == "N" else " "


def _tokens(text: str) -> list[tuple[str, str]]:
    """Runs of letters of one kind, and of digits, of a folded text, with their kinds; separators are left out."""
    runs = ((kind, "".join(letters)) for kind, letters in groupby(text, _kind))
    return [(kind, run) for kind, run in runs if kind != " "]


def _at_capitals(text: str) -> str:
    """``HeadLi`` as ``Head Li``."""
    return "".join(
        letter + (" " if letter.islower() and after.isupper() else "")
        for letter, after in pairwise(text + " ")
    )


# Dates


_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = r"(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!\d)(?P<year>\d{4})(?P<m>\d\d)(?P<day>\d\d)(?=\d{6}|(?!\d))",
        r"(?<!\d)(?P<year>\d{4})\s?[-./年년]\s?(?P<m>\d{1,2})\s?[-./月월]\s?(?P<day>\d{1,2})(?!\d)",
        r"(?<!\d)(?P<day>\d{1,2})\s?[-./]\s?(?P<m>\d{1,2})\s?[-./]\s?(?P<year>\d{4}|\d\d)(?!\d)",
        r"(?<!\d)(?P<m>\d{1,2})\s?[-./]\s?(?P<day>\d{1,2})\s?[-./]\s?(?P<year>\d{4}|\d\d)(?!\d)",
        rf"(?<!\d)(?P<day>\d{{1,2}})[-. ,]*{_MONTH}[-. ,]*(?P<year>\d{{4}}|\d\d)(?!\d)",
        rf"(?<![a-z]){_MONTH}[-. ,]*(?P<day>\d{{1,2}})(?:st|nd|rd|th)?[-. ,]+(?P<year>\d{{4}}|\d\d)(?!\d)",
        r"(?<!\d)(?P<day>\d\d)(?P<m>\d\d)(?P<year>(?:19|20)\d\d)(?!\d)",
    )
)
#: Years counted from an emperor, a republic or another beginning, with or without month and day.
_ERA = re.compile(r"(?:明治|大正|昭和|平成|令和|民国|民國|단기|佛历|พ\.?ศ\.?)\s*(?:\d{1,4}|元)\s*年?")
_YEARS = range(1880, 2100)


def dates_in(text: str) -> Iterator[tuple[int, int, int]]:
    """Dates in a folded text in any usual notation, as (year, month, day); year 0 if it is of an era."""
    if _ERA.search(text):
        yield 0, 0, 0
    for pattern in _DATES:
        for found in pattern.finditer(text):
            parts = found.groupdict()
            month = _MONTHS.index(parts["month"]) + 1 if parts.get("month") else int(parts["m"])
            year, day = int(parts["year"]), int(parts["day"])
            if len(parts["year"]) == 2:
                year += 2000 if year < 40 else 1900
            if year in _YEARS and 1 <= month <= 12 and 1 <= day <= 31:
                yield year, month, day


# By their form


_UID = re.compile(r"(?<![\d.])[0-2](?:\.\d+){5,}(?!\d)")
_LONG_NUMBER = re.compile(r"(?<![\d.])\d{7,}(?![\d.])")
_CONTACT = re.compile(
    r"[^\s@]+@[^\s@]+\.[a-z]{2,}|https?://|www\.|(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)"
    r"|\+\d[\d ().-]{6,}\d|(?<!\d)\(?\d{2,4}\)?[ -]\d{3,4}[ -]\d{3,4}(?!\d)"
)
_TITLED = re.compile(
    r"(?<![a-z])(?:dr|prof|mr|mrs|ms|miss|herr|frau|mme)(?:\.\s*|\s+)[a-z]{2,}|[^\W\d_]{2,}\^[^\W\d_]"
)


def by_form(text: str) -> Trace | None:
    """What is identifying in a folded text whoever the patient is."""
    if _UID.search(text):
        return Trace.UID
    if _CONTACT.search(text):
        return Trace.CONTACT
    if _TITLED.search(text):
        return Trace.NAME
    if any(True for _ in dates_in(text)):
        return Trace.DATE
    return Trace.NUMBER if _LONG_NUMBER.search(text) else None


# What an instance carries


@dataclass
class Identity:
    """The names, numbers and dates that an instance carries, and the search for them.

    Attributes:
        parts: all words of names, however common.
        words: words of names, and whole names without separators, that are found as words.
        phrases: whole names and places, as words with a space between them.
        strings: names in scripts without spaces, of two letters or more.
        letters: names of one letter in such scripts.
        numbers: patterns of the numbers.
        values: the same as whole numbers, for attributes that hold nothing else.
        dates: as (year, month, day).
    """

    parts: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    phrases: set[str] = field(default_factory=set)
    strings: set[str] = field(default_factory=set)
    letters: set[str] = field(default_factory=set)
    numbers: list[re.Pattern[str]] = field(default_factory=list)
    values: set[int] = field(default_factory=set)
    dates: set[tuple[int, int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._found: dict[tuple[str, int], Trace | None] = {}
        self._seen: set[str] = set()

    @classmethod
    def of(cls, dataset: Dataset, profile: Profile) -> Identity:
        """What a dataset carries, in its sequences too; not what an option keeps anyway."""
        identity = cls()
        identity._gather(dataset, profile)
        for keyword in (
            "Manufacturer",
            "ManufacturerModelName",
        ):  # a station called as its model is no secret
            for text in _texts(dataset.get(keyword)):
                identity.phrases.discard(" ".join(run for _, run in _tokens(fold(text))))
        return identity

    def _gather(self, dataset: Dataset, profile: Profile) -> None:
        for element in dataset:
            if element.VR == "SQ":
                for item in element.value:
                    self._gather(item, profile)
                continue
            if element.VR == "PN":
                for value in _texts(element.value):
                    self.add_name(value)
            elif element.VR in ("DA", "DT"):
                for value in _texts(element.value):
                    self.dates.update(date for date in dates_in(fold(value)[:8]) if date[0])
            elif element.tag in _NUMBERS:
                for value in _texts(element.value):
                    self.add_number(value, element.tag in _OWN)
            elif element.tag in _PHRASE_TAGS and _PHRASE_TAGS[element.tag] not in profile.options:
                for value in _texts(element.value):
                    self.add_phrase(value)

    def add_name(self, name: str) -> None:
        """A PN value: each of its component groups, as a whole and by components (PS3.5 section 6.2.1)."""
        if name in self._seen:
            return
        self._seen.add(name)
        for group in name.split("="):
            for spelling in _spellings(group):
                components = [part for part in spelling.split("^") if part.strip()]
                self._add_components(components)

    def _add_components(self, components: list[str]) -> None:
        unspaced, spaced = [], []
        for component in components:
            runs = _tokens(component)
            words = [run for kind, run in runs if kind == "L"]
            joined = "".join(run for kind, run in runs if kind == "C")
            if joined:
                unspaced.append(joined)
                self._add_string(joined)
            if words:
                spaced.append(" ".join(words))
                self.parts.update(word for word in words if len(word) > 1)
                for word in (*words, "".join(words)):
                    if len(word) > 1 and word not in _COMMON:
                        self.words.add(word)
        for parts, together in ((unspaced, self._add_string), (spaced, self._add_whole)):
            if len(parts) > 1:
                for order in permutations(parts[:3], min(len(parts), 3)):
                    together("".join(order) if parts is unspaced else " ".join(order))
                for pair in permutations(parts[:3], 2):
                    together("".join(pair) if parts is unspaced else " ".join(pair))

    def _add_string(self, text: str) -> None:
        (self.letters if len(text) == 1 else self.strings).add(text)

    def _add_whole(self, phrase: str) -> None:
        self.phrases.add(phrase)
        together = phrase.replace(" ", "")
        if len(together) > 2:
            self.words.add(together)

    def add_number(self, number: str, own: bool = True) -> None:
        """A number or ID, with and without its prefix.

        Args:
            own: it is the patient's or the order's; else it is found as a whole only.
        """
        text = fold(number).strip()
        if not text or text in self._seen:
            return
        self._seen.add(text)
        signs = [run for _, run in _tokens(text)]
        together = "".join(signs)
        digits = [run for run in signs if run.isdecimal()]
        if digits and (len(together) >= 4 or (own and len(together) >= 3)):
            # With any separators, or none, between its signs.
            pattern = r"[\W_]?".join(map(re.escape, together))
            self.numbers.append(re.compile(rf"(?<![^\W_]){pattern}(?![^\W_])"))
        if not digits and own and len(together) > 2 and together not in _COMMON and together not in KNOWN:
            self.words.add(together)
        if not own:
            return
        for word in re.findall(r"(?<![^\W_])[^\W\d_]{4,}(?![^\W_])", text):  # ``smith_001``, not ``HIRF001``
            if word not in _COMMON and word not in KNOWN:
                self.words.add(word)
        for word in (run for kind, run in _tokens(text) if kind == "C"):
            self._add_string(word)
        whole = "".join(digits)
        for run in {*digits, whole} if len(digits) > 1 else digits:
            self._add_digits(run)

    def _add_digits(self, run: str) -> None:
        significant = run.lstrip("0")
        if len(significant) >= 5:
            self.values.add(int(significant))
        if len(significant) >= 4:
            pattern = r"[-_./ ]?".join(significant)
            self.numbers.append(re.compile(rf"(?<![1-9])(?<![1-9][-./])0*{pattern}(?!\d)"))
        elif significant:
            prefix = "|".join(map(re.escape, _PREFIXES.split()))
            self.numbers.append(re.compile(rf"(?<![^\W\d_])(?:{prefix})[\W_]*0*{significant}(?!\d)"))
            if len(run) >= 3:
                self.numbers.append(re.compile(rf"(?<![^\W_]){run}(?![^\W_])"))

    def add_phrase(self, text: str) -> None:
        """The name of a place, or a text, that is found as a whole."""
        for spelling in _spellings(text):
            runs = [run for _, run in _tokens(spelling)]
            if sum(map(len, runs)) > 3:
                self.phrases.add(" ".join(runs))

    # The search

    def found_in(self, text: str, tag: int = 0, vr: str = "LO") -> Trace | None:
        """What a single value of a kept attribute contains of the patient; None if nothing is found."""
        key = (text, tag if tag in _TECHNICAL or tag in _VOCABULARY else 1 if vr == "CS" else 0)
        if key not in self._found:
            self._found[key] = self._search(text, tag, vr)
        return self._found[key]

    def has_part(self, word: str) -> bool:
        """Whether a word of a description is a word of a name, even a common one, or contains a number."""
        return not self.parts.isdisjoint(run for _, run in _tokens(fold(word))) or bool(self.found_in(word))

    def is_own(self, number: Any) -> bool:
        """Whether a number is one of the instance's, of five digits or more."""
        try:
            return int(number) == float(number) and abs(int(number)) in self.values
        except (TypeError, ValueError, OverflowError):
            return False

    def _search(self, text: str, tag: int, vr: str) -> Trace | None:
        if not text.strip():
            return None
        if "\ufffd" in text:
            return Trace.UNREADABLE
        folded = fold(text)
        if self._is_term(folded.strip(), tag, vr):
            return None
        for spelling in {*_spellings(text), *_spellings(_at_capitals(text))}:
            if self._names(spelling):
                return Trace.NAME
        if any(pattern.search(folded) for pattern in self.numbers):
            return Trace.NUMBER
        if tag in _TECHNICAL:
            if not self.dates.isdisjoint(dates_in(folded)):
                return Trace.DATE
            return Trace.UID if _UID.search(folded) and len(folded) > 20 else None
        return by_form(folded)

    @staticmethod
    def _is_term(folded: str, tag: int, vr: str) -> bool:
        if vr == "CS":
            return folded in _TERMS or folded in KNOWN
        return tag in _VOCABULARY and (folded in KNOWN or folded.rstrip(".") in _MANUFACTURERS)

    def _names(self, text: str) -> bool:
        """Whether a folded text contains a name."""
        runs = _tokens(text)
        for kind, run in runs:
            if kind != "L":
                continue
            if run in self.words and not (len(run) < 3 and run in KNOWN and _touches_digit(text, run)):
                return True
            if len(run) > 6 and run not in KNOWN and any(len(w) > 5 and w in run for w in self.words):
                return True
        line = f" {' '.join(run for _, run in runs)} "
        if any(f" {phrase} " in line for phrase in self.phrases):
            return True
        if self.strings or self.letters:
            together = "".join(run for kind, run in runs if kind == "C")
            if any(string in together for string in self.strings):
                return True
            return any(_stands_alone(letter, text) for letter in self.letters)
        return False


def _touches_digit(text: str, word: str) -> bool:
    """Whether each occurrence of a word has a digit beside it, as ``se`` in ``se2d1``."""
    return all(
        any(beside.isdecimal() for beside in (text[max(0, at.start() - 1) : at.start()], text[at.end() : at.end() + 1]))
        for at in re.finditer(rf"(?<![^\W\d_]){re.escape(word)}(?![^\W\d_])", text)
    )  # fmt: skip


def _stands_alone(letter: str, text: str) -> bool:
    """Whether a name of one letter, in a script without spaces, is a word here: by itself, or with a title."""
    for at in re.finditer(re.escape(letter), text):
        before, after = text[: at.start()], text[at.end() :]
        free_before = not before or _kind(before[-1]) != "C" or before.endswith(_BEFORE)
        free_after = not after or _kind(after[0]) != "C" or after.startswith(_AFTER)
        if free_before and free_after:
            return True
    return False


def _texts(value: object) -> Iterable[str]:
    values = value if isinstance(value, (list, MultiValue)) else [value]
    return [str(one) for one in values if one not in (None, "")]
