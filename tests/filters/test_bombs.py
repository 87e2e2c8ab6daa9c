"""Files that cost far more than they weigh: each filter, and de-identification, ends within its limits and says why."""

from __future__ import annotations

import struct

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from tardis_imagetrove.conversion import registry
from tardis_imagetrove.deidentification import NotDeidentifiable, Profile, Pseudonyms, deidentify, new_secret
from tardis_imagetrove.errors import PermanentError
from tardis_imagetrove.filters.base import DicomSeries
from tardis_imagetrove.sandbox.isolation import Limits, isolated

from ..filters.truth import edit

#: Beyond what the process has when it begins; an honest small series needs a tenth.
MEMORY_MIB, SECONDS = 1024, 60
MOST = 65_535


def jpeg_2000(dataset: Dataset) -> None:
    """A code stream of 65,535 x 65,535 in a hundred bytes (ISO/IEC 15444-1 annex A)."""
    size = struct.pack(">HHHIIIIIIIIHBBB", 0xFF51, 41, 0, MOST, MOST, 0, 0, MOST, MOST, 0, 0, 1, 7, 1, 1)
    coding = bytes.fromhex("ff52000c00000001000504040001")
    quantization = bytes.fromhex("ff5c00134040484850484850484850484850484850")
    tile = bytes.fromhex("ff90000a0000000000000001ff93")
    frame = b"\xff\x4f" + size + coding + quantization + tile + b"\xff\xd9"
    huge(dataset)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2)])


def rle(dataset: Dataset) -> None:
    """One segment of runs for 65,535 x 65,535."""
    huge(dataset)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 500_000])


def huge(dataset: Dataset) -> None:
    dataset.Rows = dataset.Columns = MOST
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset["PixelData"].VR = "OB"


def frames(dataset: Dataset) -> None:
    """A thousand million frames of a few bytes each, of which there is one."""
    dataset.NumberOfFrames = 10**9


BOMBS = [jpeg_2000, rle, frames]


@pytest.fixture(params=BOMBS, ids=lambda bomb: bomb.__name__)
def bomb(request, phantom):
    files = phantom()
    for path in files:
        edit(path, request.param)
    assert sum(path.stat().st_size for path in files) < 10_000_000
    return files


@pytest.mark.parametrize("name", ["nifti", "minc", "picture", "metadata"])
def test_a_filter_ends_within_its_limits(bomb, name, tmp_path, db):
    out = tmp_path / "out"
    out.mkdir()
    conversion = registry.load()[name]
    report = isolated(
        lambda: conversion.run(DicomSeries(tuple(bomb), "0003_t1"), out), Limits(SECONDS, MEMORY_MIB)
    )
    assert report.error is None or isinstance(report.error, PermanentError)
    assert "did not finish" not in str(report.error)
    if name != "metadata" and report.error is None and not report.value.skipped:
        assert report.value.warnings or pydicom.dcmread(bomb[0]).get("NumberOfFrames") is None


def test_de_identification_ends_within_its_limits(bomb, tmp_path):
    pseudonyms = Pseudonyms(new_secret())

    def copy() -> str:
        try:
            made = deidentify(bomb[0], tmp_path / "copy.dcm", Profile.of(["clean-pixels"]), pseudonyms)
        except NotDeidentifiable as error:
            return str(error)
        return str(made.path)

    report = isolated(copy, Limits(SECONDS, MEMORY_MIB))
    assert report.error is None, report.error
