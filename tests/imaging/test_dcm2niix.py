"""The converter as a child process: found, limited, and its words understood."""

import importlib.util
import os
import time

import pytest

from tardis_imagetrove.errors import PermanentError
from tardis_imagetrove.imaging.dcm2niix import (
    ExitCode,
    complaints_in,
    find_dcm2niix,
    run_dcm2niix,
    version_of,
)

from ..processes import is_alive


@pytest.fixture
def folders(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    return source, out


@pytest.fixture
def program(tmp_path):
    """Makes a program that stands where dcm2niix would."""

    def make(script):
        path = tmp_path / "converter"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


def test_the_program_of_the_package_is_found_and_tells_its_version():
    program = find_dcm2niix()
    assert os.access(program, os.X_OK)
    assert version_of(program).startswith("dcm2niix v1.0.")


def test_one_on_the_path_is_found_without_the_package(monkeypatch, program, tmp_path):
    path = program("true").rename(tmp_path / "dcm2niix")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_dcm2niix() == path


def test_without_one_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PermanentError, match="pip install dcm2niix"):
        find_dcm2niix()


def test_nothing_to_convert_is_an_exit_code_with_a_name(folders):
    run = run_dcm2niix(*folders)
    assert run.code == ExitCode.NO_DICOM
    assert run.meaning == "exit status 2, no dicom"


def test_a_converter_that_hangs_is_stopped_with_its_children(folders, program, tmp_path):
    hanging = program(f"sleep 600 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(PermanentError, match="did not finish within 0.5 s"):
        run_dcm2niix(*folders, program=hanging, time_limit=0.5)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 20  # the kernel takes a moment to carry the kill out
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(child)


def test_a_converter_that_dies_is_a_permanent_error_with_its_last_words(folders, program):
    with pytest.raises(PermanentError, match=r"killed by SIGSEGV.*Warning: odd header"):
        run_dcm2niix(*folders, program=program("echo 'Warning: odd header'; kill -SEGV $$"))


def test_a_converter_that_eats_memory_is_held_to_its_limit(folders, program):
    hungry = program(
        "exec python3 -c \"import time; time.sleep(1); b = bytearray(1 << 30); print('got it')\""
    )
    run = run_dcm2niix(*folders, program=hungry, memory_limit=512 << 20)
    assert run.code != 0
    assert any("MemoryError" in words for words in run.complaints)


def test_every_unknown_line_is_a_complaint_and_paths_are_cut():
    output = """Chris Rorden's dcm2niiX version v1.0.20260724  (JP2:OpenJPEG) GCC10.2.1 x86-64 (64-bit Linux)
Found 24 DICOM file(s)
Slices not stacked: echo varies (TE 15, 25; echo 2, 3). Use 'merge 2D slices' option to force stacking
Warning: Unable to distinguish fieldmaps.Convert 24 DICOM as /scratch/x/out/x (80x96x24x1)
Error: unable to read /scratch/x/in/000001.dcm
Convert 24 DICOM as /scratch/x/out/x (80x96x24x1)
Conversion required 0.014671 seconds (0.014629 for core code).
"""
    assert complaints_in(output) == (
        "Warning: Unable to distinguish fieldmaps.",
        "Error: unable to read 000001.dcm",
    )


def test_a_complaint_about_each_file_is_told_once_with_their_number():
    output = "\n".join(f"Warning: Instance number not found: in/{n:06d}.dcm" for n in range(1000))
    assert complaints_in(output) == (
        "Warning: Instance number not found: in/000000.dcm (and 999 more like this)",
    )


def test_a_flood_of_complaints_is_cut_with_their_number():
    output = "\n".join(f"Warning: {'x' * n} happened" for n in range(1, 101))
    told = complaints_in(output, most=20)
    assert len(told) == 21
    assert told[-1] == "and 80 other kinds of message"
