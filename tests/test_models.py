"""Instrument configurations are checked when they are saved, from admin and from scripts."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from django.test import Client

from tardis_imagetrove.models import InstrumentConfiguration

from .conftest import configure

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"instrument": []}, "instrument", "at least one"),
        ({"instrument": [["Manufacturer"]]}, "instrument", "is not a pair"),
        ({"instrument": [["Manufaturer", "SIEMENS"]]}, "instrument", "'Manufaturer' is not a DICOM field"),
        ({"experiment_title": ["patientid"]}, "experiment_title", "did you mean PatientID?"),
        ({"experiment_title": []}, "experiment_title", "at least one"),
        ({"dataset_title": "SeriesDescription"}, "dataset_title", "list"),
        ({"dataset_title": ["(0019,zz0a)"]}, "dataset_title", "is not a DICOM field"),
        ({"project_field": "ReferringPhysicianName"}, "project_pattern", "both a field and a pattern"),
        (
            {"project_field": "Nobody", "project_pattern": "x"},
            "project_field",
            "'Nobody' is not a DICOM field",
        ),
        (
            {"project_field": "StudyID", "project_pattern": "("},
            "project_pattern",
            "Invalid regular expression",
        ),
        ({"project_group": "Everybody"}, "project_group", "Must contain {}"),
        ({"project_group": "{} {}"}, "project_group", "exactly once"),
        ({"schema_dataset": "not a URL"}, "schema_dataset", "valid URL"),
        (
            {"schema_file": "http://example.edu/schema/1"},
            "schema_file",
            "Must differ from that of schema_exp",
        ),
        (
            {"deidentify": True},
            "dataset_title",
            "De-identification removes SeriesDescription, so it cannot be part of a title: choose another"
            " field, or the option clean-descriptors.",
        ),
        (
            {"deidentify": True, "experiment_title": ["InstitutionName"]},
            "experiment_title",
            "retain-institution",
        ),
        (
            {"deidentify": True, "dataset_title": ["Modality"], "identifying_metadata": True},
            "identifying_metadata",
            "Cannot be combined",
        ),
        ({"deidentification_options": ["clean-descriptors"]}, "deidentification_options", "require de-id"),
        (
            {"deidentify": True, "deidentification_options": ["keep-all"]},
            "deidentification_options",
            "Unknown option 'keep-all'",
        ),
        (
            {"deidentify": True, "deidentification_options": ["retain-dates", "shift-dates"]},
            "deidentification_options",
            "not both",
        ),
        ({"deidentify": True, "deidentification_options": "all"}, "deidentification_options", "list"),
    ],
)
def test_a_mistake_is_refused_with_the_field_named(owner, changes, field, words):
    with pytest.raises(ValidationError) as raised:
        configure(owner, **changes)
    assert words in " ".join(raised.value.message_dict[field])
    assert not InstrumentConfiguration.objects.exists()


def test_keywords_and_private_tags_are_taken(owner):
    made = configure(owner, instrument=[["Manufacturer", "GE"], ["(0019,100a)", "x"], ["0019109c", "y"]])
    assert InstrumentConfiguration.objects.get() == made


@pytest.mark.parametrize(
    ("ae_title", "address", "field", "words"),
    [
        ("", "10.1.2.3", "ae_title", "blank"),
        ("A" * 17, "10.1.2.3", "ae_title", "at most 16"),
        ("SKY\\RA", "10.1.2.3", "ae_title", "without a backslash"),
        ("SKYRÄ", "10.1.2.3", "ae_title", "printable ASCII"),
        ("SKYRA", "", "address", "blank"),
        ("SKYRA", "skyra.example.edu", "address", "names are not taken"),
        ("SKYRA", "10.1.2.3/24", "address", "write 10.1.2.0/24, or the address alone"),
        ("SKYRA", "10.1.2.300", "address", "is not an IP address"),
        ("SKYRA", "fd00::1/64", "address", "write fd00::/64"),
    ],
)
def test_a_mistake_in_a_sender_is_refused_with_the_field_named(owner, ae_title, address, field, words):
    configuration = configure(owner)
    with pytest.raises(ValidationError) as raised:
        configuration.senders.create(ae_title=ae_title, address=address)
    assert words in " ".join(raised.value.message_dict[field])
    assert not configuration.senders.exists()


def test_the_same_sender_twice_is_refused_however_it_is_written(owner):
    configuration = configure(owner)
    configuration.senders.create(ae_title="SKYRA", address="10.1.2.0/24")
    configuration.senders.create(ae_title="SKYRA", address="10.1.2.7")
    with pytest.raises(ValidationError, match="already exists|violated"):
        configuration.senders.create(ae_title="SKYRA ", address=" 10.1.2.7/32")
    configure(owner, name="Other").senders.create(ae_title="SKYRA", address="10.1.2.7")


@pytest.fixture
def admin(owner, django_user_model) -> Client:
    django_user_model.objects.create_superuser("root", password="root")
    client = Client()
    assert client.login(username="root", password="root")
    return client


def form(owner, **changes) -> dict[str, object]:
    return {
        "name": "Skyra",
        "enabled": "on",
        "instrument": "Manufacturer = SIEMENS\nManufacturerModelName = Skyra = 3T\n\n",
        "experiment_title": "PatientID\nStudyDescription",
        "dataset_title": "SeriesDescription",
        "owner": owner.pk,
        "project_group": "Project {}",
        "schema_experiment": "http://example.edu/schema/1",
        "schema_dataset": "http://example.edu/schema/2",
        "schema_file": "http://example.edu/schema/3",
        "default_operators": "one@example.edu\ntwo@example.edu",
        "filters": "nifti",
        "senders-TOTAL_FORMS": "2",
        "senders-INITIAL_FORMS": "0",
        "senders-0-ae_title": " SKYRA ",
        "senders-0-address": "10.1.2.3/32",
        "senders-0-report_port": "104",
        "senders-1-ae_title": "",
        "senders-1-address": "",
        **changes,
    }


ADD = "/admin/tardis_imagetrove/instrumentconfiguration/add/"


def test_an_administrator_writes_lines_not_json(admin, owner):
    answer = admin.post(ADD, form(owner))
    assert answer.status_code == 302, answer.context["errors"]
    made = InstrumentConfiguration.objects.get()
    assert made.instrument == [["Manufacturer", "SIEMENS"], ["ManufacturerModelName", "Skyra = 3T"]]
    assert made.experiment_title == ["PatientID", "StudyDescription"]
    assert made.default_operators == ["one@example.edu", "two@example.edu"]
    (sender,) = made.senders.all()
    assert (sender.ae_title, sender.address, sender.report_port) == ("SKYRA", "10.1.2.3", 104)
    page = admin.get(f"/admin/tardis_imagetrove/instrumentconfiguration/{made.pk}/change/").content.decode()
    assert "ManufacturerModelName = Skyra = 3T" in page


def test_an_administrator_ticks_what_de_identification_keeps(admin, owner):
    options = ["clean-descriptors", "shift-dates"]
    answer = admin.post(
        ADD,
        form(
            owner, deidentify="on", deidentification_options=options, experiment_title="PatientID\nStudyDate"
        ),
    )
    assert answer.status_code == 302, answer.context["errors"]
    made = InstrumentConfiguration.objects.get()
    assert made.deidentify and made.deidentification_options == options
    assert not made.keep_originals  # the box was not ticked
    page = admin.get(f"/admin/tardis_imagetrove/instrumentconfiguration/{made.pk}/change/").content.decode()
    assert page.count("checked") >= 3
    assert "Keep dates and times, all of a patient moved by the same secret time" in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"deidentify": "on"}, "De-identification removes SeriesDescription"),
        ({"instrument": "Manufacturer SIEMENS"}, "needs an ="),
        ({"instrument": "Maker = SIEMENS"}, "is not a DICOM field"),
        ({"filters": "nifty"}, "nifty is not one of the available choices"),
        ({"senders-0-address": ""}, "This field is required"),
        ({"senders-0-address": "skyra.example.edu"}, "is not an IP address or network"),
        ({"senders-0-report_port": "0"}, "greater than or equal to 1"),
    ],
)
def test_admin_says_what_is_wrong(admin, owner, changes, words):
    answer = admin.post(ADD, form(owner, **changes))
    assert answer.status_code == 200
    assert words in answer.content.decode()
    assert not InstrumentConfiguration.objects.exists()
