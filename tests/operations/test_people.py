"""Project people by list: named before or after the scans arrive, taken off, and every bad line told."""

from __future__ import annotations

import io

import pytest
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command

from tardis_imagetrove.models import ProjectMember

from ..conftest import configure
from ..mytardis.test_access import ingest, sees, self_made_group
from ..signin import signer
from ..signin.conftest import site  # noqa: F401 (a fixture)
from ..signin.test_project_scans import EVERYTHING, NOTHING, signed_in

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def people(tmp_path):
    """Runs the command on a list."""

    def run(text: str, *arguments: str) -> str:
        path, out = tmp_path / "people.csv", io.StringIO()
        path.write_text(text, encoding="utf-8-sig")  # as spreadsheets write it
        try:
            call_command("imagetrove_people", "--file", str(path), *arguments, stdout=out, skip_checks=True)
        except CommandError as error:
            return f"{out.getvalue()}ERROR {error}"
        return out.getvalue()

    return run


@pytest.mark.parametrize(
    "line",
    ["12345,Ada@Example.edu,", f"12345,,{signer.targeted_id('ada')}", "Project 12345,ada@example.edu,"],
)
@pytest.mark.parametrize("first", ["people", "scans"])
@pytest.mark.usefixtures("site")
def test_who_is_named_sees_the_scans_and_who_is_taken_off_does_not(
    spool, scratch, tmp_path, owner, box, people, first, line
):
    configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")
    text = f"project,mail,targeted_id\n{line}\n"
    if first == "people":
        assert "joins at the next sign-in" in people(text)
    series = ingest(spool, scratch, tmp_path / "in", "12345^Smith")
    if first == "scans":
        assert sees(signed_in("ada"), series) == NOTHING
        assert "joins at the next sign-in" in people(text)
    assert "is named already" in people(text)
    ada = signed_in("ada")
    assert sees(ada, series) == EVERYTHING
    assert sees(signed_in("grace"), series) == NOTHING
    assert "is already on the project" in people(text)

    assert "left the group" in people(f"project,mail,targeted_id,action\n{line},remove\n")
    assert sees(ada, series) == NOTHING
    assert sees(signed_in("ada"), series) == NOTHING  # it worked once


def test_a_dry_run_changes_nothing(people):
    assert "joins at the next sign-in" in people("project,mail\n12345,ada@example.edu\n", "--dry-run")
    assert not ProjectMember.objects.exists() and not Group.objects.filter(name="Project 12345").exists()


def test_bad_lines_are_told_and_stop_none_of_the_others(people, django_user_model):
    self_made_group(django_user_model, "Project 99999")
    told = people(
        "Project,Mail,Targeted_ID,Action\n"
        "12345,not an address,,\n"
        "12345,\u212aate@example.edu,,\n"
        "12345,,,\n"
        "99999,ada@example.edu,,\n"
        "54321,ada@example.edu,,remove\n"
        "12345,ada@example.edu,,\n"
    )
    lines = told.splitlines()
    assert [("NOT DONE" in line) for line in lines[:-1]] == [True] * 5 + [False]
    assert "Enter a valid email address" in lines[0]
    assert "squatter" in lines[3] and "group 'Project 54321' does not exist" in lines[4]
    assert lines[-1] == "ERROR not done for 5 of 6 people"
    assert ProjectMember.objects.get().mail == "ada@example.edu"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the first line must name the columns"),
        ("project\n1\n", "the first line must name the columns"),
        ("project,mail,shoe size\n", "the first line must name the columns"),
        ("project,mail\n,ada@example.edu\n", "line 2: no project"),
        ("project,mail,action\n1,ada@example.edu,delete\n", "line 2: action is 'delete'"),
    ],
)
def test_a_list_that_cannot_be_read_does_nothing(people, text, words):
    assert words in people(text)
    assert not ProjectMember.objects.exists()
