"""MINC2: read by minc-tools and nibabel, every voxel where the DICOM says, with its value."""

import shutil
import subprocess

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import PositronEmissionTomographyImageStorage

from tardis_imagetrove.filters.minc import MincFilter
from tardis_imagetrove.filters.nifti import NiftiFilter
from tardis_imagetrove.imaging.minc2 import Minc2Header, axes_of, write_minc2
from tardis_imagetrove.phantom import AXIAL, tilted

from .conftest import ORIENTATIONS
from .test_nifti import eight_bits, signed_with_slope, sixteen_bits, thirty_two_bits, timed
from .truth import edit, repeated, worst

TOLERANCE_MM = 1e-4


def tool(name, *arguments):
    """The output of a program of minc-tools; the test is skipped without it."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} of minc-tools is not installed")
    done = subprocess.run([name, *map(str, arguments)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def as_nifti(path):
    """nibabel's affine and real values of a MINC file, with axes in NIfTI's order (i, j, k, t).

    nibabel gives axes in the file's order, slowest first, time before them.
    """
    minc = nibabel.load(path)
    data = np.asarray(minc.dataobj, dtype=float).T
    affine = minc.affine[:, [2, 1, 0, 3]] if data.ndim == 3 else None
    return affine, data


@pytest.mark.parametrize("reverse", [False, True], ids=["upward", "downward"])
@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_every_voxel_lies_where_the_headers_say_with_its_value(phantom, run, orientation, reverse):
    files = phantom(orientation=orientation, reverse=reverse)
    result, out = run(MincFilter, files)
    assert [path.name for path in out.iterdir()] == ["0003_t1.mnc"]
    affine, voxels = as_nifti(out / "0003_t1.mnc")
    distance, difference = worst(files, affine, voxels)
    assert distance < TOLERANCE_MM
    assert difference == 0
    assert result.warnings == ()


@pytest.mark.peer
@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_voxeltoworld_agrees_with_the_nifti(phantom, run, orientation):
    files = phantom(orientation=orientation)
    _, minc = run(MincFilter, files)
    _, nifti = run(NiftiFilter, files)
    affine = nibabel.load(nifti / "0003_t1.nii.gz").affine
    for i, j, k in ((0, 0, 0), (17, 0, 0), (0, 21, 0), (17, 21, 6), (5, 9, 3)):
        said = tool("voxeltoworld", minc / "0003_t1.mnc", k, j, i)
        assert np.abs(np.array(said.split(), float) - (affine @ [i, j, k, 1])[:3]).max() < TOLERANCE_MM


@pytest.mark.peer
@pytest.mark.parametrize("change", [signed_with_slope, eight_bits, sixteen_bits, thirty_two_bits])
def test_mincstats_finds_the_dicoms_values(phantom, run, change):
    files = phantom()
    for path in files:
        edit(path, change)
    _, out = run(MincFilter, files)
    affine, voxels = as_nifti(out / "0003_t1.mnc")
    # Unlike NIfTI's float32 slope, MINC's range is float64.
    assert worst(files, affine, voxels)[1] <= 1e-12 * np.abs(voxels).max()
    said = tool("mincstats", "-quiet", "-min", "-max", "-sum", out / "0003_t1.mnc").split()
    assert np.array(said, float) == pytest.approx([voxels.min(), voxels.max(), voxels.sum()], rel=1e-9)


@pytest.mark.peer
def test_a_time_series_has_a_time_axis_in_seconds(phantom, run):
    files = repeated(phantom(), 4, timed)
    _, out = run(MincFilter, files)
    _, voxels = as_nifti(out / "0003_t1.mnc")
    _, nifti = run(NiftiFilter, files)
    assert np.array_equal(voxels, nibabel.load(nifti / "0003_t1.nii.gz").get_fdata())
    path = out / "0003_t1.mnc"
    assert tool("mincinfo", "-vardims", "image", path).split() == ["time", "zspace", "yspace", "xspace"]
    assert tool("mincinfo", "-attvalue", "time:step", path).split() == ["3"]
    assert tool("mincinfo", "-attvalue", "time:units", path).split() == ["s"]


@pytest.mark.peer
def test_one_slice_keeps_its_three_dimensions(phantom, run):
    files = phantom(slices=1)
    _, out = run(MincFilter, files)
    affine, voxels = as_nifti(out / "0003_t1.mnc")
    assert voxels.shape == (18, 22, 1)
    assert worst(files, affine, voxels) == pytest.approx((0, 0), abs=TOLERANCE_MM)
    assert tool("mincinfo", "-dimlength", "zspace", out / "0003_t1.mnc").strip() == "1"


@pytest.mark.peer
def test_colours_have_a_vector_dimension(phantom, run):
    def coloured(dataset):
        grey = np.frombuffer(dataset.PixelData, "<u2")
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
        dataset.PlanarConfiguration = 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = np.stack([grey // 16, grey % 256, grey % 7], axis=-1).astype("u1").tobytes()

    files = phantom(orientation=AXIAL)
    for path in files:
        edit(path, coloured)
    _, out = run(MincFilter, files)
    path = out / "0003_t1.mnc"
    assert tool("mincinfo", "-vardims", "image", path).split() == [
        "zspace",
        "yspace",
        "xspace",
        "vector_dimension",
    ]
    raw = subprocess.run(["minctoraw", "-byte", "-nonormalize", path], capture_output=True, check=True).stdout
    voxels = np.frombuffer(raw, "u1").reshape(7, 22, 18, 3)
    _, nifti = run(NiftiFilter, files)
    rgb = np.asarray(nibabel.load(nifti / "0003_t1.nii.gz").dataobj)
    assert np.array_equal(voxels, np.stack([rgb[part].T for part in "RGB"], axis=-1))
    assert voxels[..., 1].max() > 200


def test_scanner_made_data_of_philips_and_siemens(philips, siemens, run):
    _, out = run(MincFilter, philips)
    _, nifti = run(NiftiFilter, philips)
    affine, voxels = as_nifti(out / "0003_t1.mnc")
    assert voxels.shape == (256, 256, 176)
    assert np.abs(affine - nibabel.load(nifti / "0003_t1.nii.gz").affine).max() < 1e-5
    _, out = run(MincFilter, siemens)
    with h5py.File(out / "0003_t1.mnc") as file:
        acquisition = file["minc-2.0/info/acquisition"].attrs
        assert acquisition["bvalues"].tolist() == [0, 1000]
        assert acquisition["direction_x"].shape == (2,)
        assert acquisition["repetition_time"] == pytest.approx(6.6)


@pytest.mark.peer
def test_history_and_acquisition_tell_how_it_was_made(phantom, run):
    _, out = run(MincFilter, phantom())
    path = out / "0003_t1.mnc"
    assert ">>> tardis_imagetrove" in tool("mincinfo", "-attvalue", ":history", path)
    assert "7 DICOM instances" in tool("mincinfo", "-attvalue", ":history", path)
    assert float(tool("mincinfo", "-attvalue", "acquisition:echo_time", path)) == 0.0092
    assert tool("mincinfo", "-attvalue", "study:modality", path).strip() == "MRI__"
    assert tool("mincinfo", "-attvalue", "patient:position", path).strip() == "HFS"


def test_no_identifying_value_reaches_the_file(phantom, run):
    _, out = run(MincFilter, phantom(patient_name="Quetzal^Xiomara", patient_id="QX-998877"))
    content = (out / "0003_t1.mnc").read_bytes()
    for secret in (b"Quetzal", b"Xiomara", b"QX-998877", b"19700101", b"Operator"):
        assert secret not in content


def test_the_times_of_uneven_frames_are_told_beside_the_axis(phantom, run):
    starts, lengths = (0, 10, 30), (10, 20, 60)

    def frame(dataset, repeat):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
            PositronEmissionTomographyImageStorage
        )
        dataset.Modality, dataset.Units, dataset.DecayCorrection = "PT", "BQML", "START"
        del dataset.RepetitionTime
        dataset.AcquisitionNumber = repeat + 1
        dataset.AcquisitionTime = f"1015{starts[repeat]:02d}"
        dataset.ActualFrameDuration = str(1000 * lengths[repeat])
        dataset.FrameReferenceTime = str(1000 * starts[repeat] + 500 * lengths[repeat])

    files = repeated(phantom(overrides={"Manufacturer": "SIEMENS"}), 3, frame)
    result, out = run(MincFilter, files)
    with h5py.File(out / "0003_t1.mnc") as file:
        assert file["minc-2.0/info/acquisition"].attrs["frame_times"].tolist() == list(starts)
    assert any("the time between its volumes is not known" in words for words in result.warnings)


# The writer alone


@st.composite
def affines(draw, shear=0.0):
    turned = np.array(tilted(AXIAL, draw(st.tuples(*[st.floats(-180, 180)] * 3))))
    row, column = turned[:3], turned[3:]
    axes = np.stack([row, column, np.cross(row, column)], axis=1)
    axes = axes[:, draw(st.permutations(range(3)))] * draw(st.tuples(*[st.sampled_from([1, -1])] * 3))
    if shear:
        axes[:, 2] += draw(st.floats(-shear, shear)) * axes[:, 1]
    affine = np.eye(4)
    affine[:3, :3] = axes * draw(st.tuples(*[st.floats(0.1, 20)] * 3))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-1000, 1000)] * 3))
    return affine


@settings(max_examples=60, deadline=None)
@given(affine=affines(shear=0.6))
def test_any_affine_comes_back_through_nibabel(tmp_path_factory, affine):
    path = tmp_path_factory.mktemp("wild") / "any.mnc"
    data = np.arange(4 * 3 * 2, dtype="i2").reshape(4, 3, 2)
    write_minc2(path, data, affine)
    read, voxels = as_nifti(path)
    assert np.abs(read - affine).max() < 1e-9
    assert np.array_equal(voxels, data)


@settings(max_examples=200)
@given(affine=affines())
def test_axes_have_names_of_their_own_and_point_forwards(affine):
    axes = axes_of(affine)
    assert {axis.name for axis in axes} == {"xspace", "yspace", "zspace"}
    for axis in axes:
        own = axis.cosines["xyz".index(axis.name[0])]
        assert own >= 0
        assert np.linalg.norm(axis.cosines) == pytest.approx(1)


@pytest.mark.peer
@settings(max_examples=10, deadline=None)
@given(affine=affines(shear=0.4))
def test_voxeltoworld_agrees_for_any_affine(tmp_path_factory, affine):
    path = tmp_path_factory.mktemp("wild") / "any.mnc"
    write_minc2(path, np.zeros((4, 3, 2), "u1"), affine)
    said = np.array(tool("voxeltoworld", path, 1, 2, 3).split(), float)
    assert np.abs(said - (affine @ [3, 2, 1, 1])[:3]).max() < 1e-6


EDGES = {
    "int8": np.array([-128, 0, 127], "i1"),
    "uint8": np.array([0, 7, 255], "u1"),
    "int16": np.array([-32768, -1, 32767], "i2"),
    "uint16": np.array([0, 3, 65535], "u2"),
    "int32": np.array([-(2**31), 5, 2**31 - 1], "i4"),
    "uint32": np.array([0, 5, 2**32 - 1], "u4"),
    "float32": np.array([-1.5e30, 0.1, 3.25], "f4"),
    "float64": np.array([-1e-300, 0.1, 1 / 3], "f8"),
    "big-endian": np.array([-32768, 258, 32767], ">i2"),
    "constant": np.array([41, 41, 41], "u1"),
    "all at the top": np.array([255, 255, 255], "u1"),
    "zero": np.zeros(3, "i2"),
}


@pytest.mark.peer
@pytest.mark.parametrize("values", EDGES.values(), ids=EDGES.keys())
def test_every_type_is_exact_to_its_edges(tmp_path, values):
    path = tmp_path / "edges.mnc"
    data = np.resize(values, (3, 4, 5))
    write_minc2(path, data, np.diag([1.0, 2, 3, 1]))
    read = np.asarray(nibabel.load(path).dataobj).T
    assert np.array_equal(read, data)
    said = np.array(tool("mincstats", "-quiet", "-min", "-max", path).split(), float)
    assert said == pytest.approx([float(data.min()), float(data.max())], rel=1e-6)


@pytest.mark.parametrize("kind", ["f4", "i2"])
def test_a_slope_and_intercept_give_real_values(tmp_path, kind):
    data = np.arange(60).reshape(3, 4, 5).astype(kind)
    write_minc2(tmp_path / "scaled.mnc", data, np.eye(4), slope=0.3137, intercept=-12.25)
    read = np.asarray(nibabel.load(tmp_path / "scaled.mnc").dataobj).T
    assert np.abs(read - (data.astype(float) * 0.3137 - 12.25)).max() < 1e-12


def test_not_a_number_stays_and_does_not_spoil_the_range(tmp_path):
    data = np.array([1.0, np.nan, 3.0, 2.0]).reshape(2, 2, 1)
    write_minc2(tmp_path / "nan.mnc", data, np.eye(4))
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "nan.mnc").dataobj).T, data, equal_nan=True)
    with h5py.File(tmp_path / "nan.mnc") as file:
        assert file["minc-2.0/image/0/image"].attrs["valid_range"].tolist() == [1, 3]


def test_time_and_text_that_is_not_ascii(tmp_path):
    path = tmp_path / "time.mnc"
    header = Minc2Header(history="Zürich\n", time_start=1.5, time_step=2.5)
    write_minc2(path, np.zeros((2, 3, 4, 5), "u1"), np.eye(4), header=header)
    with h5py.File(path) as file:
        assert file["minc-2.0"].attrs["history"].decode() == "Zürich\n"
        time = file["minc-2.0/dimensions/time"].attrs
        assert (time["start"], time["step"], time["length"]) == (1.5, 2.5, 5)


@pytest.mark.parametrize(
    ("data", "affine", "words"),
    [
        (np.zeros((2, 2, 2), "c8"), np.eye(4), "does not support voxels of type complex64"),
        (np.zeros((2, 2, 2), "i8"), np.eye(4), "does not support voxels of type int64"),
        (np.zeros((2, 2, 2), "u1"), np.diag([1.0, 1, 0, 1]), "describes no volume"),
        (np.zeros((2, 2), "u1"), np.eye(4), "3 or 4 dimensions, this one has 2"),
    ],
)
def test_what_minc_cannot_hold_is_an_error_with_its_reason(tmp_path, data, affine, words):
    with pytest.raises(ValueError, match=words):
        write_minc2(tmp_path / "no.mnc", data, affine)
