"""What several filters of one series need is made once: its attributes, the survey of its headers, and dcm2niix's volumes.

Each filter runs in a process of its own, so what one has made is handed to the next through files in
:attr:`DicomSeries.shared`. What is there must not be changed: others read it.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import PermanentError
from ..formats.base import PARAVISION
from ..formats.dicom.attributes import Instance, read_instances
from ..imaging import headers, volume
from ..sandbox.programs import ProgramRun, record, recording
from .base import DicomSeries
from .facts import TAGS

Made = TypeVar("Made")


def survey_of(series: DicomSeries) -> volume.Survey:
    """:func:`volume.survey` of a series, once."""
    return _once(series, "survey", lambda: volume.survey(instances_of(series), series.name))


def instances_of(series: DicomSeries) -> list[Instance]:
    """The attributes of all files of a series that its filters ask for, read once."""
    return _once(series, "attributes", lambda: read_instances(series.files, TAGS | headers.TAGS))


def conversion_of(series: DicomSeries, folder: Path) -> volume.Conversion:
    """:func:`volume.convert` of a series, once; its programs are in the record of each run that has it.

    Args:
        folder: for its files if nothing is shared.
    """
    if series.format == PARAVISION:
        return _once(series, "volumes", lambda: _of_study(series, folder))
    found = survey_of(series)

    def make() -> volume.Conversion:
        if series.shared is None:
            return volume.convert(found, folder)
        # One of its own: what a process left that was killed in the middle is in nobody's way.
        return volume.convert(found, Path(tempfile.mkdtemp(prefix="volumes-", dir=series.shared)))

    return _once(series, "volumes", make)


def _of_study(series: DicomSeries, folder: Path) -> volume.Conversion:
    from ..imaging import paravision  # its library is there only where a site has such studies

    out = folder if series.shared is None else Path(tempfile.mkdtemp(prefix="volumes-", dir=series.shared))
    made = paravision.convert_study(series.folder or folder, out, series.name)
    return volume.Conversion(
        images=tuple(made.images),
        headers=(),
        warnings=tuple(made.warnings),
        notes=tuple(made.notes),
        converter=paravision.converter(),
        skipped="" if made.images or made.warnings else "; ".join(made.notes) or "The study holds no image",
    )


def _once(series: DicomSeries, name: str, make: Callable[[], Made]) -> Made:
    """What ``make`` returns, or raises as PermanentError, from the first filter's run for all."""
    if series.shared is None:
        return make()
    kept = series.shared / f"{name}.pickle"
    if kept.exists():
        made, error, programs = pickle.loads(kept.read_bytes())
        for program in programs:
            record(program)
    else:
        made, error = None, None
        programs: list[ProgramRun] = []
        with recording(programs.append):
            try:
                made = make()
            except PermanentError as trouble:
                error = trouble
        part = kept.with_suffix(".part")
        part.write_bytes(pickle.dumps((made, error, programs)))
        part.replace(kept)
    if error is not None:
        raise error
    return made
