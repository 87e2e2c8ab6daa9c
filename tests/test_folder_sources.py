"""Folder sources as operators have them: configured in admin, watched, imported by hand; the archive is as by C-STORE."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
import zipfile

import nibabel
import numpy as np
import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.urls import reverse

from tardis_imagetrove import folder_sources, tasks
from tardis_imagetrove.archive import read_manifest
from tardis_imagetrove.folder_sources import FolderDoor, missing_from_archives
from tardis_imagetrove.folders.journal import Taken
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import FilterRun, FolderSource, Instance, Original, Series
from tardis_imagetrove.mytardis import mytardis
from tardis_imagetrove.operations import status

from .conftest import configure, phantom, series_uid
from .folders.test_importing import VISU
from .site import REPOSITORY

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("queued")]

S = Series.State


@pytest.fixture
def root(tmp_path, spool, scratch, settings):
    """A folder in which sources may lie."""
    made = tmp_path / "mount"
    made.mkdir()
    settings.IMAGETROVE = {
        **settings.IMAGETROVE,
        "SPOOL": str(spool.root),
        "SPOOL_RESERVE_MIB": 0,
        "SCRATCH": str(scratch),
        "FOLDER_ROOTS": [str(made)],
    }
    return made


@pytest.fixture
def ingest(spool, scratch):
    def ingest():
        for uid in spool.series_uids():
            ingest_series(spool, uid, (), scratch)

    return ingest


def source(root, **fields) -> FolderSource:
    (root / "in").mkdir(exist_ok=True)
    made = FolderSource.objects.create(**{"name": "Console", "path": str(root / "in"), **fields})
    FolderSource.objects.filter(pk=made.pk).update(quiet_seconds=0)  # so that no test waits
    return made


def door(spool) -> FolderDoor:
    made = FolderDoor(spool)
    made.look()
    made.look_again()
    return made


def run(*words, **options) -> str:
    out = io.StringIO()
    call_command("imagetrove_folders", *words, stdout=out, skip_checks=True, **options)
    return out.getvalue()


def test_a_folder_becomes_the_same_archive_as_by_c_store_and_is_moved_away_then(
    root, spool, owner, box, ingest
):
    configuration = configure(owner, storage_box=box, instrument=[["Manufacturer", "No such"]])
    files = phantom(root / "in" / "scan", slices=4)
    (root / "in" / "scan" / "README").write_text("hello")
    before = {path.read_bytes() for path in files}
    made = source(root, configuration=configuration, afterwards="move", move_to=str(root / "done"))
    watching = door(spool)
    series = Series.objects.get()
    assert (series.series_uid, series.assigned) == (series_uid(files[0]), {"instrument": configuration.pk})
    assert (root / "in" / "scan").exists()
    ingest()
    series.refresh_from_db()
    assert (series.state, series.configuration) == (S.DONE, configuration)
    path = root.parent / "fetched.zip"
    mytardis().fetch(series.archives.get().datafile_id, path)
    with zipfile.ZipFile(path) as archive:
        assert {archive.read(member.name) for member in read_manifest(path).members} == before
    watching.look_again()
    assert sorted(path.name for path in (root / "done" / "scan").iterdir()) == sorted(
        ["README", *(path.name for path in files)]
    )
    assert list((root / "in").iterdir()) == []
    made.refresh_from_db()
    assert made.looked and made.problem == ""


def test_archives_odd_names_and_late_files_go_the_same_way(root, spool, configuration, ingest, tmp_path):
    files = phantom(tmp_path / "x", slices=6)
    folder = root / "in"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as packed:
        packed.write(files[0], "deep/a.IMA")
    with tarfile.open(folder / "b.tar.gz", "w:gz") as packed:
        packed.add(files[1], "b")
    (folder / "DICOM").mkdir()
    files[2].rename(folder / "DICOM" / "IM_0001")
    files[3].rename(folder / "DICOM" / "gr\udcfcn.dcm")  # Latin-1 on the disk
    made = source(root)
    watching = door(spool)
    ingest()
    series = Series.objects.get()
    assert (series.state, series.archives.first().instance_count) == (S.DONE, 4)
    (folder / "late").mkdir()
    files[4].rename(folder / "late" / "x")
    watching.look_again()
    watching.look_again()
    ingest()
    assert Series.objects.get().archives.first().instance_count == 5
    assert list(folder_sources.left_out(made, spool)) == []


def test_the_ledger_decides_whether_files_may_go(root, spool, configuration, ingest, owner, box, tmp_path):
    phantom(root / "in" / "scan", slices=2)
    source(root)
    door(spool)
    taken = [
        entry for path in (spool.root / "folders").rglob("*.jsonl") for entry in folder_sources.Journal(path)
    ]
    assert missing_from_archives(taken) == "2 files are not archived yet"
    ingest()
    assert missing_from_archives(taken) == ""
    assert (
        missing_from_archives([Taken("x", 1, 1, taken[0].uid, "1.2.3", "ab")])
        == "1 files are not archived yet"
    )
    Instance.objects.filter(sop_instance_uid=taken[0].item).update(sha256="0" * 64)
    assert missing_from_archives(taken) == "1 files are not archived yet"
    Series.objects.update(deidentification={"options": [], "keep_originals": False})
    assert "not all of its originals are kept" in missing_from_archives(taken)


@pytest.mark.parametrize("keeps", [True, False])
def test_of_a_de_identified_series_files_may_go_only_while_its_originals_are_kept(
    root, spool, owner, box, ingest, keeps
):
    configure(owner, storage_box=box, deidentify=True, dataset_title=["Modality"], keep_originals=keeps)
    phantom(root / "in" / "scan", slices=2)
    source(root)
    door(spool)
    ingest()
    (taken,) = [list(folder_sources.Journal(path)) for path in (spool.root / "folders").rglob("*.jsonl")]
    assert Series.objects.get().state == S.DONE
    assert (missing_from_archives(taken) == "") is keeps
    Original.objects.all().delete()
    assert "not all of its originals are kept" in missing_from_archives(taken)


def test_a_problem_that_is_over_is_told_no_more_also_after_a_restart(root, spool, configuration, settings):
    (root / "in").mkdir()
    made = source(root)
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FOLDER_ROOTS": [str(root / "other")]}
    door(spool)
    made.refresh_from_db()
    assert "FOLDER_ROOTS" in made.problem
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FOLDER_ROOTS": [str(root)]}
    door(spool)  # of a process that knows nothing of it
    made.refresh_from_db()
    assert (made.problem, status.look_at_records().folders) == ("", ())


def test_an_archive_that_is_gone_from_its_box_lets_nothing_go(root, spool, configuration, ingest, tmp_path):
    phantom(root / "in" / "scan", slices=2)
    source(root)
    door(spool)
    ingest()
    (taken,) = [list(folder_sources.Journal(path)) for path in (spool.root / "folders").rglob("*.jsonl")]
    for path in (tmp_path / "store").rglob("*.zip*"):
        path.unlink()
    assert "is not verified" in missing_from_archives(taken)


def test_with_the_database_away_nothing_is_spooled_and_it_is_taken_up_later(
    root, spool, configuration, monkeypatch
):
    phantom(root / "in" / "scan", slices=2)
    source(root, configuration=configuration)
    watching = FolderDoor(spool)

    def away(*_arguments):
        raise OperationalError("away")

    monkeypatch.setattr(folder_sources, "assign_to", away)
    watching.look()
    assert spool.series_uids() == []
    monkeypatch.undo()
    watching.look_again()
    assert len(spool.series_uids()) == 1
    assert Series.objects.get().assigned == {"instrument": configuration.pk}


def test_one_source_with_a_problem_is_told_and_stops_no_other(root, spool, configuration, settings):
    phantom(root / "in" / "scan", slices=2)
    broken = source(root, name="Broken", path=str(root / "gone"))
    source(root)
    door(spool)
    assert len(spool.series_uids()) == 1
    broken.refresh_from_db()
    assert "No such file" in broken.problem
    assert status.look_at_records().folders == (("Broken", broken.problem),)
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FOLDER_ROOTS": []}
    door(spool)
    assert "is not below a folder of IMAGETROVE" in FolderSource.objects.get(name="Console").problem


def test_the_receiving_service_watches(root, spool, configuration):
    phantom(root / "in" / "scan", slices=2)
    source(root)
    stop = threading.Event()
    made = FolderDoor(spool)
    looks = []

    tick = made._watcher.tick

    def counted(stopping):
        made._watcher.hurry()
        tick(stopping)
        looks.append(1)
        if len(looks) == 2:
            stop.set()

    made._watcher.tick = counted
    made._watcher.run(stop, tick_seconds=0.01)
    assert len(spool.series_uids()) == 1


# What may be configured


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"path": "/etc"}, "is not below a folder of IMAGETROVE"),
        ({"path": "{root}/../other"}, "is not below a folder of IMAGETROVE"),
        ({"path": "{root}/link"}, "is not below a folder of IMAGETROVE"),
        ({"afterwards": "move"}, "Enter the destination folder"),
        ({"afterwards": "move", "move_to": "/tmp"}, "is not below a folder of IMAGETROVE"),
        ({"afterwards": "move", "move_to": "{root}/in"}, "This is the source folder itself"),
        ({"pattern": "("}, "Invalid regular expression"),
        ({"kind": "folder"}, "choose an instrument"),
        ({"take": [""]}, "Enter a list of patterns"),
        ({"quiet_seconds": 0}, "greater than or equal to 10"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(root, fields, words):
    (root / "link").symlink_to("/etc")
    given = {
        name: value.replace("{root}", str(root)) if isinstance(value, str) else value
        for name, value in fields.items()
    }
    with pytest.raises(ValidationError, match=words):
        source(root, **given)


def test_the_spool_is_no_source_and_only_dicom_is_de_identified(root, spool, owner, box, settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FOLDER_ROOTS": [str(spool.root.parent)]}
    with pytest.raises(ValidationError, match="inside the spool"):
        source(root, path=str(spool.root))
    with pytest.raises(ValidationError, match="inside the spool"):
        source(root, path=str(spool.root.parent))
    hiding = configure(owner, storage_box=box, deidentify=True, dataset_title=["Modality"])
    with pytest.raises(ValidationError, match="only DICOM can be"):
        source(root, kind="paravision", configuration=hiding)


def test_admin_shows_a_source_with_what_it_left_out(root, spool, client, django_user_model, configuration):
    (root / "in").mkdir()
    (root / "in" / "notes.txt").write_text("hello")
    made = source(root)
    door(spool)
    client.force_login(
        django_user_model.objects.create_superuser("root"), "django.contrib.auth.backends.ModelBackend"
    )
    page = client.get(reverse("admin:tardis_imagetrove_foldersource_change", args=[made.pk])).content.decode()
    assert "notes.txt: not a DICOM file" in page
    assert "(?P&lt;PatientID&gt;[^/]+)/(?P&lt;StudyID&gt;\\d+)" in page
    listing = client.get(reverse("admin:tardis_imagetrove_foldersource_changelist")).content.decode()
    assert str(root / "in") in listing
    assert "notes.txt: not a DICOM file\n1 left out." in run("--left-out", "Console")


# Bruker ParaVision

BRUKER = REPOSITORY.parent / "shared" / "data" / "bruker"


@pytest.fixture
def mouse(root, owner, box):
    """A source of ParaVision studies, of a project that the file ``subject`` names."""
    named = configure(
        owner,
        storage_box=box,
        name="7 T",
        instrument=[["Manufacturer", "Bruker BioSpin MRI GmbH"]],
        experiment_title=["PatientID"],
        project_field="paravision:subject",
        project_pattern=r"CAI:(\d{5})",
    )
    source(root, kind="paravision", configuration=named)
    return named


def convert(spool, scratch) -> dict[str, FilterRun]:
    """Ingest what is spooled and run all filters; returns the runs by name."""
    for uid in spool.series_uids():
        for run_id in ingest_series(spool, uid, ("nifti", "minc", "picture", "metadata"), scratch):
            tasks.run_filter(run_id)
    return {run.filter: run for run in FilterRun.objects.all()}


def output(run, kind, tmp_path):
    datafile = run.outputs.get(kind=kind).datafile
    path = tmp_path / datafile.filename
    mytardis().fetch(datafile.pk, path)
    return path


def study_in(folder, visu=VISU):
    reconstruction = folder / "1" / "pdata" / "1"
    reconstruction.mkdir(parents=True)
    (folder / "subject").write_text(
        "##TITLE=x\n##JCAMPDX=4.24\n##$SUBJECT_comment=( 65 )\n<CAI:12345>\n##END=\n"
    )
    (folder / "1" / "fid").write_bytes(b"raw data")
    (reconstruction / "visu_pars").write_text(visu)
    np.arange(72, dtype="<i2").tofile(reconstruction / "2dseq")
    return folder


def test_a_study_becomes_images_a_picture_and_parameters(root, spool, scratch, mouse, tmp_path):
    pytest.importorskip("brukerapi")
    times = "##$VisuAcqRepetitionTime=( 1 )\n2000\n##$VisuAcqEchoTime=( 1 )\n15\n##END="
    study_in(root / "in" / "user" / "study7", VISU.replace("##END=", times))
    door(spool)
    runs = convert(spool, scratch)
    series = Series.objects.get()
    assert {name: run.state for name, run in runs.items()} == dict.fromkeys(runs, "done"), series.reason
    assert (series.state, series.configuration, series.project) == (S.DONE, mouse, "Project 12345")
    assert series.archives.get().instance_count == 4  # raw data too
    image = nibabel.load(output(runs["nifti"], "NIfTI", tmp_path))
    assert image.shape == (4, 3, 3, 2)
    assert np.allclose((image.affine @ [0, 0, 2, 1])[:3], [-5, -1, 2], atol=1e-4)
    minc = nibabel.load(output(runs["minc"], "MINC", tmp_path))
    # MINC has time first, and its axes the other way round.
    assert sorted(minc.shape) == sorted(image.shape)
    assert np.allclose(
        np.sort(np.asarray(minc.dataobj).ravel()), np.sort(np.asarray(image.dataobj).ravel()), atol=1e-3
    )
    assert output(runs["picture"], "Picture", tmp_path).read_bytes().startswith(b"\x89PNG")
    told = {
        parameter.name.name: parameter.string_value or parameter.numerical_value
        for parameters in series.dataset_key.dataset.getParameterSets()
        for parameter in parameters.datasetparameter_set.all()
    }
    assert told["NumberOfFiles"] == 4 and told["Modality"] == "MR" and told["SliceThickness"] == 0.5
    assert (told["RepetitionTime"], told["EchoTime"]) == (2000, 15)
    assert "Mouse 7" not in told.values()
    assert image.header["pixdim"][4] == 2


def test_spectra_are_said_and_kept_and_damage_is_a_problem(root, spool, scratch, mouse):
    pytest.importorskip("brukerapi")
    study_in(
        root / "in" / "a",
        VISU.replace("spatial spatial", "spectroscopic spatial").replace("1.2.3.4", "1.2.3.5"),
    )
    study_in(
        root / "in" / "b",
        VISU.replace("##$VisuCoreOrientation", "##$VisuCoreOther").replace("1.2.3.4", "1.2.3.6"),
    )
    door(spool)
    convert(spool, scratch)
    spectra, damaged = (Series.objects.get(series_uid=uid) for uid in ("1.2.3.5", "1.2.3.6"))
    assert spectra.state == S.DONE
    run = FilterRun.objects.get(archive__series=spectra, filter="nifti")
    assert run.state == "skipped" and "spectroscopic" in run.reason
    assert damaged.state == S.PARTIAL
    assert (
        "visu_pars has no VisuCoreOrientation"
        in FilterRun.objects.get(archive__series=damaged, filter="nifti").reason
    )


def test_a_real_study_keeps_values_slope_and_place(root, spool, scratch, mouse, tmp_path):
    if not BRUKER.is_dir():
        pytest.skip("the real study is not there")
    pytest.importorskip("brukerapi")
    shutil.copytree(BRUKER / "bru_banana", root / "in" / "banana", copy_function=shutil.copyfile)
    for path in [root / "in" / "banana", *(root / "in" / "banana").rglob("*")]:
        path.chmod(0o755)
    FolderSource.objects.update(configuration=None)
    mouse.instrument = [["Modality", "MR"]]
    mouse.experiment_title = ["SeriesDescription"]
    mouse.save()
    door(spool)
    runs = convert(spool, scratch)
    assert {run.state for run in runs.values()} == {"done"}, {name: run.reason for name, run in runs.items()}
    image = nibabel.load(output(runs["nifti"], "NIfTI", tmp_path))
    (binary,) = (BRUKER / "bru_banana").rglob("2dseq")
    stored = np.fromfile(binary, "<i2").reshape(image.shape[::-1]).T
    values = np.asarray(image.dataobj)
    same = [np.allclose(values, turned * image.dataobj.slope) for turned in (stored, stored[:, :, ::-1])]
    assert any(same) and abs(image.dataobj.slope - 11.027) < 1e-3


def test_a_folder_of_any_files_is_converted_to_nothing(root, spool, scratch, owner, box):
    named = configure(
        owner, storage_box=box, name="CT", dataset_title=["SeriesDescription"], experiment_title=["path:scan"]
    )
    (root / "in" / "bone_7").mkdir(parents=True)
    (root / "in" / "bone_7" / "a.raw").write_bytes(b"x" * 100)
    source(root, kind="folder", configuration=named, pattern=r"(?P<scan>bone)_(?P<number>\d)")
    door(spool)
    runs = convert(spool, scratch)
    assert {name: run.state for name, run in runs.items()} == {
        **dict.fromkeys(("nifti", "minc", "picture"), "skipped"),
        "metadata": "done",
    }
    assert "a folder of any format" in runs["nifti"].reason
    series = Series.objects.get()
    told = {
        parameter.name.name: parameter.string_value
        for parameters in series.dataset_key.dataset.getParameterSets()
        for parameter in parameters.datasetparameter_set.all()
    }
    assert (told["scan"], told["number"]) == ("bone", "7")


# By hand


def test_an_import_by_hand_says_what_became_of_each_file_and_is_taken_up(
    root, spool, configuration, queued, ingest
):
    files = phantom(root / "in", slices=3)
    (root / "in" / "notes.txt").write_text("hello")
    told = run("--path", str(root / "in"))
    uid = series_uid(files[0])
    assert f"taken     {files[0].name} -> {uid}" in told
    assert "left out  notes.txt: not a DICOM file" in told
    assert "3 taken, 0 known already, 1 left out." in told and "1 series queued" in told
    assert queued == [("tardis_imagetrove.ingest_series", uid, str(spool.root))]
    assert "0 taken, 4 known already, 1 left out." in run("--path", str(root / "in"))
    ingest()
    assert Series.objects.get().state == S.DONE


def test_a_dry_run_says_what_would_be_made_and_makes_nothing(root, spool, owner, box, queued):
    configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")
    phantom(root / "in" / "a", slices=3, overrides={"ReferringPhysicianName": "12345", "PatientID": "P1"})
    phantom(root / "in" / "b", slices=2, overrides={"ManufacturerModelName": "Other"})
    told = run("--path", str(root / "in"), "--dry-run")
    assert ": 3 files" in told and "  experiment  P1" in told and "  project     Project 12345" in told
    assert ": 2 files" in told and "would be held: matches no instrument" in told
    assert (spool.series_uids(), Series.objects.count(), queued) == ([], 0, [])


def test_a_person_names_instrument_project_and_titles(root, spool, owner, box, ingest):
    named = configure(owner, storage_box=box, name="Micro CT", instrument=[["Manufacturer", "Nobody"]])
    phantom(root / "in", slices=2)
    words = ["--path", str(root / "in"), "--instrument", "Micro CT", "--project", "777"]
    words += ["--experiment", "Bones", "--dataset", "Left femur"]
    plan = run(*words, "--dry-run")
    assert "  experiment  Bones" in plan and "  dataset     Left femur" in plan and "Project 777" in plan
    run(*words)
    ingest()
    series = Series.objects.get()
    assert (series.state, series.configuration, series.project) == (S.DONE, named, "Project 777")
    dataset = series.dataset_key.dataset
    assert (dataset.description, dataset.experiments.get().title) == ("Left femur", "Bones")


def test_files_of_any_format_are_archived_as_they_are(root, spool, owner, box, ingest, tmp_path):
    named = configure(
        owner,
        storage_box=box,
        name="Micro CT",
        dataset_title=["SeriesDescription"],
        experiment_title=["PatientID"],
    )
    folder = root / "in" / "P7_scan3"
    folder.mkdir(parents=True)
    (folder / "volume.raw").write_bytes(bytes(range(256)) * 100)
    (folder / "sub").mkdir()
    (folder / "sub" / "settings.txt").write_text("kV=60")
    source(root, kind="folder", configuration=named, pattern=r"(?P<PatientID>P\d+)_scan(?P<SeriesNumber>\d+)")
    door(spool)
    ingest()
    series = Series.objects.get()
    assert series.state == S.DONE, series.reason
    assert series.dataset_key.dataset.experiments.get().title == "P7"
    path = tmp_path / "fetched.zip"
    mytardis().fetch(series.archives.get().datafile_id, path)
    with zipfile.ZipFile(path) as archive:
        assert sorted(name.partition("/")[2] for name in archive.namelist() if "/" in name) == [
            "sub/settings.txt",
            "volume.raw",
        ]
        assert "kV=60" in [archive.read(name).decode("latin-1") for name in archive.namelist()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--path", "/etc"], "is not below a folder of IMAGETROVE"),
        (["--path", "{root}/none"], "does not exist"),
        (["--path", "{root}", "--instrument", "None"], "is not an enabled instrument"),
        (["--path", "{root}", "--project", "1"], "give --instrument too"),
        (["--path", "{root}", "--format", "folder"], "name an --instrument"),
        (["--path", "{root}", "--format", "paravision"], "contains no ParaVision study"),
        (["--left-out", "Nobody"], "Folder source 'Nobody' does not exist"),
    ],
)
def test_what_cannot_be_imported_says_why(root, configuration, words, said):
    with pytest.raises(CommandError, match=said):
        run(*(word.replace("{root}", str(root)) for word in words))


def test_once_takes_what_is_complete(root, spool, configuration):
    phantom(root / "in" / "scan", slices=2)
    source(root)
    assert "Console: looked at" in run("--once")
    assert len(spool.series_uids()) == 1
