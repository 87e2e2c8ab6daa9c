"""``imagetrove_status``: what an operator and a monitor are told of a site, also when parts of it are away."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Archive, Event, FilterRun, Series
from tardis_imagetrove.reasons import Reason
from tardis_imagetrove.scp import receiving_mark

from ..conftest import deliver, phantom, series_uid, why
from ..site import HOST, REPOSITORY

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def site(spool, settings, owner):
    """A spool with a receiver, as far as the status can see."""
    settings.IMAGETROVE = {"SPOOL": str(spool.root), "SPOOL_RESERVE_MIB": 0}
    with receiving_mark(spool):
        yield spool


def run(*arguments: str) -> tuple[int, str]:
    """The command's status and what it wrote."""
    out = StringIO()
    try:
        call_command("imagetrove_status", *arguments, stdout=out)
    except SystemExit as end:
        return end.code, out.getvalue()
    return 0, out.getvalue()


def ingested(spool, scratch, folder, **kwargs) -> Series:
    paths = phantom(folder, slices=2, **kwargs)
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), ("nifti", "metadata"), scratch)
    return Series.objects.get(series_uid=series_uid(paths[0]))


def test_an_empty_site_is_well(site):
    code, said = run()
    assert code == 0
    assert "0 files of 0 series, 0 bytes" in said
    assert "Series: none\nFilter runs: none\n" in said


def test_a_spool_that_was_never_used_is_not_made(site, settings, tmp_path):
    settings.IMAGETROVE = {"SPOOL": str(tmp_path), "SPOOL_RESERVE_MIB": 0}
    code, said = run()
    assert (code, said.count("PROBLEM")) == (1, 1)
    assert f"PROBLEM no receiver runs on {tmp_path}" in said
    assert not (tmp_path / "series").exists()


def test_a_spool_in_its_reserve_is_a_problem(site, settings):
    settings.IMAGETROVE = {"SPOOL": str(site.root), "SPOOL_RESERVE_MIB": 10**9}
    code, said = run()
    assert code == 1
    assert "free space is below the reserve of 1000000000 MiB; the receiver refuses every instance" in said
    assert [one["code"] for one in json.loads(run("--json")[1])["problems"]] == ["in-reserve"]


def test_a_clock_that_was_set_back_is_a_problem(site):
    states.received("1.2.3")
    Event.objects.update(at=timezone.now() + timedelta(hours=3))
    code, said = run()
    assert code == 1
    assert re.search("PROBLEM this machine's clock is 10[78][0-9][0-9] s behind", said)


def test_a_reader_that_stops_reading_gets_no_traceback(site):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), HOST])}
    environment |= {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "IMAGETROVE_TEST_DATABASE": str(connection.settings_dict["NAME"]),
    }
    for number in range(3000):
        Series.objects.create(series_uid=f"1.2.{number}", description="x" * 200, state=Series.State.HELD)
    command = f"{sys.executable} -m django imagetrove_status | head -1"
    done = subprocess.run(command, shell=True, cwd=HOST, env=environment, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_a_spool_that_is_a_file_is_told(site, settings, tmp_path):
    (tmp_path / "file").write_text("")
    settings.IMAGETROVE = {"SPOOL": str(tmp_path / "file")}
    code, said = run()
    assert (code, f"{tmp_path}/file is not a folder" in said) == (1, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPOOL", 5),
        ("SPOOL", "/a\0b"),
        ("SPOOL_RESERVE_MIB", "512"),
        ("STALL_SECONDS", float("nan")),
        ("CONVERT_QUEUE", ["a"]),
        ("SCRATCH", 5),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named_and_the_rest_is_told(site, settings, name, value):
    settings.IMAGETROVE = {**settings.IMAGETROVE, name: value}
    code, said = run()
    assert code == 1
    assert said.count(f"IMAGETROVE[{name!r}] is ") == 1
    assert "Series: none" in said
    code, said = run("--json")
    assert code == 1
    assert f"IMAGETROVE[{name!r}] is " in json.loads(said)["settings_problems"][0]


def test_settings_that_are_no_dictionary_are_told(site, settings):
    settings.IMAGETROVE = ["SPOOL"]
    code, said = run()
    assert (code, "IMAGETROVE must be a dictionary, and is of type list" in said) == (1, True)
    assert "Series: none" in said


def test_what_waits_is_listed_and_is_no_failure(site, tmp_path):
    paths = phantom(tmp_path / "in", slices=3)
    deliver(site, *paths)
    uid = series_uid(paths[0])
    states.wait(uid, Reason("test", "storage box full: no space"))
    code, said = run()
    assert code == 0
    assert f"3 files of 1 series, {sum(path.stat().st_size for path in paths) / 1024:.1f} KiB" in said
    assert f"waiting longest: {uid}, for 0 min" in said
    assert "Series: 1 waiting" in said
    assert f"waiting {uid} \n    storage box full: no space\n" in said


def test_what_is_held_and_what_failed_end_with_status_one(site, configuration, scratch, tmp_path):
    states.hold("1.2.3", Reason("test", "matches no instrument"))
    code, said = run()
    assert code == 1
    assert "held 1.2.3 \n    matches no instrument" in said
    Series.objects.all().delete()

    series = ingested(site, scratch, tmp_path / "in")
    assert run()[0] == 0  # filters that wait their turn
    FilterRun.objects.filter(filter="nifti").update(state=FilterRun.State.FAILED, reasons=why("no dcm2niix"))
    code, said = run()
    assert code == 1
    assert "Filter runs: 1 queued, 1 failed" in said
    assert f"failed {series.series_uid} t1_phantom_oblique\n    nifti: no dcm2niix" in said


def test_a_failure_on_a_former_version_is_over(site, configuration, scratch, tmp_path):
    paths = phantom(tmp_path / "in", slices=3)
    uid = series_uid(paths[0])
    for some in (paths[:2], paths[2:]):
        deliver(site, *some)
        ingest_series(site, uid, ("nifti",), scratch)
    assert Archive.objects.count() == 2
    FilterRun.objects.filter(archive__version=1).update(state=FilterRun.State.FAILED)
    code, said = run()
    assert code == 0
    assert "Filter runs: 1 queued\n" in said


def test_json_holds_the_same_for_programs(site, configuration, scratch, tmp_path):
    series = ingested(site, scratch, tmp_path / "in")
    FilterRun.objects.filter(filter="nifti").update(state=FilterRun.State.FAILED, reasons=why("näh"))
    waiting = phantom(tmp_path / "more", slices=2)
    deliver(site, *waiting)
    states.hold(series_uid(waiting[0]), Reason("test", "why"))
    code, said = run("--json")
    found = json.loads(said)
    assert (code, found["well"], found["database_problem"]) == (1, False, "")
    assert found["series"] | {"held": 1, "converting": 1} == found["series"]
    assert found["series"].keys() == set(Series.State.values)
    assert found["filter_runs"] | {"queued": 1, "failed": 1} == found["filter_runs"]
    assert found["listed"] == [
        {"series_uid": series_uid(waiting[0]), "description": "", "state": "held", "reason": "why"}
    ]
    assert found["failed"] == [
        {
            "series_uid": series.series_uid,
            "description": "t1_phantom_oblique",
            "filter": "nifti",
            "reason": "näh",
        }
    ]
    spool = found["spool"]
    assert (spool["files"], spool["series"], spool["oldest_series"]) == (2, 1, series_uid(waiting[0]))
    assert spool["bytes"] == sum(path.stat().st_size for path in waiting)
    assert spool["free_bytes"] > 0 and spool["oldest_since"].endswith("+00:00")


def test_the_states_to_list_may_be_chosen(site):
    states.hold("1.2.3", Reason("test", "h"))
    states.wait("1.2.4", Reason("test", "w"))
    Series.objects.create(series_uid="1.2.5", state=Series.State.DONE)
    listed = [
        one["series_uid"]
        for one in json.loads(run("--json", "--state", "done", "--state", "held")[1])["listed"]
    ]
    assert listed == ["1.2.5", "1.2.3"]


def test_with_the_database_away_the_spool_is_still_told(site, tmp_path):
    deliver(site, *phantom(tmp_path / "in", slices=2))
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "IMAGETROVE_TEST_DATABASE": str(tmp_path / "no" / "such" / "database"),
        "IMAGETROVE_TEST_SETTINGS": json.dumps({"SPOOL": str(site.root), "SPOOL_RESERVE_MIB": 0}),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), HOST]),
    }
    command = [sys.executable, "-m", "django", "imagetrove_status"]
    done = subprocess.run([*command, "--json"], cwd=HOST, env=environment, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert (done.returncode, found["well"], found["spool"]["files"]) == (1, False, 2)
    assert "unable to open database file" in found["database_problem"]
    done = subprocess.run(command, cwd=HOST, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "2 files of 1 series" in done.stdout
    assert "the database is unreachable: unable to open database file" in done.stdout


@pytest.mark.parametrize("folder", [None, "/nowhere/at/all"])
def test_without_a_spool_the_records_are_still_told(site, settings, folder):
    settings.IMAGETROVE = {"SPOOL": folder}
    states.wait("1.2.4", Reason("test", "w"))
    code, said = run()
    assert code == 1
    assert ("is not set" if folder is None else folder) in said
    assert "Series: 1 waiting" in said


def test_with_the_broker_away_the_rest_is_still_told(site, monkeypatch):
    from kombu import Connection
    from tardis.celery import tardis_app

    away = lambda *_, **__: Connection("amqp://127.0.0.1:1//")  # noqa: E731
    monkeypatch.setattr(type(tardis_app), "connection_for_write", away)
    code, said = run()
    assert code == 1
    assert "PROBLEM the broker is unreachable: " in said
    assert "Connection refused" in said
    assert "Series: none" in said
    code, said = run("--json")
    assert (code, "Connection refused" in json.loads(said)["broker_problem"]) == (1, True)
