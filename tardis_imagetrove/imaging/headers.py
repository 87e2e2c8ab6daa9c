"""Reads what conversion needs from the headers of a series: pixels or none, planes in space, scaling."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag

from ..formats.dicom.files import UNDEFINED_LENGTH, read_attributes
from ..formats.dicom.vendor import siemens_csa
from .frames import KEYWORDS, Frame, frames_of_header

TAGS = (
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
    *KEYWORDS,
)

_TAG_OF = {keyword: BaseTag(tag_for_keyword(keyword)) for keyword in TAGS}

_READ_PLAINLY = {
    keyword: vr
    for keyword, tag in _TAG_OF.items()
    if (vr := dictionary_VR(tag)) in {"DS", "IS", "UI", "CS", "US", "DA", "TM"}
}
"""Attributes whose bytes are decoded here: pydicom's own objects for them cost most of a header's time."""

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


def read_headers(files: Iterable[Path]) -> tuple[list[Header], list[str]]:
    """The headers of a series' files, by InstanceNumber, and a sentence for each file that has none.

    Pixels are not read: about half a millisecond a file.
    """
    headers, troubles = [], []
    for path in files:
        try:
            headers.append(header_of(path))
        except (
            InvalidDicomError,
            OSError,
            EOFError,
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
        ) as error:
            troubles.append(f"{path.name} could not be read and is left out: {error or type(error).__name__}")
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
    """Whether instance numbers count a stack through, volume by volume or place by place."""
    if any(len({header.instance_number for header in place}) < len(place) for place in places):
        return False
    numbered = sorted((header.instance_number, place) for place, of in enumerate(places) for header in of)
    order = np.array([place for _, place in numbered])
    by_volume = np.sort(order.reshape(-1, len(places)), axis=1)
    by_place = order.reshape(len(places), -1)
    return bool((by_volume == np.arange(len(places))).all() or (by_place == by_place[:, :1]).all())


def header_of(path: Path) -> Header:
    """The header of one Part 10 file.

    Raises:
        InvalidDicomError: the file is no DICOM.
        ValueError: an attribute has a value that cannot be (``Rows`` = "many").
    """
    dataset, pixel_bytes = read_attributes(path, _TAG_OF.values())
    mosaic, tiles, mosaic_planes = 0, (1, 1), None
    kinds = _texts(dataset, "ImageType")
    if "MOSAIC" in kinds:
        dataset, pixel_bytes = read_attributes(path)
        mosaic = _mosaic_slices(dataset)
        tiles = (math.ceil(math.sqrt(mosaic or 1)),) * 2
        mosaic_planes = _mosaic_planes(dataset) if mosaic else None
    elif "VFRAME" in kinds:
        dataset, pixel_bytes = read_attributes(path)
        mosaic, mosaic_planes = _virtual_frames(dataset)
        across = math.ceil(math.sqrt(mosaic or 1))
        tiles = (across, math.ceil((mosaic or 1) / across))
    frames = _whole(dataset, "NumberOfFrames") or 1
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    meta = getattr(dataset, "file_meta", Dataset())
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
        transfer_syntax=str(meta.get("TransferSyntaxUID", "")),
        has_pixels=has_pixels,
        photometric=_text(dataset, "PhotometricInterpretation"),
        pixel_kind=(
            *(_text(dataset, keyword) for keyword in PIXEL_DESCRIPTION),
            str(meta.get("TransferSyntaxUID", "")),
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
        facts=frames_of_header(dataset, frames, lambda keyword: _value(dataset, keyword)),
        oddities=tuple(oddities),
    )


def _whole(dataset: Dataset, keyword: str) -> int:
    """A whole number, 0 when it is absent or empty.

    Raises:
        ValueError: the attribute holds something else; the text names it.
    """
    try:
        return int(_value(dataset, keyword) or 0)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{keyword} is no number ({error})") from None


def _order(dataset: Dataset, keyword: str) -> int:
    """A number that only orders instances, so a bad one is no trouble."""
    try:
        return _whole(dataset, keyword)
    except ValueError:
        return 0


def planes_of(dataset: Dataset, frames: int = 1) -> Planes | None:
    """Where an instance's frames lie: from the image plane module, or the functional groups of an
    enhanced one (PS3.3 C.7.6.2, C.7.6.16.2.3-4), or a dose grid's offsets (C.8.8.3.2).

    Returns:
        ``None`` when any frame's position, orientation or spacing is not said.
    """
    groups = _value(dataset, "PerFrameFunctionalGroupsSequence")
    if groups:
        return _functional_planes(dataset, groups) if len(groups) == frames else None
    found = _plane(
        _value(dataset, "ImagePositionPatient"),
        _value(dataset, "ImageOrientationPatient"),
        _value(dataset, "PixelSpacing"),
    )
    if found is None:
        return None
    position, per_column, per_row = found
    if frames == 1:
        return Planes(position[None], per_column[None], per_row[None])
    offsets = _numbers(_value(dataset, "GridFrameOffsetVector"))
    if len(offsets) != frames:
        return None
    normal = np.cross(per_column, per_row)
    normal /= np.linalg.norm(normal)
    # Relative to the first frame when it begins with zero; otherwise coordinates on the normal.
    along = offsets - (0 if offsets[0] == 0 else position @ normal)
    return Planes(
        position + along[:, None] * normal, np.tile(per_column, (frames, 1)), np.tile(per_row, (frames, 1))
    )


def _functional_planes(dataset: Dataset, groups: Iterable[Dataset]) -> Planes | None:
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]

    def value(group: Dataset, sequence: str, keyword: str) -> object:
        for place in (group, shared):
            if items := place.get(sequence):
                return items[0].get(keyword)
        return None

    planes = []
    for group in groups:
        found = _plane(
            value(group, "PlanePositionSequence", "ImagePositionPatient"),
            value(group, "PlaneOrientationSequence", "ImageOrientationPatient"),
            value(group, "PixelMeasuresSequence", "PixelSpacing"),
        )
        if found is None:
            return None
        planes.append(found)
    return Planes(*(np.array(column) for column in zip(*planes, strict=True)))


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


def _moments(dataset: Dataset, frames: int) -> tuple[int, ...]:
    """TemporalPositionIndex of each frame, or what stands for it in an object of one frame or a plain one."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) == frames:
        contents = [(group.get("FrameContentSequence") or [Dataset()])[0] for group in groups]
        return tuple(int(content.get("TemporalPositionIndex") or 0) for content in contents)
    return (_order(dataset, "TemporalPositionIdentifier"),) * frames


def _times(dataset: Dataset) -> tuple[float, ...]:
    """The values of :data:`TIMES`."""

    def number(keyword: str) -> float:
        found = _numbers(_value(dataset, keyword))
        return float(found[0]) if len(found) == 1 else math.nan

    day = number("AcquisitionDate")
    *others, time = map(number, TIMES)
    return *others, time if math.isnan(day) else day * 1e6 + time


def _scaling(dataset: Dataset, frames: int) -> np.ndarray | None:
    """Slope and intercept of each frame (PS3.3 C.11.1.1.2, C.7.6.16.2.9), or a dose grid's (C.8.8.3).

    Raises:
        ValueError: one is no number; the text names it.
    """
    for keyword in ("RescaleSlope", "DoseGridScaling"):
        if keyword in dataset:
            slope = _real(dataset, keyword, 1)
            intercept = _real(dataset, "RescaleIntercept", 0) if keyword == "RescaleSlope" else 0
            return np.tile([slope, intercept], (frames, 1))
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    pairs = []
    for group in groups:
        items = group.get("PixelValueTransformationSequence") or shared.get(
            "PixelValueTransformationSequence"
        )
        if not items:
            return None
        pairs.append((_real(items[0], "RescaleSlope", 1), _real(items[0], "RescaleIntercept", 0)))
    return np.array(pairs) if len(pairs) == frames and pairs else None


def _real(dataset: Dataset, keyword: str, otherwise: float) -> float:
    value = _value(dataset, keyword)
    try:
        number = float(otherwise if value in (None, "") else value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{keyword} is no number ({error})") from None
    if not math.isfinite(number):
        raise ValueError(f"{keyword} is no number ({value})")
    return number


def _scaling_oddities(dataset: Dataset, scaling: np.ndarray | None) -> Iterator[str]:
    if scaling is not None and (scaling[:, 0] == 0).any():
        yield "RescaleSlope is 0, which says nothing; values are taken with slope 1"
    if scaling is None and dataset.get("ModalityLUTSequence"):
        yield "ModalityLUTSequence is not applied; values are those before it"


def _bits_oddities(dataset: Dataset) -> Iterator[str]:
    """Words when values do not lie in the lowest bits (PS3.3 C.7.6.3.1, High Bit)."""
    stored, high = (_order(dataset, keyword) for keyword in ("BitsStored", "HighBit"))
    if "HighBit" in dataset and stored and high != stored - 1:
        yield f"HighBit is {high} where BitsStored is {stored}; values are taken as if it were {stored - 1}"


def _length_oddities(dataset: Dataset, pixels: int, length: int) -> Iterator[str]:
    """Words when plain pixel data holds more than its attributes say (PS3.5 8.1.1); less cannot be decoded."""
    samples, bits = _whole(dataset, "SamplesPerPixel") or 1, _whole(dataset, "BitsAllocated")
    expected = -(-pixels * samples * bits // 8)
    # One byte makes the length even; some writers pad each frame, or to a multiple of four.
    if bits and length > expected * 1.01 + 64:
        yield (
            f"Pixel data is {length} bytes long where Rows, Columns, NumberOfFrames, SamplesPerPixel and"
            f" BitsAllocated make {expected}"
        )


def _windows(dataset: Dataset) -> np.ndarray:
    places = [dataset]
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        items = dataset.get(sequence) or []
        if items:
            places += list(items[len(items) // 2].get("FrameVOILUTSequence") or [])
    for place in places:
        centres, widths = (_numbers(_value(place, name)) for name in ("WindowCenter", "WindowWidth"))
        if len(centres) and len(centres) == len(widths):
            return np.stack([centres, widths], axis=1)
    return np.empty((0, 2))


def _pixel_size(dataset: Dataset) -> tuple[float, float]:
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    measures = (shared.get("PixelMeasuresSequence") or [Dataset()])[0]
    for value in (
        measures.get("PixelSpacing"),
        _value(dataset, "PixelSpacing"),
        _value(dataset, "ImagerPixelSpacing"),
        _value(dataset, "NominalScannedPixelSpacing"),
        _value(dataset, "PixelAspectRatio"),
    ):
        numbers = _numbers(value)
        if len(numbers) == 2 and (numbers > 0).all():
            return float(numbers[0]), float(numbers[1])
    return 1.0, 1.0


def _mosaic_slices(dataset: Dataset) -> int:
    """Slices in a Siemens mosaic, from its own attribute or its CSA header; 0 when neither says."""
    if (0x0019, 0x100A) in dataset and len(count := _numbers(dataset[0x0019, 0x100A].value)):
        return int(count[0])
    count = siemens_csa(dataset).get("NumberOfImagesInMosaic")
    return int(count[0]) if count else 0


def _mosaic_planes(dataset: Dataset) -> Planes | None:
    """Where the slices of a Siemens mosaic lie; ``None`` when its CSA header is not there."""
    wrappers = _nicom().dicomwrappers
    try:
        wrapper = wrappers.MosaicWrapper(dataset)
        count = wrapper.n_mosaic
        position, normal = np.asarray(wrapper.image_position), np.asarray(wrapper.slice_normal)
        spacing = _numbers(dataset.get("SpacingBetweenSlices"))
    except (wrappers.WrapperError, ValueError, TypeError, AttributeError, KeyError):
        return None
    found = _plane(position, dataset.get("ImageOrientationPatient"), dataset.get("PixelSpacing"))
    if found is None or len(spacing) != 1:
        return None
    along = np.arange(count)[:, None] * normal * spacing[0]
    return Planes(found[0] + along, np.tile(found[1], (count, 1)), np.tile(found[2], (count, 1)))


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


def _nicom() -> ModuleType:
    """nibabel's readers of Siemens headers, without the notice that importing them prints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nibabel.nicom.csareader
        import nibabel.nicom.dicomwrappers
    return nibabel.nicom


def _value(dataset: Dataset, keyword: str) -> object:
    """An attribute's value, ``None`` when it is absent; text of several values keeps its backslashes."""
    if keyword not in dataset:
        return None
    element = dataset.get_item(_TAG_OF[keyword])
    vr = _READ_PLAINLY.get(keyword)
    if vr is None or not isinstance(element, RawDataElement) or element.value is None:
        return dataset[_TAG_OF[keyword]].value
    if vr == "US":
        return int.from_bytes(element.value[:2], "little" if element.is_little_endian else "big")
    return element.value.decode("latin-1").strip(" \0")


def _text(dataset: Dataset, keyword: str) -> str:
    value = _value(dataset, keyword)
    return "" if value is None else str(value)


def _numbers(value: object) -> np.ndarray:
    """Numbers of an attribute's value; none when it is absent, empty, or holds something else."""
    if value is None:
        return np.empty(0)
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str):
        value = [part for part in value.split("\\") if part.strip()]
    try:
        return np.atleast_1d(np.array(value, dtype=float))
    except (ValueError, TypeError):
        return np.empty(0)


def _texts(dataset: Dataset, keyword: str) -> list[str]:
    value = _value(dataset, keyword)
    if value is None:
        return []
    return value.split("\\") if isinstance(value, str) else [str(item) for item in value]
