"""Runs the dcm2niix program under limits, and says in words what it did and what it complained of."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

from ..errors import PermanentError, RetriableError
from ..sandbox.programs import allowed, run_program

STEM = "x"
"""What dcm2niix calls its files; it appends what tells the images of a series apart."""

OPTIONS = (
    *("-g", "i"),  # no defaults file of whoever runs the worker
    *("-d", "0"),  # no folders inside the folder
    *("-b", "y", "-ba", "y"),  # a sidecar without identifying fields
    *("-c", ""),  # no ImageComments in the NIfTI's header
    *("-z", "n"),  # compressed by ourselves, so that MINC and pictures read it as it is
    *("-x", "i"),  # neither cropped nor turned: slices stay the acquisition's slices
    *("-l", "o"),  # no stretching of integers
    *("-w", "2"),  # two images of one name: both are kept
)

DISPLAY_SCALING = ("-p", "n")
"""Values as RescaleSlope says (PS3.3 C.11.1) instead of Philips's own scale slope. It takes the first
instance's slope for all, so it is only for series that have one."""


class ExitCode(IntEnum):
    """What dcm2niix's exit status means."""

    SUCCESS = 0
    FAILURE = 1
    NO_DICOM = 2
    VERSION_REPORTED = 3
    CORRUPT_FILE = 4
    INPUT_FOLDER_INVALID = 5
    OUTPUT_FOLDER_INVALID = 6
    OUTPUT_FOLDER_READ_ONLY = 7
    PARTIAL = 8
    RENAME_FAILED = 9
    INCOMPLETE_VOLUMES = 10
    NOTHING_ASKED = 11
    INVALID_PARAMETER = 12


PARTIAL_CODES = {ExitCode.PARTIAL, ExitCode.INCOMPLETE_VOLUMES}

_EXPECTED_LINES = re.compile(
    r"Chris Rorden's dcm2niiX|Defaults ignored|Found \d+ DICOM|Convert \d+ DICOM as|Conversion required"
    r"|Warning: Empty protocol name"  # which it would name files by; de-identification empties it
    # Several images are no loss: slices are counted. Whether scaling was right is checked by value.
    r"|Slices not stacked: |Saving as 32-bit float|Philips Scaling Values|::autoBids|No valid DICOM images were found|Compression will be faster"
)


@dataclass(frozen=True)
class Run:
    """One run of dcm2niix.

    Attributes:
        code: exit status; what is not in :class:`ExitCode` stays a plain number.
        complaints: every line of its output that is not known to be harmless, paths cut to file names.
        arguments: as given, without the folders.
    """

    code: int
    complaints: tuple[str, ...]
    arguments: tuple[str, ...]

    @property
    def meaning(self) -> str:
        try:
            return f"exit status {self.code}, {ExitCode(self.code).name.lower().replace('_', ' ')}"
        except ValueError:
            if self.code < 0:
                return f"killed by {signal.Signals(-self.code).name}"
            return f"exit status {self.code}"


def find_dcm2niix() -> Path:
    """The dcm2niix program: the one inside the Python package of that name, or else on PATH.

    Raises:
        PermanentError: there is none.
    """
    spec = importlib.util.find_spec("dcm2niix")
    if spec and spec.origin:
        program = Path(spec.origin).with_name("dcm2niix")
        if os.access(program, os.X_OK) and program.is_file():
            return program
    if on_path := shutil.which("dcm2niix"):
        return Path(on_path)
    raise PermanentError(
        "dcm2niix is not installed: neither its Python package (pip install dcm2niix) nor a program"
        " of that name on PATH was found"
    )


OLDEST_RELEASE = "20220715"
"""Of dcm2niix, whose options are used: releases are dates."""


def problems() -> list[str]:
    """What is missing for conversion by dcm2niix, for a filter's :meth:`problems`."""
    try:
        program = find_dcm2niix()
    except PermanentError as error:
        return [str(error)]
    release = re.search(r"v\d+\.\d+\.(\d{8})", version_of(program))
    if release and release[1] < OLDEST_RELEASE:
        return [f"{program} is {version_of(program)}; v1.0.{OLDEST_RELEASE} or newer is required"]
    return []


@lru_cache(maxsize=4)
def version_of(program: Path) -> str:
    """Name and version of ``program``, as a record of a run shall keep it (``dcm2niix v1.0.20260724``)."""
    text = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"v\d+\.\d+\.\d+\w*", text)
    return f"dcm2niix {found[0]}" if found else "dcm2niix (version unknown)"


def run_dcm2niix(
    source: Path,
    destination: Path,
    *,
    program: Path | None = None,
    options: Sequence[str] = OPTIONS,
    time_limit: float | None = None,
    memory_limit: int | None = None,
) -> Run:
    """Convert the DICOM files in ``source`` into NIfTI, sidecars and gradients in ``destination``.

    Args:
        time_limit: seconds after which the program is killed; by default the filter's own limit.
        memory_limit: bytes of address space that the program may have, likewise.

    Raises:
        PermanentError: it did not end in time, or died.
        KilledError: it was killed from outside.
        RetriableError: the disk of ``destination`` is full.
    """
    program = program or find_dcm2niix()
    code, output = run_program(
        [str(program), *options, "-f", STEM, "-o", str(destination), str(source)],
        time_limit=time_limit,
        memory_limit=memory_limit,
        arguments=("dcm2niix", *options, "-f", STEM),
    )
    run = Run(code, complaints_in(output), tuple(options))
    if "No space left" in output or shutil.disk_usage(destination).free < 1 << 20:
        raise RetriableError(f"The disk of {destination} is full; dcm2niix ended with {run.meaning}")
    if run.code < 0:
        raise PermanentError(
            f"dcm2niix died ({run.meaning}; it may use {(memory_limit or allowed()[1]) / 2**20:.0f} MiB of memory): "
            + ("; ".join(run.complaints[:3]) or "it said nothing")
        )
    return run


def complaints_in(output: str, most: int = 20) -> tuple[str, ...]:
    """The lines of dcm2niix's output that are not known to be harmless.

    Args:
        most: lines that differ only in numbers or file names are given once with their count,
            and no more than this many kinds.
    """
    kinds: dict[str, list[str]] = {}
    for line in output.splitlines():
        line = line.strip()
        if not line or _EXPECTED_LINES.match(line):
            continue
        # Two messages on one line: a message without a line's end before the expected one.
        line = re.split(r"(?<=[^\s])Convert \d+ DICOM as ", line)[0]
        line = re.sub(r"(?:/[^\s/']+)+/([^\s/']+)", r"\1", line)
        kinds.setdefault(re.sub(r"[\w-]*\d[\w.-]*", "#", line), []).append(line)
    told = [
        lines[0] if len(lines) == 1 else f"{lines[0]} (and {len(lines) - 1} more like this)"
        for lines in kinds.values()
    ]
    if len(told) > most:
        told[most:] = [f"and {len(told) - most} other kinds of message"]
    return tuple(told)
