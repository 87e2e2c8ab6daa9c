"""The folder that dcm2niix reads, and plain copies of files that it does not read as they are."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.pixels import pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from .headers import Header
from .stack import frame_pixels, has_palette, in_colour

PHILIPS_SCALE_SLOPE = 0x2005100E
"""Private attribute by which dcm2niix makes "precise" values instead of RescaleSlope's."""


class Source:
    """The folder that dcm2niix reads: the series' own when it holds nothing else, or one of links to its
    files, in which each can be replaced or taken away."""

    def __init__(self, headers: Sequence[Header], links: Path) -> None:
        self._names = {header.path: f"{index:06d}.dcm" for index, header in enumerate(headers)}
        self._links = links
        self.linked = False
        parents = {path.parent for path in self._names}
        self.folder = parents.pop()
        if parents or set(self.folder.iterdir()) != set(self._names):
            self._link()

    def _link(self) -> None:
        self._links.mkdir(parents=True)
        for path, name in self._names.items():
            (self._links / name).symlink_to(path.resolve())
        self.folder, self.linked = self._links, True

    def place(self, header: Header) -> Path:
        """Where a file can be changed without changing the series."""
        if not self.linked:
            self._link()
        return self.folder / self._names[header.path]

    def named(self, words: str) -> str:
        """Words of dcm2niix with the series' own names of files."""
        if not self.linked:
            return words
        own = {name: path.name for path, name in self._names.items()}
        return re.sub(r"\d{6}\.dcm", lambda match: own.get(match[0], match[0]), words)


def is_encoded(header: Header) -> bool:
    syntax = UID(header.transfer_syntax)
    return syntax.is_transfer_syntax and (syntax.is_compressed or syntax.is_deflated)


def rewrite(headers: Iterable[Header], source: Source) -> dict[Path, str]:
    """Put copies that are uncompressed and plainly written in the place of a series' files.

    They are without Philips's own scale slopes, so that dcm2niix takes each frame's RescaleSlope.

    Files that cannot be decoded are taken away, since one of them can stop dcm2niix for all.

    Returns:
        Words for those, by file.
    """
    troubles = {}
    for header in headers:
        target = source.place(header)
        philips = "philips" in header.manufacturer.lower()
        if philips and header.plain is not None:
            _replace(target, _without_scale_slopes(header.path.read_bytes(), header.plain.offset))
            continue
        try:
            dataset = pydicom.dcmread(header.path)
            for tag in [tag for tag in dataset.keys() if tag.group in (0x0000, 0x0002)]:  # noqa: SIM118
                del dataset[tag]  # command and file meta elements in the data set cannot be written
            if has_palette(header):
                _write_colours(dataset)
            elif UID(header.transfer_syntax).is_encapsulated:
                dataset.decompress(generate_instance_uid=False)
            else:
                frame_pixels(header, header.frames - 1)  # all of them are there
            if header.photometric.startswith("YBR") and not UID(header.transfer_syntax).is_encapsulated:
                # Uncompressed 4:2:2 has fewer samples than dcm2niix expects.
                dataset.PixelData = pixel_array(dataset).tobytes()
                dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
            elif header.transfer_syntax == ExplicitVRBigEndian:
                # Copying values would swap the headers' bytes but not the pixels'.
                pixels = pixel_array(dataset, raw=True)
                dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
                if "PlanarConfiguration" in dataset:
                    dataset.PlanarConfiguration = 0
            if philips:
                dataset.walk(_drop_scale_slope)
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            written = BytesIO()
            pydicom.dcmwrite(written, dataset, implicit_vr=False, little_endian=True)
            _replace(target, written.getbuffer())
        except Exception as error:  # as many kinds of error as there are decoders
            target.unlink(missing_ok=True)
            troubles[header.path] = (
                f"{header.path.name} ({UID(header.transfer_syntax).name}) could not be decoded: {in_one_line(error)}"
            )
    return troubles


def _replace(target: Path, data: bytes | memoryview) -> None:
    copy = target.with_suffix(".new")
    copy.write_bytes(data)
    copy.replace(target)


_SLOPE = re.compile(rb"\x05\x20\x0e\x10(?=FL\x04\x00|\x04\x00\x00\x00)")


def _without_scale_slopes(data: bytes, pixels: int) -> bytes:
    """A little endian file in which Philips's scale slopes are elements that nobody knows.

    Args:
        pixels: where its pixels begin.
    """
    return _SLOPE.sub(b"\x05\x20\xff\x10", data[:pixels]) + data[pixels:]


def _write_colours(dataset: pydicom.Dataset) -> None:
    """Put the palette's colours in the place of their numbers."""
    colours = in_colour(pixel_array(dataset), dataset)
    dataset.PixelData = colours.tobytes() + b"\0" * (colours.size % 2)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = False
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "RGB", 3, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0


def _drop_scale_slope(dataset: pydicom.Dataset, element: pydicom.DataElement) -> None:
    if element.tag == PHILIPS_SCALE_SLOPE:
        del dataset[element.tag]


_OF_PYTHON = (TypeError, AttributeError, LookupError, NameError, ArithmeticError, struct.error)


def in_one_line(error: Exception, most: int = 240) -> str:
    """An exception's words on one line, cut to a readable length.

    Those of Python itself mean nothing to whoever reads them: a library met values that it had not reckoned with.
    """
    if isinstance(error, _OF_PYTHON) or "reshape" in str(error):
        return "its pixel data and its attributes do not fit each other"
    # pydicom puts a whole traceback into some of its messages.
    words = " ".join(str(error).partition("Traceback (most recent")[0].split()) or type(error).__name__
    return words if len(words) <= most else words[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
