"""Who is on a project, from a list: before or after its scans arrive."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import transaction

from ..errors import PermanentError
from ..ingest.series import project_group
from ..models import ProjectMember
from ..mytardis import mytardis

ADD, REMOVE = "add", "remove"
_COLUMNS = {"project", "mail", "targeted_id", "identifier", "action"}


@dataclass(frozen=True)
class Person:
    """A line of the list: somebody who is to be on a project, or no longer.

    Attributes:
        line: in the file, for messages.
        group: the project's group, such as ``Project 12345``.
        mail, targeted_id: who; one of the two.
    """

    line: int
    group: str
    mail: str
    targeted_id: str
    action: str

    @property
    def who(self) -> str:
        return self.mail or self.targeted_id


@dataclass(frozen=True)
class Result:
    """What became of a line; ``problem`` says why nothing did."""

    person: Person
    done: str = ""
    problem: str = ""


def read_people(lines: Iterable[str], group_pattern: str = "Project {}") -> Iterator[Person]:
    """The people of a CSV file with the columns project, mail or identifier, and action (add, the default, or remove).

    The column of identifiers may be called targeted_id.

    Args:
        group_pattern: makes a group's name of a project that is given by its number alone.

    Raises:
        PermanentError: a column is missing or unknown, or a line has no project; the text names it.
    """
    rows = csv.DictReader(lines)
    names = {(name or "").strip().lower() for name in rows.fieldnames or ()}
    if "project" not in names or not names & {"mail", "targeted_id", "identifier"} or names - _COLUMNS:
        raise PermanentError(
            "the first line must name the columns: project, mail or identifier (or both), and action if any"
        )
    for row in rows:
        values = {(name or "").strip().lower(): (value or "").strip() for name, value in row.items() if name}
        project, action = values.get("project", ""), values.get("action", "").lower() or ADD
        if not project:
            raise PermanentError(f"line {rows.line_num}: no project")
        if action not in (ADD, REMOVE):
            raise PermanentError(f"line {rows.line_num}: action is {action!r}: write {ADD} or {REMOVE}")
        group = group_pattern.format(project) if project.isdecimal() else project
        mail = values.get("mail", "")
        mail = mail.lower() if mail.isascii() else mail  # which is refused
        identifier = values.get("identifier") or values.get("targeted_id", "")
        yield Person(rows.line_num, group, mail, identifier, action)


def apply(people: Iterable[Person], dry_run: bool = False) -> Iterator[Result]:
    """Name people on projects, or take them off; one that cannot be stops none of the others.

    Somebody who is named joins at the next sign-in through a federation that vouches for the address or the identifier:
    an address that an account has been given here proves nothing. Who is taken off leaves the group at once.
    """
    for person in people:
        try:
            with transaction.atomic():
                done = _add(person) if person.action == ADD else _remove(person)
                if dry_run:
                    transaction.set_rollback(True)
            yield Result(person, done=done)
        except ValidationError as error:
            yield Result(person, problem="; ".join(error.messages))
        except PermanentError as error:
            yield Result(person, problem=str(error))


def _add(person: Person) -> str:
    group_id, _ = project_group(mytardis(), person.group)
    named = ProjectMember.objects.filter(
        group=group_id, mail=person.mail, targeted_id=person.targeted_id, joined=None
    )
    if named.exists():
        return "is named already"
    joined = ProjectMember.objects.filter(
        group=group_id, mail=person.mail, targeted_id=person.targeted_id, user__groups=group_id
    )
    if joined.exists():
        return "is already on the project"
    ProjectMember.objects.create(group_id=group_id, mail=person.mail, targeted_id=person.targeted_id)
    return "joins at the next sign-in"


def _remove(person: Person) -> str:
    group = Group.objects.filter(name=person.group).first()
    if group is None:
        raise PermanentError(f"group {person.group!r} does not exist")
    entries = ProjectMember.objects.filter(group=group, mail=person.mail, targeted_id=person.targeted_id)
    users = [entry.user for entry in entries.select_related("user") if entry.user is not None]
    for user in users:
        user.groups.remove(group)
    count, _ = entries.filter(joined=None).delete()
    if not users and not count:
        raise PermanentError("was never added to that project")
    return "left the group" if users else "removed from the list"
