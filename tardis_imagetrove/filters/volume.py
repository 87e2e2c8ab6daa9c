"""Makes volumes of a series once and for all its filters: dcm2niix's NIfTI, checked against the headers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.multival import MultiValue
from pydicom.pixels import pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from ..errors import PermanentError
from .base import DicomSeries
from .dcm2niix import (
    DISPLAY_SCALING,
    OPTIONS,
    PARTIAL_CODES,
    STEM,
    ExitCode,
    Run,
    find_dcm2niix,
    run_dcm2niix,
    version_of,
)
from .headers import Header, Planes, read_headers
from .stack import (
    LPS_TO_RAS,
    POSITION_TOLERANCE_MM,
    affine_from,
    frame_pixels,
    has_palette,
    in_colour,
    stack_of,
    stacks_of,
    unevenness,
    write_stack,
)

PARALLEL = 0.999
"""Cosine of the angle up to which an image's axis and a header's are the same direction."""

SPACING_TOLERANCE = 0.02
"""How much two neighbouring distances between slices may differ, as a part of the usual one."""

ROUNDED = 0.2
"""How far a slice may be from an even grid, as a part of its distance to the next, for its place to be a
rounded one instead of one after a gap."""

PHILIPS_SCALE_SLOPE = 0x2005100E
"""Private attribute by which dcm2niix makes "precise" values instead of RescaleSlope's."""

UNPLACED = (
    "The headers do not say where every slice lies (ImagePositionPatient, ImageOrientationPatient, PixelSpacing);"
    " places and sizes of voxels are a guess"
)

_ANSWERED_BY_CHECKS = re.compile(
    r"Warning: (Patient Position \(|Unable to determine (manufacturer|slice direction)"
    r"|Instance Number \(0020,0013\) order is not spatial|Missing GE protocol data block"
    r"|Support for images that allocate 1 bits|Double-precision DICOM conversion untested)"
)
"""What dcm2niix doubts in places and order, which were compared with the headers and the pixels."""

_SAID_AS_UNPLACED = re.compile(
    r"Warning: (Patient Position \(|Unable to determine (manufacturer|slice direction)|Bogus spatial matrix)"
    r"|Unable to determine spatial orientation"
)
"""What dcm2niix says of images without a place, for which we have words of our own."""

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

_OWN = f"pydicom {pydicom.__version__}, nibabel {nibabel.__version__}"
"""What makes an image where dcm2niix does not."""

_COMPRESSION_TROUBLE = re.compile(r"compress|fragment|jpe?g|transfer syntax|RLE|decod", re.IGNORECASE)


class Origin(Enum):
    """Where an image's voxels come from."""

    SCANNER = "the scanner"
    EVENED = "interpolated to even distances"
    STRAIGHTENED = "straightened for the gantry's tilt"
    OVERLAY = "drawn from an overlay"


_MADE_BY_CONVERTER = {"Eq": Origin.EVENED, "Tilt": Origin.STRAIGHTENED, "ROI": Origin.OVERLAY}
"""The suffixes of images that dcm2niix makes beside the scanner's."""


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


@dataclass(frozen=True)
class Survey:
    """What the headers of a series' files say before anything is converted.

    Attributes:
        name: of the series.
        headers: of the instances that have pixels, by InstanceNumber.
        troubles: words for the files that could not be read.
        skipped: why there is no image; empty when there is one.
        oddities: words for what headers say that cannot be right, and for what they lack.
    """

    name: str
    headers: tuple[Header, ...]
    troubles: tuple[str, ...]
    skipped: str = ""
    oddities: tuple[str, ...] = ()


def survey(series: DicomSeries) -> Survey:
    """Read the headers of a series.

    Raises:
        PermanentError: not one file could be read.
    """
    headers, troubles = read_headers(series.files)
    if not headers:
        raise PermanentError(f"No file of {series.name} is readable DICOM. " + "; ".join(troubles[:5]))
    with_pixels = tuple(header for header in headers if header.has_pixels)
    skipped = ""
    if not with_pixels:
        kinds = sorted({UID(header.sop_class_uid).name for header in headers})
        skipped = f"The series has no pixels ({', '.join(kinds)})"
    return Survey(series.name, with_pixels, tuple(troubles), skipped, tuple(_oddities(with_pixels)))


def _oddities(headers: Sequence[Header]) -> Iterator[str]:
    """Each kind of words once, with the first file that they are about."""
    kinds: dict[str, list[str]] = {}
    for header in headers:
        for words in header.oddities:
            kinds.setdefault(words, []).append(header.path.name)
        if header.planes is None:
            kinds.setdefault(UNPLACED, []).append(header.path.name)
    for words, names in kinds.items():
        others = f" (and {len(names) - 1} more files)" if len(names) > 1 else ""
        yield f"{words}: {names[0]}{others}"


def convert(found: Survey, folder: Path) -> Conversion:
    """Convert a series to volumes in ``folder`` and check them against its headers.

    Raises:
        PermanentError: nothing can be made of it; the text says what dcm2niix said.
        RetriableError: the disk is full.
    """
    headers, troubles = found.headers, list(found.troubles)
    program = find_dcm2niix()
    converter = version_of(program)
    if found.skipped:
        return Conversion((), (), tuple(troubles), converter, skipped=found.skipped)

    source = _Source(headers, folder / "in")
    options = (*OPTIONS, *(DISPLAY_SCALING if _has_philips_scaling(headers) else ()))
    if any(map(has_palette, headers)):
        # dcm2niix would write the numbers of the colours.
        troubles += _rewrite(headers, source)
    attempt = _attempt(source, folder / "out", headers, options)
    if attempt.misunderstood or (attempt.wants_decoding and any(map(_is_encoded, headers))):
        undecodable = _rewrite(headers, source)
        again = _attempt(source, folder / "again", headers, options)
        if again.rank > attempt.rank:
            attempt = again
        else:
            undecodable = undecodable if attempt.misunderstood else []
        troubles += undecodable
    if (not attempt.images or attempt.doubts) and (whole := complete_volumes(headers)):
        for header in headers:
            if header not in whole:
                source.place(header).unlink(missing_ok=True)
        shortened = _attempt(source, folder / "whole", whole, options)
        if not attempt.images or (shortened.images and not shortened.doubts):
            attempt = shortened
            troubles.append(
                f"{len(headers) - len(whole)} slices of volumes that are not complete are left out of the conversion"
            )
    if not attempt.images:
        words = "; ".join(dict.fromkeys((*troubles, *attempt.complaints))) or "it gave no reason"
        refusal = (
            f"dcm2niix made no image of the {len(headers)} instances of {found.name}"
            f" ({attempt.run.meaning}): {words}"
        )
        images = _own_images(headers, folder / "own")
        if not images:
            raise PermanentError(refusal)
        told = f"{refusal}. The images are made from the headers and pixels instead; sidecars say less"
        return Conversion(
            images=images,
            headers=headers,
            warnings=tuple(dict.fromkeys((told, *found.oddities))),
            converter=f"{converter}, {_OWN}",
            arguments=attempt.run.arguments,
        )
    if any(image.mended for image in attempt.images):
        converter += f", {_OWN}"
    warnings = [*troubles, *_unanswered(attempt), *found.oddities, *gaps(headers)]
    if attempt.run.code in PARTIAL_CODES:
        warnings.append(f"dcm2niix converted only a part of the series ({attempt.run.meaning})")
    elif attempt.run.code != ExitCode.SUCCESS:
        warnings.append(f"dcm2niix ended with {attempt.run.meaning}")
    expected = sum(header.slices for header in headers)
    if attempt.slices != expected:
        warnings.append(f"dcm2niix wrote {attempt.slices} of the {expected} slices that the series holds")
    return Conversion(
        images=attempt.images,
        headers=headers,
        warnings=tuple(dict.fromkeys((*warnings, *attempt.doubts))),
        converter=converter,
        arguments=attempt.run.arguments,
    )


def _unanswered(attempt: _Attempt) -> list[str]:
    """dcm2niix's complaints without those that our own checks and words settle."""
    scanners = [image for image in attempt.images if image.origin is Origin.SCANNER]
    settled = None
    if all(image.placed and not image.bvec for image in scanners) and not attempt.doubts:
        settled = _ANSWERED_BY_CHECKS
    elif not any(image.placed for image in scanners):
        settled = _SAID_AS_UNPLACED
    return [words for words in attempt.complaints if not (settled and settled.match(words))]


@dataclass(frozen=True)
class _Attempt:
    run: Run
    images: tuple[Image, ...]
    complaints: tuple[str, ...]
    doubts: tuple[str, ...]
    slices: int
    expected: int

    @property
    def misunderstood(self) -> bool:
        """Slices are missing, or hold something else than the DICOM's pixels."""
        return self.slices < self.expected or bool(self.doubts)

    @property
    def wants_decoding(self) -> bool:
        return any(_COMPRESSION_TROUBLE.search(line) for line in self.complaints)

    @property
    def rank(self) -> tuple[int, int, int]:
        """Larger is better."""
        return -abs(self.slices - self.expected), -len(self.doubts), -len(self.complaints)


def _has_philips_scaling(headers: Sequence[Header]) -> bool:
    scalings = [header.scaling for header in headers if header.scaling is not None]
    philips = any("philips" in header.manufacturer.lower() for header in headers)
    return philips and bool(scalings) and len(np.unique(np.concatenate(scalings), axis=0)) == 1


class _Source:
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


def _attempt(source: _Source, out: Path, headers: Sequence[Header], options: Sequence[str]) -> _Attempt:
    out.mkdir(parents=True)
    run = run_dcm2niix(source.folder, out, options=options)
    complaints = tuple(map(source.named, run.complaints))
    images, doubts = [], []
    written = [_image(path) for path in sorted(out.glob(f"{STEM}*.nii"))]
    for image in _tell_apart([image for image in written if image.stored().size]):
        checked, doubt = _checked(image, headers)
        images.append(checked)
        doubts += doubt
    slices = _count(images)
    expected = sum(header.slices for header in headers)
    return _Attempt(run, tuple(images), complaints, tuple(doubts), slices, expected)


def _image(path: Path) -> Image:
    label = path.stem[len(STEM) :].lstrip("_")
    nifti = nibabel.load(path)
    slope, intercept = nifti.dataobj.slope, nifti.dataobj.inter
    made = re.search(r"(?:^|_)(Eq|Tilt|ROI)\d*(?:_|$)", label)

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
        origin=_MADE_BY_CONVERTER[made[1]] if made else Origin.SCANNER,
    )


def _planes_in(image: Image) -> int:
    shape = nibabel.load(image.path).shape
    return int(np.prod(shape[2:])) if len(shape) > 2 else 1


def _count(images: Sequence[Image]) -> int:
    """The scanner's slices in a set of images.

    Beside diffusion without its ADC maps dcm2niix writes all volumes again, with ``_ADC`` in the name.
    """
    counts = {image.label: _planes_in(image) for image in images if image.origin is Origin.SCANNER}
    for label in [label for label in counts if re.search(r"(^|_)ADC$", label)]:
        without = re.sub(r"_?ADC$", "", label)
        if counts.get(without, counts[label]) < counts[label]:
            del counts[without]
    return sum(counts.values())


def _tell_apart(images: list[Image]) -> list[Image]:
    """Labels that say what differs where dcm2niix's own only number the images."""
    labels = [re.sub(r"[^\w.-]+", "-", image.label) for image in images]
    planes = [_plane_name(image.affine) for image in images]
    if all(re.fullmatch(r"i\d+", label) for label in labels) and len(set(planes)) > 1:
        # A localizer: its images differ by plane.
        labels = [
            plane if planes.count(plane) == 1 else f"{plane}_{label}"
            for plane, label in zip(planes, labels, strict=True)
        ]
    sizes = ["x".join(map(str, nibabel.load(image.path).shape[:2])) for image in images]
    # dcm2niix adds a letter to a name that it has used (x, xa, xb): often a matrix of another size.
    bases = [label[:-1] if label[-1:].isalpha() and label[:-1] in labels else label for label in labels]
    for base in {base for base in bases if bases.count(base) > 1}:
        group = [index for index, other in enumerate(bases) if other == base]
        if len({sizes[index] for index in group}) == len(group):
            for index in group:
                labels[index] = "_".join(part for part in (base, sizes[index]) if part)
    told = []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        repeats = labels[:index].count(label)
        told.append(replace(image, label=f"{label}_{repeats + 1}".lstrip("_") if repeats else label))
    return told


def _plane_name(affine: np.ndarray) -> str:
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    return ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]


# Checking an image against the headers


@dataclass(frozen=True)
class _Pool:
    """The slices of all headers that have one image's matrix: where they lie, and whose they are."""

    columns: int
    rows: int
    planes: Planes
    centres: np.ndarray
    owners: tuple[tuple[Header, int], ...]


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
    return _Pool(columns, rows, joined, centres, tuple(owners))


def _checked(image: Image, headers: Sequence[Header]) -> tuple[Image, list[str]]:
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
    if fit.away > POSITION_TOLERANCE_MM or fit.uneven > POSITION_TOLERANCE_MM:
        # dcm2niix can be wrong about a stack that leans (gantry tilt) or does not say its distances.
        agreeing = [other for other in fits if _values_agree(image, stored, pool, other)]
        fit = min(agreeing or [fit], key=lambda fit: fit.away)
        if fit.uneven > POSITION_TOLERANCE_MM:
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
            return mended or (image, [words])
        doubts.append(f"{words}; the headers' places are written instead")
    return _settled(image, stored, pool, fit, name, doubts)


def _settled(
    image: Image, stored: np.ndarray, pool: _Pool, fit: _Fit, name: str, doubts: list[str]
) -> tuple[Image, list[str]]:
    """The image with a fit's affine and the headers' scaling, its voxels compared, and mended if they differ."""
    slope, intercept = _exact_scaling(image, [pool.owners[index] for index in fit.planes])
    image = replace(image, affine=LPS_TO_RAS @ fit.affine, slope=slope, intercept=intercept, placed=True)
    _write_sform(image, misplaced=fit.away > POSITION_TOLERANCE_MM)
    differing = _differing_slices(image, stored, pool, fit)
    if differing and (mended := _mended(image, stored, pool, fit, name)):
        return mended
    if differing:
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


def _exact_scaling(image: Image, owners: Sequence[tuple[Header, int]]) -> tuple[float, float]:
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
    which volumes (first, last) have slices of different temporal positions. All slices are looked at where
    instance numbers and temporal positions are at odds."""
    volumes = stored.shape[3] if stored.ndim > 3 else 1
    # Where there are as many temporal positions as volumes, a volume is one of them.
    timed = volumes > 1 and len({_moment(*owner) for owner in pool.owners}) == volumes
    sampled = {0, stored.shape[2] // 2, stored.shape[2] - 1}
    kinds = [pool.owners[index][0].pixel_kind for index in fit.planes]
    sampled |= {kinds.index(kind) for kind in list(dict.fromkeys(kinds))[:MOST_COMPARED]}
    if timed and not _one_order(pool):
        sampled = set(range(stored.shape[2]))
    differing = []
    for t in sorted({0, volumes - 1}):
        moments: list[set[int]] = []
        for k in sorted(sampled):
            distances = np.linalg.norm(pool.centres - pool.centres[fit.planes[k]], axis=1)
            here = [pool.owners[index] for index in np.flatnonzero(distances < POSITION_TOLERANCE_MM)]
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
        if moments and not set.intersection(*moments):
            differing.append(f"volume {t + 1}, which mixes temporal positions,")
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
    if image.bval or image.bvec:
        doubts.append(f"{name} has no gradients, since dcm2niix had its volumes wrong")
    image = replace(
        image,
        affine=LPS_TO_RAS @ affine,
        slope=float(nifti.dataobj.slope),
        intercept=float(nifti.dataobj.inter),
        bval=None,
        bvec=None,
        placed=True,
        mended=True,
    )
    owners = [place[0] for place in stack.owners]
    slope, intercept = _exact_scaling(image, owners)
    return replace(image, slope=slope, intercept=intercept), doubts


def _own_images(headers: Sequence[Header], folder: Path) -> tuple[Image, ...]:
    """Images of a series that dcm2niix refuses, without it; none when its slices are not even stacks."""
    stacks = stacks_of(headers) or []
    folder.mkdir()
    images = []
    for number, stack in enumerate(stacks, 1):
        path = folder / (f"{STEM}_i{number:05d}.nii" if len(stacks) > 1 else f"{STEM}.nii")
        try:
            write_stack(path, stack)
        except Exception:  # as many kinds of error as there are decoders
            return ()
        path.with_suffix(".json").write_text(json.dumps(_sidecar_fields(stack.owners[0][0][0].path)))
        image = _image(path)
        affine = LPS_TO_RAS @ affine_from(stack.planes, stack.columns, stack.rows, False, True)
        slope, intercept = _exact_scaling(image, [place[0] for place in stack.owners])
        images.append(replace(image, affine=affine, slope=slope, intercept=intercept, placed=True))
    return tuple(_tell_apart(images))


SIDECAR_FIELDS = {
    "Modality": "Modality",
    "Manufacturer": "Manufacturer",
    "ManufacturerModelName": "ManufacturersModelName",
    "MagneticFieldStrength": "MagneticFieldStrength",
    "SoftwareVersions": "SoftwareVersions",
    "BodyPartExamined": "BodyPartExamined",
    "PatientPosition": "PatientPosition",
    "ProtocolName": "ProtocolName",
    "SeriesDescription": "SeriesDescription",
    "SeriesNumber": "SeriesNumber",
    "ImageType": "ImageType",
}
"""DICOM's keyword to the sidecar's field, as dcm2niix names it, for images made without it."""


def _sidecar_fields(path: Path) -> dict[str, object]:
    dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(SIDECAR_FIELDS))
    fields: dict[str, object] = {"ConversionSoftware": _OWN}
    for keyword, field in SIDECAR_FIELDS.items():
        value = dataset.get(keyword)
        if value not in (None, ""):
            several = isinstance(value, MultiValue)
            fields[field] = (
                list(value) if several else value if isinstance(value, (int, float)) else str(value)
            )
    return fields


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
    """Whether a slice holds an instance's pixels; also when that cannot be known (lossy, no decoder)."""
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
    made = plane * image.slope + image.intercept
    return bool(np.allclose(made, said, rtol=1e-6, atol=1e-6 * max(1e-30, float(np.abs(said).max()))))


# Gaps between slices, and volumes that lack some


def complete_volumes(headers: Sequence[Header]) -> list[Header] | None:
    """The instances of a time series' whole volumes, when some volumes lack slices.

    An acquisition that was stopped leaves such a volume at its end. Volumes are told apart by
    TemporalPositionIdentifier, AcquisitionNumber, or blocks of InstanceNumber, whichever is the first to
    give each volume a position once.

    Returns:
        ``None`` when there is nothing to gain: no volume is whole, all are, or nothing tells them apart.
    """
    if any(header.planes is None or len(header.planes) != 1 for header in headers):
        return None
    places = [tuple(np.round(header.planes.positions[0], 2)) for header in headers]
    slices = len(set(places))
    keys = (
        [header.temporal_position for header in headers],
        [header.acquisition_number for header in headers],
        [(header.instance_number - 1) // slices for header in headers],
    )
    for key in keys:
        volumes: dict[int, list[int]] = {}
        for index, value in enumerate(key):
            volumes.setdefault(value, []).append(index)
        if all(len({places[index] for index in volume}) == len(volume) for volume in volumes.values()):
            whole = {index for volume in volumes.values() if len(volume) == slices for index in volume}
            if 0 < len(whole) < len(headers):
                return [header for index, header in enumerate(headers) if index in whole]
            return None
    return None


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


# Files that dcm2niix does not understand


def _is_encoded(header: Header) -> bool:
    syntax = UID(header.transfer_syntax)
    return syntax.is_transfer_syntax and (syntax.is_compressed or syntax.is_deflated)


def _rewrite(headers: Iterable[Header], source: _Source) -> list[str]:
    """Put copies that are uncompressed and plainly written in the place of a series' files.

    They are without Philips's own scale slopes, so that dcm2niix takes each frame's RescaleSlope.

    Files that cannot be decoded are taken away, since one of them can stop dcm2niix for all.

    Returns:
        Words for those.
    """
    troubles = []
    for header in headers:
        target = source.place(header)
        try:
            dataset = pydicom.dcmread(header.path)
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
            if "philips" in header.manufacturer.lower():
                dataset.walk(_drop_scale_slope)
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            copy = target.with_suffix(".new")
            pydicom.dcmwrite(copy, dataset, implicit_vr=False, little_endian=True)
            copy.replace(target)
        except Exception as error:  # as many kinds of error as there are decoders
            target.unlink()
            troubles.append(
                f"{header.path.name} ({UID(header.transfer_syntax).name}) could not be decoded: {in_one_line(error)}"
            )
    return troubles


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


def in_one_line(error: Exception, most: int = 240) -> str:
    """An exception's words on one line, cut to a readable length."""
    # pydicom puts a whole traceback into some of its messages.
    words = " ".join(str(error).partition("Traceback (most recent")[0].split()) or type(error).__name__
    return words if len(words) <= most else words[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
