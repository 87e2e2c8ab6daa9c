"""Datasets that the official BIDS validator (npm's bids-validator) looks at."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tardis_imagetrove.bids.dataset import plan
from tardis_imagetrove.bids.mapping import MappingTable, parse
from tardis_imagetrove.bids.scan import FIELDS, Image, Scan
from tardis_imagetrove.filters.base import DicomSeries
from tardis_imagetrove.filters.nifti import NiftiFilter
from tardis_imagetrove.formats.dicom.files import fields_in
from tardis_imagetrove.imaging.image import shape_and_step

from ..filters.conftest import NIBABEL

FOLDER = Path(__file__).parent / "peer"

pytestmark = pytest.mark.peer


def validate(folder: Path) -> dict[str, list[dict]]:
    """The errors and warnings of the validator."""
    program = FOLDER / "node_modules" / "bids-validator" / "bin" / "bids-validator"
    if not shutil.which("node") or not program.exists():
        pytest.skip("bids-validator is not installed: npm ci --prefix tests/bids/peer")
    done = subprocess.run(["node", program, "--json", folder], capture_output=True, text=True, timeout=120)
    return json.loads(done.stdout)["issues"]


def write(project, made, folder: Path) -> None:
    for file in made.files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(project.bytes(file))


RULES = r"""
# What this site's protocols are called
ProtocolName ~ ^wurst_(?P<what>\w+) => func/bold task-{what} acq-odd
SequenceName ~ pcasl => perf/asl MRAcquisitionType="3D" ArterialSpinLabelingType="PCASL" PostLabelingDelay=1.8 LabelingDuration=1.8 BackgroundSuppression=false M0Type="Absent" RepetitionTimePreparation=4.2 aslcontext=["control", "label"]
SeriesDescription ~ ^QA => leave out: quality assurance
"""


def everything(project):
    """Several people and sessions, with all kinds of scans that scanners send."""
    table = MappingTable(rules=parse(RULES))
    image, add = project.image, project.add
    epi = {"RepetitionTime": 2.0, "EchoTime": 0.03, "TotalReadoutTime": 0.05, "EffectiveEchoSpacing": 0.0005}
    for person, study in (("P-1", "1"), ("P-1", "2"), ("P 2 Ä", "3"), ("李", "4"), ("P1", "5")):
        who = {"person": person, "study": study, "mapping": table}
        planar = {**who, "ScanningSequence": "EP"}
        add("localizer", image(), image(), image(), **who)
        add("t1_mprage_sag", image(RepetitionTime=2.3, EchoTime=0.003, InversionTime=0.9, FlipAngle=8), **who)
        add("t2_flair", image(EchoTime=0.09, RepetitionTime=9.0), **who)
        add("t2_tse", image(EchoTime=0.09, RepetitionTime=5.0), **who)
        add(
            "gre_field_mapping",
            image(EchoTime=0.00492, label="e1"),
            image(EchoTime=0.00738, label="e2"),
            **who,
        )
        add(
            "gre_field_mapping",
            image(EchoTime=0.00738, label="e2_ph", ImageType=["ORIGINAL", "PRIMARY", "P", "ND"]),
            **who,
        )
        add("SpinEchoFieldMap_AP", image(3, PhaseEncodingDirection="j-", **epi), **planar)
        add("SpinEchoFieldMap_PA", image(3, PhaseEncodingDirection="j", **epi), **planar)
        add("ep2d_bold_rest_SBRef", image(PhaseEncodingDirection="j-", **epi), **planar)
        add(
            "ep2d_bold_rest",
            image(5, PhaseEncodingDirection="j-", SliceTiming=[0, 1.0, 0.5], **epi),
            **planar,
        )
        add(
            "ep2d_bold_rest",
            image(5, step=1.5, PhaseEncodingDirection="j-", SliceTiming=[0, 1.9, 0.5], **epi),
            **planar,
        )
        add(
            "me_bold_task-nback",
            *(image(4, EchoTime=t, RepetitionTime=2.0, label=f"e{i}") for i, t in ((1, 0.012), (2, 0.03))),
            **planar,
        )
        add("wurst_käse", image(4, **epi), **planar)
        add(
            "ep2d_diff_AP",
            image(4, gradients=[0, 1000, 1000, 1000], PhaseEncodingDirection="j-", **epi),
            **planar,
        )
        add("ep2d_diff_ADC", image(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]), **planar)
        add(
            "perfusion",
            image(6, EchoTime=0.012, RepetitionTime=4.2, FlipAngle=90, MagneticFieldStrength=3),
            SequenceName="tgse_pcasl",
            **who,
        )
        add(
            "qt2star_gre",
            *(image(EchoTime=t, label=f"e{i}") for i, t in ((1, 0.004), (2, 0.009), (3, 0.014))),
            ScanningSequence="GR",
            **who,
        )
        add("QA_phantom", **who)
        add("CT_head", Modality="CT", **{k: v for k, v in who.items()})
    return plan(project.scans, "Project 12345", "0.2.0")


def test_a_project_of_all_kinds_of_scans_has_no_error(project, tmp_path):
    made = everything(project)
    write(project, made, tmp_path / "out")
    for name in ("manifest.json", "SHA512SUMS"):  # of a download
        (tmp_path / "out" / name).write_text("{}")
    issues = validate(tmp_path / "out")
    assert issues["errors"] == []


def test_scans_of_real_scanners_have_no_error(project, tmp_path):
    """Siemens diffusion and a Philips multi-frame object, as the conversion makes sidecars of their headers."""
    for name, files in (
        ("dti_64", ("siemens_dwi_0", "siemens_dwi_1000")),
        ("mprage", ("philips_mprage",)),
    ):
        paths = []
        for file in files:
            paths.append(tmp_path / f"{file}.dcm")
            paths[-1].write_bytes(gzip.decompress((NIBABEL / f"{file}.dcm.gz").read_bytes()))
        out = tmp_path / name
        out.mkdir()
        NiftiFilter().run(DicomSeries(tuple(paths), name), out)
        parts = {path.name.removeprefix(name): path.read_bytes() for path in out.iterdir()}
        shape, step = shape_and_step(io.BytesIO(parts[".nii.gz"]))
        bval, bvec = (
            project.source(ending, parts[ending]) if ending in parts else None
            for ending in (".bval", ".bvec")
        )
        nifti = project.source(f"{name}.nii.gz", parts[".nii.gz"])
        image = Image(nifti, "", json.loads(parts[".json"]), bval, bvec, shape, step)
        fields = dict(fields_in(paths[0].read_bytes(), FIELDS, whole=True)) | {"PatientID": "1"}
        project.scans.append(Scan(len(project.scans) + 1, name, "1.2", fields, (image,)))
    made = plan(project.scans, "Scanners", "1")
    assert [one.name.suffix for one in made.named] == ["dwi", "T1w"], made.left_out
    write(project, made, tmp_path / "dataset")
    assert validate(tmp_path / "dataset")["errors"] == []
