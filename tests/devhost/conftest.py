"""Fixtures of the embedded host's tests: people, an experiment that one of them owns, files in a store."""

import hashlib
from io import BytesIO

import pytest
from django.contrib.auth.models import Group, User
from django.core.files.base import ContentFile
from PIL import Image
from tardis.tardis_portal import models

from tardis_imagetrove.mytardis import mytardis


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    """A store and a metadata folder for each test; no message goes to a broker."""
    settings.DEFAULT_STORAGE_BASE_DIR = str(tmp_path / "store")
    settings.METADATA_STORE_PATH = str(tmp_path / "metadata")
    for folder in (settings.DEFAULT_STORAGE_BASE_DIR, settings.METADATA_STORE_PATH):
        (tmp_path / folder).mkdir()
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def asked_to_verify(monkeypatch):
    """The ids of stored copies that a worker was asked to verify."""
    ids = []
    monkeypatch.setattr(
        "tardis.tardis_portal.tasks.dfo_verify.apply_async", lambda args, **options: ids.append(args[0])
    )
    return ids


@pytest.fixture
def people(db, settings):
    """An owner, a member of a group that may read, a stranger and an administrator."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    people = {name: User.objects.create_user(name, password=name) for name in ("owner", "member", "stranger")}
    people["member"].groups.add(Group.objects.create(name="Project 12345"))
    people["root"] = User.objects.create_superuser("root", password="root")
    return people


@pytest.fixture
def dataset(people):
    """A dataset of the owner's experiment, which the group may read."""
    experiment = models.Experiment.objects.create(title="Phantoms", created_by=people["owner"])
    mytardis().grant_experiment(experiment.id, people["owner"].id, Group.objects.get(name="Project 12345").id)
    facility = models.Facility.objects.create(
        name="Centre for Imaging", manager_group=Group.objects.get(name="Project 12345")
    )
    instrument = models.Instrument.objects.create(name="Phantom MR", facility=facility)
    dataset = models.Dataset.objects.create(description="Head / T1", instrument=instrument)
    dataset.experiments.add(experiment)
    return dataset


@pytest.fixture
def add_file(dataset):
    """Stores a file in the dataset; as on a host without a worker it stays unverified unless asked."""

    def add(name="a.zip", content=b"some bytes", verified=True, **fields):
        datafile = models.DataFile(
            dataset=dataset,
            filename=name,
            size=len(content),
            md5sum=hashlib.md5(content).hexdigest(),
            **{"directory": "0003_t1", **fields},
        )
        datafile.save()
        datafile.file_object = ContentFile(content)
        if verified:
            assert datafile.verify()
        return datafile

    return add


@pytest.fixture
def png():
    """The bytes of a picture, 640 wide and 320 high."""
    buffer = BytesIO()
    Image.new("RGB", (640, 320), (200, 100, 50)).save(buffer, "PNG")
    return buffer.getvalue()
