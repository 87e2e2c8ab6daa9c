"""Diffusion gradients: FSL's bval and bvec, and directions in patient and world coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .frames import Frame

NOT_WEIGHTED = 10.0
"""b-value in s/mm^2 up to which a volume counts as not diffusion weighted, and needs no direction."""

SAME_DIRECTION_DEGREES = 2.0
SAME_B_VALUE = 0.02
"""Part by which two b-values may differ, beside 5 s/mm^2, and be the same."""

Table = tuple[np.ndarray, np.ndarray]
"""b-values in s/mm^2, shape (n,), and directions in the image's axes as FSL's bvec, shape (3, n)."""


def image_axes(affine: np.ndarray) -> np.ndarray:
    """Unit vectors of the image's axes as columns, for FSL's convention: RAS, shape (3, 3).

    FSL counts the first axis the other way where the determinant is positive.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.linalg.det(axes) > 0:
        axes = axes * [-1, 1, 1]
    return axes


def world_directions(bvec: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Directions of a bvec, shape (3, n), in the image's world (RAS), the same shape."""
    return image_axes(affine) @ bvec


def table_of(frames: Sequence[Frame], affine: np.ndarray) -> Table | None:
    """The gradients of volumes by DiffusionBValue and DiffusionGradientOrientation (PS3.3 C.8.13.5.9).

    Args:
        frames: one a volume.
        affine: voxel index to mm (RAS), shape (4, 4).

    Returns:
        ``None`` when no volume is weighted, a b-value is missing, or no weighted volume has a direction.
    """
    b_values = np.array([frame.b_value for frame in frames])
    if np.isnan(b_values).any() or b_values.max() <= NOT_WEIGHTED:
        return None
    if all(frame.gradient is None for frame in frames if frame.b_value > NOT_WEIGHTED):
        return None
    axes = image_axes(affine)
    directions = np.zeros((3, len(frames)))
    for volume, frame in enumerate(frames):
        if frame.gradient is not None and frame.b_value > 0:
            # An oblique stack may lean, so the axes need not be orthogonal.
            inside = np.linalg.solve(axes, np.array(frame.gradient) * [-1, -1, 1])
            directions[:, volume] = inside / np.linalg.norm(inside)
    return b_values, directions + 0.0


def difference(one: Table, other: Table) -> str:
    """How two tables differ, in words; empty when they are the same."""
    if len(one[0]) != len(other[0]):
        return f"{len(one[0])} and {len(other[0])} volumes"
    apart = np.abs(one[0] - other[0])
    if (apart > 5 + SAME_B_VALUE * np.maximum(one[0], other[0])).any():
        volume = int(apart.argmax())
        return f"b-values of {one[0][volume]:g} and {other[0][volume]:g} s/mm\N{SUPERSCRIPT TWO} in volume {volume + 1}"
    angles = []
    for volume in range(len(one[0])):
        lengths = np.linalg.norm(one[1][:, volume]), np.linalg.norm(other[1][:, volume])
        if one[0][volume] <= NOT_WEIGHTED or min(lengths) < 0.5:
            angles.append(90.0 if one[0][volume] > NOT_WEIGHTED and max(lengths) >= 0.5 else 0.0)
            continue
        cosine = abs(one[1][:, volume] @ other[1][:, volume]) / (lengths[0] * lengths[1])
        angles.append(math.degrees(math.acos(min(1.0, cosine))))
    if max(angles) > SAME_DIRECTION_DEGREES:
        volume = int(np.argmax(angles))
        return f"directions {angles[volume]:.0f}\N{DEGREE SIGN} apart in volume {volume + 1}"
    return ""


def read_table(bval: Path, bvec: Path) -> Table | None:
    """The table of FSL's two files; ``None`` when they do not fit each other."""
    try:
        b_values = np.array(bval.read_text().split(), float)
        rows = [np.array(line.split(), float) for line in bvec.read_text().splitlines() if line.strip()]
        directions = np.array(rows)
    except ValueError:
        return None
    return (b_values, directions) if directions.shape == (3, len(b_values)) else None


def write_table(table: Table, bval: Path, bvec: Path) -> None:
    """Write FSL's two files."""
    bval.write_text(" ".join(f"{value:g}" for value in table[0]) + "\n")
    bvec.write_text("\n".join(" ".join(f"{value:.6g}" for value in row) for row in table[1]) + "\n")
