"""Workers: two on one broker, killed and overtaken; queues of their own; filters that misbehave in them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tardis_imagetrove.models import LOST_ATTEMPTS, Archive, FilterOutput, FilterRun, Series

from .conftest import configure, phantom, series_uid
from .processes import is_alive
from .site import HOST, Site, eventually, free_port, wait_for_port

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

SLOW = "tests.misbehaving.SlowFilter"


@pytest.fixture(scope="module")
def rabbitmq():
    """The address of a RabbitMQ of the tests' own."""
    folder = Path(tempfile.mkdtemp(prefix="rabbit-"))
    port = free_port()
    program = next(
        path for path in ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server") if shutil.which(path)
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program],
            env={
                **os.environ,
                "HOME": str(folder),
                "RABBITMQ_NODENAME": f"test{port}@localhost",
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODE_PORT": str(port),
                "RABBITMQ_DIST_PORT": str(free_port()),
                "ERL_EPMD_PORT": str(free_port()),
                "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
                "RABBITMQ_LOG_BASE": str(folder / "logs"),
                "RABBITMQ_PID_FILE": str(folder / "pid"),
                "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "flags"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for_port(port, 120)
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def redis():
    """The address of a Redis of the tests' own."""
    pytest.importorskip("redis", reason="this MyTARDIS has no client of Redis")
    port = free_port()
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def make_site(owner, box, tmp_path):
    """Makes a site whose only filter is the slow one, unless others are named."""
    made = []

    def make(slow: float = 0, filters: tuple[str, ...] = (SLOW,), broker: str = "", **imagetrove) -> Site:
        configure(owner, storage_box=box)
        site = Site(tmp_path, FILTERS=list(filters), **imagetrove)
        made.append(site)
        site.env["IMAGETROVE_TEST_STARTS"] = str(tmp_path / "starts")
        site.env["IMAGETROVE_TEST_SLOW"] = str(slow)
        if broker:
            site.env["DEVHOST_BROKER"] = broker
        return site

    yield make
    for site in made:
        site.stop()


def starts(tmp_path: Path) -> list[int]:
    """Ids of the processes in which the slow filter was begun."""
    file = tmp_path / "starts"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def send_series(site: Site, tmp_path: Path, count: int) -> list[str]:
    uids = []
    for number in range(count):
        paths = phantom(tmp_path / f"in-{number}", slices=3)
        assert site.send(*paths) == 3
        uids.append(series_uid(paths[0]))
    return uids


def manage(site: Site, *command: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "django", *command], env=site.env, cwd=HOST, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def assert_each_was_made_once(count: int) -> None:
    assert set(Series.objects.values_list("state", flat=True)) == {Series.State.DONE}
    assert Archive.objects.count() == FilterOutput.objects.count() == count
    for output in FilterOutput.objects.all():
        assert output.datafile.file_objects.get().verify()


@pytest.mark.peer
@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_of_two_workers_one_is_killed_and_the_other_does_its_work_too(make_site, tmp_path, request, broker):
    site = make_site(slow=5, broker=request.getfixturevalue(broker))
    site.start_worker("one")
    site.start_worker("other")
    site.start_receiver()
    uids = send_series(site, tmp_path, 6)
    eventually(lambda: len(starts(tmp_path)) >= 4, 60, "both workers convert")
    begun = starts(tmp_path)
    site.kill("one")
    eventually(lambda: sum(map(is_alive, begun[:4])) <= 2, 20, "its filters end with it")
    site.wait(uids, 120)
    assert_each_was_made_once(6)
    again = FilterRun.objects.filter(attempts=2).count()
    assert 1 <= again <= 2
    assert not FilterRun.objects.filter(attempts__gt=2).exists()


@pytest.mark.peer
def test_what_redis_delivers_again_is_not_done_again(make_site, tmp_path, redis):
    site = make_site(slow=25, broker=redis, filters=(SLOW, "tests.misbehaving.CrashingFilter"))
    # Redis gives what is not acknowledged by then to another worker, which looks for it after ten seconds.
    site.env["IMAGETROVE_TEST_BROKER_OPTIONS"] = json.dumps({"visibility_timeout": 2})
    site.start_worker("one")
    site.start_receiver()
    (uid,) = send_series(site, tmp_path, 1)
    eventually(lambda: starts(tmp_path), 60, "the filter begins")
    site.start_worker("other")
    eventually(lambda: received(site) >= 2, 60, "it is delivered again")
    assert FilterRun.objects.get(filter="slow").state == FilterRun.State.RUNNING
    site.wait([uid], 120)
    assert len(starts(tmp_path)) == 1
    assert set(FilterRun.objects.values_list("attempts", flat=True)) == {1}
    assert FilterOutput.objects.count() == 1


def received(site: Site) -> int:
    """How often a worker was given a task of filters, by its log."""
    return site.log.read_text(errors="replace").count("Task tardis_imagetrove.run_filter[")


@pytest.mark.peer
@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_queues_of_their_own_need_their_workers_and_what_waits_there_is_told(
    make_site, tmp_path, request, broker
):
    names = {"INGEST_QUEUE": "imagetrove-ingest", "CONVERT_QUEUE": "imagetrove-convert"}
    site = make_site(broker=request.getfixturevalue(broker), **names)
    site.start_worker("ingest", "-Q", "imagetrove-ingest")
    site.start_receiver()
    (uid,) = send_series(site, tmp_path, 1)
    eventually(lambda: FilterRun.objects.filter(state="queued").exists(), 60, "it is archived")
    code, said = manage(site, "imagetrove_status")
    assert code == 1
    assert "no worker consumes the queue 'imagetrove-convert' (convert)" in said
    assert "start one with -Q imagetrove-convert" in said
    assert "Queue imagetrove-ingest: ingest@" in said
    assert "imagetrove.W008" in manage(site, "check", "--deploy", "--tag", "imagetrove")[1]
    site.start_worker("convert", "-Q", "imagetrove-convert")
    site.wait([uid])
    assert_each_was_made_once(1)
    code, said = manage(site, "imagetrove_status")
    assert (code, "no worker" in said) == (0, False)


@pytest.mark.peer
@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_a_worker_from_before_the_app_was_installed_is_named(make_site, request, broker):
    address = request.getfixturevalue(broker)
    site = make_site(broker=address)
    # Without Django's settings, by which Celery would load the app.
    old = (
        "import os, sys; del os.environ['DJANGO_SETTINGS_MODULE']; from celery import Celery;"
        # Queues as MyTARDIS declares them: RabbitMQ refuses one of the same name and other properties.
        " app = Celery(broker=sys.argv[1]); app.conf.task_queue_max_priority = 10; app.worker_main(sys.argv[2:])"
    )
    options = ("worker", "--pool", "solo", "--without-gossip", "--without-mingle", "--hostname", "old@%h")
    site.start("old", ["-c", old, address, *options])
    told = eventually(
        lambda: (said := manage(site, "imagetrove_status")[1]) and "worker old@" in said and said,
        60,
        "it is named",
    )
    assert "was started before this app was installed: restart it" in told
    assert "no worker takes work" not in told


def test_filters_that_misbehave_fail_and_the_worker_goes_on(make_site, tmp_path):
    kinds = ("Hanging", "Hungry", "Crashing", "Slow")
    site = make_site(filters=tuple(f"tests.misbehaving.{kind}Filter" for kind in kinds))
    site.start_worker()
    site.start_receiver()
    uids = send_series(site, tmp_path, 2)
    site.wait(uids, 120)
    for uid in uids:
        runs = {run.filter: run for run in FilterRun.objects.filter(archive__series__series_uid=uid)}
        assert {name: run.state for name, run in runs.items()} == {
            "hanging": "failed",
            "hungry": "failed",
            "crashing": "failed",
            "slow": "done",
        }
        assert "2 s" in runs["hanging"].reason
        assert "200 MiB" in runs["hungry"].reason
        assert "SIGSEGV" in runs["crashing"].reason
        assert {run.attempts for run in runs.values()} == {1}
    assert "WorkerLostError" not in site.log.read_text(errors="replace")


@pytest.mark.slow(first=True)
def test_a_filter_that_kills_its_worker_ends_as_failed_and_stops_nobody(make_site, tmp_path):
    site = make_site(
        filters=("tests.misbehaving.WorkerKillingFilter", SLOW), STALL_SECONDS=1, RETRY_SECONDS_MAX=1
    )
    site.start_worker()
    site.start_receiver()
    uids = send_series(site, tmp_path, 1)
    site.wait(uids, 180)
    runs = {run.filter: run for run in FilterRun.objects.all()}
    assert (runs["killing"].state, runs["killing"].attempts) == (FilterRun.State.FAILED, LOST_ATTEMPTS)
    assert runs["slow"].state == FilterRun.State.DONE
    assert Series.objects.get().state == Series.State.PARTIAL
