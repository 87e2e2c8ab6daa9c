"""A project's series as a BIDS dataset: what MyTARDIS keeps of them, read for the plan."""

from __future__ import annotations

import json
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar, cast

from django.db.models import F, QuerySet
from django.http import HttpRequest, QueryDict

from .. import __version__
from ..archive import first_instance, study_fields
from ..bids import dataset
from ..bids.mapping import DEFAULT
from ..bids.plan import LeftOut, Named, Plan
from ..bids.scan import FIELDS, Image, Scan, Source
from ..errors import ImageTroveError, PermanentError
from ..formats.base import Fields
from ..formats.dicom.files import fields_in
from ..imaging.image import shape_and_step
from ..models import Archive, FilterOutput, FilterRun, InstrumentConfiguration, ScanDownload, Series
from ..mytardis import mytardis
from ..mytardis.reading import StoredFile, experiment_title, stored_files
from . import downloads
from .scans import Search, archived

_HEADS = (256 * 1024, 32 * 1024 * 1024)
"""Bytes of an instance in which its fields are looked for; they stand before pixels and frames."""
_LONGEST_SIDECAR = 16 * 1024 * 1024
_BATCH = 300
MOST = 2000
"""Series that a page shows the names of."""
_NIFTI = "nifti"
_ENDINGS = (".nii.gz", ".json", ".bval", ".bvec")

T = TypeVar("T")
Allowed = Callable[[int, Iterable[int]], frozenset[int]]
"""Of a dataset's files, those that may be had."""


def project(text: str) -> tuple[str, QuerySet[Series]]:
    """The title and the series of a project, by its number or by its group's name.

    Raises:
        PermanentError: no series is archived of such a project, or the number is that of several.
    """
    groups = InstrumentConfiguration.objects.values_list("project_group", flat=True).distinct()
    found = archived().filter(project__in={text, *(group.format(text) for group in groups)})
    names = sorted(set(found.order_by().values_list("project", flat=True)))
    if not names:
        raise PermanentError(f"project {text!r} has no archived series")
    if len(names) > 1:
        raise PermanentError(
            f"{text!r} matches several projects: {', '.join(names)}; give one of these names"
        )
    return names[0], found


def experiment(experiment_id: int) -> tuple[str, QuerySet[Series]]:
    """The title and the series of an experiment.

    Raises:
        PermanentError: no series is archived in such an experiment.
    """
    found = archived().filter(dataset_key__dataset__experiments=experiment_id)
    title = experiment_title(experiment_id)
    if not title or not found.exists():
        raise PermanentError(f"experiment {experiment_id} has no archived series")
    return title, found


def plan(series: QuerySet[Series], title: str, allowed: Allowed | None = None) -> Plan:
    """The dataset of some series; what cannot be used, or may not be had, is left out with the reason.

    Args:
        allowed: of a dataset's files those that the visitor may download; without it all.
    """
    return dataset.plan(list(gather(series, allowed)), title, __version__)


@dataclass(frozen=True)
class Preview:
    """What a dataset would hold, for the person who asks.

    Attributes:
        plan: ``None`` if there are too many series for a page.
        count: of the series that were asked for.
        command: options of the command that builds it; empty for a selection.
        named, left_out: of the plan, each with the dataset of its series.
    """

    title: str
    plan: Plan | None
    count: int
    command: str
    named: tuple[tuple[Named, int], ...] = ()
    left_out: tuple[tuple[LeftOut, int], ...] = ()


def preview(request: HttpRequest, asked: QueryDict) -> Preview:
    """The dataset of the series that somebody asks for, among those that they may see and download.

    Args:
        asked: as the search of scans takes it; ``project`` is the name of a project, ``series`` ids of series.
    """
    search = Search.of({name: asked[name] for name in asked})
    found = search.found(request.user)  # type: ignore[arg-type] # who is signed in
    project = asked.get("project", "").replace("\0", "")
    if project:
        found = found.filter(project=project)
    if chosen := [int(one) for one in asked.getlist("series") if one.isascii() and one.isdecimal()][:MOST]:
        found = found.filter(pk__in=[one for one in chosen if one < 2**31])
    count = found.count()
    title, command = _title(request, project, search, found, bool(chosen))
    if count > MOST:
        return Preview(title, None, count, command)

    def allowed(dataset_id: int, ids: Iterable[int]) -> frozenset[int]:
        return mytardis().downloadable_datafiles(request, dataset_id, ids)

    made = plan(found, title, allowed)
    datasets = dict(found.order_by().values_list("pk", "dataset_key__dataset_id"))
    return Preview(
        title,
        made,
        count,
        command,
        tuple((one, datasets.get(one.scan.id, 0)) for one in made.named),
        tuple((one, datasets.get(one.scan.id, 0)) for one in made.left_out),
    )


def keep(request: HttpRequest, asked: QueryDict) -> ScanDownload:
    """Make the dataset that somebody asks for ready to be downloaded.

    Raises:
        PermanentError: there are too many series, or none has a name.
    """
    found = preview(request, asked)
    if found.plan is None:
        raise PermanentError(f"{found.count} series are more than the {MOST} of one download; choose fewer")
    if not found.named:
        raise PermanentError("no series has a name in BIDS")
    dataset_of = {one.scan.id: dataset_id for one, dataset_id in found.named}
    uid_of = {one.scan.id: one.scan.uid for one, _ in found.named}
    wanted = [
        downloads.Wanted(
            file.source.id,
            dataset_of[file.of],
            file.name,
            file.size,
            file.source.sha512,
            "BIDS",
            uid_of[file.of],
        )
        for file in found.plan.files
        if file.source
    ]
    left_out = [downloads.LeftOut(one.scan.title, one.reason) for one in found.plan.left_out]
    made_of: dict[int, set[int]] = {}
    for one, dataset_id in found.named:
        made_of.setdefault(dataset_id, set()).update(one.scan.read)
    made = downloads.Made(
        {file.name: file.content.decode() for file in found.plan.files if not file.source},
        {dataset_id: sorted(ids) for dataset_id, ids in made_of.items()},
    )
    chosen = downloads.Plan(tuple(wanted), tuple(left_out), len(dataset_of))
    return downloads.keep(request.user, chosen, made)  # type: ignore[arg-type] # who is signed in


def _title(
    request: HttpRequest, project: str, search: Search, found: QuerySet[Series], chosen: bool
) -> tuple[str, str]:
    more = chosen or Search(experiment=search.experiment, order=search.order) != search
    if project and not more and not search.experiment:
        return project, f"--project {shlex.quote(project)}"
    if search.experiment and not more and not project and found.exists():
        return experiment_title(int(search.experiment)), f"--experiment {search.experiment}"
    return project or "selected scans", ""


def gather(series: QuerySet[Series], allowed: Allowed | None = None) -> Iterator[Scan]:
    """The series as the plan takes them."""
    rows = series.select_related("configuration", "dataset_key").order_by("pk").iterator(chunk_size=_BATCH)
    while batch := list(islice(rows, _BATCH)):
        yield from _batch(batch, allowed)


def _batch(batch: list[Series], allowed: Allowed | None) -> Iterator[Scan]:
    archives = {
        archive.series_id: archive
        for archive in Archive.objects.filter(
            series__in=batch, datafile__dataset=F("series__dataset_key__dataset")
        ).order_by("version")
    }
    runs = {
        run.archive_id: run
        for run in FilterRun.objects.filter(
            filter=_NIFTI, archive__in=[archive.pk for archive in archives.values()]
        )
    }
    outputs: dict[int, list[int]] = {}
    made = FilterOutput.objects.filter(run__in=[run.pk for run in runs.values()])
    for run_id, datafile_id in made.values_list("run_id", "datafile_id"):
        outputs.setdefault(run_id, []).append(datafile_id)
    ids = [archive.datafile_id for archive in archives.values()] + [
        i for some in outputs.values() for i in some
    ]
    files = stored_files(ids)
    permitted = _permitted(batch, archives, runs, outputs, allowed)
    reader = Reader(files)
    for series in batch:
        archive = archives.get(series.pk)
        run = runs.get(archive.pk) if archive else None
        ids = outputs.get(run.pk, []) if run else []
        yield _scan(series, archive, run, [files[i] for i in ids if i in files], files, permitted, reader)


def _permitted(
    batch: list[Series],
    archives: dict[int, Archive],
    runs: dict[int, FilterRun],
    outputs: dict[int, list[int]],
    allowed: Allowed | None,
) -> frozenset[int] | None:
    """Files that the visitor may download; ``None`` for all."""
    if allowed is None:
        return None
    by_dataset: dict[int, list[int]] = {}
    for series in batch:
        if (archive := archives.get(series.pk)) and series.dataset_key:
            run = runs.get(archive.pk)
            ids = by_dataset.setdefault(series.dataset_key.dataset_id, [])
            ids += [archive.datafile_id, *(outputs.get(run.pk, []) if run else [])]
    return frozenset().union(*(allowed(dataset_id, ids) for dataset_id, ids in by_dataset.items()))


def _scan(
    series: Series,
    archive: Archive | None,
    run: FilterRun | None,
    files: list[StoredFile],
    stored: dict[int, StoredFile],
    permitted: frozenset[int] | None,
    reader: Reader,
) -> Scan:
    title = series.directory or series.description or series.public_uid

    def unusable(problem: str) -> Scan:
        return Scan(series.pk, title, series.public_uid, problem=problem)

    if archive is None or archive.datafile_id not in stored:
        return unusable("its archive is no longer in MyTARDIS")
    if permitted is not None and not {archive.datafile_id, *(file.id for file in files)} <= permitted:
        return unusable("you may see it, but not download it")
    if run is None:
        return unusable("it was not converted to NIfTI")
    if run.state in FilterRun.UNFINISHED:
        return unusable("its conversion to NIfTI has not finished")
    if not any(file.filename.endswith(".nii.gz") for file in files):
        return unusable(f"no NIfTI image: {run.reason or run.get_state_display()}")
    if unverified := [file.filename for file in files if not file.verified]:
        return unusable(f"{unverified[0]} is not verified by MyTARDIS")
    if unsure := [file.filename for file in files if len(file.sha512) != 128]:
        return unusable(f"MyTARDIS keeps no SHA-512 checksum of {unsure[0]}")
    try:
        mapping = series.configuration.bids if series.configuration else DEFAULT
        names = tuple(sorted({*FIELDS, *mapping.fields()}))
        fields = reader.fields(archive.datafile_id, archive.sha512, names)
        images = tuple(_images(series.directory, files, reader))
    except ImageTroveError as error:
        return unusable(str(error))
    read = (archive.datafile_id, *(file.id for file in files if file.filename.endswith(".json")))
    return Scan(
        series.pk,
        title,
        series.public_uid,
        fields,
        images,
        mapping,
        notes=tuple(run.warnings),
        read=read,
    )


def _images(directory: str, files: list[StoredFile], reader: Reader) -> Iterator[Image]:
    by_stem: dict[str, dict[str, StoredFile]] = {}
    for file in files:
        ending = next((one for one in _ENDINGS if file.filename.endswith(one)), "")
        by_stem.setdefault(file.filename.removesuffix(ending), {})[ending] = file
    for stem, parts in sorted(by_stem.items()):
        if (nifti := parts.get(".nii.gz")) is None:
            continue
        label = stem.removeprefix(directory).strip("_")
        sidecar = parts.get(".json")
        bval, bvec = parts.get(".bval"), parts.get(".bvec")
        shape, step = reader.shape(nifti)
        yield Image(
            _source(nifti),
            label,
            reader.sidecar(sidecar) if sidecar else {},
            _source(bval) if bval else None,
            _source(bvec) if bvec else None,
            shape,
            step,
        )


def _source(file: StoredFile) -> Source:
    return Source(file.id, file.filename, file.size, file.sha512)


class Reader:
    """Reads what names are made of; a file of one checksum, which never says another thing, once a process."""

    def __init__(self, datafile_ids: Iterable[int]) -> None:
        self._opened = mytardis().opener(datafile_ids)

    def fields(self, datafile_id: int, sha512: str, names: tuple[str, ...]) -> Fields:
        """DICOM fields of an archive's first instance, or what was read of another format's study.

        Raises:
            PermanentError, RetriableError: the archive cannot be read.
        """

        def read() -> Fields:
            with self._opened(datafile_id) as file:
                try:
                    for most in _HEADS:
                        if not (content := first_instance(file, most)):
                            return study_fields(file)
                        if (fields := fields_in(content, names, len(content) < most)) is not None:
                            return fields
                except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError) as error:
                    raise PermanentError(f"its archive cannot be read: {error}") from error
            raise PermanentError("the fields of its first instance are too far into the file")

        return _remembered(("fields", datafile_id, sha512, names), read)

    def sidecar(self, file: StoredFile) -> Mapping[str, object]:
        """The fields of a sidecar.

        Raises:
            PermanentError, RetriableError: it cannot be read.
        """

        def read() -> Mapping[str, object]:
            with self._opened(file.id) as source:
                content = source.read(_LONGEST_SIDECAR)
            try:
                found = json.loads(content)
            except ValueError as error:
                raise PermanentError(f"{file.filename} is not JSON: {error}") from error
            if not isinstance(found, dict):
                raise PermanentError(f"{file.filename} is not a sidecar")
            return found

        return _remembered(("sidecar", file.id, file.sha512), read)

    def shape(self, file: StoredFile) -> tuple[tuple[int, ...], float]:
        """The shape of an image, and the seconds between its volumes.

        Raises:
            PermanentError, RetriableError: it cannot be read.
        """

        def read() -> tuple[tuple[int, ...], float]:
            with self._opened(file.id) as source:
                try:
                    return shape_and_step(source)
                except ValueError as error:
                    raise PermanentError(f"{file.filename}: {error}") from error

        return _remembered(("shape", file.id, file.sha512), read)


_MOST_REMEMBERED = 10_000
_known: dict[tuple[object, ...], object] = {}


def _remembered(key: tuple[object, ...], read: Callable[[], T]) -> T:
    if key in _known:
        return cast(T, _known[key])
    found = read()
    if len(_known) >= _MOST_REMEMBERED:
        _known.clear()
    _known[key] = found
    return found
