"""Ingest: a complete series becomes one archive in one dataset, whatever goes wrong on the way."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import zipfile
from pathlib import Path

import pydicom
import pytest
from django.db import connection

from tardis_imagetrove.conversion.run import run_filter
from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import FilterRun, Instance, Series
from tardis_imagetrove.mytardis import mytardis

from ..conftest import configure, deliver, phantom, series_uid

pytestmark = pytest.mark.django_db(transaction=True)

FILTERS = ("nifti", "metadata")


def archive_of(uid: str, tmp_path: Path) -> dict[str, bytes]:
    """The current archive's files, by name."""
    archive = Series.objects.get(series_uid=uid).archives.order_by("-version").first()
    path = tmp_path / "fetched.zip"
    mytardis().fetch(archive.datafile_id, path)
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


def dicom_bytes(files: dict[str, bytes]) -> list[bytes]:
    return sorted(content for name, content in files.items() if name.endswith(".dcm"))


def test_a_series_becomes_one_archive_byte_for_byte(spool, scratch, configuration, tmp_path):
    from tardis.tardis_portal.models import DataFile, Dataset, Experiment

    paths = phantom(tmp_path / "in")
    sent = deliver(spool, *paths)
    uid = series_uid(paths[0])
    runs = ingest_series(spool, uid, FILTERS, scratch)

    assert FilterRun.objects.filter(pk__in=runs).count() == len(FILTERS)
    (experiment,) = Experiment.objects.all()
    (dataset,) = Dataset.objects.all()
    assert (experiment.title, dataset.description) == ("PHANTOM-1", "t1_phantom_oblique")
    assert experiment.created_by == configuration.owner
    (datafile,) = DataFile.objects.all()
    assert (datafile.directory, datafile.filename) == (
        "0003_t1_phantom_oblique",
        "0003_t1_phantom_oblique_dicom.zip",
    )
    assert datafile.mimetype == "application/zip"
    (dfo,) = datafile.file_objects.all()
    assert dfo.verified
    assert dfo.verify()  # MyTARDIS itself agrees

    files = archive_of(uid, tmp_path)
    assert dicom_bytes(files) == sorted(sent)
    manifest = json.loads(files["manifest.json"])
    assert {entry["sha256"] for entry in manifest["instances"]} == {
        hashlib.sha256(content).hexdigest() for content in sent
    }
    assert manifest["SeriesInstanceUID"] == uid
    assert spool.series_uids() == []
    assert Instance.objects.filter(archive__datafile=datafile).count() == len(paths)
    assert Series.objects.get().state == Series.State.CONVERTING


def test_a_rerun_makes_nothing_twice(spool, scratch, configuration, tmp_path):
    from tardis.tardis_portal.models import DataFile, Dataset, Experiment

    paths = phantom(tmp_path / "in")
    for _ in range(3):
        deliver(spool, *paths)
        ingest_series(spool, series_uid(paths[0]), FILTERS, scratch)
        assert spool.series_uids() == []
    assert [model.objects.count() for model in (Experiment, Dataset, DataFile, FilterRun)] == [1, 1, 1, 2]


def test_a_late_slice_makes_a_new_version_that_has_every_slice_once(spool, scratch, configuration, tmp_path):
    from tardis.tardis_portal.models import DataFile

    paths = phantom(tmp_path / "in")
    uid = series_uid(paths[0])
    sent = deliver(spool, *paths[:-1])
    ingest_series(spool, uid, FILTERS, scratch)
    sent += deliver(spool, paths[-1])
    ingest_series(spool, uid, FILTERS, scratch)

    assert dicom_bytes(archive_of(uid, tmp_path)) == sorted(sent)
    current, former = DataFile.objects.get(version=2), DataFile.objects.get(version=1)
    assert current.directory == "0003_t1_phantom_oblique"
    assert former.directory == "0003_t1_phantom_oblique/superseded/v1"
    assert former.filename == "0003_t1_phantom_oblique_dicom.v1.zip"
    assert current.file_objects.get().uri != former.file_objects.get().uri
    assert former.file_objects.get().verify()
    assert FilterRun.objects.filter(archive__version=1, state=FilterRun.State.QUEUED).count() == 0


def test_other_bytes_under_the_same_uid_are_both_kept_and_said(spool, scratch, configuration, tmp_path):
    paths = phantom(tmp_path / "in")
    uid = series_uid(paths[0])
    sent = deliver(spool, *paths)
    changed = pydicom.dcmread(paths[0])
    changed.ImageComments = "repaired"
    changed.save_as(tmp_path / "changed.dcm")
    sent += deliver(spool, tmp_path / "changed.dcm")
    ingest_series(spool, uid, (), scratch)
    changed.ImageComments = "repaired again, after ingest"
    changed.save_as(tmp_path / "changed.dcm")
    sent += deliver(spool, tmp_path / "changed.dcm")
    ingest_series(spool, uid, (), scratch)

    assert dicom_bytes(archive_of(uid, tmp_path)) == sorted(sent)
    assert Instance.objects.filter(conflict=True).count() == 3
    assert "1 SOPInstanceUID came with different contents" in Series.objects.get().reason


def test_a_late_slice_joins_its_series_although_the_titles_were_configured_anew(
    spool, scratch, configuration, tmp_path
):
    paths = phantom(tmp_path / "in")
    uid = series_uid(paths[0])
    deliver(spool, *paths[:-1])
    ingest_series(spool, uid, (), scratch)
    configuration.dataset_title = ["StudyDescription"]
    configuration.save()
    deliver(spool, paths[-1])
    ingest_series(spool, uid, (), scratch)
    assert Series.objects.get().state == Series.State.DONE
    assert Series.objects.get().archives.first().instance_count == len(paths)


@pytest.mark.parametrize("removed", [False, True])
def test_a_late_instance_of_somebody_else_does_not_join(
    spool, scratch, configuration, owner, box, tmp_path, removed
):
    paths = phantom(tmp_path / "in")
    uid = series_uid(paths[0])
    deliver(spool, *paths[:-1])
    ingest_series(spool, uid, (), scratch)
    if removed:
        configuration.delete()
        configure(owner, storage_box=box)
    strange = pydicom.dcmread(paths[-1])
    strange.PatientID = "SOMEBODY-ELSE"
    strange.save_as(paths[-1])
    deliver(spool, paths[-1])
    ingest_series(spool, uid, (), scratch)
    series = Series.objects.get()
    assert series.state == Series.State.HELD
    assert "SOMEBODY-ELSE" in series.reason
    assert series.archives.get().instance_count == len(paths) - 1
    assert len(spool.files(uid)) == 1


def test_conversion_does_not_hide_that_a_late_instance_is_held(spool, scratch, configuration, tmp_path):
    paths = phantom(tmp_path / "in")
    deliver(spool, *paths[:-1])
    uid = series_uid(paths[0])
    runs = ingest_series(spool, uid, ("picture",), scratch)
    dataset = pydicom.dcmread(paths[-1])
    dataset.PatientID = "somebody else"
    dataset.save_as(paths[-1])
    deliver(spool, paths[-1])
    ingest_series(spool, uid, ("picture",), scratch)
    for run in runs:
        states.refresh(run_filter(run, scratch, 60))
    series = Series.objects.get()
    assert series.state == Series.State.HELD
    assert "PatientID is 'somebody else'" in series.reason
    # Once an operator has taken it away there is nothing more to say.
    spool.discard(uid, spool.files(uid))
    ingest_series(spool, uid, ("picture",), scratch)
    series.refresh_from_db()
    assert (series.state, series.reason) == (Series.State.DONE, "")


def test_series_of_one_title_share_a_dataset_each_in_its_own_directory(
    spool, scratch, configuration, tmp_path
):
    from tardis.tardis_portal.models import DataFile, Dataset

    for number in range(3):
        paths = phantom(tmp_path / str(number), slices=2)
        deliver(spool, *paths)
        ingest_series(spool, series_uid(paths[0]), (), scratch)
    assert Dataset.objects.count() == 1
    assert sorted(DataFile.objects.values_list("directory", flat=True)) == [
        "0003_t1_phantom_oblique",
        "0003_t1_phantom_oblique_2",
        "0003_t1_phantom_oblique_3",
    ]


def test_edited_titles_do_not_make_a_second_experiment_or_dataset(spool, scratch, configuration, tmp_path):
    from tardis.tardis_portal.models import Dataset, Experiment

    for number in range(2):
        paths = phantom(tmp_path / str(number), slices=2)
        deliver(spool, *paths)
        ingest_series(spool, series_uid(paths[0]), (), scratch)
        Experiment.objects.update(title="A better title")
        Dataset.objects.update(description="Another title")
    assert Experiment.objects.get().title == "A better title"
    assert Dataset.objects.get().description == "Another title"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            {"ManufacturerModelName": "Acme"},
            "matches no instrument: MR scan from TOSHIBA Acme, station PHANTOM1 (Phantom MR: ManufacturerModelName is 'Acme'",
        ),
        ({"SeriesDescription": None}, "has no SeriesDescription"),
        ({"PatientID": ""}, "has no PatientID"),
    ],
)
def test_what_cannot_be_placed_is_kept_and_the_reason_said(
    spool, scratch, configuration, tmp_path, overrides, reason
):
    from tardis.tardis_portal.models import Experiment

    paths = phantom(tmp_path / "in", overrides=overrides)
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), FILTERS, scratch)
    series = Series.objects.get()
    assert series.state == Series.State.HELD
    assert reason in series.reason
    assert len(spool.files(series_uid(paths[0]))) == len(paths)
    assert not Experiment.objects.exists()


def test_what_is_held_goes_on_once_the_instrument_is_configured(spool, scratch, owner, box, tmp_path):
    paths = phantom(tmp_path / "in")
    uid = series_uid(paths[0])
    sent = deliver(spool, *paths)
    ingest_series(spool, uid, (), scratch)
    assert Series.objects.get().state == Series.State.HELD
    configure(owner, storage_box=box)
    ingest_series(spool, uid, (), scratch)
    assert Series.objects.get().state == Series.State.DONE
    assert dicom_bytes(archive_of(uid, tmp_path)) == sorted(sent)


def test_a_series_of_two_instruments_is_held(spool, scratch, configuration, owner, tmp_path):
    configure(owner, name="Another")
    paths = phantom(tmp_path / "in")
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    assert "more than one instrument: Another, Phantom MR" in Series.objects.get().reason


def test_a_file_that_cannot_be_read_stops_nothing_beside_it(spool, scratch, configuration, tmp_path):
    paths = phantom(tmp_path / "in")
    uid = series_uid(paths[0])
    sent = deliver(spool, *paths[1:])
    (spool.series_root / uid / "1.2.3.dcm").write_bytes(b"not DICOM at all")
    ingest_series(spool, uid, (), scratch)
    series = Series.objects.get()
    assert series.state == Series.State.PARTIAL
    assert "1.2.3.dcm: not a DICOM file" in series.reason
    assert dicom_bytes(archive_of(uid, tmp_path)) == sorted(sent)
    assert [file.name for file in spool.files(uid)] == ["1.2.3.dcm"]


@pytest.mark.parametrize(
    "title", ["a/b", "../../etc/passwd", "头颅 Schädel ✓", "x" * 500, "  spaced  ", "%2e%2e%2f", "a\\b", "."]
)
def test_any_title_is_stored_and_shown_as_it_is(spool, scratch, configuration, tmp_path, title):
    from tardis.tardis_portal.models import DataFile, Dataset, Experiment

    overrides = {"SpecificCharacterSet": "ISO_IR 192", "SeriesDescription": title, "PatientID": title}
    paths = phantom(tmp_path / "in", slices=2, overrides=overrides)
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    series = Series.objects.get()
    assert series.state == Series.State.DONE, series.reason
    assert Dataset.objects.get().description == title.strip()
    assert Experiment.objects.get().title == (title.strip() if len(title) <= 400 else title[:399] + "…")
    path = Path(DataFile.objects.get().file_objects.get().get_full_path())
    assert (tmp_path / "store") in path.parents


def test_a_failing_box_leaves_the_series_waiting_with_the_reason(spool, scratch, configuration, tmp_path):
    paths = phantom(tmp_path / "in")
    uid = series_uid(paths[0])
    sent = deliver(spool, *paths)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("a file where the box was")
    ingest_series(spool, uid, (), scratch)
    series = Series.objects.get()
    assert series.state == Series.State.WAITING
    assert "storage box" in series.reason
    assert len(spool.files(uid)) == len(paths)

    (tmp_path / "store").unlink()
    (tmp_path / "store").mkdir()
    ingest_series(spool, uid, (), scratch)
    assert Series.objects.get().state == Series.State.DONE
    assert dicom_bytes(archive_of(uid, tmp_path)) == sorted(sent)


def test_what_a_killed_worker_left_in_the_box_is_replaced(spool, scratch, configuration, tmp_path):
    paths = phantom(tmp_path / "in")
    uid = series_uid(paths[0])
    sent = deliver(spool, *paths)
    ingest_series(spool, uid, (), scratch)
    # As if it had died between the box and the database: the file is there, its rows are not.
    from tardis.tardis_portal.models import DataFile, DataFileObject

    path = Path(DataFile.objects.get().file_objects.get().get_full_path())
    content = path.read_bytes()
    DataFileObject.objects.all()._raw_delete("default")
    DataFile.objects.all().delete()
    path.write_bytes(content[: len(content) // 2])
    deliver(spool, *paths)
    ingest_series(spool, uid, (), scratch)
    assert Series.objects.get().state == Series.State.DONE
    assert dicom_bytes(archive_of(uid, tmp_path)) == sorted(sent)
    assert Path(DataFile.objects.get().file_objects.get().get_full_path()) == path


def test_after_its_dataset_was_deleted_a_series_can_come_again(spool, scratch, configuration, tmp_path):
    from tardis.tardis_portal.models import Dataset

    paths = phantom(tmp_path / "in")
    uid = series_uid(paths[0])
    for _ in range(2):
        sent = deliver(spool, *paths)
        ingest_series(spool, uid, FILTERS, scratch)
        assert dicom_bytes(archive_of(uid, tmp_path)) == sorted(sent)
        Dataset.objects.all().delete()
    assert not Instance.objects.exists()


def test_workers_that_race_make_one_experiment_and_one_dataset(spool, scratch, configuration, tmp_path):
    from tardis.tardis_portal.models import DataFile, Dataset, Experiment

    uids = []
    for number in range(6):
        paths = phantom(tmp_path / str(number), slices=2)
        deliver(spool, *paths)
        uids.append(series_uid(paths[0]))
    start = threading.Barrier(len(uids) * 2)

    def work(uid: str) -> None:
        start.wait()
        ingest_series(spool, uid, (), scratch)
        connection.close()

    threads = [threading.Thread(target=work, args=(uid,)) for uid in uids * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for uid in uids:  # what met a busy database waits, and is tried again
        ingest_series(spool, uid, (), scratch)
    assert [model.objects.count() for model in (Experiment, Dataset, DataFile)] == [1, 1, 6]
    assert set(Series.objects.values_list("state", flat=True)) == {Series.State.DONE}


def test_the_group_of_the_project_may_read_and_nobody_else(spool, scratch, owner, box, tmp_path):
    from django.contrib.auth.models import Group

    configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")
    for number, physician in enumerate(["12345^Smith", "54321", "Smith"]):
        paths = phantom(tmp_path / str(number), slices=2, overrides={"ReferringPhysicianName": physician})
        deliver(spool, *paths)
        ingest_series(spool, series_uid(paths[0]), (), scratch)
    assert sorted(Group.objects.filter(name__startswith="Project").values_list("name", flat=True)) == [
        "Project 12345",
        "Project 54321",
    ]
    assert Series.objects.values_list("dataset_key", flat=True).distinct().count() == 3
