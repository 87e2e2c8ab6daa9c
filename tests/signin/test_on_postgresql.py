"""The same sign-ins on a PostgreSQL server, whose locks and texts are stricter than SQLite's."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _program(name):
    found = [
        shutil.which(name),
        *sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), reverse=True),
    ]
    return next(filter(None, found), None)


@pytest.fixture
def server():
    """Environment of a PostgreSQL of this test's own, reached by a socket in a folder of its own."""
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    pytest.importorskip("psycopg2", reason="needs psycopg2")
    if not (initdb and pg_ctl):
        pytest.skip("needs PostgreSQL's initdb and pg_ctl")
    # It refuses to run as root.
    user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
    folder = tempfile.mkdtemp(prefix="pg-")
    if user:
        shutil.chown(folder, user)
    run = {"check": True, "stdout": subprocess.DEVNULL, "user": user, "cwd": folder}
    try:
        subprocess.run([initdb, "-D", "data", "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-sync"], **run)
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        subprocess.run([pg_ctl, "-D", "data", "-w", "-l", "log", "-o", options, "start"], **run)
        try:
            yield {"DEVHOST_DB": "postgresql", "PGHOST": folder, "PGUSER": "tests", "PGDATABASE": "postgres"}
        finally:
            subprocess.run([pg_ctl, "-D", "data", "-m", "immediate", "stop"], **run)
    finally:
        shutil.rmtree(folder)


@pytest.mark.peer
@pytest.mark.slow
def test_signing_in_holds_on_postgresql(server, tmp_path):
    names = ["test_at_once.py", "test_sign_in.py", "test_commands.py", "test_admin.py"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(str(HERE / name) for name in names),
    ]
    environment = {**os.environ, **server, "DEVHOST_STATE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
