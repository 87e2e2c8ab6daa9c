"""The audit finds whatever is not as it was acknowledged and archived, and says nothing when all is well."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tardis_imagetrove.conversion.run import run_filter
from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Series
from tardis_imagetrove.operations.audit import Scope, audit

from ..conftest import configure, deliver, phantom, series_uid

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def make(box, owner, spool, scratch, tmp_path, settings):
    """Archives and converts a series."""
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": str(spool.root), "SCRATCH": str(scratch)}

    def made(**changes) -> Series:
        configure(owner, storage_box=box, **changes)
        paths = phantom(tmp_path / "in", slices=4)
        deliver(spool, *paths)
        for run in ingest_series(spool, series_uid(paths[0]), ("nifti", "metadata"), scratch):
            states.refresh(run_filter(run, scratch, 60))
        return Series.objects.get()

    return made


@pytest.fixture
def series(make) -> Series:
    return make()


@pytest.fixture
def codes(spool, scratch):
    def found(deep: bool) -> list[str]:
        return [finding.code for finding in audit(Scope(deep=deep), spool, scratch)]

    return found


def stored(tmp_path: Path, suffix: str) -> Path:
    (path,) = (tmp_path / "store").rglob(f"*{suffix}")
    return path


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("deidentify", [False, True])
def test_nothing_is_found_where_all_is_well(deep, deidentify, make, codes):
    make(deidentify=deidentify, dataset_title=["Modality"])
    assert codes(deep) == []


def test_a_flipped_bit_is_found_by_reading(series, codes, tmp_path):
    path = stored(tmp_path, "_dicom.zip")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert codes(False) == []
    assert codes(True) == ["changed"]


@pytest.mark.parametrize("suffix", ["_dicom.zip", ".nii.gz"])
@pytest.mark.parametrize("how", ["removed", "cut off"])
def test_a_file_that_is_missing_or_short_is_found(suffix, how, series, codes, tmp_path):
    path = stored(tmp_path, suffix)
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert codes(False) == ["missing"]


def test_an_archive_that_was_deleted_by_hand_is_found(series, codes):
    series.archives.get().datafile.delete()
    assert codes(False) == ["no-archive"]


def test_a_ledger_that_lacks_a_row_is_found(series, codes):
    series.instances.first().delete()
    assert codes(False) == ["ledger-short"]
    assert sorted(codes(True)) == ["ledger-short", "not-in-ledger"]


def test_a_ledger_that_names_what_the_archive_does_not_hold_is_found(series, codes):
    row = series.instances.first()
    series.instances.filter(pk=row.pk).update(member="0003/elsewhere.dcm")
    assert sorted(codes(True)) == ["not-in-archive", "not-in-ledger"]


def test_originals_are_looked_at_too(make, codes, tmp_path):
    make(deidentify=True, keep_originals=True, dataset_title=["Modality"])
    uid = Series.objects.get().series_uid
    (path,) = (tmp_path / "store").rglob(f"{uid}_dicom.zip")
    path.unlink()
    assert codes(False) == ["missing"]


def test_a_held_series_without_files_is_found(series, codes):
    Series.objects.create(series_uid="1.2.3", state=Series.State.HELD)
    assert codes(False) == ["no-files"]


def run(*arguments) -> str:
    out = io.StringIO()
    call_command("imagetrove_audit", *arguments, stdout=out, skip_checks=True)
    return out.getvalue()


def test_the_command_says_what_is_wrong_and_ends_with_an_error(series, tmp_path):
    assert "as it should be" in run("--deep", "--sample", "100%", "--since", "2020-01-01")
    assert run("--json").strip() == "[]"
    stored(tmp_path, ".nii.gz").unlink()
    assert "as it should be" in run("--since", "2999-01-01")
    out = io.StringIO()
    with pytest.raises(CommandError, match="1 finding"):
        call_command("imagetrove_audit", "--json", stdout=out, skip_checks=True)
    (finding,) = json.loads(out.getvalue())
    assert finding["series_uid"] == series.series_uid and "Run the filter again" in finding["advice"]
    for wrong in (("--sample", "0"), ("--since", "yesterday")):
        with pytest.raises(CommandError, match="is no"):
            run(*wrong)
