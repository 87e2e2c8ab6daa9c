"""Downloads of scans: complete and checked, or refused in words; whole or in parts; and never to somebody else."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import random
import tarfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import Group
from django.test import Client, RequestFactory
from django.urls import reverse
from tardis.tardis_portal import models as portal
from tastypie.models import ApiKey

from tardis_imagetrove import get
from tardis_imagetrove.conversion.run import run_filter
from tardis_imagetrove.errors import ImageTroveError
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import FilterOutput, ScanDownload, Series
from tardis_imagetrove.operations import downloads
from tardis_imagetrove.tar import ShortContent

from ..conftest import configure, deliver, phantom, series_uid
from ..mytardis.test_access import PER_OBJECT, person
from ..mytardis.test_storage import s3_box, s3_server  # noqa: F401 (fixtures)

pytestmark = pytest.mark.django_db(transaction=True)

CHOOSE = "tardis_imagetrove:choose-download"
ALL = {"scope": "found", "kind": ["Archive", "Picture", "NIfTI", "Sidecar"]}


@pytest.fixture
def archive(owner, spool, scratch, tmp_path):
    """Archives a generated series of project 12345 with its picture."""

    def archive(box, number: int = 3) -> Series:
        configure(
            owner,
            name="MR",
            storage_box=box,
            project_field="ReferringPhysicianName",
            project_pattern=r"\d{5}",
        )
        overrides = {"ReferringPhysicianName": "12345^Rhea", "SeriesNumber": str(number)}
        paths = phantom(tmp_path / "in", slices=3, overrides=overrides)
        deliver(spool, *paths)
        for run in ingest_series(spool, series_uid(paths[0]), ["picture", "nifti"], scratch):
            run_filter(run, scratch, 60)
        return Series.objects.get(series_uid=series_uid(paths[0]))

    return archive


@pytest.fixture
def series(archive, box) -> Series:
    return archive(box)


@pytest.fixture
def member(series, django_user_model) -> Client:
    return person(django_user_model, "member", "Project 12345")


def choose(client: Client, **given) -> str:
    """The address of the TAR of what is chosen."""
    answer = client.post(reverse(CHOOSE), given or ALL)
    assert answer.status_code == 302, answer.content.decode()
    assert client.get(answer["Location"]).status_code == 200
    return f"{answer['Location']}scans.tar"


def body(answer) -> bytes:
    return b"".join(answer.streaming_content)


def unpacked(whole: bytes) -> dict[str, bytes]:
    """Contents by name, without the folder around all."""
    with tarfile.open(fileobj=io.BytesIO(whole)) as opened:
        return {one.name.partition("/")[2]: opened.extractfile(one).read() for one in opened}


def stored(series: Series) -> dict[str, portal.DataFile]:
    files = [series.archives.get().datafile, *(one.datafile for one in FilterOutput.objects.all())]
    return {file.filename: file for file in files}


def test_it_holds_every_file_with_a_manifest_that_agrees(series, member):
    address = choose(member)
    answer = member.get(address)
    whole = body(answer)
    assert answer.status_code == 200 and len(whole) == int(answer["Content-Length"])
    found = unpacked(whole)
    assert list(found)[:2] == ["manifest.json", "SHA512SUMS"]
    listed = json.loads(found["manifest.json"])["files"]
    for line, one in zip(found["SHA512SUMS"].decode().splitlines(), listed, strict=True):
        content = found[one["name"]]
        assert line == f"{hashlib.sha512(content).hexdigest()}  {one['name']}"
        assert (len(content), one["sha512"]) == (one["size"], line[:128])
    files = stored(series)
    assert {name.rpartition("/")[2] for name in list(found)[2:]} == files.keys()
    for name, content in list(found.items())[2:]:
        assert hashlib.sha512(content).hexdigest() == files[name.rpartition("/")[2]].sha512sum
        assert name.split("/")[:3] == [
            series.dataset_key.experiment_key.experiment.title,
            series.dataset_key.dataset.description,
            series.directory,
        ]
    assert list(found)[2:] == sorted(list(found)[2:])


def test_only_the_kinds_and_series_that_were_chosen_are_in_it(series, member):
    found = unpacked(body(member.get(choose(member, series=[series.pk], kind=["Picture"]))))
    assert [name.rpartition(".")[2] for name in found] == ["json", "SHA512SUMS", "png"]
    for given in (
        {"series": [series.pk]},
        {"kind": ["Picture"]},
        {"series": ["x", 10**20], "kind": ["Picture"]},
    ):
        assert member.post(reverse(CHOOSE), given).status_code == 400


@pytest.mark.parametrize("only_experiments", [True, pytest.param(False, marks=PER_OBJECT)])
def test_a_stranger_gets_nothing_and_nobody_gets_anothers(
    archive, box, django_user_model, settings, only_experiments
):
    settings.ONLY_EXPERIMENT_ACLS = only_experiments
    series = archive(box)
    member = person(django_user_model, "member", "Project 12345")
    address = choose(member)
    stranger = person(django_user_model, "stranger", "Project 54321")
    answer = stranger.post(reverse(CHOOSE), {"series": [series.pk], "kind": ["Archive"]})
    assert answer.status_code == 400 and series.directory not in answer.content.decode()
    colleague = person(django_user_model, "colleague", "Project 12345")
    for client in (stranger, colleague):
        assert (
            client.get(address).status_code
            == client.get(address.removesuffix("scans.tar")).status_code
            == 404
        )
    assert Client().get(address).status_code == 302
    assert Client().post(reverse(CHOOSE), ALL).status_code == 302


@PER_OBJECT
def test_what_may_be_seen_and_not_had_is_named_before_it_starts(archive, box, django_user_model, settings):
    settings.ONLY_EXPERIMENT_ACLS = False
    series = archive(box)
    member = person(django_user_model, "member", "Project 12345")
    picture = FilterOutput.objects.get(kind="Picture").datafile
    portal.DatafileACL.objects.filter(datafile=picture, group__isnull=False).update(canDownload=False)
    refused = member.post(reverse(CHOOSE), ALL)
    assert refused.status_code == 409
    assert f"{picture.filename}: you may see it, but not download it" in refused.content.decode()
    assert not ScanDownload.objects.exists()
    found = unpacked(body(member.get(choose(member, agreed="1", **ALL))))
    names = {name.rpartition("/")[2] for name in found}
    assert names == stored(series).keys() - {picture.filename} | {"manifest.json", "SHA512SUMS"}
    assert "not download it" in json.loads(found["manifest.json"])["left_out"][0]["why"]
    # Nor is a file named that one may not even know of.
    portal.DatafileACL.objects.filter(datafile=picture).delete()
    assert picture.filename.encode() not in body(member.get(choose(member)))


def test_what_is_not_verified_is_named_before_it_starts(series, member):
    picture = FilterOutput.objects.get(kind="Picture").datafile
    picture.file_objects.update(verified=False)
    refused = member.post(reverse(CHOOSE), ALL)
    assert refused.status_code == 409
    assert f"{picture.filename}: MyTARDIS has no verified copy of it" in refused.content.decode()


def test_a_forged_form_is_refused(series, member):
    careful = Client(enforce_csrf_checks=True)
    assert careful.login(username="member", password="member")
    assert careful.post(reverse(CHOOSE), ALL).status_code == 403
    assert not ScanDownload.objects.exists()


def test_cut_ten_times_it_is_byte_by_byte_the_same(series, member, live_server, django_user_model):
    address = urlsplit(f"{live_server.url}{choose(member)}")
    key = ApiKey.objects.get_or_create(user=django_user_model.objects.get(username="member"))[0].key
    headers = {"Authorization": f"ApiKey member:{key}"}

    def ask(**more: str):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        connection.request("GET", address.path, headers={**headers, **more})
        return connection, connection.getresponse()

    _, answer = ask()
    whole, etag = answer.read(), answer.headers["ETag"]
    assert answer.status == 200 and len(unpacked(whole)) > 4
    head = member.head(address.path)
    assert (head["ETag"], int(head["Content-Length"]), body(head)) == (etag, len(whole), b"")
    cuts, got = sorted(random.Random(1).sample(range(1, len(whole)), 10)), b""
    for cut in [*cuts, len(whole)]:
        connection, answer = ask(Range=f"bytes={len(got)}-", **{"If-Range": etag})
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {len(got)}-{len(whole) - 1}/{len(whole)}"
        got += answer.read(cut - len(got))
        connection.close()
    assert got == whole
    _, answer = ask(Range="bytes=-100")
    assert answer.read() == whole[-100:]
    _, answer = ask(Range=f"bytes={len(whole)}-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    # What has another ETag is no part of this: all of it comes.
    _, answer = ask(Range="bytes=5-", **{"If-Range": '"another"'})
    assert answer.status == 200 and answer.read() == whole
    headers["Authorization"] = "ApiKey member:wrong"
    assert ask()[1].status == 401


def test_the_client_fetches_it_with_the_address_of_its_page(
    series, member, live_server, django_user_model, tmp_path, monkeypatch, capsys
):
    address = f"{live_server.url}{choose(member)}".removesuffix("scans.tar")
    key = ApiKey.objects.get_or_create(user=django_user_model.objects.get(username="member"))[0].key
    monkeypatch.setenv("IMAGETROVE_KEY", f"member:{key}")
    assert get.main([address, "--out", str(tmp_path)]) == 0
    whole = unpacked(body(member.get(f"{address}scans.tar".removeprefix(live_server.url))))
    (folder,) = tmp_path.glob("scans-*")
    there = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert there == whole and "every checksum is right" in capsys.readouterr().out
    monkeypatch.setenv("IMAGETROVE_KEY", "member:wrong")
    assert get.main([address, "--out", str(tmp_path)]) == 1
    assert "The API key or password is wrong." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("", None), ("bytes=0-", (0, 10)), ("bytes=3-5", (3, 6)), ("bytes=3-99", (3, 10)), ("bytes=-4", (6, 10)),
        ("bytes=-40", (0, 10)), ("bytes=5-3", None), ("bytes=-", None), ("bytes=0-1,3-4", None), ("lines=1-2", None),
        ("bytes=٣-", None), ("bytes=10-", ValueError), ("bytes=-0", ValueError),
    ],
)  # fmt: skip
def test_a_range_is_a_part_or_all_or_nothing(asked, part):
    if part is ValueError:
        with pytest.raises(ValueError):
            downloads.part_of(asked, 10)
    else:
        assert downloads.part_of(asked, 10) == part


def damaged(series: Series, how: str) -> None:
    """Something that happens to the archive of the series."""
    archive = series.archives.get().datafile
    dfo = archive.file_objects.get()
    path = Path(dfo.storage_box.get_initialised_storage_instance().path(dfo.uri))
    if how == "deleted":
        archive.delete()
    elif how == "unverified":
        archive.file_objects.update(verified=False)
    elif how == "replaced":
        portal.DataFile.objects.filter(pk=archive.pk).update(sha512sum="0" * 128)
    elif how == "changed":
        with path.open("r+b") as file:
            file.seek(path.stat().st_size - 30)
            file.write(b"!")
    elif how == "shorter":
        os.truncate(path, path.stat().st_size - 1)
    elif how == "gone":
        path.unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("deleted", "has been deleted"),
        ("unverified", "no longer has a verified copy in MyTARDIS"),
        ("replaced", "has been changed"),
    ],
)
def test_what_changed_since_is_told_before_it_starts(series, member, how, words):
    address = choose(member)
    damaged(series, how)
    answer = member.get(address)
    assert answer.status_code == 409 and words in answer.content.decode()
    assert words in member.get(address.removesuffix("scans.tar")).content.decode()


@pytest.mark.parametrize("how", ["deleted", "unverified", "changed", "shorter", "gone"])
def test_what_changes_in_the_middle_breaks_it_off(series, member, django_user_model, how):
    packed = opened(member)
    request = request_of(django_user_model)
    whole = b"".join(packed.read(0, packed.size, downloads.Access(request)))
    damaged(series, how)
    got = []
    with pytest.raises((ImageTroveError, ShortContent)):
        got.extend(packed.read(0, packed.size, downloads.Access(request)))
    assert whole.startswith(b"".join(got)) and len(b"".join(got)) < packed.size


def opened(member: Client) -> downloads.Packed:
    choose(member)
    return downloads.Packed(ScanDownload.objects.get())


def request_of(django_user_model):
    request = RequestFactory().get("/")
    request.user = django_user_model.objects.get(username="member")
    request.user.allowed_tokens = []
    return request


@pytest.mark.parametrize("how", ["group", "account"])
def test_access_that_ends_in_the_middle_ends_it(series, member, django_user_model, how):
    packed = opened(member)
    reading = packed.read(0, packed.size, downloads.Access(request_of(django_user_model), seconds=0))
    got = [next(reading) for _ in range(4)]
    if how == "group":
        Group.objects.get(name="Project 12345").user_set.clear()
    else:
        django_user_model.objects.filter(username="member").update(is_active=False)
    with pytest.raises(downloads.AccessEnded, match="may no longer be downloaded"):
        got.extend(reading)
    assert sum(map(len, got)) < packed.size


def test_within_a_large_file_it_is_asked_again(series, member, django_user_model, monkeypatch):
    packed = opened(member)
    asked = []
    access = downloads.Access(request_of(django_user_model), every=1, seconds=1000)
    demand = access.demand
    monkeypatch.setattr(
        access, "demand", lambda file, at_start: (asked.append(at_start), demand(file, at_start))
    )
    monkeypatch.setattr("tardis_imagetrove.mytardis.base._BLOCK", 1000)
    b"".join(packed.read(0, packed.size, access))
    assert asked.count(True) == len(packed.files) and asked.count(False) > 5


def test_from_s3_a_part_is_read_without_the_rest(archive, s3_box, django_user_model):  # noqa: F811
    archive(s3_box)
    member = person(django_user_model, "member", "Project 12345")
    address = choose(member)
    whole = body(member.get(address))
    assert len(unpacked(whole)) > 4
    for start in (len(whole) // 3, len(whole) - 20_000):
        assert body(member.get(address, HTTP_RANGE=f"bytes={start}-")) == whole[start:]


def test_names_are_safe_everywhere_and_no_two_are_one():
    taken: set[str] = set()
    for name, safe in (
        ("../../etc/passwd", ".._.._etc_passwd"), ("a:b*c?", "a_b_c_"), ("CON", "_CON"), ("nul.txt", "_nul.txt"),
        ("trailing. ", "trailing"), ("", "_"), ("..", "_"), ("tab\tnew\nline", "tab_new_line"), ("-rf", "_-rf"),
        ("Ä" * 300, "Ä" * 100), ("e\u0301", "é"),
    ):  # fmt: skip
        assert downloads._component(name) == safe
    assert [downloads._unique(name, taken) for name in ("d/a.nii.gz", "d/A.nii.gz", "d/a.nii.gz")] == [
        "d/a.nii.gz",
        "d/A_2.nii.gz",
        "d/a_3.nii.gz",
    ]


def test_addresses_that_are_too_old_are_forgotten(series, member):
    choose(member)
    old = ScanDownload.objects.get()
    ScanDownload.objects.update(created="2001-01-01T00:00:00Z")
    choose(member)
    assert not ScanDownload.objects.filter(pk=old.pk).exists()
