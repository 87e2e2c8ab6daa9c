"""What several filters of a series need is made once, and each has it whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tardis_imagetrove.errors import PermanentError
from tardis_imagetrove.filters import shared
from tardis_imagetrove.filters.base import DicomSeries
from tardis_imagetrove.filters.minc import MincFilter
from tardis_imagetrove.filters.nifti import NiftiFilter
from tardis_imagetrove.filters.picture import PictureFilter
from tardis_imagetrove.imaging import volume
from tardis_imagetrove.sandbox.isolation import Limits, Report, isolated

KINDS = (NiftiFilter, MincFilter, PictureFilter)


def run_all(series: DicomSeries, out: Path) -> list[Report]:
    reports = []
    for kind in KINDS:
        (out / kind.name).mkdir(parents=True)
        reports.append(isolated(lambda kind=kind: kind().run(series, out / kind.name), Limits(120, 4096)))
    return reports


def made(out: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in out.rglob("*")
        # MINC and HDF5 have the time in them.
        if path.is_file() and path.suffix != ".mnc"
    }


def test_the_files_are_the_same_as_of_each_filter_alone(phantom, tmp_path):
    files = tuple(phantom())
    (tmp_path / "shared").mkdir()
    together = run_all(DicomSeries(files, "0003_t1", shared=tmp_path / "shared"), tmp_path / "together")
    alone = run_all(DicomSeries(files, "0003_t1"), tmp_path / "alone")
    assert made(tmp_path / "together") == made(tmp_path / "alone")
    for one, other in zip(together, alone, strict=True):
        assert one.value.warnings == other.value.warnings
        assert [path.path.name for path in one.value.outputs] == [
            path.path.name for path in other.value.outputs
        ]


def test_dcm2niix_is_run_once_and_is_in_the_record_of_each_run(phantom, tmp_path):
    (tmp_path / "shared").mkdir()
    series = DicomSeries(tuple(phantom()), "0003_t1", shared=tmp_path / "shared")
    reports = run_all(series, tmp_path / "out")
    assert len(list((tmp_path / "shared").glob("volumes-*"))) == 1
    (run,) = reports[0].programs
    assert (run.arguments[0], run.exit_status) == ("dcm2niix", 0)
    assert [report.programs for report in reports] == [(run,)] * 3


def test_what_cannot_be_converted_is_found_out_once_and_told_by_each(phantom, tmp_path, monkeypatch):
    (tmp_path / "shared").mkdir()
    series = DicomSeries(tuple(phantom()), "0003_t1", shared=tmp_path / "shared")
    tried = []

    def impossible(*arguments):
        tried.append(1)
        raise PermanentError("(0028,0010) Rows is 0")

    monkeypatch.setattr(volume, "convert", impossible)
    for _ in range(2):
        with pytest.raises(PermanentError, match="Rows is 0"):
            shared.conversion_of(series, tmp_path)
    assert tried == [1]


def test_what_a_killed_filter_left_half_done_is_made_again(phantom, tmp_path, monkeypatch):
    (tmp_path / "shared").mkdir()
    series = DicomSeries(tuple(phantom()), "0003_t1", shared=tmp_path / "shared")
    convert = volume.convert

    def killed(found, folder):
        convert(found, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(volume, "convert", killed)
        with pytest.raises(KeyboardInterrupt):
            shared.conversion_of(series, tmp_path)
    assert len(shared.conversion_of(series, tmp_path).images) == 1
