"""Compares an image with the DICOM that it was made of, slice by slice, and mends what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import nibabel
import numpy as np

from .headers import Header, Planes
from .image import Image, Origin
from .sidecar import carried
from .stack import (
    LPS_TO_RAS,
    Owner,
    affine_from,
    frame_pixels,
    position_tolerance,
    stack_of,
    unevenness,
    write_stack,
)

PARALLEL = 0.999
"""Cosine of the angle up to which an image's axis and a header's are the same direction."""

ROUNDED = 0.2
"""How far a slice may be from an even grid, as a part of its distance to the next, for its place to be a
rounded one instead of one after a gap."""

MOST_COMPARED = 8
"""Instances that one slice is compared with when many lie at its place (time series, directions)."""

LOSSY_SYNTAXES = {
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.203",
}
"""Transfer syntaxes for which two right decoders may differ by a count (JPEG, near-lossless JPEG-LS,
irreversible JPEG 2000)."""


@dataclass(frozen=True)
class _Pool:
    """The slices of all headers that have one image's matrix: where they lie (to ``tolerance`` mm), and whose they are."""

    columns: int
    rows: int
    planes: Planes
    centres: np.ndarray
    owners: tuple[tuple[Header, int], ...]
    tolerance: float


def _pool(headers: Iterable[Header], columns: int, rows: int, lps: np.ndarray) -> _Pool | None:
    """The planes that an image with the affine ``lps`` may consist of; ``None`` when no header says any."""
    across, down = (lps[:3, axis] / np.linalg.norm(lps[:3, axis]) for axis in (0, 1))
    planes, owners = [], []
    for header in headers:
        if header.planes is None or header.slice_matrix != (columns, rows):
            continue
        size = np.linalg.norm(header.planes.per_column, axis=1), np.linalg.norm(header.planes.per_row, axis=1)
        parallel = (np.abs(header.planes.per_column @ across) > PARALLEL * size[0]) & (
            np.abs(header.planes.per_row @ down) > PARALLEL * size[1]
        )
        planes.append(header.planes[parallel])
        owners += [(header, int(index)) for index in np.flatnonzero(parallel)]
    if not owners:
        return None
    joined = Planes.joined(planes)
    centres = joined.positions + joined.per_column * (columns - 1) / 2 + joined.per_row * (rows - 1) / 2
    return _Pool(columns, rows, joined, centres, tuple(owners), position_tolerance(joined))


def checked(image: Image, headers: Sequence[Header]) -> tuple[Image, list[str]]:
    """The image with its affine and scaling from the headers, and words for what does not fit them."""
    name = f"Image {image.label}" if image.label else "The image"
    if image.origin is not Origin.SCANNER:
        interpolated = image.origin in (Origin.EVENED, Origin.STRAIGHTENED)
        return image, [f"{name} is {image.origin.value}, beside the original"] if interpolated else []
    stored = image.stored()
    columns, rows, slices = stored.shape[:3]
    lps = LPS_TO_RAS @ image.affine
    pool = _pool(headers, columns, rows, lps)
    if pool is None:
        return image, _unplaced_doubts(image, stored, headers, name)
    fits = _stacks(lps, pool, slices)
    if not fits:
        fits = [_Fit.of(lps, pool, _nearest(_centres(lps, columns, rows, slices), pool.centres))]
    fit = min(fits, key=lambda fit: fit.away)
    doubts = []
    if fit.away > pool.tolerance or fit.uneven > pool.tolerance:
        # dcm2niix can be wrong about a stack that leans (gantry tilt) or does not say its distances.
        agreeing = [other for other in fits if _values_agree(image, stored, pool, other)]
        fit = min(agreeing or [fit], key=lambda fit: fit.away)
        if fit.uneven > pool.tolerance:
            # No affine is right for all slices. That from first to last is less wrong where places are rounded;
            # over a gap it would stretch the voxels.
            wrong = unevenness(lps, pool.planes[fit.planes], columns, rows, *fit.flips)
            if fit.uneven >= min(wrong, ROUNDED * float(np.linalg.norm(fit.affine[:3, 2]))):
                fit = replace(fit, affine=lps, away=0, uneven=wrong)
            doubts.append(
                f"{name}: the distances between slices are uneven; a slice lies up to"
                f" {fit.uneven:.3g} mm from its place"
            )
            return _settled(image, stored, pool, fit, name, doubts)
        words = f"{name}: dcm2niix places voxels up to {fit.away:.3g} mm from where the DICOM headers say they are"
        if not agreeing:
            mended = _mended(image, stored, pool, fit, name)
            return mended or (replace(image, wrong=True), [words])
        doubts.append(f"{words}; the headers' places are written instead")
    return _settled(image, stored, pool, fit, name, doubts)


def _settled(
    image: Image, stored: np.ndarray, pool: _Pool, fit: _Fit, name: str, doubts: list[str]
) -> tuple[Image, list[str]]:
    """The image with a fit's affine and the headers' scaling, its voxels compared, and mended if they differ."""
    slope, intercept = exact_scaling(image, [pool.owners[index] for index in fit.planes])
    image = replace(image, affine=LPS_TO_RAS @ fit.affine, slope=slope, intercept=intercept, placed=True)
    _write_sform(image, misplaced=fit.away > pool.tolerance)
    differing = _differing_slices(image, stored, pool, fit)
    if differing and (mended := _mended(image, stored, pool, fit, name)):
        return mended
    if differing:
        image = replace(image, wrong=True)
        doubts.append(
            f"{name}: voxels differ from the DICOM's pixels in {', '.join(differing)} of those compared"
        )
    return image, doubts


@dataclass(frozen=True)
class _Fit:
    """A way to lay an image's slices onto the headers' planes.

    Attributes:
        planes: the plane of each slice, an index into the pool.
        affine: of that stack, in LPS.
        flips: the image's first axis runs against the columns, its second against the rows.
        away: how far dcm2niix's affine is from it at most, mm.
        uneven: how far a plane is from its place in the affine's even grid at most, mm.
    """

    planes: np.ndarray
    affine: np.ndarray
    flips: tuple[bool, bool]
    away: float
    uneven: float

    @classmethod
    def of(cls, lps: np.ndarray, pool: _Pool, planes: np.ndarray) -> _Fit:
        columns, rows, slices = pool.columns, pool.rows, len(planes)
        matched = pool.planes[planes]
        flips = (
            bool(matched.per_column[0] @ lps[:3, 0] < 0),
            bool(matched.per_row[0] @ lps[:3, 1] < 0),
        )
        affine = affine_from(matched, columns, rows, *flips, thickness=float(np.linalg.norm(lps[:3, 2])))
        if slices == 1 and affine[:3, 2] @ lps[:3, 2] < 0:
            affine[:3, 2] *= -1
        away = _corner_distance(affine, lps, columns, rows, slices)
        return cls(planes, affine, flips, away, unevenness(affine, matched, columns, rows, *flips))


def _centres(lps: np.ndarray, columns: int, rows: int, slices: int) -> np.ndarray:
    """The centre of each slice, shape (slices, 3)."""
    first = lps[:3] @ [(columns - 1) / 2, (rows - 1) / 2, 0, 1]
    return first + np.arange(slices)[:, None] * lps[:3, 2]


def _stacks(lps: np.ndarray, pool: _Pool, slices: int) -> list[_Fit]:
    """Both orders of the headers' planes, if they are one stack of as many slices as the image has."""
    distinct = _distinct(pool.centres)
    normal = np.cross(pool.planes.per_column[0], pool.planes.per_row[0])
    if len(distinct) != slices or np.ptp(pool.planes.per_column, axis=0).max() > 1e-4:
        return []
    upward = distinct[np.argsort(pool.centres[distinct] @ normal)]
    return [_Fit.of(lps, pool, upward), _Fit.of(lps, pool, upward[::-1])]


def _write_sform(image: Image, misplaced: bool) -> None:
    """Put the headers' affine into the NIfTI: dcm2niix rounds direction cosines to unit length first,
    which moves a voxel by up to some ten-thousandths of a mm.

    Args:
        misplaced: the file's quaternion is wrong by more than that, and shall not be used.
    """
    with image.path.open("r+b") as file:
        header = nibabel.Nifti1Header.from_fileobj(file, check=False)
        header.set_sform(image.affine, code=int(header["sform_code"]) or 1)
        if misplaced:
            header["qform_code"] = 0
        sizes = np.linalg.norm(image.affine[:3, :3], axis=0)
        if not np.allclose(header["pixdim"][1:4], sizes, rtol=1e-3):
            header["pixdim"][1:4] = sizes
        file.seek(0)
        header.write_to(file)


def _distinct(points: np.ndarray) -> np.ndarray:
    """The index of the first of each set of points that agree to a ten-thousandth of a mm."""
    return np.unique(np.round(points, 4), axis=0, return_index=True)[1]


def _nearest(points: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """For each point the index of the first of the nearest candidates."""
    distinct = _distinct(candidates)
    places = candidates[distinct]
    return np.array([distinct[((places - point) ** 2).sum(axis=1).argmin()] for point in points])


def _corner_distance(one: np.ndarray, other: np.ndarray, columns: int, rows: int, slices: int) -> float:
    """How far two affines differ at most over a volume, mm: at one of its corners."""
    corners = np.array(
        [[i, j, k, 1.0] for i in (0, columns - 1) for j in (0, rows - 1) for k in (0, slices - 1)]
    )
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


def exact_scaling(image: Image, owners: Sequence[tuple[Header, int]]) -> tuple[float, float]:
    """The headers' slope and intercept in full precision, where the file's float32 ones are those."""
    said = {
        tuple(header.scaling[header.frame_of(index)])
        for header, index in owners
        if header.scaling is not None
    }
    if len(said) == 1:
        slope, intercept = said.pop()
        if np.allclose(np.float32([slope, intercept]), [image.slope, image.intercept], rtol=1e-6, atol=0):
            return float(slope), float(intercept)
    return image.slope, image.intercept


def _differing_slices(image: Image, stored: np.ndarray, pool: _Pool, fit: _Fit) -> list[str]:
    """Which of the sampled slices (first, middle, last, one of each kind of pixels) have voxels of no instance at their place, and
    which volumes (first, last) have slices of different temporal positions, or follow each other against them.
    All slices of all volumes are looked at where instance numbers and temporal positions are at odds."""
    volumes = stored.shape[3] if stored.ndim > 3 else 1
    # Where there are as many temporal positions as volumes, a volume is one of them.
    timed = volumes > 1 and len({_moment(*owner) for owner in pool.owners}) == volumes
    sampled = {0, stored.shape[2] // 2, stored.shape[2] - 1}
    kinds = [pool.owners[index][0].pixel_kind for index in fit.planes]
    sampled |= {kinds.index(kind) for kind in list(dict.fromkeys(kinds))[:MOST_COMPARED]}
    looked_at = {0, volumes - 1}
    if timed and not _one_order(pool):
        sampled, looked_at = set(range(stored.shape[2])), set(range(volumes))
    differing = []
    latest = -1
    for t in sorted(looked_at):
        moments: list[set[int]] = []
        for k in sorted(sampled):
            distances = np.linalg.norm(pool.centres - pool.centres[fit.planes[k]], axis=1)
            here = [pool.owners[index] for index in np.flatnonzero(distances < pool.tolerance)]
            plane = _as_in_dicom(stored, k, t, fit.flips)
            # The volumes are usually in the instances' order, so the t-th is the likely one.
            likely = sorted(range(len(here)), key=lambda index, t=t: abs(index - t))[:MOST_COMPARED]
            unsure = len(here) > MOST_COMPARED and len(here) != volumes
            same = (here[index] for index in likely if _same_values(image, plane, *here[index]))
            first = next(same, None)
            if first is None and not unsure:
                differing.append(f"slice {k + 1}" + (f" of volume {t + 1}" if volumes > 1 else ""))
            elif first is not None and timed:
                found = {_moment(*first)}
                if moments and not found & moments[-1]:
                    found |= {_moment(*other) for other in same}  # frames may be alike
                moments.append(found)
        agreed = set.intersection(*moments) if moments else set()
        if moments and not agreed:
            differing.append(f"volume {t + 1}, which mixes temporal positions,")
        elif agreed and max(agreed) < latest:
            differing.append(f"volume {t + 1}, which is of an earlier time than one before it,")
        latest = max({latest} | agreed)
    return differing


def _one_order(pool: _Pool) -> bool:
    """Whether instance numbers (frames, in one instance) and temporal positions rise together at every place."""
    last: dict[tuple[float, ...], int] = {}
    for place, owner in zip(np.round(pool.centres, 2).tolist(), pool.owners, strict=True):
        moment = _moment(*owner)
        if moment < last.get(tuple(place), moment):
            return False
        last[tuple(place)] = moment
    return True


def _moment(header: Header, index: int) -> int:
    return header.moments[header.frame_of(index)]


def _mended(
    image: Image, stored: np.ndarray, pool: _Pool, fit: _Fit, name: str
) -> tuple[Image, list[str]] | None:
    """The image with the decoded pixels in the place of its voxels, and words for what it has no more.

    Returns:
        ``None`` when the headers' slices are not one stack of the image's shape, or cannot be decoded.
    """
    stack = stack_of(pool.owners)
    volumes = stored.shape[3] if stored.ndim > 3 else 1
    if stack is None or stack.shape != (*stored.shape[:3], volumes):
        return None
    before = owners_of(image, {header.path: header for header, _ in pool.owners}.values())
    try:
        written = image.path.with_suffix(".own")
        write_stack(written, stack, fit.flips, nibabel.load(image.path).header)
    except Exception:  # as many kinds of error as there are decoders
        return None
    written.replace(image.path)
    nifti = nibabel.load(image.path)
    affine = affine_from(
        stack.planes, pool.columns, pool.rows, *fit.flips, thickness=float(nifti.header["pixdim"][3])
    )
    doubts = []
    had_gradients = image.bval and image.bvec
    beside = carried(image, before, stack.middle, image.path.with_suffix(".own"))
    if had_gradients and beside.bval is None:
        doubts.append(f"{name} has no gradients, since dcm2niix had its volumes wrong")
    image = replace(
        image,
        affine=LPS_TO_RAS @ affine,
        slope=float(nifti.dataobj.slope),
        intercept=float(nifti.dataobj.inter),
        sidecar=beside.sidecar,
        bval=beside.bval,
        bvec=beside.bvec,
        placed=True,
        mended=True,
        owners=stack.middle,
    )
    owners = [place[0] for place in stack.owners]
    slope, intercept = exact_scaling(image, owners)
    return replace(image, slope=slope, intercept=intercept), doubts


def owners_of(image: Image, headers: Iterable[Header]) -> tuple[Owner, ...] | None:
    """The instance and frame of the middle slice of each volume, found by place and pixels.

    Where several are at the place, the likely one is compared first: most volumes need one comparison.

    Returns:
        ``None`` when a volume's slice is that of no instance, or the headers do not place it.
    """
    stored = image.stored()
    columns, rows, slices = stored.shape[:3]
    lps = LPS_TO_RAS @ image.affine
    pool = _pool(headers, columns, rows, lps)
    if pool is None:
        return None
    k = slices // 2
    distances = np.linalg.norm(pool.centres - _centres(lps, columns, rows, slices)[k], axis=1)
    here = [pool.owners[index] for index in np.flatnonzero(distances < max(pool.tolerance, distances.min()))]
    if not here:
        here = [pool.owners[int(distances.argmin())]]
    volumes = stored.shape[3] if stored.ndim > 3 else 1
    if len(here) == 1:
        return tuple(here) if volumes == 1 else None
    first = pool.planes[int(distances.argmin())]
    flips = bool(first.per_column @ lps[:3, 0] < 0), bool(first.per_row @ lps[:3, 1] < 0)
    left = list(range(len(here)))
    found: list[Owner] = []
    comparisons = 4 * len(here) + 16
    for t in range(volumes):
        plane = _as_in_dicom(stored, k, t, flips)
        if found:
            # Of images that are told apart by a trait, those of the volume before come first.
            alike = found[-1][0].facts_of(found[-1][1]).traits
            left.sort(key=lambda n: (here[n][0].facts_of(here[n][1]).traits != alike, n))
        for n in left:
            comparisons -= 1
            if comparisons < 0:
                return None
            if _same_values(image, plane, *here[n]):
                found.append(here[n])
                left.remove(n)
                break
        else:
            return None
    return tuple(found)


def _values_agree(image: Image, stored: np.ndarray, pool: _Pool, fit: _Fit) -> bool:
    return not _differing_slices(image, stored, pool, fit)


def _unplaced_doubts(image: Image, stored: np.ndarray, headers: Sequence[Header], name: str) -> list[str]:
    """Words for sampled frames of an image without places (ultrasound, secondary capture) that differ
    from the DICOM's; nothing when which frame is which is not known."""
    frames = [(header, index) for header in headers for index in range(header.frames)]
    alike = len({header.slice_matrix for header in headers}) == 1 and not any(h.mosaic for h in headers)
    if stored.ndim > 3 or stored.shape[2] != len(frames) or not alike:
        return []
    turns = [(False, True), (False, False), (True, False), (True, True)]
    for k in sorted({0, len(frames) - 1}):
        if not any(_same_values(image, _as_in_dicom(stored, k, 0, turn), *frames[k]) for turn in turns):
            return [f"{name}: voxels differ from the DICOM's pixels in frame {k + 1}"]
    return []


def _as_in_dicom(stored: np.ndarray, k: int, t: int, flips: tuple[bool, bool]) -> np.ndarray:
    """A slice with rows from the top, shape (rows, columns)."""
    plane = stored[:, :, k, t] if stored.ndim > 3 else stored[:, :, k]
    return plane[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1].swapaxes(0, 1)


def _same_values(image: Image, plane: np.ndarray, header: Header, index: int) -> bool:
    """Whether a slice holds an instance's pixels, perhaps mirrored (see :attr:`Image.mirrored`); also when that
    cannot be known (lossy, no decoder)."""
    if header.transfer_syntax in LOSSY_SYNTAXES:
        return True
    try:
        pixels = frame_pixels(header, header.frame_of(index))
    except Exception:  # a decoder's own errors are of many kinds, and tell nothing about the volume
        return True
    pixels = header.tile_of(pixels, index)
    if plane.dtype.names:
        return pixels.ndim == 3 and all(
            np.array_equal(plane[part], pixels[..., number]) for number, part in enumerate("RGB")
        )
    if pixels.shape != plane.shape:
        return False
    slope, intercept = (1.0, 0.0) if header.scaling is None else header.scaling[header.frame_of(index)]
    said = pixels * slope + intercept
    if image.mirrored is not None:
        said = np.flip(said, image.mirrored)
    made = plane * image.slope + image.intercept
    return bool(np.allclose(made, said, rtol=1e-6, atol=1e-6 * max(1e-30, float(np.abs(said).max()))))
