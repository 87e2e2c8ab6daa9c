"""The status of the site: spool, receiver, workers, series and what is wrong; it changes nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection
from django.db.models import Count, Max

from ..conf import settings
from ..errors import ImageTroveError
from ..ingest.states import newest_archives
from ..models import AuditFinding, Event, FilterRun, FolderSource, Series
from ..reasons import Reason, render
from ..scp import is_promiscuous, is_receiving
from ..scp.pending import PendingCommitments
from ..senders import configured_senders, instruments_without_senders
from ..spool import Spool
from ..tasks import broker_problem, listeners, open_spool, unheard

#: Seconds that this machine's clock may differ from the database's, and events may lie in the future.
CLOCK_SECONDS = 60.0
#: Series and failed runs that are listed one by one; the counts have all of them.
MOST_LISTED = 200
#: States of filter runs that are counted: a site has millions of those that ended well.
COUNTED_RUNS = (
    FilterRun.State.QUEUED,
    FilterRun.State.RUNNING,
    FilterRun.State.WAITING,
    FilterRun.State.FAILED,
)

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
        read_only: the disk, or this user's permissions, allow no writing.
        receiving: a receiver of this spool runs.
    """

    folder: str
    series: int = 0
    files: int = 0
    bytes: int = 0
    free_bytes: int = 0
    oldest_series: str = ""
    oldest_since: float = 0.0
    problem: str = ""
    read_only: bool = False
    receiving: bool = False


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
    """One series, its state and why."""

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
        series: number of series by state.
        filter_runs: number of runs of newest archives, by state; only of those in :data:`COUNTED_RUNS`.
        listed, failed: the oldest :data:`MOST_LISTED`.
        folders: name and problem of each folder source that has one.
        findings: of audits, not known to be gone.
        clock_seconds: how far this machine's clock is ahead of the database's, or the other way if below 0.
    """

    series: dict[str, int]
    filter_runs: dict[str, int]
    listed: tuple[SeriesStatus, ...]
    failed: tuple[FailedRun, ...]
    clock_seconds: float = 0.0
    folders: tuple[tuple[str, str], ...] = ()
    findings: int = 0


@dataclass(frozen=True)
class Status:
    """Everything that is known of the site.

    Attributes:
        admission, records: None if they cannot be read.
        workers: names of the workers of each queue; None where the broker cannot tell.
        problems: what needs a person; empty if all is well.
    """

    spool: SpoolStatus
    admission: AdmissionStatus | None
    records: Records | None
    database_problem: str
    broker_problem: str
    workers: Mapping[str, list[str]] | None
    settings_problems: tuple[str, ...]
    problems: tuple[Reason, ...]

    @property
    def well(self) -> bool:
        return not self.problems


def look(states: Iterable[str] = ATTENTION, counting: bool = True) -> Status:
    """Look at everything; whatever cannot be reached ends up among the problems.

    Args:
        states: of the series to list.
        counting: also count the spool's files, which takes long where there are many.
    """
    admission = None
    try:
        spool = look_at_spool(open_spool(), counting)
        admission = look_at_admission(open_spool())
    except ImproperlyConfigured as error:
        spool = SpoolStatus(folder="", problem=str(error))
    records, database_problem = None, ""
    try:
        records = look_at_records(states)
    except DatabaseError as error:
        database_problem = str(error).strip() or type(error).__name__
    wrong = tuple(settings.problems().values())
    unreachable = broker_problem()
    workers, silent = None, []
    if not unreachable:
        with contextlib.suppress(ImproperlyConfigured):  # a queue's name, which is among the settings
            if heard := listeners():
                workers, silent = heard.queues, unheard(heard)
    problems = [
        *(Reason("settings", text) for text in wrong),
        *_spool_problems(spool, wrong),
        *(
            [Reason("database", f"the database is unreachable: {database_problem}")]
            if database_problem
            else ()
        ),
        *([Reason("broker", f"the broker is unreachable: {unreachable}")] if unreachable else ()),
        *(Reason("no-worker", text) for text in silent),
        *(_record_problems(records) if records else ()),
    ]
    return Status(spool, admission, records, database_problem, unreachable, workers, wrong, tuple(problems))


def spool_problems() -> list[Reason]:
    """What is wrong with the spool and the receiver; asks neither the broker nor the database."""
    try:
        return list(_spool_problems(look_at_spool(open_spool(), counting=False), ()))
    except ImproperlyConfigured as error:
        return [Reason("settings", str(error))]


def _spool_problems(spool: SpoolStatus, told: Iterable[str]) -> Iterator[Reason]:
    if spool.problem:
        if spool.problem not in told:
            yield Reason("spool", spool.problem)
        return
    if spool.read_only:
        yield Reason("read-only", f"{spool.folder} cannot be written: the receiver refuses every instance")
    if spool.free_bytes <= 0:
        yield Reason(
            "in-reserve",
            f"{spool.folder}: free space is below the reserve of {settings.SPOOL_RESERVE_MIB} MiB;"
            " the receiver refuses every instance",
        )
    if not spool.receiving:
        yield Reason(
            "no-receiver",
            f"no receiver runs on {spool.folder}: start manage.py imagetrove_scp, or read its log",
        )


def _record_problems(records: Records) -> Iterator[Reason]:
    if held := records.series[Series.State.HELD]:
        yield Reason("held", f"{held} series {'is' if held == 1 else 'are'} held")
    if failed := records.filter_runs[FilterRun.State.FAILED]:
        yield Reason("filter-failed", f"{failed} filter run{'s' if failed > 1 else ''} failed")
    if found := records.findings:
        yield Reason("audit", f"audits have {found} open finding{'s' if found > 1 else ''}: see the board")
    for name, problem in records.folders:
        yield Reason("folder-source", f"folder source {name}: {problem}")
    if abs(records.clock_seconds) > CLOCK_SECONDS:
        ahead = "ahead of" if records.clock_seconds > 0 else "behind"
        yield Reason(
            "clock",
            f"this machine's clock is {abs(records.clock_seconds):.0f} s {ahead} the database's records",
        )


def look_at_spool(spool: Spool, counting: bool = True) -> SpoolStatus:
    """What waits in the spool; trouble ends up in the answer.

    Args:
        counting: also count its files, which takes long where there are many.
    """
    folder = str(spool.root)
    series = files = bytes_waiting = 0
    oldest: tuple[float, str] | None = None
    try:
        free = spool.free_bytes()
        if not spool.root.is_dir():
            return SpoolStatus(folder, problem=f"{folder} is not a folder")
        read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY) or not os.access(folder, os.W_OK)
        for uid in spool.series_uids() if counting and spool.series_root.exists() else ():
            waiting = 0
            for file in spool.files(uid):
                with contextlib.suppress(FileNotFoundError):  # archived meanwhile
                    about = file.stat()
                    waiting += 1
                    bytes_waiting += about.st_size
                    oldest = min(oldest or (about.st_mtime, uid), (about.st_mtime, uid))
            series += bool(waiting)
            files += waiting
    except (ImageTroveError, OSError) as error:
        return SpoolStatus(folder, problem=str(error))
    since, uid = oldest or (0.0, "")
    return SpoolStatus(
        folder,
        series,
        files,
        bytes_waiting,
        free,
        uid,
        since,
        read_only=read_only,
        receiving=is_receiving(spool),
    )


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
    by_state = dict(Series.objects.order_by().values_list("state").annotate(Count("pk")))
    # First by state, which few runs have: the newest archives of all series are many.
    current = FilterRun.objects.filter(state__in=COUNTED_RUNS, archive__in=newest_archives())
    runs_by_state = dict(current.order_by().values_list("state").annotate(Count("pk")))
    failed = current.filter(state=FilterRun.State.FAILED).order_by("archive__series__created", "filter")
    listed = Series.objects.filter(state__in=tuple(states)).order_by("state", "created")
    return Records(
        series={state: by_state.get(state, 0) for state in Series.State.values},
        filter_runs={state: runs_by_state.get(state, 0) for state in COUNTED_RUNS},
        listed=tuple(
            SeriesStatus(*values, render(reasons))
            for *values, reasons in listed.values_list("series_uid", "description", "state", "reasons")[
                :MOST_LISTED
            ]
        ),
        failed=tuple(
            FailedRun(*values, render(reasons))
            for *values, reasons in failed.values_list(
                "archive__series__series_uid", "archive__series__description", "filter", "reasons"
            )[:MOST_LISTED]
        ),
        clock_seconds=_clock_seconds(),
        findings=AuditFinding.objects.filter(gone=None).count(),
        folders=tuple(
            FolderSource.objects.filter(enabled=True).exclude(problem="").values_list("name", "problem")
        ),
    )


def _clock_seconds() -> float:
    """Seconds that this machine's clock is ahead of the database's; below 0 also if events lie in the future."""
    last = Event.objects.aggregate(Max("at"))["at__max"]
    behind = min(0.0, time.time() - last.timestamp()) if last else 0.0
    if connection.vendor != "postgresql":  # a database in this process has this machine's clock
        return behind
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())")
        (theirs,) = cursor.fetchone()
    ahead = time.time() - float(theirs)
    return ahead if abs(ahead) > abs(behind) else behind


# As text


def lines(status: Status) -> Iterator[str]:
    """The status for people, line by line; the problems come first."""
    for problem in status.problems:
        yield f"PROBLEM {problem.text}"
    if not status.spool.problem:
        yield from _spool_lines(status.spool)
    if status.admission is not None:
        yield from _admission_lines(status.admission)
    if status.records is not None:
        yield from _record_lines(status.records)
    for queue, workers in (status.workers or {}).items():
        if workers:
            yield f"Queue {queue}: {', '.join(workers)}"


def _spool_lines(spool: SpoolStatus) -> Iterator[str]:
    yield (
        f"Spool {spool.folder}: {spool.files} files of {spool.series} series, {size(spool.bytes)};"
        f" room for {size(max(0, spool.free_bytes))}"
    )
    if spool.files:
        age = time.time() - spool.oldest_since
        yield f"  waiting longest: {spool.oldest_series}, for {duration(age)}"


def _admission_lines(admission: AdmissionStatus) -> Iterator[str]:
    if admission.promiscuous:
        yield "Senders: ALL accepted: a receiver runs with --promiscuous"
    if admission.senders is not None:
        yield f"Senders: {admission.senders or 'none'} configured"
    if admission.without_senders:
        yield f"  instruments without a sender: {', '.join(admission.without_senders)}"
    if admission.commitments_waiting:
        yield f"Storage commitment: {admission.commitments_waiting} requests waiting"


def _record_lines(records: Records) -> Iterator[str]:
    yield f"Series: {_counts(records.series)}"
    yield f"Filter runs: {_counts(records.filter_runs)}"
    for one in records.listed:
        yield f"{one.state} {one.series_uid} {one.description}\n    {one.reason or '(no reason)'}"
    for run in records.failed:
        yield f"failed {run.series_uid} {run.description}\n    {run.filter}: {run.reason}"


def _counts(by_state: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in by_state.items() if count) or "none"


def iso_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def duration(seconds: float) -> str:
    """``5 min``, ``2 h 5 min``, ``3 d 2 h``."""
    minutes = max(0, int(seconds // 60))
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def size(count: int) -> str:
    """``3.1 MiB``."""
    for unit, bytes_of in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if abs(count) >= bytes_of:
            return f"{count / bytes_of:.1f} {unit}"
    return f"{count} bytes"
