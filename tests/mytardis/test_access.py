"""Access: the owner and the project's group see and download, and nobody else, as MyTARDIS itself answers."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse

from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import ProjectGroup, Series
from tardis_imagetrove.mytardis import mytardis

from ..conftest import configure, deliver, phantom, series_uid

pytestmark = pytest.mark.django_db(transaction=True)

PER_OBJECT = pytest.mark.skipif(
    "objectacl" in apps.all_models["tardis_portal"], reason="only MyTARDIS 5.0 has access rights per object"
)


def ingest(spool, scratch, folder, physician: str) -> Series:
    paths = phantom(folder, slices=2, overrides={"ReferringPhysicianName": physician})
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    return Series.objects.get(series_uid=series_uid(paths[0]))


def person(django_user_model, name: str, *groups: str) -> Client:
    made = django_user_model.objects.create_user(name, password=name)
    for group in groups:
        made.groups.add(Group.objects.get_or_create(name=group)[0])
    client = Client()
    assert client.login(username=name, password=name)
    return client


def sees(client: Client, series: Series) -> tuple[bool, bool, bool]:
    """Whether the visitor gets the experiment's page, the dataset's page, and the archive's bytes."""
    dataset = series.dataset_key.dataset
    experiment = series.dataset_key.experiment_key.experiment
    archive = series.archives.get().datafile
    answers = []
    for name, kwargs in (
        ("tardis_portal.view_experiment", {"experiment_id": experiment.pk}),
        ("tardis_portal.view_dataset", {"dataset_id": dataset.pk}),
        ("api_download_file", {"api_name": "v1", "resource_name": "dataset_file", "pk": archive.pk}),
    ):
        answer = client.get(reverse(name, kwargs=kwargs))
        if answer.status_code == 200 and name == "api_download_file":
            assert len(b"".join(answer.streaming_content)) == archive.size
        answers.append(answer.status_code == 200)
    return tuple(answers)


@pytest.fixture
def projects(owner, box):
    return configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")


@pytest.mark.parametrize("only_experiments", [True, pytest.param(False, marks=PER_OBJECT)])
def test_members_of_the_project_and_the_owner_see_it_and_nobody_else(
    spool, scratch, projects, owner, django_user_model, tmp_path, settings, only_experiments
):
    settings.ONLY_EXPERIMENT_ACLS = only_experiments
    series = ingest(spool, scratch, tmp_path / "in", "12345^Smith")
    facility = Client()
    assert facility.login(username="facility", password="facility")
    everything, nothing = (True, True, True), (False, False, False)
    assert sees(facility, series) == everything
    assert sees(person(django_user_model, "member", "Project 12345"), series) == everything
    assert sees(person(django_user_model, "other", "Project 54321"), series) == nothing
    assert sees(person(django_user_model, "stranger"), series) == nothing
    assert sees(Client(), series) == nothing


def test_without_a_project_only_the_owner_sees_it(spool, scratch, projects, django_user_model, tmp_path):
    series = ingest(spool, scratch, tmp_path / "in", "Smith")
    facility = Client()
    assert facility.login(username="facility", password="facility")
    assert sees(facility, series) == (True, True, True)
    assert sees(person(django_user_model, "member", "Project 12345"), series) == (False, False, False)


@pytest.mark.skipif(not apps.is_installed("tardis.apps.projects"), reason="only MyTARDIS 5.0 has projects")
def test_the_experiment_joins_the_project_of_that_name(spool, scratch, projects, owner, tmp_path):
    from tardis.apps.projects.models import Project

    for number, physician in enumerate(["12345", "12345^Smith", "54321"]):
        ingest(spool, scratch, tmp_path / str(number), physician)
    assert {project.name: project.experiments.count() for project in Project.objects.all()} == {
        "Project 12345": 1,
        "Project 54321": 1,
    }
    assert {project.principal_investigator for project in Project.objects.all()} == {owner}


def self_made_group(django_user_model, name: str) -> Client:
    """A user without any rights has made a group in MyTARDIS's own pages, and so manages it."""
    from tardis.tardis_portal.models import GroupAdmin

    visitor = person(django_user_model, "squatter", name)
    squatter = django_user_model.objects.get(username="squatter")
    who = "user" if hasattr(GroupAdmin, "user") else "admin_user"
    GroupAdmin.objects.create(group=Group.objects.get(name=name), **{who: squatter})
    return visitor


def test_a_group_that_a_user_made_is_not_shown_a_projects_scans(
    spool, scratch, projects, django_user_model, tmp_path
):
    from tardis.tardis_portal.models import Experiment

    self_made_group(django_user_model, "Project 12345")
    series = ingest(spool, scratch, tmp_path / "in", "12345^Smith")
    assert series.state == Series.State.HELD
    assert "'Project 12345' is managed by squatter" in series.reason
    assert not Experiment.objects.exists()
    assert len(spool.files(series.series_uid)) == 2


def test_an_administrator_can_stand_for_such_a_group(spool, scratch, projects, django_user_model, tmp_path):
    member = self_made_group(django_user_model, "Project 12345")
    ProjectGroup.objects.create(group=Group.objects.get(name="Project 12345"))
    series = ingest(spool, scratch, tmp_path / "in", "12345^Smith")
    assert sees(member, series) == (True, True, True)


def test_a_group_made_by_ingest_may_be_managed_by_its_members_later(
    spool, scratch, projects, django_user_model, tmp_path
):
    ingest(spool, scratch, tmp_path / "first", "12345^Smith")
    self_made_group(django_user_model, "Project 12345")
    assert ingest(spool, scratch, tmp_path / "second", "12345^Smith").state == Series.State.DONE


HAS_PROJECTS = pytest.mark.skipif(
    not apps.is_installed("tardis.apps.projects"), reason="only MyTARDIS 5.0 has projects"
)


def made_project(django_user_model, maker: str, name: str):
    """A project, and an experiment of its maker's in it: whoever sees one of a project's experiments is shown the titles of all."""
    from tardis.apps.projects.models import Project
    from tardis.tardis_portal.models import Experiment

    user = django_user_model.objects.get(username=maker)
    experiment = Experiment.objects.create(title="of the maker", created_by=user)
    mytardis().grant_experiment(experiment.pk, user.pk, None)
    project = Project.objects.create(name=name, principal_investigator=user, created_by=user)
    project.experiments.add(experiment)
    return project


@HAS_PROJECTS
def test_a_project_that_somebody_else_made_is_not_shown_the_titles_of_scans(
    spool, scratch, projects, django_user_model, tmp_path
):
    squatter = person(django_user_model, "squatter")
    project = made_project(django_user_model, "squatter", "Project 12345")
    series = ingest(spool, scratch, tmp_path / "in", "12345^Smith")
    page = squatter.get(reverse("tardis.apps.projects.project_recent_experiments", args=[project.pk]))
    assert page.status_code == 200
    assert b"of the maker" in page.content and b"PHANTOM" not in page.content.upper()
    assert series.state == Series.State.HELD
    assert "the project 'Project 12345' was created by squatter" in series.reason
    assert len(spool.files(series.series_uid)) == 2

    project.name = "somebody else's"
    project.save()
    ingest_series(spool, series.series_uid, (), scratch)
    assert Series.objects.get().state == Series.State.DONE
    assert project.experiments.count() == 1


@HAS_PROJECTS
@pytest.mark.parametrize("maker", ["administrator", "member", "facility"])
def test_the_project_of_one_who_may_see_the_scans_is_joined(
    spool, scratch, projects, django_user_model, tmp_path, maker
):
    django_user_model.objects.create_user("administrator", is_staff=True)
    person(django_user_model, "member", "Project 12345")
    project = made_project(django_user_model, maker, "Project 12345")
    assert ingest(spool, scratch, tmp_path / "in", "12345^Smith").state == Series.State.DONE
    assert project.experiments.count() == 2


@HAS_PROJECTS
def test_a_project_is_not_the_right_one_for_a_scan_of_another_project_in_it(
    spool, scratch, projects, django_user_model, tmp_path
):
    """Anybody who may make projects may put into them what they may see."""
    other = ingest(spool, scratch, tmp_path / "other", "54321")
    person(django_user_model, "squatter", "Project 54321")
    project = made_project(django_user_model, "squatter", "Project 12345")
    project.experiments.add(other.dataset_key.experiment_key.experiment)
    assert ingest(spool, scratch, tmp_path / "in", "12345^Smith").state == Series.State.HELD
    assert project.experiments.count() == 2


@HAS_PROJECTS
def test_instruments_of_two_owners_feed_one_project(spool, scratch, projects, django_user_model, tmp_path):
    from tardis.apps.projects.models import Project

    assert ingest(spool, scratch, tmp_path / "first", "12345").state == Series.State.DONE
    projects.owner = django_user_model.objects.create_user("another facility")
    projects.save()
    assert ingest(spool, scratch, tmp_path / "second", "12345").state == Series.State.DONE
    assert Project.objects.get().experiments.count() == 2
