"""A project of scans as MyTARDIS would keep them, with images that are as small as they can be; and archived ones."""

from __future__ import annotations

import gzip
import hashlib
import itertools

import nibabel
import numpy as np
import pytest

from tardis_imagetrove.bids.scan import Image, Scan, Source

from ..conftest import configure, deliver, phantom, series_uid
from ..filters.truth import repeated


class Project:
    """Scans, added one after another; ``bytes_of`` has the files."""

    def __init__(self):
        self.scans = []
        self.bytes_of = {}
        self.numbers = itertools.count(1)

    def source(self, filename, content):
        number = next(self.numbers)
        self.bytes_of[number] = content
        return Source(number, filename, len(content), hashlib.sha512(content).hexdigest())

    def image(self, volumes=1, step=2.0, label="", gradients=None, slices=3, **sidecar):
        shape = (4, 5, slices) if volumes == 1 else (4, 5, slices, volumes)
        nifti = nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 4000, shape, "<i2"), np.eye(4))
        nifti.header.set_xyzt_units("mm", "sec")
        if volumes > 1:
            nifti.header["pixdim"][4] = step
        content = gzip.compress(nifti.to_bytes(), compresslevel=0, mtime=0)
        bval = bvec = None
        if gradients is not None:
            bval = self.source("a.bval", (" ".join(map(str, gradients)) + "\n").encode())
            row = " ".join("1" if b else "0" for b in gradients) + "\n"
            zeros = " ".join("0" for _ in gradients) + "\n"
            bvec = self.source("a.bvec", (row + zeros + zeros).encode())
        return Image(
            self.source("a.nii.gz", content), label, sidecar, bval, bvec, shape, step if volumes > 1 else 0.0
        )

    def add(self, name, *images, person="P1", study="1", mapping=None, problem="", **fields):
        """A series; without images it has one volume and no sidecar."""
        number = len(self.scans) + 1
        fields = {
            "Modality": "MR",
            "PatientID": person,
            "StudyInstanceUID": f"1.2.{study}",
            "StudyDate": f"2024051{study}",
            "StudyTime": "101500",
            "SeriesNumber": str(number),
            "SeriesDescription": name,
            "ProtocolName": name,
            "AcquisitionDate": f"2024051{study}",
            "AcquisitionTime": f"10{number % 60:02d}00.5",
            "PatientSex": "F",
            "PatientAge": "034Y",
            **fields,
        }
        scan = Scan(
            number,
            f"{number:04d}_{name}",
            f"1.2.3.{number}",
            fields,
            images or (self.image(),),
            **({"mapping": mapping} if mapping else {}),
            problem=problem,
        )
        self.scans.append(scan)
        return scan

    def bytes(self, file):
        return self.bytes_of[file.source.id] if file.source else file.content


@pytest.fixture
def project():
    return Project()


@pytest.fixture
def archive(owner, box, spool, scratch, tmp_path):
    """Archive and convert a generated series of project 12345."""
    from tardis_imagetrove.conversion.run import run_filter
    from tardis_imagetrove.ingest.series import ingest_series
    from tardis_imagetrove.models import Series

    configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")

    def archive(description, filters=("nifti",), volumes=None, change=None, study="", number=3, **overrides):
        folder = tmp_path / f"in-{Series.objects.count()}"
        overrides = {"ReferringPhysicianName": "12345", **overrides}
        paths = phantom(
            folder,
            slices=3,
            series_description=description,
            study_uid=study,
            series_number=number,
            overrides=overrides,
        )
        if volumes:
            paths = repeated(paths, volumes, change or over_time)
        deliver(spool, *paths)
        for run in ingest_series(spool, series_uid(paths[0]), filters, scratch):
            run_filter(run, scratch, 60)
        return Series.objects.get(series_uid=series_uid(paths[0]))

    return archive


def over_time(dataset, repeat):
    dataset.ScanningSequence, dataset.RepetitionTime = "EP", "2000"
    dataset.AcquisitionNumber, dataset.AcquisitionTime = repeat + 1, f"1015{2 * repeat:02d}.000000"


def echoes(dataset, repeat):
    dataset.EchoNumbers, dataset.EchoTime = repeat + 1, str(4.92 + 2.46 * repeat)
