"""Converts a folder of DICOM files into a folder of files: no MyTARDIS, no database, no worker."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory

from ..deidentification import NotDeidentifiable, Profile, Pseudonyms, deidentify
from ..disk import file_sha256
from ..errors import ImageTroveError, PermanentError
from ..filters.base import DicomSeries, Filter, FilterResult
from ..formats.dicom.fields import field_text
from ..formats.dicom.files import NoInstance, UnreadableFile, read_header
from ..ingest.placement import directory_name
from ..parameters import Parameters
from . import registry
from .execution import execute


@dataclass(frozen=True)
class FoundSeries:
    """The files of one series.

    Attributes:
        directory: its own, as ingest would name it.
        modality: of its first file.
        sop_classes: of all its files.
    """

    series_uid: str
    directory: str
    files: tuple[Path, ...]
    modality: str = ""
    sop_classes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Unused:
    """A file that is in no series, and why; ``lost`` if it should have been in one."""

    path: Path
    reason: str
    lost: bool


class Outcome(Enum):
    """How a filter ended, in the words of MyTARDIS's filter runs."""

    DONE = "done"
    PARTIAL = "partial"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Converted:
    """What one filter made of one series: files, words for what is missing or went wrong, and notes."""

    filter: str
    outcome: Outcome
    files: tuple[Path, ...] = ()
    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_series(folder: Path, leave_out: Path) -> tuple[list[FoundSeries], list[Unused]]:
    """The series under a folder, and the files that are in none.

    Series are found by SeriesInstanceUID (PS3.3 C.7.3.1), wherever their files lie. A copy of a
    file that is there already is unused; other bytes under the same SOPInstanceUID are kept.

    Args:
        leave_out: a folder, perhaps under ``folder``, that is not looked into.
    """
    files: dict[str, list[Path]] = {}
    wanted: dict[str, str] = {}
    modalities: dict[str, str] = {}
    classes: dict[str, set[str]] = {}
    instances: dict[tuple[str, str], list[Path]] = {}
    unused = []
    for path in _files(folder, leave_out.resolve()):
        try:
            if not path.is_file():  # a pipe would never end
                raise NoInstance(f"{path.name}: not a regular file")
            header = read_header(path, ())
        except UnreadableFile as error:
            reason = str(error).removeprefix(f"{path.name}: ")
            unused.append(Unused(path, reason, lost=not isinstance(error, NoInstance)))
            continue
        except OSError as error:
            unused.append(Unused(path, f"cannot be read: {error.strerror or error}", lost=True))
            continue
        uid = str(header.SeriesInstanceUID)
        others = instances.setdefault((uid, str(header.SOPInstanceUID)), [])
        if others and (twin := _twin(path, others)):
            unused.append(Unused(path, f"the same as {twin.relative_to(folder)}", lost=False))
            continue
        others.append(path)
        files.setdefault(uid, []).append(path)
        classes.setdefault(uid, set()).add(str(header.get("SOPClassUID", "")))
        if uid not in wanted:
            modalities[uid] = field_text(header, "Modality")
            description = field_text(header, "SeriesDescription") or field_text(header, "ProtocolName")
            wanted[uid] = directory_name(field_text(header, "SeriesNumber"), description)
    names = dict(zip(wanted, _distinct(wanted.values()), strict=True))
    found = [
        FoundSeries(uid, names[uid], tuple(paths), modalities[uid], frozenset(classes[uid]))
        for uid, paths in files.items()
    ]
    return found, unused


def _files(folder: Path, leave_out: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(root, name).resolve() != leave_out)
        yield from (Path(root, name) for name in sorted(names))


def _twin(path: Path, others: list[Path]) -> Path | None:
    digest = file_sha256(path)
    return next((other for other in others if file_sha256(other) == digest), None)


def _distinct(names: Iterable[str]) -> Iterator[str]:
    """The names, with ``_2``, ``_3`` … where one has been before, as ingest does."""
    taken = set()
    for name in names:
        free, number = name, 1
        while free.lower() in taken:  # some file systems hold the two for one
            number += 1
            free = f"{name}_{number}"
        taken.add(free.lower())
        yield free


def copy_folder(
    folder: Path, leave_out: Path, copies: Path, profile: Profile, pseudonyms: Pseudonyms
) -> list[Unused]:
    """De-identified copies, in ``copies``, of the DICOM files under a folder; returns those that have none."""
    found, unused = find_series(folder, leave_out)
    paths = [path for series in found for path in series.files]
    for number, path in enumerate(paths):
        try:
            made = deidentify(path, copies / f"{number:06d}.part", profile, pseudonyms)
        except NotDeidentifiable as error:
            unused.append(Unused(path, str(error), lost=True))
            continue
        name = copies / f"{made.sop_instance_uid}.dcm"
        made.path.rename(name if not name.exists() else name.with_stem(f"{name.stem}~{number}"))
    return unused


def keep_copies(series: FoundSeries, out: Path) -> Path:
    """Move a series' files into a folder ``dicom`` of its own folder in ``out``; returns that folder."""
    target = out / series.directory / "dicom"
    target.mkdir(parents=True, exist_ok=True)
    for path in series.files:
        path.replace(target / path.name)
    return target


def convert_series(
    series: FoundSeries, filters: Mapping[str, Filter], out: Path, overwrite: bool
) -> Iterator[Converted]:
    """Run filters on a series, one after the other; what fails is told and stops nothing.

    Args:
        out: the folder that the series' own folder is made in.
        overwrite: files of the same names; otherwise the filter that made them fails.
    """
    with TemporaryDirectory(prefix=".imagetrove-", dir=out) as shared:
        for name, conversion in filters.items():
            yield _convert(series, name, conversion, out, Path(shared), overwrite)


def _convert(
    series: FoundSeries, name: str, conversion: Filter, out: Path, shared: Path, overwrite: bool
) -> Converted:
    try:
        if refusal := conversion.takes.refusal(series.modality, series.sop_classes):
            return Converted(name, Outcome.SKIPPED, words=(refusal,))
        options, limits = registry.options_of(conversion)
        given = DicomSeries(series.files, series.directory, options=options, shared=shared)
        with TemporaryDirectory(prefix=".imagetrove-", dir=out) as scratch:
            made = Path(scratch, "out")
            made.mkdir()
            report = execute(conversion, given, limits, made)
            if report.error is not None:
                raise report.error
            result = report.value
            files = _keep(name, result, series, made, out / series.directory, overwrite)
    except (ImageTroveError, OSError) as error:
        return Converted(name, Outcome.FAILED, words=(str(error),))
    skipped = (result.skipped,) if result.skipped else ()
    return Converted(name, _outcome(result), files, (*skipped, *result.warnings), result.notes)


def _outcome(result: FilterResult) -> Outcome:
    if result.skipped:
        return Outcome.SKIPPED
    return Outcome.PARTIAL if result.warnings else Outcome.DONE


def _keep(
    name: str, result: FilterResult, series: FoundSeries, made: Path, target: Path, overwrite: bool
) -> tuple[Path, ...]:
    """Move a filter's outputs, and its parameters as JSON, where they belong: all, or none of them.

    Raises:
        PermanentError: a file is there already.
    """
    outputs = [output.path for output in result.outputs]
    if result.parameters:
        outputs.append(made / f"{series.directory}_{name}.json")
        outputs[-1].write_text(parameters_json(result.parameters), encoding="utf-8")
    if not outputs:
        return ()
    target.mkdir(exist_ok=True)
    claimed: list[Path] = []
    try:
        for path in outputs:
            # Made empty first, which fails where a file is; a mere look would race another process.
            with (target / path.name).open("ab" if overwrite else "xb"):
                claimed.append(target / path.name)
    except OSError as error:
        for path in () if overwrite else claimed:
            path.unlink()
        if isinstance(error, FileExistsError):
            raise PermanentError(f"{error.filename} exists already and is not overwritten") from None
        raise
    for path, place in zip(outputs, claimed, strict=True):
        path.replace(place)
    return tuple(claimed)


def parameters_json(sets: Iterable[Parameters]) -> str:
    """Parameter sets by level: a list of name, value, units and full name each; dates by ISO 8601."""
    levels: dict[str, list[dict[str, object]]] = {}
    for parameters in sets:
        levels.setdefault(parameters.level.value, []).extend(
            {
                "name": value.name,
                "value": value.value.isoformat() if isinstance(value.value, datetime) else value.value,
                "units": value.units,
                "full_name": value.full_name,
            }
            for value in parameters.values
        )
    return json.dumps(levels, indent=2, ensure_ascii=False) + "\n"
