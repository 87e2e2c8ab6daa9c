"""``imagetrove_convert``: archived series are converted again where they have to be, and folders without MyTARDIS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import nibabel
import pydicom
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pydicom.fileset import FileSet

from tardis_imagetrove import tasks
from tardis_imagetrove.errors import PermanentError, RetriableError
from tardis_imagetrove.filters.base import DicomSeries, Filter, FilterResult, Option, Output
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import (
    Archive,
    DatasetKey,
    ExperimentKey,
    FilterOutput,
    FilterRun,
    InstrumentConfiguration,
    Series,
)

from ..conftest import deliver, phantom, series_uid
from ..site import HOST, REPOSITORY, Site

NAME = "0003_t1_phantom_oblique"


class CountFilter(Filter):
    """Writes its version and the number of files; fails on series that the test names."""

    name, title, version = "count", "Count", "1"
    fails: dict[str, Exception] = {}

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        uid = series_uid(series.files[0])
        if uid in type(self).fails:
            raise type(self).fails[uid]
        path = out / f"{series.name}.txt"
        path.write_text(f"version {self.version}: {len(series.files)} files")
        return FilterResult((Output(path, "text/plain", "Count"),), converter="counter 1.0")


class NewFilter(CountFilter):
    name, title = "new", "New"

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        return FilterResult(skipped="nothing to make", converter="none")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def convert(*arguments, stdout: StringIO | None = None, **options) -> str:
    out = stdout or StringIO()
    call_command("imagetrove_convert", *arguments, stdout=out, stderr=out, **options)
    return out.getvalue()


def refused(*arguments, **options) -> str:
    """What is written, and why it ends with an error."""
    out = StringIO()
    with pytest.raises(CommandError) as error:
        convert(*arguments, stdout=out, **options)
    assert error.value.returncode != 0
    return f"{out.getvalue()}{error.value}"


# Archived series


@pytest.fixture
def filters(settings, monkeypatch):
    """Sets the site's filters."""

    def use(*kinds: type[Filter]) -> None:
        paths = [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]
        settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTERS": paths}

    monkeypatch.setattr(CountFilter, "fails", {})
    monkeypatch.setattr(CountFilter, "version", "1")
    use(CountFilter)
    return use


@pytest.fixture
def queued(queued, filters, settings, scratch):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SCRATCH": str(scratch)}
    return queued


@pytest.fixture
def working(queued, monkeypatch):
    """A worker that does what is queued while the command waits."""
    monkeypatch.setattr(time, "sleep", lambda seconds: queued.work())


@pytest.fixture
def archived(queued, spool, scratch, configuration, tmp_path) -> list[str]:
    """UIDs of three series that were archived and converted."""
    uids = []
    for name in "abc":
        paths = phantom(tmp_path / name, slices=2)
        deliver(spool, *paths)
        uids.append(series_uid(paths[0]))
        for run_id in ingest_series(spool, uids[-1], ["count"], scratch):
            tasks.run_filter(run_id)
    assert not FilterRun.objects.exclude(state="done").exists()
    return uids


def attempts() -> dict[tuple[str, str], int]:
    """How often each filter has been run on each series."""
    rows = FilterRun.objects.values_list("archive__series__series_uid", "filter", "attempts")
    return {(uid, name): times for uid, name, times in rows}


database = pytest.mark.django_db(transaction=True)


@database
@pytest.mark.parametrize("wrong", [{"CONVERT_QUEUE": ["a"]}, {"STALL_SECONDS": "x"}])
def test_a_setting_of_the_wrong_kind_is_named(archived, settings, wrong):
    settings.IMAGETROVE = {**settings.IMAGETROVE, **wrong}
    (name,) = wrong
    assert f"IMAGETROVE[{name!r}] is " in refused("--all")


def test_a_list_of_no_filters_is_told(archived):
    assert "--filters ' , ' names none. There are " in refused("--all", "--filters", " , ")


@pytest.mark.parametrize("option", ["--series", "--instrument"])
def test_what_the_shell_has_in_another_encoding_is_told(archived, option):
    assert "not text in UTF-8" in refused(option, "Gr\udcfcn")


def test_settings_that_are_no_dictionary_are_named(settings, tmp_path):
    settings.IMAGETROVE = 5
    assert "IMAGETROVE must be a dictionary" in refused(str(tmp_path), "--out", str(tmp_path / "out"))


def test_what_is_up_to_date_is_not_run_again(archived, working):
    said = convert("--all")
    assert "0 runs of 0 series to be done; 3 up to date" in said
    assert set(attempts().values()) == {1}


@database
def test_a_filter_that_is_new_is_run_on_what_was_archived_before(archived, working, filters):
    filters(CountFilter, NewFilter)
    said = convert("--all")
    assert "3 runs of 3 series to be done; 3 up to date" in said
    assert f"{archived[1]} new: skipped: nothing to make" in said
    assert attempts() == {(uid, name): 1 for uid in archived for name in ("count", "new")}
    assert set(Series.objects.values_list("state", flat=True)) == {Series.State.DONE}
    assert "0 runs of 0 series" in convert("--all")


@database
def test_a_new_version_of_a_filter_replaces_its_outputs(archived, working, monkeypatch):
    monkeypatch.setattr(CountFilter, "version", "2")
    convert("--series", archived[0], archived[1])
    assert attempts() == {(archived[0], "count"): 2, (archived[1], "count"): 2, (archived[2], "count"): 1}
    texts = [output.datafile.get_file().read() for output in FilterOutput.objects.order_by("run__attempts")]
    assert texts == [b"version 1: 2 files", b"version 2: 2 files", b"version 2: 2 files"]


@database
def test_force_runs_what_is_up_to_date(archived, working):
    convert("--series", archived[2], "--force")
    assert attempts()[archived[2], "count"] == 2
    assert FilterOutput.objects.count() == 3
    assert sum(attempts().values()) == 4


@database
def test_failures_are_listed_and_stop_nobody_and_are_run_again_next_time(archived, working, monkeypatch):
    bad = archived[1]
    monkeypatch.setattr(CountFilter, "version", "2")
    monkeypatch.setattr(CountFilter, "fails", {bad: PermanentError("(0028,0010) Rows is 0")})
    said = refused("--all")
    assert f"failed: {bad} count: (0028,0010) Rows is 0\n1 failure" in said
    assert set(attempts().values()) == {2}
    assert FilterOutput.objects.count() == 3, "what the failed one made before is still there"
    monkeypatch.setattr(CountFilter, "fails", {})
    assert "1 run of 1 series" in convert("--all")
    assert (attempts()[bad, "count"], attempts()[archived[0], "count"]) == (3, 2)
    assert set(Series.objects.values_list("state", flat=True)) == {Series.State.DONE}


@database
def test_only_the_named_filters_are_run(archived, working, filters):
    filters(CountFilter, NewFilter)
    convert("--all", "--force", "--filters", "new")
    assert attempts() == {(uid, name): 1 for uid in archived for name in ("count", "new")}
    assert "No such filter: nifty. There are count, new." in refused("--all", "--filters", "new,nifty")


@database
def test_an_instruments_list_of_filters_holds_and_is_told(archived, working, filters):
    filters(CountFilter, NewFilter)
    InstrumentConfiguration.objects.update(filters=["count"])
    assert "0 runs" in convert("--all")
    assert "Not run, since Phantom MR does not list it: new" in convert("--all", "--filters", "new")
    assert not FilterRun.objects.filter(filter="new").exists()


@database
def test_series_of_an_instrument(archived, working, owner, box):
    from ..conftest import configure

    other = configure(owner, name="Other", storage_box=box)
    Series.objects.filter(series_uid=archived[0]).update(configuration=other)
    convert("--instrument", "Other", "--force")
    assert [times for _, times in sorted(attempts().items())].count(2) == 1
    assert attempts()[archived[0], "count"] == 2
    assert "No instrument 'Othr'. There are: Other, Phantom MR." in refused("--instrument", "Othr")


@database
def test_only_the_newest_archive_is_converted(archived, working, spool, scratch, tmp_path):
    series = Series.objects.get(series_uid=archived[0])
    late = phantom(tmp_path / "late", slices=3, series_uid=series.series_uid, study_uid=series.study_uid)
    deliver(spool, late[2])
    for run_id in ingest_series(spool, series.series_uid, ["count"], scratch):
        tasks.run_filter(run_id)
    convert("--series", archived[0], "--force")
    runs = FilterRun.objects.filter(archive__series=series).order_by("archive__version")
    assert [(run.archive.version, run.attempts) for run in runs] == [(1, 1), (2, 2)]


@database
def test_a_series_that_is_not_archived_is_told_and_the_others_are_done(archived, working):
    Series.objects.create(series_uid="1.2.3")
    said = refused("--series", "1.2.3", archived[0], "9.9", "--force")
    assert "failed: 1.2.3: no archived series\nfailed: 9.9: no archived series\n2 failures" in said
    assert attempts()[archived[0], "count"] == 2


@database
def test_marking_takes_no_more_queries_for_more_series(configuration):
    from tardis.tardis_portal.models import DataFile, Dataset, Experiment

    from tardis_imagetrove.conversion import reruns as again
    from tardis_imagetrove.ingest import states

    dataset = Dataset.objects.create(description="d")
    experiment = Experiment.objects.create(title="e", created_by=configuration.owner)
    key = DatasetKey.objects.create(
        key="d", dataset=dataset, experiment_key=ExperimentKey.objects.create(key="e", experiment=experiment)
    )

    def add(count: int) -> None:
        for _ in range(count):
            number = Series.objects.count()
            file = DataFile.objects.create(
                dataset=dataset, directory="d", filename=f"{number}.zip", size=1, md5sum="0" * 32
            )
            series = Series.objects.create(
                series_uid=f"1.2.{number}",
                configuration=configuration,
                dataset_key=key,
                directory=f"{number}",
            )
            Archive.objects.create(series=series, version=1, datafile=file, sha512="", instance_count=1)

    def mark() -> again.Marked:
        with CaptureQueriesContext(connection) as queries:
            marked = again.mark(states.newest_archives(), {"count": again.Current("1")}, [], True)
        counts.append(len(queries))
        return marked

    counts: list[int] = []
    add(3)
    assert len(mark().runs) == 3
    FilterRun.objects.update(state=FilterRun.State.DONE)
    add(3)  # as below: some runs are new, others are run again
    counts.clear()
    assert len(mark().runs) == 6
    add(57)
    FilterRun.objects.update(state=FilterRun.State.DONE)
    marked = mark()
    assert len(marked.runs) == len(marked.series) == 63
    assert counts[1] <= counts[0] + 2
    experiment.delete()  # its files stay, where nobody sees them
    assert mark().runs == ()


@database
def test_other_options_of_a_filter_are_a_reason_to_run_it_again(archived, working, monkeypatch, settings):
    monkeypatch.setattr(CountFilter, "options", (Option("bins", 64, "Number of bins."),))
    assert "3 runs of 3 series" in convert("--all")
    assert "0 runs of 0 series" in convert("--all")
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTER_OPTIONS": {"count": {"bins": 12}}}
    assert "3 runs of 3 series" in convert("--all")
    assert [run.options for run in FilterRun.objects.all()] == [{"bins": 12}] * 3
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTER_OPTIONS": {"count": {"bin": 12}}}
    assert "['count']: unknown option 'bin'; the options are bins, seconds, memory_mib" in refused("--all")


@database
def test_several_filters_of_a_series_are_one_message(archived, queued, filters):
    filters(CountFilter, NewFilter)
    convert("--all", "--force", "--no-wait")
    assert len(queued) == 3
    queued.work()
    assert attempts() == {
        (uid, name): 2 if name == "count" else 1 for uid in archived for name in ("count", "new")
    }


@database
def test_without_waiting_the_runs_are_queued(archived, queued):
    said = convert("--all", "--force", "--no-wait")
    assert "3 runs of 3 series to be done" in said
    assert len(queued) == 3
    assert set(Series.objects.values_list("state", flat=True)) == {Series.State.CONVERTING}
    queued.work()
    assert set(attempts().values()) == {2}


@database
def test_interrupted_it_goes_on_where_it_stopped(archived, queued, monkeypatch):
    monkeypatch.setattr(CountFilter, "version", "2")

    def interrupted(seconds: float) -> None:
        if not FilterRun.objects.filter(attempts=2).exists():
            queued.work(1)
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    assert "Stopped waiting; the runs go on. The same command waits for the rest." in refused("--all")
    queued.clear()  # the broker too has lost them
    monkeypatch.setattr(time, "sleep", lambda seconds: queued.work())
    assert "2 runs of 2 series to be done; 1 up to date" in convert("--all")
    assert set(attempts().values()) == {2}


@database
def test_with_the_broker_away_the_runs_are_marked_for_later(archived, queued):
    queued.away = True
    assert "The runs are marked and go on by themselves" in refused("--all", "--force")
    assert set(FilterRun.objects.values_list("state", flat=True)) == {FilterRun.State.QUEUED}


@database
def test_what_waits_is_told_once_and_waited_for(archived, queued, monkeypatch):
    monkeypatch.setattr(CountFilter, "fails", {archived[0]: RetriableError("the disk is full")})
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            CountFilter.fails = {}
            FilterRun.objects.filter(state="waiting").update(state="queued")  # as the watcher does
            tasks.queue_run(FilterRun.objects.get(state="queued").pk)
        queued.work()

    monkeypatch.setattr(time, "sleep", sleep)
    said = convert("--series", archived[0], "--force")
    assert said.count(f"{archived[0]} count: waiting: the disk is full\n") == 1
    assert f"[1/1] {archived[0]} count: done\n" in said


@database
def test_without_a_worker_it_says_so(archived, queued, settings, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        clock[0] += settings.IMAGETROVE["STALL_SECONDS"] / 2
        if clock[0] > 20:
            queued.work()

    monkeypatch.setattr(time, "sleep", sleep)
    said = convert("--series", archived[0], "--force")
    assert said.count("Nothing has moved for 4 s, 1 run to go: does a Celery worker run?") == 1


@database
def test_a_series_that_is_deleted_meanwhile_does_not_hang_it(archived, queued, monkeypatch):
    def sleep(seconds: float) -> None:
        Series.objects.filter(series_uid=archived[0]).delete()
        queued.work()

    monkeypatch.setattr(time, "sleep", sleep)
    assert "1 deleted, 2 done" in convert("--all", "--force")


@database
def test_on_a_terminal_there_is_a_bar_and_elsewhere_lines(archived, working, monkeypatch):
    monkeypatch.setattr(CountFilter, "fails", {archived[1]: PermanentError("no pixels")})
    screen = Terminal()
    with pytest.raises(CommandError):
        convert("--all", "--force", stdout=screen)
    shown = screen.getvalue()
    assert "\r\x1b[K[##############################] 3/3" in shown
    assert "\r\x1b[K[..............................] 0/3" in shown
    assert f"\r\x1b[K[2/3] {archived[1]} count: failed: no pixels\n" in shown
    assert f"{archived[0]} count: done\n" not in shown
    monkeypatch.setattr(CountFilter, "fails", {})
    plain = convert("--all", "--force")
    assert f"{archived[0]} count: done\n" in plain
    assert "\r" not in plain


@database
def test_a_package_that_is_broken_is_a_failure_and_stops_no_filter(archived, working, tmp_path, monkeypatch):
    info = tmp_path / "site" / "broken_extras-1.0.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: broken-extras\nVersion: 1.0\n")
    info.joinpath("entry_points.txt").write_text("[tardis_imagetrove.filters]\nbad = nowhere:Bad\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert "distribution broken-extras, entry point bad = nowhere:Bad cannot" in refused("--all", "--force")
    assert set(attempts().values()) == {2}
    assert "failed" not in convert("--all", "--force", "--filters", "count")


@database
@pytest.mark.slow
def test_a_worker_of_its_own_does_what_the_command_waits_for(spool, scratch, configuration, tmp_path):
    paths = phantom(tmp_path / "in", slices=2)
    deliver(spool, *paths)
    uid = series_uid(paths[0])
    ingest_series(spool, uid, ["metadata"], scratch)
    site = Site(tmp_path)
    try:
        site.start_worker()
        said = convert("--series", uid, "--filters", "metadata,picture")
    finally:
        site.stop()
    assert "2 runs of 1 series to be done" in said
    assert "2 done" in said
    assert set(FilterRun.objects.values_list("filter", "state")) == {
        ("metadata", "done"),
        ("picture", "done"),
    }


# Folders: nothing here is marked for the database, which pytest-django then refuses


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_each_series_of_a_folder_gets_a_folder_of_its_own(tmp_path):
    first = phantom(tmp_path / "in" / "one")
    for path in phantom(tmp_path / "second"):  # the same names of files, and among the first one's
        shutil.copy(path, tmp_path / "in" / "one" / f"other_{path.name}")
    said = convert(tmp_path / "in", "--out", tmp_path / "out")
    assert tree(tmp_path / "out") == {
        f"{name}/{name}{end}"
        for name in (NAME, f"{NAME}_2")
        for end in (".nii.gz", ".json", ".mnc", ".png", "_metadata.json")
    }
    assert (
        f"{NAME}: 6 files, series {series_uid(first[0])}\n  nifti: done: {NAME}.nii.gz, {NAME}.json\n" in said
    )
    assert nibabel.load(tmp_path / "out" / NAME / f"{NAME}.nii.gz").shape == (20, 24, 6)


def test_parameters_become_json_with_units_and_without_names(tmp_path):
    phantom(tmp_path / "in", patient_name="Mustermann^Erika")
    convert(tmp_path / "in", "--out", tmp_path / "out", "--filters", "metadata")
    text = (tmp_path / "out" / NAME / f"{NAME}_metadata.json").read_text()
    found = json.loads(text)
    assert set(found) == {"experiment", "dataset", "datafile"}
    values = {value["name"]: (value["value"], value["units"]) for value in found["dataset"]}
    assert values["RepetitionTime"] == (450.0, "ms")
    assert values["Study Date"][0].startswith("2024-05-17T10:15:00")
    assert "Mustermann" not in text


def test_what_is_not_dicom_is_named_and_skipped(tmp_path):
    paths = phantom(tmp_path / "in", slices=2)
    (tmp_path / "in" / "notes.txt").write_text("nothing to see")
    (tmp_path / "in" / "empty").touch()
    os.mkfifo(tmp_path / "in" / "pipe")
    shutil.copy(paths[0], tmp_path / "in" / "zz_copy.dcm")
    disc = FileSet()
    disc.add(paths[0])
    disc.write(tmp_path / "disc")
    shutil.copy(tmp_path / "disc" / "DICOMDIR", tmp_path / "in" / "DICOMDIR")
    said = convert(tmp_path / "in", "--out", tmp_path / "out", "--filters", "metadata")
    assert "skipped notes.txt: not a DICOM file" in said
    assert "skipped empty: not a DICOM file" in said
    assert "skipped pipe: not a regular file" in said
    assert "skipped DICOMDIR: has no SOPInstanceUID" in said
    assert "skipped zz_copy.dcm: the same as MR0001.dcm" in said
    assert f"{NAME}: 2 files" in said


def test_a_damaged_file_is_a_failure_and_the_next_series_is_converted(tmp_path):
    bad = phantom(tmp_path / "in" / "a", slices=1)[0]
    bad.write_bytes(bad.read_bytes()[:400])
    phantom(tmp_path / "in" / "b", slices=1)
    said = refused(tmp_path / "in", "--out", tmp_path / "out", "--filters", "metadata")
    assert f"failed: {bad}: " in said
    assert "metadata: done" in said


def test_a_filter_that_fails_stops_neither_the_next_nor_the_next_series(tmp_path, filters):
    filters(CountFilter, NewFilter)
    uids = [series_uid(phantom(tmp_path / "in" / name, slices=1)[0]) for name in "abc"]
    CountFilter.fails = {uids[0]: PermanentError("(0028,0010) Rows is 0"), uids[1]: ZeroDivisionError("oops")}
    said = refused(tmp_path / "in", "--out", tmp_path / "out")
    assert said.count("new: skipped\n    nothing to make") == 3
    assert f"count: done: {NAME}_3.txt" in said
    assert f"failed: {uids[0]} count: (0028,0010) Rows is 0" in said
    assert f"failed: {uids[1]} count: the filter has a fault (ZeroDivisionError)" in said
    assert tree(tmp_path / "out") == {f"{NAME}_3/{NAME}_3.txt"}


def test_warnings_are_told_and_are_no_failure(tmp_path):
    phantom(tmp_path / "in")[2].unlink()
    said = convert(tmp_path / "in", "--out", tmp_path / "out", "--filters", "nifti")
    partial = said.splitlines()[1:]
    assert partial[0].startswith("  nifti: partial: ")
    assert partial[1].startswith("    ")


def test_what_is_there_is_not_overwritten_unless_it_is_forced(tmp_path, filters):
    filters(CountFilter)
    phantom(tmp_path / "in", slices=1)
    place = tmp_path / "out" / NAME / f"{NAME}.txt"
    place.parent.mkdir(parents=True)
    place.write_text("somebody's work")
    said = refused(tmp_path / "in", "--out", tmp_path / "out")
    assert f"{place} exists already and is not overwritten" in said
    assert place.read_text() == "somebody's work"
    convert(tmp_path / "in", "--out", tmp_path / "out", "--force")
    assert place.read_text() == "version 1: 1 files"
    assert tree(tmp_path / "out") == {f"{NAME}/{NAME}.txt"}


def test_of_a_filters_files_all_are_kept_or_none(tmp_path):
    phantom(tmp_path / "in")
    place = tmp_path / "out" / NAME / f"{NAME}.json"
    place.parent.mkdir(parents=True)
    place.write_text("somebody's work")
    refused(tmp_path / "in", "--out", tmp_path / "out", "--filters", "nifti")
    assert tree(tmp_path / "out") == {f"{NAME}/{NAME}.json"}


def test_outputs_in_the_folder_itself_are_not_taken_for_input(tmp_path, filters):
    filters(CountFilter)
    phantom(tmp_path / "in", slices=1)
    for _ in range(2):
        said = convert(tmp_path / "in", "--out", tmp_path / "in" / "out", "--force")
        assert "skipped" not in said


def test_mistakes_in_the_command_are_told(tmp_path):
    (tmp_path / "in").mkdir()
    one_of = "Give one of: --series UID …, --instrument NAME, --all, or DIR --out DIR."
    assert refused() == one_of
    assert refused("--all", "--series", "1.2") == one_of
    assert refused(tmp_path / "in", "--out", tmp_path, "--all") == one_of
    together = "A folder and --out belong together: DIR --out DIR."
    assert refused(tmp_path / "in") == together
    assert refused("--all", "--out", tmp_path) == together
    assert refused(tmp_path / "no", "--out", tmp_path / "out") == f"{tmp_path / 'no'} is not a folder."
    assert refused(tmp_path / "in", "--out", tmp_path / "in") == "DIR and --out must be different folders."
    assert "There are no DICOM files in" in refused(tmp_path / "in", "--out", tmp_path / "out")


@pytest.mark.slow
def test_as_a_program_it_needs_no_database(tmp_path):
    paths = phantom(tmp_path / "in")
    paths += phantom(tmp_path / "in" / "more")
    for path in paths[6:]:  # cut off in the middle of the pixels
        path.write_bytes(path.read_bytes()[:-500])
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "IMAGETROVE_TEST_DATABASE": "/nowhere/at/all/db.sqlite3",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), HOST]),
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "django", "imagetrove_convert", str(tmp_path / "in"), "--out"]
    done = subprocess.run(
        [*command, str(tmp_path / "out")], env=env, cwd=HOST, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    uid = str(pydicom.dcmread(paths[-1]).SeriesInstanceUID)
    assert f"failed: {uid} nifti: " in done.stderr
    assert f"{NAME}/{NAME}.nii.gz" in tree(tmp_path / "out")


def test_a_folder_is_converted_from_de_identified_copies(tmp_path):
    paths = phantom(tmp_path / "in", slices=4)
    burned_in = pydicom.dcmread(paths[3])
    burned_in.BurnedInAnnotation = "YES"
    burned_in.save_as(paths[3])
    words = refused(tmp_path / "in", out=tmp_path / "out", filters="nifti", deidentify="shift-dates")
    assert f"skipped {paths[3].name}: has annotation burned into its pixels" in words
    assert "0003_series: 3 files" in words and "copies: 0003_series/dicom" in words
    made = sorted((tmp_path / "out/0003_series").rglob("*.*"))
    assert [path.suffix for path in made].count(".dcm") == 3
    for path in made:
        copy = pydicom.dcmread(path) if path.suffix == ".dcm" else None
        assert copy is None or (copy.PatientIdentityRemoved, copy.SOPInstanceUID) == ("YES", path.stem)
        assert b"PHANTOM-1" not in path.read_bytes() and b"Oblique" not in path.read_bytes()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"0003_series"}
    assert sorted(tmp_path.joinpath("in").iterdir()) == sorted(paths)  # as they were


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((), {"all": True, "deidentify": ""}, "of archived series the instrument decides"),
        ((".",), {"out": Path("out"), "deidentify": "everything"}, "unknown option 'everything'"),
    ],
)
def test_de_identification_that_is_asked_for_wrongly_is_refused(arguments, options, words):
    with pytest.raises(CommandError, match=words):
        convert(*arguments, **options)
