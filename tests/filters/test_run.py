"""Running filters: outputs are recorded once and verified, and failures stay where they happen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tardis_imagetrove.errors import PermanentError, RetriableError
from tardis_imagetrove.filters.base import DicomSeries, Filter, FilterResult, Output
from tardis_imagetrove.filters.run import run_filter
from tardis_imagetrove.ingest.series import ingest_series, refresh_state
from tardis_imagetrove.models import FilterOutput, FilterRun, Series
from tardis_imagetrove.mytardis import mytardis

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
        refresh_state(series_id)
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
        (ZeroDivisionError("oops"), "failed", "unexpected ZeroDivisionError: oops"),
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
    assert "no filter 'counting'" in do(runs["counting"], scratch).reason


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
