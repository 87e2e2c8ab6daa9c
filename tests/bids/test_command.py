"""``imagetrove_bids``: archived series of a project become a dataset in a folder."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from pydicom import Dataset
from pydicom.uid import PositronEmissionTomographyImageStorage
from tardis.tardis_portal import models as portal

from tardis_imagetrove.models import InstrumentConfiguration

from ..conftest import configure
from ..filters.test_meaning import weighted
from .conftest import echoes
from .test_validator import validate

pytestmark = pytest.mark.django_db(transaction=True)


def bids(*arguments):
    out = StringIO()
    call_command("imagetrove_bids", *arguments, stdout=out)
    return out.getvalue()


def test_a_project_becomes_a_dataset_and_only_changes_are_written(archive, tmp_path):
    archive("t1_mprage", PatientID="P-7", PatientAge="034Y")
    archive("anat-scout", filters=())
    archive("localizer")
    InstrumentConfiguration.objects.update(bids_rules="ProtocolName = t2_tse => anat/T2w acq-tse")
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
    assert "written: sub-P9/anat/sub-P9_acq-tse_T2w.nii.gz" in text
    assert "written: sub-P7/anat/sub-P7_T1w" not in text


def test_what_cannot_be_used_is_named_with_the_reason(archive, tmp_path):
    series = archive("t1_mprage")
    archive("t2_tse", PatientID="P-8")
    portal.DataFileObject.objects.filter(datafile__filename="0003_t1_mprage.nii.gz").update(verified=False)
    # Of several copies MyTARDIS prefers one.
    copy = portal.DataFileObject.objects.get(datafile__filename="0003_t2_tse.json")
    (tmp_path / "second").symlink_to(tmp_path / "store")
    copy.pk, copy.storage_box = None, portal.StorageBox.create_local_box(str(tmp_path / "second"))
    portal.DataFileObject.objects.bulk_create([copy])
    text = bids("--project", "12345", "--dry-run")
    assert "left out: 0003_t1_mprage: 0003_t1_mprage.nii.gz is not verified by MyTARDIS" in text
    assert "sub-P8/anat/sub-P8_T2w" in text
    experiment = str(series.dataset_key.experiment_key.experiment_id)
    with pytest.raises(CommandError, match="no series has a name"):
        bids("--experiment", experiment, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_wrong_names_are_refused(archive, tmp_path):
    for arguments, problem in (
        (("--project", "99999", "--dry-run"), "project '99999' has no archived series"),
        (("--experiment", "99999", "--dry-run"), "experiment 99999"),
        (("--project", "12345"), "--out"),
    ):
        with pytest.raises(CommandError, match=problem):
            bids(*arguments)


RULES = r"""
SeriesDescription ~ ^topup_(?P<dir>AP|PA) & ProtocolName ~ _AP => fmap/epi dir-{dir} PhaseEncodingDirection="j-" TotalReadoutTime=0.05
SeriesDescription ~ ^topup_(?P<dir>AP|PA) => fmap/epi dir-{dir} PhaseEncodingDirection="j" TotalReadoutTime=0.05
Modality = PT => pet/pet ModeOfAdministration="bolus" AcquisitionMode="list mode"
SeriesDescription ~ pcasl => perf/asl ArterialSpinLabelingType="PCASL" PostLabelingDelay=1.8 LabelingDuration=1.8 BackgroundSuppression=true BackgroundSuppressionNumberPulses=2 BackgroundSuppressionPulseTime=[0.2, 0.5] M0Type="Absent" MRAcquisitionType="3D" RepetitionTimePreparation=4.2 aslcontext=["control", "label"]
"""


def dynamic_pet(dataset, repeat):
    item, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C-111A1", "SRT", "^18^Fluorine"
    item.Radiopharmaceutical, item.RadiopharmaceuticalStartTime = "FDG", "100500"
    item.RadionuclideTotalDose, item.RadionuclideHalfLife = "200000000", "6586.2"
    item.RadionuclideCodeSequence = [code]
    dataset.RadiopharmaceuticalInformationSequence = [item]
    dataset.Modality, dataset.Manufacturer, dataset.Units = "PT", "SIEMENS", "BQML"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
    dataset.ActualFrameDuration, dataset.FrameReferenceTime = "60000", str(30000 + 60000 * repeat)
    dataset.AcquisitionTime, dataset.DecayFactor = f"10{15 + repeat}00", "1.1"
    dataset.DecayCorrection, dataset.AttenuationCorrectionMethod = "START", "measured"
    dataset.ReconstructionMethod, dataset.ConvolutionKernel = "OSEM3D 3i21s", "GAUSSIAN5.0"
    dataset.SeriesType, dataset.NumberOfTimeSlices, dataset.NumberOfSlices = ["DYNAMIC", "IMAGE"], 2, 3


@pytest.mark.peer
def test_the_validator_finds_no_error_in_a_project_of_all_kinds(archive, owner, box, tmp_path):
    """Structural, functional with runs, diffusion, field maps, perfusion; sessions, odd names, de-identified."""
    InstrumentConfiguration.objects.update(bids_rules=RULES)
    project = {"project_field": "ReferringPhysicianName", "project_pattern": r"\d{5}", "storage_box": box}
    hidden = [["ManufacturerModelName", "Hidden"]]
    configure(owner, name="Hidden", instrument=hidden, deidentify=True, dataset_title=["Modality"], **project)

    def session(study, scans, **overrides):
        for number, (description, given) in enumerate(scans, 1):
            archive(description, study=study, number=number, **given, **overrides)

    image = {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"], "EchoTime": "7.38"}
    epi = {"volumes": 2}
    session(
        "1.2.3.1",
        (
            ("t1_mprage", {}),
            ("t1_mprage", {}),
            ("gre_field_mapping", {"volumes": 2, "change": echoes}),
            ("gre_field_mapping", image),
            ("topup_AP", epi),
            ("topup_PA", epi),
            ("func_task-rest_run-01", epi),
            ("func_task-rest_run-01", epi),
            ("Bold: go/no-go äöü", epi),
            ("DTI", {"volumes": 2, "change": weighted("TOSHIBA")}),
            ("pcasl", {"volumes": 2}),
        ),
        PatientID="AB-1/x",
    )
    session("1.2.3.2", (("anat-T2w", {}),), PatientID="AB-1/x", StudyDate="20240601")
    session(
        "1.2.3.2", (("FDG", {"volumes": 2, "change": dynamic_pet}),), PatientID="AB-1/x", StudyDate="20240601"
    )
    session("1.2.3.3", (("t2_flair_李", {}), ("fMRI", epi)), PatientID="AB1x", PatientAge="102Y")
    session("1.2.3.4", (("t1", {}), ("bold", epi)), PatientID="AB-2", ManufacturerModelName="Hidden")
    out = tmp_path / "dataset"
    text = bids("--project", "12345", "--out", str(out))
    assert validate(out)["errors"] == [], text
    for words in (
        "_run-01_T1w",
        "_run-02_T1w",
        "_magnitude2",
        "_phasediff",
        "_dir-AP_epi",
        "_task-rest_run-01_bold",
        "_task-gonogoaou_bold",
        "_dwi",
        "_asl",
        "_ses-02_T2w",
        "_ses-02_pet",
        "_FLAIR",
        "left out: 0007_func_task_rest_run_01: cancelled",
    ):
        assert words in text, (words, text)
    people = {row.split("\t")[0] for row in (out / "participants.tsv").read_text().splitlines()[1:]}
    assert len(people) == 3 and len([one for one in people if one.startswith("sub-AB1xx")]) == 2
    (pseudonym,) = (one for one in people if not one.startswith("sub-AB1"))
    assert "AB2" not in text
    (bold,) = (out / pseudonym).rglob("*_bold.json")
    assert json.loads(bold.read_text())["DeidentificationMethodCodeSequence"][0]["CodeValue"] == "113100"
    (phase,) = out.rglob("*_phasediff.json")
    told = json.loads(phase.read_text())
    assert (told["EchoTime1"], told["EchoTime2"]) == pytest.approx((0.00492, 0.00738))
    (reverse,) = out.rglob("*_dir-PA_epi.json")
    assert len(json.loads(reverse.read_text())["IntendedFor"]) == 4
