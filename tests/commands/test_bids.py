"""``imagetrove_bids``: archived series of a project become a dataset in a folder."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from tardis.tardis_portal import models as portal

from tardis_imagetrove.conversion.run import run_filter
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Series

from ..conftest import configure, deliver, phantom, series_uid

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def archive(owner, box, spool, scratch, tmp_path):
    """Archive and convert a generated series of project 12345."""
    configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")

    def archive(description, filters=("nifti",), **overrides):
        folder = tmp_path / f"in-{Series.objects.count()}"
        overrides = {"ReferringPhysicianName": "12345", **overrides}
        paths = phantom(folder, slices=3, series_description=description, overrides=overrides)
        deliver(spool, *paths)
        for run in ingest_series(spool, series_uid(paths[0]), filters, scratch):
            run_filter(run, scratch, 60)
        return Series.objects.get(series_uid=series_uid(paths[0]))

    return archive


def bids(*arguments):
    out = StringIO()
    call_command("imagetrove_bids", *arguments, stdout=out)
    return out.getvalue()


def test_a_project_becomes_a_dataset_and_only_changes_are_written(archive, tmp_path):
    archive("t1_mprage", PatientID="P-7", PatientAge="034Y")
    archive("anat-scout", filters=())
    archive("localizer")
    out = tmp_path / "dataset"
    text = bids("--project", "12345", "--dry-run")
    assert "sub-P7/anat/sub-P7_T1w.nii.gz  0003_t1_mprage (T1w by 't1' in its name)" in text
    assert "left out: 0003_localizer: localizer" in text
    assert "left out: 0003_anat_scout: it was not converted to NIfTI" in text.replace("-", "_")
    bids("--project", "Project 12345", "--out", str(out))
    image = out / "sub-P7" / "anat" / "sub-P7_T1w.nii.gz"
    stored = portal.DataFile.objects.get(filename="0003_t1_mprage.nii.gz")
    assert image.read_bytes() == stored.file_object.read()
    sidecar = json.loads(image.with_name("sub-P7_T1w.json").read_text())
    assert sidecar["EchoTime"] == 0.0092 and "PatientID" not in sidecar
    assert (out / "participants.tsv").read_text().splitlines()[1] == "sub-P7\t34\tO"
    assert "2024-05-17T10:15:00" in (out / "sub-P7" / "sub-P7_scans.tsv").read_text()
    archive("t2_tse", PatientID="P-9")
    text = bids("--project", "12345", "--out", str(out))
    assert "written: sub-P9/anat/sub-P9_T2w.nii.gz" in text and "written: sub-P7/anat/sub-P7_T1w" not in text


def test_what_cannot_be_used_is_named_with_the_reason(archive, tmp_path):
    series = archive("t1_mprage")
    archive("t2_tse", PatientID="P-8")
    portal.DataFileObject.objects.filter(datafile__filename="0003_t1_mprage.nii.gz").update(verified=False)
    text = bids("--project", "12345", "--dry-run")
    assert "left out: 0003_t1_mprage: 0003_t1_mprage.nii.gz is not verified by MyTARDIS" in text
    assert "sub-P8/anat/sub-P8_T2w" in text
    with pytest.raises(CommandError, match="no series has a name"):
        bids(
            "--experiment",
            str(series.dataset_key.experiment_key.experiment_id),
            "--out",
            str(tmp_path / "out"),
        )
    assert not (tmp_path / "out").exists()


def test_wrong_names_are_refused(archive, tmp_path):
    for arguments, problem in (
        (("--project", "99999", "--dry-run"), "no series is archived of a project '99999'"),
        (("--experiment", "99999", "--dry-run"), "experiment 99999"),
        (("--project", "12345"), "--out"),
    ):
        with pytest.raises(CommandError, match=problem):
            bids(*arguments)
