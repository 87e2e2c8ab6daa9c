"""Odd series, as consoles, people and anonymisers make them: archived, or held with a reason; none harms another."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pydicom
import pytest
from django.contrib.auth.models import Group
from django.db import DataError
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import InstrumentConfiguration, Series
from tardis_imagetrove.mytardis import mytardis

from ..conftest import configure, deliver, phantom, series_uid
from .test_series import archive_of, dicom_bytes

pytestmark = pytest.mark.django_db(transaction=True)


def ingest(spool, scratch, *paths: Path) -> tuple[Series, list[bytes]]:
    sent = deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    return Series.objects.get(series_uid=series_uid(paths[0])), sent


def with_bytes(paths: list[Path], tag: int, vr: str, value: bytes) -> list[Path]:
    """Put bytes into an element as they are, valid or not."""
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.pop(tag, None)
        dataset[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
        dataset.save_as(path)
    return paths


@pytest.mark.parametrize(
    ("tag", "vr", "value", "directory", "description"),
    [
        (0x00200011, "IS", b"3.5 ", "0000_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x00200011, "IS", b"none", "0000_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x00200011, "IS", b"-7", "0000_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x00200011, "IS", b"3\\4 ", "0000_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x00200011, "IS", b"99999999999 ", "99999999999_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x00200013, "IS", b"first ", "0003_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x0020000D, "UI", b"9" * 80, "0003_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x0020000D, "UI", b"1.2\0003 ", "0003_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x00080016, "UI", b"9" * 80, "0003_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x00080060, "CS", b"far too long for a code\0", "0003_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x00080005, "CS", b"ISO_IR 999", "0003_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x00080080, "LO", b"\xff\xfe\0x", "0003_t1_phantom_oblique", "t1_phantom_oblique"),
        (0x0008103E, "LO", b"a\0b\0", "0003_ab", "ab"),
        (0x0008103E, "LO", b"*/?!", "0003_series", "*/?!"),
        (0x0008103E, "LO", "头".encode(), "0003_a", "å¤´"),  # UTF-8 that does not say so
    ],
)
def test_a_value_that_is_not_as_it_should_be_keeps_no_scan_back(
    spool, scratch, configuration, tmp_path, tag, vr, value, directory, description
):
    paths = with_bytes(phantom(tmp_path / "in", slices=2), tag, vr, value)
    series, sent = ingest(spool, scratch, *paths)
    assert (series.state, series.reason) == (Series.State.DONE, "")
    assert (series.directory, series.description) == (directory, description)
    assert dicom_bytes(archive_of(series.series_uid, tmp_path)) == sorted(sent)
    assert "\0" not in series.study_uid + series.modality


@pytest.mark.parametrize(
    "missing", ["SeriesNumber", "StudyInstanceUID", "Modality", "InstanceNumber", "StudyDate"]
)
def test_an_attribute_that_is_missing_keeps_no_scan_back(spool, scratch, configuration, tmp_path, missing):
    series, sent = ingest(spool, scratch, *phantom(tmp_path / "in", slices=2, overrides={missing: None}))
    assert (series.state, series.reason) == (Series.State.DONE, "")
    assert dicom_bytes(archive_of(series.series_uid, tmp_path)) == sorted(sent)


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO 2022 IR 87", "ISO_IR 127"])
def test_two_patients_in_letters_of_another_character_set_stay_two(
    spool, scratch, configuration, tmp_path, charset
):
    """As a console writes that says UTF-8 and means GBK: what cannot be read must not be the same."""
    from tardis.tardis_portal.models import Experiment

    for placeholder, patient in (("PATIENT-A", "张三先生"), ("PATIENT-B", "王五先生")):
        paths = phantom(
            tmp_path / placeholder,
            slices=2,
            patient_id=placeholder[:8],
            overrides={"SpecificCharacterSet": charset},
        )
        for path in paths:
            path.write_bytes(path.read_bytes().replace(placeholder[:8].encode(), patient.encode("gbk")))
        assert ingest(spool, scratch, *paths)[0].state == Series.State.DONE
    titles = list(Experiment.objects.values_list("title", flat=True))
    assert len(titles) == 2 and "\ufffd" not in "".join(titles)


def test_a_name_in_three_scripts_is_a_title(spool, scratch, owner, box, tmp_path):
    configure(owner, storage_box=box, experiment_title=["PatientName"])
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    paths = phantom(
        tmp_path / "in", slices=2, overrides={"SpecificCharacterSet": "ISO_IR 192", "PatientName": name}
    )
    series, _ = ingest(spool, scratch, *paths)
    assert series.dataset_key.experiment_key.experiment.title == name


def test_an_institution_with_a_long_name_keeps_no_scan_back(spool, scratch, configuration, tmp_path):
    """PostgreSQL takes no more than MyTARDIS's column has room for; SQLite takes anything."""
    from tardis.tardis_portal.models import Experiment

    longest = Experiment._meta.get_field("institution_name").max_length
    paths = with_bytes(phantom(tmp_path / "in", slices=2), 0x00080080, "LO", b"Institute " * 90)
    series, sent = ingest(spool, scratch, *paths)
    assert (series.state, series.reason) == (Series.State.DONE, "")
    name = Experiment.objects.get().institution_name
    assert name.startswith("Institute Institute")
    assert len(name) <= longest
    assert dicom_bytes(archive_of(series.series_uid, tmp_path)) == sorted(sent)


def test_what_the_database_has_no_room_for_is_held_and_not_tried_for_ever(
    spool, scratch, configuration, tmp_path, monkeypatch
):
    def no_room(*_):
        raise DataError("value too long for type character varying(400)")

    monkeypatch.setattr(type(mytardis()), "make_dataset", staticmethod(no_room))
    paths = phantom(tmp_path / "in", slices=2)
    series, sent = ingest(spool, scratch, *paths)
    assert series.state == Series.State.HELD
    assert "value too long" in series.reason
    assert len(spool.files(series.series_uid)) == len(sent)


def test_padding_makes_no_second_patient(spool, scratch, configuration, tmp_path):
    from tardis.tardis_portal.models import Experiment

    for number, value in enumerate([b"P1", b"P1  ", b"P1\0\0", b" P1 "]):
        ingest(
            spool, scratch, *with_bytes(phantom(tmp_path / str(number), slices=1), 0x00100020, "LO", value)
        )
    assert Experiment.objects.get().title == "P1"


def test_one_series_uid_of_two_patients_is_held_and_both_are_kept(spool, scratch, owner, box, tmp_path):
    configure(owner, storage_box=box, experiment_title=["StudyDescription"])
    uid = "1.2.826.0.1.7"
    one = phantom(tmp_path / "one", slices=2, series_uid=uid, patient_id="ONE")
    other = phantom(tmp_path / "other", slices=4, series_uid=uid, patient_id="OTHER")[2:]
    series, _ = ingest(spool, scratch, *one, *other)
    assert series.state == Series.State.HELD
    assert "PatientID is '" in series.reason
    assert "'ONE'" in series.reason
    assert "'OTHER'" in series.reason
    assert len(spool.files(uid)) == 4

    for file in spool.files(uid):
        if pydicom.dcmread(file).PatientID == "OTHER":
            file.unlink()
    ingest_series(spool, uid, (), scratch)
    series, _ = ingest(spool, scratch, *other)
    assert series.state == Series.State.HELD
    assert "PatientID is 'OTHER', not 'ONE'" in series.reason
    assert series.archives.get().instance_count == 2


def test_many_series_of_one_name_each_have_a_directory_in_one_dataset(
    spool, scratch, configuration, tmp_path, django_assert_max_num_queries
):
    for number in range(12):
        paths = phantom(tmp_path / str(number), slices=1)
        if number < 11:
            series, _ = ingest(spool, scratch, *paths)
        else:
            with django_assert_max_num_queries(75):  # no more for the twelfth than for the first
                series, _ = ingest(spool, scratch, *paths)
    assert series.directory == "0003_t1_phantom_oblique_12"
    assert Series.objects.values("dataset_key").distinct().count() == 1


def test_a_late_slice_opens_the_former_archive_once(spool, scratch, configuration, tmp_path, monkeypatch):
    """Else each of a large series' instances would read the table of contents of all of them."""
    paths = phantom(tmp_path / "in", slices=12)
    ingest(spool, scratch, *paths[:-1])
    opened = []
    real = zipfile.ZipFile._RealGetContents

    def counted(self):
        opened.append(self.filename)
        return real(self)

    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", counted)
    series, _ = ingest(spool, scratch, paths[-1])
    assert len(opened) <= 2  # for its manifest, and for its files
    monkeypatch.undo()
    assert len(dicom_bytes(archive_of(series.series_uid, tmp_path))) == 12


@pytest.mark.parametrize("again", ["the same", "a late slice"])
def test_after_its_experiment_was_deleted_a_series_that_comes_again_is_seen_again(
    spool, scratch, configuration, tmp_path, again
):
    from tardis.tardis_portal.models import Experiment

    paths = phantom(tmp_path / "in")
    sent = ingest(spool, scratch, *paths[:-1])[1]
    Experiment.objects.all().delete()
    if again == "the same":
        series, _ = ingest(spool, scratch, *paths[:-1])
    else:
        series, more = ingest(spool, scratch, paths[-1])
        sent += more
    assert series.state == Series.State.DONE, series.reason
    experiment = Experiment.objects.get()
    assert list(experiment.datasets.all()) == [series.dataset_key.dataset]
    newest = series.archives.order_by("-version").first()
    assert newest.datafile.dataset == series.dataset_key.dataset
    assert newest.datafile.directory == series.directory
    assert dicom_bytes(archive_of(series.series_uid, tmp_path)) == sorted(sent)


def test_a_dataset_that_was_moved_and_renamed_takes_its_late_slices_along(
    spool, scratch, configuration, owner, tmp_path
):
    from tardis.tardis_portal.models import Dataset, Experiment

    paths = phantom(tmp_path / "in")
    sent = ingest(spool, scratch, *paths[:-1])[1]
    dataset = Dataset.objects.get()
    dataset.description = "Somebody's better name"
    dataset.save()
    elsewhere = Experiment.objects.create(title="Elsewhere", created_by=owner)
    dataset.experiments.set([elsewhere])
    series, more = ingest(spool, scratch, paths[-1])
    assert series.state == Series.State.DONE
    assert Dataset.objects.get().description == "Somebody's better name"
    assert list(Dataset.objects.get().experiments.all()) == [elsewhere]
    assert dicom_bytes(archive_of(series.series_uid, tmp_path)) == sorted(sent + more)


def test_a_new_series_does_not_follow_a_dataset_that_was_moved_to_other_people(
    spool, scratch, owner, box, tmp_path, django_user_model
):
    """Its experiment is found by who may see it, and a dataset is seen by whoever sees its experiment."""
    from tardis.tardis_portal.models import Dataset

    configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")
    people = {}
    for project in ("12345", "54321"):
        overrides = {"ReferringPhysicianName": project}
        series, _ = ingest(spool, scratch, *phantom(tmp_path / project, overrides=overrides))
        people[project] = django_user_model.objects.create_user(project)
        people[project].groups.add(*Group.objects.filter(name=f"Project {project}"))
    elsewhere = series.dataset_key.experiment_key.experiment
    moved = Dataset.objects.exclude(pk=series.dataset_key.dataset_id).get()
    moved.experiments.set([elsewhere])
    overrides = {"ReferringPhysicianName": "12345"}
    for name in ("one more", "and another"):
        newer, _ = ingest(spool, scratch, *phantom(tmp_path / name, overrides=overrides))
        assert newer.state == Series.State.DONE
        assert list(mytardis().visible_datasets(people["12345"])) == [newer.dataset_key.dataset]
        assert newer.dataset_key.dataset not in mytardis().visible_datasets(people["54321"])
    assert Dataset.objects.count() == 3


def test_a_configuration_that_was_renamed_goes_on_with_its_series(spool, scratch, configuration, tmp_path):
    from tardis.tardis_portal.models import Dataset

    paths = phantom(tmp_path / "in")
    ingest(spool, scratch, *paths[:-1])
    configuration.name = "The same scanner under another name"
    configuration.save()
    series, _ = ingest(spool, scratch, paths[-1])
    assert (series.state, Dataset.objects.count()) == (Series.State.DONE, 1)
    assert series.configuration.name == "The same scanner under another name"


@pytest.mark.parametrize("change", ["renamed", "deleted"])
def test_a_project_whose_group_was_renamed_or_deleted_has_a_group_that_sees_its_series(
    spool, scratch, owner, box, tmp_path, django_user_model, change
):
    configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")
    overrides = {"ReferringPhysicianName": "12345^Smith"}
    ingest(spool, scratch, *phantom(tmp_path / "one", slices=1, overrides=overrides))
    group = Group.objects.get(name="Project 12345")
    if change == "renamed":
        group.name = "Smith's people"
        group.save()
    else:
        group.delete()
    series, _ = ingest(spool, scratch, *phantom(tmp_path / "other", slices=1, overrides=overrides))
    member = django_user_model.objects.create_user("member")
    member.groups.add(Group.objects.get(name="Project 12345"))
    stranger = django_user_model.objects.create_user("stranger")
    assert list(mytardis().visible_datasets(member)) == [series.dataset_key.dataset]
    assert not mytardis().visible_datasets(stranger).exists()


def test_an_owner_is_not_deleted_under_an_instrument(spool, scratch, configuration, owner, tmp_path):
    from django.db.models import ProtectedError

    with pytest.raises(ProtectedError):
        owner.delete()
    assert InstrumentConfiguration.objects.get().owner == owner
