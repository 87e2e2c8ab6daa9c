"""Operators' actions: which can be done in which state, what they do, and what is written down of them."""

from __future__ import annotations

import io
import os
import threading
import time

import pydicom
import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from tardis_imagetrove.ingest.commitment import outcome_of
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Event, FilterRun, Series
from tardis_imagetrove.operations.actions import ACTIONS, NotPossible, do_all
from tardis_imagetrove.receiving import TrashSource
from tardis_imagetrove.scp import CommitmentReference

from ..conftest import configure, deliver, phantom, series_uid

pytestmark = pytest.mark.django_db(transaction=True)

S = Series.State

#: For a series with files in the spool and none in the trash: the actions that each state allows.
MATRIX = {
    S.RECEIVING: {"ingest", "assign", "discard"},
    S.QUEUED: {"ingest", "discard"},
    S.INGESTING: set(),
    S.WAITING: {"ingest", "assign", "discard"},
    S.HELD: {"ingest", "assign", "discard"},
    S.CONVERTING: set(),
    S.DONE: {"convert", "discard"},
    S.PARTIAL: {"retry", "convert", "discard"},
    S.DISCARDED: set(),
}


@pytest.fixture
def paths(spool, tmp_path, settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": str(spool.root)}
    made = phantom(tmp_path / "in", slices=4)
    deliver(spool, *made)
    return made


@pytest.fixture
def held(paths, spool, scratch) -> Series:
    """A series of no instrument."""
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    series = Series.objects.get()
    assert (series.state, series.reason_code) == (S.HELD, "no-instrument")
    return series


@pytest.fixture
def archived(configuration, paths, spool, scratch) -> Series:
    ingest_series(spool, series_uid(paths[0]), ("nifti", "metadata"), scratch)
    FilterRun.objects.update(state=FilterRun.State.DONE)
    Series.objects.update(state=S.DONE)
    return Series.objects.get()


@pytest.mark.parametrize("state", S.values)
def test_each_state_allows_what_the_table_says(state, held, spool):
    Series.objects.update(state=state)
    held.refresh_from_db()
    allowed = {name for name, action in ACTIONS.items() if not action.check(held, spool)}
    assert allowed == MATRIX[state]
    assert {name for name, action in ACTIONS.items() if state in action.states} >= allowed
    for name in ACTIONS.keys() - allowed:
        with pytest.raises(NotPossible):
            ACTIONS[name].execute(held, spool, "op", "why")
    assert not Event.objects.filter(by="op").exists()


def test_the_table_has_every_state():
    assert set(MATRIX) == set(S)


def test_a_held_series_is_got_rid_of_and_comes_back(held, paths, spool, scratch, queued):
    before = {path.name: path.read_bytes() for path in spool.files(held.series_uid)}
    with pytest.raises(NotPossible, match="a reason is required"):
        ACTIONS["discard"].execute(held, spool, "op", "  ")
    done = ACTIONS["discard"].execute(held, spool, "op", "a phantom")
    held.refresh_from_db()
    assert "4 files" in done and held.state == S.DISCARDED
    assert "a phantom" in held.reason
    assert spool.series_uids() == []
    (trashed,) = spool.trash(held.series_uid)
    assert (trashed.files, trashed.bytes) == (4, sum(map(len, before.values())))
    # A sender that asks is told that they are not kept.
    reference = CommitmentReference("1.2.840.10008.5.1.4.1.1.4", paths[0].stem)
    assert not outcome_of([reference], spool).committed

    assert {n for n, action in ACTIONS.items() if not action.check(held, spool)} == {"restore"}
    assert "4 files" in ACTIONS["restore"].execute(held, spool, "op")
    held.refresh_from_db()
    assert held.state == S.RECEIVING
    assert {path.name: path.read_bytes() for path in spool.files(held.series_uid)} == before
    assert spool.trash() == []
    told = [(event.kind, event.by) for event in held.events.order_by("pk") if event.by]
    assert told == [("discarded", "op"), ("restored", "op")]


def test_what_comes_again_after_it_was_discarded_is_a_series_like_any_other(
    held, paths, spool, scratch, configuration, queued
):
    ACTIONS["discard"].execute(held, spool, "op", "wrong rule")
    deliver(spool, paths[0])
    ingest_series(spool, held.series_uid, (), scratch)
    held.refresh_from_db()
    assert held.state == S.DONE
    # What had been discarded joins what is archived.
    ACTIONS["restore"].execute(held, spool, "op")
    ingest_series(spool, held.series_uid, (), scratch)
    assert held.archives.order_by("-version").first().instance_count == 4


def test_restoring_keeps_what_differs_under_one_uid(held, paths, spool):
    ACTIONS["discard"].execute(held, spool, "op", "x")
    deliver(spool, *paths)
    (first, *_) = spool.files(held.series_uid)
    content = first.read_bytes()
    first.write_bytes(content + b"\0\0")
    Series.objects.update(state=S.HELD)
    ACTIONS["restore"].execute(held, spool, "op")
    names = [path.name for path in spool.files(held.series_uid)]
    assert len(names) == 5 and sum("~" in name for name in names) == 1


def test_a_row_whose_folder_was_removed_by_hand_is_got_rid_of(held, spool):
    spool.discard(held.series_uid, spool.files(held.series_uid))
    assert "0 files" in ACTIONS["discard"].execute(held, spool, "op", "folder removed")
    held.refresh_from_db()
    assert held.state == S.DISCARDED


def test_late_files_of_an_archived_series_are_discarded_alone(archived, spool, tmp_path):
    assert "no files in the spool" in ACTIONS["discard"].check(archived, spool)
    deliver(spool, *phantom(tmp_path / "late", slices=1, series_uid=archived.series_uid))
    Series.objects.update(state=S.HELD)
    ACTIONS["discard"].execute(archived, spool, "op", "of another patient")
    archived.refresh_from_db()
    assert archived.state == S.DONE and archived.archives.count() == 1


def test_discarding_waits_for_a_worker_and_gives_up_in_words(held, spool):
    taken, done = threading.Event(), threading.Event()

    def work():
        with spool.lock(held.series_uid):
            taken.set()
            done.wait(60)

    worker = threading.Thread(target=work)
    worker.start()
    taken.wait(60)
    (outcome,) = do_all(ACTIONS["discard"], [held], spool, "op", "x")
    done.set()
    worker.join()
    assert "a worker is processing it" in outcome.problem
    assert len(spool.files(held.series_uid)) == 4


def test_one_that_cannot_be_done_stops_none_of_the_others(held, spool, queued):
    other = Series.objects.create(series_uid="1.2.3", state=S.DONE)
    outcomes = list(do_all(ACTIONS["ingest"], [other, held], spool, "op"))
    assert [bool(one.problem) for one in outcomes] == [True, False]
    assert [one[1] for one in queued] == [held.series_uid]


def test_filters_are_run_again(archived, spool, queued):
    assert "no filter failed" in ACTIONS["retry"].check(
        Series.objects.filter(pk=archived.pk).update(state=S.PARTIAL) and Series.objects.get(), spool
    )
    FilterRun.objects.filter(filter="nifti").update(state=FilterRun.State.FAILED)
    assert ACTIONS["retry"].execute(archived, spool, "op") == "1 filter run queued"
    FilterRun.objects.update(state=FilterRun.State.DONE)
    Series.objects.update(state=S.DONE)
    assert ACTIONS["convert"].execute(archived, spool, "op") == "2 filter runs queued"
    archived.refresh_from_db()
    assert archived.state == S.CONVERTING


def test_the_trash_is_emptied_of_what_is_too_old(held, spool, settings, monkeypatch):
    ACTIONS["discard"].execute(held, spool, "op", "x")
    stop = threading.Event()
    stop.set()
    TrashSource(spool).run(stop)
    assert len(spool.trash()) == 1
    (trashed,) = spool.trash()
    monkeypatch.setattr(time, "time", lambda: trashed.since + 31 * 86400)
    TrashSource(spool).run(stop)
    assert spool.trash() == []


# Assigned by hand


@pytest.fixture
def other(owner, box):
    """An instrument whose rule does not fit the series."""
    return configure(
        owner,
        name="Other",
        storage_box=box,
        instrument=[["Manufacturer", "Nobody"]],
        project_field="ReferringPhysicianName",
        project_pattern=r"\d{5}",
    )


def assign(series, spool, instrument, project="", why="the console lost its name"):
    return ACTIONS["assign"].execute(series, spool, "op", why, {"instrument": instrument, "project": project})


def test_a_series_is_placed_where_a_person_says_and_late_slices_follow(
    spool, scratch, tmp_path, other, queued
):
    files = phantom(tmp_path / "in", slices=5)
    deliver(spool, *files[:4])
    ingest_series(spool, series_uid(files[0]), (), scratch)
    series = Series.objects.get()
    assert assign(series, spool, "Other", "12345") == "assigned to Other, project 12345, and queued"
    ingest_series(spool, series.series_uid, (), scratch)
    series.refresh_from_db()
    assert (series.state, series.configuration, series.project) == (S.DONE, other, "Project 12345")
    (event,) = series.events.filter(kind="assigned")
    assert (event.by, event.reason) == ("op", "to Other, project 12345: the console lost its name")
    assert {n for n, action in ACTIONS.items() if not action.check(series, spool)} == {"convert"}
    deliver(spool, files[4])
    ingest_series(spool, series.series_uid, (), scratch)
    series.refresh_from_db()
    assert (series.state, series.archives.first().instance_count, series.configuration) == (S.DONE, 5, other)


def test_an_assignment_holds_before_more_of_the_series_arrives_and_is_taken_back(
    paths, spool, scratch, other, queued
):
    uid = series_uid(paths[0])
    series = Series.objects.create(series_uid=uid)
    assert assign(series, spool, str(other.pk)) == "assigned to Other, of no project"
    assert queued == []
    assign(series, spool, "rules")
    ingest_series(spool, uid, (), scratch)
    series.refresh_from_db()
    assert (series.state, series.reason_code, series.assigned) == (S.HELD, "no-instrument", {})


@pytest.mark.parametrize(
    ("instrument", "project", "words"),
    [
        ("", "", "instrument: name one"),
        ("Nothing", "", "'Nothing' is not an enabled instrument"),
        ("9" * 30, "", "is not an enabled instrument"),
        ("Other", "1234", "'1234' is not a project of Other"),
        ("Other", "12345 and 54321", "is not a project of Other"),
        ("Other", "1" * 65, "at most 64 characters"),
        ("rules", "12345", "requires an instrument"),
    ],
)
def test_what_cannot_be_assigned_is_told_and_changes_nothing(
    held, spool, other, queued, instrument, project, words
):
    with pytest.raises(NotPossible, match=words):
        assign(held, spool, instrument, project)
    held.refresh_from_db()
    assert (held.assigned, queued) == ({}, [])
    with pytest.raises(NotPossible, match="a reason is required"):
        assign(held, spool, "Other", why=" ")


def test_nobody_shows_by_hand_what_would_be_de_identified(paths, owner, box, spool, scratch, other, queued):
    hiding = configure(owner, name="Hiding", storage_box=box, deidentify=True, dataset_title=["Modality"])
    twin = configure(owner, name="Twin", storage_box=box)
    uid = series_uid(paths[0])
    ingest_series(spool, uid, (), scratch)
    series = Series.objects.get()
    assert series.reason_code == "several-instruments"
    assign(series, spool, "Twin")
    ingest_series(spool, uid, (), scratch)
    series.refresh_from_db()
    assert (series.state, series.reason_code) == (S.HELD, "assigned-undisguised")
    assert not series.archives.exists()
    hiding.delete()
    twin.delete()
    ingest_series(spool, uid, (), scratch)
    series.refresh_from_db()
    assert (series.state, series.reason_code) == (S.HELD, "assigned-to-none")


def test_an_assignment_by_page_api_and_command_is_one_and_the_same(held, spool, other, operator, queued):
    asked = post(operator, "confirm", action="assign", series=held.pk, scope="chosen").content.decode()
    assert "Other</option>" in asked and 'name="project"' in asked
    wrong = post(operator, "act", action="assign", series=held.pk, scope="chosen", why="x", instrument="77")
    assert wrong.status_code == 400 and "is not an enabled instrument" in wrong.content.decode()
    post(operator, "act", action="assign", series=held.pk, scope="chosen", why="x", instrument=other.pk)
    held.refresh_from_db()
    assert held.assigned == {"instrument": other.pk, "project": ""}
    address = f"/api/v1/tardis-imagetrove_series/{held.pk}/act/assign/"
    Series.objects.update(state=S.HELD)
    for body, code, words in (
        ('{"why": "x", "instrument": 3}', 400, "instrument: a text"),
        ('{"why": "x", "instrument": "None"}', 409, "not an enabled instrument"),
        ('{"why": "x", "instrument": "Other", "project": "54321"}', 200, "project 54321"),
    ):
        answer = operator.post(address, body, content_type="application/json")
        assert (answer.status_code, words in answer.content.decode()) == (code, True)
    Series.objects.update(state=S.HELD)
    told = run(
        "imagetrove_series",
        "assign",
        held.series_uid,
        "--why",
        "x",
        "--instrument",
        "Other",
        "--project",
        "77777",
    )
    assert "project 77777, and queued" in told
    with pytest.raises(CommandError, match="instrument: name one"):
        run("imagetrove_series", "assign", held.series_uid, "--why", "x")


# Pages


def post(client, name, **fields):
    return client.post(reverse(f"tardis_imagetrove:{name}"), fields)


@pytest.fixture
def operator(client, django_user_model):
    """Staff with the right to change series, and no more."""
    from django.contrib.auth.models import Permission

    user = django_user_model.objects.create_user("operator", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(
            content_type__app_label="tardis_imagetrove", codename__in=("view_series", "change_series")
        )
    )
    client.force_login(user, "django.contrib.auth.backends.ModelBackend")
    return client


def test_an_action_is_asked_for_then_done_and_told(held, spool, operator):
    asked = post(operator, "confirm", action="discard", series=held.pk, scope="chosen")
    assert asked.status_code == 200 and "Discard: 1 series" in asked.content.decode()
    assert Series.objects.get().state == S.HELD
    without = post(operator, "act", action="discard", series=held.pk, scope="chosen", why=" ")
    assert without.status_code == 400 and "Say why" in without.content.decode()
    done = post(operator, "act", action="discard", series=held.pk, scope="chosen", why="a phantom")
    assert "Done for 1 of 1 series" in done.content.decode()
    page = operator.get(reverse("tardis_imagetrove:series", args=[held.pk])).content.decode()
    assert "a phantom" in page and "by operator" in page and "In the trash" in page
    assert "Restore from the trash" in page


def test_what_was_found_is_done_at_once(held, spool, operator, queued):
    for number in range(60):
        Series.objects.create(series_uid=f"1.2.{number}", description=f"scout {number}", state=S.HELD)
    asked = post(operator, "confirm", action="discard", scope="found", filter="state=held&q=scout")
    assert "Discard: 60 series" in asked.content.decode() and "and 50 more" in asked.content.decode()
    done = post(operator, "act", action="discard", scope="found", filter="state=held&q=scout", why="scouts")
    assert "Done for 60 of 60 series" in done.content.decode()
    assert list(Series.objects.filter(state=S.HELD)) == [held]


def test_a_series_page_tells_each_rule_and_the_story(held, configuration, operator):
    page = operator.get(reverse("tardis_imagetrove:series", args=[held.pk])).content.decode()
    assert "Matching" in page and f"<b>{configuration.name}</b>: matches" in page
    configuration.instrument = [["Manufacturer", "Zzz"], ["Modality", "MR"]]
    configuration.save()
    page = operator.get(reverse("tardis_imagetrove:series", args=[held.pk])).content.decode()
    assert "not &#x27;Zzz&#x27;" in page and "Modality = MR" in page


def test_of_what_is_de_identified_no_value_is_quoted(
    owner, box, spool, scratch, tmp_path, settings, operator
):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": str(spool.root)}
    configure(owner, storage_box=box, deidentify=True, dataset_title=["Modality"])
    other = configure(owner, name="Other", instrument=[["PatientName", "Nobody"]])
    files = phantom(tmp_path / "in", slices=1, overrides={"BurnedInAnnotation": "YES"})
    deliver(spool, *files)
    ingest_series(spool, series_uid(files[0]), (), scratch)
    series = Series.objects.get()
    assert series.state == S.HELD
    name = str(pydicom.dcmread(files[0]).PatientName)
    page = operator.get(reverse("tardis_imagetrove:series", args=[series.pk])).content.decode()
    assert f"<b>{other.name}</b>: PatientName is not &#x27;Nobody&#x27;" in page
    assert name and name not in page


def test_the_list_is_searched_and_counts_each_state(held, operator):
    Series.objects.create(series_uid="1.2.3", description="t1_findme", state=S.DONE, modality="MR")
    Series.objects.create(series_uid="1.2.4", description="other", state=S.DONE, modality="CT")
    index = reverse("tardis_imagetrove:index")
    page = operator.get(index, {"q": "FINDME"}).content.decode()
    assert "t1_findme" in page and "other" not in page
    assert "other" in operator.get(index, {"modality": "CT"}).content.decode()
    assert "t1_findme" not in operator.get(index, {"reason": "no-such"}).content.decode()
    page = operator.get(index, {"q": "1.2.4\0", "since": "no day", "instrument": "x"}).content.decode()
    assert "other" in page and "t1_findme" not in page
    assert "Archived <b>2</b>" in page


@pytest.mark.parametrize("name", ["confirm", "act"])
def test_only_staff_who_may_change_series_can_act(name, held, client, django_user_model, owner):
    fields = {"action": "discard", "series": held.pk, "scope": "chosen", "why": "x"}
    for user in (None, owner, django_user_model.objects.create_user("viewer", is_staff=True)):
        if user:
            client.force_login(user, "django.contrib.auth.backends.ModelBackend")
        assert post(client, name, **fields).status_code in (302, 403)
    assert Series.objects.get().state == S.HELD


def test_nothing_is_done_by_a_link_or_without_a_token(held, operator, django_user_model):
    from django.test import Client

    assert operator.get(reverse("tardis_imagetrove:act"), {"action": "discard"}).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = operator.cookies
    fields = {"action": "discard", "series": held.pk, "scope": "chosen", "why": "x"}
    assert strict.post(reverse("tardis_imagetrove:act"), fields).status_code == 403
    assert post(operator, "act", **{**fields, "action": "nonsense"}).status_code == 404
    assert Series.objects.get().state == S.HELD


# API and commands


def test_the_api_does_the_same(held, operator, client):
    address = f"/api/v1/tardis-imagetrove_series/{held.pk}/act/discard/"
    answer = operator.post(address, "{}", content_type="application/json")
    assert answer.status_code == 409 and "a reason is required" in answer.content.decode()
    answer = operator.post(address, '{"why": "a phantom"}', content_type="application/json")
    assert answer.status_code == 200 and "4 files" in answer.json()["done"]
    assert Series.objects.get().events.get(kind="discarded").by == "operator"
    assert operator.post(address.replace("discard", "nonsense")).status_code == 404
    assert operator.get(address).status_code == 405


def test_the_api_refuses_staff_who_may_not_change_series(held, client, django_user_model):
    viewer = django_user_model.objects.create_user("viewer", is_staff=True)
    client.force_login(viewer, "django.contrib.auth.backends.ModelBackend")
    address = f"/api/v1/tardis-imagetrove_series/{held.pk}/act/discard/"
    assert client.post(address, '{"why": "x"}', content_type="application/json").status_code == 403


def run(*arguments, **options) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, skip_checks=True, **options)
    return out.getvalue()


def test_the_command_does_the_same_and_tells_the_story(held, spool):
    assert "would be done" in run("imagetrove_series", "discard", held.series_uid, dry_run=True)
    with pytest.raises(CommandError, match="not done with 1 of 1"):
        run("imagetrove_series", "discard", "--state", "held")
    assert "4 files" in run("imagetrove_series", "discard", "--state", "held", "--why", "a phantom")
    story = run("imagetrove_series", "log", held.series_uid)
    assert "received" in story and "(imagetrove_series): 4 files moved to the trash: a phantom" in story
    with pytest.raises(CommandError, match="no such series: 1.2.3"):
        run("imagetrove_series", "log", "1.2.3")
    with pytest.raises(CommandError, match="Name series"):
        run("imagetrove_series", "log")


def test_a_user_without_a_name_is_told_by_number(held, spool, monkeypatch):
    """As in a container that runs as a user whom its passwd does not know."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    run("imagetrove_series", "discard", held.series_uid, "--why", "x")
    assert held.events.get(kind="discarded").by == f"uid {os.getuid()} (imagetrove_series)"


def test_rules_are_explained_for_a_file_and_for_a_series(held, paths, configuration):
    assert f"{configuration.name}: matches" in run("imagetrove_explain", str(paths[0]))
    configuration.instrument = [["Manufacturer", "Zzz"]]
    configuration.save()
    with pytest.raises(CommandError, match="no instrument matches"):
        run("imagetrove_explain", held.series_uid)
    with pytest.raises(CommandError, match="has no files of series 1.2.3"):
        run("imagetrove_explain", "1.2.3")
    with pytest.raises(CommandError, match="not a DICOM file"):
        run("imagetrove_explain", __file__)
