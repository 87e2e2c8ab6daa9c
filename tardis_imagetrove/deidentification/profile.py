"""Profiles: the Basic Profile of PS3.15 annex E, with the options that a site chooses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version as installed_version

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

EDITION = "2026c"
"""The edition of PS3.15 whose table is followed; it comes with dicom-anonymizer."""

VERSION = "2"
"""Changed whenever a copy of the same instance would come out otherwise."""


class Option(Enum):
    """The options of PS3.15 section E.3 that can be chosen; the value is how they are written down."""

    CLEAN_DESCRIPTORS = "clean-descriptors"
    RETAIN_DATES = "retain-dates"
    SHIFT_DATES = "shift-dates"
    RETAIN_PATIENT = "retain-patient-characteristics"
    RETAIN_DEVICE = "retain-device"
    RETAIN_INSTITUTION = "retain-institution"
    RETAIN_SAFE_PRIVATE = "retain-safe-private"
    CLEAN_PIXELS = "clean-pixels"

    @property
    def title(self) -> str:
        """In a site's words, for a form."""
        return _TITLES[self]

    @property
    def code(self) -> tuple[str, str]:
        """Code value and meaning (PS3.16 CID 7050)."""
        return _CODES[self]


_TITLES = {
    Option.CLEAN_DESCRIPTORS: "Keep known imaging words of the series', study's and protocol's names",
    Option.RETAIN_DATES: "Keep dates and times as they are",
    Option.SHIFT_DATES: "Keep dates and times, all of a patient moved by the same secret time",
    Option.RETAIN_PATIENT: "Keep sex, age, size, weight and the like",
    Option.RETAIN_DEVICE: "Keep which device made it (serial number, station name)",
    Option.RETAIN_INSTITUTION: "Keep the institution's name and address",
    Option.CLEAN_PIXELS: "Black out burned-in text by the table of pixel rules, where a rule fits the image",
    Option.RETAIN_SAFE_PRIVATE: "Keep private elements known to be safe (diffusion, mosaics, Philips' slopes)",
}

_BASIC = ("113100", "Basic Application Confidentiality Profile")
_CODES = {
    Option.CLEAN_PIXELS: ("113101", "Clean Pixel Data Option"),
    Option.CLEAN_DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    Option.RETAIN_DATES: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    Option.SHIFT_DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Option.RETAIN_PATIENT: ("113108", "Retain Patient Characteristics Option"),
    Option.RETAIN_DEVICE: ("113109", "Retain Device Identity Option"),
    Option.RETAIN_SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
    Option.RETAIN_INSTITUTION: ("113112", "Retain Institution Identity Option"),
}


@dataclass(frozen=True)
class Profile:
    """The Basic Profile with options."""

    options: frozenset[Option] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str]) -> Profile:
        """The profile with the options of these names.

        Raises:
            ValueError: there is no such option, or two contradict each other; the text says which.
        """
        options = set()
        for name in names:
            try:
                options.add(Option(name))
            except ValueError:
                known = ", ".join(option.value for option in Option)
                raise ValueError(f"unknown option {name!r}; the options are {known}") from None
        if {Option.RETAIN_DATES, Option.SHIFT_DATES} <= options:
            raise ValueError("dates are either kept (retain-dates) or moved (shift-dates), not both")
        return cls(frozenset(options))

    def __contains__(self, option: Option) -> bool:
        return option in self.options

    @property
    def names(self) -> list[str]:
        return [option.value for option in Option if option in self.options]

    @property
    def words(self) -> str:
        """What was done and by what, as an archive's record says it."""
        done = ["Basic Profile", *self.names]
        return (
            f"PS3.15 {EDITION} {', '.join(done)}; version {VERSION},"
            f" dicom-anonymizer {installed_version('dicom-anonymizer')}"
        )

    def declare(self, dataset: Dataset) -> None:
        """Have an instance say that, and how, it was de-identified (PS3.15 section E.1.1, PS3.3 C.7.1.1)."""
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = [f"tardis_imagetrove {VERSION}", f"DICOM PS3.15 {EDITION}"]
        dataset.DeidentificationMethodCodeSequence = Sequence(
            _code(*code) for code in (_BASIC, *(option.code for option in Option if option in self.options))
        )
        dataset.LongitudinalTemporalInformationModified = (
            "UNMODIFIED"
            if Option.RETAIN_DATES in self
            else "MODIFIED"
            if Option.SHIFT_DATES in self
            else "REMOVED"
        )


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
