"""One picture of a series: its middle slices in three planes, or a sheet of its frames."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from nibabel.orientations import apply_orientation, io_orientation
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.pixels import apply_modality_lut

from ..errors import PermanentError
from ..formats.base import DICOM, PARAVISION
from ..imaging.headers import Header
from ..imaging.image import Image
from ..imaging.source import in_one_line
from ..imaging.stack import frame_pixels, in_colour
from .base import DicomSeries, Filter, FilterResult, Makes, Shown, Takes
from .shared import conversion_of, survey_of

Pillow.preinit()  # once in the worker, not in each of its children

WIDTH = 1200
"""Of a picture at most, in pixels; thumbnails are made smaller by the browser."""

HEIGHT = 460
MARGIN = 12
BACKGROUND = (12, 14, 18)
TEXT = (235, 196, 96)
FAINT = (150, 158, 168)

MOST_ON_A_SHEET = 12

LEAST_SLICES = 4
"""A stack of fewer slices has no other planes worth showing."""

THINNEST = 0.12
"""A volume thinner than this part of its longest edge is shown as a sheet too."""

PERCENTILES = (2.0, 98.0)


@dataclass(frozen=True)
class View:
    """One plane of a volume, ready to be drawn.

    Attributes:
        values: real values, rows from the top, shape (rows, columns).
        size: of a voxel in mm, down then across.
        letters: of the left, right, top and bottom edge.
    """

    title: str
    values: np.ndarray
    size: tuple[float, float]
    letters: tuple[str, str, str, str]

    @property
    def millimetres(self) -> tuple[float, float]:
        """Height and width."""
        return self.values.shape[0] * self.size[0], self.values.shape[1] * self.size[1]


PICTURE = Makes("Picture", "image/png", shown_as=Shown.PICTURE, expected=True)


class PictureFilter(Filter):
    """A PNG for the dataset page: three planes by the radiological convention, or a contact sheet."""

    name = "picture"
    title = "Picture"
    version = "1"
    takes = Takes(pixels=True, formats=frozenset({DICOM, PARAVISION}))
    makes = (PICTURE,)

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        if series.format == PARAVISION:
            return self._of_study(series, out)
        found = survey_of(series)
        headers, troubles = found.headers, list(found.troubles)
        drawn_by = f"Pillow {PIL.__version__}"
        if found.skipped:
            return FilterResult(warnings=tuple(troubles), converter=drawn_by, skipped=found.skipped)
        target = out / f"{series.name}.png"
        picture = None
        if is_stack(headers):
            with tempfile.TemporaryDirectory(prefix="picture-", dir=out) as scratch:
                # What the NIfTI lacks is told there; here, only what concerns the picture.
                try:
                    conversion = conversion_of(series, Path(scratch))
                except PermanentError as error:
                    troubles.append(f"Frames are shown instead of three planes: {error}")
                else:
                    image = next(filter(is_volume, conversion.images), None)
                    if image is not None:
                        drawn_by += f", {conversion.converter}"
                        window = window_of(image, headers)
                        if all(header.photometric == "MONOCHROME1" for header in headers):
                            window = window[::-1]  # low values are white (PS3.3 C.7.6.3.1.2)
                        picture = draw_planes(views_of(image), window)
        if picture is None:
            picture, unreadable = draw_sheet(headers)
            troubles += unreadable
        picture.save(target)
        return FilterResult(outputs=(PICTURE.output(target),), warnings=tuple(troubles), converter=drawn_by)

    @staticmethod
    def _of_study(series: DicomSeries, out: Path) -> FilterResult:
        """The first volume of a study in three planes; without one, the middle of its first image."""
        drawn_by = f"Pillow {PIL.__version__}"
        with tempfile.TemporaryDirectory(prefix="picture-", dir=out) as scratch:
            conversion = conversion_of(series, Path(scratch))
            if not conversion.images:
                skipped = conversion.skipped or "The study has no image that could be converted"
                return FilterResult(converter=drawn_by, skipped=skipped)
            image = next(filter(is_volume, conversion.images), conversion.images[0])
            views = views_of(image)
            if not is_volume(image):  # the plane in which it was measured has the most voxels
                views = [max(views, key=lambda view: view.values.size)]
            target = out / f"{series.name}.png"
            draw_planes(views, window_of(image, ())).save(target)
        return FilterResult(
            outputs=(PICTURE.output(target),), converter=f"{drawn_by}, {conversion.converter}"
        )


def is_stack(headers: Sequence[Header]) -> bool:
    """Whether the headers place enough slices in space for a volume."""
    placed = [header.planes for header in headers if header.planes is not None]
    if not placed or any(header.planes is None for header in headers):
        return False
    positions = np.concatenate([planes.positions for planes in placed])
    return len(np.unique(np.round(positions, 2), axis=0)) >= LEAST_SLICES


def is_volume(image: Image) -> bool:
    """Whether an image has slices enough, and is thick enough, for three planes."""
    shape = image.stored().shape[:3]
    edges = np.array(shape) * np.linalg.norm(image.affine[:3, :3], axis=0)
    return image.placed and shape[2] >= LEAST_SLICES and edges.min() >= THINNEST * edges.max()


# Three planes


def views_of(image: Image) -> list[View]:
    """The middle axial, coronal and sagittal plane of an image's first volume.

    The radiological convention: one looks from the patient's feet and front, so the patient's right is
    on the left. Oblique volumes are shown along their own axes, each under the nearest plane's name.
    """
    stored = image.stored()
    stored = stored[..., 0] if stored.ndim > 3 else stored
    orientation = io_orientation(image.affine)
    # Voxel axes turned to left-right, back-front, foot-head: a view of the mapped file, not a copy.
    turned = apply_orientation(stored, orientation)
    sizes = np.linalg.norm(image.affine[:3, :3], axis=0)
    x, y, z = (float(sizes[int(np.flatnonzero(orientation[:, 0] == axis)[0])]) for axis in range(3))
    middle = [length // 2 for length in turned.shape]
    directions = image.affine[:3, :3] / sizes

    def title(name: str, normal: int) -> str:
        """With the angle between the plane and the one that it is named after, from 2 degrees on."""
        axis = directions[:, int(np.flatnonzero(orientation[:, 0] == normal)[0])]
        angle = np.degrees(np.arccos(min(1.0, abs(axis[normal]))))
        return name if angle < 2 else f"{name}, {angle:.0f}\N{DEGREE SIGN} oblique"

    def real(plane: np.ndarray) -> np.ndarray:
        if plane.dtype.names:
            return np.stack([plane[name] for name in plane.dtype.names], axis=-1)
        return np.asarray(plane, dtype=np.float32) * np.float32(image.slope) + np.float32(image.intercept)

    # Rows run down and columns right, so each axis that grows up or leftwards is turned round.
    axial = real(turned[:, :, middle[2]]).swapaxes(0, 1)[::-1, ::-1]
    coronal = real(turned[:, middle[1], :]).swapaxes(0, 1)[::-1, ::-1]
    sagittal = real(turned[middle[0], :, :]).swapaxes(0, 1)[::-1, ::-1]
    return [
        View(title("axial, from the feet", 2), axial, (y, x), ("R", "L", "A", "P")),
        View(title("coronal, from the front", 1), coronal, (z, x), ("R", "L", "S", "I")),
        View(title("sagittal, from the left", 0), sagittal, (z, y), ("A", "P", "S", "I")),
    ]


def window_of(image: Image, headers: Sequence[Header]) -> tuple[float, float]:
    """Black and white of a picture, in real values: the middle instance's window, or percentiles.

    A window that shows next to nothing (a header's zeros, or another image's values) is not used.
    """
    stored = image.stored()
    if stored.dtype.names:
        return 0.0, 255.0
    stored = stored[..., 0] if stored.ndim > 3 else stored
    step = tuple(max(1, length // 64) for length in stored.shape)
    sample = np.asarray(stored[:: step[0], :: step[1], :: step[2]], dtype=np.float64)
    sample = sample * image.slope + image.intercept
    windows = headers[len(headers) // 2].windows if headers else np.empty((0, 2))
    return choose_window(sample, windows)


def choose_window(sample: np.ndarray, windows: np.ndarray) -> tuple[float, float]:
    """The first window of a header that shows a difference in ``sample``, or its percentiles.

    Args:
        sample: real values of the image.
        windows: centre and width, shape (n, 2) (PS3.3 C.11.2.1.2).

    Returns:
        The values for black and for white.
    """
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    # Air fills most of many volumes, so what is shown is judged without its value.
    lowest = float(sample.min())
    body = sample[sample > lowest]
    if body.size < 0.05 * sample.size:
        body = sample
    for centre, width in windows:
        low, high = centre - width / 2, centre + width / 2
        within = body[(body >= low) & (body <= high)]
        if width > 0 and within.size > 0.05 * body.size and np.ptp(np.clip(body, low, high)) > 0.2 * width:
            return float(low), float(high)
    low, high = (float(value) for value in np.percentile(body, PERCENTILES))
    # Air stays black.
    return (min(low, lowest) if lowest >= 0 else low), max(high, low + 1e-6)


def draw_planes(views: Sequence[View], window: tuple[float, float]) -> Pillow.Image:
    """The views side by side in one scale, with the letters of their edges."""
    border, caption = 22, 26
    heights, widths = zip(*(view.millimetres for view in views), strict=True)
    across = (WIDTH - MARGIN * (len(views) + 1) - 2 * border * len(views)) / sum(widths)
    down = (HEIGHT - 2 * MARGIN - 2 * border - caption) / max(heights)
    scale = min(across, down)
    height = round(max(heights) * scale) + 2 * border + caption + 2 * MARGIN
    width = sum(round(w * scale) + 2 * border + MARGIN for w in widths) + MARGIN
    picture = Pillow.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    left = MARGIN
    for view in views:
        tall, wide = (max(1, round(length * scale)) for length in view.millimetres)
        top = MARGIN + border + (round(max(heights) * scale) - tall) // 2
        tile = Pillow.fromarray(to_bytes(view.values, window)).resize((wide, tall), Pillow.BICUBIC)
        picture.paste(tile.convert("RGB"), (left + border, top))
        middle, centre = top + tall // 2, left + border + wide // 2
        for letter, place in zip(
            view.letters,
            (
                (left + border // 2, middle),
                (left + border + wide + border // 2, middle),
                (centre, top - border // 2),
                (centre, top + tall + border // 2),
            ),
            strict=True,
        ):
            _write(draw, place, letter, 17, TEXT)
        _write(draw, (centre, height - MARGIN - caption // 2 + 4), view.title, 15, FAINT)
        left += wide + 2 * border + MARGIN
    return picture


def to_bytes(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Grey levels of real values, from the window's black to its white; colours stay as they are."""
    if values.ndim == 3:
        return np.ascontiguousarray(values, dtype=np.uint8)
    low, high = min(window), max(window)
    black = window[0]
    scaled = (np.nan_to_num(values, nan=black, posinf=high, neginf=low) - low) / max(high - low, 1e-30)
    grey = np.ascontiguousarray((np.clip(scaled, 0, 1) * 255).round(), dtype=np.uint8)
    return grey if black == low else 255 - grey


# Sheets


def draw_sheet(headers: Sequence[Header]) -> tuple[Pillow.Image, list[str]]:
    """A sheet of evenly chosen frames, and words for those that could not be decoded.

    Raises:
        PermanentError: not one could be.
    """
    frames = [(header, index) for header in headers for index in range(header.frames)]
    chosen = [frames[index] for index in evenly(len(frames), MOST_ON_A_SHEET)]
    tiles, troubles = [], []
    for header, index in chosen:
        try:
            tiles.append((frame_picture(header, index), letters_of(header, index)))
        except Exception as error:  # as many kinds of error as there are decoders
            troubles.append(f"{header.path.name}: frame {index + 1} could not be drawn: {in_one_line(error)}")
    if not tiles:
        raise PermanentError("No frame could be drawn. " + "; ".join(troubles))
    return arrange(tiles, len(frames)), troubles


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` indices, evenly apart, with the first and the last."""
    return [round(place) for place in np.linspace(0, count - 1, min(count, most))]


def frame_picture(header: Header, index: int) -> Pillow.Image:
    """One frame in its own colours or its window, with square pixels."""
    pixels = frame_pixels(header, index)
    dataset = dcmread(header.path, stop_before_pixels=True)
    if header.photometric == "PALETTE COLOR" and pixels.ndim == 2:
        pixels = in_colour(pixels, dataset)
    if pixels.ndim == 3:
        if pixels.dtype != np.uint8:
            pixels = (pixels / max(1, np.iinfo(pixels.dtype).max) * 255).astype(np.uint8)
        tile = Pillow.fromarray(np.ascontiguousarray(pixels[..., :3]))
    else:
        if header.scaling is not None:
            slope, intercept = header.scaling[index]
            values = pixels * slope + intercept
        else:
            values = np.asarray(apply_modality_lut(pixels, dataset), dtype=np.float64)
        window = choose_window(values, header.windows)
        if header.photometric == "MONOCHROME1":
            window = window[::-1]
        tile = Pillow.fromarray(to_bytes(values, window)).convert("RGB")
    down, across = header.pixel_size
    if abs(down / across - 1) > 0.01:
        tall = tile.height * down / across
        tile = tile.resize((tile.width, max(1, round(tall))), Pillow.BICUBIC)
    return tile


def letters_of(header: Header, index: int) -> str:
    """Which sides of the patient are at a frame's left and right edge (``RL``); empty if not said."""
    if header.planes is None or header.mosaic:
        return ""
    rightwards = header.planes.per_column[index]
    axis = int(np.abs(rightwards).argmax())
    pair = ("RL", "AP", "IS")[axis]
    return pair if rightwards[axis] > 0 else pair[::-1]


def arrange(tiles: Sequence[tuple[Pillow.Image, str]], total: int) -> Pillow.Image:
    """Tiles in as many columns as make them largest, and how many frames there are in all.

    Args:
        tiles: each with the letters of its left and right edge, or none.
    """
    caption = 26 if total > len(tiles) else 0
    room = (WIDTH - MARGIN, 2 * HEIGHT - MARGIN)
    wide, tall = max(tile.width for tile, _ in tiles), max(tile.height for tile, _ in tiles)

    def scale(columns: int) -> float:
        rows = -(-len(tiles) // columns)
        return min(
            (room[0] / columns - MARGIN) / wide,
            (min(room[1], (HEIGHT * (1 if len(tiles) == 1 else 2))) / rows - MARGIN) / tall,
        )

    columns = max(range(1, len(tiles) + 1), key=scale)
    rows = -(-len(tiles) // columns)
    factor = min(scale(columns), 4.0)
    cell = (max(1, round(wide * factor)), max(1, round(tall * factor)))
    picture = Pillow.new(
        "RGB",
        (
            columns * (cell[0] + MARGIN) + MARGIN,
            rows * (cell[1] + MARGIN) + MARGIN + caption,
        ),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(picture)
    for number, (tile, letters) in enumerate(tiles):
        size = (max(1, round(tile.width * factor)), max(1, round(tile.height * factor)))
        left = MARGIN + number % columns * (cell[0] + MARGIN) + (cell[0] - size[0]) // 2
        top = MARGIN + number // columns * (cell[1] + MARGIN) + (cell[1] - size[1]) // 2
        picture.paste(tile.resize(size, Pillow.BICUBIC), (left, top))
        if letters and min(size) >= 80:
            for letter, across in zip(letters, (left + 9, left + size[0] - 9), strict=True):
                _write(draw, (across, top + size[1] // 2), letter, 15, TEXT)
    if caption:
        _write(
            draw,
            (picture.width // 2, picture.height - caption // 2 - 2),
            f"{len(tiles)} of {total} frames",
            15,
            FAINT,
        )
    return picture


def _write(
    draw: ImageDraw.ImageDraw, centre: tuple[int, int], text: str, size: int, colour: tuple[int, int, int]
) -> None:
    try:
        font = ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one small font only
        font = ImageFont.load_default()
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    draw.text((centre[0] - (left + right) / 2, centre[1] - (top + bottom) / 2), text, fill=colour, font=font)
