"""``make demo`` before it runs: ports, a second demo beside the first, a process that ends at once."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from devhost import demo


def started(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, demo.__file__, *options], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("taken", ["PORT", "SCP_PORT"])
def test_a_port_that_is_taken_is_named_with_another_to_choose(taken):
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        busy, free = listening.getsockname()[1], other.getsockname()[1]
        other.close()
        ports = (busy, free) if taken == "PORT" else (free, busy)
        ended = started("--port", str(ports[0]), "--scp-port", str(ports[1]))
    assert ended.returncode == 1
    assert ended.stderr == f"Port {busy} is in use; choose another: make demo {taken}={busy + 1}\n"


def test_what_is_no_pair_of_ports_is_said():
    assert "PORT and SCP_PORT must be two ports" in started("--port", "18080", "--scp-port", "18080").stderr
    assert "99999 is no port: 1 to 65535" in started("--port", "99999").stderr


def test_two_demos_do_not_share_a_folder(tmp_path: Path):
    state = tmp_path / ".demo"
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        demo.claim(state, first)
        (state / "db.sqlite3").touch()
        with pytest.raises(demo.DemoError, match=f"another one of this checkout is running.*{state}"):
            demo.claim(state, second)
    with contextlib.ExitStack() as stack:
        demo.claim(state, stack)
        assert (state / "db.sqlite3").exists()


def test_once_begins_with_an_empty_folder(tmp_path: Path):
    state = tmp_path / ".demo-once"
    (state / "spool" / "series").mkdir(parents=True)
    (state / "db.sqlite3").touch()
    with contextlib.ExitStack() as stack:
        demo.claim(state, stack)
        assert [path.name for path in state.iterdir()] == ["lock"]


def test_a_process_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        process = demo.start(
            "web", [sys.executable, "-c", "raise SystemExit('no database')"], tmp_path / "web.log"
        )
        with pytest.raises(demo.DemoError, match="the web ended at once: no database"):
            demo.wait_for_port(nobody.getsockname()[1], "web", process, tmp_path)
