"""NIfTI: every voxel where the DICOM says, with its value, or words that say why not."""

import copy
import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, PositronEmissionTomographyImageStorage

from tardis_imagetrove.errors import PermanentError
from tardis_imagetrove.filters.base import DicomSeries
from tardis_imagetrove.filters.nifti import NiftiFilter
from tardis_imagetrove.imaging.gz import BLOCK_BYTES, gzip_file
from tardis_imagetrove.phantom import AXIAL, oblique_mr_series, tilted

from .conftest import ORIENTATIONS
from .truth import edit, pixel_to_ras, repeated, worst

TOLERANCE_MM = 1e-4


def image(result, kind="NIfTI", index=0):
    return nibabel.load([output.path for output in result.outputs if output.kind == kind][index])


@pytest.mark.parametrize("reverse", [False, True], ids=["upward", "downward"])
@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_every_voxel_lies_where_the_headers_say_with_its_value(phantom, run, orientation, reverse):
    files = phantom(orientation=orientation, reverse=reverse)
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    assert [output.path.name for output in result.outputs] == ["0003_t1.nii.gz", "0003_t1.json"]
    distance, difference = worst(files, nifti.affine, nifti.get_fdata())
    assert distance < TOLERANCE_MM
    assert difference == 0
    assert result.warnings == ()
    assert result.converter.startswith("dcm2niix v1.")


@settings(max_examples=12, deadline=None)
@given(
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    pixel_spacing=st.tuples(st.floats(0.3, 6), st.floats(0.3, 6)),
    slice_spacing=st.floats(0.5, 12),
    centre=st.tuples(*[st.floats(-400, 400)] * 3),
)
def test_any_orientation_spacing_and_position(
    tmp_path_factory, degrees, pixel_spacing, slice_spacing, centre
):
    folder = tmp_path_factory.mktemp("wild")
    files = oblique_mr_series(
        folder / "dicom",
        slices=4,
        rows=6,
        columns=5,
        pixel_spacing=pixel_spacing,
        slice_spacing=slice_spacing,
        centre=centre,
        orientation=tilted(AXIAL, degrees),
    )
    (folder / "out").mkdir()
    result = NiftiFilter().run(DicomSeries(tuple(files), "wild"), folder / "out")
    nifti = image(result)
    distance, difference = worst(files, nifti.affine, nifti.get_fdata())
    assert distance < TOLERANCE_MM
    assert difference == 0


def signed_with_slope(dataset):
    pixels = np.frombuffer(dataset.PixelData, "<u2").astype(int) - 2000
    dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
    dataset.PixelData = pixels.astype("<i2").tobytes()
    dataset.RescaleSlope, dataset.RescaleIntercept = "0.3137", "-12.25"


def eight_bits(dataset):
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") // 16).astype("u1").tobytes()


def sixteen_bits(dataset):
    dataset.BitsStored, dataset.HighBit = 16, 15
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") * 16).astype("<u2").tobytes()


def thirty_two_bits(dataset):
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 32, 31
    dataset.PixelRepresentation = 1
    pixels = np.frombuffer(dataset.PixelData, "<u2").astype("<i8") * 65537 - 10**8
    dataset.PixelData = pixels.astype("<i4").tobytes()


@pytest.mark.parametrize("change", [signed_with_slope, eight_bits, sixteen_bits, thirty_two_bits])
def test_values_of_every_width_are_exact(phantom, run, change):
    files = phantom()
    for path in files:
        edit(path, change)
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    distance, difference = worst(files, nifti.affine, nifti.get_fdata())
    assert result.warnings == ()
    # A slope is float32 in NIfTI's header.
    assert difference <= 1e-7 * np.abs(nifti.get_fdata()).max()


def test_a_slope_for_each_slice_as_in_pet(phantom, run):
    files = phantom()

    def change(dataset, slope):
        dataset.SOPClassUID = PositronEmissionTomographyImageStorage
        dataset.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        dataset.Modality, dataset.Units = "PT", "BQML"
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:.5f}", "0"

    for number, path in enumerate(files):
        edit(path, lambda dataset, slope=0.7 + 0.137 * number: change(dataset, slope))
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    _, difference = worst(files, nifti.affine, nifti.get_fdata())
    assert difference <= 1e-6 * nifti.get_fdata().max()
    assert result.warnings == ()


def test_philips_values_follow_the_rescale_slope(phantom, run):
    files = phantom(overrides={"Manufacturer": "Philips Medical Systems"})

    def change(dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = "2.5", "3"
        block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "FL", 0.0123)  # the scale slope of "precise" values

    for path in files:
        edit(path, change)
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    assert worst(files, nifti.affine, nifti.get_fdata())[1] < 1e-3
    # Slopes that differ: what dcm2niix makes at first is "precise", so the files are read anew.
    for number, path in enumerate(files):
        edit(path, lambda dataset, n=number: setattr(dataset, "RescaleSlope", str(2.5 + n)))
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    assert worst(files, nifti.affine, nifti.get_fdata())[1] < 1e-2
    assert not any("voxels differ" in words for words in result.warnings)


def test_a_philips_enhanced_mprage_has_its_176_slices_in_place(philips, run):
    result, _ = run(NiftiFilter, philips)
    nifti = image(result)
    dataset = pydicom.dcmread(philips[0])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    groups = dataset.PerFrameFunctionalGroupsSequence
    assert nifti.shape == (256, 256, 176)
    assert result.warnings == ()
    found = []
    for group in groups:
        matrix = pixel_to_ras(
            group.PlanePositionSequence[0].ImagePositionPatient,
            group.PlaneOrientationSequence[0].ImageOrientationPatient,
            (group.get("PixelMeasuresSequence") or shared.PixelMeasuresSequence)[0].PixelSpacing,
        )
        for column, row in ((0, 0), (255, 0), (0, 255)):
            voxel = np.linalg.inv(nifti.affine) @ (matrix @ [column, row, 1])
            assert np.abs(nifti.affine @ np.rint(voxel) - matrix @ [column, row, 1]).max() < TOLERANCE_MM
        found.append(round(voxel[2]))
    assert sorted(found) == list(range(176))


def test_a_siemens_mosaic_becomes_volumes_with_gradients(siemens, run):
    result, out = run(NiftiFilter, siemens)
    nifti = image(result)
    assert nifti.shape == (128, 128, 48, 2)
    assert sorted(path.name for path in out.iterdir()) == [
        "0003_t1.bval",
        "0003_t1.bvec",
        "0003_t1.json",
        "0003_t1.nii.gz",
    ]
    assert [float(value) for value in (out / "0003_t1.bval").read_text().split()] == [0, 1000]
    # A mosaic's position is that of a matrix of 7 x 7 tiles about the same centre.
    dataset = pydicom.dcmread(siemens[0])
    matrix = pixel_to_ras(dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing)
    half = (7 * 128 - 128) / 2
    first = matrix @ [half, half, 1]
    voxel = np.linalg.inv(nifti.affine) @ first
    assert np.abs(nifti.affine @ np.rint(voxel) - first).max() < TOLERANCE_MM
    assert result.warnings == ()
    assert [words[:24] for words in result.notes] == ["Slice times differ a lit"], (
        "by 2.5 ms, the clock's tick"
    )


def test_a_united_imaging_grid_becomes_its_slices(phantom, run):
    """Six slices side by side in one frame, three across and two down, their positions in a private sequence."""
    files = phantom(slices=6, overrides={"Manufacturer": "UIH"})
    slices = [pydicom.dcmread(path) for path in files]
    pixels = [dataset.pixel_array for dataset in slices]
    grid = copy.deepcopy(slices[0])
    grid.PixelData = np.vstack([np.hstack(pixels[:3]), np.hstack(pixels[3:])]).tobytes()
    grid.Rows, grid.Columns = 2 * grid.Rows, 3 * grid.Columns
    grid.ImageType = ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
    block = grid.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", "6")
    items = []
    for dataset in slices:
        item = pydicom.Dataset()
        item.ImagePositionPatient = dataset.ImagePositionPatient
        items.append(item)
    block.add_new(0x51, "SQ", items)
    grid.save_as(files[0].with_name("grid.dcm"))
    result, _ = run(NiftiFilter, [files[0].with_name("grid.dcm")])
    nifti = image(result)
    assert worst(files, nifti.affine, nifti.get_fdata()) == pytest.approx((0, 0), abs=TOLERANCE_MM)
    assert not any("slices of the series" in words for words in result.warnings)


def test_images_of_different_size_are_named_by_it(tmp_path, run):
    files = []
    for number, rows in enumerate((16, 24)):
        files += oblique_mr_series(
            tmp_path / str(rows), slices=1, rows=rows, columns=16, series_uid="1.2.3.5"
        )
        edit(files[-1], lambda dataset, n=number: setattr(dataset, "InstanceNumber", n + 1))
    result, _ = run(NiftiFilter, files)
    assert {output.path.name for output in result.outputs if output.kind == "NIfTI"} == {
        "0003_t1_16x16.nii.gz",
        "0003_t1_16x24.nii.gz",
    }


def test_each_echo_is_an_image_of_its_own(phantom, run):
    def echo(dataset, repeat):
        dataset.EchoTime, dataset.EchoNumbers = str(5 + 10 * repeat), repeat + 1

    result, out = run(NiftiFilter, repeated(phantom(), 3, echo))
    names = {output.path.name for output in result.outputs if output.kind == "NIfTI"}
    assert names == {"0003_t1_e1.nii.gz", "0003_t1_e2.nii.gz", "0003_t1_e3.nii.gz"}
    assert json.loads((out / "0003_t1_e2.json").read_text())["EchoTime"] == 0.015
    assert result.warnings == ()


def test_magnitude_and_phase_are_told_apart(phantom, run):
    def part(dataset, repeat):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "MP"[repeat], "ND"]

    result, _ = run(NiftiFilter, repeated(phantom(), 2, part))
    names = {output.path.name for output in result.outputs if output.kind == "NIfTI"}
    assert names == {"0003_t1.nii.gz", "0003_t1_ph.nii.gz"}


def test_the_planes_of_a_localizer_are_told_apart(tmp_path, run):
    files = []
    for number, name in enumerate(("axial", "coronal", "sagittal")):
        part = oblique_mr_series(
            tmp_path / name,
            slices=3,
            rows=16,
            columns=16,
            orientation=ORIENTATIONS[name],
            series_uid="1.2.3.4",
            overrides={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        )
        for index, path in enumerate(part):
            edit(path, lambda dataset, n=3 * number + index + 1: setattr(dataset, "InstanceNumber", n))
        files += part
    result, out = run(NiftiFilter, files)
    assert {output.path.name for output in result.outputs if output.kind == "NIfTI"} == {
        f"0003_t1_{name}.nii.gz" for name in ("axial", "coronal", "sagittal")
    }
    coronal = nibabel.load(out / "0003_t1_coronal.nii.gz")
    assert worst(files[3:6], coronal.affine, coronal.get_fdata()) == pytest.approx((0, 0), abs=TOLERANCE_MM)


def timed(dataset, repeat):
    dataset.TemporalPositionIdentifier = dataset.AcquisitionNumber = repeat + 1
    dataset.AcquisitionTime = dataset.ContentTime = f"1015{3 * repeat:02d}"
    dataset.RepetitionTime = "3000"
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") + repeat).tobytes()


def test_a_time_series_is_one_image_in_the_order_of_time(phantom, run):
    files = repeated(phantom(), 4, timed)
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    assert nifti.shape[3] == 4
    assert nifti.header.get_zooms()[3] == 3
    for volume in range(4):
        part = files[volume * 7 : (volume + 1) * 7]
        assert worst(part, nifti.affine, nifti.get_fdata()[..., volume])[1] == 0
    assert result.warnings == ()


def test_a_scan_that_was_stopped_keeps_its_whole_volumes_and_says_so(phantom, run):
    files = repeated(phantom(), 4, timed)
    result, _ = run(NiftiFilter, files[:-2])
    assert image(result).shape[3] == 3
    assert "5 slices of incomplete volumes are not converted" in result.warnings
    assert any("wrote 21 of the 26 slices" in words for words in result.warnings)


def test_a_missing_slice_is_told_with_its_place(phantom, run):
    files = phantom(orientation=AXIAL, centre=(0, 0, 0))
    files[3].unlink()
    result, _ = run(NiftiFilter, files[:3] + files[4:])
    assert any("Gap between slices: 18 mm from -9.00 to 9.00 mm" in words for words in result.warnings)
    assert any("about 1 missing" in words for words in result.warnings)


def test_an_unreadable_file_is_named_and_stops_nothing(phantom, run, tmp_path):
    bad = tmp_path / "scribble.dcm"
    bad.write_bytes(b"no DICOM at all" * 100)
    files = phantom()
    result, _ = run(NiftiFilter, [*files, bad])
    assert image(result).shape == (18, 22, 7)
    assert any("scribble.dcm: not a DICOM file; it is left out" in words for words in result.warnings)


def test_a_truncated_slice_is_told(phantom, run):
    files = phantom()
    files[-1].write_bytes(files[-1].read_bytes()[:-300])
    result, _ = run(NiftiFilter, files)
    assert any(files[-1].name in words for words in result.warnings)
    assert any("of the 7 slices of the series" in words for words in result.warnings)


def test_a_truncated_slice_in_the_middle_is_a_gap_and_no_doubt_of_the_others(phantom, run):
    files = phantom(orientation=AXIAL, centre=(0, 0, 0))
    files[2].write_bytes(files[2].read_bytes()[:-300])
    result, _ = run(NiftiFilter, files)
    assert any(f"{files[2].name} (Explicit" in words for words in result.warnings)
    assert any("Gap between slices: 18 mm from -18.00 to 0.00 mm" in words for words in result.warnings)
    assert any("of the 7 slices of the series" in words for words in result.warnings)
    assert not any("voxels differ" in words for words in result.warnings)


def test_a_truncated_slice_of_a_time_series_costs_its_volume_alone(phantom, run):
    files = repeated(phantom(), 3, timed)
    files[9].write_bytes(files[9].read_bytes()[:-300])
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    assert nifti.shape == (18, 22, 7, 2)
    for volume, of_volume in enumerate((files[:7], files[14:])):
        places = worst(of_volume, nifti.affine, nifti.get_fdata()[..., volume])
        assert places == pytest.approx((0, 0), abs=TOLERANCE_MM)
    assert any(f"{files[9].name} (Explicit" in words for words in result.warnings)
    assert "6 slices of incomplete volumes are not converted" in result.warnings


def test_a_leaning_stack_is_placed_as_the_headers_say(phantom, run):
    """A tilted gantry: each slice is moved along the table, not along its normal."""
    files = phantom(orientation=tilted(AXIAL, (15, 0, 0)))
    start = pydicom.dcmread(files[0]).ImagePositionPatient

    def lean(dataset, index):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.Modality, dataset.GantryDetectorTilt = "CT", "-15"
        dataset.ImagePositionPatient = [start[0], start[1], f"{float(start[2]) + 9 * index:.6f}"]

    for index, path in enumerate(files):
        edit(path, lambda dataset, index=index: lean(dataset, index))
    result, out = run(NiftiFilter, files)
    nifti = nibabel.load(out / "0003_t1.nii.gz")
    assert worst(files, nifti.affine, nifti.get_fdata()) == pytest.approx((0, 0), abs=TOLERANCE_MM)
    assert any("the headers' places are written instead" in words for words in result.warnings)


def test_a_dose_grid_lies_where_its_offsets_say(run):
    path = get_testdata_file("rtdose.dcm")
    result, _ = run(NiftiFilter, [Path(path)])
    nifti, dataset = image(result), pydicom.dcmread(path)
    matrix = pixel_to_ras(dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing)
    # Of this file the rows and columns are axial, so a frame's offset is along z.
    for frame, offset in enumerate(dataset.GridFrameOffsetVector):
        place = matrix @ [4, 7, 1] + [0, 0, float(offset), 0]
        i, j, k = np.rint(np.linalg.inv(nifti.affine) @ place)[:3].astype(int)
        assert np.abs(nifti.affine @ [i, j, k, 1] - place).max() < 1e-3
        assert nifti.dataobj.get_unscaled()[i, j, k] == dataset.pixel_array[frame, 7, 4]


def test_compressed_files_that_dcm2niix_refuses_are_decoded_first(tmp_path, run):
    source = pydicom.dcmread(get_testdata_file("MR_small_jpeg_ls_lossless.dcm"))
    plain = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    frame = next(generate_frames(source.PixelData, number_of_frames=1))
    source.PixelData = encapsulate([frame], fragments_per_frame=5)
    source.save_as(tmp_path / "fragments.dcm")
    result, _ = run(NiftiFilter, [tmp_path / "fragments.dcm"])
    assert np.array_equal(image(result).get_fdata()[:, ::-1, 0].T, plain.pixel_array)
    assert not any("ragments" in words for words in result.warnings)


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm"])
def test_other_transfer_syntaxes_give_the_same_voxels(run, name):
    plain = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    result, _ = run(NiftiFilter, [Path(get_testdata_file(name))])
    assert np.array_equal(image(result).get_fdata()[:, ::-1, 0].T, plain.pixel_array)


def test_deflated_files_are_inflated_first(phantom, run):
    files = phantom()
    for path in files:
        edit(
            path,
            lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian),
        )
    result, _ = run(NiftiFilter, files)
    assert image(result).shape == (18, 22, 7)
    assert result.warnings == ()


def test_a_decoder_that_fails_leaves_no_traceback_in_the_log(run, caplog):
    """Its error is the run's reason; the log would not name the file, and an operator would look for a fault."""
    with pytest.raises(PermanentError, match=r"JPEG-lossy\.dcm .*could not be decoded"):
        run(NiftiFilter, [Path(get_testdata_file("JPEG-lossy.dcm"))])
    assert [record.getMessage() for record in caplog.records] == []


def test_what_cannot_be_decoded_is_a_permanent_error_with_the_reason(run):
    with pytest.raises(PermanentError, match=r"JPEG2000-embedded.*JPEG 2000.*could not be decoded"):
        run(NiftiFilter, [Path(get_testdata_file("JPEG2000-embedded-sequence-delimiter.dcm"))])


@pytest.mark.parametrize("name", ["test-SR.dcm", "rtplan.dcm", "waveform_ecg.dcm", "reportsi.dcm"])
def test_a_series_without_pixels_is_skipped_with_its_kind(run, name):
    path = Path(get_testdata_file(name))
    result, _ = run(NiftiFilter, [path])
    assert result.outputs == ()
    assert pydicom.dcmread(path).SOPClassUID.name in result.skipped


def test_no_identifying_value_reaches_any_output(phantom, run):
    secrets = {
        "PatientName": "Quetzal^Xiomara",
        "PatientID": "QX-998877",
        "PatientBirthDate": "19630917",
        "PatientAddress": "77 Secret Street",
        "AccessionNumber": "ACC424242",
        "ReferringPhysicianName": "Referrer^Hidden",
        "OperatorsName": "Operator^Hidden",
        "PerformingPhysicianName": "Performer^Hidden",
        "StudyID": "STUDY778",
        "StudyDate": "20010203",
        "AcquisitionDate": "20010203",
        "InstitutionAddress": "Hidden Road 5",
        "PatientComments": "Comment about QX",
        "ImageComments": "Image comment QX",
        "StudyInstanceUID": "1.2.3.77777777.1",
        "SeriesInstanceUID": "1.2.3.77777777.2",
        "OtherPatientIDs": "OTHER-5511",
    }
    result, out = run(NiftiFilter, phantom(overrides=secrets))
    for output in result.outputs:
        content = output.path.read_bytes()
        content = gzip.decompress(content) if output.path.suffix == ".gz" else content
        for keyword, value in secrets.items():
            for part in value.split("^"):
                assert part.encode() not in content, f"{keyword} is in {output.path.name}"
    assert "AcquisitionTime" in json.loads((out / "0003_t1.json").read_text())


def test_gzip_is_one_plain_member_the_same_each_time(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(np.random.default_rng(1).integers(0, 50, 3 * BLOCK_BYTES + 17, dtype="u1").tobytes())
    for name in ("one.gz", "other.gz"):
        gzip_file(source, tmp_path / name)
    one = (tmp_path / "one.gz").read_bytes()
    assert one == (tmp_path / "other.gz").read_bytes()
    assert one[3] == 0, "no name"
    assert one[4:8] == bytes(4), "no time stamp"
    inflate = zlib.decompressobj(wbits=31)
    assert inflate.decompress(one) + inflate.flush() == source.read_bytes()
    assert inflate.eof
    assert inflate.unused_data == b""


def test_without_isa_l_the_standard_library_compresses(tmp_path):
    """In a process of its own, where ``isal`` cannot be imported."""
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 1000)
    script = (
        "import sys; sys.modules['isal'] = None\n"
        "from pathlib import Path; from tardis_imagetrove.imaging.gz import gzip_file, zlib\n"
        "assert zlib.__name__ == 'zlib'\n"
        "gzip_file(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", script, source, tmp_path / "plain.gz"], check=True)
    assert gzip.decompress((tmp_path / "plain.gz").read_bytes()) == source.read_bytes()


def test_gzip_of_an_empty_file(tmp_path):
    (tmp_path / "empty").touch()
    gzip_file(tmp_path / "empty", tmp_path / "empty.gz")
    assert gzip.decompress((tmp_path / "empty.gz").read_bytes()) == b""
