"""The host as processes: its commands from any folder, a real worker on a broker without a server, one SQLite file."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEVHOST = Path(__file__).resolve().parents[2] / "devhost"

STORE_A_FILE = """
import hashlib
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from tardis.tardis_portal.models import DataFile, Dataset
data = b"x" * 1000
dataset = Dataset.objects.create(description="d")
datafile = DataFile(dataset=dataset, filename="a", size=1000, md5sum=hashlib.md5(data).hexdigest())
datafile.save()
datafile.file_object = ContentFile(data)
print("verified", datafile.verified)
"""
COUNT_UP = """
import time
from django.conf import settings
from django.db import transaction
from tardis.tardis_portal.models import License
License.objects.get_or_create(name="counter", defaults={"internal_description": "0"})
print("ready", flush=True)
while not (settings.STATE / "go").exists():
    time.sleep(0.01)
for n in range(20):
    with transaction.atomic():
        row = License.objects.get(name="counter")
        time.sleep(0.005)
        row.internal_description = str(int(row.internal_description) + 1)
        row.save()
"""


ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("DEVHOST_", "DJANGO_", "PYTEST_", "PYTHONPATH"))
}


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """The folder of a host's state whose database is ready."""
    folder = tmp_path_factory.mktemp("migrated")
    manage({**ENVIRONMENT, "DEVHOST_STATE": str(folder)}, "migrate", "-v0", cwd=folder)
    return folder


@pytest.fixture
def environment(migrated, tmp_path):
    """The environment of a host whose state is the test's own; the database is ready."""
    shutil.copytree(migrated, tmp_path / "state")
    return {**ENVIRONMENT, "DEVHOST_STATE": str(tmp_path / "state")}


def value(environment, table, column):
    """What one column of a table's only row holds."""
    with contextlib.closing(sqlite3.connect(Path(environment["DEVHOST_STATE"]) / "db.sqlite3")) as database:
        ((found,),) = database.execute(f"SELECT {column} FROM {table}").fetchall()
    return found


def manage(environment, *arguments, cwd="/"):
    command = [sys.executable, str(DEVHOST / "manage.py"), *arguments]
    return subprocess.run(
        command, env=environment, cwd=cwd, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.slow
def test_all_state_lies_under_one_folder(environment, tmp_path):
    manage(environment, "shell", "-c", STORE_A_FILE)
    state = tmp_path / "state"
    assert (state / "db.sqlite3").exists()
    assert [path.name for path in (state / "store").rglob("*") if path.is_file()] == ["a"]
    assert (state / "broker" / "broker.sqlite3").exists()


@pytest.mark.slow
def test_migrations_are_complete(environment):
    assert "No changes" in manage(environment, "makemigrations", "--check", "--dry-run", "tardis_portal")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["devhost.settings", "tardis.settings"])
def test_a_worker_in_another_process_verifies_what_was_stored(environment, module, tmp_path):
    assert "verified False" in manage(environment, "shell", "-c", STORE_A_FILE)
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "tardis.celery.tardis_app",
                "worker",
                "-c",
                "1",
                "-l",
                "INFO",
            ],
            env={
                **environment,
                "DJANGO_SETTINGS_MODULE": module,
                "PYTHONPATH": f"{DEVHOST}{os.pathsep}{DEVHOST.parent}",
            },
            stdout=output,
            stderr=output,
            cwd="/",
        )
    try:
        until = time.monotonic() + 60
        while not value(environment, "tardis_portal_datafileobject", "verified"):
            assert time.monotonic() < until, f"The worker did not verify the file:\n{log.read_text()}"
            time.sleep(0.1)
    finally:
        worker.terminate()
        assert worker.wait(30) == 0


@pytest.mark.slow
def test_processes_that_read_before_they_write_wait_for_one_another(environment, tmp_path):
    command = [sys.executable, str(DEVHOST / "manage.py"), "shell", "-c", COUNT_UP]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    (tmp_path / "state" / "go").touch()
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert value(environment, "tardis_portal_license", "internal_description") == "60"
