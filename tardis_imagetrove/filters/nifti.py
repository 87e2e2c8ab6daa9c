"""NIfTI images of a series, with BIDS sidecars and diffusion gradients."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ..formats.base import DICOM, PARAVISION
from ..imaging import dcm2niix
from ..imaging.gz import gzip_file
from ..imaging.sidecar import load_sidecar, save_sidecar
from .base import DicomSeries, Filter, FilterResult, Makes, Shown, Takes
from .shared import conversion_of

IDENTIFYING_FIELDS = frozenset(
    {
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "PatientAge",
        "PatientWeight",
        "PatientSize",
        "AccessionNumber",
        "StudyID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "StudyDate",
        "SeriesDate",
        "AcquisitionDate",
        "AcquisitionDateTime",
        "ReferringPhysicianName",
        "PerformingPhysicianName",
        "OperatorsName",
        "InstitutionAddress",
        "PatientComments",
        "ImageComments",
    }
)
"""What dcm2niix may write about a person; with ``-ba y`` it leaves most out, we all of it."""

IMAGE = Makes("NIfTI", "application/gzip", shown_as=Shown.VOLUME, expected=True)
SIDECAR = Makes("Sidecar", "application/json", expected=True)
GRADIENTS = Makes("Gradients", "text/plain")


class NiftiFilter(Filter):
    """NIfTI by dcm2niix: one file an image, gzipped, with its sidecar and gradients."""

    name = "nifti"
    title = "NIfTI"
    version = "2"
    takes = Takes(pixels=True, formats=frozenset({DICOM, PARAVISION}))
    makes = (IMAGE, SIDECAR, GRADIENTS)

    def problems(self) -> list[str]:
        return dcm2niix.problems()

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        with tempfile.TemporaryDirectory(prefix="nifti-", dir=out) as scratch:
            conversion = conversion_of(series, Path(scratch))
            outputs = []
            for image in conversion.images:
                stem = "_".join(part for part in (series.name, image.label) if part)
                target = out / f"{stem}.nii.gz"
                gzip_file(image.path, target)
                outputs.append(IMAGE.output(target))
                if image.sidecar:
                    sidecar = out / f"{stem}.json"
                    write_sidecar(image.sidecar, sidecar)
                    outputs.append(SIDECAR.output(sidecar))
                for gradient in (image.bval, image.bvec):
                    if gradient:
                        target = out / f"{stem}{gradient.suffix}"
                        shutil.copyfile(gradient, target)
                        outputs.append(GRADIENTS.output(target))
        return FilterResult(
            outputs=tuple(outputs),
            warnings=conversion.warnings,
            notes=conversion.notes,
            converter=conversion.converter,
            skipped=conversion.skipped,
        )


def write_sidecar(source: Path, target: Path) -> None:
    """Copy a BIDS sidecar without the fields that identify a person."""
    fields = load_sidecar(source)
    save_sidecar(target, {name: value for name, value in fields.items() if name not in IDENTIFYING_FIELDS})
