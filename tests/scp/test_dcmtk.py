"""DCMTK's own programs as senders."""

from __future__ import annotations

import os
import shutil
import subprocess

import pydicom
import pytest

from .peer import sample_files

pytestmark = pytest.mark.peer


def run(program: str, *arguments: object) -> subprocess.CompletedProcess:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    environment = {**os.environ, "TCP_NODELAY": "1"}
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=60, env=environment
    )


def test_echoscu_is_answered(receive):
    done = run("echoscu", "-aec", "IMAGETROVE", "127.0.0.1", receive().port)
    assert done.returncode == 0, done.stderr


def test_echoscu_that_calls_another_title_is_told_so(receive):
    done = run("echoscu", "-aec", "ELSEWHERE", "127.0.0.1", receive().port)
    assert done.returncode != 0
    assert "Called AE Title Not Recognized" in done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_dcmsend_delivers_files_of_all_kinds_unchanged(receive, spool, stored, workers):
    port = receive(workers=workers).port
    # dcmsend itself ends at the truncated file, and misreads UIDs that are marked as UN.
    samples = [
        one for one in sample_files() if "truncated" not in one.path.name and "rtdose" not in one.path.name
    ]
    done = run(
        "dcmsend",
        "-v",
        "--decompress-never",
        "-aec",
        "IMAGETROVE",
        "127.0.0.1",
        port,
        *(one.path for one in samples),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name.partition("~")[0].removesuffix(".dcm") for path in stored()} == {
        one.sop_instance for one in samples
    }


def test_storescu_delivers_a_file(receive, stored):
    sample = next(one for one in sample_files() if one.path.name == "CT_small.dcm")
    done = run("storescu", "-aec", "IMAGETROVE", "127.0.0.1", receive().port, sample.path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in stored()] == [f"{sample.sop_instance}.dcm"]
    # storescu reads and writes the elements anew, without the padding behind them.
    assert pydicom.dcmread(stored()[0]).PixelData == pydicom.dcmread(sample.path).PixelData
