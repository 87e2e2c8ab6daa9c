"""The audit finds whatever is not as it was acknowledged and archived, and says nothing when all is well."""

from __future__ import annotations

import io
import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from tardis_imagetrove.conversion.run import run_filter
from tardis_imagetrove.errors import RetriableError
from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Archive, Audit, AuditFinding, FilterOutput, Series
from tardis_imagetrove.mytardis import mytardis
from tardis_imagetrove.operations import audit, status

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
    def found(deep: bool, **scope) -> list[str]:
        about = Audit.objects.create(deep=deep, **scope)
        return [finding.code for finding in audit.run(about, spool, scratch)]

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
    # What was converted from it stays behind.
    assert set(codes(False)) == {"no-archive", "unknown-output"}


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


def test_an_orphan_in_the_storage_box_is_found(series, codes, tmp_path):
    path = stored(tmp_path, ".nii.gz").with_name("left.nii.gz")
    path.write_bytes(b"left by a killed worker")
    assert codes(False) == []  # it may be about to be registered
    os.utime(path, (1, 1))
    assert codes(False, since=timezone.now() - timedelta(days=1)) == []  # no audit of everything
    assert codes(False) == ["orphan"]
    assert AuditFinding.objects.get().subject.endswith("/left.nii.gz")
    assert path.exists()


def test_an_output_that_no_run_knows_is_found(series, codes):
    output = FilterOutput.objects.filter(run__filter="nifti").first()
    output.delete()
    assert codes(False) == ["unknown-output"]


def test_a_finding_is_kept_until_an_audit_that_can_tell_no_longer_finds_it(series, codes, tmp_path):
    path = stored(tmp_path, "_dicom.zip")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    codes(True)
    finding = AuditFinding.objects.get()
    codes(True)
    again = AuditFinding.objects.get()
    assert (again.code, again.first_seen) == ("changed", finding.first_seen)
    assert again.last_seen > finding.last_seen
    assert [problem.code for problem in status.look(counting=False).problems].count("audit") == 1
    path.write_bytes(content)
    codes(False)  # it reads no bytes
    assert audit.open_findings().exists()
    codes(True)
    assert AuditFinding.objects.get().gone
    assert "audit" not in [problem.code for problem in status.look(counting=False).problems]


def test_findings_of_an_archive_go_with_it(series, codes, tmp_path):
    stored(tmp_path, ".nii.gz").unlink()
    codes(False)
    series.archives.get().datafile.delete()
    codes(False)
    assert not audit.open_findings().filter(code="missing").exists()


def test_a_storage_box_that_is_away_ends_no_finding(series, codes, tmp_path, monkeypatch):
    stored(tmp_path, "_dicom.zip").unlink()
    codes(False)

    def away(*args):
        raise RetriableError("the box is away")

    monkeypatch.setattr(type(mytardis()), "is_kept", away)
    assert "unreachable" in codes(False)
    assert audit.open_findings().filter(code="missing").exists()


def test_a_sample_is_the_same_for_the_same_seed():
    chosen = [
        {pk for pk in range(1000) if audit._chosen(Audit(share=0.1, seed=seed), pk)} for seed in (7, 7, 8)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert 60 < len(chosen[0]) < 140


def test_an_audit_that_was_killed_is_resumed(series, spool, scratch, monkeypatch):
    first = series.archives.get()
    second = Archive.objects.create(
        series=Series.objects.create(series_uid="1.2.3", state=Series.State.DONE),
        version=1,
        datafile=FilterOutput.objects.first().datafile,
        sha512="",
        instance_count=0,
    )
    seen = []
    of_archive = audit._of_archive

    def die_at_the_second(archive, *args):
        seen.append(archive.pk)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return of_archive(archive, *args)

    monkeypatch.setattr(audit, "_of_archive", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert "2 archives" in run("--resume")
    assert seen == [first.pk, second.pk, second.pk]
    for wrong in (("--resume",), ("--resume", "--deep")):
        with pytest.raises(CommandError, match="was interrupted|leave out"):
            run(*wrong)


def test_reading_waits_to_keep_to_its_rate():
    waits = []
    pace = audit.Pace(1000, waits.append)
    for _ in range(3):
        pace(100_000)
    assert [round(wait, -1) for wait in waits] == [100, 200, 300]
    audit.Pace(0, waits.append)(10**12)
    assert len(waits) == 3


def test_the_board_leads_to_findings(series, codes, tmp_path, client, django_user_model):
    stored(tmp_path, ".nii.gz").unlink()
    codes(False)
    assert client.get("/apps/tardis-imagetrove/findings/").status_code == 302
    client.force_login(django_user_model.objects.create_user("somebody"))
    assert client.get("/apps/tardis-imagetrove/findings/").status_code == 403
    client.force_login(django_user_model.objects.create_user("operator", is_staff=True))
    assert "1 finding<" in client.get("/apps/tardis-imagetrove/").content.decode()
    page = client.get("/apps/tardis-imagetrove/findings/").content.decode()
    assert "is not in its storage box" in page and f"/series/{series.pk}/" in page


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
    assert finding["subject"] == series.series_uid and "Run the filter again" in finding["advice"]
    for wrong in (("--sample", "0"), ("--since", "yesterday"), ("--rate", "0")):
        with pytest.raises(CommandError, match="is no"):
            run(*wrong)
