"""Series for the filters' tests: small generated ones, and the scanner-made ones that packages carry."""

import gzip
from pathlib import Path

import nibabel
import pytest

from tardis_imagetrove.filters.base import DicomSeries
from tardis_imagetrove.phantom import AXIAL, CORONAL, OBLIQUE, SAGITTAL, oblique_mr_series, tilted

NIBABEL = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"

ORIENTATIONS = {
    "axial": AXIAL,
    "coronal": CORONAL,
    "sagittal": SAGITTAL,
    "oblique": OBLIQUE,
    "oblique sagittal": tilted(SAGITTAL, (12, -17, 25)),
    "feet first": tuple(-value for value in AXIAL[:3]) + AXIAL[3:],
}


@pytest.fixture
def phantom(tmp_path):
    """Makes a small generated series: no two of its edges have the same length."""

    def make(**options):
        sizes = {
            "slices": 7,
            "rows": 22,
            "columns": 18,
            "pixel_spacing": (5.5, 4.25),
            "slice_spacing": 9.0,
        }
        return oblique_mr_series(tmp_path / "dicom", **{**sizes, **options})

    return make


@pytest.fixture
def run(tmp_path):
    """Runs a filter on files and gives its result and the folder of its outputs."""

    def convert(kind, files, name="0003_t1"):
        out = tmp_path / f"out-{kind.name}-{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        result = kind().run(DicomSeries(tuple(files), name), out)
        kept = {path.name for path in out.iterdir()}
        assert kept == {output.path.name for output in result.outputs}, "the folder holds the outputs only"
        return result, out

    return convert


@pytest.fixture
def philips(tmp_path):
    """Philips Achieva, enhanced MR, 176 frames of an MPRAGE."""
    path = tmp_path / "philips.dcm"
    path.write_bytes(gzip.decompress((NIBABEL / "philips_mprage.dcm.gz").read_bytes()))
    return [path]


@pytest.fixture
def siemens(tmp_path):
    """Siemens Trio, diffusion, two mosaics of 48 slices, b = 0 and 1000."""
    paths = []
    for b in (0, 1000):
        path = tmp_path / f"siemens_{b}.dcm"
        path.write_bytes(gzip.decompress((NIBABEL / f"siemens_dwi_{b}.dcm.gz").read_bytes()))
        paths.append(path)
    return paths
