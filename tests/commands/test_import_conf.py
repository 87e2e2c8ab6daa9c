"""``imagetrove_import_conf``: configurations made, brought up to date, and left alone."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from tardis_imagetrove.models import InstrumentConfiguration

pytestmark = pytest.mark.django_db

BLOCK = """
{name}
{{
    instrument       = [ ["Manufacturer", "SIEMENS"], ["ManufacturerModelName", "{name}"] ]
    experiment_title = [ "PatientID" ]
    dataset_title    = [ "SeriesDescription" ]
    default_operators = ["operator.one@example.edu"]
    default_institution_name = "University of Example"
    default_institutional_department_name = "Imaging"
    default_institutional_address = "1 Example Road"
    schema_experiment = "http://example.edu/schema/1"
    schema_dataset    = "http://example.edu/schema/2"
    schema_file       = "http://example.edu/schema/3"
}}
"""
TOP = 'user = "admin"\npass = "hunter2"\n'
TWO = TOP + 'instruments = ["Skyra", "Prisma"]\n' + BLOCK.format(name="Skyra") + BLOCK.format(name="Prisma")


@pytest.fixture
def admin(django_user_model):
    return django_user_model.objects.create_user("admin")


@pytest.fixture
def run(tmp_path):
    """Import a text; returns what was written, or raises CommandError with all of it."""

    def run(text: str, **options):
        path = tmp_path / "imagetrove_uploader.conf"
        path.write_text(text)
        out = StringIO()
        try:
            call_command("imagetrove_import_conf", str(path), stdout=out, stderr=out, **options)
        except CommandError as error:
            error.args = (f"{out.getvalue()}{error}",)
            raise
        return out.getvalue()

    return run


def kept():
    fields = [
        field.attname
        for field in InstrumentConfiguration._meta.fields
        if field.name not in ("id", "modified")
    ]
    return list(InstrumentConfiguration.objects.order_by("name").values(*fields))


def test_instruments_are_made_with_the_old_user_as_owner(run, admin):
    out = run(TWO)
    assert "Skyra: created\nPrisma: created\n" in out
    assert out.endswith("2 instruments now as the file has it.\n")
    skyra = InstrumentConfiguration.objects.get(name="Skyra")
    assert skyra.owner == admin
    assert skyra.instrument == [["Manufacturer", "SIEMENS"], ["ManufacturerModelName", "Skyra"]]
    assert skyra.schema_dataset == "http://example.edu/schema/2"
    assert "pass: the app works within MyTARDIS" in out
    assert "hunter2" not in out


def test_again_and_again_doubles_and_changes_nothing(run, admin):
    run(TWO)
    before = kept()
    modified = list(InstrumentConfiguration.objects.values_list("modified"))
    assert "Skyra: unchanged\nPrisma: unchanged\n" in run(TWO)
    assert kept() == before
    assert list(InstrumentConfiguration.objects.values_list("modified")) == modified


def test_what_has_changed_is_updated_and_what_the_file_does_not_say_is_kept(run, admin, django_user_model):
    run(TWO)
    other = django_user_model.objects.create_user("other")
    InstrumentConfiguration.objects.filter(name="Skyra").update(
        owner=other, quiet_seconds=7, default_operators=["kept@example.edu"]
    )
    changed = TWO.replace('"PatientID"', '"StudyDescription"', 1).replace(
        '    default_operators = ["operator.one@example.edu"]\n', "", 1
    )
    out = run(changed, owner="admin")
    assert "Skyra: updated (experiment_title)\nPrisma: unchanged\n" in out
    skyra = InstrumentConfiguration.objects.get(name="Skyra")
    assert (skyra.experiment_title, skyra.owner, skyra.quiet_seconds) == (["StudyDescription"], other, 7)
    assert skyra.default_operators == ["kept@example.edu"]


def test_a_dry_run_says_the_same_and_does_nothing(run, admin):
    out = run(TWO, dry_run=True)
    assert "Skyra: would be created" in out
    assert not InstrumentConfiguration.objects.exists()
    run(TWO)
    before = kept()
    assert "Skyra: would be updated (dataset_title)" in run(
        TWO.replace('"SeriesDescription"', '"ProtocolName"', 1), dry_run=True
    )
    assert kept() == before


def test_what_can_be_imported_is_and_the_status_says_that_something_was_left_out(run, admin):
    with pytest.raises(CommandError) as error:
        run(TWO.replace('"PatientID"', '"PatientsID"', 1))
    said = str(error.value)
    assert "left out: " in said and "did you mean PatientID?" in said
    assert said.endswith("1 instrument now as the file has it; 1 thing left out, as said above")
    assert [one["name"] for one in kept()] == ["Prisma"]


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_the_model_refuses_is_told_by_the_settings_line_and_name(run, admin, dry_run):
    wrong = TWO.replace("http://example.edu/schema/2", "schema two", 1).replace(
        "University of Example", "U" * 401, 1
    )
    with pytest.raises(CommandError) as error:
        run(wrong, dry_run=dry_run)
    for key, words in (
        ("schema_dataset", "Enter a valid URL."),
        ("default_institution_name", "Ensure this value has at most 400 characters"),
    ):
        line = next(number for number, text in enumerate(wrong.splitlines(), 1) if key in text)
        assert f"imagetrove_uploader.conf:{line}:5: Skyra.{key}: {words}" in str(error.value)
    assert "2 things left out" in str(error.value)
    assert "Prisma: " + "would be " * dry_run + "created" in str(error.value)


def test_new_instruments_need_an_owner_who_exists(run, django_user_model):
    with pytest.raises(CommandError, match="Skyra: it is new, .* give --owner USERNAME"):
        run(TWO)
    with pytest.raises(CommandError, match="--owner: account 'nobody' does not exist"):
        run(TWO, owner="nobody")
    with pytest.raises(CommandError, match="--owner: not text in UTF-8"):
        run(TWO, owner="Gr\udcfcn")
    owner = django_user_model.objects.create_user("facility")
    run(TWO, owner="facility")
    assert {one["owner_id"] for one in kept()} == {owner.pk}
    assert "Skyra: unchanged" in run(TWO)  # those that exist need none


def test_a_user_that_no_database_can_take_is_nobody(run, admin):
    with pytest.raises(CommandError, match="Skyra: it is new, .* give --owner USERNAME"):
        run(TWO.replace('"admin"', r'"ad\u0000min"'))


def test_an_instrument_that_was_renamed_in_admin_is_not_doubled_without_a_word(run, admin):
    said = run(TWO)
    assert "is the same as" not in said
    InstrumentConfiguration.objects.filter(name="Skyra").update(name="Skyra 3T")
    for dry_run in (True, False, False):
        said = run(TWO, dry_run=dry_run)
        assert ":7:5: Skyra.instrument: is the same as that of Skyra 3T: series that match" in said
        assert "Prisma.instrument" not in said
    InstrumentConfiguration.objects.filter(name="Skyra 3T").update(enabled=False)
    assert "is the same as" not in run(TWO)


def test_two_blocks_that_recognise_the_same_images_are_told(run, admin):
    said = run(TWO.replace('["ManufacturerModelName", "Prisma"]', '["ManufacturerModelName", "Skyra"]'))
    assert "Skyra.instrument: is the same as that of Prisma" in said
    assert "Prisma.instrument: is the same as that of Skyra" in said


def test_a_file_that_cannot_be_read_is_told_with_its_place(run, admin):
    with pytest.raises(CommandError, match=r"imagetrove_uploader\.conf:1:9: expected a value"):
        run("user =  admin")
    with pytest.raises(CommandError, match="expected a file, found none"):
        call_command("imagetrove_import_conf", "/nowhere/imagetrove_uploader.conf")
    assert kept() == []


def test_instruments_without_a_sender_are_said(run, admin):
    assert "no sender yet: Skyra, Prisma: the file does not say" in run(TWO, dry_run=True)
    assert "no sender yet: Skyra, Prisma: the file does not say" in run(TWO)
    InstrumentConfiguration.objects.get(name="Skyra").senders.create(ae_title="A", address="10.0.0.1")
    assert "no sender yet: Prisma: the file" in run(TWO)
    InstrumentConfiguration.objects.get(name="Prisma").senders.create(ae_title="A", address="10.0.0.1")
    assert "no sender yet" not in run(TWO)
