"""Volumes from headers and decoded pixels alone, for what dcm2niix does not read, or reads wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, iter_pixels
from pydicom.uid import UID

from .frames import CLOCKS, TRAITS, Value
from .headers import Header, Plain, Planes

Owner = tuple[Header, int]
"""A slice: the instance that holds it, and which of its slices it is."""

FRAME_CLOCKS = CLOCKS[:3]
"""Clocks that order the frames of a multi-frame object which has no temporal positions."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

POSITION_TOLERANCE_MM = 0.02
"""How far a slice may lie from where an image's even grid puts it before it is told. Scanners write
positions with three or more decimals."""

PART_OF_PIXEL = 0.1
"""The same as a part of a pixel's size, where that is less: a microscanner's slices are some micrometres apart."""

COUNTS_IN_COLOUR = {"NM", "PT"}
"""Modalities whose pixels are counts even where a palette says how to show them (PS3.3 C.8.4.8.1.1)."""

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


# Pixels


def has_palette(header: Header) -> bool:
    """Its pixels are numbers of colours, and mean nothing without them (PS3.3 C.7.6.3.1.5)."""
    return header.photometric == "PALETTE COLOR" and header.modality not in COUNTS_IN_COLOUR


def in_colour(pixels: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Colours of a palette's numbers, 8 bits each: one more axis, of three."""
    coloured = apply_color_lut(pixels, dataset)[..., :3]
    return coloured if coloured.dtype == np.uint8 else (coloured >> 8).astype(np.uint8)


def frames_of(header: Header, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """Pixels of some frames of an instance, decoded one after the other while the file is read once.

    Colours are RGB. Shape (rows, columns) or (rows, columns, 3).

    Raises:
        Exception: of the decoder's own kinds.
    """
    if header.plain is not None:
        yield from _plain_frames(header, header.plain, frames)
        return
    deflated = UID(header.transfer_syntax).is_deflated
    source = pydicom.dcmread(header.path) if deflated else header.path
    colours = pydicom.dcmread(header.path, stop_before_pixels=True) if has_palette(header) else None
    for pixels in iter_pixels(source, indices=frames):
        yield pixels if colours is None else in_colour(pixels, colours)


def _plain_frames(header: Header, plain: Plain, frames: Sequence[int]) -> Iterator[np.ndarray]:
    kind = np.dtype(plain.dtype)
    count = header.rows * header.columns
    unused = 8 * kind.itemsize - plain.stored
    with header.path.open("rb", buffering=0) as file:
        for frame in frames:
            if not 0 <= frame < header.frames:
                raise ValueError(f"{header.path.name} has no frame {frame + 1}")
            file.seek(plain.offset + frame * count * kind.itemsize)
            pixels = np.fromfile(file, kind, count).reshape(header.rows, header.columns)
            # What lies in the bits that do not count is no part of a value (PS3.5 8.1.1).
            yield (pixels << unused) >> unused if unused else pixels


def frame_pixels(header: Header, frame: int) -> np.ndarray:
    """One frame's pixels, as :func:`frames_of` gives them."""
    return next(frames_of(header, [frame]))


# Geometry


def position_tolerance(planes: Planes) -> float:
    """How far a slice of ``planes`` may lie from its place before it is told, or is at another place, mm."""
    if not len(planes):
        return POSITION_TOLERANCE_MM
    sizes = np.linalg.norm(np.concatenate([planes.per_column, planes.per_row]), axis=1)
    return min(POSITION_TOLERANCE_MM, PART_OF_PIXEL * float(sizes.min()))


def affine_from(
    planes: Planes, columns: int, rows: int, flip_i: bool, flip_j: bool, thickness: float = 1.0
) -> np.ndarray:
    """The affine of a stack of evenly spaced slices, by the equation of PS3.3 C.7.6.2.1.1.

    Args:
        planes: of the slices in order.
        flip_i, flip_j: the volume's first axis runs against the columns, its second against the rows.
        thickness: mm between slices when there is one slice only.

    Returns:
        Voxel index (i, j, k) to mm in patient coordinates (LPS), shape (4, 4).
    """
    per_column, per_row = planes.per_column[0], planes.per_row[0]
    if len(planes) > 1:
        per_slice = (planes.positions[-1] - planes.positions[0]) / (len(planes) - 1)
    else:
        normal = np.cross(per_column, per_row)
        per_slice = normal / np.linalg.norm(normal) * thickness
    affine = np.eye(4)
    affine[:3, 0] = -per_column if flip_i else per_column
    affine[:3, 1] = -per_row if flip_j else per_row
    affine[:3, 2] = per_slice
    affine[:3, 3] = planes.positions[0] + flip_i * per_column * (columns - 1) + flip_j * per_row * (rows - 1)
    return affine


def unevenness(
    affine: np.ndarray, planes: Planes, columns: int, rows: int, flip_i: bool, flip_j: bool
) -> float:
    """The largest distance of a slice's corner from its place in the even grid ``affine``, mm."""
    worst = 0.0
    for i, j in ((0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)):
        column, row = (columns - 1 - i if flip_i else i), (rows - 1 - j if flip_j else j)
        said = planes.positions + planes.per_column * column + planes.per_row * row
        k = np.arange(len(planes))
        even = affine[:3, 3] + affine[:3, 0] * i + affine[:3, 1] * j + k[:, None] * affine[:3, 2]
        worst = max(worst, float(np.linalg.norm(said - even, axis=1).max()))
    return worst


# Stacks


@dataclass(frozen=True)
class Stack:
    """Slices of one matrix and orientation, evenly apart, each place there as often as the others.

    Attributes:
        columns, rows: of a slice.
        planes: where the slices lie, in order along the normal of the first.
        owners: whose they are, ``owners[k][t]`` for slice k of volume t: the instance, and which of its slices.
        traits: what tells it from other stacks at its places: indices into :data:`TRAITS` with their values.
        acquisition: its AcquisitionNumber, if only that tells it from other stacks; otherwise ``None``.
    """

    columns: int
    rows: int
    planes: Planes
    owners: tuple[tuple[Owner, ...], ...]
    traits: tuple[tuple[int, Value], ...] = ()
    acquisition: int | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Columns, rows, slices, volumes."""
        return self.columns, self.rows, len(self.owners), len(self.owners[0])

    @property
    def middle(self) -> tuple[Owner, ...]:
        """The owner of the middle slice of each volume."""
        return self.owners[len(self.owners) // 2]

    def volumes(self, chosen: Sequence[int]) -> Stack:
        """The stack with some of its volumes only."""
        return replace(self, owners=tuple(tuple(place[t] for t in chosen) for place in self.owners))


def stacks_of(headers: Iterable[Header]) -> list[Stack] | None:
    """The stacks that a series' slices make; ``None`` when any of them is in none.

    Slices at one place that differ in a trait (tube voltage, kernel, echo, phase, ...) are in stacks of their own.
    """
    groups: dict[tuple, list[Owner]] = {}
    for header in headers:
        if header.planes is None:
            return None
        directions = np.concatenate([header.planes.per_column, header.planes.per_row], axis=1)
        for index, direction in enumerate(np.round(directions, 3) + 0.0):
            groups.setdefault((header.slice_matrix, *direction), []).append((header, index))
    stacks: list[Stack] = []
    for owners in groups.values():
        found = _stacks_at_one_orientation(owners)
        if found is None:
            return None
        stacks += found
    return stacks


def _stacks_at_one_orientation(owners: Sequence[Owner]) -> list[Stack] | None:
    repeated = [place for place in places_of(owners) if len(place) > 1]
    traits = [
        trait
        for trait in range(len(TRAITS))
        if repeated and all(len({_trait(owner, trait) for owner in place}) > 1 for place in repeated)
    ]
    if traits:
        parts: dict[tuple[Value, ...], list[Owner]] = {}
        for owner in owners:
            parts.setdefault(tuple(_trait(owner, trait) for trait in traits), []).append(owner)
        stacks = [stack_of(part) for part in parts.values()]
        if None not in stacks:
            told = [tuple(zip(traits, values, strict=True)) for values in parts]
            order = sorted(range(len(told)), key=lambda n: [_sortable(value) for _, value in told[n]])
            return [replace(stacks[n], traits=told[n]) for n in order]
    if (whole := stack_of(owners)) is not None:
        return [whole]
    # Passes over overlapping ranges, each with places of its own, are told apart by nothing but their number.
    passes: dict[int, list[Owner]] = {}
    for owner in owners:
        passes.setdefault(owner[0].acquisition_number, []).append(owner)
    alone = {place[0][0].acquisition_number for place in places_of(owners) if len(place) == 1}
    stacks = [stack_of(part) for _, part in sorted(passes.items())]
    if not repeated or len(passes) < 2 or None in stacks or alone != passes.keys():
        return None
    return [replace(stack, acquisition=number) for number, stack in zip(sorted(passes), stacks, strict=True)]


def _trait(owner: Owner, trait: int) -> Value:
    return owner[0].facts_of(owner[1]).traits[trait]


def _sortable(value: Value) -> tuple[bool, bool, float | str]:
    return value is None, isinstance(value, str), 0.0 if value is None else value


def places_of(owners: Sequence[Owner]) -> list[list[Owner]]:
    """Slices of one orientation by place, in order along the normal of the first."""
    planes = Planes.joined(header.planes[index : index + 1] for header, index in owners)
    return [[owners[index] for index in place] for place in _places(planes)]


def _places(planes: Planes) -> list[list[int]]:
    """Indices of planes by place, in order along the normal of the first."""
    normal = np.cross(planes.per_column[0], planes.per_row[0])
    along = planes.positions @ (normal / np.linalg.norm(normal))
    order = np.argsort(along, kind="stable")
    starts = np.flatnonzero(np.diff(along[order], prepend=-np.inf) > position_tolerance(planes))
    return [sorted(place.tolist()) for place in np.split(order, starts[1:])]


def stack_of(owners: Sequence[Owner]) -> Stack | None:
    """One stack of slices that have one matrix and orientation.

    Volumes are ordered by their temporal position, then by instance and frame.

    Returns:
        ``None`` when the slices are not evenly apart, or some places are there more often than others.
    """
    columns, rows = owners[0][0].slice_matrix
    planes = Planes.joined(header.planes[index : index + 1] for header, index in owners)
    tolerance = position_tolerance(planes)
    places = _places(planes)
    if len({len(place) for place in places}) != 1:
        return None
    if any(np.ptp(planes.positions[place], axis=0).max() > tolerance for place in places):
        return None
    distinct = planes[[place[0] for place in places]]
    affine = affine_from(distinct, columns, rows, False, False)
    if unevenness(affine, distinct, columns, rows, False, False) > tolerance:
        return None
    clock = _clock(owners, places)

    def moment(index: int) -> tuple[float, ...]:
        header, within = owners[index]
        time = 0.0 if clock is None else header.facts_of(within).clocks[clock]
        return header.moments[header.frame_of(within)], time, index

    told = tuple(tuple(owners[index] for index in sorted(place, key=moment)) for place in places)
    return Stack(columns, rows, distinct, told)


def _clock(owners: Sequence[Owner], places: Sequence[Sequence[int]]) -> int | None:
    """The clock that orders frames of multi-frame objects at every place, if there is one."""
    if all(header.frames == 1 for header, _ in owners) or len(places[0]) < 2:
        return None
    for clock in range(len(FRAME_CLOCKS)):
        times = [[owners[i][0].facts_of(owners[i][1]).clocks[clock] for i in place] for place in places]
        if all(len(set(place)) == len(place) and not np.isnan(place).any() for place in times):
            return clock
    return None


def stack_times_differ(stack: Stack) -> bool:
    """Whether temporal positions or a clock order the volumes, not only instance numbers."""
    if any(
        len({header.moments[header.frame_of(i)] for header, i in place}) < len(place)
        for place in stack.owners
    ):
        flat = [owner for place in stack.owners for owner in place]
        size = stack.shape[3]
        return (
            _clock(flat, [list(range(k * size, (k + 1) * size)) for k in range(stack.shape[2])]) is not None
        )
    return True


def write_stack(
    path: Path,
    stack: Stack,
    flips: tuple[bool, bool] = (False, True),
    header: nibabel.Nifti1Header | None = None,
) -> None:
    """Write a stack as an uncompressed NIfTI-1 file, a slice at a time.

    Integers that have one slope and intercept stay as they are stored; if slopes differ, real values are
    written as floats.

    Args:
        flips: the volume's first axis runs against the columns, its second against the rows.
        header: whose other fields are kept.

    Raises:
        ValueError: frames of different or unsuitable types.
        Exception: of the decoders' own kinds.
    """
    kind, scaling = _storage(stack)
    written = header.copy() if header is not None else nibabel.Nifti1Header()
    affine = LPS_TO_RAS @ affine_from(
        stack.planes, stack.columns, stack.rows, *flips, thickness=_thickness(stack, header)
    )
    shape = stack.shape if stack.shape[3] > 1 else stack.shape[:3]
    step = float(header["pixdim"][4]) if header is not None else 0.0  # not known
    written.set_data_dtype(kind)
    written.set_data_shape(shape)
    sizes = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    written.set_zooms((*sizes, step) if len(shape) > 3 else sizes)
    written.set_xyzt_units("mm", "sec")
    written.set_sform(affine, code=int(written["sform_code"]) or 1)
    written["qform_code"] = 0  # the quaternion cannot say what leans
    written.set_slope_inter(*(scaling or (1.0, 0.0)))
    written["vox_offset"] = 352
    plane_bytes = stack.columns * stack.rows * kind.itemsize
    # By file, so that each is read once, whatever the order of its frames.
    places: dict[Path, tuple[Header, dict[int, list[tuple[int, int]]]]] = {}
    for k, place in enumerate(stack.owners):
        for t, (owner, index) in enumerate(place):
            _, frames = places.setdefault(owner.path, (owner, {}))
            frames.setdefault(owner.frame_of(index), []).append(
                (index, 352 + (t * len(stack.owners) + k) * plane_bytes)
            )
    with path.open("wb") as file:
        written.write_to(file)
        for owner, frames in places.values():
            order = sorted(frames)
            for frame, decoded in zip(order, frames_of(owner, order), strict=True):
                for index, offset in frames[frame]:
                    pixels = owner.tile_of(decoded, index)
                    if pixels.shape != (stack.rows, stack.columns, *((3,) if kind == RGB else ())):
                        raise ValueError(f"{owner.path.name} has pixels of another shape than the others")
                    if scaling is None and owner.scaling is not None:
                        pixels = pixels * owner.scaling[frame][0] + owner.scaling[frame][1]
                    plane = pixels[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
                    file.seek(offset)
                    file.write(np.ascontiguousarray(plane, dtype="u1" if kind == RGB else kind).tobytes())


def _storage(stack: Stack) -> tuple[np.dtype, tuple[float, float] | None]:
    """The type of a stack's voxels, and the slope and intercept that they all have; ``None`` when each
    frame's own are worked in."""
    owners = [owner for place in stack.owners for owner in place]
    firsts = [
        frame_pixels(*first) for first in {h.pixel_kind: (h, h.frame_of(i)) for h, i in owners}.values()
    ]
    if firsts[0].ndim == 3:
        return RGB, (1.0, 0.0)
    stored = np.result_type(*firsts)
    scalings = {(1.0, 0.0) if h.scaling is None else tuple(h.scaling[h.frame_of(i)]) for h, i in owners}
    if scalings == {(1.0, 0.0)} or (len(scalings) == 1 and stored.kind in "iu"):
        return stored.newbyteorder("<"), scalings.pop()
    # Single precision holds 16 bits and a slope to a part in ten millions.
    narrow = stored.itemsize <= 2 or len(scalings) > 1 and stored == np.float32
    return np.dtype("<f4" if narrow else "<f8"), None


def _thickness(stack: Stack, header: nibabel.Nifti1Header | None) -> float:
    """Of a single slice: what the file said before, or 1 mm."""
    said = float(header["pixdim"][3]) if header is not None else 0.0
    return said if said > 0 else 1.0
