"""Folders for a piece of work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tardis_imagetrove.sandbox.scratch import YOUNG_SECONDS, scratch_folder

WORKER = """
import sys, time
from pathlib import Path
from tardis_imagetrove.sandbox.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "scan").write_text("a patient's")
    print(folder, flush=True)
    time.sleep(300)
"""


def start_worker(parent: Path) -> tuple[subprocess.Popen, Path]:
    """A process at work in a folder below ``parent``, which holds a file."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(parent)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    folder = Path(process.stdout.readline().strip())
    assert (folder / "scan").exists()
    return process, folder


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def grow_old(folder: Path) -> None:
    moment = time.time() - YOUNG_SECONDS - 60
    os.utime(folder.parent / "lock", (moment, moment))


def test_a_folder_is_empty_and_goes_with_its_work(tmp_path):
    with scratch_folder(tmp_path) as folder:
        assert folder.is_relative_to(tmp_path) and list(folder.iterdir()) == []
        (folder / "scan").write_text("a patient's")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_work_and_what_is_in_use_stays(tmp_path):
    others = tmp_path / "imagetrove-notes"
    others.mkdir()
    working, in_use = start_worker(tmp_path)
    killed, left = start_worker(tmp_path)
    just_killed, young = start_worker(tmp_path)
    try:
        kill(killed)
        kill(just_killed)
        for folder in (in_use, left):
            grow_old(folder)
        with scratch_folder(tmp_path):
            assert not left.parent.exists()
            assert (in_use / "scan").exists()
            assert (young / "scan").exists()
            assert others.exists()
    finally:
        kill(working)
