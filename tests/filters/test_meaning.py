"""Volumes of one place: told apart by what differs, in the order of time, with gradients and times of the headers."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, PositronEmissionTomographyImageStorage

from tardis_imagetrove.filters.base import DicomSeries
from tardis_imagetrove.filters.minc import MincFilter
from tardis_imagetrove.filters.nifti import NiftiFilter
from tardis_imagetrove.filters.shared import conversion_of
from tardis_imagetrove.imaging.finishing import _slices_timed, finished, set_time_step
from tardis_imagetrove.imaging.sidecar import load_sidecar, save_sidecar
from tardis_imagetrove.phantom import AXIAL, SAGITTAL, tilted

from .conftest import ORIENTATIONS
from .test_nifti import image
from .truth import edit, enhanced, repeated, worst

TOLERANCE_MM = 1e-4


def sidecar(out, name):
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


def brighter(dataset, repeat):
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") + 100 * repeat).tobytes()


def as_ct(dataset):
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    for keyword in ("EchoTime", "RepetitionTime", "FlipAngle", "EchoNumbers", "EchoTrainLength"):
        if keyword in dataset:
            delattr(dataset, keyword)


# One stack, several meanings


@pytest.mark.parametrize(
    ("keyword", "values", "names"),
    [
        ("KVP", ("80", "140"), ("80kV", "140kV")),
        ("ConvolutionKernel", ("B30f", "B70f"), ("B30f", "B70f")),
        ("FilterType", ("WEDGE_1", "FLAT"), ("WEDGE_1", "FLAT")),
        (
            "ImageType",
            (["DERIVED", "PRIMARY", "AXIAL", "AVERAGE"], ["DERIVED", "PRIMARY", "AXIAL", "MIP"]),
            ("AVERAGE", "MIP"),
        ),
    ],
)
def test_a_ct_in_two_ways_is_two_images_named_by_the_difference(phantom, run, keyword, values, names):
    def change(dataset, repeat):
        as_ct(dataset)
        setattr(dataset, keyword, values[repeat])
        brighter(dataset, repeat)

    files = repeated(phantom(), 2, change)
    for kind, suffix in ((NiftiFilter, "nii.gz"), (MincFilter, "mnc")):
        result, out = run(kind, files)
        made = {output.path.name for output in result.outputs if output.kind in ("NIfTI", "MINC")}
        assert made == {f"0003_t1_{name}.{suffix}" for name in names}
    _, out = run(NiftiFilter, files)
    for number, name in enumerate(names):
        nifti = nibabel.load(out / f"0003_t1_{name}.nii.gz")
        part = files[7 * number : 7 * (number + 1)]
        assert worst(part, nifti.affine, nifti.get_fdata()) == pytest.approx((0, 0), abs=TOLERANCE_MM)
        stated = sidecar(out, f"0003_t1_{name}")[keyword]
        assert stated == (float(values[number]) if keyword == "KVP" else values[number])


def test_inversion_times_are_images_of_their_own(phantom, run):
    def change(dataset, repeat):
        dataset.InversionTime = str((400, 2500)[repeat])
        brighter(dataset, repeat)

    _, out = run(NiftiFilter, repeated(phantom(), 2, change))
    assert {path.name for path in out.glob("*.nii.gz")} == {
        "0003_t1_TI400ms.nii.gz",
        "0003_t1_TI2500ms.nii.gz",
    }
    assert sidecar(out, "0003_t1_TI400ms")["InversionTime"] == 0.4


def test_flip_angles_are_named_the_same_whatever_the_order_of_files(phantom, run):
    def change(dataset, repeat):
        dataset.FlipAngle, dataset.AcquisitionNumber = str((2, 15)[repeat]), repeat + 1
        brighter(dataset, repeat)

    files = repeated(phantom(), 2, change)
    means = []
    for order in (files, files[::-1]):
        folder = order[0].parent.with_name(f"order{len(means)}")
        folder.mkdir()
        copies = []
        for number, path in enumerate(order):
            copies.append(folder / f"{number:03d}.dcm")
            copies[-1].write_bytes(path.read_bytes())
        _, out = run(NiftiFilter, copies)
        means.append({path.name: nibabel.load(path).get_fdata().mean() for path in out.glob("*.nii.gz")})
    assert means[0] == means[1]
    assert means[0].keys() == {"0003_t1_e1_FA2.nii.gz", "0003_t1_e1_FA15.nii.gz"}


def test_echoes_and_components_of_an_enhanced_object_are_labelled(phantom, run):
    """Siemens enhanced MR with two echoes, magnitude and phase."""

    def change(dataset, repeat):
        dataset.EchoTime = str((5, 12)[repeat // 2])
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "MP"[repeat % 2], "NONE"]
        brighter(dataset, repeat)

    files = repeated(phantom(overrides={"Manufacturer": "SIEMENS"}), 4, change)
    whole = enhanced(files, files[0].with_name("whole.dcm"), EnhancedMRImageStorage)

    def told(dataset):
        for group, path in zip(dataset.PerFrameFunctionalGroupsSequence, files, strict=True):
            source = pydicom.dcmread(path)
            echo, kind = pydicom.Dataset(), pydicom.Dataset()
            echo.EffectiveEchoTime = float(source.EchoTime)
            kind.FrameType = source.ImageType
            kind.ComplexImageComponent = {"M": "MAGNITUDE", "P": "PHASE"}[source.ImageType[2]]
            group.MREchoSequence, group.MRImageFrameTypeSequence = [echo], [kind]
        del dataset.EchoTime

    edit(whole, told)
    _, out = run(NiftiFilter, [whole])
    names = {path.name.removeprefix("0003_t1_").removesuffix(".nii.gz") for path in out.glob("*.nii.gz")}
    assert names == {"e1", "e1_ph", "e2", "e2_ph"}
    for number, name in enumerate(("e1", "e1_ph", "e2", "e2_ph")):
        nifti = nibabel.load(out / f"0003_t1_{name}.nii.gz")
        part = files[7 * number : 7 * (number + 1)]
        assert worst(part, nifti.affine, nifti.get_fdata()) == pytest.approx((0, 0), abs=TOLERANCE_MM)
        assert sidecar(out, f"0003_t1_{name}")["EchoTime"] == (0.005, 0.012)[number // 2]


def test_copies_of_slices_are_reported_and_used_once(phantom, run):
    files = repeated(phantom(), 2, lambda dataset, repeat: None)
    result, _ = run(NiftiFilter, files)
    assert image(result).shape == (18, 22, 7)
    assert any("7 slices are there twice with equal pixels" in words for words in result.warnings)


def test_volumes_of_equal_pixels_that_a_private_element_tells_apart_are_no_copies(phantom, run):
    """As of a scan that does not change, or whose pixels were blanked: gradients and clocks are often private."""

    def private(dataset, repeat):
        dataset.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0xBB, "DS", str(repeat))

    result, _ = run(NiftiFilter, repeated(phantom(), 3, private))
    assert image(result).shape == (18, 22, 7, 3)
    assert not any("equal pixels" in words for words in result.warnings)


def test_an_odd_value_in_one_slice_takes_no_slice_away(phantom, run):
    files = phantom(slices=9)
    edit(files[4], lambda dataset: setattr(dataset, "EchoTime", "9.9"))
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    assert worst(files, nifti.affine, nifti.get_fdata()) == pytest.approx((0, 0), abs=TOLERANCE_MM)


def test_two_overlapping_passes_are_two_images(phantom, run):
    """Places 1 to 8 and 5 to 12."""
    files = phantom(slices=12, orientation=AXIAL)
    second = []
    for number, path in enumerate(files[4:]):
        dataset = pydicom.dcmread(path)
        as_ct(dataset)
        brighter(dataset, 1)
        dataset.AcquisitionNumber, dataset.InstanceNumber = 2, 100 + number
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"2.25.77{number}"
        second.append(path.with_name(f"second{number}.dcm"))
        dataset.save_as(second[-1])
    for path in files[:8]:
        edit(path, as_ct)
    _, out = run(NiftiFilter, [*files[:8], *second])
    for name, part in (("acq1", files[:8]), ("acq2", second)):
        nifti = nibabel.load(out / f"0003_t1_{name}.nii.gz")
        assert worst(part, nifti.affine, nifti.get_fdata()) == pytest.approx((0, 0), abs=TOLERANCE_MM)


# Times


def test_a_time_series_that_counts_trigger_times_is_one_image(phantom, run):
    """Philips fMRI, which dcm2niix takes apart by TriggerTime."""

    def change(dataset, repeat):
        dataset.TemporalPositionIdentifier, dataset.NumberOfTemporalPositions = repeat + 1, 4
        dataset.TriggerTime, dataset.RepetitionTime = str(2000 * repeat), "2000"
        dataset.AcquisitionTime = f"1015{2 * repeat:02d}.000000"
        brighter(dataset, repeat)

    files = repeated(phantom(overrides={"Manufacturer": "Philips Medical Systems"}), 4, change)
    result, out = run(NiftiFilter, files)
    nifti = image(result)
    assert nifti.shape[3] == 4
    assert nifti.header.get_zooms()[3] == 2
    for volume in range(4):
        part = files[7 * volume : 7 * (volume + 1)]
        assert worst(part, nifti.affine, nifti.get_fdata()[..., volume])[1] == 0
    assert sidecar(out, "0003_t1")["RepetitionTime"] == 2


def volumes_at(phantom, folder, times):
    """An image whose volumes have these trigger times, with a step that was guessed from the last of them."""

    def change(dataset, repeat):
        dataset.RepetitionTime, dataset.TriggerTime = "2000", str(times[repeat])
        dataset.InstanceNumber = 7 * repeat + dataset.InstanceNumber % 7
        brighter(dataset, repeat)

    files = repeated(phantom(overrides={"Manufacturer": "Somebody"}), len(times), change)
    (made,) = conversion_of(DicomSeries(tuple(files), "asl"), folder).images
    assert [header.times[2] for header, _ in made.owners] == times
    set_time_step(made, 1.7)
    save_sidecar(made.sidecar, load_sidecar(made.sidecar) | {"RepetitionTime": 1.7})
    return finished(replace(made, words=(), notes=()), "The image", set())


def test_label_and_control_of_one_time_are_their_mean_distance_apart(phantom, tmp_path):
    made = volumes_at(phantom, tmp_path / "made", [0, 0, 8000, 8000, 16000, 16000])
    assert made.time_step() == load_sidecar(made.sidecar)["RepetitionTime"] == 4
    assert made.timed and made.words == ()
    assert made.notes == (
        "The image: 2 volumes each have one time; the time step is their mean distance, 4 s",
    )


def test_volumes_that_come_back_to_a_time_have_no_step(phantom, tmp_path):
    """Phases of label, then of control: a number of seconds between volumes would be made up."""
    made = volumes_at(phantom, tmp_path / "made", [300, 550, 300, 550, 300, 550])
    assert made.time_step() == 0
    assert load_sidecar(made.sidecar)["RepetitionTime"] == 2
    assert made.timed and made.words == ()
    assert "no time step is stated" in made.notes[0]


def test_groups_that_are_no_whole_number_of_repetitions_apart_have_no_mean_step(phantom, tmp_path):
    made = volumes_at(phantom, tmp_path / "made", [0, 0, 7000, 7000, 14000, 14000])
    assert made.time_step() == pytest.approx(1.7)
    assert not made.timed


def test_numbers_that_count_phases_within_a_slice_lack_no_volume(phantom, run):
    """Philips: block, slice, phase, so that the volumes of a block are numbered on within each slice."""
    volumes, slices, run_length = 4, 7, 2

    def change(dataset, repeat):
        place = int(dataset.InstanceNumber - 1) % slices
        block, phase = divmod(repeat, run_length)
        dataset.InstanceNumber = block * slices * run_length + place * run_length + phase + 1
        for keyword in ("AcquisitionTime", "ContentTime", "TemporalPositionIdentifier"):
            if keyword in dataset:
                delattr(dataset, keyword)
        brighter(dataset, repeat)

    files = repeated(phantom(), volumes, change)
    result, _ = run(NiftiFilter, files)
    assert image(result).shape[3] == volumes
    assert not any("mixed" in words or "missing" in words for words in result.warnings), result.warnings


def test_slice_times_of_a_mosaic_are_those_of_its_header_by_place(siemens, tmp_path):
    found = conversion_of(DicomSeries(tuple(siemens), "dwi"), tmp_path)
    made = found.images[0]
    fields = load_sidecar(made.sidecar)
    assert made.slices_timed == 0
    assert _slices_timed(made, {**fields, "SliceTiming": fields["SliceTiming"][::-1]}) is None
    assert _slices_timed(made, {**fields, "RepetitionTime": max(fields["SliceTiming"]) / 2}) is None


def frames_of_pet(order):
    """Frames of 10, 10, 30 and 60 s, numbered in an order of their own."""
    durations, references = (10, 10, 30, 60), (5, 15, 35, 80)

    def change(dataset, repeat):
        dataset.SOPClassUID = PositronEmissionTomographyImageStorage
        dataset.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        dataset.Modality, dataset.Units, dataset.Manufacturer = "PT", "BQML", "CPS"
        dataset.ImageType, dataset.SeriesType = ["ORIGINAL", "PRIMARY"], ["DYNAMIC", "IMAGE"]
        dataset.ActualFrameDuration = 1000 * durations[order[repeat]]
        dataset.FrameReferenceTime = 1000 * references[order[repeat]]
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.68", "0"
        for keyword in ("EchoTime", "RepetitionTime", "FlipAngle"):
            delattr(dataset, keyword)
        brighter(dataset, order[repeat])

    return change


def test_what_is_said_of_volumes_follows_them_into_the_order_of_time(phantom, run):
    order = (3, 0, 2, 1)
    files = repeated(phantom(), 4, frames_of_pet(order))
    result, out = run(NiftiFilter, files)
    nifti, fields = image(result), sidecar(out, "0003_t1")
    assert fields["FrameDuration"] == [10, 10, 30, 60]
    assert fields["FrameReferenceTime"] == [5, 15, 35, 80]
    assert fields["FrameTimesStart"] == [0, 10, 20, 50]
    for volume in range(4):
        first = 7 * order.index(volume)
        found = worst(files[first : first + 7], nifti.affine, nifti.get_fdata()[..., volume])
        assert found[1] <= 1e-6 * nifti.get_fdata().max()


@pytest.mark.parametrize(
    ("starts", "step"),
    [((0, 1350, 2700, 4050), 1.35), ((0, 1350, 5000, 9000), 0)],
    ids=["even", "uneven"],
)
def test_the_time_axis_is_that_of_the_trigger_times(phantom, run, starts, step):
    """GE, several phases with a delay between them."""

    def change(dataset, repeat):
        dataset.TemporalPositionIdentifier, dataset.TriggerTime = repeat + 1, str(starts[repeat])
        dataset.RepetitionTime = "1000"
        brighter(dataset, repeat)

    files = repeated(phantom(overrides={"Manufacturer": "GE MEDICAL SYSTEMS"}), 4, change)
    result, out = run(NiftiFilter, files)
    assert image(result).header.get_zooms()[3] == pytest.approx(step)
    assert sidecar(out, "0003_t1").get("VolumeTiming") == (None if step else [0, 1.35, 5, 9])
    assert any("varies from 1.35 to 4 s" in words for words in result.warnings) == (not step)


@pytest.mark.parametrize("timed", [True, False])
def test_a_lost_volume_is_reported_and_stretches_no_step(phantom, run, timed):
    def change(dataset, repeat):
        if timed:
            dataset.AcquisitionTime = f"1015{3 * repeat:02d}.250000"
        dataset.RepetitionTime = "3000"
        brighter(dataset, repeat)

    files = repeated(phantom(), 6, change)
    result, _ = run(NiftiFilter, files[:21] + files[28:])
    assert image(result).header.get_zooms()[3] == 3
    assert any("1 of 6 volumes are missing" in words for words in result.warnings)


# Gradients

DIRECTIONS = np.array([[1, 0, 0], [0, 0.8, 0.6], [0.6, 0, -0.8], [0.48, -0.64, 0.6]])


def weighted(manufacturer):
    def change(dataset, repeat):
        dataset.Manufacturer, dataset.RepetitionTime = manufacturer, "4000"
        dataset.DiffusionBValue = 1000.0 if repeat else 0.0
        if repeat:
            dataset.DiffusionGradientOrientation = DIRECTIONS[repeat - 1].tolist()
        dataset.AcquisitionTime = f"1015{4 * repeat:02d}.000000"
        brighter(dataset, repeat)

    return change


def expected_bvec(affine):
    """FSL's convention, written out: image axes, the first turned round where the determinant is positive."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    bvec = axes.T @ (DIRECTIONS * [-1, -1, 1]).T
    if np.linalg.det(affine[:3, :3]) > 0:
        bvec[0] *= -1
    return bvec


@pytest.mark.parametrize("orientation", ["axial", "oblique", "oblique sagittal", "coronal"])
def test_gradients_of_an_unknown_vendor_are_turned_into_the_images_axes(phantom, run, orientation):
    files = repeated(phantom(orientation=ORIENTATIONS[orientation]), 5, weighted("Hyperfine"))
    result, out = run(NiftiFilter, files)
    bvec = np.loadtxt(out / "0003_t1.bvec")
    assert np.loadtxt(out / "0003_t1.bval").tolist() == [0, 1000, 1000, 1000, 1000]
    assert bvec[:, 1:] == pytest.approx(expected_bvec(image(result).affine), abs=1e-5)
    assert not bvec[:, 0].any()


def test_gradients_of_an_enhanced_object_are_those_of_its_frames(phantom, run):
    files = repeated(phantom(orientation=tilted(SAGITTAL, (12, -17, 25))), 5, weighted("SIEMENS"))
    whole = enhanced(files, files[0].with_name("whole.dcm"), times=[n // 7 + 1 for n in range(35)])

    def told(dataset):
        for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            diffusion = pydicom.Dataset()
            diffusion.DiffusionBValue = 1000.0 if number >= 7 else 0.0
            diffusion.DiffusionDirectionality = "DIRECTIONAL" if number >= 7 else "NONE"
            if number >= 7:
                direction = pydicom.Dataset()
                direction.DiffusionGradientOrientation = DIRECTIONS[number // 7 - 1].tolist()
                diffusion.DiffusionGradientDirectionSequence = [direction]
            group.MRDiffusionSequence = [diffusion]
        for keyword in ("DiffusionBValue", "DiffusionGradientOrientation"):
            if keyword in dataset:
                delattr(dataset, keyword)

    edit(whole, told)
    result, out = run(NiftiFilter, [whole])
    bvec = np.loadtxt(out / "0003_t1.bvec")
    assert np.loadtxt(out / "0003_t1.bval").tolist() == [0, 1000, 1000, 1000, 1000]
    assert bvec[:, 1:] == pytest.approx(expected_bvec(image(result).affine), abs=1e-5)


@pytest.mark.parametrize("turned", [False, True], ids=["as-stated", "turned"])
def test_siemens_gradients_are_compared_with_its_own_elements(phantom, tmp_path, turned):
    """dcm2niix warns of every position but head first, supine; where the vectors agree there is nothing to warn of."""
    directions = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0.6, 0, 0.8)]

    def change(dataset, repeat):
        dataset.Manufacturer, dataset.PatientPosition = "SIEMENS", "HFP"
        dataset.add_new((0x0019, 0x0010), "LO", "SIEMENS MR HEADER")
        dataset.add_new((0x0019, 0x100C), "IS", "1000" if repeat else "0")
        if repeat:
            dataset.add_new((0x0019, 0x100E), "FD", list(directions[repeat]))
        dataset.AcquisitionNumber = repeat + 1
        brighter(dataset, repeat)

    files = repeated(phantom(), 4, change)
    conversion = conversion_of(DicomSeries(tuple(files), "dwi"), tmp_path / "made")
    assert [made.compared for made in conversion.images] == [True]
    assert not any("bvecs" in words for words in conversion.warnings)
    if turned:
        made = conversion.images[0]
        lines = made.bvec.read_text().splitlines()
        made.bvec.write_text("\n".join([lines[1], lines[0], lines[2]]) + "\n")
        again = finished(replace(made, compared=False), "The image", set())
        assert not again.compared


def test_directions_in_minc_are_those_of_the_world(phantom, run):
    import h5py

    files = repeated(phantom(orientation=ORIENTATIONS["oblique sagittal"]), 5, weighted("Hyperfine"))
    _, out = run(MincFilter, files)
    with h5py.File(out / "0003_t1.mnc") as file:
        acquisition = file["minc-2.0/info/acquisition"].attrs
        found = np.array([acquisition[f"direction_{axis}"] for axis in "xyz"])
        assert acquisition["bvalues"].tolist() == [0, 1000, 1000, 1000, 1000]
    assert found[:, 1:] == pytest.approx((DIRECTIONS * [-1, -1, 1]).T, abs=1e-5)


# Sizes, scaling and text


def test_sizes_affine_and_places_agree_where_dcm2niix_has_them_wrong(phantom, run):
    """Enhanced PET (Mediso): several times, frames of a volume in no spatial order."""
    files = repeated(
        phantom(orientation=AXIAL, overrides={"Manufacturer": "Mediso"}), 3, frames_of_pet((0, 1, 2, 3))
    )
    order = [7 * time + place for time in range(3) for place in (3, 0, 6, 1, 5, 2, 4)]
    from pydicom.uid import EnhancedPETImageStorage

    whole = enhanced(
        [files[index] for index in order],
        files[0].with_name("whole.dcm"),
        EnhancedPETImageStorage,
        times=[index // 7 + 1 for index in range(21)],
    )
    nifti = image(run(NiftiFilter, [whole])[0])
    assert nifti.header.get_zooms()[:3] == pytest.approx(
        np.linalg.norm(nifti.affine[:3, :3], axis=0), rel=1e-5
    )
    for time in range(3):
        part = files[7 * time : 7 * (time + 1)]
        distance, difference = worst(part, nifti.affine, nifti.get_fdata()[..., time])
        assert distance < TOLERANCE_MM
        assert difference <= 1e-6 * nifti.get_fdata().max()


def test_a_slice_without_the_rescale_slope_of_the_others_is_named(phantom, run):
    files = phantom(overrides={"RescaleSlope": "2.5", "RescaleIntercept": "0"})

    def without(dataset):
        del dataset.RescaleSlope, dataset.RescaleIntercept

    edit(files[2], without)
    result, _ = run(NiftiFilter, files)
    assert any("RescaleSlope" in words and files[2].name in words for words in result.warnings)


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO_IR 100", "ISO_IR 144", "ISO 2022 IR 87", "GB18030"])
def test_text_is_what_the_headers_say_in_every_character_set(phantom, run, charset):
    import h5py

    texts = {
        "ISO_IR 192": "Köpfe 頭 голова",
        "ISO_IR 100": "Schädel à gauche",
        "ISO_IR 144": "голова",
        "ISO 2022 IR 87": "頭部",
        "GB18030": "头部",
    }

    def change(dataset):
        dataset.SpecificCharacterSet = ["", charset] if "2022" in charset else charset
        dataset.ProtocolName = dataset.SeriesDescription = texts[charset]

    files = phantom()
    for path in files:
        edit(path, change)
    _, out = run(NiftiFilter, files)
    fields = sidecar(out, "0003_t1")
    assert fields["ProtocolName"] == fields["SeriesDescription"] == texts[charset]
    _, out = run(MincFilter, files)
    with h5py.File(out / "0003_t1.mnc") as file:
        assert file["minc-2.0/info/acquisition"].attrs["protocol"].decode() == texts[charset]
