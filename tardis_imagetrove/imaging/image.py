"""An image that a series holds: a NIfTI file, with what the headers say of it."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

import nibabel
import numpy as np

from .headers import Header


def shape_and_step(file: IO[bytes]) -> tuple[tuple[int, ...], float]:
    """Of a gzipped NIfTI-1 file: its shape, and the seconds between its volumes (0 if it does not say).

    Raises:
        ValueError: it is not one.
    """
    try:
        with gzip.open(file) as content:
            header = nibabel.Nifti1Header(content.read(nibabel.Nifti1Header.sizeof_hdr), check=False)
        shape = tuple(int(length) for length in header.get_data_shape())
        unit = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(header.get_xyzt_units()[1], 0.0)
    except (OSError, EOFError, zlib.error, nibabel.wrapstruct.WrapStructError, KeyError) as error:
        raise ValueError(f"not a gzipped NIfTI file ({error})") from error
    return shape, float(header["pixdim"][4]) * unit if len(shape) > 3 else 0.0


class Origin(Enum):
    """Where an image's voxels come from."""

    SCANNER = "the scanner"
    EVENED = "interpolated to even distances"
    STRAIGHTENED = "straightened for the gantry's tilt"
    OVERLAY = "drawn from an overlay"


@dataclass(frozen=True)
class Image:
    """One volume, or one series of volumes over time, that a DICOM series holds.

    Attributes:
        path: uncompressed NIfTI-1, written by dcm2niix.
        label: what tells it from the series' other images (``e2_ph``); may be empty.
        sidecar, bval, bvec: beside it, if it has them.
        affine: voxel index to mm in NIfTI's world (RAS), float64, shape (4, 4); from the DICOM headers
            where they say it, which is finer than the file's float32.
        slope, intercept: from stored to real values, float64.
        origin: whether its voxels are the scanner's own.
        placed: the headers say where its slices lie.
        mended: dcm2niix had its voxels wrong, and they are the decoded pixels instead.
        wrong: it differs from the DICOM, and could not be mended.
        uneven: its slices are not evenly apart, so that no affine is right for all.
        mirrored: the axis (0: rows, 1: columns of the DICOM's pixels) along which dcm2niix turned the voxels
            round, since the scanner stores them against what the headers say; ``None`` for no other image.
        owners: the instance and frame of each volume's middle slice; ``None`` where that is not known.
        differs_in: indices into TRAITS that tell it from other images at its places.
        compared: its gradients agree with the standard's attributes in every volume's header, or are made of them.
        timed: its time step is that of the headers, or none is stated.
        slices_timed: the volume from whose header the sidecar's slice times are; ``None`` if that is not known.
        words: of this image: what was changed, or is not known.
        notes: worth knowing of it, about nothing that is wrong.
    """

    path: Path
    label: str
    sidecar: Path | None
    bval: Path | None
    bvec: Path | None
    affine: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    origin: Origin = Origin.SCANNER
    placed: bool = False
    mended: bool = False
    wrong: bool = False
    uneven: bool = False
    mirrored: int | None = None
    owners: tuple[tuple[Header, int], ...] | None = None
    differs_in: tuple[int, ...] = ()
    compared: bool = False
    timed: bool = False
    slices_timed: int | None = None
    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def stored(self) -> np.ndarray:
        """Stored values, mapped from the file: shape (i, j, k) or (i, j, k, t)."""
        proxy = nibabel.load(self.path, mmap="r").dataobj
        array = np.asanyarray(proxy.get_unscaled())
        return array[..., None] if array.ndim == 2 else array

    def time_step(self) -> float:
        """Seconds between volumes; 0 when there is one, or it is not known."""
        header = nibabel.load(self.path).header
        return float(header["pixdim"][4]) if header["dim"][0] > 3 else 0.0
