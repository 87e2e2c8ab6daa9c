"""What a dataset's page shows of its series, gathered in a number of queries that does not grow with them."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from django.http import HttpRequest
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.timezone import is_aware, localtime

from . import __version__
from .conversion import registry
from .errors import PermanentError
from .filters.base import Shown
from .filters.facts import reading_place
from .models import NOTE, Archive, FilterOutput, FilterRun, Instance, Series
from .mytardis import mytardis
from .mytardis.reading import (
    ExperimentTitle,
    Fact,
    StoredFile,
    dataset_facts,
    experiments_of,
    stored_files,
    thumbnail_url,
    verified_datafiles,
)
from .reasons import render

THUMBNAIL = (120, 60)
"""Width and height, in pixels, that a thumbnail in the list of series fits into."""

DICOM = "DICOM"
_ARCHIVES = {"paravision": "ParaVision study", "folder": "Folder"}

SAID_ALREADY = frozenset({"Series", "SeriesDescription", "Modality", "NumberOfInstances"})
"""Parameters that stand in the heading of a series and are not repeated below it."""

LONG = 24
"""Characters of a value, from which on it gets a line of its own."""

_UNFINISHED_SERIES = {
    Series.State.RECEIVING: "More files of this series are arriving.",
    Series.State.QUEUED: "Files of this series wait for a worker that archives them.",
    Series.State.INGESTING: "Files of this series are being archived. Load the page again to see them.",
    Series.State.WAITING: "Files of this series wait to be archived; that goes on by itself.",
    Series.State.HELD: "More files of this series arrived than could be placed here. They are kept, "
    "for the facility to look at; what is archived is not affected.",
    Series.State.CONVERTING: "It is being converted. Load the page again to see what came of it.",
}


@dataclass(frozen=True)
class Stand:
    """How a series or a filter run stands: ``state`` for the looks, ``label`` in words."""

    state: str
    label: str


@dataclass(frozen=True)
class SeriesLine:
    """A series in the list of a dataset's series; ``thumbnail`` is an address or empty."""

    id: int
    title: str
    directory: str
    modality: str
    stand: Stand
    thumbnail: str


@dataclass(frozen=True)
class ShownFact:
    """A parameter as it is read, with its unit."""

    label: str
    text: str

    @property
    def is_long(self) -> bool:
        return len(self.text) > LONG


@dataclass(frozen=True)
class Download:
    """A file that came of a series.

    Attributes:
        size: bytes.
        url: MyTARDIS's own address for it; empty if it is not to be had.
        why_not: why it is not, in words; empty if it is.
        sha512: in hexadecimal.
        made_by: converter, filter and options, in words; empty for the archive itself.
    """

    kind: str
    filename: str
    size: int
    url: str
    why_not: str
    sha512: str
    made_by: str


@dataclass(frozen=True)
class Conversion:
    """What one filter made of the newest archive; ``reasons`` say why it did not, or not all.

    Attributes:
        commands: the programs that it ran, with their arguments.
        cost: time and memory in words; empty if it was not run.
    """

    title: str
    stand: Stand
    reasons: tuple[str, ...]
    converter: str
    version: str
    outputs: int
    commands: tuple[str, ...]
    cost: str


@dataclass(frozen=True)
class Volume:
    """An image that the viewer can open; ``doubtful`` if its conversion was partial."""

    label: str
    filename: str
    size: int
    url: str
    doubtful: bool


@dataclass(frozen=True)
class Picture:
    """A PNG of the series; ``view_url`` opens it by itself and may be empty."""

    url: str
    view_url: str


@dataclass(frozen=True)
class Version:
    """An archive that late instances have superseded, and what was made of it."""

    number: int
    created: datetime
    downloads: tuple[Download, ...]


@dataclass(frozen=True)
class ChosenSeries:
    """The one series that is shown in full.

    Attributes:
        version, instances, archived: of its newest archive; 0 and None if it has none, or none that the visitor
            may know of.
        notes: what somebody who uses the files must know.
        reason: why it stands as it does, for staff only: ingest's words may name other people's titles.
        report: what de-identification did with each attribute, for staff only.
        citation: where each file that the visitor may have came from, to be copied.
        experiments: those of the dataset that the visitor may see, each usually one participant's.
    """

    line: SeriesLine
    uid: str
    version: int
    instances: int
    archived: datetime | None
    notes: tuple[str, ...]
    reason: str
    report: tuple[Mapping[str, object], ...]
    facts: tuple[ShownFact, ...]
    conversions: tuple[Conversion, ...]
    volumes: tuple[Volume, ...]
    picture: Picture | None
    downloads: tuple[Download, ...]
    older: tuple[Version, ...]
    citation: str
    experiments: tuple[ExperimentTitle, ...]


@dataclass(frozen=True)
class DatasetPage:
    """All series of a dataset in lines, and one of them in full; ``summary`` counts how they stand."""

    lines: tuple[SeriesLine, ...]
    summary: tuple[tuple[Stand, int], ...]
    chosen: ChosenSeries | None
    may_download: bool


def gather(request: HttpRequest, dataset_id: int, wanted: str, may_download: bool) -> DatasetPage:
    """What the page of a dataset shows to ``request.user``, who may see it.

    Args:
        wanted: id of the series to show in full; anything else is the first of the dataset.
        may_download: what MyTARDIS says of the dataset as a whole.
    """
    found = list(Series.objects.filter(dataset_key__dataset=dataset_id).order_by("directory", "pk"))
    pictured = thumbnails(request, dataset_id) if may_download and len(found) > 1 else {}
    lines = tuple(
        SeriesLine(
            id=series.pk,
            title=series.description or series.directory,
            directory=series.directory,
            modality=series.modality,
            stand=Stand(series.state, series.get_state_display()),
            thumbnail=pictured.get(series.pk, ""),
        )
        for series in found
    )
    chosen = None
    if found:
        index = next((i for i, series in enumerate(found) if str(series.pk) == wanted), 0)
        chosen = _chosen(request, dataset_id, found[index], lines[index])
    return DatasetPage(
        lines=lines,
        summary=tuple(Counter(line.stand for line in lines).most_common()),
        chosen=chosen,
        may_download=may_download,
    )


def outputs_of(dataset_id: int):  # noqa: ANN201 (a queryset)
    """Ids of all files that filters made in a dataset, for use within another query."""
    return FilterOutput.objects.filter(run__archive__series__dataset_key__dataset=dataset_id).values(
        "datafile"
    )


def pictured(series_ids: Collection[int]) -> set[int]:
    """Those series of which there is a picture, for whoever may see it."""
    found = FilterOutput.objects.filter(
        kind__in=_shown_as(Shown.PICTURE), run__archive__series__in=series_ids
    )
    return set(found.order_by().values_list("run__archive__series", flat=True))


def thumbnails(
    request: HttpRequest, dataset_id: int, series_ids: Collection[int] | None = None
) -> dict[int, str]:
    """Address of a picture of each series: the newest that is verified and that the visitor may see and download.

    Args:
        series_ids: of these only; None is all of the dataset.
    """
    pictures = FilterOutput.objects.filter(
        kind__in=_shown_as(Shown.PICTURE), run__archive__series__dataset_key__dataset=dataset_id
    )
    if series_ids is not None:
        pictures = pictures.filter(run__archive__series__in=series_ids, datafile__dataset=dataset_id)
    verified = verified_datafiles(pictures.order_by().values("datafile"))
    tardis = mytardis()
    viewable = tardis.viewable_datafiles(request, dataset_id, verified)
    allowed = tardis.downloadable_datafiles(request, dataset_id, viewable)
    newest = {
        series_id: datafile_id
        for series_id, datafile_id in pictures.order_by("run__archive__version").values_list(
            "run__archive__series", "datafile"
        )
        if datafile_id in allowed
    }
    return {series_id: thumbnail_url(datafile_id, *THUMBNAIL) for series_id, datafile_id in newest.items()}


def _chosen(request: HttpRequest, dataset_id: int, series: Series, line: SeriesLine) -> ChosenSeries:
    # What lies in a dataset that the series had before may be what is not to be shown any more.
    here = series.archives.filter(datafile__dataset=dataset_id)
    archives = list(here.order_by("-version").prefetch_related("runs__outputs"))
    newest = archives[0] if archives else None
    runs = list(newest.runs.all()) if newest else []
    files = _Files(request, dataset_id, archives)
    shown = newest if newest and files.shows(newest.datafile_id) else None
    downloads = files.downloads(newest) if newest else ()
    # The list that they lead to is for people who are signed in.
    visible = mytardis().visible_experiments(request.user) if request.user.is_authenticated else None
    titles = experiments_of([dataset_id], visible) if visible is not None else {}
    return ChosenSeries(
        line=line,
        uid=series.public_uid,
        version=shown.version if shown else 0,
        instances=shown.instance_count if shown else 0,
        archived=shown.created if shown else None,
        notes=(*_notes(series), *_notes_of_copies(request, series, newest)),
        reason=series.reason if request.user.is_staff and series.state in _UNFINISHED_SERIES else "",
        report=tuple(shown.report) if shown and request.user.is_staff else (),
        facts=_facts(request, dataset_id, series.public_uid),
        conversions=_conversions(runs, files, request.user.is_staff),
        volumes=tuple(_volumes(runs, files, series.directory)),
        picture=next(_pictures(runs, files), None),
        downloads=downloads,
        older=tuple(
            Version(archive.version, archive.created, downloads)
            for archive in archives[1:]
            if (downloads := files.downloads(archive))
        ),
        citation=_citation(request, dataset_id, series, shown, downloads) if shown else "",
        experiments=tuple(titles.get(dataset_id, ())),
    )


def _citation(
    request: HttpRequest, dataset_id: int, series: Series, archive: Archive, downloads: tuple[Download, ...]
) -> str:
    """Where the files came from: series, version and checksum of its archive, converter and options."""
    page = reverse("tardis_portal.view_dataset", kwargs={"dataset_id": dataset_id})
    lines = [
        f"{series.description or series.directory}, SeriesInstanceUID {series.public_uid}",
        f"archive version {archive.version} of {date_format(localtime(archive.created), 'j M Y')}, "
        f"{archive.instance_count} instance{'s' if archive.instance_count != 1 else ''}, SHA-512 {archive.sha512}",
        *([f"de-identified: {archive.profile}"] if archive.profile else []),
        f"ImageTrove {__version__}, {request.build_absolute_uri(page)}?series={series.pk}",
    ]
    for one in downloads:
        if one.url:
            lines += [
                "",
                one.filename,
                *([f"  {one.made_by}"] if one.made_by else []),
                f"  SHA-512 {one.sha512}",
            ]
    return "\n".join(lines)


class _Files:
    """The files of a series' archives, with what the visitor may do with each."""

    def __init__(self, request: HttpRequest, dataset_id: int, archives: list[Archive]) -> None:
        ids = [datafile_id for archive in archives for _, datafile_id in _made(archive)]
        tardis = mytardis()
        viewable = tardis.viewable_datafiles(request, dataset_id, ids)
        self._files = {pk: file for pk, file in stored_files(ids).items() if pk in viewable}
        self._allowed = tardis.downloadable_datafiles(request, dataset_id, viewable)
        self._ranks = {
            kind: rank for rank, kind in enumerate((DICOM, *_ARCHIVES.values(), *registry.kinds()))
        }

    def shows(self, datafile_id: int) -> bool:
        """Whether the visitor may know of the file."""
        return datafile_id in self._files

    def to_have(self, datafile_id: int) -> StoredFile | None:
        """The file, if it is there and the visitor may download it."""
        file = self._files.get(datafile_id)
        return file if file and file.verified and file.id in self._allowed else None

    def downloads(self, archive: Archive) -> tuple[Download, ...]:
        """An archive and what was made of it, by kind."""
        runs = {output.datafile_id: run for run in archive.runs.all() for output in run.outputs.all()}
        found = [
            self._download(kind, self._files[datafile_id], runs.get(datafile_id))
            for kind, datafile_id in _made(archive)
            if datafile_id in self._files
        ]
        last = len(self._ranks)
        return tuple(
            sorted(found, key=lambda item: (self._ranks.get(item.kind, last), item.kind, item.filename))
        )

    def _download(self, kind: str, file: StoredFile, run: FilterRun | None) -> Download:
        why_not = ""
        if file.id not in self._allowed:
            why_not = "not yours to download"
        elif not file.verified:
            why_not = "not verified yet"
        url = "" if why_not else file.download_url
        return Download(
            kind, file.filename, file.size, url, why_not, file.sha512, _made_by(run) if run else ""
        )


def _made(archive: Archive) -> Iterator[tuple[str, int]]:
    """Kind and DataFile of the archive itself and of all that came of it."""
    name = archive.datafile.filename
    yield (
        next((kind for end, kind in _ARCHIVES.items() if name.endswith(f"_{end}.zip")), DICOM),
        archive.datafile_id,
    )
    for run in archive.runs.all():
        for output in run.outputs.all():
            yield output.kind, output.datafile_id


def _made_by(run: FilterRun) -> str:
    options = f", options {json.dumps(run.options, sort_keys=True)}" if run.options else ""
    return f"made by {run.converter or 'ImageTrove'}, filter {run.filter} {run.filter_version}{options}"


def _notes(series: Series) -> Iterator[str]:
    if series.state in _UNFINISHED_SERIES:
        yield _UNFINISHED_SERIES[series.state]
    if series.left_out:
        yield f"Some files could not be read and are not in the archive: {render(series.left_out)}"
    conflicts = (
        Instance.objects.filter(series=series, conflict=True).values("sop_instance_uid").distinct().count()
    )
    if conflicts:
        yield (
            f"{conflicts} instance{'s' if conflicts > 1 else ''} came more than once with different contents;"
            " all of them are in the archive."
        )


def _notes_of_copies(request: HttpRequest, series: Series, archive: Archive | None) -> Iterator[str]:
    """What must be known of de-identified copies; where the originals are, to those who may see them."""
    if archive is None or not archive.profile:
        return
    yield f"The files are de-identified copies ({archive.profile})."
    if archive.losses:
        yield f"De-identification removed {'; '.join(archive.losses)}."
    key = series.originals_key
    if key is not None and mytardis().may_view_dataset(request, key.dataset_id):
        yield f"The originals are in dataset {key.dataset_id}, which only the owner may see."


def _facts(request: HttpRequest, dataset_id: int, series_uid: str) -> tuple[ShownFact, ...]:
    sensitive = mytardis().may_see_sensitive(request, dataset_id)
    facts = dataset_facts(dataset_id, "SeriesInstanceUID", series_uid, sensitive)
    # What tells the series apart says nothing of the acquisition, and comes last.
    facts = sorted(facts, key=lambda fact: (fact.name == "SeriesInstanceUID", reading_place(fact.name)))
    return tuple(shown(fact) for fact in facts if fact.name not in SAID_ALREADY)


def shown(fact: Fact) -> ShownFact:
    """A parameter as it is read: no trailing zeros, signs in place of spelt units, dates in the site's zone."""
    if isinstance(fact.value, float):
        text = f"{fact.value:.10g}"
    elif isinstance(fact.value, datetime):
        moment = localtime(fact.value) if is_aware(fact.value) else fact.value
        text = date_format(moment, "j M Y, H:i")
    else:
        text = fact.value
    if fact.units == "deg":
        return ShownFact(fact.label, f"{text}°")
    return ShownFact(fact.label, f"{text} {fact.units.replace('^2', '²')}".strip())


def _conversions(runs: list[FilterRun], files: _Files, staff: bool) -> tuple[Conversion, ...]:
    """The runs in their filters' order; why one waits is staff's business: it may name a storage box."""
    titles, order = _filters()
    told: dict[str, str] = {}
    return tuple(
        Conversion(
            title=titles.get(run.filter, run.filter),
            stand=Stand(run.state, run.get_state_display()),
            reasons=tuple(_told_once(run, titles.get(run.filter, run.filter), told))
            if staff or run.state not in FilterRun.UNFINISHED
            else (),
            converter=run.converter,
            version=run.filter_version,
            outputs=sum(files.shows(output.datafile_id) for output in run.outputs.all()),
            commands=tuple(shlex.join(program["arguments"]) for program in run.programs),
            cost=_cost(run),
        )
        for run in sorted(runs, key=lambda run: order.get(run.filter, len(order)))
    )


def _told_once(run: FilterRun, title: str, told: dict[str, str]) -> Iterator[str]:
    """Why a run ended as it did; words that an earlier one has are not repeated.

    Args:
        told: titles of the runs that have said it, by the words; added to.
    """
    earlier = {}
    for reason in run.why:
        words = f"Note: {reason}" if reason.code == NOTE else str(reason)
        if words in told:
            earlier[told[words]] = None
        else:
            told[words] = title
            yield words
    if earlier:
        yield f"See also {', '.join(earlier)}."


def _cost(run: FilterRun) -> str:
    if run.seconds is None or run.memory_mib is None:
        return ""
    return f"{run.seconds:.1f} s, {run.memory_mib:.0f} MiB"


def _filters() -> tuple[dict[str, str], dict[str, int]]:
    """Titles of this site's filters, and their order; a mistake in the setting is told by a check."""
    try:
        filters = registry.load()
    except PermanentError:
        return {}, {}
    return {name: kind.title for name, kind in filters.items()}, {n: i for i, n in enumerate(filters)}


def _volumes(runs: list[FilterRun], files: _Files, directory: str) -> Iterator[Volume]:
    shown = _shown_as(Shown.VOLUME)
    found = [
        (file, run.state == FilterRun.State.PARTIAL)
        for run in runs
        for output in run.outputs.all()
        if output.kind in shown and (file := files.to_have(output.datafile_id))
    ]
    for file, doubtful in sorted(found, key=lambda item: item[0].filename):
        label = file.filename.removeprefix(directory).removesuffix(".nii.gz").strip("_") or "the series"
        yield Volume(label, file.filename, file.size, file.download_url, doubtful)


def _shown_as(shown: Shown) -> frozenset[str]:
    """Names of the kinds of files that the page shows in a way."""
    return frozenset(kind for kind, makes in registry.kinds().items() if makes.shown_as is shown)


def _pictures(runs: list[FilterRun], files: _Files) -> Iterator[Picture]:
    shown = _shown_as(Shown.PICTURE)
    for run in runs:
        for output in run.outputs.all():
            if output.kind in shown and (file := files.to_have(output.datafile_id)):
                yield Picture(file.download_url, file.view_url)
