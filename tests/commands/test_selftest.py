"""``imagetrove_selftest`` on running sites, sound and broken: what it says, and that everything removed."""

from __future__ import annotations

import os
import signal
from io import StringIO

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command

from tardis_imagetrove import tasks
from tardis_imagetrove.models import FilterRun, InstrumentConfiguration, Series
from tardis_imagetrove.mytardis import mytardis, trial

from ..site import Site, eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def site(owner, box, tmp_path, settings):
    site = Site(tmp_path)
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": str(site.spool.root), "SPOOL_RESERVE_MIB": 0}
    yield site
    site.stop()


@pytest.fixture
def run(site, box):
    """Run the self-test; returns its lines and whether all was well."""

    def run(**options) -> tuple[list[str], bool]:
        out = StringIO()
        options = {"port": site.port, "storage_box": box.name, "timeout": 60, **options}
        try:
            call_command("imagetrove_selftest", stdout=out, **options)
        except CommandError as error:
            return [*out.getvalue().splitlines(), str(error)], False
        return out.getvalue().splitlines(), True

    return run


@pytest.fixture
def everything(site, box, tmp_path):
    """What there is in the database, the storage box and the spool."""
    quiet = {"ContentType", "Permission", "LogEntry"}

    def everything():
        rows = {
            model.__name__: model._base_manager.count()
            for model in apps.get_models()
            if model.__name__ not in quiet and model._meta.managed
        }
        return rows, sorted((tmp_path / "store").rglob("*")), site.spool.series_uids()

    return everything


def test_a_sound_site_is_well_and_nothing_is_left(site, run, everything):
    site.start_worker()
    site.start_receiver(closed=True)
    before = everything()
    lines, well = run()
    assert well, "\n".join(lines)
    steps = [line[:16].strip() for line in lines[1:-1]]
    assert steps == [
        *("receiver", "broker", "configuration", "admission", "sending", "archive"),
        *("filter nifti", "filter minc", "filter picture", "filter metadata"),
        *("permission", "download", "removal"),
    ]
    assert all(line[17:20] == "ok " for line in lines[1:-1])
    assert lines[-1] == "All is well."
    assert everything() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port": 99999}, "--port 99999: must be from 1 to 65535"),
        ({"port": 0}, "--port 0: must be"),
        ({"timeout": float("nan")}, "--timeout nan: must be a number of seconds above 0"),
        ({"timeout": 0.0}, "--timeout 0.0: must be"),
        ({"ae_title": "A" * 17}, "--ae-title: AE title 'AAAAAAAAAAAAAAAAA': must be 1 to 16"),
        ({"storage_box": "Gr\udcfcn"}, "--storage-box: not text in UTF-8"),
        ({"ae_title": ""}, "--ae-title: AE title '': must be 1 to 16"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_made(run, everything, options, words):
    before = everything()
    lines, well = run(**options)
    assert (well, len(lines)) == (False, 1)
    assert words in lines[0]
    assert everything() == before


def test_without_a_receiver_nothing_is_made(run, everything, site):
    before = everything()
    lines, well = run()
    assert not well
    assert f"receiver         FAILED  IMAGETROVE at 127.0.0.1:{site.port} does not answer" in lines
    assert "is `manage.py imagetrove_scp` running" in lines[2]
    assert everything() == before


def test_a_receiver_of_another_name_is_told_from_none(site, run):
    site.start_receiver(closed=True)
    lines, well = run(ae_title="OTHER")
    assert not well
    assert "refuses the association" in lines[1]


def test_without_a_worker_the_worker_is_named_and_the_spool_is_cleared(site, run, everything):
    site.start_receiver(closed=True)
    before = everything()
    lines, well = run(timeout=6)
    assert not well
    assert "archive          FAILED  not archived within 6 s: no worker has picked it up" in lines
    assert any(
        "check: is a worker running (`DJANGO_SETTINGS_MODULE=tardis.settings celery -A tardis.celery.tardis_app worker`)"
        in line
        for line in lines
    )
    assert lines[-2].startswith("removal          ok")
    assert everything() == before


def test_a_queue_without_a_worker_is_not_taken_for_the_brokers_fault(site, run, monkeypatch):
    # The broker of these tests does not carry the question who listens.
    monkeypatch.setattr(tasks, "listeners", lambda: tasks.Listeners({"celery": []}))
    site.start_receiver(closed=True)
    lines, well = run(timeout=6)
    assert not well
    told = next(at for at, line in enumerate(lines) if line.startswith("broker           FAILED"))
    assert "No worker consumes the queue" in lines[told]
    assert "check: is a worker running" in lines[told + 1]


def test_with_the_broker_away_the_broker_is_named(site, run, everything):
    """It is away for the receiver, as where that has other settings than the web server."""
    site.env["DEVHOST_BROKER"] = "amqp://guest@127.0.0.1:1//"
    site.start_receiver(closed=True)
    before = everything()
    lines, well = run(timeout=15)
    assert not well
    failed = "\n".join(lines)
    assert "archive          FAILED  not archived within 15 s, waits: the broker cannot be reached" in failed
    assert "check: the broker, and the receiver's setting of its URL" in failed
    assert everything() == before


def test_a_storage_box_that_fails_is_named(site, run, everything, tmp_path):
    site.start_worker()
    site.start_receiver(closed=True)
    before = everything()
    (tmp_path / "store").rmdir()
    (tmp_path / "store").write_text("no folder")
    lines, well = run(timeout=8)
    assert not well
    assert any("FAILED  not archived within 8 s, waits: storage box" in line for line in lines)
    (tmp_path / "store").unlink()
    (tmp_path / "store").mkdir()
    assert everything() == before


def test_a_converter_that_is_missing_is_named_and_the_rest_is_checked(site, run, everything):
    (site.folder / "without" / "dcm2niix").mkdir(parents=True)
    (site.folder / "without" / "dcm2niix" / "__init__.py").touch()  # a package without its program
    site.env["PYTHONPATH"] = os.pathsep.join([str(site.folder / "without"), site.env["PYTHONPATH"]])
    site.env["PATH"] = str(site.folder / "without")
    site.start_worker()
    site.start_receiver(closed=True)
    before = everything()
    lines, well = run()
    assert not well
    failed = [line for line in lines if line[17:23] == "FAILED"]
    assert failed[0].startswith("filter nifti     FAILED  failed: dcm2niix is not installed")
    assert "manage.py check --tag imagetrove" in lines[lines.index(failed[0]) + 1]
    assert any(line.startswith("filter metadata  ok") for line in lines)
    assert any(line.startswith("permission       ok") for line in lines)
    assert any(line.startswith("download         ok") for line in lines)
    assert everything() == before


def test_a_filter_that_only_the_web_server_knows_is_named(site, run, everything, settings):
    site.env["IMAGETROVE_TEST_SETTINGS"] = site.env["IMAGETROVE_TEST_SETTINGS"][:-1] + (
        ', "FILTERS": ["tardis_imagetrove.filters.metadata.MetadataFilter"]}'
    )
    site.start_worker()
    site.start_receiver(closed=True)
    before = everything()
    lines, well = run(timeout=30)
    assert not well
    assert "filter nifti     FAILED  the worker does not have this filter" in lines
    assert any(line.startswith("filter metadata  ok") for line in lines)
    assert any(line.startswith("download         ok") for line in lines)
    assert everything() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_removes_what_it_made(site, box, everything, number):
    site.start_receiver(closed=True)
    before = everything()
    test = site.start(
        "selftest",
        ["-m", "django", "imagetrove_selftest", "--port", str(site.port), "--storage-box", box.name],
    )
    eventually(lambda: Series.objects.exists(), 30, "the series is sent")
    os.kill(test.pid, number)
    assert test.wait(60) == 1
    assert "interrupted" in site.log.read_text()
    assert everything() == before


def test_what_a_killed_self_test_left_is_removed_by_its_token(site, box, everything, run):
    site.start_receiver(closed=True)
    before = everything()
    site.start(
        "selftest",
        ["-m", "django", "imagetrove_selftest", "--port", str(site.port), "--storage-box", box.name],
    )
    eventually(lambda: Series.objects.exists(), 30, "the series is sent")
    site.kill("selftest")
    token = InstrumentConfiguration.objects.get().name.rpartition("-")[2]
    assert User.objects.filter(username=trial.Names(token).stranger).exists()
    lines, well = run(remove=token)
    assert well, "\n".join(lines)
    assert everything() == before


def test_of_a_spool_elsewhere_it_says_that_files_are_left_there(site, run, settings, tmp_path):
    site.start_receiver(closed=True)
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": str(tmp_path / "other")}
    lines, well = run(timeout=4)
    assert not well
    (said,) = [line for line in lines if line.startswith("removal")]
    (uid,) = site.spool.series_uids()
    assert f"but in another spool: remove series/{uid} there" in said
    assert not FilterRun.objects.exists() and not Group.objects.exists()


def test_access_that_is_too_wide_is_told(site, run, everything, monkeypatch):
    site.start_worker()
    site.start_receiver(closed=True)
    before = everything()
    made = trial.make_people

    def make_people(names):
        people = made(names)
        people.stranger.groups.add(Group.objects.get(name=names.group))
        return people

    monkeypatch.setattr(trial, "make_people", make_people)
    lines, well = run()
    assert not well
    assert "permission       FAILED  a stranger may see the dataset" in lines
    assert any(line.startswith("download         FAILED  a stranger can download") for line in lines)
    assert everything() == before


def test_files_that_come_back_changed_are_told(site, run, everything, monkeypatch):
    site.start_worker()
    site.start_receiver(closed=True)
    before = everything()
    fetch = mytardis().fetch

    def damaged(datafile_id, path):
        sums = fetch(datafile_id, path)
        if path.name.endswith(".nii.gz"):
            path.write_bytes(b"no image")
        return sums

    monkeypatch.setattr(mytardis(), "fetch", damaged)
    lines, well = run()
    assert not well
    assert [line[:16].strip() for line in lines if line[17:23] == "FAILED"] == ["filter nifti"]
    assert everything() == before


def test_a_box_that_does_not_exist_is_told(site, run):
    lines, well = run(storage_box="nothing")
    assert (lines, well) == (["Storage box 'nothing' does not exist."], False)
