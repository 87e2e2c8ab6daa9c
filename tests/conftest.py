"""Fixtures shared by all rooms: a spool, an instrument's configuration, a way to deliver a series."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from django.conf import settings
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tardis_imagetrove.errors import RetriableError
from tardis_imagetrove.phantom import oblique_mr_series
from tardis_imagetrove.reasons import Reason, as_json
from tardis_imagetrove.spool import Spool

# In an activated environment pynetdicom's storescu and echoscu would stand for DCMTK's.
_OWN_PROGRAMS = str(Path(sys.executable).parent)
os.environ["PATH"] = os.pathsep.join(
    [*(folder for folder in os.get_exec_path() if folder != _OWN_PROGRAMS), _OWN_PROGRAMS]
)
# A shell has what it starts in the background ignore Ctrl-C, and that is inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# In a real MyTARDIS, the embedded host's own tests have nothing to say.
collect_ignore = ["devhost"] if "MYTARDIS_HOME" in os.environ else []

# A busy machine is no failure.
# Where a run must say the same as the last one, HYPOTHESIS_DERANDOMIZE=1 has the same examples tried.
hypothesis_settings.register_profile(
    "patient",
    deadline=None,
    derandomize=os.environ.get("HYPOTHESIS_DERANDOMIZE") == "1",
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
hypothesis_settings.load_profile("patient")


def pytest_collection_modifyitems(items):
    """Fast tests first: a mistake shows in seconds. Of the slow ones the longest first, or all wait for one at the end."""
    slow = {item: item.get_closest_marker("slow") for item in items}
    items.sort(key=lambda item: (slow[item] is not None, not (slow[item] and slow[item].kwargs.get("first"))))


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """Content types and permissions are put back as they were after each flush, not worked out anew.

    Django works them out at the end of every test with transactions, which takes longer than most of these tests.
    """
    from django.contrib.auth.models import Permission
    from django.contrib.contenttypes.management import create_contenttypes
    from django.contrib.contenttypes.models import ContentType
    from django.db.models.signals import post_migrate

    with django_db_blocker.unblock():
        rows = {model: list(model.objects.all()) for model in (ContentType, Permission)}

    def put_back(sender, using, **_):
        if sender.label == "auth":
            for model, objects in rows.items():
                model.objects.using(using).bulk_create(objects, ignore_conflicts=True)

    assert post_migrate.disconnect(create_contenttypes)
    assert post_migrate.disconnect(dispatch_uid="django.contrib.auth.management.create_permissions")
    post_migrate.connect(put_back, weak=False)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    spool.prepare()
    return spool


class Queued(list):
    """What was given to the broker: the task's name and its arguments, of each message in order."""

    away = False
    """Whether the broker cannot be reached."""

    def publish(self, task, *arguments) -> None:
        if self.away:
            raise RetriableError("the broker cannot be reached: ConnectionRefusedError")
        self.append((task.name, *arguments))

    def work(self, most: int = 1000) -> None:
        """Do what is queued, as a worker would."""
        from tardis.celery import tardis_app

        for _ in range(min(most, len(self))):
            name, *arguments = self.pop(0)
            tardis_app.tasks[name](*arguments)


@pytest.fixture
def queued():
    """A broker of the test's own, without a worker."""
    from tardis_imagetrove import tasks

    queued = Queued()
    with tasks.published_by(queued.publish):
        yield queued


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def synced(monkeypatch) -> list[Path]:
    """What has been synced to the disk so far, by path, in order."""
    paths: list[Path] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        paths.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", record)
    return paths


def deliver(spool: Spool, *paths: Path) -> list[bytes]:
    """Put files into the spool as the receiver does; returns their bytes."""
    contents = []
    for path in paths:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        with spool.incoming() as incoming:
            incoming.write(path.read_bytes())
            incoming.commit(str(header.SeriesInstanceUID), str(header.SOPInstanceUID))
        contents.append(path.read_bytes())
    return contents


def why(*texts: str, code: str = "test") -> list[dict[str, str]]:
    """Reasons as a row stores them."""
    return as_json(Reason(code, text) for text in texts)


def phantom(folder: Path, **kwargs) -> list[Path]:
    """A small generated series."""
    return oblique_mr_series(folder, **{"slices": 6, "rows": 24, "columns": 20, **kwargs})


def series_uid(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID)


def configure(owner, **changes):
    """The configuration of the instrument that the generated series come from."""
    from tardis_imagetrove.models import InstrumentConfiguration

    return InstrumentConfiguration.objects.create(
        **{
            "name": "Phantom MR",
            "instrument": [["ManufacturerModelName", "Phantom generator"]],
            "experiment_title": ["PatientID"],
            "dataset_title": ["SeriesDescription"],
            "default_institution_name": "University of Example",
            "default_institutional_department_name": "Centre for Imaging",
            "default_institutional_address": "1 Example Road",
            "default_operators": ["operator.one@example.edu"],
            "schema_experiment": "http://example.edu/schema/1",
            "schema_dataset": "http://example.edu/schema/2",
            "schema_file": "http://example.edu/schema/3",
            "owner": owner,
            **changes,
        }
    )


@pytest.fixture
def owner(transactional_db, django_user_model):
    # MyTARDIS 5.0 cannot save an experiment without this user, which its migrations make and a
    # transactional test has flushed; before the first one, PUBLIC_USER may be there with another id.
    public = getattr(settings, "PUBLIC_USER_ID", None)
    if public is not None:
        django_user_model.objects.get_or_create(pk=public, defaults={"username": f"public-{public}"})
    return django_user_model.objects.create_user("facility", password="facility")


@pytest.fixture
def box(owner, tmp_path: Path):
    """A storage box of the test's own."""
    from tardis.tardis_portal.models import StorageBox

    (tmp_path / "store").mkdir()
    return StorageBox.create_local_box(str(tmp_path / "store"))


@pytest.fixture
def configuration(owner, box):
    return configure(owner, storage_box=box)
