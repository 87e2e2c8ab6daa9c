"""Which filters are to be run, or run again, on series that are archived already, and marking them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from django.db import transaction
from django.db.models import QuerySet

from ..ingest.states import requeue
from ..models import Archive, FilterRun
from ..reasons import render

_CHUNK = 200
"""Archives, or runs, that one query and one transaction are about."""


@dataclass(frozen=True)
class Marked:
    """What became of a number of series.

    Attributes:
        runs: ids of the runs that are to be queued, earlier ones that have not ended yet among them.
        series: ids of the series that these are of.
        up_to_date: number of runs left as they are: of the same input, by the same version.
        not_listed: names of instruments, each with the filters that were asked for and that its
            configuration does not list.
    """

    runs: tuple[int, ...]
    series: tuple[int, ...]
    up_to_date: int
    not_listed: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Stand:
    """How a run stands."""

    id: int
    series_uid: str
    filter: str
    state: FilterRun.State
    reason: str

    @property
    def ended(self) -> bool:
        return self.state not in FilterRun.UNFINISHED


@dataclass(frozen=True)
class Current:
    """A filter as it is now: its version, and its options as the site has set them."""

    version: str
    options: Mapping[str, object] = field(default_factory=dict)


def is_due(run: FilterRun, current: Current, force: bool) -> bool:
    """Whether a run that has ended is to be done again: its archive is the same as ever.

    Args:
        force: even if nothing would come out differently.
    """
    same = (run.filter_version, run.options) == (current.version, dict(current.options))
    return force or run.state == FilterRun.State.FAILED or not same


def mark(
    archives: QuerySet[Archive],
    versions: Mapping[str, Current],
    wanted: Collection[str],
    force: bool,
    by: str = "",
) -> Marked:
    """Have filters run on archives, where they have not yet done so or have to again.

    It marks them in the database, so that they go on whatever becomes of the caller, and queues
    nothing. A run that has not ended is left as it is. An instrument's list of filters holds here too.

    Args:
        archives: of :func:`~tardis_imagetrove.ingest.states.newest_archives`.
        versions: all filters as they are now, by name.
        wanted: names of filters, which are in ``versions``; empty for all.
        by: who asks.
    """
    runs: list[int] = []
    series: list[int] = []
    up_to_date = 0
    not_listed: dict[str, tuple[str, ...]] = {}
    for chunk in _chunks(archives.order_by("pk").values_list("pk", flat=True)):
        with transaction.atomic():
            wanted_of: dict[int, set[str]] = {}
            series_of: dict[int, int] = {}
            for archive in Archive.objects.filter(pk__in=chunk).select_related("series__configuration"):
                configuration = archive.series.configuration
                listed = (configuration and configuration.filters) or versions
                if unlisted := tuple(name for name in wanted if name not in listed):
                    not_listed[str(configuration)] = unlisted
                wanted_of[archive.pk] = {
                    name for name in versions if name in (wanted or versions) and name in listed
                }
                series_of[archive.pk] = archive.series_id
            found, same = _mark_archives(wanted_of, versions, force, by)
            up_to_date += same
            runs += [run for run, _ in found]
            series += dict.fromkeys(series_of[archive] for _, archive in found)
    return Marked(tuple(runs), tuple(series), up_to_date, tuple(sorted(not_listed.items())))


def _mark_archives(
    wanted: Mapping[int, set[str]], versions: Mapping[str, Current], force: bool, by: str
) -> tuple[list[tuple[int, int]], int]:
    """Runs to be queued, each with its archive, and the number of those that are up to date.

    Args:
        wanted: names of filters by archive.
    """

    def known():  # noqa: ANN202 (a queryset)
        return FilterRun.objects.filter(archive__in=list(wanted)).order_by("archive", "pk")

    there = set(known().values_list("archive", "filter"))
    FilterRun.objects.bulk_create(
        (
            FilterRun(archive_id=archive, filter=name)
            for archive, names in wanted.items()
            for name in versions  # in their order
            if name in names and (archive, name) not in there
        ),
        ignore_conflicts=True,  # of another who marks at the same time
    )
    found, up_to_date = [], 0
    again: list[int] = []
    for run in known():
        if run.filter not in wanted[run.archive_id]:
            continue
        if run.state in FilterRun.UNFINISHED:
            found.append((run.pk, run.archive_id))
        elif is_due(run, versions[run.filter], force):
            again.append(run.pk)
            found.append((run.pk, run.archive_id))
        else:
            up_to_date += 1
    requeue(again, by, follow=False)
    return found, up_to_date


def stands(run_ids: Iterable[int]) -> Iterator[Stand]:
    """How runs stand; those that are gone, with their series, are left out."""
    for chunk in _chunks(run_ids):
        rows = FilterRun.objects.filter(pk__in=chunk).values_list(
            "pk", "archive__series__series_uid", "filter", "state", "reasons"
        )
        for pk, series_uid, name, state, reasons in rows:
            yield Stand(pk, series_uid, name, FilterRun.State(state), render(reasons))


def _chunks(ids: Iterable[int]) -> Iterator[list[int]]:
    everything = list(ids)
    for start in range(0, len(everything), _CHUNK):
        yield everything[start : start + _CHUNK]
