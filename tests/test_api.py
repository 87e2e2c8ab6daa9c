"""The API: what staff, a member, a stranger and nobody get of it, by every way of signing in."""

from __future__ import annotations

from base64 import b64encode

import pytest
from django.contrib.auth.models import Group
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from tastypie.models import ApiKey

from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import FilterOutput, FilterRun, InstrumentConfiguration, Series
from tardis_imagetrove.reasons import Reason

from .conftest import configure, deliver, phantom, series_uid, why

pytestmark = pytest.mark.django_db(transaction=True)

SERIES, INSTRUMENTS = "/api/v1/tardis-imagetrove_series/", "/api/v1/tardis-imagetrove_instrument/"


@pytest.fixture
def people(owner, django_user_model):
    """Clients of staff, a member of project 12345, and a stranger; and of nobody."""
    django_user_model.objects.create_user("staff", password="staff", is_staff=True)
    member = django_user_model.objects.create_user("member", password="member")
    member.groups.add(Group.objects.create(name="Project 12345"))
    django_user_model.objects.create_user("stranger", password="stranger")
    clients = {"nobody": Client()}
    for name in ("staff", "member", "stranger"):
        clients[name] = Client()
        assert clients[name].login(username=name, password=name)
    return clients


@pytest.fixture
def projects(owner, box):
    return configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")


@pytest.fixture
def ingest(spool, scratch, tmp_path, projects):
    """Ingest a generated series, of project 12345 unless told otherwise."""

    def ingest(physician: str = "12345", filters=("metadata", "nifti"), **overrides) -> Series:
        folder = tmp_path / f"in-{Series.objects.count()}"
        paths = phantom(folder, slices=2, overrides={"ReferringPhysicianName": physician, **overrides})
        deliver(spool, *paths)
        ingest_series(spool, series_uid(paths[0]), filters, scratch)
        return Series.objects.get(series_uid=series_uid(paths[0]))

    return ingest


def listed(client: Client, query: str = "") -> list[str]:
    answer = client.get(SERIES + query)
    assert answer.status_code == 200, answer.content
    found = answer.json()
    assert found["meta"]["total_count"] == len(found["objects"])
    return [one["series_uid"] for one in found["objects"]]


PROGRAM = {"arguments": ["dcm2niix", "-z", "n"], "exit_status": 8, "seconds": 1.0, "memory_mib": 90.0}


def test_a_member_is_shown_all_of_a_series_that_scripts_need(people, ingest, projects):
    series = ingest()
    done, failed = series.archives.get().runs.order_by("filter")
    FilterRun.objects.filter(pk=done.pk).update(state="done", converter="pydicom 3")
    FilterRun.objects.filter(pk=failed.pk).update(
        state="failed",
        reasons=why("slices are missing", code="warning"),
        filter_version="2",
        options={"level": 3},
        programs=[PROGRAM],
        exit_status=8,
        input_sha512="ab" * 64,
        seconds=1.5,
        memory_mib=120.5,
        attempts=2,
    )
    archive = series.archives.get()
    output = FilterOutput.objects.create(run=done, datafile_id=archive.datafile_id, kind="NIfTI")
    states.refresh(series.pk)
    (found,) = people["member"].get(SERIES).json()["objects"]
    assert found == people["member"].get(f"{SERIES}{series.pk}/").json()
    dataset_id = series.dataset_key.dataset_id
    assert {name: found[name] for name in found if name not in ("created", "modified")} == {
        "id": series.pk,
        "resource_uri": f"{SERIES}{series.pk}/",
        "series_uid": series.series_uid,
        "study_uid": series.study_uid,
        "description": "t1_phantom_oblique",
        "modality": "MR",
        "state": "partial",
        "reason": "nifti: slices are missing",
        "reasons": [{"code": "warning", "text": "slices are missing", "subject": "nifti"}],
        "left_out": "",
        "project": "Project 12345",
        "instrument": projects.name,
        "dataset": dataset_id,
        "dataset_url": found["dataset_url"],
        "directory": series.directory,
        "archives": [
            {
                "version": 1,
                "superseded": False,
                "datafile": archive.datafile_id,
                "instances": 2,
                "sha512": archive.sha512,
                "profile": "",
                "created": found["archives"][0]["created"],
            }
        ],
        "filter_runs": [
            {
                "archive_version": 1,
                "filter": "metadata",
                "state": "done",
                "reason": "",
                "reasons": [],
                "converter": "pydicom 3",
                "filter_version": "",
                "warnings": [],
                "options": {},
                "programs": [],
                "exit_status": None,
                "input_sha512": "",
                "seconds": None,
                "memory_mib": None,
                "attempts": 0,
                "outputs": [{"kind": "NIfTI", "datafile": output.datafile_id}],
            },
            {
                "archive_version": 1,
                "filter": "nifti",
                "state": "failed",
                "reason": "slices are missing",
                "reasons": why("slices are missing", code="warning"),
                "converter": "",
                "filter_version": "2",
                "warnings": ["slices are missing"],
                "options": {"level": 3},
                "programs": [PROGRAM],
                "exit_status": 8,
                "input_sha512": "ab" * 64,
                "seconds": 1.5,
                "memory_mib": 120.5,
                "attempts": 2,
                "outputs": [],
            },
        ],
    }
    assert people["member"].get(found["dataset_url"]).status_code == 200


def test_why_a_run_waits_is_told_to_staff_alone(people, ingest):
    series = ingest()
    words = "storage box 7: cannot be reached at box.example.edu"
    FilterRun.objects.filter(archive__series=series, filter="nifti").update(
        state="waiting", reasons=why(words)
    )
    states.refresh(series.pk)
    for name, is_told in (("staff", True), ("member", False)):
        answer = people[name].get(f"{SERIES}{series.pk}/")
        assert answer.json()["state"] == "converting"
        assert (words in answer.json()["reason"]) == is_told
        assert ("box.example.edu" in answer.content.decode()) == is_told


def test_everybody_is_shown_what_mytardis_lets_them_see_and_staff_all(people, ingest, owner):
    theirs, others = ingest("12345"), ingest("54321", SeriesDescription="other")
    held = Series.objects.create(series_uid="1.2.3", state=Series.State.HELD)
    facility = Client()
    facility.force_login(owner)
    for client, expected in [
        (people["staff"], {theirs, others, held}),
        (facility, {theirs, others}),
        (people["member"], {theirs}),
        (people["stranger"], set()),
    ]:
        assert set(listed(client)) == {one.series_uid for one in expected}
        for one in (theirs, others, held):
            answer = client.get(f"{SERIES}{one.pk}/")
            assert answer.status_code == (200 if one in expected else 403)
            assert one in expected or one.series_uid not in answer.content.decode()
    several = people["member"].get(f"{SERIES}set/{theirs.pk};{others.pk}/").content.decode()
    assert theirs.series_uid in several
    assert others.series_uid not in several
    assert people["staff"].get(f"{SERIES}999/").status_code == 404


def test_nobody_is_sent_away_from_every_address(people, ingest, projects):
    series = ingest()
    for address in (
        SERIES,
        f"{SERIES}{series.pk}/",
        f"{SERIES}schema/",
        INSTRUMENTS,
        f"{INSTRUMENTS}{projects.pk}/",
    ):
        assert people["nobody"].get(address).status_code == 401
    assert people["nobody"].post(f"{SERIES}{series.pk}/retry/").status_code == 401


def test_a_reason_that_is_the_operators_business_is_kept_from_others(people, ingest):
    series = ingest()
    states.hold(series.series_uid, Reason("test", "late instances belong elsewhere: now 'Somebody Else'"))
    Series.objects.update(left_out=why("a file"))
    address = f"{SERIES}{series.pk}/"
    assert "Somebody Else" in people["staff"].get(address).json()["reason"]
    found = people["member"].get(address).json()
    assert (found["state"], found["reason"], found["left_out"]) == ("held", "", "")


def test_a_password_and_a_key_open_what_a_session_does(people, ingest, django_user_model):
    series = ingest()
    member = django_user_model.objects.get(username="member")
    key = ApiKey.objects.get_or_create(user=member)[0].key
    basic = b64encode(b"member:member").decode()
    for header in (f"Basic {basic}", f"ApiKey member:{key}"):
        answer = Client().get(SERIES, HTTP_AUTHORIZATION=header)
        assert [one["series_uid"] for one in answer.json()["objects"]] == [series.series_uid]
    for header in (f"Basic {b64encode(b'member:wrong').decode()}", "ApiKey member:wrong", "Bearer x"):
        assert Client().get(SERIES, HTTP_AUTHORIZATION=header).status_code == 401
    django_user_model.objects.filter(pk=member.pk).update(is_active=False)
    assert Client().get(SERIES, HTTP_AUTHORIZATION=f"ApiKey member:{key}").status_code == 401


def test_series_are_found_by_state_uid_and_instrument(people, ingest, projects, owner):
    one = ingest()
    Series.objects.create(series_uid="1.2.3", state=Series.State.HELD)
    Series.objects.create(series_uid="1.2.4", state=Series.State.WAITING)
    staff = people["staff"]
    assert listed(staff, "?state=held") == ["1.2.3"]
    assert set(listed(staff, "?state__in=held,waiting")) == {"1.2.3", "1.2.4"}
    assert listed(staff, "?series_uid=1.2.4") == ["1.2.4"]
    assert listed(staff, f"?instrument={projects.name.replace(' ', '%20')}") == [one.series_uid]
    assert listed(staff, "?instrument=none") == []
    assert listed(people["member"], "?state=held") == []
    wrong = staff.get(f"{SERIES}?state=hold")
    assert wrong.status_code == 400
    assert (
        "unknown state 'hold'; the states are receiving, queued, ingesting, waiting, held"
        in wrong.content.decode()
    )


@pytest.mark.parametrize(
    "query",
    [
        f"{SERIES}?series_uid=%00",
        f"{SERIES}?series_uid__in=1.2,%00",
        f"{SERIES}?instrument=a%00b",
        f"{INSTRUMENTS}?name=%00",
    ],
)
def test_a_filter_that_no_database_can_take_is_named(people, query):
    answer = people["staff"].get(query)
    assert answer.status_code == 400
    name = query.partition("?")[2].partition("=")[0]
    assert answer.json() == {"error": f"{name}: a value cannot contain a NUL character"}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (f"{SERIES}?offset={10**30}", "offset: a number has at most 18 digits"),
        (f"{INSTRUMENTS}?offset={10**30}", "offset: a number has at most 18 digits"),
        (f"{SERIES}set/1;a/", "'a' is not an id"),
        (f"{INSTRUMENTS}set/1;;2/", "'' is not an id"),
    ],
)
def test_what_is_no_number_of_the_databases_is_named(people, path, words):
    answer = people["staff"].get(path)
    assert (answer.status_code, answer.json()) == (400, {"error": words})
    assert people["nobody"].get(path).status_code == 401


def test_an_offset_beyond_the_end_is_an_empty_page(people, ingest):
    ingest()
    answer = people["staff"].get(f"{SERIES}?offset={10**18 - 1}")
    assert (answer.status_code, answer.json()["objects"]) == (200, [])


def test_a_set_of_series_is_shown_as_each_of_them(people, ingest):
    theirs, others = ingest("12345"), ingest("54321")
    found = people["member"].get(f"{SERIES}set/{theirs.pk};{others.pk}/").json()
    assert ([one["id"] for one in found["objects"]], found["not_found"]) == ([theirs.pk], [str(others.pk)])


def test_no_uid_finds_no_series(people, ingest):
    ingest()
    for query in ("?series_uid=", "?series_uid__in=", "?series_uid__in=,"):
        assert listed(people["staff"], query) == listed(people["member"], query) == []


@pytest.mark.parametrize("order", ["state", "-state"])
def test_pages_of_many_in_one_state_are_in_one_order(people, order):
    for number in range(7):
        states.hold(f"1.2.{number}", Reason("test", "why"))
    pages = [
        people["staff"].get(f"{SERIES}?order_by={order}&limit=3&offset={start}").json()["objects"]
        for start in (0, 3, 6)
    ]
    ids = [one["id"] for page in pages for one in page]
    assert ids == sorted(Series.objects.values_list("pk", flat=True), reverse=True)


def test_a_name_that_no_database_can_take_is_nobodys(people):
    header = "Basic " + b64encode(b"st\0aff:staff").decode()
    assert people["nobody"].get(SERIES, HTTP_AUTHORIZATION=header).status_code == 401


def test_a_longer_list_takes_no_more_queries(people, projects, ingest):
    def queries(name: str) -> int:
        people[name].get(SERIES)  # what MyTARDIS looks up once
        with CaptureQueriesContext(
            connection,
        ) as asked:
            listed(people[name])
        return len(asked)

    first = ingest().archives.get()
    FilterOutput.objects.create(run=first.runs.first(), datafile_id=first.datafile_id, kind="x")
    before = {name: queries(name) for name in ("staff", "member")}
    for number in range(6):
        more = ingest(SeriesDescription=f"more {number}")
        FilterOutput.objects.create(
            run=more.archives.get().runs.first(), datafile_id=more.archives.get().datafile_id, kind="x"
        )
    assert len(listed(people["member"])) == 7
    for name, count in before.items():
        assert queries(name) == count, name


def test_nothing_can_be_written(people, ingest, projects):
    series = ingest()
    for address in (SERIES, f"{SERIES}{series.pk}/", INSTRUMENTS, f"{INSTRUMENTS}{projects.pk}/"):
        for method in ("post", "put", "patch", "delete"):
            answer = getattr(people["staff"], method)(address, "{}", content_type="application/json")
            assert answer.status_code == 405


# Retry


def test_staff_have_a_series_and_its_failed_filters_tried_again(people, ingest, queued):
    series = ingest()
    metadata, nifti = series.archives.get().runs.order_by("filter")
    FilterRun.objects.filter(pk=metadata.pk).update(state=FilterRun.State.DONE)
    FilterRun.objects.filter(pk=nifti.pk).update(state=FilterRun.State.FAILED, reasons=why("no dcm2niix"))
    states.refresh(series.pk)
    answer = people["staff"].post(f"{SERIES}{series.pk}/retry/")
    assert (answer.status_code, answer.json()) == (
        202,
        {"series_uid": series.series_uid, "filters": ["nifti"]},
    )
    assert queued == [
        ("tardis_imagetrove.ingest_series", series.series_uid, None),
        ("tardis_imagetrove.run_filter", nifti.pk),
    ]
    nifti.refresh_from_db()
    series.refresh_from_db()
    assert (nifti.state, series.state) == (FilterRun.State.QUEUED, Series.State.CONVERTING)


def test_filters_of_a_former_version_are_left_alone(people, ingest, queued):
    series = ingest(filters=("nifti",))
    FilterRun.objects.update(state=FilterRun.State.FAILED)
    former = series.archives.get()
    former.pk, former.version, former.datafile_id = None, 2, None
    from tardis.tardis_portal.models import DataFile

    former.datafile_id = DataFile.objects.create(
        dataset_id=series.dataset_key.dataset_id,
        filename="x",
        size=1,
        sha512sum="0",
        md5sum="0",
        directory="d",
    ).pk
    former.save()
    assert people["staff"].post(f"{SERIES}{series.pk}/retry/").json()["filters"] == []


def test_nobody_else_has_anything_tried_again(people, ingest, queued):
    series = ingest()
    for name in ("member", "stranger"):
        assert people[name].post(f"{SERIES}{series.pk}/retry/").status_code == 403
    assert people["staff"].get(f"{SERIES}{series.pk}/retry/").status_code == 405
    assert people["staff"].post(f"{SERIES}999/retry/").status_code == 404
    assert queued == []


def test_a_session_needs_its_token_against_forgery(ingest, people, queued):
    series = ingest()
    careful = Client(enforce_csrf_checks=True)
    assert careful.login(username="staff", password="staff")
    assert careful.post(f"{SERIES}{series.pk}/retry/").status_code == 401
    assert queued == []
    basic = b64encode(b"staff:staff").decode()
    assert careful.post(f"{SERIES}{series.pk}/retry/", HTTP_AUTHORIZATION=f"Basic {basic}").status_code == 202


def test_with_the_broker_away_the_answer_says_so(people, ingest, queued):
    series = ingest()
    queued.away = True
    answer = people["staff"].post(f"{SERIES}{series.pk}/retry/")
    assert answer.status_code == 503
    assert "the broker cannot be reached" in answer.json()["error"]


# Instruments


def test_instruments_are_for_staff(people, projects):
    (found,) = people["staff"].get(INSTRUMENTS).json()["objects"]
    assert found == people["staff"].get(f"{INSTRUMENTS}{projects.pk}/").json()
    assert found["instrument"] == [["ManufacturerModelName", "Phantom generator"]]
    assert found["experiment_title"] == ["PatientID"]
    assert (found["name"], found["owner"], found["storage_box"]) == (
        "Phantom MR",
        "facility",
        projects.storage_box_id,
    )
    for name in ("member", "stranger"):
        for address in (INSTRUMENTS, f"{INSTRUMENTS}{projects.pk}/", f"{INSTRUMENTS}schema/"):
            assert people[name].get(address).status_code == 403
    InstrumentConfiguration.objects.update(enabled=False)
    assert people["staff"].get(f"{INSTRUMENTS}?enabled=true").json()["objects"] == []


def test_the_resources_are_listed_in_mytardis_own_api(people):
    found = people["staff"].get("/api/v1/").json()
    assert found["tardis-imagetrove_series"]["list_endpoint"] == SERIES
    assert found["tardis-imagetrove_instrument"]["list_endpoint"] == INSTRUMENTS
    for address in (SERIES, INSTRUMENTS):
        assert "allowed_detail_http_methods" in people["staff"].get(f"{address}schema/").json()
