"""Regions with burned-in text are black in the copy, in every encoding, and the rest is as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from tardis_imagetrove.deidentification import (
    CannotClean,
    NotDeidentifiable,
    PixelRegions,
    Profile,
    Pseudonyms,
    Region,
    black_out,
    deidentify,
    new_secret,
)

from ..conftest import phantom
from ..filters.truth import edit

PSEUDONYMS = Pseudonyms(new_secret())

#: pydicom's samples of kinds and encodings of pixels.
SAMPLES = [
    "CT_small.dcm",  # signed
    "MR_small_bigendian.dcm",
    "SC_rgb_small_odd.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
    "SC_rgb_rle_2frame.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_rle_32bit.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "examples_palette.dcm",
    "examples_ybr_color.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_dcmtk_+eb+cy+s2.dcm",
    "SC_rgb_jls_lossy_sample.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "examples_jpeg2k.dcm",
    "image_dfl.dcm",
    "rtdose_rle.dcm",  # 32 bits
]


def sample(name: str) -> pydicom.Dataset:
    return pydicom.dcmread(get_testdata_file(name))


def shown(dataset: pydicom.Dataset) -> np.ndarray:
    """Frames, rows, columns, and colours as they are shown."""
    array = pydicom.pixels.pixel_array(dataset)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        array = pydicom.pixels.apply_color_lut(array, dataset)
    rows, columns = dataset.Rows, dataset.Columns
    return array.reshape(int(dataset.get("NumberOfFrames", 1) or 1), rows, columns, -1)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_region_is_black_in_all_frames_and_the_rest_is_as_it_was(name):
    dataset = sample(name)
    before = shown(dataset)
    height, width = dataset.Rows // 4, dataset.Columns // 2
    black_out(dataset, [Region(0, 0, width, height), Region(dataset.Columns - 1, dataset.Rows - 2, 100, 100)])
    after = shown(dataset)
    assert not dataset.file_meta.TransferSyntaxUID.is_encapsulated
    assert after.shape == before.shape
    inside = np.zeros(before.shape[1:3], bool)
    inside[:height, :width] = inside[-2:, -1:] = True
    assert len(np.unique(after[:, inside].reshape(-1, after.shape[-1]), axis=0)) == 1
    assert after[:, inside].max() <= max(before.min(), 0) + 1
    # Chroma that two pixels of 4:2:2 share was spread by the decoder in either case.
    assert np.abs(after[:, ~inside].astype(int) - before[:, ~inside]).max() <= 1


def test_black_is_white_where_low_values_are_white():
    dataset = sample("CT_small.dcm")
    dataset.PhotometricInterpretation = "MONOCHROME1"
    highest = dataset.pixel_array.max()
    black_out(dataset, [Region(0, 0, 10, 10)])
    assert (dataset.pixel_array[:10, :10] == highest).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"BitsAllocated": 1}, "1 bits"),
        ({"PhotometricInterpretation": "ARGB"}, "not known"),
        ({"NumberOfFrames": 1000}, "fewer pixels"),
    ],
)
def test_pixels_that_cannot_be_cleaned_are_told(change, words):
    dataset = sample("CT_small.dcm")
    for keyword, value in change.items():
        setattr(dataset, keyword, value)
    with pytest.raises(CannotClean, match=words):
        black_out(dataset, [Region(0, 0, 10, 10)])


# As a step of de-identification


def rule(**changes) -> PixelRegions:
    given = {
        "name": "corner",
        "modality": "",
        "manufacturer": "imagetrove",
        "model": "Phantom generator",
        "rows": 30,
        "columns": 32,
        "regions": (Region(0, 0, 8, 4),),
    }
    return PixelRegions(**{**given, **changes})


@pytest.fixture
def ultrasound(tmp_path) -> Path:
    path = phantom(tmp_path / "in", slices=1)[0]

    def change(dataset):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UltrasoundImageStorage
        dataset.Manufacturer, dataset.ManufacturerModelName = "ImageTrove ", "Phantom generator"
        dataset.BurnedInAnnotation = "YES"

    edit(path, change)
    return path


def fitting(path: Path, **changes) -> PixelRegions:
    dataset = pydicom.dcmread(path)
    return rule(**{"rows": dataset.Rows, "columns": dataset.Columns, **changes})


def test_a_rule_that_fits_makes_a_copy_of_what_is_refused_without(ultrasound, tmp_path):
    profile = Profile.of(["clean-pixels"])
    copy = deidentify(
        ultrasound, tmp_path / "copy.dcm", profile, PSEUDONYMS, [rule(rows=1), fitting(ultrasound)]
    )
    made, original = pydicom.dcmread(copy.path), pydicom.dcmread(ultrasound)
    assert made.BurnedInAnnotation == "NO"
    assert [item.CodeValue for item in made.DeidentificationMethodCodeSequence] == ["113100", "113101"]
    assert (made.pixel_array[:4, :8] == original.pixel_array.min()).all()
    outside = np.ones(made.pixel_array.shape, bool)
    outside[:4, :8] = False
    assert np.array_equal(made.pixel_array[outside], original.pixel_array[outside])
    assert [row.why for row in copy.report if row.done.value == "cleaned"] == ["pixel rule corner"]


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"rows": 480}, ["clean-pixels"]),
        ({"manufacturer": "GE"}, ["clean-pixels"]),
        ({"model": "LOGIQ"}, ["clean-pixels"]),
        ({"modality": "CT"}, ["clean-pixels"]),
        ({}, []),
    ],
)
def test_without_a_rule_that_fits_or_the_option_it_is_refused(changes, options, ultrasound, tmp_path):
    with pytest.raises(NotDeidentifiable) as error:
        deidentify(
            ultrasound,
            tmp_path / "copy.dcm",
            Profile.of(options),
            PSEUDONYMS,
            [fitting(ultrasound, **changes)],
        )
    assert ("no approved pixel rule matches it" in str(error.value)) == bool(options)


def test_an_image_that_is_safe_anyway_keeps_its_pixels(ultrasound, tmp_path):
    edit(ultrasound, lambda dataset: setattr(dataset, "BurnedInAnnotation", "NO"))
    profile = Profile.of(["clean-pixels"])
    copy = deidentify(ultrasound, tmp_path / "copy.dcm", profile, PSEUDONYMS, [fitting(ultrasound)])
    assert pydicom.dcmread(copy.path).PixelData == pydicom.dcmread(ultrasound).PixelData


def test_a_report_is_refused_whatever_rules_there_are(ultrasound, tmp_path):
    edit(ultrasound, lambda dataset: setattr(dataset, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.11"))
    with pytest.raises(NotDeidentifiable, match="does not cover its content"):
        deidentify(
            ultrasound, tmp_path / "copy.dcm", Profile.of(["clean-pixels"]), PSEUDONYMS, [fitting(ultrasound)]
        )


def test_compressed_pixels_are_decoded_and_cleaned(tmp_path):
    dataset = sample("SC_rgb_rle_2frame.dcm")
    assert dataset.file_meta.TransferSyntaxUID == RLELossless
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.save_as(tmp_path / "in.dcm")
    given = PixelRegions("all", "", "", "", dataset.Rows, dataset.Columns, (Region(0, 0, 5, 5),))
    copy = deidentify(
        tmp_path / "in.dcm", tmp_path / "copy.dcm", Profile.of(["clean-pixels"]), PSEUDONYMS, [given]
    )
    made = pydicom.dcmread(copy.path)
    assert made.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert not made.pixel_array[:, :5, :5].any() and made.pixel_array.any()
