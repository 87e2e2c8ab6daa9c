"""Celery tasks: thin calls into ingest and filters, and how they are queued."""

from __future__ import annotations

from pathlib import Path

from tardis.celery import tardis_app

from .conf import settings
from .errors import RetriableError
from .filters import registry
from .filters.run import run_filter as do_filter_run
from .ingest.series import ingest_series as do_ingest_series
from .ingest.series import refresh_state
from .models import FilterRun, Series
from .spool import Spool

_BROKER_SECONDS = 2.0
"""How long a broker may take to answer a connection before what is queued waits for later."""


def open_spool(folder: str | Path | None = None) -> Spool:
    """The spool in ``folder``, or the site's own.

    Raises:
        ImproperlyConfigured: no folder is named, and none in the settings.
    """
    return Spool(folder or settings.spool_path, settings.SPOOL_RESERVE_MIB * 1024**2)


# Late acknowledgement gives a killed worker's task to another where the broker can; where it
# cannot, the watcher does. Both are safe, since a task that was done already does nothing.
@tardis_app.task(
    name="tardis_imagetrove.ingest_series", ignore_result=True, acks_late=True, reject_on_worker_lost=True
)
def ingest_series(series_uid: str, spool_folder: str | None = None) -> None:
    """Archive what the spool holds of a series and have its filters queued."""
    spool = open_spool(spool_folder)
    for run_id in do_ingest_series(spool, series_uid, list(registry.load()), settings.scratch_path):
        queue_run(run_id)


@tardis_app.task(
    name="tardis_imagetrove.run_filter", ignore_result=True, acks_late=True, reject_on_worker_lost=True
)
def run_filter(run_id: int) -> None:
    """Do one filter run and let its series' state follow."""
    series_id = do_filter_run(run_id, settings.scratch_path, settings.STALL_SECONDS / 4)
    if series_id is not None:
        refresh_state(series_id)


def queue_series(series_uid: str, spool_folder: str | None = None) -> None:
    """Have a series ingested by a worker, from the site's spool unless another is named.

    Raises:
        RetriableError: the broker cannot be reached.
    """
    _queue(ingest_series, series_uid, spool_folder)


def queue_run(run_id: int) -> None:
    """Have a filter run done by a worker.

    Raises:
        RetriableError: the broker cannot be reached.
    """
    _queue(run_filter, run_id)


def queue_again(series: Series) -> list[str]:
    """Have a series tried again because somebody asks: its ingest, and the filters that did not come through.

    Returns:
        The filters that are run again.

    Raises:
        RetriableError: the broker cannot be reached. Filters that are marked by then go on by themselves.
    """
    queue_series(series.series_uid)
    names = []
    newest = series.archives.order_by("-version").first()
    runs = FilterRun.objects.filter(
        archive=newest, state__in=(FilterRun.State.FAILED, FilterRun.State.WAITING)
    )
    for run_id, name in runs.values_list("pk", "filter"):
        # Only as it was seen: a worker may have taken it since.
        if runs.filter(pk=run_id).update(state=FilterRun.State.QUEUED):
            names.append(name)
            queue_run(run_id)
    if names and series.state == Series.State.PARTIAL:
        refresh_state(series.pk)
    return names


def worker_names(seconds: float = 2.0) -> list[str]:
    """Names of the workers that answer; none where the broker cannot carry such a question."""
    try:
        return sorted(tardis_app.control.inspect(timeout=seconds).ping() or ())
    except Exception:  # each transport has its own
        return []


def _queue(task, *arguments: str | int | None) -> None:  # noqa: ANN001 (a Celery task)
    try:
        # Connected here, since what Celery does by itself tries for six seconds, whatever it is told.
        with tardis_app.connection_for_write(connect_timeout=_BROKER_SECONDS) as broker:
            # A second try only where the first was quick: somebody may wait for the page.
            broker.ensure_connection(
                max_retries=1, interval_start=0, interval_step=0, timeout=_BROKER_SECONDS / 2
            )
            task.apply_async(arguments, retry=False, connection=broker)
    except Exception as error:  # each transport has its own
        raise RetriableError(f"the broker cannot be reached: {type(error).__name__}: {error}") from error
