"""Everything of a participant is found, wherever it lies, and nothing of anybody else."""

from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command

from tardis_imagetrove.conversion.run import run_filter
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Archive, FilterOutput, Original, Series
from tardis_imagetrove.operations.participant import find

from ..conftest import configure, deliver, phantom, series_uid

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("deidentify", [False, True])
def test_archived_files_are_found_also_where_a_pseudonym_is_kept(
    deidentify, box, owner, spool, scratch, tmp_path
):
    more = {"deidentify": True, "keep_originals": True} if deidentify else {}
    configure(owner, storage_box=box, dataset_title=["Modality"], **more)
    paths = phantom(tmp_path / "in", slices=2, patient_id="P1")
    deliver(spool, *paths)
    for run in ingest_series(spool, series_uid(paths[0]), ("metadata",), scratch):
        run_filter(run, scratch, 60)
    (kept,) = find("P1", spool)
    assert kept.series == Series.objects.get()
    expected = {
        *Archive.objects.values_list("datafile", flat=True),
        *FilterOutput.objects.values_list("datafile", flat=True),
        *Original.objects.values_list("datafile", flat=True),
        *Original.objects.values_list("report", flat=True),
    }
    assert {pk for ids in kept.datafiles.values() for pk in ids} == expected - {None}
    assert ("originals" in kept.datafiles) == deidentify
    assert not list(find("P", spool)) and not list(find("p1", spool))


def test_files_in_spool_and_trash_are_found_one_by_one(spool, tmp_path, settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": str(spool.root)}
    mine = phantom(tmp_path / "a", slices=2, patient_id="P1")
    deliver(spool, *mine)
    deliver(spool, *phantom(tmp_path / "b", slices=2, patient_id="P2"))
    uid = series_uid(mine[0])
    spool.move_to_trash(uid)
    deliver(spool, mine[0])
    (broken,) = (spool.files(uid)[0].with_name("1.2.3.dcm"),)
    broken.write_bytes(b"no DICOM")
    (kept,) = [one for one in find("P1", spool) if one.waiting]
    assert kept.series_uid == uid and len(kept.waiting) == 3
    assert len(kept.unread) == 1 and kept.datafiles == {}
    out = io.StringIO()
    call_command("imagetrove_participant", "P1", stdout=out, skip_checks=True)
    assert f"file {spool.trash(uid)[0].path}/" in out.getvalue() and "look yourself" in out.getvalue()
    broken.unlink()
    with pytest.raises(CommandError, match="nothing is kept of PatientID 'P3'"):
        call_command("imagetrove_participant", "P3", stdout=out, skip_checks=True)
