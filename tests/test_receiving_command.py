"""``imagetrove_scp`` as an operator starts it: its options, its logs, its counts, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from .conftest import phantom
from .site import Site, eventually, free_port

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def site(owner, tmp_path):
    site = Site(tmp_path)
    yield site
    site.stop()


def test_it_logs_json_counts_for_prometheus_and_leaves_in_order(site, tmp_path):
    port = free_port()
    site.start_receiver("--workers", "2", "--metrics-port", str(port), "--log-json")
    paths = phantom(tmp_path / "in")
    assert site.send(*paths) == len(paths)
    assert site.echo()

    def counts() -> dict[str, float]:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        return {
            line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")
        }

    eventually(lambda: counts()["imagetrove_instances_total"] == len(paths))
    eventually(lambda: counts()["imagetrove_spool_series"] == 1)
    process = site.processes["receiver"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    lines = [json.loads(line) for line in site.log.read_text().splitlines() if line.startswith("{")]
    associations = [line["association"] for line in lines if "association" in line]
    # In one association, unless pynetdicom missed an answer and sent the rest again.
    assert sum(one["stored"] for one in associations) == len(paths)
    assert associations[0]["calling_ae"] == "DEMO"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-cert", "/nowhere.pem"], "TLS needs --tls-key and --tls-ca as well"),
        (["--ae-title", "A" * 17], "AE title"),
        (["--workers", "0"], "workers 0: must be 1 or more"),
        (["--port", "99999"], "port 99999"),
        (["--spool", "/dev/null/spool"], "/dev/null/spool"),
        (["--tls-cert", "/no.pem", "--tls-key", "/no.pem", "--tls-ca", "/no.pem"], "/no.pem"),
    ],
)
def test_a_wrong_option_is_named_and_ends_it(site, options, words):
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "django",
            "imagetrove_scp",
            "--host",
            "127.0.0.1",
            "--port",
            str(site.port),
            *options,
        ],
        env=site.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_only_workers_need_keeps_no_receiver_from_starting(site):
    said = json.loads(site.env["IMAGETROVE_TEST_SETTINGS"])
    site.env["IMAGETROVE_TEST_SETTINGS"] = json.dumps(
        {**said, "FILTERS": ["no.such.Filter"], "SCRATCH": "/dev/null"}
    )
    site.start_receiver()
    assert site.echo()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"SPOOL": None}, "IMAGETROVE['SPOOL'] is not set"), ({"QUIET_SECONDS": "60"}, "must be a number")],
)
def test_a_wrong_setting_is_named_and_ends_it(site, settings, words):
    ended = subprocess.run(
        [sys.executable, "-m", "django", "imagetrove_scp", "--host", "127.0.0.1", "--port", str(site.port)],
        env={**site.env, "IMAGETROVE_TEST_SETTINGS": json.dumps(settings)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_named(site):
    site.start_receiver()
    ended = subprocess.run(
        [sys.executable, "-m", "django", "imagetrove_scp", "--host", "127.0.0.1", "--port", str(site.port)],
        env=site.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert str(site.port) in ended.stderr


def test_systemd_hears_when_it_is_ready_alive_and_stopping(site, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        site.env |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        site.start_receiver("--workers", "2")
        assert systemd.recv(100) == b"READY=1"
        assert site.echo()
        assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        process = site.processes["receiver"]
        process.send_signal(signal.SIGTERM)
        while (said := systemd.recv(100)) == b"WATCHDOG=1":
            pass
        assert said == b"STOPPING=1"
        assert process.wait(30) == 0
