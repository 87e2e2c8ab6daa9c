"""Running filters: outputs are recorded once and verified, and failures stay where they happen."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pydicom
import pytest

from tardis_imagetrove.conversion.run import run_filter, run_filters
from tardis_imagetrove.errors import PermanentError, RetriableError
from tardis_imagetrove.filters.base import DicomSeries, Filter, FilterResult, Makes, Option, Output, Takes
from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import LOST_ATTEMPTS, FilterOutput, FilterRun, Series
from tardis_imagetrove.mytardis import mytardis
from tardis_imagetrove.sandbox.programs import run_program

from ..conftest import deliver, phantom, series_uid

pytestmark = pytest.mark.django_db(transaction=True)


class CountingFilter(Filter):
    """Writes how many files there are; does what the test tells it before."""

    name, title, version = "counting", "Count", "7"
    before = staticmethod(lambda: None)
    result: dict = {}

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        type(self).before()
        path = out / f"{series.name}.txt"
        path.write_text(str(len(series.files)))
        return FilterResult(
            (Output(path, "text/plain", "Count"),), converter="counter 1.0", **type(self).result
        )


class OtherFilter(CountingFilter):
    name = "other"

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        return FilterResult(skipped="nothing to make")


@pytest.fixture
def runs(spool, scratch, configuration, tmp_path, settings, monkeypatch) -> dict[str, int]:
    settings.IMAGETROVE = {
        **settings.IMAGETROVE,
        "FILTERS": [f"{__name__}.CountingFilter", f"{__name__}.OtherFilter"],
    }
    monkeypatch.setattr(CountingFilter, "before", staticmethod(lambda: None))
    monkeypatch.setattr(CountingFilter, "result", {})
    paths = phantom(tmp_path / "in", slices=3)
    deliver(spool, *paths)
    ids = ingest_series(spool, series_uid(paths[0]), ("counting", "other"), scratch)
    return {run.filter: run.pk for run in FilterRun.objects.filter(pk__in=ids)}


def do(run_id: int, scratch: Path) -> FilterRun:
    series_id = run_filter(run_id, scratch, 60)
    if series_id is not None:
        states.refresh(series_id)
    return FilterRun.objects.get(pk=run_id)


def raising(error: Exception):
    def before() -> None:
        raise error

    return staticmethod(before)


def test_an_output_lies_beside_the_dicom_verified(runs, scratch, tmp_path):
    run = do(runs["counting"], scratch)
    assert (run.state, run.converter, run.filter_version) == (FilterRun.State.DONE, "counter 1.0", "7")
    datafile = FilterOutput.objects.get().datafile
    assert (datafile.directory, datafile.filename, datafile.mimetype) == (
        "0003_t1_phantom_oblique",
        "0003_t1_phantom_oblique.txt",
        "text/plain",
    )
    assert datafile.file_objects.get().verify()
    mytardis().fetch(datafile.pk, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "3"
    assert not list(scratch.iterdir())


class Quoting(CountingFilter):
    """Says which file it is about, as libraries do: by its path."""

    name = "quoting"

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        if len(series.files) < 3:
            raise ValueError(f"cannot make sense of {series.files[0]}")
        return FilterResult(warnings=(f"'{series.files[0]}' is odd",))


@pytest.mark.parametrize("slices", [2, 3])
def test_words_of_a_run_name_files_without_the_folders_of_this_machine(
    slices, spool, scratch, configuration, tmp_path, settings
):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTERS": [f"{__name__}.Quoting"]}
    paths = phantom(tmp_path / "in", slices=slices)
    deliver(spool, *paths)
    (run_id,) = ingest_series(spool, series_uid(paths[0]), ("quoting",), scratch)
    run = do(run_id, scratch)
    words = [run.reason, *run.warnings, Series.objects.get().reason]
    # by the name that the file has in the archive, the only one that a reader can find
    assert any(f"{pydicom.dcmread(path).SOPInstanceUID}.dcm" in run.reason for path in paths)
    assert not any("/" in text for text in words), words


def test_a_run_that_was_done_is_not_done_again(runs, scratch):
    do(runs["counting"], scratch)
    assert run_filter(runs["counting"], scratch, 60) is None
    assert FilterOutput.objects.count() == 1


def test_a_repeated_run_replaces_its_outputs(runs, scratch):
    do(runs["counting"], scratch)
    FilterRun.objects.filter(pk=runs["counting"]).update(state=FilterRun.State.QUEUED)
    run = do(runs["counting"], scratch)
    assert (run.state, run.attempts) == (FilterRun.State.DONE, 2)
    assert FilterOutput.objects.get().datafile.file_objects.get().verify()


def again(run_id: int, scratch: Path) -> FilterRun:
    FilterRun.objects.filter(pk=run_id).update(state=FilterRun.State.QUEUED)
    return do(run_id, scratch)


def stored(tmp_path: Path) -> dict[str, bytes]:
    """All that lies in the storage box beside the archive."""
    return {
        path.relative_to(tmp_path / "store").as_posix(): path.read_bytes()
        for path in (tmp_path / "store").rglob("*")
        if path.is_file() and path.suffix != ".zip"
    }


def test_a_repeated_run_leaves_nothing_of_the_former(runs, scratch, tmp_path):
    from tardis.tardis_portal.models import DataFile

    for _ in range(3):
        again(runs["counting"], scratch)
    datafile = FilterOutput.objects.get().datafile
    assert datafile.directory == "0003_t1_phantom_oblique"
    assert DataFile.objects.filter(filename__endswith=".txt").get() == datafile
    assert list(stored(tmp_path)) == [datafile.file_objects.get().uri]


@pytest.mark.parametrize("where", ["store", "register", "set_aside"])
def test_a_repeated_run_that_cannot_be_kept_leaves_the_former_outputs(
    runs, scratch, tmp_path, monkeypatch, where
):
    do(runs["counting"], scratch)
    former, lay = FilterOutput.objects.get().datafile, stored(tmp_path)

    def away(*arguments):
        raise RetriableError("the storage box is away")

    with monkeypatch.context() as patch:
        patch.setattr(type(mytardis()), where, staticmethod(away))
        run = again(runs["counting"], scratch)
    assert (run.state, run.reason) == (FilterRun.State.WAITING, "the storage box is away")
    kept = FilterOutput.objects.get().datafile
    assert (kept.pk, kept.directory) == (former.pk, former.directory)
    assert kept.file_objects.get().verify()
    assert stored(tmp_path) == lay
    assert again(runs["counting"], scratch).state == FilterRun.State.DONE
    assert FilterOutput.objects.get().datafile_id != former.pk
    assert len(stored(tmp_path)) == 1


def test_a_repeated_run_that_fails_leaves_the_former_outputs(runs, scratch, monkeypatch):
    do(runs["counting"], scratch)
    former = FilterOutput.objects.get().datafile
    monkeypatch.setattr(CountingFilter, "before", raising(PermanentError("no pixels")))
    assert again(runs["counting"], scratch).state == FilterRun.State.FAILED
    assert FilterOutput.objects.get().datafile == former
    assert former.file_objects.get().verify()


class Killed(BaseException):
    """As if the process ended here."""


def test_what_killed_attempts_left_is_removed_by_the_next(runs, scratch, tmp_path, monkeypatch):
    do(runs["counting"], scratch)

    def killed(*arguments):
        raise Killed

    # Once between recording and removing the former, once between storing and recording.
    for where in ({"remove_datafiles": killed}, {"register": killed, "discard": lambda *arguments: None}):
        FilterRun.objects.filter(pk=runs["counting"]).update(state=FilterRun.State.QUEUED)
        with monkeypatch.context() as patch:
            for name, replacement in where.items():
                patch.setattr(type(mytardis()), name, staticmethod(replacement))
            with pytest.raises(Killed):
                run_filter(runs["counting"], scratch, 60)
        assert FilterRun.objects.get(pk=runs["counting"]).state == FilterRun.State.RUNNING
        assert len(stored(tmp_path)) > 1
    assert again(runs["counting"], scratch).state == FilterRun.State.DONE
    datafile = FilterOutput.objects.get().datafile
    assert datafile.directory == "0003_t1_phantom_oblique"
    assert list(stored(tmp_path)) == [datafile.file_objects.get().uri]


def test_a_run_of_an_older_archive_is_not_put_before_the_newest(runs, scratch, spool, tmp_path):
    series = Series.objects.get()
    paths = phantom(tmp_path / "late", slices=4, series_uid=series.series_uid, study_uid=series.study_uid)
    deliver(spool, paths[3])
    ingest_series(spool, series.series_uid, ("counting", "other"), scratch)
    run = again(runs["counting"], scratch)
    assert (run.state, run.reason) == (FilterRun.State.SKIPPED, "late instances made version 2")
    assert not FilterOutput.objects.filter(run=run).exists()


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (PermanentError("(0028,0010) Rows is 0"), "failed", "(0028,0010) Rows is 0"),
        (RetriableError("scratch disk is full"), "waiting", "scratch disk is full"),
        (OSError(28, "No space left on device"), "waiting", "No space left on device"),
        (ZeroDivisionError("oops"), "failed", "the filter has a fault (ZeroDivisionError)"),
    ],
)
def test_trouble_is_the_runs_alone_and_said(runs, scratch, monkeypatch, error, state, words):
    monkeypatch.setattr(CountingFilter, "before", raising(error))
    run = do(runs["counting"], scratch)
    assert run.state == state
    assert words in run.reason
    assert do(runs["other"], scratch).state == FilterRun.State.SKIPPED
    series = Series.objects.get()
    assert series.state == (Series.State.PARTIAL if state == "failed" else Series.State.CONVERTING)
    assert words in series.reason


def test_warnings_make_a_run_partial_and_keep_its_output(runs, scratch, monkeypatch):
    monkeypatch.setattr(CountingFilter, "result", {"warnings": ("1 slice is missing",)})
    run = do(runs["counting"], scratch)
    assert (run.state, run.reason) == (FilterRun.State.PARTIAL, "1 slice is missing")
    do(runs["other"], scratch)
    assert (Series.objects.get().state, Series.objects.get().reason) == (
        Series.State.PARTIAL,
        "counting: 1 slice is missing",
    )
    assert FilterOutput.objects.count() == 1


def test_a_worker_that_was_overtaken_records_nothing(runs, scratch, monkeypatch):
    def overtake() -> None:
        FilterRun.objects.filter(pk=runs["counting"]).update(attempts=9)

    monkeypatch.setattr(CountingFilter, "before", staticmethod(overtake))
    assert run_filter(runs["counting"], scratch, 60) is None
    assert not FilterOutput.objects.exists()
    assert FilterRun.objects.get(pk=runs["counting"]).state == FilterRun.State.RUNNING


def test_a_filter_that_the_site_no_longer_has_is_named(runs, scratch, settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTERS": []}
    assert "filter 'counting' is not in" in do(runs["counting"], scratch).reason


def test_a_damaged_archive_waits_for_the_box_and_says_which_file(runs, scratch):
    archive = Series.objects.get().archives.get()
    path = Path(archive.datafile.file_objects.get().get_full_path())
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    run = do(runs["counting"], scratch)
    assert run.state == FilterRun.State.WAITING
    assert archive.datafile.filename in run.reason
    path.write_bytes(content)
    FilterRun.objects.filter(pk=run.pk).update(state=FilterRun.State.QUEUED)
    assert do(run.pk, scratch).state == FilterRun.State.DONE


# What is recorded


def test_notes_are_kept_and_leave_the_run_done(runs, scratch, monkeypatch):
    monkeypatch.setattr(CountingFilter, "result", {"notes": ("the times are rounded",)})
    run = do(runs["counting"], scratch)
    assert (run.state, run.warnings) == (FilterRun.State.DONE, [])
    assert [(reason.code, reason.text) for reason in run.why] == [("note", "the times are rounded")]


def test_a_run_records_its_input_its_cost_and_that_its_process_ended_well(runs, scratch, monkeypatch):
    monkeypatch.setattr(CountingFilter, "result", {"warnings": ("1 slice is missing", "a gap; of 3 mm")})
    run = do(runs["counting"], scratch)
    assert run.input_sha512 == Series.objects.get().archives.get().sha512
    assert run.warnings == ["1 slice is missing", "a gap; of 3 mm"]
    assert (run.exit_status, run.programs, run.options) == (0, [], {})
    assert run.seconds > 0
    assert run.memory_mib > 20


def test_programs_are_recorded_also_of_a_run_that_fails(runs, scratch, monkeypatch):
    def before() -> None:
        run_program(["sh", "-c", "exit 3"], time_limit=60, memory_limit=1 << 30)
        raise PermanentError("it gave 3")

    monkeypatch.setattr(CountingFilter, "before", staticmethod(before))
    run = do(runs["counting"], scratch)
    assert (run.state, run.exit_status) == (FilterRun.State.FAILED, 3)
    assert [program["arguments"] for program in run.programs] == [["sh", "-c", "exit 3"]]
    monkeypatch.setattr(CountingFilter, "before", staticmethod(lambda: None))
    assert again(runs["counting"], scratch).programs == [], "the record is the last attempt's"


def test_options_are_the_sites_and_are_recorded(runs, scratch, monkeypatch, settings):
    monkeypatch.setattr(CountingFilter, "options", (Option("bins", 64, "Number of bins.", least=1),))
    seen = scratch / "seen"

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        seen.write_text(str(dict(series.options)))
        return FilterResult()

    monkeypatch.setattr(CountingFilter, "run", run)
    assert do(runs["counting"], scratch).options == {"bins": 64}
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTER_OPTIONS": {"counting": {"bins": 12}}}
    assert again(runs["counting"], scratch).options == {"bins": 12}
    assert seen.read_text() == "{'bins': 12}"
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTER_OPTIONS": {"counting": {"bins": 0}}}
    run = again(runs["counting"], scratch)
    assert run.state == FilterRun.State.FAILED
    assert "IMAGETROVE['FILTER_OPTIONS']['counting']['bins'] is 0: it must be at least 1" in run.reason


# What a filter takes and makes


@pytest.mark.parametrize(
    ("takes", "words"),
    [
        (Takes(modalities=frozenset({"CT", "PT"})), "The series is MR, and this is for CT, PT"),
        (Takes(pixels=True), "The series has no pixels (Basic Text SR Storage)"),
    ],
)
def test_what_is_nothing_for_a_filter_is_skipped_without_being_fetched(
    runs, scratch, monkeypatch, takes, words, tmp_path
):
    monkeypatch.setattr(CountingFilter, "takes", takes)
    Series.objects.get().instances.update(sop_class_uid="1.2.840.10008.5.1.4.1.1.88.11")
    shutil.rmtree(tmp_path / "store")  # the storage box is away
    run = do(runs["counting"], scratch)
    assert (run.state, run.reason) == (FilterRun.State.SKIPPED, words)
    assert (run.filter_version, run.input_sha512) == ("7", "")


def test_a_file_that_a_filter_does_not_list_is_its_mistake(runs, scratch, monkeypatch):
    monkeypatch.setattr(CountingFilter, "makes", (Makes("Count", "text/csv"),))
    run = do(runs["counting"], scratch)
    assert run.state == FilterRun.State.FAILED
    assert run.reason == "0003_t1_phantom_oblique.txt: the filter does not list Count as text/plain"
    assert not FilterOutput.objects.exists()


# Limits


def test_a_filter_that_hangs_is_stopped_after_the_time_that_the_site_gives_it(
    runs, scratch, monkeypatch, settings
):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTER_OPTIONS": {"counting": {"seconds": 1}}}
    monkeypatch.setattr(CountingFilter, "before", staticmethod(lambda: time.sleep(600)))
    run = do(runs["counting"], scratch)
    assert (run.state, run.reason) == (FilterRun.State.FAILED, "it did not finish within 1 s and was stopped")
    assert do(runs["other"], scratch).state == FilterRun.State.SKIPPED


def test_a_filter_that_eats_memory_fails_and_says_what_it_may_use(runs, scratch, monkeypatch, settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTER_OPTIONS": {"counting": {"memory_mib": 100}}}
    monkeypatch.setattr(CountingFilter, "before", staticmethod(lambda: bytearray(300 << 20)))
    run = do(runs["counting"], scratch)
    assert run.state == FilterRun.State.FAILED
    assert run.reason == "out of memory: it needs more than its limit of 100 MiB"


def test_a_filter_that_crashes_fails_at_once(runs, scratch, monkeypatch):
    def crash() -> None:
        faulthandler.disable()  # pytest's, which would print where it is
        os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setattr(CountingFilter, "before", staticmethod(crash))
    run = do(runs["counting"], scratch)
    assert (run.state, run.exit_status) == (FilterRun.State.FAILED, -signal.SIGSEGV)
    assert "SIGSEGV" in run.reason


def test_a_filter_that_is_killed_is_tried_again_a_few_times(runs, scratch, monkeypatch):
    monkeypatch.setattr(CountingFilter, "before", staticmethod(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    for _ in range(LOST_ATTEMPTS - 1):
        assert again(runs["counting"], scratch).state == FilterRun.State.WAITING
    monkeypatch.setattr(CountingFilter, "before", staticmethod(lambda: None))
    assert again(runs["counting"], scratch).lost == 0
    monkeypatch.setattr(CountingFilter, "before", staticmethod(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    ends = [again(runs["counting"], scratch) for _ in range(LOST_ATTEMPTS)]
    assert [run.state for run in ends] == [FilterRun.State.WAITING] * (LOST_ATTEMPTS - 1) + ["failed"]
    assert f"{LOST_ATTEMPTS} times in a row" in ends[-1].reason


# Several filters over one copy


def test_all_that_is_queued_for_an_archive_is_done_over_one_copy(runs, scratch, monkeypatch, tmp_path):
    fetched, fetch = [], type(mytardis()).fetch
    monkeypatch.setattr(type(mytardis()), "fetch", lambda *arguments: fetched.append(1) or fetch(*arguments))
    series = Series.objects.get()
    assert list(run_filters(runs["counting"], scratch, 60)) == [series.pk] * 2
    assert {run.state for run in FilterRun.objects.all()} == {"done", "skipped"}
    assert len(fetched) == 1
    assert FilterRun.objects.get(filter="other").input_sha512 == series.archives.get().sha512
    assert not list(scratch.iterdir())


def test_a_message_that_comes_again_does_nothing_again(runs, scratch):
    list(run_filters(runs["counting"], scratch, 60))
    assert list(run_filters(runs["counting"], scratch, 60)) == []
    assert set(FilterRun.objects.values_list("attempts", flat=True)) == {1}


def test_a_filter_that_waits_is_not_tried_again_in_the_same_breath(runs, scratch, monkeypatch):
    monkeypatch.setattr(CountingFilter, "before", raising(RetriableError("scratch disk is full")))
    assert len(list(run_filters(runs["counting"], scratch, 60))) == 2
    run = FilterRun.objects.get(filter="counting")
    assert (run.state, run.attempts) == (FilterRun.State.WAITING, 1)


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform == "linux", reason="root may write anything")
def test_a_filter_cannot_change_what_the_next_one_reads(runs, scratch, monkeypatch):
    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        series.files[0].write_bytes(b"spoilt")
        return FilterResult()

    monkeypatch.setattr(CountingFilter, "run", run)
    assert do(runs["counting"], scratch).state == FilterRun.State.WAITING
