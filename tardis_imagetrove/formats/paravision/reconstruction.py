"""ParaVision reconstructions: the frames of a ``2dseq``, with place, scaling and frame groups from ``visu_pars``.

Orientation and position mean what DICOM's ImageOrientationPatient and ImagePositionPatient mean (PS3.3 section
C.7.6.2.1.1): patient coordinates (LPS) in mm, position of the centre of the first voxel. Nothing is rotated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .parameters import Parameters, UnreadableParameters, read_parameters
from .study import Place

_WORDS = {
    "_8BIT_UNSGN_INT": "u1",
    "_16BIT_SGN_INT": "i2",
    "_32BIT_SGN_INT": "i4",
    "_32BIT_FLOAT": "f4",
}
_ORDERS = {"littleEndian": "<", "bigEndian": ">"}
#: Types of frames that are half of a complex value.
_COMPLEX = ("REAL_IMAGE", "IMAGINARY_IMAGE", "COMPLEX_IMAGE")
_UNIT = 1e-3
"""How far a direction's length may be from 1, and two directions from a right angle."""


class NotAnImage(UnreadableParameters):
    """A reconstruction that is not an image of real values in space; the text says what it is."""


@dataclass(frozen=True)
class FrameGroup:
    """One axis of a reconstruction's frames (``VisuFGOrderDesc``).

    Attributes:
        name: ``FG_SLICE``, ``FG_ECHO`` …
        comment: what it is, in the protocol's words.
        varying: parameters that have a value for each of its frames.
    """

    length: int
    name: str
    comment: str
    varying: tuple[str, ...]


@dataclass(frozen=True)
class Reconstruction:
    """The frames of one ``2dseq``.

    Attributes:
        size: voxels along the frame's axes, shape (2,) or (3,).
        kind: of stored values.
        groups: axes of the frames; the first runs fastest.
        slopes, offsets: from stored to real values, shape (frames,).
        directions: unit vectors of the frames' axes and normal in patient coordinates, shape (frames, 3, 3), a row each.
        positions: centre of each frame's first voxel in mm, shape (frames, 3).
        spacing: mm between voxels along the frame's axes; for frames of two axes the third is the thickness.
        reversed_slices: the slices of a frame of three axes are stored last first.
        swapped: the axes of a frame that are exchanged on disk (``VisuCoreTransposition``), ``None`` for most.
    """

    place: Place
    parameters: Parameters
    size: tuple[int, ...]
    kind: np.dtype
    groups: tuple[FrameGroup, ...]
    slopes: np.ndarray
    offsets: np.ndarray
    directions: np.ndarray
    positions: np.ndarray
    spacing: tuple[float, float, float]
    reversed_slices: bool
    swapped: tuple[tuple[int, int] | None, ...]

    @property
    def frames(self) -> int:
        return len(self.positions)

    def indices(self) -> np.ndarray:
        """Each frame's index in each group, shape (frames, groups)."""
        lengths = [group.length for group in self.groups]
        if not lengths:
            return np.zeros((1, 0), dtype=int)
        return np.stack(np.unravel_index(np.arange(self.frames), lengths, order="F"), axis=1)

    def numbers(self, name: str, width: int = 1) -> np.ndarray | None:
        """A parameter's ``width`` numbers for each frame, shape (frames, width); ``None`` when it is missing.

        Raises:
            UnreadableParameters: it does not fit the frames or a frame group.
        """
        if name not in self.parameters:
            return None
        return _rows_of(self.parameters.numbers(name), width, name, self.frames, self.groups)

    def texts(self, name: str) -> list[str] | None:
        """A parameter's text for each frame; ``None`` when it is missing or does not fit."""
        found = self.parameters.texts(name)
        if not found:
            return None
        which = _which(len(found), self.frames, self.groups, self.indices(), name)
        return None if which is None else [found[index] for index in which]

    def stored(self) -> np.ndarray:
        """Stored values, mapped from the file: shape (frames, k, j, i) with k = 1 for frames of two axes."""
        columns, rows, *more = self.size
        shape = (self.frames, more[0] if more else 1, rows, columns)
        array = np.memmap(self.place.folder / "2dseq", dtype=self.kind, mode="r", shape=shape)
        return array[:, ::-1] if self.reversed_slices else array

    def frame(self, stored: np.ndarray, index: int) -> np.ndarray:
        """One frame of :meth:`stored`, its axes in the order of ``size``: shape (k, j, i)."""
        found: np.ndarray = stored[index]
        exchanged = self.swapped[index]
        if exchanged is None:
            return found
        first, second = exchanged
        on_disk = list(self.size)
        on_disk[first], on_disk[second] = on_disk[second], on_disk[first]
        if len(on_disk) == 2:
            on_disk.append(1)
        values = np.reshape(np.asarray(found).ravel(), on_disk[::-1])
        return np.swapaxes(values, 2 - first, 2 - second)


def read_reconstruction(place: Place) -> Reconstruction:
    """A reconstruction's description; pixels are read later.

    Raises:
        NotAnImage: spectroscopic, complex, or not in space.
        UnreadableParameters: a parameter is missing, damaged or contradicts the size of ``2dseq``.
        OSError: a file cannot be read now.
    """
    parameters = read_parameters(place.folder / "visu_pars")
    size = tuple(int(number) for number in parameters.numbers("VisuCoreSize"))
    described = parameters.texts("VisuCoreDimDesc")
    if any(word != "spatial" for word in described):
        raise NotAnImage(f"is {', '.join(sorted(set(described)))}, not an image")
    if len(size) not in (2, 3) or min(size) < 1:
        raise NotAnImage(f"has frames of {len(size)} axes, not an image")
    frames = int(parameters.number("VisuCoreFrameCount") or 0)
    if frames < 1:
        raise UnreadableParameters("visu_pars: VisuCoreFrameCount is not a positive number")
    groups = _groups(parameters, frames)
    types = set(parameters.texts("VisuCoreFrameType"))
    if any(group.name == "FG_COMPLEX" for group in groups) or types & set(_COMPLEX):
        raise NotAnImage("contains complex values, which are archived but not converted")
    word, order = str(parameters.need("VisuCoreWordType")), str(parameters.need("VisuCoreByteOrder"))
    if word not in _WORDS or order not in _ORDERS:
        raise UnreadableParameters(f"visu_pars: stored values of an unknown type: {word}, {order}")
    kind = np.dtype(_ORDERS[order] + _WORDS[word])
    _check_length(place.folder / "2dseq", math.prod(size) * frames * kind.itemsize)

    shape = frames, groups
    slopes = _scaling(parameters, "VisuCoreDataSlope", 1.0, *shape)
    offsets = _scaling(parameters, "VisuCoreDataOffs", 0.0, *shape)
    directions = _vectors(parameters, "VisuCoreOrientation", 9, *shape).reshape(frames, 3, 3)
    positions = _vectors(parameters, "VisuCorePosition", 3, *shape)
    products = np.einsum("fij,fkj->fik", directions, directions)
    if not np.allclose(products, np.eye(3), atol=_UNIT):
        raise UnreadableParameters(
            "visu_pars: the axes of VisuCoreOrientation are not at right angles or not of length 1"
        )
    extent = parameters.numbers("VisuCoreExtent")
    if len(extent) != len(size) or not (extent > 0).all() or not np.isfinite(extent).all():
        raise UnreadableParameters("visu_pars: VisuCoreExtent does not give a positive length for each axis")
    units = parameters.texts("VisuCoreUnits")
    if any(unit != "mm" for unit in units):
        raise NotAnImage(f"is measured in {', '.join(sorted(set(units)))}, not in mm")
    spacing = [float(length / count) for length, count in zip(extent, size, strict=True)]
    if len(size) == 2:
        thickness = parameters.number("VisuCoreFrameThickness")
        if not thickness or thickness <= 0:
            raise UnreadableParameters("visu_pars: VisuCoreFrameThickness is not a positive number")
        spacing.append(thickness)
    reverse = parameters.text("VisuCoreDiskSliceOrder") == "disk_reverse_slice_order"
    return Reconstruction(
        place=place,
        parameters=parameters,
        size=size,
        kind=kind,
        groups=groups,
        slopes=slopes,
        offsets=offsets,
        directions=directions,
        positions=positions,
        spacing=(spacing[0], spacing[1], spacing[2]),
        # Frames of two axes have positions of their own, in the order on disk.
        reversed_slices=reverse and len(size) == 3,
        swapped=tuple(_swapped(parameters, size, frames)),
    )


def _check_length(path: Path, expected: int) -> None:
    try:
        length = path.stat().st_size
    except FileNotFoundError:
        raise UnreadableParameters("2dseq is missing") from None
    if length != expected:
        raise UnreadableParameters(f"2dseq has {length} bytes where visu_pars describes {expected}")


def _groups(parameters: Parameters, frames: int) -> tuple[FrameGroup, ...]:
    varying = [str(row[0]) for row in parameters.rows("VisuGroupDepVals") if row]
    groups = []
    for row in parameters.rows("VisuFGOrderDesc"):
        try:
            length, name, comment, first, count = row[:5]
            names = tuple(varying[int(str(first)) : int(str(first)) + int(str(count))])
            groups.append(FrameGroup(int(str(length)), str(name), str(comment), names))
        except (ValueError, TypeError) as error:
            raise UnreadableParameters(f"visu_pars: VisuFGOrderDesc is damaged ({error})") from error
    if not groups and frames > 1:
        groups = [FrameGroup(frames, "FG_SLICE", "", ("VisuCoreOrientation", "VisuCorePosition"))]
    lengths = [group.length for group in groups]
    if any(length < 1 for length in lengths) or math.prod(lengths) != frames:
        raise UnreadableParameters(
            f"visu_pars: VisuFGOrderDesc describes {' x '.join(map(str, lengths))} frames, and VisuCoreFrameCount"
            f" is {frames}"
        )
    return tuple(groups)


def _which(
    count: int, frames: int, groups: tuple[FrameGroup, ...], indices: np.ndarray, name: str
) -> np.ndarray | None:
    """For each frame the index of its value among ``count`` values; ``None`` when they fit no frame group."""
    if count == frames:
        return np.arange(frames)
    if count == 1:
        return np.zeros(frames, dtype=int)
    varying = [index for index, group in enumerate(groups) if name in group.varying]
    if not varying:  # some versions leave the dependency out: the one group of that length
        varying = [index for index, group in enumerate(groups) if group.length == count][:1]
    lengths = [groups[index].length for index in varying]
    if not varying or math.prod(lengths) != count:
        return None
    return np.ravel_multi_index(tuple(indices[:, index] for index in varying), lengths, order="F")


def _rows_of(
    found: np.ndarray, width: int, name: str, frames: int, groups: tuple[FrameGroup, ...]
) -> np.ndarray:
    if not len(found) or len(found) % width:
        raise UnreadableParameters(f"visu_pars: {name} has {len(found)} numbers, not {width} for each frame")
    if not np.isfinite(found).all():
        raise UnreadableParameters(f"visu_pars: {name} has a value that is not a number")
    rows = found.reshape(-1, width)
    lengths = [group.length for group in groups]
    indices = (
        np.stack(np.unravel_index(np.arange(frames), lengths, order="F"), axis=1)
        if lengths
        else np.zeros((1, 0), dtype=int)
    )
    which = _which(len(rows), frames, groups, indices, name)
    if which is None:
        raise UnreadableParameters(f"visu_pars: {name} has {len(rows)} values, which match no frame group")
    chosen: np.ndarray = rows[which]
    return chosen


def _vectors(
    parameters: Parameters, name: str, width: int, frames: int, groups: tuple[FrameGroup, ...]
) -> np.ndarray:
    parameters.need(name)
    return _rows_of(parameters.numbers(name), width, name, frames, groups)


def _scaling(
    parameters: Parameters, name: str, otherwise: float, frames: int, groups: tuple[FrameGroup, ...]
) -> np.ndarray:
    if name not in parameters:
        return np.full(frames, otherwise)
    return _rows_of(parameters.numbers(name), 1, name, frames, groups)[:, 0]


def _swapped(parameters: Parameters, size: tuple[int, ...], frames: int) -> list[tuple[int, int] | None]:
    """The axes that are exchanged on disk, for each frame; equal axes are as the orientation says already."""
    found = parameters.numbers("VisuCoreTransposition").astype(int)
    exchanged: list[tuple[int, int] | None] = []
    for frame in range(frames):
        value = int(found[frame if len(found) == frames else 0]) if len(found) else 0
        first, second = (0, len(size) - 1) if value >= len(size) else (value - 1, value)
        exchanged.append(None if value <= 0 or size[first] == size[second] else (first, second))
    return exchanged
