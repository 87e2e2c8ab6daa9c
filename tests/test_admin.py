"""Admin: a filter run is shown with its whole record, read only, and is run again from there."""

from __future__ import annotations

import pytest
from django.urls import reverse

from tardis_imagetrove import tasks
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import FilterRun

from .conftest import deliver, phantom, series_uid

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


def test_several_runs_are_run_again_with_one_message_an_archive(run, staff, monkeypatch):
    taken = []
    monkeypatch.setattr(tasks, "_queue", lambda task, *arguments: taken.append(arguments))
    ids = list(FilterRun.objects.values_list("pk", flat=True))
    address = reverse("admin:tardis_imagetrove_filterrun_changelist")
    staff.post(address, {"action": "run_again", "_selected_action": ids})
    assert len(taken) == 1
    assert set(FilterRun.objects.values_list("state", flat=True)) == {FilterRun.State.QUEUED}


def test_an_instruments_form_tells_which_filters_there_are_and_what_they_make(staff):
    page = staff.get(reverse("admin:tardis_imagetrove_instrumentconfiguration_add")).content.decode()
    assert "nifti (NIfTI, Sidecar, Gradients, of series with pixels); minc (MINC," in page
