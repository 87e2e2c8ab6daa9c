"""De-identified ingest: what is shown names nobody, and what was received is the owner's alone or gone."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import nibabel
import pydicom
import pytest
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import connection
from django.urls import reverse

from tardis_imagetrove.conversion import registry
from tardis_imagetrove.conversion.run import run_filter
from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.commitment import Outcome, outcome_of
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Archive, FilterRun, Instance, Original, PixelRule, PseudonymKey, Series
from tardis_imagetrove.mytardis import mytardis
from tardis_imagetrove.mytardis.flavours import MyTardis
from tardis_imagetrove.reasons import render
from tardis_imagetrove.scp import CommitmentReference
from tardis_imagetrove.scp.commitment import FailedReference

from ..conftest import configure, deliver, phantom, series_uid
from ..deidentification.planted import Planted, found_in, plant_file
from ..filters.truth import edit
from ..mytardis.test_access import PER_OBJECT, person, sees

pytestmark = pytest.mark.django_db(transaction=True)

#: Where originals' UIDs must be, for senders who send again; nobody but staff is shown them.
LEDGER = {
    "tardis_imagetrove_instance": {"sop_instance_uid", "sha256"},
    "tardis_imagetrove_series": {"series_uid"},
}


@pytest.fixture
def instrument(owner, box):
    """An instrument whose series are de-identified, by the strictest profile, and shown to their project."""

    def make(**changes):
        return configure(
            owner,
            **{
                "storage_box": box,
                "deidentify": True,
                "keep_originals": False,
                "dataset_title": ["Modality"],
                "project_field": "ReferringPhysicianName",
                "project_pattern": r"\d{5}",
                **changes,
            },
        )

    return make


def project_series(folder: Path, **options) -> list[Path]:
    overrides = {"ReferringPhysicianName": "Zqdoctor^Secret 12345", **options.pop("overrides", {})}
    return phantom(folder, **{"slices": 4, "overrides": overrides, **options})


def planted_series(folder: Path, planted: Planted) -> list[Path]:
    """A series with something identifying everywhere, of one patient and one study."""
    paths = phantom(folder / "plain", slices=4)
    plain = pydicom.dcmread(paths[0])
    shared = {
        "PatientID": "ZQID4711", "PatientName": "Zqshared^Zqname", "PatientBirthDate": "18100102",
        "StudyInstanceUID": "1.2.826.0.1.77777.9001", "SeriesInstanceUID": "1.2.826.0.1.77777.9002",
        "FrameOfReferenceUID": "1.2.826.0.1.77777.9003", "StudyDate": "18100304", "StudyTime": "131723.500001",
        "InstitutionName": "ZQ Hospital of Secrets", "ReferringPhysicianName": "Zqdoctor^Secret 12345",
        "SeriesDescription": "t1 of Zqshared", "OperatorsName": "Zqoperator^Op",
    }  # fmt: skip
    secrets = [value for value in shared.values() if "^" not in value and value != "t1 of Zqshared"]
    for index, path in enumerate(paths):
        uid = f"1.2.826.0.1.77777.8{index}"
        plant_file(path, folder / f"{index}.dcm", planted, **shared, SOPInstanceUID=uid)
        planted.values[uid] = "SOPInstanceUID"
    planted.values.update(dict.fromkeys([*secrets, "Zqshared", "Zqname", "Zqdoctor", "Zqoperator"], "shared"))
    assert plain.PatientID not in planted.values
    return [folder / f"{index}.dcm" for index in range(len(paths))]


def ingest(spool, scratch, *paths: Path, convert: bool = False) -> Series:
    deliver(spool, *paths)
    uid = series_uid(paths[0])
    runs = ingest_series(spool, uid, list(registry.load()) if convert else (), scratch)
    for run in runs:
        run_filter(run, scratch, 60)
    series = Series.objects.get(series_uid=uid)
    states.refresh(series.pk)
    series.refresh_from_db()
    return series


def archived(datafile_id: int, folder: Path) -> dict[str, bytes]:
    path = folder / "fetched.zip"
    mytardis().fetch(datafile_id, path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def instances(series: Series, folder: Path, version: int | None = None) -> dict[str, pydicom.Dataset]:
    """The copies in the newest archive, or another version, by their names."""
    archives = series.archives.order_by("-version")
    archive = archives.get(version=version) if version else archives.first()
    found = {}
    for name, content in archived(archive.datafile_id, folder).items():
        if name.endswith(".dcm"):
            (folder / "one.dcm").write_bytes(content)
            found[name] = pydicom.dcmread(folder / "one.dcm")
    return found


def database(leave_out: dict[str, set[str]]) -> str:
    """Every value in every table, but some columns."""
    rows = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                rows += [
                    f"{table}.{name}: {value}"
                    for name, value in zip(names, row, strict=True)
                    if name not in leave_out.get(table, ())
                ]
    return "\n".join(rows)


@pytest.mark.parametrize(
    "options", [[], ["clean-descriptors", "shift-dates", "retain-safe-private"]], ids=["basic", "options"]
)
def test_no_identifying_value_is_in_any_output(
    options, spool, scratch, instrument, owner, tmp_path, django_user_model, caplog
):
    instrument(deidentification_options=options)
    planted = Planted()
    paths = planted_series(tmp_path, planted)
    assert found_in(b"".join(path.read_bytes() for path in paths), planted.values) == planted.values
    caplog.set_level("DEBUG", logger="tardis_imagetrove")
    series = ingest(spool, scratch, *paths, convert=True)
    assert spool.series_uids() == []

    kinds = set(series.archives.get().runs.values_list("outputs__kind", flat=True))
    assert {"NIfTI", "Sidecar", "MINC", "Picture"} <= kinds
    states = dict(series.archives.get().runs.values_list("filter", "state"))
    assert set(states.values()) == {FilterRun.State.DONE}, series.reason
    stored = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(stored) == 5
    for path in stored:
        assert found_in(path.read_bytes(), planted.values) == {}, path.name
        assert found_in(str(path.relative_to(tmp_path)).encode(), planted.values) == {}
    assert found_in(database(LEDGER).encode(), planted.values) == {}

    names = {value: where for value, where in planted.values.items() if not value.startswith("1.2.826")}
    assert found_in(caplog.text.encode(), names) == {}
    member = person(django_user_model, "member", "Project 12345")
    for client in (member, person(django_user_model, "stranger")):
        pages = [
            reverse("tardis_portal.view_dataset", kwargs={"dataset_id": series.dataset_key.dataset_id}),
            reverse(
                "tardis_portal.view_experiment",
                kwargs={"experiment_id": series.dataset_key.experiment_key.experiment_id},
            ),
            "/api/v1/tardis-imagetrove_series/?format=json",
            f"/api/v1/tardis-imagetrove_series/{series.pk}/?format=json",
        ]
        answers = [client.get(page) for page in pages]
        assert all(answer.status_code == 200 for answer in answers) == (client is member)
        assert found_in(b"".join(answer.content for answer in answers), planted.values) == {}
    assert series.shown_uid in member.get(pages[3]).content.decode()


def test_what_the_configuration_says_of_people_and_places_is_not_shown_either(
    spool, scratch, instrument, tmp_path
):
    from tardis.tardis_portal.models import Experiment

    places = {
        "StationName": "ZQSTATION",
        "PatientID": "ZQNUMBER",
        "StudyDescription": "ZQ head",
        "StudyDate": "20260304",
    }
    configuration = instrument(
        instrument=[["ManufacturerModelName", "Phantom generator"], *map(list, places.items())],
        deidentification_options=["clean-descriptors", "shift-dates"],
    )
    said = dict.fromkeys(
        [
            *places.values(),
            "University of Example",
            "Centre for Imaging",
            "1 Example Road",
            "operator.one@example.edu",
        ],
        "",
    )
    series = ingest(spool, scratch, *project_series(tmp_path / "in", overrides=places), convert=True)
    assert series.state == Series.State.DONE
    everything = database({"tardis_imagetrove_instrumentconfiguration": set(_columns(configuration))})
    assert found_in(everything.encode(), said) == {}
    assert Experiment.objects.get().institution_name != "University of Example"


def _columns(model) -> list[str]:
    return [field.column for field in model._meta.fields]


@pytest.mark.parametrize("institution", ["Example Institute", ""])
def test_the_institution_is_shown_where_it_may_stay(institution, spool, scratch, instrument, tmp_path):
    instrument(deidentification_options=["retain-institution"])
    paths = project_series(tmp_path / "in", overrides={"InstitutionName": institution})
    ingest(spool, scratch, *paths, convert=True)
    shown = database({"tardis_imagetrove_instrumentconfiguration": {"default_institution_name"}})
    assert shown.count(institution or "University of Example") >= 2  # of the experiment, and its parameters


def test_titles_are_the_copies(spool, scratch, instrument, tmp_path):
    instrument(dataset_title=["SeriesDescription"], deidentification_options=["clean-descriptors"])
    paths = project_series(tmp_path / "in", series_description="t1_Phantom_cor", patient_name="Phantom^One")
    series = ingest(spool, scratch, *paths)
    (copy, *_) = instances(series, tmp_path).values()
    experiment = series.dataset_key.experiment_key.experiment
    assert experiment.title == copy.PatientID == copy.PatientName != "PHANTOM-1"
    assert series.dataset_key.dataset.description == series.description == "t1_cor"
    assert series.directory == "0003_t1_cor"
    assert (copy.SeriesInstanceUID, copy.StudyInstanceUID) == (series.shown_uid, series.study_uid)


def test_the_owner_alone_is_shown_the_originals(
    spool, scratch, instrument, owner, tmp_path, django_user_model
):
    from tardis.tardis_portal.models import Facility, Instrument

    facility = Facility.objects.create(name="Imaging", manager_group=Group.objects.create(name="managers"))
    skyra = Instrument.objects.create(name="Skyra", facility=facility)
    instrument(keep_originals=True, mytardis_instrument=skyra)
    paths = project_series(tmp_path / "in")
    sent = [path.read_bytes() for path in paths]
    series = ingest(spool, scratch, *paths)
    # A facility's managers are shown the titles of its datasets.
    assert series.dataset_key.dataset.instrument == skyra
    assert series.originals_key.dataset.instrument is None
    original = Original.objects.get()
    files = archived(original.datafile_id, tmp_path)
    assert sorted(content for name, content in files.items() if name.endswith(".dcm")) == sorted(sent)
    assert json.loads(files["manifest.json"])["SeriesInstanceUID"] == series.series_uid

    owners = person_of(owner)
    member = person(django_user_model, "member", "Project 12345")
    stranger = person(django_user_model, "stranger")
    assert sees(owners, series) == sees(member, series) == (True, True, True)
    assert sees(stranger, series) == (False, False, False)
    assert seen_of_originals(owners, series) == (True, True, True)
    assert seen_of_originals(member, series) == seen_of_originals(stranger, series) == (False, False, False)
    page = reverse("tardis_portal.view_dataset", kwargs={"dataset_id": series.dataset_key.dataset_id})
    note = f"The originals are in dataset {series.originals_key.dataset_id}"
    from tardis_imagetrove.dataset_page import gather

    for client, is_told in ((owners, True), (member, False)):
        request = client.get(page).wsgi_request
        notes = gather(request, series.dataset_key.dataset_id, "", True).chosen.notes
        assert any(note in words for words in notes) == is_told


@PER_OBJECT
def test_so_it_is_with_rights_of_each_object(
    spool, scratch, instrument, owner, tmp_path, django_user_model, settings
):
    settings.ONLY_EXPERIMENT_ACLS = False
    instrument(keep_originals=True)
    series = ingest(spool, scratch, *project_series(tmp_path / "in"))
    member = person(django_user_model, "member", "Project 12345")
    assert sees(member, series) == (True, True, True)
    assert seen_of_originals(member, series) == (False, False, False)
    assert seen_of_originals(person_of(owner), series) == (True, True, True)


def person_of(user):
    from django.test import Client

    client = Client()
    assert client.login(username=user.username, password=user.username)
    return client


class _Originals:
    """The originals of a series, as :func:`sees` looks at a series."""

    def __init__(self, series: Series) -> None:
        self.dataset_key = series.originals_key
        self.archives = Original.objects.filter(archive__series=series)


def seen_of_originals(client, series: Series) -> tuple[bool, bool, bool]:
    return sees(client, _Originals(series))


@pytest.mark.parametrize("keep_originals", [True, False])
def test_a_late_slice_joins_the_copies_and_the_originals(
    keep_originals, spool, scratch, instrument, tmp_path
):
    instrument(keep_originals=keep_originals)
    paths = project_series(tmp_path / "in")
    first = ingest(spool, scratch, *paths[:-1])
    before = instances(first, tmp_path)
    series = ingest(spool, scratch, paths[-1])
    after = instances(series, tmp_path)
    assert series.pk == first.pk and len(after) == len(before) + 1
    assert before.keys() < after.keys()
    for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({copy[keyword].value for copy in after.values()}) == 1
    assert instances(series, tmp_path, version=1) == before
    assert set(Instance.objects.values_list("member", flat=True)) == after.keys()
    assert Original.objects.count() == (2 if keep_originals else 0)
    if keep_originals:
        files = archived(Original.objects.get(archive__version=2).datafile_id, tmp_path)
        sent = sorted(path.read_bytes() for path in paths)
        assert sorted(content for name, content in files.items() if name.endswith(".dcm")) == sent
        former = Original.objects.get(archive__version=1).datafile
        assert former.directory.endswith("/superseded/v1")


def test_what_is_sent_again_is_known_although_it_is_not_kept(spool, scratch, instrument, tmp_path):
    instrument()
    paths = project_series(tmp_path / "in")
    for _ in range(2):
        series = ingest(spool, scratch, *paths)
        assert spool.series_uids() == []
    assert Archive.objects.count() == 1
    sizes = dict(series.instances.values_list("sop_instance_uid", "size"))
    assert sizes == {pydicom.dcmread(path).SOPInstanceUID: path.stat().st_size for path in paths}


@pytest.mark.parametrize("kept", [True, False])
def test_an_original_is_committed_if_it_is_kept_and_no_copy_stands_for_it(
    spool, scratch, instrument, tmp_path, kept
):
    instrument(keep_originals=kept)
    series = ingest(spool, scratch, *project_series(tmp_path / "in"))
    references = tuple(
        CommitmentReference(*row) for row in series.instances.values_list("sop_class_uid", "sop_instance_uid")
    )
    assert len(references) == 4
    if kept:
        assert outcome_of(references, spool) == Outcome(references, (), ())
        mytardis().remove_datafiles([Original.objects.get().datafile_id])
    gone = tuple(FailedReference(one, 0x0112) for one in references)
    assert outcome_of(references, spool) == Outcome((), gone, ())


def test_a_project_has_its_own_pseudonyms_whatever_instrument_it_comes_from(
    spool, scratch, instrument, tmp_path
):
    instrument()
    instrument(name="Other", instrument=[["ManufacturerModelName", "Other scanner"]])

    def copy(folder: str, number: str, study: str, **overrides) -> pydicom.Dataset:
        overrides = {"ReferringPhysicianName": number, **overrides}
        series = ingest(
            spool, scratch, *project_series(tmp_path / folder, slices=1, study_uid=study, overrides=overrides)
        )
        return next(iter(instances(series, tmp_path).values()))

    study = "1.2.826.0.1.88888.1"
    here = copy("a", "12345", study)
    there = copy("b", "12345", study, ManufacturerModelName="Other scanner")
    foreign = copy("c", "54321", study)
    assert (here.PatientID, here.StudyInstanceUID) == (there.PatientID, there.StudyInstanceUID)
    assert here.FrameOfReferenceUID == there.FrameOfReferenceUID
    assert foreign.PatientID != here.PatientID and foreign.StudyInstanceUID != here.StudyInstanceUID
    assert PseudonymKey.objects.count() == 2


def test_copies_and_what_is_shown_as_received_share_no_experiment(spool, scratch, instrument, tmp_path):
    configuration = instrument(deidentify=False)
    plain = ingest(spool, scratch, *project_series(tmp_path / "a", slices=1))
    configuration.deidentify, configuration.keep_originals = True, True
    configuration.save()
    copies = ingest(spool, scratch, *project_series(tmp_path / "b", slices=1))
    keys = [plain.dataset_key, copies.dataset_key, copies.originals_key]
    assert len({key.experiment_key.experiment_id for key in keys}) == 3


def test_a_series_keeps_the_profile_that_it_began_with(spool, scratch, instrument, tmp_path):
    configuration = instrument(deidentification_options=["retain-device"], keep_originals=True)
    paths = project_series(tmp_path / "in", overrides={"StationName": "STATION7"})
    ingest(spool, scratch, *paths[:2])
    configuration.deidentification_options, configuration.keep_originals = [], False
    configuration.save()
    ingest(spool, scratch, paths[2])
    configuration.deidentify = False
    configuration.save()
    series = ingest(spool, scratch, paths[3])
    found = instances(series, tmp_path).values()
    assert len(found) == 4
    assert {copy.StationName for copy in found} == {"STATION7"}
    assert {copy.PatientIdentityRemoved for copy in found} == {"YES"}
    assert all("retain-device" in archive.profile for archive in series.archives.all())
    assert Original.objects.count() == 3


def test_a_series_that_is_shown_as_received_stays_so(spool, scratch, instrument, tmp_path):
    configuration = instrument(deidentify=False)
    paths = project_series(tmp_path / "in")
    ingest(spool, scratch, *paths[:-1])
    configuration.deidentify = True
    configuration.save()
    series = ingest(spool, scratch, paths[-1])
    assert {copy.PatientID for copy in instances(series, tmp_path).values()} == {"PHANTOM-1"}
    assert not series.archives.filter(profile__gt="").exists()


def test_a_late_slice_of_another_patient_is_held_without_a_name(spool, scratch, instrument, tmp_path):
    instrument()
    paths = project_series(tmp_path / "in")
    ingest(spool, scratch, *paths[:-1])
    edit(paths[-1], lambda dataset: setattr(dataset, "PatientID", "ZQOTHER"))
    deliver(spool, paths[-1])
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    series = Series.objects.get()
    assert series.state == Series.State.HELD
    assert series.reason == "a late instance differs from its series in PatientID"
    assert len(spool.files(series.series_uid)) == 1


def test_two_patients_in_one_series_are_held_without_their_names(spool, scratch, instrument, tmp_path):
    instrument()
    paths = project_series(tmp_path / "in")
    edit(paths[-1], lambda dataset: setattr(dataset, "PatientID", "ZQOTHER"))
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    series = Series.objects.get()
    assert series.state == Series.State.HELD
    assert "they have different values of PatientID" in series.reason
    assert "ZQOTHER" not in series.reason and "PHANTOM-1" not in series.reason
    assert series.description == ""


def test_an_instance_of_no_instrument_among_hidden_ones_is_told_without_its_values(
    spool, scratch, instrument, owner, tmp_path, caplog
):
    instrument(instrument=[["Manufacturer", "Acme"], ["StationName", "MR1"]])
    configure(owner, name="Quality", instrument=[["PatientName", "Water^Phantom"]])
    paths = project_series(
        tmp_path / "in",
        patient_name="Zqname^Zqfirst",
        overrides={"Manufacturer": "Acme", "StationName": "MR1"},
    )
    edit(paths[0], lambda dataset: setattr(dataset, "StationName", "ZQSTATION"))
    caplog.set_level("DEBUG", logger="tardis_imagetrove")
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    series = Series.objects.get()
    assert series.state == Series.State.HELD
    assert "Quality: PatientName is not 'Water^Phantom'" in series.reason
    assert "StationName is not 'MR1'" in series.reason
    assert "zq" not in (series.reason + series.description + caplog.text).lower()


@pytest.mark.parametrize("keep_originals", [True, False])
def test_what_has_no_safe_copy_waits_in_the_spool(keep_originals, spool, scratch, instrument, tmp_path):
    instrument(keep_originals=keep_originals)
    paths = project_series(tmp_path / "in")
    edit(paths[1], lambda dataset: setattr(dataset, "BurnedInAnnotation", "YES"))
    for _ in range(2):  # tried again, it makes no further version
        series = ingest(spool, scratch, *paths)
        assert series.state == Series.State.PARTIAL
        assert "1 instance: has annotation burned into its pixels" in render(series.left_out)
        assert [file.read_bytes() for file in spool.files(series.series_uid)] == [paths[1].read_bytes()]
        assert len(instances(series, tmp_path)) == 3
    assert series.archives.count() == 1
    assert paths[1].name not in series.reason


def test_a_series_without_a_safe_copy_is_held_until_it_may_be_shown(spool, scratch, instrument, tmp_path):
    from tardis.tardis_portal.models import Dataset, Experiment

    configuration = instrument(
        instrument=[["ManufacturerModelName", "TrioTim"]], project_field="", project_pattern=""
    )
    source = Path(nibabel.__file__).parent / "nicom/tests/data/siemens_dwi_1000.dcm.gz"
    (tmp_path / "mosaic.dcm").write_bytes(gzip.decompress(source.read_bytes()))
    edit(tmp_path / "mosaic.dcm", lambda dataset: setattr(dataset, "PatientID", "ZQPATIENT"))
    series = ingest(spool, scratch, tmp_path / "mosaic.dcm")
    assert series.state == Series.State.HELD
    assert "cannot be de-identified: 1 instance: is a Siemens mosaic" in series.reason
    assert "retain-safe-private" in series.reason
    assert (series.description, series.study_uid) == ("", "")
    assert not Experiment.objects.exists() and not Dataset.objects.exists()
    assert len(spool.files(series.series_uid)) == 1

    configuration.deidentification_options = ["retain-safe-private"]
    configuration.save()
    ingest_series(spool, series.series_uid, (), scratch)
    series.refresh_from_db()
    assert spool.series_uids() == [] and series.archives.count() == 1


def test_a_file_that_cannot_be_read_is_told_without_its_name(spool, scratch, instrument, tmp_path, caplog):
    instrument()
    paths = project_series(tmp_path / "in")
    uid = series_uid(paths[0])
    deliver(spool, *paths)
    (spool.series_root / uid / "1.2.826.0.1.99999.1.dcm").write_bytes(b"ZQ no DICOM")
    damaged = paths[0].read_bytes().replace(uid.encode(), b"ZQ Smith".ljust(len(uid)))
    (spool.series_root / uid / "1.2.826.0.1.99999.2.dcm").write_bytes(damaged)
    ingest_series(spool, uid, (), scratch)
    series = Series.objects.get()
    assert render(series.left_out) == "2 files that cannot be read"
    assert series.state == Series.State.PARTIAL
    assert "1.2.826.0.1.99999.1.dcm" in caplog.text  # for the operator, who may look for it
    assert "Smith" not in caplog.text


def test_what_differs_in_what_is_removed_alone_is_one_copy(spool, scratch, instrument, tmp_path):
    instrument()
    paths = project_series(tmp_path / "in", slices=2)
    ingest(spool, scratch, *paths)
    edit(paths[0], lambda dataset: setattr(dataset, "ImageComments", "seen by Zqdoctor"))
    series = ingest(spool, scratch, paths[0])
    edit(paths[0], lambda dataset: setattr(dataset, "EchoTime", "17"))
    assert len(instances(series, tmp_path)) == 2
    assert series.instances.count() == 3
    series = ingest(spool, scratch, paths[0])
    assert len(instances(series, tmp_path)) == 3
    assert series.instances.filter(conflict=True).count() == 3
    assert "came with different contents" in series.reason


@pytest.mark.parametrize("where", ["store", "register"])
def test_trouble_in_between_leaves_the_spool_and_no_trace(
    where, spool, scratch, instrument, tmp_path, monkeypatch
):
    from tardis.tardis_portal.models import DataFile

    instrument(keep_originals=True)
    paths = project_series(tmp_path / "in")
    calls = []
    with monkeypatch.context() as patched:
        true = getattr(MyTardis, where)

        def second_fails(self, *arguments):
            calls.append(arguments)
            if len(calls) == 2:
                raise OSError(5, "the disk has gone")
            return true(self, *arguments)

        patched.setattr(MyTardis, where, second_fails)
        series = ingest(spool, scratch, *paths)
    assert series.state == Series.State.WAITING
    assert len(spool.files(series.series_uid)) == len(paths)
    assert not Archive.objects.exists() and not DataFile.objects.exists()
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []
    assert list(scratch.iterdir()) == []
    ingest_series(spool, series.series_uid, (), scratch)
    series.refresh_from_db()
    assert series.state == Series.State.DONE
    assert Original.objects.count() == 1 and spool.series_uids() == []


def test_copies_that_were_deleted_are_made_anew_beside_the_originals_that_were_kept(
    spool, scratch, instrument, tmp_path
):
    instrument(keep_originals=True)
    paths = project_series(tmp_path / "in")
    first = ingest(spool, scratch, *paths)
    first.dataset_key.dataset.delete()
    series = ingest(spool, scratch, *paths[:2])
    assert series.state == Series.State.DONE
    assert len(instances(series, tmp_path)) == 2
    assert series.shown_uid == first.shown_uid
    original = series.originals.get(version=2)
    assert len(archived(original.datafile_id, tmp_path)) == len(paths) + 1  # with the manifest


def test_copies_that_were_deleted_may_give_way_to_what_is_received(spool, scratch, instrument, tmp_path):
    configuration = instrument()
    paths = project_series(tmp_path / "in")
    ingest(spool, scratch, *paths).dataset_key.dataset.delete()
    configuration.deidentify = False
    configuration.save()
    series = ingest(spool, scratch, *paths)
    assert {copy.PatientID for copy in instances(series, tmp_path).values()} == {"PHANTOM-1"}
    assert (series.shown_uid, series.is_deidentified) == ("", False)


def _delete_experiment_of(series: Series) -> None:
    """As somebody does on MyTARDIS's page: its datasets and files stay, where nobody sees them."""
    series.dataset_key.experiment_key.experiment.delete()


@pytest.mark.parametrize("keep_originals", [True, False])
@pytest.mark.parametrize("again", ["the same", "a late slice"])
def test_after_its_experiment_was_deleted_a_series_that_comes_again_is_seen_again(
    again, keep_originals, spool, scratch, instrument, tmp_path
):
    instrument(keep_originals=keep_originals)
    paths = project_series(tmp_path / "in")
    first = ingest(spool, scratch, *paths[:-1])
    before = instances(first, tmp_path)
    _delete_experiment_of(first)
    series = ingest(spool, scratch, *(paths[:-1] if again == "the same" else paths[-1:]))
    assert series.state == Series.State.DONE, series.reason
    newest = series.archives.order_by("-version").first()
    assert newest.datafile.dataset == series.dataset_key.dataset != first.dataset_key.dataset
    late = int(again != "the same")
    after = instances(series, tmp_path)
    assert before.keys() <= after.keys() and len(after) == len(before) + late
    assert series.instances.count() == series.instances.filter(archive=newest).count() == len(after)
    if keep_originals:
        files = archived(series.originals.order_by("-version").first().datafile_id, tmp_path)
        sent = sorted(path.read_bytes() for path in paths[: 3 + late])
        assert sorted(content for name, content in files.items() if name.endswith(".dcm")) == sent


def test_what_was_shown_as_received_does_not_come_to_lie_among_copies(
    spool, scratch, instrument, tmp_path, django_user_model
):
    configuration = instrument(deidentify=False)
    paths = project_series(tmp_path / "in", series_description="of Zqshared")
    first = ingest(spool, scratch, *paths[:-1], convert=True)
    _delete_experiment_of(first)
    configuration.deidentify = configuration.keep_originals = True
    configuration.save()
    series = ingest(spool, scratch, *paths[1:], convert=True)
    found = instances(series, tmp_path)
    assert {copy.PatientIdentityRemoved for copy in found.values()} == {"YES"}
    assert len(found) == 3
    # Of what did not come again the former archive is still the one that holds it.
    newest = series.archives.order_by("-version").first()
    assert sorted(series.instances.values_list("archive__version", flat=True)) == [1, 2, 2, 2]
    assert newest.instances.count() == 3 and not series.instances.filter(conflict=True).exists()

    member = person(django_user_model, "member", "Project 12345")
    for page in (
        reverse("tardis_portal.view_dataset", kwargs={"dataset_id": series.dataset_key.dataset_id}),
        f"/api/v1/tardis-imagetrove_series/{series.pk}/?format=json",
    ):
        answer = member.get(page)
        assert answer.status_code == 200
        assert found_in(answer.content, {"Zqshared": "", "PHANTOM-1": "", series.series_uid: ""}) == {}

    ingest(spool, scratch, paths[0])
    assert len(instances(series, tmp_path)) == 4
    assert series.instances.count() == 4


def test_a_filter_that_comes_late_puts_nothing_of_what_was_received_beside_the_copies(
    spool, scratch, instrument, tmp_path
):
    configuration = instrument(deidentify=False)
    paths = project_series(tmp_path / "in")
    deliver(spool, *paths)
    (run_id,) = ingest_series(spool, series_uid(paths[0]), ["nifti"], scratch)
    series = Series.objects.get()
    _delete_experiment_of(series)
    configuration.deidentify = True
    configuration.save()
    # The dataset of the copies is there, and their archive is not yet.
    copies = ingest(spool, scratch, *project_series(tmp_path / "other", slices=1))
    Series.objects.filter(pk=series.pk).update(dataset_key=copies.dataset_key)
    run_filter(run_id, scratch, 60)
    run = FilterRun.objects.get(pk=run_id)
    assert (run.state, run.outputs.count()) == (FilterRun.State.SKIPPED, 0)
    assert copies.dataset_key.dataset.datafile_set.count() == 1


def test_copies_do_not_come_to_lie_among_what_is_shown_as_received(spool, scratch, instrument, tmp_path):
    configuration = instrument()
    paths = project_series(tmp_path / "in")
    _delete_experiment_of(ingest(spool, scratch, *paths))
    configuration.deidentify = False
    configuration.save()
    series = ingest(spool, scratch, *paths)
    assert {copy.PatientID for copy in instances(series, tmp_path).values()} == {"PHANTOM-1"}
    assert series.instances.count() == series.archives.order_by("-version").first().instance_count == 4


@pytest.mark.parametrize("deidentified", [True, False])
def test_trouble_while_it_comes_again_loses_nothing(
    deidentified, spool, scratch, instrument, tmp_path, monkeypatch
):
    instrument(deidentify=deidentified)
    paths = project_series(tmp_path / "in")
    _delete_experiment_of(ingest(spool, scratch, *paths))

    def fails(self, *arguments):
        raise OSError(5, "the disk has gone")

    with monkeypatch.context() as patched:
        patched.setattr(MyTardis, "store", fails)
        series = ingest(spool, scratch, *paths)
    assert len(spool.files(series.series_uid)) == len(paths)
    ingest_series(spool, series.series_uid, (), scratch)
    series.refresh_from_db()
    newest = series.archives.order_by("-version").first()
    assert newest.datafile.dataset == series.dataset_key.dataset
    assert len(instances(series, tmp_path)) == len(paths) and spool.series_uids() == []


def test_an_original_whose_version_was_deleted_is_not_committed_by_an_older_one(
    spool, scratch, instrument, tmp_path
):
    instrument(keep_originals=True)
    paths = project_series(tmp_path / "in")
    ingest(spool, scratch, *paths[:2])
    series = ingest(spool, scratch, paths[2])
    mytardis().remove_datafiles([series.originals.get(version=2).datafile_id])

    def committed(*files: Path) -> int:
        headers = [pydicom.dcmread(path) for path in files]
        return len(
            outcome_of(
                [CommitmentReference(one.SOPClassUID, one.SOPInstanceUID) for one in headers], spool
            ).committed
        )

    assert committed(paths[2]) == 0
    # Nor by the next, which is made of the older one.
    ingest(spool, scratch, paths[3])
    assert len(instances(series, tmp_path)) == 4
    assert committed(paths[2]) == 0


def test_no_group_comes_to_see_the_originals_whatever_it_is_called(
    spool, scratch, instrument, tmp_path, django_user_model
):
    instrument(keep_originals=True)
    paths = project_series(tmp_path / "a", slices=3)
    first = ingest(spool, scratch, *paths[:2])
    group = Group.objects.get(name="Project 12345")
    group.name = "Renamed"
    group.save()
    second = ingest(spool, scratch, *project_series(tmp_path / "b", slices=1))
    late = ingest(spool, scratch, paths[2])
    assert second.originals_key.experiment_key == first.originals_key.experiment_key
    assert late.pk == first.pk
    renamed = person(django_user_model, "renamed", "Renamed")
    member = person(django_user_model, "member", "Project 12345")
    assert sees(member, second) == sees(renamed, second) == (True, True, True)
    for client in (renamed, member):
        assert seen_of_originals(client, second) == (False, False, False)
    copies, originals = first.dataset_key.dataset, first.originals_key.dataset
    for name in ("renamed", "member"):
        visible = mytardis().visible_datasets(django_user_model.objects.get(username=name))
        assert copies in visible and originals not in visible


def test_an_instance_for_which_there_is_no_memory_waits_with_the_reason(
    spool, scratch, instrument, tmp_path, monkeypatch
):
    instrument()
    paths = project_series(tmp_path / "in")

    def no_memory(*arguments, **options):
        raise MemoryError

    deliver(spool, *paths)
    (uid,) = spool.series_uids()
    with monkeypatch.context() as patched:
        patched.setattr("tardis_imagetrove.deidentification.copy.pydicom.dcmwrite", no_memory)
        assert ingest_series(spool, uid, (), scratch) == []
    series = Series.objects.get()
    assert series.state == Series.State.WAITING
    assert "too little memory to de-identify an instance of" in series.reason
    assert len(spool.files(uid)) == len(paths)


def test_a_filter_that_is_run_again_has_the_copies(spool, scratch, instrument, tmp_path):
    instrument(keep_originals=True)
    series = ingest(spool, scratch, *project_series(tmp_path / "in"), convert=True)
    run = FilterRun.objects.get(archive__series=series, filter="nifti")
    FilterRun.objects.filter(pk=run.pk).update(state=FilterRun.State.QUEUED)
    run_filter(run.pk, scratch, 60)
    sidecar = run.outputs.get(kind="Sidecar").datafile
    mytardis().fetch(sidecar.pk, tmp_path / "sidecar.json")
    said = json.loads((tmp_path / "sidecar.json").read_text())
    assert said["DeidentificationMethod"]
    assert found_in((tmp_path / "sidecar.json").read_bytes(), {"PHANTOM-1": "", "Oblique": ""}) == {}


def test_the_uid_of_an_original_does_not_lead_to_its_copies(
    spool, scratch, instrument, tmp_path, django_user_model
):
    instrument()
    series = ingest(spool, scratch, *project_series(tmp_path / "in"))
    member = person(django_user_model, "member", "Project 12345")
    staff = person(django_user_model, "staff")
    django_user_model.objects.filter(username="staff").update(is_staff=True)

    def found(client, uid: str) -> list[str]:
        answer = client.get("/api/v1/tardis-imagetrove_series/", {"format": "json", "series_uid": uid})
        return [one["series_uid"] for one in answer.json()["objects"]]

    assert found(member, series.series_uid) == []
    assert found(member, series.shown_uid) == [series.shown_uid]
    assert found(staff, series.series_uid) == found(staff, series.shown_uid) == [series.series_uid]


@pytest.mark.parametrize("keep_originals", [True, False])
def test_a_report_says_what_became_of_each_attribute_to_staff_alone(
    keep_originals, spool, scratch, instrument, tmp_path, django_user_model, client
):
    instrument(keep_originals=keep_originals, deidentification_options=["shift-dates"])
    overrides = {"StationName": "ZQSTATION", "StudyDate": "20260304"}
    paths = project_series(tmp_path / "in", overrides=overrides)
    series = ingest(spool, scratch, *paths[:3])
    series = ingest(spool, scratch, paths[3])  # late

    archive = series.archives.order_by("-version").first()
    rows = {row["attribute"]: row for row in archive.report}
    assert rows["StationName (0008,1010)"]["done"] == "emptied"
    assert rows["PatientName (0010,0010)"]["done"] == "replaced"
    assert rows["StudyDate (0008,0020)"]["done"] == "shifted"
    assert rows["EchoTime (0018,0081)"]["done"] == "kept"
    assert {rows[name]["count"] for name in ("StationName (0008,1010)", "EchoTime (0018,0081)")} == {4}
    assert "ZQSTATION" not in json.dumps(archive.report)

    page = reverse("tardis_imagetrove:dataset", args=[series.dataset_key.dataset_id])
    member = person(django_user_model, "member", "Project 12345").get(page).content.decode()
    assert "de-identified copies" in member
    assert "StationName (0008,1010)" not in member
    client.force_login(django_user_model.objects.create_superuser("root", password="x"))
    assert "StationName (0008,1010)" in client.get(page).content.decode()

    if not keep_originals:
        assert not series.originals.exists()
        return
    newest, older = series.originals.order_by("-version")
    assert newest.report.dataset_id == series.originals_key.dataset_id != series.dataset_key.dataset_id
    assert newest.report.verified and newest.report.filename == f"{series.series_uid}_deidentification.json"
    assert "/superseded/" in f"/{older.report.directory}/"
    mytardis().fetch(newest.report_id, tmp_path / "report.json")
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["instances"], told["attributes"]) == (4, archive.report)


@pytest.mark.parametrize("option", ["shift-dates", "retain-dates"])
def test_shifted_dates_are_marked_wherever_they_are_shown(option, spool, scratch, instrument, tmp_path):
    from tardis.tardis_portal.models import Dataset, DatasetParameter

    instrument(deidentification_options=[option], dataset_title=["Modality", "StudyDate"])
    series = ingest(spool, scratch, *project_series(tmp_path / "in"), convert=True)
    is_shifted = option == "shift-dates"
    assert Dataset.objects.get().description.endswith(" (shifted)") == is_shifted
    names = set(DatasetParameter.objects.values_list("name__name", flat=True))
    assert ("Shifted Study Date" in names, "Study Date" in names) == (is_shifted, not is_shifted)

    (output,) = FilterRun.objects.get(filter="nifti").outputs.filter(kind="Sidecar")
    mytardis().fetch(output.datafile_id, tmp_path / "sidecar.json")
    fields = json.loads((tmp_path / "sidecar.json").read_text())
    assert fields["LongitudinalTemporalInformationModified"] == ("MODIFIED" if is_shifted else "UNMODIFIED")
    assert [code["CodeValue"] for code in fields["DeidentificationMethodCodeSequence"]] == [
        "113100",
        "113107" if is_shifted else "113106",
    ]
    assert fields["DeidentificationMethodCodeSequence"][0] == {
        "CodeValue": "113100",
        "CodingSchemeDesignator": "DCM",
        "CodeMeaning": "Basic Application Confidentiality Profile",
    }
    assert fields["DeidentificationMethod"][1].startswith("DICOM PS3.15")
    assert series.state == Series.State.DONE


def ultrasound(folder: Path) -> list[Path]:
    """Two images whose pixels may show names."""
    paths = project_series(folder, slices=2)

    def change(dataset):
        kind = "1.2.840.10008.5.1.4.1.1.6.1"
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
        dataset.Modality = "US"

    for path in paths:
        edit(path, change)
    return paths


def test_burned_in_names_are_blacked_out_by_a_rule_that_was_tried_and_approved(
    spool, scratch, instrument, tmp_path, client, django_user_model, settings
):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": str(spool.root)}
    instrument(deidentification_options=["clean-pixels"])
    paths = ultrasound(tmp_path / "in")
    original = pydicom.dcmread(paths[0])
    rule = PixelRule.objects.create(
        name="corner",
        modality="us",
        rows=original.Rows,
        columns=original.Columns,
        regions=[[0, 0, original.Columns, 4]],
    )
    series = ingest(spool, scratch, *paths)
    assert series.state == Series.State.HELD
    assert "no approved pixel rule matches it" in series.reason

    page = reverse("admin:tardis_imagetrove_pixelrule_try", args=[rule.pk])
    client.force_login(
        django_user_model.objects.create_user("helper", is_staff=True),
        "django.contrib.auth.backends.ModelBackend",
    )
    assert client.get(page).status_code == 403
    root = django_user_model.objects.create_superuser("root", password="x")
    client.force_login(root, "django.contrib.auth.backends.ModelBackend")
    shown = client.get(page)
    assert shown.content.count(b"data:image/png;base64,") == 2
    assert "no-store" in shown["Cache-Control"]
    rule.refresh_from_db()
    assert rule.approved is None  # looking is not approving
    assert client.post(page).status_code == 302
    rule.refresh_from_db()
    assert rule.approved_by == "root"

    ingest_series(spool, series.series_uid, (), scratch)
    series.refresh_from_db()
    assert (series.state, spool.series_uids()) == (Series.State.DONE, [])
    for made in instances(series, tmp_path).values():
        assert made.BurnedInAnnotation == "NO"
        assert len(set(made.pixel_array[:4].flat)) == 1 and len(set(made.pixel_array.flat)) > 1

    rule.regions = [[0, 0, 1, 1]]
    rule.save()
    assert (rule.approved, rule.approved_by) == (None, "")
    assert b"No held image matches this rule" in client.get(page).content
    assert client.post(page).status_code == 200
    rule.refresh_from_db()
    assert rule.approved is None


@pytest.mark.parametrize("regions", [[], [[0, 0, 0, 4]], [[0, 0, 4]], [[-1, 0, 4, 4]], [[640, 0, 4, 4]], "x"])
def test_a_rule_of_no_region_is_refused(regions):
    with pytest.raises(ValidationError):
        PixelRule.objects.create(name="r", rows=480, columns=640, regions=regions)
