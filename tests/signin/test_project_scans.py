"""A project's scans and its people, in whichever order they come, as MyTARDIS's own pages show them."""

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse

from tardis_imagetrove.models import Series
from tardis_imagetrove.signin.models import ProjectMember

from ..conftest import configure
from ..mytardis.test_access import ingest, sees, self_made_group
from . import signer

pytestmark = pytest.mark.django_db(transaction=True)
EVERYTHING, NOTHING = (True, True, True), (False, False, False)


@pytest.fixture
def projects(owner, box):
    return configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")


def signed_in(who):
    browser = Client()
    assert browser.post("/rc/", {"assertion": signer.assertion(who)}, secure=True).status_code == 302
    return browser


def name_on_project(administrator, **how):
    """As an administrator does, in admin."""
    group = Group.objects.get_or_create(name="Project 12345")[0]
    add = reverse("admin:tardis_imagetrove_projectmember_add")
    assert administrator.post(add, {"group": group.pk, **how}).status_code == 302


@pytest.mark.parametrize("how", [{"mail": "Ada@Example.edu"}, {"targeted_id": signer.targeted_id("ada")}])
def test_a_scan_that_comes_before_the_projects_people_appears_to_them_when_they_come(
    site, spool, scratch, projects, tmp_path, admin_client, how
):
    grace = signed_in("grace")
    series = ingest(spool, scratch, tmp_path / "in", "12345^Smith")
    assert not Group.objects.get(name="Project 12345").user_set.exists()
    assert sees(signed_in("ada"), series) == NOTHING
    name_on_project(admin_client, **how)
    assert sees(signed_in("ada"), series) == EVERYTHING
    assert sees(grace, series) == sees(signed_in("grace"), series) == NOTHING


def test_a_scan_that_comes_after_the_projects_people_is_theirs_at_once(
    site, spool, scratch, projects, tmp_path, admin_client
):
    name_on_project(admin_client, mail="ada@example.edu")
    ada, grace = signed_in("ada"), signed_in("grace")
    series = ingest(spool, scratch, tmp_path / "in", "12345^Smith")
    assert sees(ada, series) == EVERYTHING
    assert sees(grace, series) == NOTHING


def test_naming_a_person_on_a_group_that_a_user_made_does_not_vouch_for_its_other_members(
    site, spool, scratch, projects, tmp_path, admin_client, django_user_model
):
    self_made_group(django_user_model, "Project 12345")
    name_on_project(admin_client, mail="ada@example.edu")
    signed_in("ada")
    assert ingest(spool, scratch, tmp_path / "in", "12345^Smith").state == Series.State.HELD
    assert ProjectMember.objects.get().joined
