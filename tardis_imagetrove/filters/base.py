"""What a conversion filter is: one small class that turns a series' DICOM files into files and parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType

from pydicom.uid import UID

from ..errors import PermanentError
from ..formats.base import DICOM, PARAVISION, Fields
from ..parameters import Parameters


@dataclass(frozen=True)
class DicomSeries:
    """A filter's input: the files of one series or study, unpacked from its archive.

    Attributes:
        files: of DICOM, Part 10 files, one an instance, in no particular order; of another format, all files.
        name: what names of outputs begin with, safe in a file name (``0003_t1_mprage_sag``).
        settings: what the instrument's configuration says that filters need.
        options: a value for each of the filter's :attr:`Filter.options`.
        shared: a folder for what several filters of the same series would each make anew; may be None.
        format: of the files: ``dicom``, or one of those that the filter takes.
        folder: of a study of another format, in which its files lie as they were.
        fields: what was read of it when it arrived; empty for DICOM, whose files say it.
    """

    files: tuple[Path, ...]
    name: str
    settings: FilterSettings = field(default_factory=lambda: FilterSettings())
    options: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    shared: Path | None = None
    format: str = DICOM
    folder: Path | None = None
    fields: Fields = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class FilterSettings:
    """What an instrument's configuration tells its filters."""

    institution_name: str = ""
    institutional_department_name: str = ""
    institution_address: str = ""
    operators: tuple[str, ...] = ()
    identity: tuple[tuple[str, str], ...] = ()
    project: str = ""
    identifying_metadata: bool = False


@dataclass(frozen=True)
class Output:
    """One file that a filter made.

    Attributes:
        path: the file, in the folder that the filter was given.
        mimetype: as MyTARDIS shall store it.
        kind: what it is to a researcher (``NIfTI``, ``MINC``, ``Picture``, ``Sidecar``, ``Gradients``).
    """

    path: Path
    mimetype: str
    kind: str


@dataclass(frozen=True)
class FilterResult:
    """What a filter made of a series.

    Attributes:
        warnings: words of the converter or our own checks for anything left out or doubtful;
            one or more of them make the run *partial* instead of *done*.
        notes: words worth knowing that leave the run *done*.
        converter: name and version of the program or library that did the work.
        skipped: why there was nothing to make (a series without pixels); empty otherwise.
    """

    outputs: tuple[Output, ...] = ()
    parameters: tuple[Parameters, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    converter: str = ""
    skipped: str = ""


WITHOUT_PIXELS = (
    "1.2.840.10008.5.1.4.1.1.4.2",  # MR spectroscopy
    *(
        f"1.2.840.10008.5.1.4.1.1.{part}." for part in (9, 11, 88, 104)
    ),  # waveforms, presentation states, reports, documents
    *(
        f"1.2.840.10008.5.1.4.1.1.66{part}" for part in ("", ".1", ".2", ".3", ".5", ".6")
    ),  # raw data, registrations, …
    "1.2.840.10008.5.1.4.1.1.67",  # real world mapping
    *(f"1.2.840.10008.5.1.4.1.1.481.{part}" for part in range(3, 10)),  # RT structures, plans, records
)
"""SOP classes of PS3.4 annex B whose instances never have pixels; what ends with a dot is a family."""


OTHER_FORMATS = {PARAVISION: "a ParaVision study", "folder": "a folder of any format"}
"""Formats but DICOM, which the ledger has in place of SOP classes, in words."""


@dataclass(frozen=True)
class Takes:
    """What a filter can do something with, told before anything is fetched.

    Attributes:
        pixels: it needs instances that have pixels.
        modalities: of PS3.3 C.7.3.1.1.1 (``MR``); empty for any.
        formats: of files: DICOM alone, unless it says more.
    """

    pixels: bool = False
    modalities: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset({DICOM})

    def refusal(self, modality: str, sop_classes: Iterable[str]) -> str:
        """Why a series is nothing for the filter; empty if it may be.

        Args:
            modality: of the series; empty if not known.
            sop_classes: SOPClassUIDs of its instances.
        """
        classes = {uid for uid in sop_classes if uid}
        others = {kind for kind in classes if kind in OTHER_FORMATS}
        if others - self.formats:
            return f"The files are {' and '.join(OTHER_FORMATS[kind] for kind in sorted(others))}, and are kept as they are"
        classes -= others
        if self.modalities and modality and modality not in self.modalities:
            return f"The series is {modality}, and this is for {', '.join(sorted(self.modalities))}"
        if self.pixels and classes and all(map(_is_without_pixels, classes)):
            return f"The series has no pixels ({', '.join(sorted(UID(uid).name for uid in classes))})"
        return ""


def _is_without_pixels(sop_class: str) -> bool:
    return any(sop_class.startswith(uid) if uid.endswith(".") else sop_class == uid for uid in WITHOUT_PIXELS)


class Shown(Enum):
    """How a dataset's page shows a file, besides offering it for download."""

    VOLUME = "volume"
    PICTURE = "picture"


@dataclass(frozen=True)
class Makes:
    """A kind of file that a filter makes, declared once for the filter, the page and the self-test.

    Attributes:
        kind, mimetype: as in :class:`Output`.
        shown_as: None for a file that is only downloaded.
        expected: the self-test fails without one of its phantom series.
    """

    kind: str
    mimetype: str
    shown_as: Shown | None = None
    expected: bool = False

    def output(self, path: Path) -> Output:
        """A file of this kind."""
        return Output(path, self.mimetype, self.kind)


@dataclass(frozen=True)
class Option:
    """One parameter of a filter, which a site sets in ``IMAGETROVE['FILTER_OPTIONS']``.

    Attributes:
        default: its value where the site sets none; a set value has its type.
        meaning: in words, with the unit.
        least: the smallest number that makes sense.
        choices: the only values there are; empty for any.
    """

    name: str
    default: bool | int | float | str
    meaning: str
    least: float | None = None
    choices: tuple[str, ...] = ()

    def problem(self, value: object) -> str:
        """What is wrong with a value; empty if nothing is."""
        wanted = type(self.default)
        fits = isinstance(value, (int, float) if wanted is float else wanted)
        if not fits or isinstance(value, bool) is not (wanted is bool):
            return f"is {value!r}: it must be of type {wanted.__name__}"
        if self.least is not None and value < self.least:
            return f"is {value!r}: it must be at least {self.least:g}"
        if self.choices and value not in self.choices:
            return f"is {value!r}: it must be one of {', '.join(self.choices)}"
        return ""


class Filter(ABC):
    """A conversion filter.

    A subclass names itself and implements :meth:`run`. It runs on any worker: all that it
    reads is in the :class:`DicomSeries`, all that it writes goes to the folder it is given.
    """

    name: str
    """Unique name, as in an instrument's list of filters (``nifti``)."""

    title: str
    """What a researcher calls it (``NIfTI``)."""

    version: str
    """Changed whenever the output of the same input would change."""

    takes: Takes = Takes()
    """What it can do something with; a series of anything else is *skipped* and not even fetched."""

    makes: tuple[Makes, ...] = ()
    """All files that it may make; one that is not listed is a mistake. Empty: any."""

    options: tuple[Option, ...] = ()
    """The schema of its parameters. A run with other values than before is done again."""

    seconds: float = 3600
    """After which a run is stopped; ``IMAGETROVE['FILTER_OPTIONS']`` may say otherwise."""

    memory_mib: float = 8192
    """That a run's process, and each program that it starts, may use; may be set like ``seconds``."""

    @abstractmethod
    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        """Convert ``series`` into files under ``out``, an empty folder.

        Raises:
            PermanentError: the input cannot be converted; the text names the file or the tag.
            RetriableError: something outside is missing for now (scratch disk full).
        """

    def problems(self) -> list[str]:
        """What this installation lacks for the filter (a program, a library), for the system check."""
        return []

    def check(self, result: FilterResult, out: Path) -> None:
        """See that a result is what the filter said it makes.

        Raises:
            PermanentError: a file that is not there, not in ``out``, or of a kind that is not listed.
        """
        names = set()
        listed = {(makes.kind, makes.mimetype) for makes in self.makes}
        for output in result.outputs:
            name = output.path.name
            if not output.path.is_file() or out.resolve() not in output.path.resolve().parents:
                raise PermanentError(f"{name}: the filter did not write this file in its folder")
            if self.makes and (output.kind, output.mimetype) not in listed:
                raise PermanentError(f"{name}: the filter does not list {output.kind} as {output.mimetype}")
            if name in names:
                raise PermanentError(f"{name}: the filter wrote two files of this name")
            names.add(name)
