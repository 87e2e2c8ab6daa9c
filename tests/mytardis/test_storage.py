"""Storage boxes: bytes go in and out as streams, on a file system and on S3, and are proven to be there."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tardis_imagetrove.conversion.run import run_filters
from tardis_imagetrove.errors import RetriableError
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import FilterRun, Series
from tardis_imagetrove.mytardis import FileRecord, mytardis

from ..conftest import configure, deliver, phantom, series_uid
from ..site import free_port, wait_for_port

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A local S3 server, in a process of its own."""
    pytest.importorskip("boto3")
    near = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which("moto_server", path=near)
    if program is None:
        pytest.skip("moto_server, a local S3 server, is not installed")
    port = free_port()
    server = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_port(port)
    yield f"http://127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.fixture
def s3_box(owner, s3_server):
    import boto3
    from tardis.tardis_portal.models import StorageBox, StorageBoxOption

    options = {
        "endpoint_url": s3_server,
        "access_key": "test",
        "secret_key": "test",
        "region_name": "us-east-1",
        "bucket_name": "imagetrove",
    }
    client = boto3.client(
        "s3",
        endpoint_url=s3_server,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="imagetrove")
    box = StorageBox.objects.create(
        name="S3", django_storage_class="storages.backends.s3boto3.S3Boto3Storage", max_size=10**12
    )
    for key, value in options.items():
        StorageBoxOption.objects.create(storage_box=box, key=key, value=value)
    yield box
    for item in client.list_objects_v2(Bucket="imagetrove").get("Contents", []):
        client.delete_object(Bucket="imagetrove", Key=item["Key"])
    client.delete_bucket(Bucket="imagetrove")


@pytest.fixture(params=["local", "s3"])
def any_box(request, box):
    return box if request.param == "local" else request.getfixturevalue("s3_box")


@pytest.fixture
def record(owner) -> FileRecord:
    from tardis.tardis_portal.models import Dataset

    dataset = Dataset.objects.create(description="any")
    return FileRecord(dataset.pk, "0001_any", "any.bin", 1, "application/octet-stream")


def keep(record: FileRecord, chunks, box) -> int:
    sums = mytardis().store(record, chunks, box.pk)
    return mytardis().register(record, sums, box.pk)


def test_what_is_stored_comes_back_and_is_verified_by_mytardis(any_box, record, tmp_path):
    from tardis.tardis_portal.models import DataFile

    content = bytes(range(256)) * 1000
    datafile = DataFile.objects.get(pk=keep(record, [content[:1000], content[1000:]], any_box))
    assert (datafile.size, datafile.sha512sum) == (len(content), hashlib.sha512(content).hexdigest())
    (dfo,) = datafile.file_objects.all()
    assert dfo.verified
    assert dfo.verify()
    mytardis().fetch(datafile.pk, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_what_is_stored_in_a_local_box_is_synced_before_it_counts(box, record, tmp_path, synced):
    mytardis().store(record, [b"abc"], box.pk)
    stored = next(path for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert synced[0] == stored
    assert synced[1:] == list(stored.parents[: len(Path(record.uri).parts)])
    assert synced[-1] == tmp_path / "store"


def test_a_new_version_does_not_touch_the_former(any_box, record, tmp_path):
    ids = [
        keep(FileRecord(record.dataset_id, "0001_any", "any.bin", version, ""), [b"%d" % version], any_box)
        for version in (1, 2, 3)
    ]
    for version, datafile_id in enumerate(ids, 1):
        mytardis().fetch(datafile_id, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"%d" % version


def test_a_registered_file_is_never_overwritten(any_box, record, tmp_path):
    datafile_id = keep(record, [b"first"], any_box)
    with pytest.raises(RetriableError, match="exists already"):
        mytardis().store(record, [b"second"], any_box.pk)
    mytardis().fetch(datafile_id, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"first"


def test_what_an_attempt_left_half_done_is_replaced(any_box, record, tmp_path):
    mytardis().store(record, [b"half"], any_box.pk)  # and died before it registered
    datafile_id = keep(record, [b"whole"], any_box)
    mytardis().fetch(datafile_id, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"whole"


def test_streams_pass_in_constant_memory(any_box, record, tmp_path):
    def chunks() -> Iterator[bytes]:
        for number in range(192):
            yield number.to_bytes(2, "big") * (512 * 1024)

    tracemalloc.start()
    datafile_id = keep(record, chunks(), any_box)
    mytardis().fetch(datafile_id, tmp_path / "back")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "back").stat().st_size == 192 * 1024 * 1024
    # boto3 sends ten parts of 8 MiB at a time.
    assert peak < 160 * 1024 * 1024


def test_a_box_that_gives_other_bytes_back_is_found_out(box, record, monkeypatch):
    from django.core.files.storage import FileSystemStorage

    save = FileSystemStorage._save

    def lossy(self, name, content):
        name = save(self, name, content)
        path = Path(self.path(name))
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        return name

    monkeypatch.setattr(FileSystemStorage, "_save", lossy)
    with pytest.raises(RetriableError, match="came back changed"):
        mytardis().store(record, [b"content"], box.pk)


def test_a_series_and_its_late_slice_live_on_s3(s3_box, spool, scratch, owner, tmp_path):
    from tardis.tardis_portal.models import DataFile

    configure(owner, storage_box=s3_box)
    paths = phantom(tmp_path / "in")
    for part in (paths[:-1], paths[-1:]):
        deliver(spool, *part)
        ingest_series(spool, series_uid(paths[0]), (), scratch)
        assert Series.objects.get().state == Series.State.DONE, Series.objects.get().reason
    assert Series.objects.get().archives.first().instance_count == len(paths)
    for datafile in DataFile.objects.all():
        assert datafile.file_objects.get().verify()


def test_an_s3_that_is_away_leaves_the_series_waiting_with_the_reason(
    s3_box, spool, scratch, owner, tmp_path
):
    from tardis.tardis_portal.models import StorageBoxOption

    configure(owner, storage_box=s3_box)
    endpoint = StorageBoxOption.objects.get(storage_box=s3_box, key="endpoint_url")
    there, endpoint.value = endpoint.value, "http://127.0.0.1:1"
    endpoint.save()
    paths = phantom(tmp_path / "in")
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    series = Series.objects.get()
    assert series.state == Series.State.WAITING
    assert "storage box S3" in series.reason
    endpoint.value = there
    endpoint.save()
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    assert Series.objects.get().state == Series.State.DONE


def test_a_full_box_leaves_the_series_waiting_with_the_reason_and_no_half_file(
    spool, scratch, owner, small_disk, tmp_path
):
    from tardis.tardis_portal.models import DataFile, StorageBox

    box = StorageBox.create_local_box(str(small_disk))
    configure(owner, storage_box=box)
    # Noise, which the archive cannot make smaller.
    paths = phantom(tmp_path / "in", slices=8, rows=512, columns=512)
    for number, path in enumerate(paths):
        header = pydicom.dcmread(path)
        header.PixelData = random.Random(number).randbytes(len(header.PixelData))
        header.save_as(path)
    sent = deliver(spool, *paths)
    assert sum(map(len, sent)) > 2 * 1024**2
    uid = series_uid(paths[0])
    ingest_series(spool, uid, (), scratch)
    series = Series.objects.get()
    assert series.state == Series.State.WAITING
    assert f"storage box {box}" in series.reason
    assert "No space left on device" in series.reason
    assert not DataFile.objects.exists()
    assert not [path for path in small_disk.rglob("*") if path.is_file()]  # others may need the room
    assert len(spool.files(uid)) == len(paths)
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)  # somebody makes room
    ingest_series(spool, uid, (), scratch)
    assert Series.objects.get().state == Series.State.DONE
    assert spool.series_uids() == []


def test_a_local_box_whose_disk_is_not_mounted_leaves_the_series_waiting_and_nothing_is_made(
    spool, scratch, configuration, box, tmp_path
):
    (tmp_path / "store").rmdir()  # a new box's folder is made
    first = phantom(tmp_path / "first")
    deliver(spool, *first)
    ingest_series(spool, series_uid(first[0]), (), scratch)
    assert Series.objects.get().state == Series.State.DONE

    (tmp_path / "store").rename(tmp_path / "elsewhere")  # as its folder is seen without the disk it is on
    paths = phantom(tmp_path / "in", series_uid="2.25.774")
    deliver(spool, *paths)
    uid = series_uid(paths[0])
    ingest_series(spool, uid, (), scratch)
    series = Series.objects.get(series_uid=uid)
    assert (series.state, len(spool.files(uid))) == (Series.State.WAITING, len(paths))
    assert f"storage box {box}" in series.reason
    assert f"{tmp_path}/store does not exist any more" in series.reason
    assert not (tmp_path / "store").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    ingest_series(spool, uid, (), scratch)
    assert Series.objects.get(series_uid=uid).state == Series.State.DONE


@pytest.fixture
def two_boxes(owner, tmp_path):
    """Two boxes, the first of them MyTARDIS's default."""
    from tardis.tardis_portal.models import StorageBox, StorageBoxAttribute

    boxes = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        boxes.append(StorageBox.create_local_box(str(tmp_path / name)))
    StorageBoxAttribute.objects.create(storage_box=boxes[0], key="default", value="True")
    return boxes


def test_another_default_box_while_a_file_is_written_does_not_misplace_it(
    two_boxes, spool, scratch, owner, tmp_path, monkeypatch
):
    from django.core.files.storage import FileSystemStorage
    from tardis.tardis_portal.models import DataFileObject, StorageBoxAttribute

    configure(owner)
    save = FileSystemStorage._save

    def save_slowly(self, name, content):
        StorageBoxAttribute.objects.update(storage_box=two_boxes[1])  # an administrator, meanwhile
        return save(self, name, content)

    monkeypatch.setattr(FileSystemStorage, "_save", save_slowly)
    paths = phantom(tmp_path / "in")
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    assert Series.objects.get().state == Series.State.DONE, Series.objects.get().reason
    dfo = DataFileObject.objects.get()
    assert dfo.verify()
    assert [path.name for path in (tmp_path / "first").rglob("*.zip")] == [dfo.datafile.filename]
    assert not list((tmp_path / "second").rglob("*"))


def test_two_default_boxes_leave_the_series_waiting_and_are_named(two_boxes, spool, scratch, owner, tmp_path):
    from tardis.tardis_portal.models import StorageBoxAttribute

    configure(owner)
    second = StorageBoxAttribute.objects.create(storage_box=two_boxes[1], key="default", value="True")
    paths = phantom(tmp_path / "in")
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    series = Series.objects.get()
    assert series.state == Series.State.WAITING
    assert "MyTARDIS's default storage box cannot be used: MultipleObjectsReturned" in series.reason
    second.delete()
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    assert Series.objects.get().state == Series.State.DONE


def test_a_box_that_does_not_answer_is_asked_once_before_the_worker_is_free(
    spool, scratch, configuration, tmp_path, monkeypatch
):
    from django.core.files.storage import FileSystemStorage

    paths = phantom(tmp_path / "in")
    deliver(spool, *paths)
    asked = []

    def no_answer(self, name):
        asked.append(name)
        raise OSError("no answer")  # for S3 after five minutes

    with monkeypatch.context() as patch:
        patch.setattr(FileSystemStorage, "exists", no_answer)
        ingest_series(spool, series_uid(paths[0]), ("nifti",), scratch)
    assert (Series.objects.get().state, len(asked)) == (Series.State.WAITING, 1)
    (run_id,) = ingest_series(spool, series_uid(paths[0]), ("nifti",), scratch)
    asked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(FileSystemStorage, "exists", no_answer)
        list(run_filters(run_id, scratch, 1))
    run = FilterRun.objects.get()
    assert (run.state, len(asked)) == (FilterRun.State.WAITING, 1)
    assert "no answer" in run.reason
