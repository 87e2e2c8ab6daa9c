"""Makes volumes of a series once and for all its filters: dcm2niix's NIfTI, checked against the headers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.pixels import pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian

from ..errors import PermanentError
from .base import DicomSeries
from .dcm2niix import PARTIAL_CODES, STEM, ExitCode, Run, find_dcm2niix, run_dcm2niix, version_of
from .headers import Header, Planes, read_headers

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

POSITION_TOLERANCE_MM = 0.02
"""How far a slice may lie from where an image's even grid puts it before it is told. Scanners write
positions with three or more decimals."""

SPACING_TOLERANCE = 0.02
"""How much two neighbouring distances between slices may differ, as a part of the usual one."""

LOSSY_SYNTAXES = {
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.203",
}
"""Transfer syntaxes for which two right decoders may differ by a count (JPEG, near-lossless JPEG-LS,
irreversible JPEG 2000)."""

_COMPRESSION_TROUBLE = re.compile(r"compress|fragment|jpe?g|transfer syntax|RLE|decod", re.IGNORECASE)


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
        made_up: how its voxels were interpolated, when they are not the scanner's (``_Eq``, ``_Tilt``).
        placed: the headers say where its slices lie.
    """

    path: Path
    label: str
    sidecar: Path | None
    bval: Path | None
    bvec: Path | None
    affine: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    made_up: str = ""
    placed: bool = False

    def stored(self) -> np.ndarray:
        """Stored values, mapped from the file: shape (i, j, k) or (i, j, k, t)."""
        proxy = nibabel.load(self.path, mmap="r").dataobj
        array = np.asanyarray(proxy.get_unscaled())
        return array[..., None] if array.ndim == 2 else array

    def time_step(self) -> float:
        """Seconds between volumes; 0 when there is one, or it is not known."""
        header = nibabel.load(self.path).header
        return float(header["pixdim"][4]) if header["dim"][0] > 3 else 0.0


@dataclass(frozen=True)
class Conversion:
    """What became of a series.

    Attributes:
        images: in dcm2niix's order; empty when ``skipped`` says why.
        headers: of the instances that have pixels, by InstanceNumber.
        warnings: words for all that is missing, irregular or doubtful.
        converter: name and version.
        arguments: that the converter was given.
    """

    images: tuple[Image, ...]
    headers: tuple[Header, ...]
    warnings: tuple[str, ...]
    converter: str
    arguments: tuple[str, ...] = ()
    skipped: str = ""


def headers_with_pixels(series: DicomSeries) -> tuple[list[Header], list[str], str]:
    """The instances of a series that hold an image, words for unreadable files, and why there is none.

    Raises:
        PermanentError: not one file could be read.
    """
    headers, troubles = read_headers(series.files)
    if not headers:
        raise PermanentError(f"No file of {series.name} is readable DICOM. " + "; ".join(troubles[:5]))
    with_pixels = [header for header in headers if header.has_pixels]
    if with_pixels:
        return with_pixels, troubles, ""
    kinds = sorted({UID(header.sop_class_uid).name for header in headers})
    return [], troubles, f"The series has no pixels ({', '.join(kinds)})"


def convert(series: DicomSeries, folder: Path) -> Conversion:
    """Convert a series to volumes in ``folder`` and check them against its headers.

    Raises:
        PermanentError: nothing can be made of it; the text says what dcm2niix said.
        RetriableError: the disk is full.
    """
    headers, troubles, skipped = headers_with_pixels(series)
    program = find_dcm2niix()
    converter = version_of(program)
    if skipped:
        return Conversion((), (), tuple(troubles), converter, skipped=skipped)

    names = {header.path: f"{index:06d}.dcm" for index, header in enumerate(headers)}
    source = folder / "in"
    source.mkdir(parents=True)
    for path, name in names.items():
        (source / name).symlink_to(path.resolve())
    attempt = _attempt(source, folder / "out", headers, names)
    encoded = [header for header in headers if _is_encoded(header)]
    if encoded and attempt.refused_compression:
        undecodable = _decode(encoded, source, names)
        again = _attempt(source, folder / "again", headers, names)
        if again.slices >= attempt.slices:
            attempt = again
        troubles += undecodable
    if not attempt.images:
        words = "; ".join((*troubles, *attempt.complaints)) or "it gave no reason"
        raise PermanentError(
            f"dcm2niix made no image of the {len(headers)} instances of {series.name}"
            f" ({attempt.run.meaning}): {words}"
        )
    warnings = troubles + list(attempt.complaints) + gaps(headers)
    if attempt.run.code in PARTIAL_CODES:
        warnings.append(f"dcm2niix converted only a part of the series ({attempt.run.meaning})")
    elif attempt.run.code != ExitCode.SUCCESS:
        warnings.append(f"dcm2niix ended with {attempt.run.meaning}")
    expected = sum(header.slices for header in headers)
    if attempt.slices != expected:
        warnings.append(f"dcm2niix wrote {attempt.slices} of the {expected} slices that the series holds")
    return Conversion(
        images=attempt.images,
        headers=tuple(headers),
        warnings=tuple(dict.fromkeys((*warnings, *attempt.doubts))),
        converter=converter,
        arguments=attempt.run.arguments,
    )


@dataclass(frozen=True)
class _Attempt:
    run: Run
    images: tuple[Image, ...]
    complaints: tuple[str, ...]
    doubts: tuple[str, ...]
    slices: int
    expected: int

    @property
    def refused_compression(self) -> bool:
        return (
            self.slices != self.expected
            or any(_COMPRESSION_TROUBLE.search(line) for line in self.complaints)
            or bool(self.doubts)
        )


def _attempt(source: Path, out: Path, headers: Sequence[Header], names: dict[Path, str]) -> _Attempt:
    out.mkdir()
    run = run_dcm2niix(source, out)
    original = {name: path.name for path, name in names.items()}
    complaints = tuple(re.sub(r"\d{6}\.dcm", lambda m: original.get(m[0], m[0]), c) for c in run.complaints)
    images, doubts = [], []
    for path in sorted(out.glob(f"{STEM}*.nii")):
        image, doubt = _checked(_image(path), headers)
        images.append(image)
        doubts += doubt
    images = _tell_apart(images)
    slices = sum(_planes_in(image) for image in images if not image.made_up)
    expected = sum(header.slices for header in headers)
    return _Attempt(run, tuple(images), complaints, tuple(doubts), slices, expected)


def _image(path: Path) -> Image:
    label = path.stem[len(STEM) :].lstrip("_")
    nifti = nibabel.load(path)
    slope, intercept = nifti.dataobj.slope, nifti.dataobj.inter
    made_up = "interpolated to even distances" if re.search(r"(^|_)Eq(_|$)", label) else ""
    made_up = made_up or ("straightened for the gantry's tilt" if re.search(r"(^|_)Tilt(_|$)", label) else "")

    def beside(suffix: str) -> Path | None:
        other = path.with_suffix(suffix)
        return other if other.exists() else None

    return Image(
        path=path,
        label=label,
        sidecar=beside(".json"),
        bval=beside(".bval"),
        bvec=beside(".bvec"),
        affine=np.asarray(nifti.affine, float),
        slope=float(slope),
        intercept=float(intercept),
        made_up=made_up,
    )


def _planes_in(image: Image) -> int:
    shape = nibabel.load(image.path).shape
    return int(np.prod(shape[2:])) if len(shape) > 2 else 1


def _tell_apart(images: list[Image]) -> list[Image]:
    """Labels that differ even where dcm2niix's own suffixes are only letters."""
    seen: dict[str, int] = {}
    told = []
    for image in images:
        label = re.sub(r"[^\w.-]+", "-", image.label)
        seen[label] = seen.get(label, 0) + 1
        told.append(replace(image, label=label if seen[label] == 1 else f"{label}_{seen[label]}".lstrip("_")))
    return told


# Checking an image against the headers


@dataclass(frozen=True)
class _Pool:
    """The slices of all headers that have one image's matrix: where they lie, and whose they are."""

    planes: Planes
    centres: np.ndarray
    owners: tuple[tuple[Header, int], ...]


def _pool(headers: Iterable[Header], columns: int, rows: int) -> _Pool | None:
    planes, owners = [], []
    for header in headers:
        # A mosaic's slices are smaller than its matrix.
        size = (header.columns, header.rows)
        if header.mosaic:
            tiles = int(np.ceil(np.sqrt(header.mosaic)))
            size = (header.columns // tiles, header.rows // tiles)
        if header.planes is None or size != (columns, rows):
            continue
        planes.append(header.planes)
        owners += [(header, index) for index in range(len(header.planes))]
    if not planes:
        return None
    joined = Planes.joined(planes)
    centres = joined.positions + joined.per_column * (columns - 1) / 2 + joined.per_row * (rows - 1) / 2
    return _Pool(joined, centres, tuple(owners))


def _checked(image: Image, headers: Sequence[Header]) -> tuple[Image, list[str]]:
    """The image with its affine and scaling from the headers, and words for what does not fit them."""
    stored = image.stored()
    columns, rows, slices = stored.shape[:3]
    name = f"Image {image.label or image.path.stem}"
    if image.made_up:
        return image, [f"{name} is {image.made_up}: its voxels are not the scanner's own"]
    pool = _pool(headers, columns, rows)
    if pool is None:
        return image, []
    lps = LPS_TO_RAS @ image.affine
    centres = np.stack([lps[:3] @ [(columns - 1) / 2, (rows - 1) / 2, k, 1] for k in range(slices)])
    nearest, distances = _nearest(centres, pool.centres)
    doubts = []
    matched = pool.planes[nearest]
    flip_i = np.sum(matched.per_column[0] * lps[:3, 0]) < 0
    flip_j = np.sum(matched.per_row[0] * lps[:3, 1]) < 0
    affine = affine_from(matched, columns, rows, flip_i, flip_j, thickness=np.linalg.norm(lps[:3, 2]))
    if slices == 1 and affine[:3, 2] @ lps[:3, 2] < 0:
        affine[:3, 2] *= -1
    away = _corner_distance(affine, lps, columns, rows, slices)
    uneven = _unevenness(affine, matched, columns, rows, flip_i, flip_j)
    if away > POSITION_TOLERANCE_MM:
        doubts.append(
            f"{name}: dcm2niix places voxels up to {away:.3g} mm from where the DICOM headers say they are"
        )
        return image, doubts
    if uneven > POSITION_TOLERANCE_MM:
        doubts.append(
            f"{name}: the distances between slices are uneven; a slice lies up to {uneven:.3g} mm from its place"
        )
    slope, intercept = _exact_scaling(image, [pool.owners[index][0] for index in nearest])
    image = replace(image, affine=LPS_TO_RAS @ affine, slope=slope, intercept=intercept, placed=True)
    _write_sform(image)
    doubts += _differing_values(image, stored, pool, nearest, flip_i, flip_j, name)
    return image, doubts


def _write_sform(image: Image) -> None:
    """Put the headers' affine into the NIfTI: dcm2niix rounds direction cosines to unit length first,
    which moves a voxel by up to some ten-thousandths of a mm."""
    with image.path.open("r+b") as file:
        header = nibabel.Nifti1Header.from_fileobj(file, check=False)
        header.set_sform(image.affine, code=int(header["sform_code"]) or 1)
        file.seek(0)
        header.write_to(file)


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


def _nearest(points: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each point the first of the nearest candidates, and its distance in mm."""
    rounded = np.round(candidates, 4)
    _, first = np.unique(rounded, axis=0, return_index=True)
    places = candidates[first]
    chosen, distances = [], []
    for point in points:
        square = ((places - point) ** 2).sum(axis=1)
        best = int(square.argmin())
        chosen.append(first[best])
        distances.append(np.sqrt(square[best]))
    return np.array(chosen), np.array(distances)


def _corner_distance(one: np.ndarray, other: np.ndarray, columns: int, rows: int, slices: int) -> float:
    """How far two affines differ at most over a volume, mm: at one of its corners."""
    corners = np.array(
        [[i, j, k, 1.0] for i in (0, columns - 1) for j in (0, rows - 1) for k in (0, slices - 1)]
    )
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


def _unevenness(
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


def _exact_scaling(image: Image, owners: Sequence[Header]) -> tuple[float, float]:
    """The headers' slope and intercept in full precision, where the file's float32 ones are those."""
    pairs = [header.scaling for header in owners if header.scaling is not None]
    if pairs:
        said = np.concatenate(pairs)
        same = (said == said[0]).all()
        if same and np.allclose(np.float32(said[0]), [image.slope, image.intercept], rtol=1e-6, atol=0):
            return float(said[0, 0]), float(said[0, 1])
    return image.slope, image.intercept


def _differing_values(
    image: Image,
    stored: np.ndarray,
    pool: _Pool,
    nearest: np.ndarray,
    flip_i: bool,
    flip_j: bool,
    name: str,
) -> list[str]:
    """Words for sampled slices (first, middle, last) whose voxels are not those of any instance there."""
    wrong = []
    volumes = stored.shape[3] if stored.ndim > 3 else 1
    for k in sorted({0, stored.shape[2] // 2, stored.shape[2] - 1}):
        for t in sorted({0, volumes - 1}):
            plane = stored[:, :, k, t] if stored.ndim > 3 else stored[:, :, k]
            plane = plane[:: -1 if flip_i else 1, :: -1 if flip_j else 1].swapaxes(0, 1)
            here = np.flatnonzero(
                np.linalg.norm(pool.centres - pool.centres[nearest[k]], axis=1) < POSITION_TOLERANCE_MM
            )
            # The volumes are usually in the instances' order, so the t-th is the likely one.
            order = sorted(range(len(here)), key=lambda index, t=t: abs(index - t))[:8]
            owners = [pool.owners[here[index]] for index in order]
            if any(header.transfer_syntax in LOSSY_SYNTAXES for header, _ in owners):
                continue
            if len(here) > 8 and volumes > 1 and not (t == 0 or len(here) == volumes):
                continue
            if not any(_same_values(image, plane, *owner) for owner in owners):
                wrong.append(f"slice {k + 1}" + (f" of volume {t + 1}" if volumes > 1 else ""))
    if not wrong:
        return []
    return [f"{name}: voxels differ from the DICOM's pixels in {', '.join(wrong)} of those compared"]


def _same_values(image: Image, plane: np.ndarray, header: Header, index: int) -> bool:
    try:
        pixels = pixel_array(header.path, index=0 if header.mosaic else index)
    except Exception:  # a decoder's own errors are of many kinds, and tell nothing about the volume
        return True
    if header.mosaic:
        tiles = int(np.ceil(np.sqrt(header.mosaic)))
        rows, columns = header.rows // tiles, header.columns // tiles
        top, left = index // tiles * rows, index % tiles * columns
        pixels = pixels[top : top + rows, left : left + columns]
    if plane.dtype.names:
        if pixels.ndim != 3:
            return False
        return all(np.array_equal(plane[part], pixels[..., n]) for n, part in enumerate("RGB"))
    if pixels.shape != plane.shape:
        return False
    slope, intercept = (1.0, 0.0) if header.scaling is None else header.scaling[0 if header.mosaic else index]
    said = pixels * slope + intercept
    made = plane * image.slope + image.intercept
    return bool(np.allclose(made, said, rtol=1e-6, atol=1e-6 * max(1e-30, float(np.abs(said).max()))))


# Gaps


def gaps(headers: Sequence[Header]) -> list[str]:
    """Words for missing slices, as the headers' positions show them: holes, and unequal repeats.

    Slices of one orientation and matrix are one stack; its positions along the normal should be
    evenly apart, and each should be there as often as the others.
    """
    stacks: dict[tuple, list[float]] = {}
    for header in headers:
        if header.planes is None:
            continue
        normals = np.cross(header.planes.per_column, header.planes.per_row)
        normals /= np.linalg.norm(normals, axis=1)[:, None]
        along = np.einsum("ij,ij->i", normals, header.planes.positions)
        for normal, place in zip(np.round(normals, 3) + 0.0, along, strict=True):
            stacks.setdefault((header.rows, header.columns, *normal), []).append(float(place))
    words = []
    for places in stacks.values():
        words += _gaps_in(np.array(places))
    return words


def _gaps_in(places: np.ndarray) -> list[str]:
    ordered = np.sort(places)
    starts = np.flatnonzero(np.diff(ordered, prepend=-np.inf) > POSITION_TOLERANCE_MM)
    counts = np.diff(np.append(starts, len(ordered)))
    unique = ordered[starts]
    words = []
    if len(unique) > 2:
        steps = np.diff(unique)
        usual = float(np.median(steps))
        for index in np.flatnonzero(steps > usual * (1 + SPACING_TOLERANCE) + POSITION_TOLERANCE_MM):
            missing = steps[index] / usual - 1
            about = f", about {round(missing)} missing" if round(missing) >= 1 else ""
            words.append(
                f"Gap between slices: {steps[index]:.4g} mm from {unique[index]:.2f} to"
                f" {unique[index + 1]:.2f} mm where the others are {usual:.4g} mm apart{about}"
            )
    if len(words) > 3:
        words[3:] = [f"… and {len(words) - 3} more gaps between slices"]
    if len(set(counts.tolist())) > 1:
        usual_count = int(np.bincount(counts).argmax())
        odd = int((counts != usual_count).sum())
        words.append(
            f"Slices are missing or doubled: {odd} of {len(unique)} positions are there"
            f" {counts.min()} to {counts.max()} times, the others {usual_count}"
        )
    return words


# Compressed pixels


def _is_encoded(header: Header) -> bool:
    syntax = UID(header.transfer_syntax)
    return syntax.is_transfer_syntax and (syntax.is_compressed or syntax.is_deflated)


def _decode(headers: Iterable[Header], source: Path, names: dict[Path, str]) -> list[str]:
    """Put decoded copies in the place of compressed files; words for those that nothing decodes."""
    troubles = []
    for header in headers:
        target = source / names[header.path]
        try:
            dataset = pydicom.dcmread(header.path)
            if UID(header.transfer_syntax).is_encapsulated:
                dataset.decompress(generate_instance_uid=False)
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            copy = target.with_suffix(".new")
            dataset.save_as(copy, enforce_file_format=True)
            shutil.move(copy, target)
        except Exception as error:  # as many kinds of error as there are decoders
            troubles.append(
                f"{header.path.name} ({UID(header.transfer_syntax).name}) could not be decoded:"
                f" {str(error).splitlines()[0]}"
            )
    return troubles
