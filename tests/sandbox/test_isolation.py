"""A filter that crashes, hangs or eats memory ends its own process, and is measured by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tardis_imagetrove.errors import KilledError, PermanentError, RetriableError
from tardis_imagetrove.sandbox.isolation import Limits, isolated
from tardis_imagetrove.sandbox.programs import run_program

from ..processes import is_alive

LIMITS = Limits(seconds=60, memory_mib=512)
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def program(argv, **limits):
    return run_program(argv, **{"time_limit": 60, "memory_limit": 1 << 30, **limits})


def held(mib: int) -> int:
    """Holds so much memory for a moment."""
    return len(bytearray(mib << 20))


def ends(pid: int) -> bool:
    until = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_alive(pid)


def test_what_it_returns_comes_back_from_another_process():
    report = isolated(os.getpid, LIMITS)
    assert report.value != os.getpid()
    assert (report.error, report.exit_status, report.programs) == (None, 0, ())


def test_a_value_larger_than_a_pipe_comes_back_whole():
    assert isolated(lambda: "x" * 5_000_000, LIMITS).value == "x" * 5_000_000


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (PermanentError("(0028,0010) Rows is 0"), PermanentError, "(0028,0010) Rows is 0"),
        (RetriableError("the disk is full"), RetriableError, "the disk is full"),
        (OSError(28, "No space left on device"), RetriableError, "No space left on device"),
        # As Pillow says it of an image that is cut off.
        (OSError("image file is truncated"), PermanentError, "image file is truncated"),
        (ZeroDivisionError("oops"), PermanentError, "the filter has a fault (ZeroDivisionError)"),
        (SystemExit(3), PermanentError, "the filter has a fault (SystemExit)"),
    ],
)
def test_its_errors_keep_their_family_and_words(error, kind, words):
    def work() -> None:
        raise error

    report = isolated(work, LIMITS)
    assert type(report.error) is kind
    assert words in str(report.error)


def test_one_that_returns_what_cannot_be_sent_is_told():
    error = isolated(lambda: lambda: None, LIMITS).error
    assert type(error) is PermanentError
    assert "in what it returned" in str(error)


def test_a_crash_is_permanent_and_names_the_signal():
    report = isolated(lambda: os.kill(os.getpid(), signal.SIGSEGV), LIMITS)
    assert type(report.error) is PermanentError
    assert "SIGSEGV" in str(report.error)
    assert report.exit_status == -signal.SIGSEGV


def test_one_that_is_killed_from_outside_may_be_tried_again():
    report = isolated(lambda: os.kill(os.getpid(), signal.SIGKILL), LIMITS)
    assert type(report.error) is KilledError


def test_one_that_eats_memory_is_held_to_its_limit_beyond_the_workers_own():
    own = bytearray(700 << 20)  # the worker itself has more than the limit
    assert isolated(lambda: held(300), LIMITS).value == 300 << 20
    report = isolated(lambda: held(900), LIMITS)
    assert type(report.error) is PermanentError
    assert "512 MiB" in str(report.error)
    del own


def test_memory_is_each_runs_own_and_not_the_highest_so_far():
    high, low = isolated(lambda: held(400), LIMITS), isolated(lambda: held(1), LIMITS)
    assert high.memory_mib > 400
    assert low.memory_mib < high.memory_mib - 300


def test_memory_of_its_programs_counts():
    command = [sys.executable, "-c", "len(bytearray(400 << 20))"]
    report = isolated(lambda: program(command), LIMITS)
    assert report.memory_mib > 400
    (run,) = report.programs
    assert run.memory_mib > 400
    assert run.arguments == (Path(sys.executable).name, "-c", "len(bytearray(400 << 20))")


def test_its_programs_have_its_limits():
    script = "import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0])"
    # The program may ask before it is limited: it waits a moment.
    command = [sys.executable, "-c", f"import time; time.sleep(1); {script}"]
    assert isolated(lambda: run_program(command), LIMITS).value == (0, f"{512 << 20}\n")
    late = isolated(lambda: run_program(SLEEP, time_limit=1), LIMITS)
    assert "did not finish within 1 s" in str(late.error)


def test_programs_are_recorded_with_their_exit_status_also_when_the_filter_fails():
    def work() -> None:
        assert program(["sh", "-c", "exit 3"])[0] == 3
        raise PermanentError("it gave 3")

    report = isolated(work, LIMITS)
    assert [(run.arguments, run.exit_status) for run in report.programs] == [(("sh", "-c", "exit 3"), 3)]


def test_one_that_hangs_is_stopped_and_so_are_its_programs(tmp_path):
    def work() -> None:
        script = f"echo $$ > {tmp_path}/pid; exec sleep 600"
        program(["sh", "-c", script], time_limit=600)

    report = isolated(work, Limits(seconds=2, memory_mib=512))
    assert type(report.error) is PermanentError
    assert "did not finish within 2 s" in str(report.error)
    assert ends(int((tmp_path / "pid").read_text()))
    assert [run.exit_status for run in report.programs] == [-signal.SIGKILL]


def test_one_that_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr("tardis_imagetrove.sandbox.isolation.GRACE_SECONDS", 0.5)

    def work() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)

    report = isolated(work, Limits(seconds=0.5, memory_mib=512))
    assert "did not finish" in str(report.error)
    assert report.exit_status == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death")
def test_it_and_its_programs_end_when_the_worker_is_killed(tmp_path):
    worker = f"""
import os, pathlib
from tardis_imagetrove.sandbox.isolation import Limits, isolated
from tardis_imagetrove.sandbox.programs import run_program
def work():
    pathlib.Path({str(tmp_path)!r}, "filter").write_text(str(os.getpid()))
    run_program(["sh", "-c", "echo $$ > {tmp_path}/program; exec sleep 600"], time_limit=600, memory_limit=1 << 30)
isolated(work, Limits(600, 512))
"""
    process = subprocess.Popen([sys.executable, "-c", worker], cwd=Path(__file__).parents[2])
    until = time.monotonic() + 60
    while not (tmp_path / "program").exists() or not (tmp_path / "program").read_text().strip():
        assert time.monotonic() < until
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert ends(int((tmp_path / "filter").read_text()))
    assert ends(int((tmp_path / "program").read_text()))
