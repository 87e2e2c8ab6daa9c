"""Files of the host: written through a storage box, verified, downloaded when verified, deleted with their record."""

import hashlib
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile, File
from django.db import IntegrityError, transaction
from django.urls import reverse
from PIL import Image
from tardis.tardis_portal import models
from tardis.tardis_portal.tasks import dfo_verify, verify_dfos


@pytest.fixture
def as_owner(client, people):
    client.force_login(people["owner"])
    return client


def body(response):
    return b"".join(response.streaming_content)


def test_a_file_is_written_below_the_dataset_and_its_directory(add_file, dataset, store):
    datafile = add_file("a b.zip", b"content")
    copy = datafile.file_objects.get()
    assert copy.uri == f"Head%20%2F%20T1-{dataset.id}/0003_t1/a b.zip"
    assert (store / copy.uri).read_bytes() == b"content"
    assert copy.get_full_path() == str(store / copy.uri)
    assert datafile.get_absolute_filepath() == copy.get_full_path()


def test_a_file_without_directory_lies_in_the_folder_of_the_dataset(add_file, dataset):
    assert add_file(directory=None).file_objects.get().uri == f"Head%20%2F%20T1-{dataset.id}/a.zip"


def test_a_verified_file_is_downloaded_whole(as_owner, add_file):
    content = bytes(range(256)) * 1000
    datafile = add_file("series.zip", content)
    for path in (datafile.download_url, f"/download/datafile/{datafile.id}/"):
        response = as_owner.get(path)
        assert body(response) == content
        assert response["Content-Disposition"] == 'attachment; filename="series.zip"'
        assert response["Content-Type"] == "application/zip"
        assert int(response["Content-Length"]) == len(content)


def test_an_unverified_file_cannot_be_downloaded(as_owner, add_file, dataset):
    datafile = add_file(verified=False)
    assert not datafile.verified
    assert datafile.get_file() is None
    assert datafile.get_file(verified_only=False).read() == b"some bytes"
    assert as_owner.get(datafile.download_url).status_code == 404
    assert as_owner.get(f"/download/datafile/{datafile.id}/").status_code == 503
    assert as_owner.get(f"/datafile/view/{datafile.id}/").status_code == 503
    archive = BytesIO(body(as_owner.get(f"/download/dataset/{dataset.id}/tar/")))
    with tarfile.open(fileobj=archive) as opened:
        assert opened.getnames() == []
    page = as_owner.get(dataset.get_absolute_url()).content.decode()
    assert "unverified" in page
    assert datafile.download_url not in page


def test_a_file_whose_bytes_changed_does_not_verify_and_is_no_longer_given_out(as_owner, add_file):
    datafile = add_file()
    Path(datafile.get_absolute_filepath()).write_bytes(b"more bytes")
    assert not datafile.verify(reverify=True)
    assert as_owner.get(datafile.download_url).status_code == 404


def test_a_file_that_vanished_does_not_verify(add_file):
    datafile = add_file()
    Path(datafile.get_absolute_filepath()).unlink()
    copy = datafile.file_objects.get()
    assert copy.verify() is False
    assert models.DataFileObject.objects.get().last_verified_time is not None


@pytest.mark.parametrize(
    ("fields", "verified"),
    [({}, True), ({"size": 9}, False), ({"md5sum": "0" * 32}, False), ({"size": "10"}, True)],
)
def test_verifying_compares_size_and_checksum(dataset, fields, verified):
    right = {"size": 10, "md5sum": hashlib.md5(b"some bytes").hexdigest()}
    datafile = models.DataFile.objects.create(dataset=dataset, filename="a", **{**right, **fields})
    datafile.file_object = ContentFile(b"some bytes")
    assert datafile.verify() is verified
    assert models.DataFile.objects.get().verified is verified


def test_verifying_fills_in_a_checksum_that_was_not_recorded(dataset, settings):
    settings.COMPUTE_SHA512 = True
    datafile = models.DataFile.objects.create(dataset=dataset, filename="a", size=1, sha512sum="x" * 128)
    assert datafile.md5sum == ""
    datafile.sha512sum = hashlib.sha512(b"a").hexdigest()
    datafile.save()
    datafile.file_object = ContentFile(b"a")
    assert datafile.file_objects.get().verify()
    assert models.DataFile.objects.get().md5sum == hashlib.md5(b"a").hexdigest()


def test_a_record_needs_a_checksum_and_a_size(dataset, settings):
    with pytest.raises(Exception, match="requires a checksum"):
        models.DataFile(dataset=dataset, filename="a", size=1).save()
    for size in (None, -1):
        with pytest.raises(Exception, match="Invalid Datafile size"):
            models.DataFile(dataset=dataset, filename="a", size=size, md5sum="0" * 32).save()
    settings.REQUIRE_DATAFILE_CHECKSUMS = settings.REQUIRE_DATAFILE_SIZES = False
    models.DataFile(dataset=dataset, filename="a").save()


@pytest.mark.parametrize(
    ("name", "mimetype"),
    [
        ("a.zip", "application/zip"),
        ("a.json", "application/json"),
        ("a.nii.gz", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_the_mimetype_is_guessed_from_the_name_unless_given(dataset, name, mimetype):
    given = {"dataset": dataset, "size": 0, "md5sum": "0" * 32}
    assert models.DataFile.objects.create(filename=name, **given).mimetype == mimetype
    kept = models.DataFile.objects.create(filename=name, version=2, mimetype="image/png", **given)
    assert kept.mimetype == "image/png"


def test_a_second_assignment_of_content_is_refused(add_file):
    datafile = add_file()
    with pytest.raises(IntegrityError), transaction.atomic():
        datafile.file_object = ContentFile(b"other")


def test_a_name_is_unique_in_its_directory_but_not_where_the_directory_is_null(add_file):
    add_file()
    with pytest.raises(IntegrityError), transaction.atomic():
        add_file()
    add_file(version=2)
    add_file(directory=None)
    add_file(directory=None)
    assert models.DataFile.objects.count() == 4


def test_a_file_placed_by_hand_verifies(dataset, store):
    (store / "by").mkdir()
    (store / "by" / "hand").write_bytes(b"abc")
    datafile = models.DataFile.objects.create(
        dataset=dataset, filename="hand", size=3, md5sum=hashlib.md5(b"abc").hexdigest()
    )
    copy = models.DataFileObject.objects.create(
        datafile=datafile, storage_box=models.StorageBox.get_default_storage(), uri="by/hand"
    )
    assert copy.verify()
    with models.DataFile.objects.get().get_as_temporary_file() as copied:
        assert copied.read() == b"abc"


def test_a_closed_file_is_opened_again_to_be_stored(dataset, tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"abc")
    with path.open("rb") as source:
        pass
    datafile = models.DataFile.objects.create(dataset=dataset, filename="a", size=3, md5sum="0" * 32)
    datafile.file_object = File(source)
    assert datafile.get_file(verified_only=False).read() == b"abc"


@pytest.mark.parametrize("name", ["../../escaped", "/etc/passwd"])
def test_a_name_that_leads_out_of_the_store_is_refused(dataset, name, store):
    datafile = models.DataFile.objects.create(dataset=dataset, filename=name, size=1, md5sum="0" * 32)
    with pytest.raises(SuspiciousFileOperation):
        datafile.file_object = ContentFile(b"a")
    assert not (store.parent.parent / "escaped").exists()


def test_every_change_of_a_copy_asks_a_worker_to_verify_but_verifying_does_not(add_file, asked_to_verify):
    datafile = add_file(verified=False)
    copy = datafile.file_objects.get()
    # Once when the row is made, once when the bytes are written.
    assert asked_to_verify == [copy.id, copy.id]
    assert datafile.verify()
    assert asked_to_verify == [copy.id, copy.id]
    copy.save(reverify=True)
    assert len(asked_to_verify) == 3


def test_one_more_save_of_a_stale_copy_makes_it_unverified_again(add_file):
    datafile = add_file(verified=False)
    stale = datafile.file_objects.get()
    assert datafile.verify()
    stale.save()
    assert not models.DataFile.objects.get().verified


def test_a_broker_that_is_away_does_not_stop_a_save(add_file, monkeypatch):
    def away(**options):
        raise ConnectionError("no broker")

    monkeypatch.setattr("tardis.tardis_portal.tasks.dfo_verify.apply_async", away)
    assert add_file().verified


def test_the_task_verifies_and_a_copy_that_is_gone_is_no_error(add_file):
    datafile = add_file(verified=False)
    copy = datafile.file_objects.get()
    assert dfo_verify(copy.id) is True
    assert models.DataFile.objects.get().verified
    assert dfo_verify(copy.id, transaction_lock=True) is True
    assert dfo_verify(copy.id + 1) is False


def test_what_is_unverified_is_asked_for_again(add_file, asked_to_verify):
    add_file("verified")
    waiting = add_file("waiting", verified=False).file_objects.get()
    asked_to_verify.clear()
    verify_dfos()
    assert asked_to_verify == [waiting.id]


def test_deleting_a_record_deletes_its_bytes(add_file, dataset, store):
    datafile = add_file()
    add_file("b.zip")
    path = Path(datafile.get_absolute_filepath())
    datafile.delete()
    assert not path.exists()
    dataset.delete()
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_a_box_may_keep_the_bytes(add_file):
    datafile = add_file()
    path = Path(datafile.get_absolute_filepath())
    models.StorageBox.objects.get().attributes.create(key="can_delete", value="False")
    datafile.delete()
    assert path.exists()


def test_the_default_box_is_made_on_first_use_and_found_again(db, store):
    box = models.StorageBox.get_default_storage()
    assert box.options.get().value == str(store)
    assert models.StorageBox.get_default_storage() == box
    marked = models.StorageBox.objects.create(name="marked")
    marked.attributes.create(key="default", value="True")
    assert models.StorageBox.get_default_storage() == marked
    assert models.StorageBox.get_default_storage(location=str(store)) == box


def test_the_default_box_needs_its_folder(db, settings, tmp_path):
    settings.DEFAULT_STORAGE_BASE_DIR = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        models.StorageBox.get_default_storage()
    assert not models.StorageBox.objects.exists()


def test_a_dataset_stays_in_the_box_it_is_in(add_file, tmp_path, settings):
    first = add_file().file_objects.get().storage_box
    settings.DEFAULT_STORAGE_BASE_DIR = str(tmp_path)
    assert add_file("b").file_objects.get().storage_box == first
    settings.REUSE_DATASET_STORAGE_BOX = False
    assert add_file("c").file_objects.get().storage_box != first


def test_options_of_a_box_may_be_pickled(db):
    box = models.StorageBox.objects.create(name="box")
    option = models.StorageBoxOption(storage_box=box, key="n", value_type=models.StorageBoxOption.PICKLE)
    option.unpickled_value = {"a": [1, None]}
    option.save()
    box.options.create(key="location", value="/somewhere")
    assert box.get_options_as_dict() == {"n": {"a": [1, None]}, "location": "/somewhere"}


def test_a_copy_in_a_cache_is_read_before_one_on_tape(add_file, tmp_path):
    datafile = add_file()
    tape = models.StorageBox.objects.get()
    tape.attributes.create(key="type", value="tape")
    cache = models.StorageBox.create_local_box(str(tmp_path))
    cache.attributes.create(key="type", value="cache")
    copy = models.DataFileObject.objects.create(datafile=datafile, storage_box=cache)
    copy.file_object = ContentFile(b"some bytes")
    assert datafile.get_preferred_dfo().storage_box == tape
    assert copy.verify()
    assert datafile.get_preferred_dfo().storage_box == cache


def test_the_archive_of_a_dataset_holds_its_verified_files_by_directory(as_owner, add_file, dataset):
    contents = {"0003_t1/a.zip": b"x" * 70_000, "0003_t1/empty": b"", "0004_dwi/b.json": b"{}"}
    for name, content in contents.items():
        directory, _, filename = name.partition("/")
        add_file(filename, content, directory=directory)
    add_file("not yet", verified=False)
    response = as_owner.get(f"/download/dataset/{dataset.id}/tar/")
    with tarfile.open(fileobj=BytesIO(body(response))) as archive:
        seen = {entry.name: archive.extractfile(entry).read() for entry in archive}
    root = "Head_%2F_T1/Head%20%2F%20T1"
    assert seen == {f"{root}/{name}": content for name, content in contents.items()}
    assert as_owner.get(f"/download/dataset/{dataset.id}/").status_code == 400


def test_pictures_come_in_the_size_asked_for(as_owner, add_file, png):
    datafile = add_file("head.png", png)

    def size_of(size, quality="native.jpg"):
        response = as_owner.get(f"/datafile/iiif/{datafile.id}/full/{size}/0/{quality}")
        picture = Image.open(BytesIO(response.content))
        assert response["Content-Type"] == picture.get_format_mimetype()
        return picture.size

    assert size_of("full", "native.png") == (640, 320)
    assert size_of("100,") == (100, 50)
    assert size_of(",100") == (200, 100)
    assert size_of("!320,240") == (320, 160)
    for size in ("10,10", "large", "x,"):
        assert as_owner.get(f"/datafile/iiif/{datafile.id}/full/{size}/0/native.jpg").status_code == 400


def test_a_picture_that_is_not_verified_or_not_one_is_empty(as_owner, add_file, dataset, png):
    for datafile in (add_file("a.png", png, verified=False), add_file("b.png", b"no picture"), add_file()):
        response = as_owner.get(f"/datafile/iiif/{datafile.id}/full/100,/0/native.jpg")
        assert (response.status_code, response.content) == (200, b"")


def test_a_picture_is_shown_in_the_browser_and_other_files_are_saved(as_owner, add_file, png):
    picture = as_owner.get(f"/datafile/view/{add_file('a.png', png).id}/")
    assert picture["Content-Type"] == "image/png"
    text = as_owner.get(f"/datafile/view/{add_file('a.txt', b'abc').id}/")
    assert text["Content-Disposition"].startswith("inline")
    assert body(text) == b"abc"


def test_a_verified_picture_is_the_thumbnail_of_its_dataset(as_owner, add_file, dataset, png):
    thumbnail = reverse("tardis.tardis_portal.views.dataset_thumbnail", args=[dataset.id])
    datafile = add_file("a.png", png, verified=False)
    assert dataset.get_thumbnail_url() is None
    assert as_owner.get(thumbnail).status_code == 404
    datafile.verify()
    assert list(dataset.get_images()) == [datafile]
    assert as_owner.get(thumbnail)["Location"] == f"/datafile/iiif/{datafile.id}/full/100,/0/native.jpg"
