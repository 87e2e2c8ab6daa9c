"""Celery tasks: thin calls into ingest and filters, and how they are queued."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tardis.celery import tardis_app

from .conf import settings
from .conversion import registry
from .conversion.run import run_filters as do_filter_runs
from .errors import RetriableError
from .ingest import states
from .ingest.series import ingest_series as do_ingest_series
from .models import FilterRun, Series
from .reasons import Reason
from .spool import Spool

_CHUNK = 500
"""Runs that one query is about."""

_CARRY_QUESTIONS = ("amqp", "py-amqp", "redis")
"""Drivers of brokers by which workers can be asked something."""

_TASKS = {"ingest": "tardis_imagetrove.ingest_series", "convert": "tardis_imagetrove.run_filter"}
"""The task of each kind of work."""

_BROKER_SECONDS = 2.0
"""How long a broker may take to answer a connection before what is queued waits for later."""


def open_spool(folder: str | Path | None = None) -> Spool:
    """The spool in ``folder``, or the site's own.

    Raises:
        ImproperlyConfigured: no folder is named, and none in the settings; or they are of a wrong kind.
    """
    return Spool(folder or settings.spool_path, settings.SPOOL_RESERVE_MIB * 1024**2)


# Late acknowledgement gives a killed worker's task to another where the broker can; where it
# cannot, the watcher does. Both are safe, since a task that was done already does nothing.
# A task that kills its pool's process alone is not given back at once, or it would do so for ever:
# the watcher does that, waiting longer each time.
_LATE = {"acks_late": True, "reject_on_worker_lost": False}


@tardis_app.task(name=_TASKS["ingest"], ignore_result=True, **_LATE)
def ingest_series(series_uid: str, spool_folder: str | None = None) -> None:
    """Archive what the spool holds of a series and have its filters queued."""
    spool = open_spool(spool_folder)
    queue_runs(do_ingest_series(spool, series_uid, list(registry.load()), settings.scratch_path))


@tardis_app.task(name=_TASKS["convert"], ignore_result=True, **_LATE)
def run_filter(run_id: int) -> None:
    """Do one filter run, and those that are queued beside it; let their series' state follow."""
    for series_id in do_filter_runs(run_id, settings.scratch_path, settings.STALL_SECONDS / 4):
        states.refresh(series_id)


def queue_series(series_uid: str, spool_folder: str | None = None) -> None:
    """Have a series ingested by a worker, from the site's spool unless another is named.

    Raises:
        RetriableError: the broker cannot be reached.
    """
    _publisher.get()(ingest_series, series_uid, spool_folder)


def queue_run(run_id: int) -> None:
    """Have a filter run done by a worker, and with it what else is queued for its archive.

    Raises:
        RetriableError: the broker cannot be reached.
    """
    _publisher.get()(run_filter, run_id)


def queue_runs(run_ids: Iterable[int]) -> None:
    """Have filter runs that are marked as queued done by workers: one message for each archive.

    If the worker that takes a message dies before it comes to the archive's last run, the watcher
    queues the rest.

    Raises:
        RetriableError: the broker cannot be reached.
    """
    ids = list(run_ids)
    first: dict[int, int] = {}
    for start in range(0, len(ids), _CHUNK):
        chunk = FilterRun.objects.filter(pk__in=ids[start : start + _CHUNK])
        for pk, archive in chunk.order_by("pk").values_list("pk", "archive"):
            first.setdefault(archive, pk)
    with _one_connection():
        for run_id in first.values():
            queue_run(run_id)


def ingest_now(series_uid: str, by: str, spool_folder: str | None = None) -> None:
    """Have a series ingested because somebody asks: as complete now, or again.

    Raises:
        RetriableError: the broker cannot be reached; the series waits, and the watcher retries it.
    """
    states.queued(series_uid, by=by)
    try:
        queue_series(series_uid, spool_folder)
    except RetriableError as error:
        if Series.objects.filter(series_uid=series_uid, state=Series.State.QUEUED).exists():
            states.wait(series_uid, Reason.of(error))
        raise


def run_again(run_ids: Iterable[int], by: str) -> list[int]:
    """Have filter runs done again because somebody asks; returns the ids of those that were marked.

    Raises:
        RetriableError: the broker cannot be reached; the watcher queues what is marked.
    """
    marked = states.requeue(run_ids, by)
    queue_runs(marked)
    return marked


def queue_again(series: Series, by: str) -> list[str]:
    """Have a series retried because somebody asks: its ingest, and the filters that failed or wait.

    Returns:
        The filters that run again.

    Raises:
        RetriableError: the broker cannot be reached. Filters that are marked by then run later.
    """
    ingest_now(series.series_uid, by)
    newest = series.archives.order_by("-version").first()
    again = (FilterRun.State.FAILED, FilterRun.State.WAITING)
    runs = FilterRun.objects.filter(archive=newest, state__in=again)
    marked = run_again(list(runs.values_list("pk", flat=True)), by)
    names = FilterRun.objects.filter(pk__in=marked).order_by("pk")
    return list(names.values_list("filter", flat=True))


def worker_names(seconds: float = 2.0) -> list[str]:
    """Names of the workers that answer; none where the broker cannot carry such a question."""
    try:
        return sorted(tardis_app.control.inspect(timeout=seconds).ping() or ())
    except Exception:  # each transport has its own
        return []


def queues() -> dict[str, str]:
    """The queue of each kind of work (``ingest``, ``convert``)."""
    routed = {
        kind: tardis_app.amqp.router.route(_named_queue(task), task.name)["queue"]
        for kind, task in (("ingest", ingest_series), ("convert", run_filter))
    }
    return {kind: str(getattr(queue, "name", queue)) for kind, queue in routed.items()}


def broker_problem() -> str:
    """Why Celery's broker cannot be reached, told within seconds; empty if it can."""
    try:
        with tardis_app.connection_for_write() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=5)
    except Exception as error:  # each transport has its own
        return f"{type(error).__name__}: {error}"
    return ""


@dataclass(frozen=True)
class Listeners:
    """Who takes work from our queues.

    Attributes:
        queues: names of the workers of each queue that can do its work.
        outdated: those that take our work and know nothing of it: they run since before the app was installed.
    """

    queues: Mapping[str, list[str]]
    outdated: tuple[str, ...] = ()


def listeners(seconds: float = 2.0) -> Listeners | None:
    """The workers that take work from our queues.

    Returns:
        None where nobody can say: the broker carries no such question, or is away.
    """
    try:
        with tardis_app.connection_for_read() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=5)
            if broker.transport.driver_type not in _CARRY_QUESTIONS:
                return None
            ask = partial(tardis_app.control.inspect, timeout=seconds, connection=broker)
            consumed = ask().active_queues() or {}
            # As many answers as workers are waited for, and no longer.
            known = ask(destination=list(consumed), limit=len(consumed)).registered() if consumed else None
    except Exception:  # each transport has its own
        return None
    queue_of, outdated = queues(), set()
    found: dict[str, list[str]] = {queue: [] for queue in queue_of.values()}
    for worker, taken in sorted(consumed.items()):
        names = {str(one.get("name")) for one in taken} & found.keys()
        # One that does not say what it knows is believed.
        knows = {task.partition(" ")[0] for task in (known or {}).get(worker, _TASKS.values())}
        for kind, task in _TASKS.items():
            if queue_of[kind] in names and task not in knows:
                outdated.add(worker)
        if worker not in outdated:
            for name in names:
                found[name].append(worker)
    return Listeners(found, tuple(sorted(outdated)))


def unheard(heard: Listeners | None = None) -> list[str]:
    """Words for each of our queues that no worker does the work of; none where nobody can say.

    Args:
        heard: of :func:`listeners`, if they were asked already.
    """
    heard = listeners() if heard is None else heard
    if heard is None:
        return []
    kinds: dict[str, list[str]] = {}
    for kind, queue in queues().items():
        kinds.setdefault(queue, []).append(kind)
    silent = [
        f"no worker consumes the queue {queue!r} ({' and '.join(kinds[queue])}): start one with -Q {queue}"
        for queue, workers in heard.queues.items()
        if not workers and not heard.outdated
    ]
    return [
        *(f"worker {name} was started before this app was installed: restart it" for name in heard.outdated),
        *silent,
    ]


def _named_queue(task) -> dict[str, str]:  # noqa: ANN001 (a Celery task)
    """The queue that the site names for a task in IMAGETROVE; without one, Celery's own routes hold."""
    queue = settings.INGEST_QUEUE if task.name == ingest_series.name else settings.CONVERT_QUEUE
    return {"queue": queue} if queue else {}


@contextmanager
def _one_connection() -> Iterator[None]:
    """What is queued within the block goes over one connection, made when it is needed."""
    with ExitStack() as stack:
        token = _connections.set((stack, []))
        try:
            yield
        finally:
            _connections.reset(token)


_connections: ContextVar[tuple[ExitStack, list] | None] = ContextVar("connections", default=None)


@contextmanager
def _broker() -> Iterator:
    """A connection to the broker: that of the block of :func:`_one_connection`, or one of its own."""
    with ExitStack() as own:
        stack, opened = _connections.get() or (own, [])
        if not opened:
            # Connected here, since what Celery does by itself tries for six seconds, whatever it is told.
            broker = stack.enter_context(tardis_app.connection_for_write(connect_timeout=_BROKER_SECONDS))
            # A second try only where the first was quick: somebody may wait for the page.
            broker.ensure_connection(
                max_retries=1, interval_start=0, interval_step=0, timeout=_BROKER_SECONDS / 2
            )
            opened.append(broker)
        yield opened[0]


def _publish(task, *arguments: str | int | None) -> None:  # noqa: ANN001 (a Celery task)
    named = _named_queue(task)
    try:
        with _broker() as broker:
            task.apply_async(arguments, retry=False, connection=broker, **named)
    except Exception as error:  # each transport has its own
        raise RetriableError(f"the broker cannot be reached: {type(error).__name__}: {error}") from error


_publisher: ContextVar[Callable[..., None]] = ContextVar("publisher", default=_publish)


@contextmanager
def published_by(publish: Callable[..., None]) -> Iterator[None]:
    """What is queued within the block is given to ``publish(task, *arguments)`` in place of the broker.

    ``publish`` raises RetriableError where it cannot take it.
    """
    token = _publisher.set(publish)
    try:
        yield
    finally:
        _publisher.reset(token)
