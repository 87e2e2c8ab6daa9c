"""Admin: a filter run is shown with its whole record, read only, and is run again from there."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from tardis_imagetrove import tasks
from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import (
    Event,
    FederatedIdentity,
    FilterRun,
    FolderSource,
    InstrumentConfiguration,
    ProjectGroup,
    Series,
    Subscription,
)
from tardis_imagetrove.reasons import Reason

from .conftest import configure, deliver, phantom, series_uid, why

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run(spool, scratch, configuration, tmp_path, settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SCRATCH": str(scratch)}
    paths = phantom(tmp_path / "in", slices=4)
    deliver(spool, *paths)
    ids = ingest_series(spool, series_uid(paths[0]), ("nifti", "metadata"), scratch)
    tasks.run_filter(ids[0])
    return FilterRun.objects.get(filter="nifti")


@pytest.fixture
def staff(client, django_user_model, settings):
    client.force_login(
        django_user_model.objects.create_superuser("root", password="root"),
        backend="django.contrib.auth.backends.ModelBackend",
    )
    return client


def test_a_run_is_shown_with_its_record_and_cannot_be_edited(run, staff):
    address = reverse("admin:tardis_imagetrove_filterrun_change", args=[run.pk])
    page = staff.get(address).content.decode()
    for words in (
        run.input_sha512,
        "dcm2niix",
        "0003_t1_phantom_oblique.nii.gz",
        f"{run.memory_mib}",
        "exit_status",
    ):
        assert words in page, words
    assert 'name="state"' not in page
    assert "<select" not in page.partition('id="content"')[2]


def test_several_runs_are_run_again_with_one_message_an_archive(run, staff, queued):
    ids = list(FilterRun.objects.values_list("pk", flat=True))
    address = reverse("admin:tardis_imagetrove_filterrun_changelist")
    staff.post(address, {"action": "run_again", "_selected_action": ids})
    assert len(queued) == 1
    assert set(FilterRun.objects.values_list("state", flat=True)) == {FilterRun.State.QUEUED}


ADD = "admin:tardis_imagetrove_instrumentconfiguration_add"
CHANGE = "admin:tardis_imagetrove_instrumentconfiguration_change"


def filled(page):
    """What a browser would send back of the form that a page shows."""
    values = {}
    adminform = page.context["adminform"].form
    for form in (adminform, page.context["inline_admin_formsets"][0].formset.management_form):
        for bound in form:
            value = (
                bound.field.prepare_value(bound.value())
                if hasattr(bound.field, "prepare_value")
                else bound.value()
            )
            if value not in (None, False):
                values[bound.html_name] = value
    values["senders-TOTAL_FORMS"] = values["senders-INITIAL_FORMS"] = 0
    return values


def test_an_instruments_form_tells_which_filters_there_are_and_what_they_make(staff):
    page = staff.get(reverse(ADD)).content.decode()
    assert "nifti (NIfTI, Sidecar, Gradients, of series with pixels)" in page
    assert 'type="checkbox" name="filters" value="minc"' in page


def test_a_new_instrument_begins_with_the_schemas_of_the_last_one(staff, configuration):
    page = staff.get(reverse(ADD), SERVER_NAME="data.example.edu")
    assert f'value="{configuration.schema_dataset}"' in page.content.decode()
    configuration.delete()
    page = staff.get(reverse(ADD), SERVER_NAME="localhost")
    assert 'value="http://localhost/schema/imagetrove/dataset"' in page.content.decode()
    assert (
        "schema_dataset" not in staff.get(reverse(ADD)).context["adminform"].form.initial
    )  # http://testserver


def test_the_owner_and_the_mytardis_instrument_are_found_by_typing(staff, configuration):
    page = staff.get(reverse(CHANGE, args=[configuration.pk])).content.decode()
    for field in ("owner", "mytardis_instrument"):
        answer = staff.get(
            reverse("admin:autocomplete"),
            {
                "app_label": "tardis_imagetrove",
                "model_name": "instrumentconfiguration",
                "field_name": field,
                "term": configuration.owner.username,
            },
        )
        assert answer.status_code == 200
        assert f'data-field-name="{field}"' in page
    assert "MyTARDIS instrument:" in page and "Matching DICOM fields:" in page


def test_an_instrument_is_copied_under_another_name(staff, configuration):
    values = filled(staff.get(reverse(CHANGE, args=[configuration.pk])))
    answer = staff.post(
        reverse(CHANGE, args=[configuration.pk]),
        {**values, "name": "Another", "filters": ["nifti"], "_saveasnew": "1"},
    )
    assert answer.status_code == 302, answer.context["errors"]
    copy = InstrumentConfiguration.objects.get(name="Another")
    assert (copy.instrument, copy.filters) == (configuration.instrument, ["nifti"])


def test_a_filter_that_is_gone_is_shown_and_has_to_be_unticked(staff, configuration):
    configuration.filters = ["nifti", "gone"]
    InstrumentConfiguration.objects.filter(pk=configuration.pk).update(filters=configuration.filters)
    address = reverse(CHANGE, args=[configuration.pk])
    page = staff.get(address)
    assert "gone: unknown filter; untick it" in page.content.decode()
    refused = staff.post(address, filled(page))
    assert "Unknown filter: gone." in refused.content.decode()
    assert staff.post(address, {**filled(page), "filters": ["nifti"]}).status_code == 302
    configuration.refresh_from_db()
    assert configuration.filters == ["nifti"]


def test_a_list_asks_as_much_of_many_rows_as_of_few(run, staff):
    lists = [reverse(f"admin:tardis_imagetrove_{model}_changelist") for model in MODELS]

    def questions():
        asked = {}
        for address in lists:
            with CaptureQueriesContext(connection) as caught:
                assert staff.get(address).status_code == 200
            asked[address] = len(caught)
        return asked

    questions()  # what is remembered from the first look
    few = questions()
    for number in range(30):
        Series.objects.create(series_uid=f"1.2.{number}", configuration=run.archive.series.configuration)
        FilterRun.objects.create(archive=run.archive, filter=f"filter{number}")
        configure(run.archive.series.configuration.owner, name=f"Instrument {number}")
        ProjectGroup.objects.create(group=Group.objects.create(name=f"Project {number}"))
    assert questions() == few


# Every page of ours, with rows in every state

MODELS = sorted(
    model.__name__.lower() for model in admin.site._registry if model._meta.app_label == "tardis_imagetrove"
)


@pytest.fixture
def rows(run):
    """A series in every state, and a filter run in every state."""
    for state in Series.State.values:
        Series.objects.create(series_uid=f"1.2.{state}", description=state, state=state, reasons=why("a; b"))
    archive = run.archive
    for state in FilterRun.State.values:
        FilterRun.objects.create(archive=archive, filter=state, state=state, reasons=why("a"))
    states.hold("1.2.3", Reason("test", "why"))
    ProjectGroup.objects.create(group=Group.objects.create(name="Project 1"))
    FolderSource.objects.bulk_create([FolderSource(name="Console", path="/mnt/console", move_to="/mnt/done")])
    Subscription.objects.create(name="Operators", mail="operators@example.edu", kinds=["held"])
    user = run.archive.series.configuration.owner
    FederatedIdentity.objects.create(issuer="https://idp.example.edu", subject="one", user=user)
    return run


def person(django_user_model, name, staff=True, permissions=()):
    user = django_user_model.objects.create_user(name, is_staff=staff)
    user.user_permissions.set(permissions)
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def ours(*verbs):
    found = Permission.objects.filter(content_type__app_label="tardis_imagetrove")
    return [one for one in found if one.codename.partition("_")[0] in verbs]


def pages(model):
    yield reverse(f"admin:tardis_imagetrove_{model}_changelist")
    yield reverse(f"admin:tardis_imagetrove_{model}_changelist") + "?q=x"
    yield reverse(f"admin:tardis_imagetrove_{model}_add")
    for pk in apps.get_model("tardis_imagetrove", model).objects.values_list("pk", flat=True):
        for page in ("change", "history", "delete"):
            yield reverse(f"admin:tardis_imagetrove_{model}_{page}", args=[pk])


@pytest.mark.parametrize("who", ["superuser", "viewer", "changer", "none"])
def test_every_page_of_ours_opens_or_is_refused(rows, staff, django_user_model, who):
    client = {
        "superuser": lambda: staff,
        "viewer": lambda: person(django_user_model, "viewer", permissions=ours("view")),
        "changer": lambda: person(
            django_user_model, "changer", permissions=ours("view", "add", "change", "delete")
        ),
        "none": lambda: person(django_user_model, "none"),
    }[who]()
    seen = {}
    for model in MODELS:
        for address in pages(model):
            seen[address] = client.get(address).status_code
    wrong = {address: code for address, code in seen.items() if code not in (200, 403)}
    assert wrong == {}
    if who == "none":
        assert set(seen.values()) == {403}
    else:
        assert all(
            code == 200
            for address, code in seen.items()
            if "/change" in address or address[-1] == "/" and address.count("/") == 4
        )


@pytest.mark.parametrize(("verbs", "works"), [(("view",), False), (("view", "change"), True)])
def test_to_see_a_run_is_not_to_run_it_again(rows, django_user_model, queued, verbs, works):
    FilterRun.objects.filter(pk=rows.pk).update(state=FilterRun.State.DONE)
    client = person(django_user_model, "operator", permissions=ours(*verbs))
    address = reverse("admin:tardis_imagetrove_filterrun_changelist")
    client.post(address, {"action": "run_again", "_selected_action": [rows.pk]})
    rows.refresh_from_db()
    assert (rows.state == FilterRun.State.QUEUED) is works
    address = reverse("admin:tardis_imagetrove_series_changelist")
    held = Series.objects.get(series_uid="1.2.held")
    client.post(address, {"action": "ingest_now", "_selected_action": [held.pk]})
    held.refresh_from_db()
    assert (held.state == Series.State.QUEUED) is works


def test_the_series_follow_when_runs_are_run_again_and_old_versions_are_refused(rows, staff, queued):
    FilterRun.objects.update(state=FilterRun.State.DONE)
    series = rows.archive.series
    states.refresh(series.pk)
    assert Series.objects.get(pk=series.pk).state == Series.State.DONE
    address = reverse("admin:tardis_imagetrove_filterrun_changelist")
    answer = staff.post(address, {"action": "run_again", "_selected_action": [rows.pk]}, follow=True)
    assert "1 queued." in answer.content.decode()
    assert Series.objects.get(pk=series.pk).state == Series.State.CONVERTING
    assert Event.objects.filter(kind="run-queued", by="root", run=rows).exists()


def test_a_bids_rule_that_cannot_be_used_is_named_with_its_line(staff, configuration):
    address = reverse(CHANGE, args=[configuration.pk])
    form = staff.get(address)
    assert "fmri_(?P&lt;task&gt;" in form.content.decode()
    values = {**filled(form), "filters": ["nifti"]}
    for rules, problem in (
        ("# mine\nProtocolName ~ x => anat/T9w", "Line 2: BIDS has no anat/T9w"),
        ("ProtocolNam = x => anat/T1w", "did you mean ProtocolName?"),
    ):
        answer = staff.post(address, {**values, "bids_rules": rules})
        assert problem in "".join(answer.context["adminform"].form.errors["bids_rules"])
    answer = staff.post(address, {**values, "bids_session": "VisitNumber"})
    assert "is not a DICOM field" in "".join(answer.context["adminform"].form.errors["bids_session"])
    rules = "ProtocolName ~ x => anat/T1w acq-x\r\n"
    assert staff.post(address, {**values, "bids_rules": rules, "bids_session": "StudyID"}).status_code == 302
    configuration.refresh_from_db()
    assert str(configuration.bids.rules[0].name({})) == "anat/acq-x_T1w"
    assert configuration.bids.fields() == {"PatientID", "StudyID", "ProtocolName"}


def test_a_bids_field_that_deidentification_removes_is_refused(configuration):
    configuration.deidentify, configuration.dataset_title = True, ["Modality"]
    configuration.bids_session = "StudyID"
    configuration.bids_rules = "ProtocolName ~ x => anat/T1w"
    with pytest.raises(ValidationError) as caught:
        configuration.save()
    assert "removes StudyID" in str(caught.value) and "removes ProtocolName" in str(caught.value)
