"""Pictures: the patient's sides where the letters say, true proportions, and something to see."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from tardis_imagetrove.filters.picture import (
    PictureFilter,
    choose_window,
    evenly,
    frame_picture,
    letters_of,
    views_of,
    window_of,
)
from tardis_imagetrove.formats.dicom.attributes import read_instances
from tardis_imagetrove.imaging import volume
from tardis_imagetrove.imaging.headers import TAGS, header_of
from tardis_imagetrove.phantom import AXIAL, tilted

from .conftest import ORIENTATIONS
from .truth import edit, timed_out

HEAD = {"slices": 40, "rows": 48, "columns": 44, "pixel_spacing": (4.5, 5.0), "slice_spacing": 5.0}


@pytest.fixture
def views(phantom, tmp_path):
    def make(**options):
        files = phantom(**{**HEAD, "centre": (0, 0, 0), **options})
        conversion = volume.convert(volume.survey(read_instances(files, TAGS), "head"), tmp_path / "scratch")
        return conversion, views_of(conversion.images[0])

    return make


def centre_of(mask):
    """Of the true pixels, as parts of the height and width."""
    rows, columns = np.nonzero(mask)
    return rows.mean() / mask.shape[0], columns.mean() / mask.shape[1]


@pytest.mark.parametrize("reverse", [False, True], ids=["upward", "downward"])
@pytest.mark.parametrize(
    "name", ["axial", "coronal", "sagittal", "feet first"], ids=lambda name: name.replace(" ", "-")
)
def test_the_patients_left_is_on_the_right_and_the_nose_in_front(views, name, reverse):
    orientation = ORIENTATIONS[name] if name != "feet first" else (-1, 0, 0, 0, -1, 0)
    _, (axial, coronal, sagittal) = views(orientation=orientation, reverse=reverse)
    assert axial.letters == ("R", "L", "A", "P")
    assert coronal.letters == ("R", "L", "S", "I")
    assert sagittal.letters == ("A", "P", "S", "I")
    # The bright ball: on the left, behind the middle, in the axial plane.
    row, column = centre_of(axial.values > 3000)
    assert column > 0.55
    assert row > 0.5
    # The slope of brightness of the phantom, which rises to the left, the front and the head.
    for view, across, down in ((axial, 1, -1), (coronal, 1, -1), (sagittal, -1, -1)):
        white = np.where((view.values > 1900) & (view.values < 2900), view.values, np.nan)
        middle = np.array(white.shape) // 2
        assert across * (np.nanmean(white[:, middle[1] :]) - np.nanmean(white[:, : middle[1]])) > 0, (
            view.title
        )
        assert down * (np.nanmean(white[middle[0] :]) - np.nanmean(white[: middle[0]])) > 0, view.title


def test_oblique_planes_say_their_angle(views):
    _, (axial, coronal, _) = views(orientation=tilted(AXIAL, (20, 0, 0)))
    assert axial.title == "axial, from the feet, 20° oblique"
    assert coronal.title == "coronal, from the front, 20° oblique"


def test_proportions_are_those_in_millimetres(views, phantom, run):
    _, made = views()
    axial, coronal, sagittal = (view.millimetres for view in made)
    assert axial == pytest.approx((48 * 4.5, 44 * 5.0))
    assert coronal == pytest.approx((40 * 5.0, 44 * 5.0))
    assert sagittal == pytest.approx((40 * 5.0, 48 * 4.5))
    _, out = run(PictureFilter, phantom(**HEAD))
    picture = Image.open(out / "0003_t1.png")
    assert picture.width <= 1200
    assert picture.height <= 460
    assert picture.width > 900


def test_the_window_is_the_headers_and_else_percentiles():
    values = np.concatenate([np.zeros(5000), np.linspace(100, 1100, 1000)])
    assert choose_window(values, np.array([[600.0, 400.0], [1, 2]])) == (400, 800)
    low, high = choose_window(values, np.empty((0, 2)))
    assert (low, high) == pytest.approx((0, 1080))


@pytest.mark.parametrize("window", [(0, 0), (1e6, 100), (50_000, 100_000), (-500, 10)])
def test_a_window_that_shows_nothing_is_not_used(window):
    values = np.concatenate([np.zeros(5000), np.linspace(100, 1100, 1000)])
    assert choose_window(values, np.array([window], float)) == pytest.approx((0, 1080))


def test_the_window_of_a_series_is_in_rescaled_values(views):
    conversion, _ = views(
        overrides={"RescaleSlope": "2", "RescaleIntercept": "-1000", "WindowCenter": "2000"}
    )
    assert window_of(conversion.images[0], conversion.headers) == (500, 3500)


def test_a_volume_of_one_value_or_without_any_is_drawn(phantom, run):
    files = phantom()
    for path in files:
        edit(path, lambda dataset: setattr(dataset, "PixelData", bytes(len(dataset.PixelData))))
    result, out = run(PictureFilter, files)
    assert result.warnings == ()
    assert Image.open(out / "0003_t1.png").width > 300


def test_scanner_made_series_are_drawn_in_three_planes(philips, siemens, run):
    for files in (philips, siemens):
        result, out = run(PictureFilter, files)
        assert result.warnings == ()
        assert "dcm2niix" in result.converter
        picture = Image.open(out / "0003_t1.png")
        assert picture.width > 900


def test_ultrasound_frames_are_a_sheet_in_colour(run):
    path = Path(get_testdata_file("examples_ybr_color.dcm"))
    result, out = run(PictureFilter, [path])
    picture = np.asarray(Image.open(out / "0003_t1.png"))
    assert picture.shape[0] > 600, "several rows of frames"
    assert result.warnings == ()


def test_a_single_colour_image_is_shown_as_it_is(run):
    path = Path(get_testdata_file("examples_rgb_color.dcm"))
    expected = Image.fromarray(pydicom.dcmread(path).pixel_array)
    tile = frame_picture(header_of(path), 0)
    assert np.array_equal(np.asarray(tile), np.asarray(expected))
    _, out = run(PictureFilter, [path])
    drawn = Image.open(out / "0003_t1.png")
    assert drawn.width / drawn.height == pytest.approx(expected.width / expected.height, rel=0.05)


def test_palette_colours_are_looked_up():
    tile = np.asarray(frame_picture(header_of(Path(get_testdata_file("examples_palette.dcm"))), 0))
    assert (tile.max(axis=2) - tile.min(axis=2)).max() > 100


def test_monochrome1_is_drawn_white_as_low(phantom):
    path = phantom(slices=1, pixel_spacing=(4, 4))[0]
    plain = np.asarray(frame_picture(header_of(path), 0), int)
    edit(path, lambda dataset: setattr(dataset, "PhotometricInterpretation", "MONOCHROME1"))
    assert np.array_equal(np.asarray(frame_picture(header_of(path), 0), int), 255 - plain)


def test_pixels_that_are_not_square_are_drawn_in_proportion(phantom):
    path = phantom(slices=1, pixel_spacing=(6, 2), rows=20, columns=30)[0]
    assert frame_picture(header_of(path), 0).size == (30, 60)


@pytest.mark.parametrize(
    ("name", "letters"), [("axial", "RL"), ("coronal", "RL"), ("sagittal", "AP"), ("feet first", "LR")]
)
def test_frames_on_a_sheet_have_their_sides_marked(phantom, name, letters):
    path = phantom(slices=1, orientation=ORIENTATIONS[name])[0]
    assert letters_of(header_of(path), 0) == letters


def test_many_frames_are_a_choice_from_first_to_last():
    assert evenly(5, 12) == [0, 1, 2, 3, 4]
    assert evenly(1, 12) == [0]
    chosen = evenly(1000, 12)
    assert len(chosen) == 12
    assert (chosen[0], chosen[-1]) == (0, 999)
    assert set(np.diff(chosen)) <= {90, 91}


def test_what_has_no_pixels_is_skipped_and_no_failure(run):
    for name in ("test-SR.dcm", "rtplan.dcm", "waveform_ecg.dcm"):
        result, out = run(PictureFilter, [Path(get_testdata_file(name))])
        assert result.outputs == ()
        assert "no pixels" in result.skipped
        assert list(out.iterdir()) == []


def test_frames_that_cannot_be_decoded_are_named_and_the_others_drawn(phantom, run):
    files = phantom(slices=2)
    files[1].write_bytes(files[1].read_bytes()[:-100])
    result, out = run(PictureFilter, files)
    assert (out / "0003_t1.png").exists()
    assert any(files[1].name in words for words in result.warnings)


def test_a_series_that_dcm2niix_cannot_convert_still_has_a_picture(phantom, run, monkeypatch):
    monkeypatch.setattr(volume, "run_dcm2niix", timed_out)
    result, out = run(PictureFilter, phantom())
    assert (out / "0003_t1.png").exists()
    assert any("Frames are shown instead of three planes" in words for words in result.warnings)


def test_a_monochrome1_volume_is_drawn_white_as_low(phantom, run):
    files = phantom(**HEAD)
    _, out = run(PictureFilter, files)
    plain = np.asarray(Image.open(out / "0003_t1.png").convert("L"), int)
    for path in files:
        edit(path, lambda dataset: setattr(dataset, "PhotometricInterpretation", "MONOCHROME1"))
    _, out = run(PictureFilter, files)
    inverted = np.asarray(Image.open(out / "0003_t1.png").convert("L"), int)
    # Inside the left plane, clear of its letters.
    inside = slice(100, 300), slice(60, 160)
    assert np.abs(plain[inside] + inverted[inside] - 255).max() <= 1
    assert np.ptp(plain[inside]) > 100
