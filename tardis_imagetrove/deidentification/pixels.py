"""Clean pixels (PS3.15 section E.3.1): regions of an image that hold burned-in text are blacked out.

Which regions, a table says: a device writes names at the same places of all images of one size.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydicom import pixels
from pydicom.dataset import Dataset

from .bulk import is_in_big_endian_words

_LOSSY = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.203",
)
"""Transfer syntaxes that lose something: baseline and extended JPEG, near-lossless JPEG-LS, JPEG 2000, HTJ2K."""


class CannotClean(ValueError):
    """Regions of an image cannot be blacked out; the text says why and names nobody."""


class Region(NamedTuple):
    """A rectangle of an image in pixels, from its left upper corner, which is 0, 0."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class PixelRegions:
    """What is blacked out in the images of a device.

    Attributes:
        modality, manufacturer, model: as images state them, in letters of any case; an empty one fits all.
        rows, columns: size of the image.
        regions: what is blacked out.
    """

    name: str
    modality: str
    manufacturer: str
    model: str
    rows: int
    columns: int
    regions: tuple[Region, ...]

    def fits(self, dataset: Dataset) -> bool:
        """Whether it is for an image, by its attributes as they were received."""
        stated = (
            (self.modality, "Modality"),
            (self.manufacturer, "Manufacturer"),
            (self.model, "ManufacturerModelName"),
        )
        return (dataset.get("Rows"), dataset.get("Columns")) == (self.rows, self.columns) and all(
            not wanted or str(dataset.get(keyword, "")).strip().casefold() == wanted.strip().casefold()
            for wanted, keyword in stated
        )


def black_out(dataset: Dataset, regions: Iterable[Region]) -> None:
    """Black out regions in all frames of an image; compressed ones are decoded and stay uncompressed.

    Args:
        regions: what of them lies outside of the image is ignored.

    Raises:
        CannotClean: its pixels cannot be decoded, or are not of a kind that is known.
    """
    if "PixelData" not in dataset:
        raise CannotClean("has no pixels that could be cleaned")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _to_plain_samples(dataset)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise errors of many kinds
        raise CannotClean(
            f"has pixels that cannot be decoded to be cleaned ({type(error).__name__})"
        ) from None
    frames = _frames(dataset)
    black = _black(dataset, frames)
    for left, top, width, height in regions:
        frames[:, top : top + height, left : left + width] = black
    content = np.moveaxis(frames, -1, 1) if _is_planar(dataset) else frames
    data = content.tobytes()
    data += b"\0" * (len(data) % 2)
    dataset.PixelData = _swapped(data) if is_in_big_endian_words(dataset) else data


def _to_plain_samples(dataset: Dataset) -> None:
    """Have uncompressed pixels with as many samples of each colour as there are pixels."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        dataset.decompress(generate_instance_uid=False)
        if syntax in _LOSSY:
            dataset.LossyImageCompression = "01"
    elif dataset.PhotometricInterpretation == "YBR_FULL_422":
        dataset.PixelData = pixels.pixel_array(dataset, raw=True).tobytes()
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "YBR_FULL", 0


def _is_planar(dataset: Dataset) -> bool:
    return int(dataset.get("SamplesPerPixel", 1) or 1) > 1 and dataset.get("PlanarConfiguration") == 1


def _swapped(data: bytes) -> bytes:
    return bytes(np.frombuffer(data, "<u2").byteswap().tobytes())


def _frames(dataset: Dataset) -> np.ndarray[Any, Any]:
    """The samples: frames, rows, columns, samples; a copy that may be written to."""
    bits = int(dataset.BitsAllocated)
    if bits not in (8, 16, 32):
        raise CannotClean(f"has pixels of {bits} bits, which cannot be cleaned")
    kind = "i" if int(dataset.get("PixelRepresentation", 0) or 0) else "u"
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    samples = int(dataset.get("SamplesPerPixel", 1) or 1)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    size = count * rows * columns * samples
    if size * bits // 8 > len(dataset.PixelData):
        raise CannotClean("has fewer pixels than its header states")
    data = _swapped(dataset.PixelData) if is_in_big_endian_words(dataset) else dataset.PixelData
    values = np.frombuffer(data, f"{order}{kind}{bits // 8}", size)
    by_sample = (count, samples, rows, columns)
    frames: np.ndarray[Any, Any] = (
        np.moveaxis(values.reshape(by_sample), 1, -1)
        if _is_planar(dataset)
        else values.reshape(count, rows, columns, samples)
    )
    copied: np.ndarray[Any, Any] = frames.copy()
    return copied


def _black(dataset: Dataset, frames: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | int:
    """The value of a black pixel, or one for each sample (PS3.3 C.7.6.3.1.2)."""
    kind = str(dataset.PhotometricInterpretation)
    if kind == "MONOCHROME1":
        return int(frames.max())
    if kind == "MONOCHROME2":
        return int(frames.min())
    if kind == "RGB":
        return 0
    if kind.startswith("YBR"):
        grey = 1 << (int(dataset.BitsAllocated) - 1)
        return np.array([0, grey, grey], frames.dtype)
    if kind == "PALETTE COLOR":
        indices = np.arange(int(frames.max()) + 1, dtype=frames.dtype)
        colours = pixels.apply_color_lut(indices, dataset)
        return int(colours.sum(axis=-1, dtype=np.int64).argmin())
    raise CannotClean("has pixels of a kind that is not known")
