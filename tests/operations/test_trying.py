"""A rule is tried before it is saved, and a file is explained without being kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import InstrumentConfiguration, Series

from ..conftest import configure, deliver, phantom, series_uid
from ..test_models import form

pytestmark = pytest.mark.django_db(transaction=True)

NEW = "admin:tardis_imagetrove_instrumentconfiguration_try_new"
TRY = "admin:tardis_imagetrove_instrumentconfiguration_try"


@pytest.fixture
def staff(client, django_user_model):
    root = django_user_model.objects.create_superuser("root")
    client.force_login(root, "django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def arrive(spool, scratch, tmp_path, settings):
    """Has a series received and ingested."""
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": str(spool.root)}
    count = iter(range(100))

    def arrive(**overrides) -> Series:
        files = phantom(tmp_path / f"in{next(count)}", slices=2, overrides=overrides)
        deliver(spool, *files)
        ingest_series(spool, series_uid(files[0]), (), scratch)
        return Series.objects.get(series_uid=series_uid(files[0]))

    return arrive


def everything():
    return [
        list(InstrumentConfiguration.objects.values()),
        list(Series.objects.values("pk", "state", "reasons", "modified")),
    ]


def test_a_new_instrument_is_tried_on_what_is_held_and_on_what_was_placed(staff, owner, box, arrive):
    configure(owner, storage_box=box, instrument=[["StationName", "MR1"]], name="First")
    placed = arrive(StationName="MR1")
    assert placed.configuration.name == "First"
    one = arrive(StationName="MR2", ReferringPhysicianName="Project 12345")
    arrive(StationName="MR3")
    untitled = arrive(StationName="MR2", SeriesDescription="")
    before = everything()
    filled = form(
        owner,
        instrument="StationName = MR2",
        experiment_title="PatientID",
        project_field="ReferringPhysicianName",
        project_pattern=r"\d{5}",
    )
    page = staff.post(reverse(NEW), filled)
    trial = page.context["trial"]
    assert (trial.held, trial.would) == (3, [(one, "Project 12345")])
    ((held, why),) = trial.would_not
    assert held == untitled and "has no SeriesDescription" in why
    assert (trial.placed, trial.taken, trial.lost) == (1, [], [])
    text = page.content.decode()
    assert "Held series: 1 of 3 would be placed" in text and "for Project 12345" in text
    assert everything() == before

    wide = staff.post(reverse(NEW), {**filled, "instrument": "StationName = MR1"})
    assert wide.context["trial"].taken == [placed]
    assert "0 of 3 would be placed" in wide.content.decode()
    assert everything() == before


def test_a_changed_instrument_tells_what_it_would_lose_and_what_nobody_can_tell(staff, owner, box, arrive):
    one = configure(owner, storage_box=box)
    placed = arrive()
    filled = form(owner, name=one.name, instrument="ManufacturerModelName = Other")
    trial = staff.post(reverse(TRY, args=[one.pk]), filled).context["trial"]
    assert (trial.lost, trial.taken, trial.unknown) == ([placed], [], 0)
    trial = staff.post(reverse(TRY, args=[one.pk]), {**filled, "instrument": "StationName = X"}).context[
        "trial"
    ]
    assert (trial.placed, trial.lost, trial.unknown) == (0, [], 1)
    one.refresh_from_db()
    assert one.instrument == [["ManufacturerModelName", "Phantom generator"]]


def test_a_form_that_cannot_be_saved_says_so_and_nobody_without_the_right_tries(
    staff, owner, client, django_user_model
):
    page = staff.post(reverse(NEW), form(owner, instrument="Maker = SIEMENS")).content.decode()
    assert "is not a DICOM field" in page and "cannot be saved" in page
    assert staff.get(reverse(NEW)).status_code == 302
    assert "Try on what was received" in staff.get(reverse(NEW).replace("try/", "add/")).content.decode()
    viewer = django_user_model.objects.create_user("viewer", is_staff=True)
    client.force_login(viewer, "django.contrib.auth.backends.ModelBackend")
    assert client.post(reverse(NEW), form(owner)).status_code == 403


# The page that explains a file

EXPLAIN = "tardis_imagetrove:explain"


def test_an_uploaded_file_and_a_series_are_explained(staff, owner, box, arrive, tmp_path, spool):
    configure(owner, storage_box=box, instrument=[["StationName", "MR9"]], name="Ninth")
    series = arrive(StationName="MR2")
    file = spool.files(series.series_uid)[0]
    for fields in ({"file": SimpleUploadedFile("a.dcm", file.read_bytes())}, {"uid": series.series_uid}):
        page = staff.post(reverse(EXPLAIN), fields).content.decode()
        assert "<b>Ninth</b>: StationName is &#x27;MR2&#x27;, not &#x27;MR9&#x27;" in page
    assert Series.objects.count() == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "choose a file, or give a SeriesInstanceUID"),
        ({"uid": "1.2.3"}, "the spool has no files of series 1.2.3"),
        ({"uid": "../../etc"}, "the spool has no files of series ../../etc"),
        ({"file": SimpleUploadedFile("notes.txt", b"no image" * 100)}, "the file: not a DICOM file"),
    ],
)
def test_what_cannot_be_explained_says_why(staff, arrive, fields, words):
    page = staff.post(reverse(EXPLAIN), fields)
    assert page.status_code == 200 and words in page.content.decode()


def test_of_an_instrument_that_de_identifies_no_value_is_quoted_and_strangers_see_nothing(
    staff, owner, box, arrive, spool, client, tmp_path
):
    configure(owner, storage_box=box, deidentify=True, dataset_title=["Modality"])
    configure(owner, name="Other", instrument=[["PatientName", "Nobody"]])
    (file,) = phantom(tmp_path / "one", slices=1, overrides={"PatientName": "Secret^Ada"})
    page = staff.post(
        reverse(EXPLAIN), {"file": SimpleUploadedFile("a", Path(file).read_bytes())}
    ).content.decode()
    assert "PatientName is not &#x27;Nobody&#x27;" in page and "Secret" not in page
    client.force_login(owner, "django.contrib.auth.backends.ModelBackend")
    assert client.get(reverse(EXPLAIN)).status_code in (302, 403)
