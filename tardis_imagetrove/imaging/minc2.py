"""Writes MINC2 files: HDF5 laid out as the MINC 2.0 file format reference says.

The layout: https://en.wikibooks.org/wiki/MINC/Reference/MINC2.0_File_Format_Reference.
MINC's world and NIfTI's are the same: x from the patient's left to right, y to the front, z to the head, mm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import h5py
import numpy as np

from .gz import deflated

SPATIAL = ("xspace", "yspace", "zspace")

COMMENTS = {
    "xspace": "X increases from patient left to right",
    "yspace": "Y increases from patient posterior to anterior",
    "zspace": "Z increases from patient inferior to superior",
}

AttributeValue = str | int | float | tuple[float, ...]
Attributes = Mapping[str, Mapping[str, AttributeValue]]


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a volume as MINC describes it: world = start · cosines + index · step · cosines.

    Attributes:
        name: ``xspace``, ``yspace`` or ``zspace``, the world axis that it lies nearest to.
        cosines: unit vector; its component along its own world axis is not negative.
        step: mm between voxels, negative when the index runs against the cosines.
        start: where index 0 is along the axis, in mm; the three starts times their cosines
            add up to the centre of the first voxel.
    """

    name: str
    step: float
    start: float
    cosines: tuple[float, float, float]


@dataclass(frozen=True)
class Minc2Header:
    """What a MINC2 file says beside its voxels.

    Attributes:
        history: one line for each program that had a hand in it.
        attributes: group (``acquisition``, ``study``, ``patient``) to name to value.
        time_start, time_step: of the fourth dimension, seconds.
    """

    history: str = ""
    ident: str = ""
    attributes: Attributes = field(default_factory=dict)
    time_start: float = 0.0
    time_step: float = 1.0


def axes_of(affine: np.ndarray) -> tuple[Axis, Axis, Axis]:
    """MINC's description of a volume's three axes, exact for sheared volumes too.

    Args:
        affine: voxel index (i, j, k) to mm (RAS), shape (4, 4).

    Returns:
        The axes of i, j and k.

    Raises:
        ValueError: the affine has no inverse, so it describes no volume.
    """
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not (steps > 0).all() or abs(np.linalg.det(affine[:3, :3] / steps)) < 1e-6:
        raise ValueError(f"The affine describes no volume: {affine[:3].tolist()}")
    cosines = affine[:3, :3] / steps
    # Each axis gets the name of a world axis of its own: the best of the six ways.
    world = max(permutations(range(3)), key=lambda order: sum(abs(cosines[order[a], a]) for a in range(3)))
    signs = np.array([-1.0 if cosines[world[a], a] < 0 else 1.0 for a in range(3)])
    cosines, steps = cosines * signs, steps * signs
    starts = np.linalg.solve(cosines, affine[:3, 3])
    i, j, k = (
        Axis(SPATIAL[world[a]], float(steps[a]), float(starts[a]), tuple(map(float, cosines[:, a])))
        for a in range(3)
    )
    return i, j, k


def write_minc2(
    path: Path,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    header: Minc2Header | None = None,
) -> None:
    """Write one MINC2 file.

    Args:
        data: stored values, shape (i, j, k) or (i, j, k, time): integers of 8, 16 or 32 bits, floats of
            32 or 64 bits, or a structured type of three bytes (RGB). It may be mapped from a file; a
            slice at a time is read.
        affine: voxel index to mm (RAS), shape (4, 4).
        slope, intercept: from stored to real values. Integers stay as they are stored, and the file says
            their real range; floats are written as real values.

    Raises:
        ValueError: a type of voxel that MINC does not have, or an affine of no volume.
    """
    header = header or Minc2Header()
    axes = axes_of(affine)
    if data.ndim not in (3, 4):
        raise ValueError(f"A MINC volume has 3 or 4 dimensions, this one has {data.ndim}")
    voxels = _Voxels(data, slope, intercept)
    names = [axis.name for axis in reversed(axes)]
    if data.ndim == 4:
        names.insert(0, "time")
    if voxels.is_rgb:
        names.append("vector_dimension")

    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        root = file.create_group("minc-2.0")
        _text(root, "ident", header.ident)
        _text(root, "minc_version", "2.4.05")
        _text(root, "history", header.history)
        _write_dimensions(root.create_group("dimensions"), data.shape, axes, names, header)
        info = root.create_group("info")
        for group, values in header.attributes.items():
            _write_attributes(_variable(info, group, "group________"), values)
        image = root.create_group("image").create_group("0")
        low, high = _write_voxels(image, voxels, names)
        for name, value in (("image-min", low), ("image-max", high)):
            _variable(image, name, "var_attribute", np.float64(value))


@dataclass(frozen=True)
class _Voxels:
    """A volume's slices in MINC's order, with their type and range."""

    data: np.ndarray
    slope: float
    intercept: float

    @property
    def is_rgb(self) -> bool:
        return bool(self.data.dtype.names)

    @property
    def _as_real(self) -> bool:
        return self.data.dtype.kind == "f" and (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def dtype(self) -> np.dtype:
        dtype = self.data.dtype
        if self.is_rgb:
            parts = [dtype[name] for name in dtype.names]
            if [part.str for part in parts] != ["|u1"] * 3:
                raise ValueError(f"MINC does not support voxels of type {dtype}")
            return np.dtype("u1")
        if self._as_real:
            return np.dtype("<f8")
        if dtype.kind in "iu" and dtype.itemsize <= 4 or dtype.kind == "f" and dtype.itemsize in (4, 8):
            return dtype.newbyteorder("<")
        raise ValueError(f"MINC does not support voxels of type {dtype}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape[::-1] + ((3,) if self.is_rgb else ())

    def slices(self) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """Each slice with its index in the file, shape (j, i) or (j, i, 3)."""
        turned = self.data.T
        for index in np.ndindex(turned.shape[:-2]):
            plane = turned[index]
            if self.is_rgb:
                plane = np.stack([plane[name] for name in plane.dtype.names], axis=-1)
            elif self._as_real:
                plane = plane.astype("f8") * self.slope + self.intercept
            yield index, np.ascontiguousarray(plane, dtype=self.dtype)

    def real(self, stored: float) -> float:
        return stored if self._as_real or self.is_rgb else stored * self.slope + self.intercept


def _write_voxels(group: h5py.Group, voxels: _Voxels, names: list[str]) -> tuple[float, float]:
    """Write the image, a chunk for each slice, and return the real values of its valid range's ends."""
    dtype, shape = voxels.dtype, voxels.shape
    plane_axes = 3 if voxels.is_rgb else 2
    image = group.create_dataset(
        "image",
        shape=shape,
        dtype=dtype,
        chunks=(1,) * (len(shape) - plane_axes) + shape[-plane_axes:],
        shuffle=True,
        compression="gzip",
        compression_opts=1,
    )
    least, most = np.inf, -np.inf
    for index, plane in voxels.slices():
        # The filters of HDF5, shuffle and deflate, done here: faster than the library's own.
        shuffled = plane.reshape(-1).view("u1").reshape(-1, dtype.itemsize).T.tobytes()
        image.id.write_direct_chunk(index + (0,) * plane_axes, deflated(shuffled))
        finite = plane[np.isfinite(plane)] if dtype.kind == "f" else plane
        if finite.size:
            least, most = min(least, finite.min()), max(most, finite.max())
    least, most = (0.0, 0.0) if least > most else (float(least), float(most))
    real = (voxels.real(least), voxels.real(most))
    if least == most:
        # Readers divide by the width of the stored range; a real range of no width keeps the value.
        least, most = (
            (least, most + 1) if dtype.kind == "f" or most < np.iinfo(dtype).max else (least - 1, most)
        )
    _text(image, "dimorder", ",".join(names))
    _describe(image, "group________")
    image.attrs.create("valid_range", np.array([least, most]))
    _text(image, "complete", "true_")
    return real


def _write_dimensions(
    group: h5py.Group, shape: tuple[int, ...], axes: tuple[Axis, ...], names: list[str], header: Minc2Header
) -> None:
    for axis, length in zip(axes, shape, strict=False):
        dimension = _variable(group, axis.name, "dimension____")
        dimension.attrs.create("length", np.uint32(length))
        dimension.attrs.create("start", np.float64(axis.start))
        dimension.attrs.create("step", np.float64(axis.step))
        dimension.attrs.create("direction_cosines", np.array(axis.cosines))
        for name, value in (
            ("units", "mm"),
            ("spacing", "regular__"),
            ("alignment", "centre"),
            ("comments", COMMENTS[axis.name]),
        ):
            _text(dimension, name, value)
    if "time" in names:
        dimension = _variable(group, "time", "dimension____")
        dimension.attrs.create("length", np.uint32(shape[3]))
        dimension.attrs.create("start", np.float64(header.time_start))
        dimension.attrs.create("step", np.float64(header.time_step))
        for name, value in (("units", "s"), ("spacing", "regular__"), ("alignment", "start_")):
            _text(dimension, name, value)
    if "vector_dimension" in names:
        dimension = _variable(group, "vector_dimension", "dimension____")
        dimension.attrs.create("length", np.uint32(3))


def _write_attributes(target: h5py.Dataset, values: Mapping[str, AttributeValue]) -> None:
    for name, value in values.items():
        if isinstance(value, str):
            _text(target, name, value)
        else:
            target.attrs.create(name, np.asarray(value, dtype=np.float64))


def _variable(group: h5py.Group, name: str, kind: str, value: np.generic = np.int32(0)) -> h5py.Dataset:  # noqa: B008
    dataset = group.create_dataset(name, data=value)
    _describe(dataset, kind)
    return dataset


def _describe(target: h5py.Dataset, kind: str) -> None:
    _text(target, "varid", "MINC standard variable")
    _text(target, "vartype", kind)
    _text(target, "version", "MINC Version    1.0")


def _text(target: h5py.Dataset | h5py.Group, name: str, value: str) -> None:
    """A null-terminated string of fixed length, which is what libminc reads."""
    encoded = value.encode("utf-8", errors="replace").replace(b"\0", b" ")
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(encoded) + 1)
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    attribute = h5py.h5a.create(target.id, name.encode(), kind, space)
    attribute.write(np.array(encoded, dtype=f"S{len(encoded) + 1}"), mtype=kind)
