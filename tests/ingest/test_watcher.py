"""The watcher: complete series and stalled runs are queued, by change and by monotonic time alone."""

from __future__ import annotations

import os

import pytest
from django.db.models import F

from tardis_imagetrove.errors import RetriableError
from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.ingest.watcher import Timing, Watcher
from tardis_imagetrove.models import LOST_ATTEMPTS, FilterRun, Series
from tardis_imagetrove.reasons import Reason

from ..conftest import configure, deliver, phantom, series_uid

pytestmark = pytest.mark.django_db(transaction=True)

TIMING = Timing(quiet=60, stall=100, retry=30, retry_max=300)


class Queue:
    """Takes what the watcher queues; fails while the broker is away."""

    def __init__(self) -> None:
        self.series: list[str] = []
        self.runs: list[int] = []
        self.away = False
        self.tried = 0

    def put_series(self, uid: str) -> None:
        self.tried += 1
        if self.away:
            raise RetriableError("the broker cannot be reached")
        self.series.append(uid)

    def put_run(self, run_id: int) -> None:
        self.tried += 1
        if self.away:
            raise RetriableError("the broker cannot be reached")
        self.runs.append(run_id)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def queue():
    return Queue()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watcher(spool, queue, clock):
    return Watcher(spool, TIMING, queue.put_series, queue.put_run, clock)


def pass_time(watcher, clock, seconds: float) -> None:
    clock.now += seconds
    watcher.tick()


def test_a_series_is_queued_after_its_quiet_period_and_once(watcher, queue, clock, spool, owner, tmp_path):
    paths = phantom(tmp_path / "in")
    deliver(spool, *paths[:3])
    watcher.tick()
    assert Series.objects.get().state == Series.State.RECEIVING
    pass_time(watcher, clock, 59)
    deliver(spool, *paths[3:])
    pass_time(watcher, clock, 2)
    pass_time(watcher, clock, 58)
    assert queue.series == []
    pass_time(watcher, clock, 3)
    assert queue.series == [series_uid(paths[0])]
    pass_time(watcher, clock, 5)
    assert len(queue.series) == 1


def test_an_instrument_has_its_own_quiet_period(watcher, queue, clock, spool, owner, box, tmp_path):
    configure(owner, storage_box=box, quiet_seconds=5)
    deliver(spool, *phantom(tmp_path / "in"))
    watcher.tick()
    pass_time(watcher, clock, 6)
    assert len(queue.series) == 1


def test_time_stamps_of_files_mean_nothing(watcher, queue, clock, spool, owner, tmp_path):
    paths = phantom(tmp_path / "in")
    deliver(spool, *paths)
    for file in spool.files(series_uid(paths[0])):
        os.utime(file, (0, 2**33))
    watcher.tick()
    assert queue.series == []
    pass_time(watcher, clock, 61)
    assert len(queue.series) == 1


def test_what_no_worker_takes_is_queued_again_at_growing_distances(
    watcher, queue, clock, spool, owner, tmp_path
):
    deliver(spool, *phantom(tmp_path / "in"))
    watcher.tick()
    pass_time(watcher, clock, 61)
    times = []
    for _ in range(1000):
        before = len(queue.series)
        pass_time(watcher, clock, 1)
        if len(queue.series) > before:
            times.append(clock.now)
    assert [round(b - a) for a, b in zip(times, times[1:], strict=False)] == [200, 300, 300]


def test_a_series_that_was_queued_in_vain_says_so(watcher, queue, clock, spool, owner, box, tmp_path):
    configure(owner, storage_box=box)
    paths = phantom(tmp_path / "in")
    deliver(spool, *paths)
    uid = series_uid(paths[0])
    watcher.tick()
    pass_time(watcher, clock, 61)
    assert Series.objects.get().reason == ""
    pass_time(watcher, clock, 101)
    assert Series.objects.get().reason == "no worker has picked it up; requeued"
    Series.objects.update(state=Series.State.INGESTING, reasons=[])
    with spool.lock(uid):  # as a worker holds it
        pass_time(watcher, clock, 201)
        assert Series.objects.get().reason == ""
    pass_time(watcher, clock, 301)
    assert Series.objects.get().reason == "the worker died; requeued"
    assert queue.series == [uid] * 4
    ingest_series(spool, uid, [], tmp_path)
    assert Series.objects.get().reason == ""


def test_with_the_broker_away_the_series_waits_and_is_queued_later(
    watcher, queue, clock, spool, owner, tmp_path
):
    deliver(spool, *phantom(tmp_path / "in"))
    queue.away = True
    watcher.tick()
    pass_time(watcher, clock, 61)
    assert (Series.objects.get().state, Series.objects.get().reason) == (
        Series.State.WAITING,
        "the broker cannot be reached",
    )
    queue.away = False
    pass_time(watcher, clock, 31)
    assert len(queue.series) == 1


def test_a_broker_that_is_away_is_tried_once_a_look_and_every_series_says_why(
    watcher, queue, clock, spool, owner, tmp_path
):
    for number in range(3):
        deliver(spool, *phantom(tmp_path / f"in-{number}", slices=2))
    queue.away = True
    watcher.tick()
    pass_time(watcher, clock, 61)
    assert queue.tried == 1
    assert [(series.state, series.reason) for series in Series.objects.all()] == [
        (Series.State.WAITING, "the broker cannot be reached")
    ] * 3
    queue.away = False
    pass_time(watcher, clock, 31)
    assert len(queue.series) == 3


def test_a_held_series_is_tried_again_when_instruments_change_or_more_comes(
    watcher, queue, clock, spool, owner, box, tmp_path
):
    paths = phantom(tmp_path / "in")
    uid = series_uid(paths[0])
    deliver(spool, *paths[:-1])
    watcher.tick()
    pass_time(watcher, clock, 61)
    states.hold(uid, Reason("test", "matches no instrument"))
    pass_time(watcher, clock, 10000)
    assert len(queue.series) == 1
    configure(owner, storage_box=box)
    pass_time(watcher, clock, 1)
    assert len(queue.series) == 2
    deliver(spool, paths[-1])
    pass_time(watcher, clock, 1)
    pass_time(watcher, clock, 61)
    assert len(queue.series) == 3


def test_a_restart_takes_up_what_is_in_the_spool(queue, clock, spool, owner, tmp_path):
    deliver(spool, *phantom(tmp_path / "in"))
    for _ in range(2):
        watcher = Watcher(spool, TIMING, queue.put_series, queue.put_run, clock)
        watcher.tick()
        pass_time(watcher, clock, 61)
    assert len(queue.series) == 2


@pytest.fixture
def run(spool, scratch, configuration, tmp_path) -> FilterRun:
    paths = phantom(tmp_path / "in", slices=2)
    deliver(spool, *paths)
    (run_id,) = ingest_series(spool, series_uid(paths[0]), ("metadata",), scratch)
    return FilterRun.objects.get(pk=run_id)


def test_a_run_whose_worker_shows_no_life_is_given_to_another(watcher, queue, clock, run):
    FilterRun.objects.update(state=FilterRun.State.RUNNING, attempts=1)
    watcher.tick()
    for _ in range(5):  # alive
        FilterRun.objects.update(beat=F("beat") + 1)
        pass_time(watcher, clock, 99)
    assert queue.runs == []
    pass_time(watcher, clock, 1)
    pass_time(watcher, clock, 100)
    assert queue.runs == [run.pk]
    assert FilterRun.objects.get().state == FilterRun.State.QUEUED


def test_a_waiting_run_is_tried_again_later_each_time(watcher, queue, clock, run):
    for attempts, patience in ((1, 30), (2, 60), (3, 120), (9, 300)):
        FilterRun.objects.update(state=FilterRun.State.WAITING, attempts=attempts)
        queue.runs.clear()
        watcher.tick()
        pass_time(watcher, clock, patience - 1)
        assert queue.runs == []
        pass_time(watcher, clock, 1)
        assert queue.runs == [run.pk]


def test_what_has_ended_is_left_alone(watcher, queue, clock, run):
    for state in ("done", "partial", "skipped", "failed"):
        FilterRun.objects.update(state=state)
        watcher.tick()
        pass_time(watcher, clock, 10000)
    assert queue.runs == []


def test_a_run_whose_workers_die_again_and_again_has_failed(
    watcher, queue, clock, spool, configuration, tmp_path, scratch
):
    paths = phantom(tmp_path / "in")
    deliver(spool, *paths)
    (run_id,) = ingest_series(spool, series_uid(paths[0]), ("nifti",), scratch)
    queued = 0
    for _ in range(20):
        # A worker takes it, and is never heard of again.
        FilterRun.objects.filter(pk=run_id, state="queued").update(
            state="running", attempts=F("attempts") + 1
        )
        watcher.tick()
        pass_time(watcher, clock, TIMING.retry_max + 1)
    queued = len(queue.runs)
    run = FilterRun.objects.get(pk=run_id)
    assert (run.state, run.lost, queued) == (FilterRun.State.FAILED, LOST_ATTEMPTS, LOST_ATTEMPTS - 1)
    assert run.reason == f"the worker died {LOST_ATTEMPTS} times in a row"
    assert Series.objects.get().state == Series.State.PARTIAL
