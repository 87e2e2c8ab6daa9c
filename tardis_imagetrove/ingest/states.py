"""The states of series and filter runs: the only module that assigns them.

Each change writes one :class:`~tardis_imagetrove.models.Event`, in the same transaction. Every
update is conditional on the state that the caller saw: of two workers, one makes the change and
the other learns that it did not. :data:`SERIES_TRANSITIONS` and :data:`RUN_TRANSITIONS` hold the
changes that are allowed; docs/states.md prints them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from django.db import DatabaseError, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from ..models import LOST_ATTEMPTS, NOTE, Archive, Event, FilterRun, Series
from ..reasons import Reason, as_json, from_json, render

log = logging.getLogger(__name__)

S, R = Series.State, FilterRun.State

_RESULTS = frozenset({S.CONVERTING, S.DONE, S.PARTIAL})
_TROUBLE = frozenset({S.WAITING, S.HELD})
_STARTED = frozenset({S.QUEUED, S.INGESTING})

SERIES_TRANSITIONS: Mapping[str, frozenset[str]] = {
    S.RECEIVING: _STARTED | _TROUBLE | {S.DISCARDED} | _RESULTS,
    S.QUEUED: {S.INGESTING, S.DISCARDED} | _TROUBLE | _RESULTS,
    S.INGESTING: {S.QUEUED} | _TROUBLE | _RESULTS,
    S.WAITING: _STARTED | {S.HELD, S.DISCARDED} | _RESULTS,
    S.HELD: _STARTED | {S.WAITING, S.DISCARDED} | _RESULTS,
    # Late instances bring an archived series back to the first states.
    S.CONVERTING: _STARTED | _TROUBLE | {S.DONE, S.PARTIAL},
    S.DONE: _STARTED | _TROUBLE | {S.CONVERTING, S.PARTIAL},
    S.PARTIAL: _STARTED | _TROUBLE | {S.CONVERTING, S.DONE},
    S.DISCARDED: {S.RECEIVING} | _STARTED | _TROUBLE,
}
"""The states that each state of a series may change to."""

_ENDED = frozenset({R.DONE, R.PARTIAL, R.SKIPPED, R.FAILED})

RUN_TRANSITIONS: Mapping[str, frozenset[str]] = {
    R.QUEUED: frozenset({R.RUNNING, R.SKIPPED}),
    R.RUNNING: _ENDED | {R.WAITING, R.QUEUED},
    R.WAITING: frozenset({R.QUEUED, R.SKIPPED}),
    **dict.fromkeys(_ENDED, frozenset({R.QUEUED})),
}
"""The states that each state of a filter run may change to."""

IN_SPOOL = (S.RECEIVING, S.QUEUED, S.INGESTING, S.WAITING, S.HELD)
"""States of a series that has files in the spool; the end of a filter run does not change them."""

_CHUNK = 200
_TRIES = 5


# Series


def received(series_uid: str) -> Series:
    """The series' row, made when its first instance is seen in the spool."""
    with transaction.atomic():
        series, new = Series.objects.get_or_create(series_uid=series_uid)
        if new:
            Event.objects.create(series=series, kind="received")
    return series


def queued(series_uid: str, by: str = "", seen: str | None = None, reason: Reason | None = None) -> bool:
    """A worker is asked to archive the series.

    Call it before the message goes to the broker: a worker may be finished a moment after.

    Args:
        seen: change this state only; by default, those of series that wait in the spool.
    """
    wanted = {S.RECEIVING, S.WAITING, S.HELD, S.DISCARDED} if seen is None else {seen}
    return _move(received(series_uid), S.QUEUED, [reason] if reason else [], by=by, seen=wanted)


def begin_ingest(series: Series) -> None:
    """A worker archives the series."""
    _move(series, S.INGESTING)
    series.state, series.reasons, series.reason_code = S.INGESTING, [], ""


def hold(series_uid: str, *reasons: Reason, by: str = "") -> None:
    """Keep the series in the spool until a person acts, or more of it or another configuration arrives."""
    _stop(series_uid, S.HELD, reasons, by)


def wait(series_uid: str, *reasons: Reason, by: str = "") -> None:
    """Keep the series in the spool; the watcher retries it."""
    _stop(series_uid, S.WAITING, reasons, by)


def _stop(series_uid: str, state: S, reasons: Iterable[Reason], by: str) -> None:
    reasons = list(reasons)
    log.warning("series %s: %s: %s", series_uid, state.value, render(reasons))
    try:
        _move(received(series_uid), state, reasons, by=by)
    except DatabaseError as error:
        log.warning("series %s: its state cannot be recorded: %s", series_uid, error)


def archived(series: Series, archive: Archive) -> None:
    """Record a new archive; its filter runs are queued. The state follows by :func:`refresh`."""
    count = archive.instance_count
    text = f"version {archive.version}, {count} instance{'s' if count != 1 else ''}"
    Event.objects.create(series=series, kind="archived", reasons=as_json([Reason("archived", text)]))


def discarded(series: Series, *reasons: Reason, by: str) -> bool:
    """Nothing of the series is in the spool any more because a person moved it to the trash.

    A series with an archive goes back to the state of that archive.
    """
    if series.archives.exists():
        Event.objects.create(series=series, kind="discarded", by=by, reasons=as_json(reasons))
        Series.objects.filter(pk=series.pk).update(left_out=[])
        refresh(series.pk, ingested=True, by=by)
        return True
    return _move(series, S.DISCARDED, reasons, by=by)


def restored(series: Series, *reasons: Reason, by: str) -> None:
    """Files of the series are back in the spool."""
    if not _move(series, S.RECEIVING, by=by, seen={S.DISCARDED}, kind="restored", told=reasons):
        Event.objects.create(series=series, kind="restored", by=by, reasons=as_json(reasons))


def acted(series: Series, kind: str, *reasons: Reason, by: str) -> None:
    """Record a person's action that changes no state by itself."""
    Event.objects.create(series=series, kind=kind, by=by, reasons=as_json(reasons))


def _move(
    series: Series,
    to: str,
    reasons: Iterable[Reason] = (),
    *,
    by: str = "",
    seen: Iterable[str] | None = None,
    kind: str = "",
    told: Iterable[Reason] = (),
) -> bool:
    """Change the state and reasons of a series; whether it has them now.

    Args:
        seen: the states that may be changed; by default all that the table allows.
        kind: of the event; by default the new state.
        told: reasons of the event alone.
    """
    stored = as_json(reasons)
    for _ in range(_TRIES):
        row = Series.objects.filter(pk=series.pk).values_list("state", "reasons").first()
        if row is None:
            return False
        state, before = row
        if seen is not None and state not in seen:
            return False
        if state == to and before == stored:
            return True
        if state != to and to not in SERIES_TRANSITIONS[state]:
            log.warning("series %s: %s cannot become %s", series.series_uid, state, to)
            return False
        with transaction.atomic():
            # Only as it was seen: another worker may have changed it since.
            same = Series.objects.filter(pk=series.pk, state=state)
            if same.update(
                state=to,
                reasons=stored,
                reason_code=stored[0]["code"][:32] if stored else "",
                modified=timezone.now(),
            ):
                reasons_told = stored or as_json(told)
                Event.objects.create(series_id=series.pk, kind=kind or to, by=by, reasons=reasons_told)
                return True
    return False


def refresh(series_id: int, ingested: bool = False, by: str = "") -> None:
    """Let the series' state follow from the filter runs of its newest archive.

    Args:
        ingested: nothing of it waits in the spool; otherwise a state that is about the spool stays.
    """
    with transaction.atomic():
        # Locked before the runs are read: of two runs that end at once, the last one's view counts.
        series = Series.objects.select_for_update().get(pk=series_id)
        if series.state in IN_SPOOL and not ingested:
            return
        archive = series.archives.order_by("-version").first()
        if archive is None:
            if series.state == S.QUEUED:
                missing = Reason(
                    "no-files", "the spool has no files of it; discard the series if they were removed"
                )
                _move(series, S.HELD, [missing])
            return
        runs = list(archive.runs.all())
        reasons = [*_of_runs(runs), *_of_archive(series, archive)]
        if any(run.state in FilterRun.UNFINISHED for run in runs):
            state = S.CONVERTING
        else:
            state = S.PARTIAL if reasons else S.DONE
        _move(series, state, reasons, by=by)


def _of_runs(runs: Iterable[FilterRun]) -> Iterator[Reason]:
    for run in runs:
        if run.state in (R.FAILED, R.PARTIAL, R.WAITING):
            told = [reason for reason in run.why if reason.code != NOTE]
            for reason in told or (Reason(f"filter-{run.state}", run.get_state_display().lower()),):
                yield Reason(reason.code, reason.text, run.filter)


def _of_archive(series: Series, archive: Archive) -> Iterator[Reason]:
    conflicts = archive.instances.filter(conflict=True).values("sop_instance_uid").distinct().count()
    if conflicts:
        yield Reason(
            "conflict",
            f"{conflicts} SOPInstanceUID{'s' if conflicts > 1 else ''} came with different contents; all are kept",
        )
    for reason in from_json(series.left_out):
        yield Reason(reason.code, reason.text, "left in the spool")
    for loss in archive.losses:
        yield Reason("de-identification-loss", f"de-identification removed {loss}")


# Filter runs


def newest_archives() -> QuerySet[Archive]:
    """The newest archive of each series, unless its experiment was deleted and nobody can see it."""
    newer = Archive.objects.filter(series=OuterRef("series"), version__gt=OuterRef("version"))
    here = Archive.objects.filter(datafile__dataset=F("series__dataset_key__dataset"))
    return here.filter(~Exists(newer))


def claim(run_id: int) -> bool:
    """Take a queued run; of several workers one gets it."""
    return _change(run_id, R.QUEUED, R.RUNNING, attempts=F("attempts") + 1, beat=F("beat") + 1)


def finish(run: FilterRun, state: str, reasons: Iterable[Reason], **record: object) -> bool:
    """Record the end of an attempt; False if another worker has taken the run over meanwhile.

    Args:
        record: further fields of the run.
    """
    return _change(run.pk, R.RUNNING, state, reasons, only=Q(attempts=run.attempts), **record)


def requeue(runs: Iterable[int], by: str = "", seen: Q | None = None, follow: bool = True) -> list[int]:
    """Mark runs to be done again; returns the ids of those that were marked.

    Runs that are queued or running stay as they are. Runs of a superseded archive are refused,
    and those of them that wait are skipped.

    Args:
        runs: ids.
        seen: further conditions that must hold when the run is marked.
        follow: refresh the states of their series too; otherwise the caller does.
    """
    marked: list[int] = []
    for chunk in _chunks(runs):
        current = set(
            FilterRun.objects.filter(pk__in=chunk, archive__in=newest_archives()).values_list("pk", flat=True)
        )
        series: dict[int, None] = {}
        with transaction.atomic():
            found = FilterRun.objects.filter(seen or Q(), pk__in=chunk).order_by("pk")
            found = found.exclude(state__in=(R.QUEUED, R.RUNNING)).select_for_update(of=("self",))
            rows = [row for row in found.values_list("pk", "state", "filter", "archive__series")]
            events = []
            for pk, state, name, series_id in rows:
                if pk in current:
                    events.append(
                        Event(series_id=series_id, run_id=pk, subject=name, kind=f"run-{R.QUEUED}", by=by)
                    )
                    marked.append(pk)
                    series[series_id] = None
                elif state == R.WAITING:
                    _change(pk, state, R.SKIPPED, [_SUPERSEDED], by=by)
            # The rows are locked, so they still are as they were read.
            FilterRun.objects.filter(pk__in=[event.run_id for event in events]).update(
                state=R.QUEUED, reasons=[], beat=F("beat") + 1, modified=timezone.now()
            )
            Event.objects.bulk_create(events)
        for series_id in series if follow else ():
            refresh(series_id, by=by)
    return marked


_SUPERSEDED = Reason("superseded", "a newer archive has replaced its input")


def take_back(run_id: int, state: str, attempts: int, beat: int, lost: int) -> str | None:
    """Queue a run again that no worker has picked up, or whose worker died.

    Args:
        state, attempts, beat, lost: as the caller saw them; a run that has changed since is left alone.

    Returns:
        The run's new state: queued, or failed if its workers died :data:`LOST_ATTEMPTS` times in a
        row; None if it was left alone.
    """
    same = Q(attempts=attempts, beat=beat)
    if state == R.QUEUED:
        idle = Reason("no-worker", "no worker has picked it up; requeued")
        return (
            R.QUEUED if _change(run_id, R.QUEUED, R.QUEUED, [idle], only=same, beat=F("beat") + 1) else None
        )
    lost += 1
    if lost >= LOST_ATTEMPTS:
        dead = Reason("worker-lost", f"the worker died {lost} times in a row")
        if not _change(run_id, R.RUNNING, R.FAILED, [dead], only=same, lost=lost):
            return None
        refresh(FilterRun.objects.values_list("archive__series", flat=True).get(pk=run_id))
        return R.FAILED
    dead = Reason("worker-lost", "the worker died; requeued")
    taken = _change(run_id, R.RUNNING, R.QUEUED, [dead], only=same, beat=F("beat") + 1, lost=lost)
    return R.QUEUED if taken else None


def not_handed_over(run_id: int, reason: Reason) -> None:
    """A queued run could not be given to the broker; the watcher retries it."""
    _change(run_id, R.QUEUED, R.QUEUED, [reason])


def skip(runs: QuerySet[FilterRun], reason: Reason, by: str = "", running: bool = False) -> None:
    """End runs before their turn.

    Args:
        running: also those that a worker is at, which will then record nothing.
    """
    states = (R.QUEUED, R.WAITING, R.RUNNING) if running else (R.QUEUED, R.WAITING)
    for pk, state in runs.filter(state__in=states).values_list("pk", "state"):
        _change(pk, state, R.SKIPPED, [reason], by=by)


def _change(
    run_id: int,
    seen: str,
    to: str,
    reasons: Iterable[Reason] = (),
    *,
    only: Q | None = None,
    by: str = "",
    **fields: object,
) -> bool:
    """Change one run from the state ``seen``, with its event; False if it is not as it was seen.

    Args:
        only: further conditions that must hold.
        fields: other fields to set.
    """
    if to != seen and to not in RUN_TRANSITIONS[seen]:
        raise ValueError(f"a filter run cannot change from {seen} to {to}")
    stored = as_json(reasons)
    with transaction.atomic():
        same = FilterRun.objects.filter(only or Q(), pk=run_id, state=seen)
        # Without a transition there is an event only if the reasons are new.
        before = same.values_list("reasons", flat=True).first() if to == seen else None
        if not same.update(state=to, reasons=stored, modified=timezone.now(), **fields):
            return False
        if to != seen or before != stored:
            series_id, name = FilterRun.objects.values_list("archive__series", "filter").get(pk=run_id)
            Event.objects.create(
                series_id=series_id, run_id=run_id, subject=name, kind=f"run-{to}", by=by, reasons=stored
            )
    return True


def _chunks(ids: Iterable[int]) -> Iterator[list[int]]:
    everything = list(ids)
    for start in range(0, len(everything), _CHUNK):
        yield everything[start : start + _CHUNK]
