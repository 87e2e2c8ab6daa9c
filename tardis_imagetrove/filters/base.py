"""What a conversion filter is: one small class that turns a series' DICOM files into files and parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from ..parameters import Parameters


@dataclass(frozen=True)
class DicomSeries:
    """A filter's input: the DICOM files of one series, unpacked from its archive.

    Attributes:
        files: Part 10 files, one an instance, in no particular order.
        name: what names of outputs begin with, safe in a file name (``0003_t1_mprage_sag``).
        settings: what the instrument's configuration says that filters need.
    """

    files: tuple[Path, ...]
    name: str
    settings: FilterSettings = field(default_factory=lambda: FilterSettings())


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
        converter: name and version of the program or library that did the work.
        skipped: why there was nothing to make (a series without pixels); empty otherwise.
    """

    outputs: tuple[Output, ...] = ()
    parameters: tuple[Parameters, ...] = ()
    warnings: tuple[str, ...] = ()
    converter: str = ""
    skipped: str = ""


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
