"""Reads what conversion needs from the headers of a series: pixels or none, planes in space, scaling."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from ..formats.dicom.attributes import Attributes, Instance, Read, number_of, numbers_of, read, tag_of
from ..formats.dicom.files import UNDEFINED_LENGTH, read_attributes
from ..formats.dicom.vendor import siemens_csa, typed_value
from .frames import OF_FRAMES, Frame, frames_of_header

KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "Manufacturer",
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "AcquisitionDate",
    "AcquisitionTime",
    "FrameReferenceTime",
    "TriggerTime",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "SpacingBetweenSlices",
    "GridFrameOffsetVector",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "DoseGridScaling",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    *OF_FRAMES,
)

TAGS = frozenset(map(tag_of, KEYWORDS)) | {
    *(0x00190010, 0x0019100A, 0x00191029),  # Siemens: slices of a mosaic, and their times
    *(0x0019100C, 0x0019100E),  # diffusion, in its way, and of Philips and United Imaging
    *(0x20010010, 0x20011003, 0x20050010, 0x200510B0, 0x200510B1, 0x200510B2),
    *(0x00650010, 0x00651009, 0x00651037),
    *(0x00290010, 0x00291010, 0x00290011, 0x00291110),  # and its CSA header
}
"""Tags of what is read of each instance."""

PIXEL_DESCRIPTION = (
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)

TIMES = ("FrameReferenceTime", "AcquisitionNumber", "TriggerTime", "AcquisitionTime")
"""What may tell instances at one place apart, the surest first; AcquisitionTime with its date."""

MOMENTS = {"FrameReferenceTime", "TriggerTime"}
"""Those that count from one beginning, so that slices of one volume have the same."""

ORTHOGONAL = 0.5
"""Cosine of the angle that a header's rows and columns must have at least; what is near is used as it is."""


@dataclass(frozen=True)
class Planes:
    """Where an instance's slices lie, in the patient coordinates of PS3.3 C.7.6.2.1.1 (LPS, mm).

    Attributes:
        positions: centre of the first pixel, shape (n, 3).
        per_column: step from a pixel to the one in the next column, shape (n, 3).
        per_row: step from a pixel to the one in the next row, shape (n, 3).
    """

    positions: np.ndarray
    per_column: np.ndarray
    per_row: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: object) -> Planes:
        return Planes(self.positions[index], self.per_column[index], self.per_row[index])

    @staticmethod
    def joined(several: Iterable[Planes]) -> Planes:
        parts = list(several)
        return Planes(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("positions", "per_column", "per_row")
            )
        )


@dataclass(frozen=True)
class Plain:
    """Pixels that stand in a file as they are: one sample, little endian, whole.

    Attributes:
        offset: of the first frame in the file.
        stored: bits of each number that count.
    """

    offset: int
    dtype: str
    stored: int


@dataclass(frozen=True)
class Header:
    """What conversion needs to know of one instance.

    Attributes:
        frames: pixel frames in the file (a mosaic is one frame).
        slices: images of the patient in it (a mosaic holds many).
        has_pixels: it has a pixel data element, and a matrix.
        photometric: PhotometricInterpretation.
        pixel_kind: all that says how pixels are stored and scaled, alike for instances that are read alike.
        mosaic: slices in a mosaic (Siemens) or virtual frame (United Imaging), 0 when it is none.
        tiles: across and down such a mosaic; (1, 1) when it is none.
        planes: where its slices lie, ``None`` when the header does not say.
        moments: orders the frames at one place in time, one whole number a frame.
        times: the values of :data:`TIMES`; ``nan`` for what is not said.
        scaling: rescale slope and intercept of each frame, shape (frames, 2); ``None`` without.
        windows: window centre and width, shape (m, 2), as the header gives them.
        pixel_size: height and width of a pixel, in mm or against each other; (1, 1) when not said.
        facts: what each frame shows, one a frame.
        oddities: words for what it says that cannot be right, and that images are made in spite of.
        slice_times: of a mosaic's slices, ms; empty if the header has none.
        plain: how its pixels are read without a decoder; ``None`` if they need one.
    """

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    modality: str
    transfer_syntax: str
    has_pixels: bool
    photometric: str
    pixel_kind: tuple[object, ...]
    rows: int
    columns: int
    frames: int
    mosaic: int
    tiles: tuple[int, int]
    manufacturer: str
    instance_number: int
    temporal_position: int
    acquisition_number: int
    planes: Planes | None
    moments: tuple[int, ...]
    times: tuple[float, ...]
    scaling: np.ndarray | None
    windows: np.ndarray
    pixel_size: tuple[float, float]
    facts: tuple[Frame, ...] = ()
    oddities: tuple[str, ...] = ()
    slice_times: tuple[float, ...] = ()
    plain: Plain | None = None

    @property
    def slices(self) -> int:
        return self.mosaic or self.frames

    @property
    def slice_matrix(self) -> tuple[int, int]:
        """Columns and rows of one slice."""
        return self.columns // self.tiles[0], self.rows // self.tiles[1]

    def frame_of(self, index: int) -> int:
        """The frame that holds slice ``index``."""
        return 0 if self.mosaic else index

    def facts_of(self, index: int) -> Frame:
        """The facts of slice ``index``."""
        return self.facts[self.frame_of(index)]

    def tile_of(self, pixels: np.ndarray, index: int) -> np.ndarray:
        """Slice ``index`` of its frame's pixels."""
        if not self.mosaic:
            return pixels
        columns, rows = self.slice_matrix
        top, left = index // self.tiles[0] * rows, index % self.tiles[0] * columns
        return pixels[top : top + rows, left : left + columns]


def read_headers(instances: Iterable[Instance]) -> tuple[list[Header], list[str]]:
    """The headers of a series, by InstanceNumber, and a sentence for each file that has none."""
    headers, troubles = [], []
    for instance in instances:
        if instance.found is None:
            troubles.append(f"{instance.trouble}; it is left out")
            continue
        try:
            headers.append(header_of(instance.path, instance.found))
        except (ValueError, TypeError, AttributeError, KeyError, IndexError, ArithmeticError) as error:
            words = str(error) if isinstance(error, ValueError) else "its header is damaged"
            troubles.append(f"{instance.path.name}: {words}; it is left out")
    headers.sort(key=lambda header: (header.instance_number, header.sop_instance_uid))
    return in_time(headers), troubles


def in_time(headers: list[Header]) -> list[Header]:
    """The headers with moments for single frames that TemporalPositionIdentifier does not put into volumes.

    Of a stack with several instances at each place, whose TemporalPositionIdentifier says nothing, the order at a
    place is that of the first of the times that differ there. Where instance numbers count the stack through it is
    theirs, unless the same few moments of a cycle or a study are at every place.
    """
    told = {id(header): header for header in headers}
    for places in repeats(headers):
        stack = [header for place in places for header in place]
        if len({header.moments for header in stack}) > 1:
            continue
        numbered = counts_through(places)
        for name, times in zip(TIMES, zip(*(header.times for header in stack), strict=True), strict=True):
            by_place = np.array(times).reshape(len(places), -1)
            ordered = np.sort(by_place, axis=1)
            if np.isnan(ordered).any() or not (np.diff(ordered, axis=1) > 0).all():
                continue
            if numbered and not (name in MOMENTS and (ordered == ordered[0]).all()):
                continue
            ranks = by_place.argsort(axis=1).argsort(axis=1).ravel()
            for header, rank in zip(stack, ranks.tolist(), strict=True):
                told[id(header)] = replace(header, moments=(rank + 1,))
            break
    return [told[id(header)] for header in headers]


def repeats(headers: Iterable[Header]) -> list[list[list[Header]]]:
    """Stacks of single frames that have several instances, as many, at each place: instances by place by stack."""
    stacks: dict[tuple, dict[tuple, list[Header]]] = {}
    for header in headers:
        if header.planes is None or header.slices != 1:
            continue
        directions = np.concatenate([header.planes.per_column[0], header.planes.per_row[0]])
        stack = stacks.setdefault((header.slice_matrix, *(np.round(directions, 3) + 0.0)), {})
        stack.setdefault(tuple(np.round(header.planes.positions[0], 4) + 0.0), []).append(header)
    found = [list(stack.values()) for stack in stacks.values()]
    return [places for places in found if len({len(place) for place in places}) == 1 and len(places[0]) > 1]


def counts_through(places: Sequence[Sequence[Header]]) -> bool:
    """Whether instance numbers count a stack through: volume by volume, place by place, or in equal blocks of some
    volumes, place by place in each."""
    if any(len({header.instance_number for header in place}) < len(place) for place in places):
        return False
    numbered = sorted((header.instance_number, place) for place, of in enumerate(places) for header in of)
    order = np.array([place for _, place in numbered])
    volumes = len(order) // len(places)
    for run in (size for size in range(1, volumes + 1) if volumes % size == 0):
        blocks = order.reshape(-1, len(places), run)
        same = (blocks == blocks[:, :, :1]).all()
        if same and (np.sort(blocks[:, :, 0], axis=1) == np.arange(len(places))).all():
            return True
    return False


def header_of(path: Path, found: Read | None = None) -> Header:
    """The header of one Part 10 file.

    Args:
        found: what was read of it; it is read if it was not.

    Raises:
        InvalidDicomError: the file is no DICOM.
        ValueError: an attribute has a value that cannot be (``Rows`` = "many").
    """
    found = found or read(path, TAGS)
    dataset, pixel_bytes, syntax = found.attributes, found.pixel_bytes, found.transfer_syntax
    mosaic, tiles, mosaic_planes = 0, (1, 1), None
    csa: Mapping[str, Sequence[object]] = {}
    kinds = _text(dataset, "ImageType").split("\\")
    if "MOSAIC" in kinds:
        csa = siemens_csa(dataset, _OF_CSA)
        mosaic = _mosaic_slices(dataset, csa)
        tiles = (math.ceil(math.sqrt(mosaic or 1)),) * 2
        mosaic_planes = _mosaic_planes(dataset, csa) if mosaic else None
    elif "VFRAME" in kinds:
        whole, _ = read_attributes(path)
        mosaic, mosaic_planes = _virtual_frames(whole)
        across = math.ceil(math.sqrt(mosaic or 1))
        tiles = (across, math.ceil((mosaic or 1) / across))
    frames = _whole(dataset, "NumberOfFrames") or 1
    if frames < 0:
        raise ValueError(f"NumberOfFrames is {frames}")
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    has_pixels = pixel_bytes is not None and rows > 0 and columns > 0
    scaling = _scaling(dataset, frames)
    planes = mosaic_planes if mosaic else planes_of(dataset, frames)
    oddities = [*_scaling_oddities(dataset, scaling), *_bits_oddities(dataset)] if has_pixels else []
    if has_pixels and pixel_bytes != UNDEFINED_LENGTH:
        oddities += _length_oddities(dataset, rows * columns * frames, pixel_bytes)
    if scaling is not None:
        scaling[scaling[:, 0] == 0, 0] = 1
    return Header(
        path=path,
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        sop_class_uid=_text(dataset, "SOPClassUID"),
        modality=_text(dataset, "Modality"),
        transfer_syntax=syntax,
        has_pixels=has_pixels,
        photometric=_text(dataset, "PhotometricInterpretation"),
        pixel_kind=(
            *(_text(dataset, keyword) for keyword in PIXEL_DESCRIPTION),
            syntax,
            None if scaling is None else tuple(scaling[0]),
        ),
        rows=rows,
        columns=columns,
        frames=frames,
        mosaic=mosaic,
        tiles=tiles,
        manufacturer=_text(dataset, "Manufacturer"),
        instance_number=_order(dataset, "InstanceNumber"),
        temporal_position=_order(dataset, "TemporalPositionIdentifier"),
        acquisition_number=_order(dataset, "AcquisitionNumber"),
        planes=planes,
        moments=_moments(dataset, frames),
        times=_times(dataset),
        scaling=scaling,
        windows=_windows(dataset),
        pixel_size=_pixel_size(dataset),
        facts=frames_of_header(dataset, frames),
        oddities=tuple(oddities),
        slice_times=_slice_times(dataset, csa, mosaic),
        plain=_plain(found, rows * columns * frames) if has_pixels else None,
    )


def _plain(found: Read, pixels: int) -> Plain | None:
    """How an instance's pixels are read without a decoder, if they can be."""
    dataset = found.attributes
    bits, stored, sign = (
        _order(dataset, keyword) for keyword in ("BitsAllocated", "BitsStored", "PixelRepresentation")
    )
    if (
        found.pixel_offset is None
        or found.pixel_tag != 0x7FE00010
        or UID(found.transfer_syntax).is_encapsulated
        or not found.pixel_bytes
        or bits not in (8, 16, 32)
        or not 0 < stored <= bits
        or sign not in (0, 1)
        or _order(dataset, "SamplesPerPixel") != 1
        or not _text(dataset, "PhotometricInterpretation").startswith("MONOCHROME")
        or pixels * bits // 8 > found.pixel_bytes
        or found.pixel_offset + found.pixel_bytes > found.size
    ):
        return None
    return Plain(found.pixel_offset, f"<{'ui'[sign]}{bits // 8}", stored)


def _whole(dataset: Attributes, keyword: str) -> int:
    """A whole number, 0 when it is absent or empty.

    Raises:
        ValueError: the attribute holds something else; the text names it.
    """
    value = dataset.get(keyword)
    try:
        return int(value or 0)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(_no_number(keyword, value)) from None


def _no_number(keyword: str, value: object) -> str:
    shown = "\\".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{keyword} is not a number ({shown[:40]})"


def _order(dataset: Attributes, keyword: str) -> int:
    """A number that only orders instances, so a bad one is no trouble."""
    try:
        return _whole(dataset, keyword)
    except ValueError:
        return 0


def planes_of(dataset: Attributes, frames: int = 1) -> Planes | None:
    """Where an instance's frames lie: from the image plane module, or the functional groups of an
    enhanced one (PS3.3 C.7.6.2, C.7.6.16.2.3-4), or a dose grid's offsets (C.8.8.3.2).

    Returns:
        ``None`` when any frame's position, orientation or spacing is not said.
    """
    groups = dataset.items("PerFrameFunctionalGroupsSequence")
    if groups:
        return _functional_planes(dataset, groups) if len(groups) == frames else None
    found = _plane(
        dataset.get("ImagePositionPatient"),
        dataset.get("ImageOrientationPatient"),
        dataset.get("PixelSpacing"),
    )
    if found is None:
        return None
    position, per_column, per_row = found
    if frames == 1:
        return Planes(position[None], per_column[None], per_row[None])
    offsets = _numbers(dataset.get("GridFrameOffsetVector"))
    if len(offsets) != frames:
        return None
    normal = np.cross(per_column, per_row)
    normal /= np.linalg.norm(normal)
    # Relative to the first frame when it begins with zero; otherwise coordinates on the normal.
    along = offsets - (0 if offsets[0] == 0 else position @ normal)
    return Planes(
        position + along[:, None] * normal, np.tile(per_column, (frames, 1)), np.tile(per_row, (frames, 1))
    )


def _functional_planes(dataset: Attributes, groups: Sequence[Attributes]) -> Planes | None:
    shared = dataset.first("SharedFunctionalGroupsSequence")
    found: list[tuple[float, ...]] = []
    for group in groups:
        numbers: tuple[float, ...] = ()
        for sequence, keyword, count in _PLACE:
            item = group.first(sequence) or (shared and shared.first(sequence))
            values = numbers_of(item.get(keyword)) if item else ()
            if len(values) != count:
                return None
            numbers += values
        found.append(numbers)
    table = np.array(found)
    position, across, down, spacing = table[:, :3], table[:, 3:6], table[:, 6:9], table[:, 9:]
    lengths = np.linalg.norm(across, axis=1), np.linalg.norm(down, axis=1)
    if not np.isfinite(table).all() or not (spacing > 0).all() or min(map(np.min, lengths)) < ORTHOGONAL:
        return None
    if (np.abs(np.einsum("ij,ij->i", across, down)) > ORTHOGONAL * lengths[0] * lengths[1]).any():
        return None
    return Planes(position, across * spacing[:, 1:], down * spacing[:, :1])


_PLACE = (
    ("PlanePositionSequence", "ImagePositionPatient", 3),
    ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
    ("PixelMeasuresSequence", "PixelSpacing", 2),
)
"""Functional groups, attributes and numbers that place a frame (PS3.3 C.7.6.16.2.1, .3 and .4)."""


def _plane(
    position: object, orientation: object, spacing: object
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    position, orientation, spacing = _numbers(position), _numbers(orientation), _numbers(spacing)
    if (len(position), len(orientation), len(spacing)) != (3, 6, 2) or not (spacing > 0).all():
        return None
    across, down = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if not np.isfinite([*position, *orientation, *spacing]).all() or min(lengths) < ORTHOGONAL:
        return None
    if abs(across @ down) > ORTHOGONAL * lengths[0] * lengths[1]:
        return None
    # PixelSpacing: between rows first, then between columns (PS3.3 10.7.1.3).
    return position, across * spacing[1], down * spacing[0]


def _moments(dataset: Attributes, frames: int) -> tuple[int, ...]:
    """TemporalPositionIndex of each frame, or what stands for it in an object of one frame or a plain one."""
    groups = dataset.items("PerFrameFunctionalGroupsSequence")
    if len(groups) == frames:
        contents = (group.first("FrameContentSequence") for group in groups)
        return tuple(int(content.get("TemporalPositionIndex") or 0) if content else 0 for content in contents)
    return (_order(dataset, "TemporalPositionIdentifier"),) * frames


def _times(dataset: Attributes) -> tuple[float, ...]:
    """The values of :data:`TIMES`."""

    def number(keyword: str) -> float:
        found = numbers_of(dataset.get(keyword))
        return found[0] if len(found) == 1 else math.nan

    day = number("AcquisitionDate")
    *others, time = map(number, TIMES)
    return *others, time if math.isnan(day) else day * 1e6 + time


def _scaling(dataset: Attributes, frames: int) -> np.ndarray | None:
    """Slope and intercept of each frame (PS3.3 C.11.1.1.2, C.7.6.16.2.9), or a dose grid's (C.8.8.3).

    Raises:
        ValueError: one is no number; the text names it.
    """
    for keyword in ("RescaleSlope", "DoseGridScaling"):
        if keyword in dataset:
            slope = _real(dataset, keyword, 1)
            intercept = _real(dataset, "RescaleIntercept", 0) if keyword == "RescaleSlope" else 0
            return np.tile([slope, intercept], (frames, 1))
    shared = dataset.first("SharedFunctionalGroupsSequence")
    pairs = []
    for group in dataset.items("PerFrameFunctionalGroupsSequence"):
        item = group.first("PixelValueTransformationSequence") or (
            shared and shared.first("PixelValueTransformationSequence")
        )
        if not item:
            return None
        pairs.append((_real(item, "RescaleSlope", 1), _real(item, "RescaleIntercept", 0)))
    return np.array(pairs) if len(pairs) == frames and pairs else None


def _real(dataset: Attributes, keyword: str, otherwise: float) -> float:
    value = dataset.get(keyword)
    try:
        number = float(otherwise if value in (None, "") else value)
    except (ValueError, TypeError):
        raise ValueError(_no_number(keyword, value)) from None
    if not math.isfinite(number):
        raise ValueError(_no_number(keyword, value))
    return number


def _scaling_oddities(dataset: Attributes, scaling: np.ndarray | None) -> Iterator[str]:
    if scaling is not None and (scaling[:, 0] == 0).any():
        yield "RescaleSlope is 0, which says nothing; values are taken with slope 1"
    if scaling is None and dataset.items("ModalityLUTSequence"):
        yield "ModalityLUTSequence is not applied; values are those before it"


def _bits_oddities(dataset: Attributes) -> Iterator[str]:
    """Words when values do not lie in the lowest bits (PS3.3 C.7.6.3.1, High Bit)."""
    stored, high = (_order(dataset, keyword) for keyword in ("BitsStored", "HighBit"))
    if "HighBit" in dataset and stored and high != stored - 1:
        yield f"HighBit is {high} where BitsStored is {stored}; values are taken as if it were {stored - 1}"


def _length_oddities(dataset: Attributes, pixels: int, length: int) -> Iterator[str]:
    """Words when plain pixel data holds more than its attributes say (PS3.5 8.1.1); less cannot be decoded."""
    samples, bits = _whole(dataset, "SamplesPerPixel") or 1, _whole(dataset, "BitsAllocated")
    expected = -(-pixels * samples * bits // 8)
    # One byte makes the length even; some writers pad each frame, or to a multiple of four.
    if bits and length > expected * 1.01 + 64:
        yield (
            f"Pixel data is {length} bytes long where Rows, Columns, NumberOfFrames, SamplesPerPixel and"
            f" BitsAllocated make {expected}"
        )


def _windows(dataset: Attributes) -> np.ndarray:
    places = [dataset]
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        items = dataset.items(sequence)
        if items:
            places += items[len(items) // 2].items("FrameVOILUTSequence")
    for place in places:
        centres, widths = (_numbers(place.get(name)) for name in ("WindowCenter", "WindowWidth"))
        if len(centres) and len(centres) == len(widths):
            return np.stack([centres, widths], axis=1)
    return np.empty((0, 2))


def _pixel_size(dataset: Attributes) -> tuple[float, float]:
    shared = dataset.first("SharedFunctionalGroupsSequence")
    measures = shared and shared.first("PixelMeasuresSequence")
    for value in (
        measures and measures.get("PixelSpacing"),
        dataset.get("PixelSpacing"),
        dataset.get("ImagerPixelSpacing"),
        dataset.get("NominalScannedPixelSpacing"),
        dataset.get("PixelAspectRatio"),
    ):
        numbers = _numbers(value)
        if len(numbers) == 2 and (numbers > 0).all():
            return float(numbers[0]), float(numbers[1])
    return 1.0, 1.0


def _mosaic_slices(dataset: Attributes, csa: Mapping[str, Sequence[object]]) -> int:
    """Slices in a Siemens mosaic, from its own attribute or its CSA header; 0 when neither says."""
    count = typed_value(dataset.private("SIEMENS MR HEADER", 0x0019, 0x0A), "US")
    if isinstance(count, int):
        return count
    told = csa.get("NumberOfImagesInMosaic")
    return int(number_of(told[0])) if told else 0


def _mosaic_planes(dataset: Attributes, csa: Mapping[str, Sequence[object]]) -> Planes | None:
    """Where the slices of a Siemens mosaic lie; ``None`` when its CSA header is not there.

    ImagePositionPatient is that of a slice as large as the mosaic, around the first slice's centre
    (https://nipy.org/nibabel/dicom/dicom_mosaic.html).
    """
    count = int(number_of(told[0])) if (told := csa.get("NumberOfImagesInMosaic")) else 0
    spacing = numbers_of(dataset.get("SpacingBetweenSlices"))
    found = _plane(
        *(dataset.get(name) for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    )
    if count < 1 or found is None or len(spacing) != 1:
        return None
    position, per_column, per_row = found
    across = math.ceil(math.sqrt(count))
    rows, columns = (
        (size - size / across) / 2 for size in (_whole(dataset, "Rows"), _whole(dataset, "Columns"))
    )
    normal = np.cross(per_row, per_column)
    normal /= np.linalg.norm(normal)
    stated = _numbers(tuple(csa.get("SliceNormalVector", ())))
    if len(stated) == 3:
        if abs(abs(stated @ normal) - 1) > 1e-4:
            return None
        normal *= np.sign(stated @ normal)
    first = position + per_column * columns + per_row * rows
    along = np.arange(count)[:, None] * normal * spacing[0]
    return Planes(first + along, np.tile(per_column, (count, 1)), np.tile(per_row, (count, 1)))


_OF_CSA = frozenset({"NumberOfImagesInMosaic", "SliceNormalVector", "MosaicRefAcqTimes"})


def _slice_times(dataset: Attributes, csa: Mapping[str, Sequence[object]], mosaic: int) -> tuple[float, ...]:
    """When the slices of a Siemens mosaic were taken, ms."""
    times = typed_value(dataset.private("SIEMENS MR HEADER", 0x0019, 0x29), "FD") if mosaic else None
    found = tuple(times) if isinstance(times, list) else numbers_of(tuple(csa.get("MosaicRefAcqTimes", ())))
    return found if len(found) == mosaic else ()


def _virtual_frames(dataset: Dataset) -> tuple[int, Planes | None]:
    """How many slices United Imaging put side by side into one frame, and where they lie; 0 for none."""
    try:
        private = dataset.private_block(0x0065, "Image Private Header")
        count = int(_numbers(private[0x50].value)[0])
        positions = [item.get("ImagePositionPatient") for item in private[0x51].value]
    except (KeyError, IndexError):
        return 0, None
    directions = dataset.get("ImageOrientationPatient"), dataset.get("PixelSpacing")
    found = [_plane(position, *directions) for position in positions]
    if len(found) != count or any(plane is None for plane in found):
        return count, None
    return count, Planes(*(np.array(column) for column in zip(*found, strict=True)))


def _text(dataset: Attributes, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value)


def _numbers(value: object) -> np.ndarray:
    """Numbers of an attribute's value; none when it is absent, empty, or holds something else."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if value is None or isinstance(value, (str, int, float, tuple)):
        return np.array(numbers_of(value))
    try:
        return np.atleast_1d(np.array(value, dtype=float))
    except (ValueError, TypeError):
        return np.empty(0)
