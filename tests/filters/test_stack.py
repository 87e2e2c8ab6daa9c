"""What dcm2niix has wrong or refuses, made right from headers and pixels; and headers that cannot be right, told."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import EnhancedPETImageStorage

from tardis_imagetrove.errors import PermanentError
from tardis_imagetrove.filters.minc import MincFilter
from tardis_imagetrove.filters.nifti import NiftiFilter
from tardis_imagetrove.formats.dicom.attributes import read_instances
from tardis_imagetrove.imaging.gaps import _gaps_in
from tardis_imagetrove.imaging.headers import TAGS, read_headers
from tardis_imagetrove.imaging.stack import stacks_of
from tardis_imagetrove.imaging.volume import survey

from .conftest import ORIENTATIONS
from .test_minc import as_nifti
from .test_nifti import image, timed
from .truth import edit, enhanced, repeated, worst

TOLERANCE_MM = 1e-4


def stored_as(dataset, kind):
    """The pixels over a type's whole range."""
    info = np.iinfo(kind)
    pixels = np.random.default_rng(int(dataset.InstanceNumber)).integers(
        info.min, info.max, (dataset.Rows, dataset.Columns), endpoint=True
    )
    dataset.BitsAllocated = dataset.BitsStored = info.bits
    dataset.HighBit, dataset.PixelRepresentation = info.bits - 1, int(info.min < 0)
    dataset.PixelData = pixels.astype(np.dtype(kind).newbyteorder("<")).tobytes()


def test_one_slice_that_is_stored_in_another_way_is_compared_and_right(phantom, run):
    files = phantom()

    def signed(dataset):
        pixels = np.frombuffer(dataset.PixelData, "<u2").astype("<i2") - 1500
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
        dataset.PixelData = pixels.tobytes()

    edit(files[1], signed)
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    assert worst(files, nifti.affine, nifti.get_fdata()) == pytest.approx((0, 0), abs=TOLERANCE_MM)
    assert result.warnings == ()


def test_places_that_are_rounded_are_missed_by_no_more_than_that(phantom, run):
    files = phantom(orientation=ORIENTATIONS["axial"], slice_spacing=2.25, slices=8, centre=(0, 0, 0.125))

    def rounded(dataset):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, round(float(z), 1)]
        dataset.SpacingBetweenSlices = dataset.SliceThickness = "2.2"

    for path in files:
        edit(path, rounded)
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    distance, difference = worst(files, nifti.affine, nifti.get_fdata())
    assert distance <= 0.1
    assert difference == 0
    assert any("distances between slices are uneven" in words for words in result.warnings)


@pytest.mark.parametrize("reverse", [False, True], ids=["upward", "downward"])
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4"])
def test_every_kind_of_integer_keeps_its_range(phantom, run, kind, reverse):
    files = phantom(orientation=ORIENTATIONS["oblique sagittal"], reverse=reverse)
    for path in files:
        edit(path, lambda dataset: stored_as(dataset, kind))
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    assert nifti.get_data_dtype() == np.dtype(kind)
    distance, difference = worst(files, nifti.affine, nifti.get_fdata())
    assert (distance < TOLERANCE_MM, difference, result.warnings) == (True, 0, ())
    _, out = run(MincFilter, files)
    distance, difference = worst(files, *as_nifti(out / "0003_t1.mnc"))
    assert (distance < TOLERANCE_MM, difference) == (True, 0)


def test_a_slope_for_each_frame_of_an_enhanced_pet(phantom, run):
    files = phantom(overrides={"Modality": "PT", "RescaleIntercept": "0"})
    for number, path in enumerate(files):
        edit(path, lambda dataset, n=number: setattr(dataset, "RescaleSlope", str(0.7 + 0.137 * n)))
    whole = enhanced(files, files[0].with_name("whole.dcm"), EnhancedPETImageStorage)
    for kind in (NiftiFilter, MincFilter):
        result, out = run(kind, [whole])
        if kind is NiftiFilter:
            nifti = image(result)
            affine, voxels = nifti.affine, nifti.get_fdata()
        else:
            affine, voxels = as_nifti(out / "0003_t1.mnc")
        distance, difference = worst(files, affine, voxels)
        assert distance < TOLERANCE_MM
        assert difference <= 1e-6 * voxels.max()
        assert not any("voxels differ" in words for words in result.warnings)


@pytest.mark.parametrize("manufacturer", ["SIEMENS", "Philips Medical Systems", "TOSHIBA"])
def test_the_volumes_of_an_enhanced_time_series_are_its_temporal_positions(phantom, run, manufacturer):
    """Frames by place and then by time, and every second place's times the other way round."""
    files = repeated(phantom(overrides={"Manufacturer": manufacturer}), 3, timed)
    times = [time if place % 2 else 2 - time for place in range(7) for time in range(3)]
    order = [7 * time + index // 3 for index, time in enumerate(times)]
    whole = enhanced(
        [files[index] for index in order],
        files[0].with_name("whole.dcm"),
        times=[time + 1 for time in times],
    )
    result, _ = run(NiftiFilter, [whole])
    nifti = image(result)
    assert nifti.shape == (18, 22, 7, 3)
    for time in range(3):
        part = files[7 * time : 7 * (time + 1)]
        assert worst(part, nifti.affine, nifti.get_fdata()[..., time]) == pytest.approx(
            (0, 0), abs=TOLERANCE_MM
        )


def test_volumes_follow_the_temporal_position_where_instance_numbers_mix_them(phantom, run):
    files = repeated(phantom(), 3, timed)
    for index, path in enumerate(files):
        time, place = divmod(index, 7)
        number = (time + place) % 3 * 7 + place + 1
        edit(path, lambda dataset, n=number: setattr(dataset, "InstanceNumber", n))
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    for time in range(3):
        part = files[7 * time : 7 * (time + 1)]
        assert worst(part, nifti.affine, nifti.get_fdata()[..., time])[1] == 0


def counted_anew(**told):
    """Changes a repeated series to volumes that number their instances from 1 again, out of any order."""

    def change(dataset, repeat):
        dataset.InstanceNumber = (int(dataset.InstanceNumber) - 1) % 7 + 1
        uid = f"2.25.{hash((repeat, int(dataset.InstanceNumber))) % 10**20}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") + 100 * repeat).tobytes()
        for keyword, value in told.items():
            setattr(dataset, keyword, value(repeat))

    return change


@pytest.mark.parametrize(
    "told",
    [
        {"AcquisitionNumber": lambda repeat: repeat + 1},
        {"TriggerTime": lambda repeat: str(60 * repeat)},
        {"AcquisitionTime": lambda repeat: f"1015{10 * repeat:02d}.5"},
    ],
    ids=lambda told: next(iter(told)),
)
def test_volumes_that_number_their_slices_anew_follow_the_time(phantom, run, told):
    """As perfusion CT and dynamic series of some scanners do."""
    files = repeated(phantom(), 3, counted_anew(**told))
    result, _ = run(NiftiFilter, files)
    nifti = image(result)
    assert nifti.shape[3] == 3
    for volume in range(3):
        part = files[volume * 7 : (volume + 1) * 7]
        assert worst(part, nifti.affine, nifti.get_fdata()[..., volume])[1] == 0


def test_phases_of_a_heart_beat_follow_their_trigger_times_though_numbers_say_otherwise(phantom, run):
    """Numbered place by place, at every second place against the time."""

    def change(dataset, repeat):
        place = (int(dataset.InstanceNumber) - 1) % 7
        dataset.InstanceNumber = place * 3 + (2 - repeat if place % 2 else repeat) + 1
        dataset.TriggerTime = str(60 * repeat)
        dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") + 100 * repeat).tobytes()

    files = repeated(phantom(), 3, change)
    nifti = image(run(NiftiFilter, files)[0])
    for volume in range(3):
        part = files[volume * 7 : (volume + 1) * 7]
        assert worst(part, nifti.affine, nifti.get_fdata()[..., volume])[1] == 0


def test_a_slice_that_is_in_a_volume_of_another_time_is_found_in_any_volume(phantom, run):
    def change(dataset, repeat):
        dataset.TemporalPositionIdentifier = repeat + 1
        dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") + 100 * repeat).tobytes()
        if dataset.InstanceNumber in (7 * 2 + 4, 7 * 3 + 4):  # the middle slice of two volumes in the middle
            dataset.InstanceNumber = 7 * 5 + 8 - dataset.InstanceNumber

    files = repeated(phantom(), 6, change)
    nifti = image(run(NiftiFilter, files)[0])
    for volume in range(6):
        part = files[volume * 7 : (volume + 1) * 7]
        assert worst(part, nifti.affine, nifti.get_fdata()[..., volume])[1] == 0


def test_volumes_that_nothing_tells_apart_are_told(phantom, run):
    files = repeated(phantom(), 3, counted_anew())
    result, _ = run(NiftiFilter, files)
    assert any(
        "Nothing says which of the slices at one place belong to one volume" in words
        for words in result.warnings
    )


MICRO = {"pixel_spacing": (0.011, 0.0085), "slice_spacing": 0.009, "centre": (0, 0, 0)}


def test_voxels_of_some_micrometres_are_a_volume_without_doubts(phantom, run):
    files = phantom(**MICRO, orientation=ORIENTATIONS["axial"])
    result, _ = run(NiftiFilter, files)
    assert worst(files, image(result).affine, image(result).get_fdata()) == pytest.approx((0, 0), abs=1e-6)
    assert result.warnings == ()


def test_what_is_odd_about_slices_of_some_micrometres_is_told(phantom, run):
    files = phantom(**MICRO, orientation=ORIENTATIONS["axial"])
    result, _ = run(NiftiFilter, files[:3] + files[4:])
    assert any("Gap between slices: 0.018 mm" in words for words in result.warnings)
    assert not any("doubled" in words for words in result.warnings)
    edit(files[4], lambda dataset: setattr(dataset, "ImagePositionPatient", [0, 0, 0.013]))
    result, _ = run(NiftiFilter, files)
    assert any("distances between slices are uneven" in words for words in result.warnings)


def test_slices_of_some_micrometres_that_dcm2niix_refuses_are_a_volume(phantom, run):
    files = [
        path.rename(path.with_name(f"{name}{path.name}"))
        for name in ("axial", "coronal")
        for path in phantom(**MICRO, orientation=ORIENTATIONS[name])
    ]
    _, out = run(NiftiFilter, [enhanced(files, files[0].with_name("whole.dcm"))])
    for name, part in (("axial", files[:7]), ("coronal", files[7:])):
        nifti = nibabel.load(out / f"0003_t1_{name}.nii.gz")
        assert worst(part, nifti.affine, nifti.get_fdata()) == pytest.approx((0, 0), abs=1e-6)


def test_a_dose_grid_is_in_grays(run):
    path = Path(get_testdata_file("rtdose.dcm"))
    dataset = pydicom.dcmread(path)
    dose = dataset.pixel_array * float(dataset.DoseGridScaling)
    result, _ = run(NiftiFilter, [path])
    assert image(result).get_fdata().sum() == pytest.approx(dose.sum())
    assert image(result).get_fdata().max() == pytest.approx(dose.max())
    result, out = run(MincFilter, [path])
    assert as_nifti(out / "0003_t1.mnc")[1].max() == pytest.approx(dose.max())


def test_the_colours_of_a_palette_are_in_the_volume(run):
    path = Path(get_testdata_file("examples_palette.dcm"))
    colours = pydicom.pixels.apply_color_lut(pydicom.dcmread(path).pixel_array, pydicom.dcmread(path)) >> 8
    result, _ = run(NiftiFilter, [path])
    voxels = np.asanyarray(image(result).dataobj)
    made = np.stack([voxels[part] for part in "RGB"], axis=-1)[:, ::-1, 0].swapaxes(0, 1)
    assert np.array_equal(made, colours)


def test_counts_that_a_palette_shows_stay_counts(phantom, run):
    path = phantom(slices=1)[0]

    def paint(dataset):
        dataset.Modality, dataset.PhotometricInterpretation = "NM", "PALETTE COLOR"
        for colour in ("Red", "Green", "Blue"):
            descriptor = f"{colour}PaletteColorLookupTableDescriptor"
            setattr(dataset, descriptor, [4096, 0, 16])
            dataset[descriptor].VR = "US"
            setattr(dataset, f"{colour}PaletteColorLookupTableData", bytes(8192))

    edit(path, paint)
    result, _ = run(NiftiFilter, [path])
    nifti = image(result)
    assert worst([path], nifti.affine, nifti.get_fdata())[1] == 0


def test_a_series_that_dcm2niix_refuses_is_made_from_headers_and_pixels(phantom, run):
    files = phantom(rows=1, overrides={"EchoTime": "9.2"})
    result, out = run(NiftiFilter, files)
    nifti = image(result)
    assert worst(files, nifti.affine, nifti.get_fdata()) == pytest.approx((0, 0), abs=TOLERANCE_MM)
    assert any("made from the headers and pixels instead" in words for words in result.warnings)
    assert '"Modality": "MR"' in (out / "0003_t1.json").read_text()
    assert "Phantom^Oblique" not in (out / "0003_t1.json").read_text()
    assert "pydicom" in result.converter
    _, out = run(MincFilter, files)
    assert worst(files, *as_nifti(out / "0003_t1.mnc")) == pytest.approx((0, 0), abs=TOLERANCE_MM)


def test_a_time_step_that_nothing_says_is_not_made_up(phantom, run):
    files = repeated(phantom(rows=1), 2, timed)
    assert image(run(NiftiFilter, files)[0]).header.get_zooms()[3] == 3
    for path in files:
        edit(path, lambda dataset: delattr(dataset, "AcquisitionTime"))
    result, _ = run(NiftiFilter, files)
    assert image(result).shape == (18, 1, 7, 2)
    assert image(result).header.get_zooms()[3] == 0
    result, _ = run(MincFilter, files)
    assert any("the time between its volumes is not known" in words for words in result.warnings)


def test_the_planes_of_an_enhanced_localizer_are_images_of_their_own(phantom, run):
    """In one multi-frame object, which dcm2niix refuses."""
    files = [
        path.rename(path.with_name(f"{name}.dcm"))
        for name in ("axial", "coronal", "sagittal")
        for path in phantom(slices=1, orientation=ORIENTATIONS[name])
    ]
    whole = enhanced(files, files[0].with_name("whole.dcm"))
    result, out = run(NiftiFilter, [whole])
    for path in files:
        nifti = nibabel.load(out / f"0003_t1_{path.stem}.nii.gz")
        assert worst([path], nifti.affine, nifti.get_fdata()) == pytest.approx((0, 0), abs=TOLERANCE_MM)


def test_two_enhanced_objects_that_are_one_stack_together(phantom, run):
    """dcm2niix takes the second for a second volume at the places of the first."""
    files = phantom(slices=8)
    halves = [
        enhanced(part, part[0].with_name(f"half{n}.dcm")) for n, part in enumerate((files[:4], files[4:]))
    ]

    def second(dataset):
        dataset.InstanceNumber = 2
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = (
            f"{dataset.SOPInstanceUID[:60]}.2"
        )

    edit(halves[1], second)
    for kind in (NiftiFilter, MincFilter):
        result, out = run(kind, halves)
        nifti = image(result) if kind is NiftiFilter else None
        found = (nifti.affine, nifti.get_fdata()) if nifti else as_nifti(out / "0003_t1.mnc")
        assert worst(files, *found) == pytest.approx((0, 0), abs=TOLERANCE_MM)
        assert any("made from the headers and pixels instead" in words for words in result.warnings)


def test_the_two_scouts_of_a_ct_are_images_of_their_own(run):
    """From the side and from the front, which dcm2niix puts into one leaning stack."""
    folder = Path(get_testdata_file("dicomdirtests/98892001/CT2N/6293")).parent
    scouts = {"sagittal": folder / "6293", "coronal": folder / "6924"}
    for kind in (NiftiFilter, MincFilter):
        result, out = run(kind, scouts.values())
        for plane, path in scouts.items():
            if kind is NiftiFilter:
                nifti = nibabel.load(out / f"0003_t1_{plane}.nii.gz")
                found = nifti.affine, nifti.get_fdata()
            else:
                found = as_nifti(out / f"0003_t1_{plane}.mnc")
            assert worst([path], *found) == pytest.approx((0, 0), abs=TOLERANCE_MM)
        assert any("They are made from the headers and pixels instead" in words for words in result.warnings)


def test_distances_that_vary_throughout_are_no_gaps():
    places = np.cumsum([0, *[4] * 14, *[7] * 13]).astype(float)
    words = _gaps_in(places, 0.02)
    assert words == ["Distances between slices vary from 4 to 7 mm; no slice need be missing"]
    holes = _gaps_in(np.array([0, 4, 8, 12, 20, 24, 28, 40, 44, 48.0]), 0.02)
    assert [found.rpartition(", ")[2] for found in holes] == ["about 1 missing", "about 2 missing"]


def test_slices_that_are_in_no_even_stack_make_none(phantom):
    def stacks(files):
        return stacks_of(read_headers(read_instances(files, TAGS))[0])

    files = phantom()
    assert [stack.shape for stack in stacks(files)] == [(18, 22, 7, 1)]
    assert stacks(files[:3] + files[4:]) is None, "a gap"
    assert [stack.shape for stack in stacks(files[:1])] == [(18, 22, 1, 1)]
    twice = files[0].with_name("twice.dcm")
    twice.write_bytes(files[0].read_bytes())
    assert stacks([*files, twice]) is None, "one place is there twice"
    edit(files[2], lambda dataset: delattr(dataset, "ImagePositionPatient"))
    assert stacks(files) is None, "one has no place"


# Headers that cannot be right


def modality_lut(dataset):
    lut = pydicom.Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [4096, 0, 16], "US"
    lut.add_new("LUTData", "OW", np.arange(4096, dtype="<u2")[::-1].tobytes())
    lut["LUTDescriptor"].VR = "US"
    dataset.ModalityLUTSequence = [lut]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda dataset: setattr(dataset, "Rows", 11), "Pixel data is 792 bytes long .* make 396"),
        (modality_lut, "ModalityLUTSequence is not applied"),
        (lambda dataset: setattr(dataset, "RescaleSlope", "0"), "RescaleSlope is 0"),
        (lambda dataset: setattr(dataset, "HighBit", 15), "HighBit is 15 where BitsStored is 12"),
        (lambda dataset: delattr(dataset, "PixelSpacing"), "do not say where every slice lies"),
        (
            lambda dataset: setattr(dataset, "ImageOrientationPatient", [0] * 6),
            "do not say where every slice",
        ),
    ],
)
def test_what_a_header_cannot_mean_is_told_with_the_file(phantom, run, change, words):
    files = phantom()
    for path in files:
        edit(path, change)
    for kind in (NiftiFilter, MincFilter):
        result, _ = run(kind, files)
        with pytest.raises(AssertionError, match=words):
            raise AssertionError("; ".join(result.warnings))
        assert any(files[0].name in line and "and 6 more files" in line for line in result.warnings)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("1.2.840.10008.5.1.4.1.1.6.1", "Ultrasound Image Storage"),
        ("1.2.840.10008.5.1.4.1.1.1.1", "Digital X-Ray Image Storage"),
        ("1.2.840.10008.5.1.4.1.1.7", "Secondary Capture Image Storage"),
        ("1.2.840.10008.5.1.4.1.1.20", "Nuclear Medicine Image Storage"),
    ],
)
def test_images_that_have_no_place_by_the_standard_are_no_problem(phantom, run, kind, named):
    files = phantom(slices=1)

    def flatten(dataset):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation"):
            dataset.pop(keyword, None)

    edit(files[0], flatten)
    for filter_ in (NiftiFilter, MincFilter):
        result, _ = run(filter_, files)
        assert result.warnings == ()
        assert any(named in note and "no place in the patient" in note for note in result.notes)


def test_tomographic_nuclear_medicine_without_its_place_is_a_problem(phantom, run):
    files = phantom(slices=1)

    def flatten(dataset):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.20"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation"):
            dataset.pop(keyword, None)

    edit(files[0], flatten)
    result, _ = run(NiftiFilter, files)
    assert any("do not say where every slice lies" in words for words in result.warnings)
    assert result.notes == ()


def test_a_scaling_that_is_no_number_is_named(phantom, run):
    files = phantom()
    for path in files:
        edit(path, lambda dataset: dataset.add_new("RescaleSlope", "LO", "much"))
    with pytest.raises(PermanentError, match="RescaleSlope is not a number"):
        run(NiftiFilter, files)


def test_positions_that_are_no_numbers_are_no_positions(phantom):
    files = phantom()
    edit(files[0], lambda dataset: dataset.add_new("ImagePositionPatient", "LO", "nan\\1\\2"))
    headers = survey(read_instances(files, TAGS), "nan").headers
    assert [header.planes is None for header in headers] == [True] + [False] * 6


@pytest.mark.parametrize("keyword", ["WindowCenter", "PixelSpacing", "ImagePositionPatient"])
def test_words_in_the_place_of_numbers_leave_no_file_out(phantom, run, keyword):
    files = phantom()
    for path in files:
        edit(path, lambda dataset: dataset.add_new(keyword, "LO", "unknown"))
    result, _ = run(NiftiFilter, files)
    assert image(result).shape == (18, 22, 7)
    told = any("do not say where every slice lies" in words for words in result.warnings)
    assert told == (keyword != "WindowCenter")


def test_an_image_of_no_slices_is_none(phantom, run):
    path = phantom(slices=1)[0]
    edit(path, lambda dataset: setattr(dataset, "NumberOfFrames", 0))
    result, _ = run(NiftiFilter, [path])
    nifti = image(result)
    assert worst([path], nifti.affine, nifti.get_fdata())[1] == 0


@pytest.mark.parametrize("keyword", ["Manufacturer", "PatientPosition", "ProtocolName"])
def test_what_conversion_does_not_need_may_be_missing(phantom, run, keyword):
    result, _ = run(NiftiFilter, phantom(overrides={keyword: None}))
    assert result.warnings == ()
