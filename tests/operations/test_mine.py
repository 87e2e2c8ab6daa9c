"""Where is my scan: each sees what arrived of their own projects, and nothing else."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group
from django.urls import reverse

from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Series

from ..conftest import configure, deliver, phantom, series_uid
from ..mytardis.test_access import person

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def series(owner, box, spool, scratch, tmp_path) -> Series:
    configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")
    paths = phantom(tmp_path / "in", slices=3, overrides={"ReferringPhysicianName": "12345^Rhea"})
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    return Series.objects.get()


def shown(client) -> str:
    answer = client.get(reverse("tardis_imagetrove:mine"))
    assert answer.status_code == 200 and "no-store" in answer["Cache-Control"]
    return answer.content.decode()


def test_members_see_how_their_scans_stand_and_strangers_nothing(series, django_user_model, client):
    member, stranger = (
        person(django_user_model, "member", "Project 12345"),
        person(django_user_model, "other"),
    )
    page = shown(member)
    assert "t1_phantom_oblique" in page and "Ready" in page and "Project 12345" in page
    address = reverse("tardis_portal.view_dataset", kwargs={"dataset_id": series.dataset_key.dataset_id})
    assert f'href="{address}?series={series.pk}"' in page
    assert "t1_phantom_oblique" not in shown(stranger) and "12345" not in shown(stranger)
    assert client.get(reverse("tardis_imagetrove:mine")).status_code == 302


def test_what_waits_is_counted(series, django_user_model):
    member = person(django_user_model, "member", "Project 12345")
    Series.objects.update(state=Series.State.HELD)
    Series.objects.create(series_uid="1.2.3", project="Project 12345", state="held", description="secret")
    Series.objects.create(series_uid="1.2.4", project="Project 99999", state="held", description="secret")
    page = shown(member)
    assert "2 series of Project 12345 wait for an operator" in page
    assert "Waiting for an operator" in page
    assert "secret" not in page and "99999" not in page


def test_a_group_that_anybody_made_under_a_projects_name_opens_nothing(series, django_user_model):
    """Only groups that ingest made, or an administrator stands for, are projects."""
    Group.objects.filter(name="Project 12345").update(name="Project 12345 (old)")
    forger = person(django_user_model, "forger", "Project 12345")
    Series.objects.update(state=Series.State.HELD)
    page = shown(forger)
    assert "t1_phantom_oblique" not in page and "Project 12345" not in page.replace("forger", "")
