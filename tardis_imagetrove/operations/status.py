"""How the site stands: what waits in the spool, what is held, what has failed; asked, never changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import DatabaseError
from django.db.models import Count, Exists, OuterRef

from ..errors import ImageTroveError
from ..models import Archive, FilterRun, Series
from ..reasons import render
from ..scp import is_promiscuous
from ..scp.pending import PendingCommitments
from ..senders import configured_senders, instruments_without_senders
from ..spool import Spool

#: States that somebody may want to look at, in the order in which they are listed.
ATTENTION = (Series.State.HELD, Series.State.WAITING)


@dataclass(frozen=True)
class SpoolStatus:
    """What was received and is not archived yet.

    Attributes:
        bytes: of the files.
        free_bytes: what receiving may still use of the disk, without its reserve.
        oldest_series: of the file that waits the longest; empty when none waits.
        oldest_since: when that file came, in seconds since 1970; only for showing.
        problem: why the spool could not be looked at; empty if it could.
    """

    folder: str
    series: int = 0
    files: int = 0
    bytes: int = 0
    free_bytes: int = 0
    oldest_series: str = ""
    oldest_since: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class AdmissionStatus:
    """Who may store.

    Attributes:
        promiscuous: a receiver of this spool runs now that lets everybody in.
        senders: how many are configured for enabled instruments; None with the database away.
        without_senders: enabled instruments that have none of their own.
        commitments_waiting: storage commitment requests not reported yet.
    """

    promiscuous: bool
    senders: int | None
    without_senders: tuple[str, ...]
    commitments_waiting: int


@dataclass(frozen=True)
class SeriesStatus:
    """One series, and why it stands as it does."""

    series_uid: str
    description: str
    state: str
    reason: str


@dataclass(frozen=True)
class FailedRun:
    """A filter that failed on the newest archive of a series."""

    series_uid: str
    description: str
    filter: str
    reason: str


@dataclass(frozen=True)
class Records:
    """What the database knows.

    Attributes:
        series: number of series by state, and so ``filter_runs`` (of newest archives).
        listed: the series that were asked for.
    """

    series: dict[str, int]
    filter_runs: dict[str, int]
    listed: tuple[SeriesStatus, ...]
    failed: tuple[FailedRun, ...]


def look_at_spool(spool: Spool) -> SpoolStatus:
    """What waits in the spool; trouble ends up in the answer."""
    folder = str(spool.root)
    series = files = size = 0
    oldest: tuple[float, str] | None = None
    try:
        free = spool.free_bytes()
        if not spool.root.is_dir():
            return SpoolStatus(folder, problem=f"{folder} is not a folder")
        for uid in spool.series_uids() if spool.series_root.exists() else ():
            waiting = 0
            for file in spool.files(uid):
                with contextlib.suppress(FileNotFoundError):  # archived meanwhile
                    about = file.path.stat()
                    waiting += 1
                    size += about.st_size
                    oldest = min(oldest or (about.st_mtime, uid), (about.st_mtime, uid))
            series += bool(waiting)
            files += waiting
    except (ImageTroveError, OSError) as error:
        return SpoolStatus(folder, problem=str(error))
    since, uid = oldest or (0.0, "")
    return SpoolStatus(folder, series, files, size, free, uid, since)


def look_at_admission(spool: Spool) -> AdmissionStatus:
    """Who may store, as far as it can be told."""
    commitments, senders, without = 0, None, ()
    with contextlib.suppress(ImageTroveError):
        commitments = len(PendingCommitments(spool).waiting())
    with contextlib.suppress(DatabaseError):
        senders, without = len(configured_senders()), tuple(instruments_without_senders())
    return AdmissionStatus(is_promiscuous(spool), senders, without, commitments)


def look_at_records(states: Iterable[str] = ATTENTION) -> Records:
    """Counts, the series in ``states``, and the filters that failed.

    Raises:
        DatabaseError: the database is away.
    """
    later = Archive.objects.filter(
        series=OuterRef("archive__series"), version__gt=OuterRef("archive__version")
    )
    newest = FilterRun.objects.filter(~Exists(later))
    runs_by_state = dict(newest.order_by().values_list("state").annotate(Count("pk")))
    by_state = dict(Series.objects.order_by().values_list("state").annotate(Count("pk")))
    failed = newest.filter(state=FilterRun.State.FAILED).order_by("archive__series__created", "filter")
    listed = Series.objects.filter(state__in=tuple(states)).order_by("state", "created")
    return Records(
        series={state: by_state.get(state, 0) for state in Series.State.values},
        filter_runs={state: runs_by_state.get(state, 0) for state in FilterRun.State.values},
        listed=tuple(
            SeriesStatus(*values, render(reasons))
            for *values, reasons in listed.values_list("series_uid", "description", "state", "reasons")
        ),
        failed=tuple(
            FailedRun(*values, render(reasons))
            for *values, reasons in failed.values_list(
                "archive__series__series_uid", "archive__series__description", "filter", "reasons"
            )
        ),
    )
