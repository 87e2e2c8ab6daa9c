"""Makes volumes of a series once and for all its filters: dcm2niix's NIfTI, checked against the headers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.multival import MultiValue
from pydicom.pixels import pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from ..errors import PermanentError
from .checking import checked, exact_scaling
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
from .headers import TIMES, Header, counts_through, in_time, read_headers, repeats
from .image import Image, Origin
from .stack import (
    LPS_TO_RAS,
    affine_from,
    frame_pixels,
    has_palette,
    in_colour,
    position_tolerance,
    stacks_of,
    write_stack,
)

SPACING_TOLERANCE = 0.02
"""How much two neighbouring distances between slices may differ, as a part of the usual one."""

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

_OWN = f"pydicom {pydicom.__version__}, nibabel {nibabel.__version__}"
"""What makes an image where dcm2niix does not."""

_COMPRESSION_TROUBLE = re.compile(r"compress|fragment|jpe?g|transfer syntax|RLE|decod", re.IGNORECASE)

_MADE_BY_CONVERTER = {"Eq": Origin.EVENED, "Tilt": Origin.STRAIGHTENED, "ROI": Origin.OVERLAY}
"""The suffixes of images that dcm2niix makes beside the scanner's."""


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


def survey(files: Sequence[Path], name: str) -> Survey:
    """Read the headers of a series.

    Raises:
        PermanentError: not one file could be read.
    """
    headers, troubles = read_headers(files)
    if not headers:
        raise PermanentError(f"No file of {name} is readable DICOM. " + "; ".join(troubles[:5]))
    with_pixels = tuple(header for header in headers if header.has_pixels)
    skipped = ""
    if not with_pixels:
        kinds = sorted({UID(header.sop_class_uid).name for header in headers})
        skipped = f"The series has no pixels ({', '.join(kinds)})"
    return Survey(name, with_pixels, tuple(troubles), skipped, tuple(_oddities(with_pixels)))


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
        troubles += _rewrite(headers, source).values()
    attempt = _attempt(source, folder / "out", headers, options)
    decoded = headers
    if attempt.misunderstood or (attempt.wants_decoding and any(map(_is_encoded, headers))):
        undecodable = _rewrite(headers, source)
        left = tuple(header for header in headers if header.path not in undecodable)
        again = _attempt(source, folder / "again", left, options, attempt.expected)
        if attempt.misunderstood or again.rank > attempt.rank:
            decoded = left
            troubles += undecodable.values()
        attempt = max(attempt, again, key=lambda one: one.rank)
    if (not attempt.images or attempt.doubts) and (whole := complete_volumes(decoded)):
        kept = {header.path for header in whole}
        for header in headers:
            if header.path not in kept:
                source.place(header).unlink(missing_ok=True)
        shortened = _attempt(source, folder / "whole", whole, options)
        if not attempt.images or (shortened.images and not shortened.doubts):
            attempt = shortened
            troubles.append(
                f"{len(decoded) - len(whole)} slices of volumes that are not complete are left out of the conversion"
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
            warnings=tuple(dict.fromkeys((told, *_untold(images, headers), *found.oddities))),
            converter=f"{converter}, {_OWN}",
            arguments=attempt.run.arguments,
        )
    if any(image.wrong for image in attempt.images) and (images := _own_images(headers, folder / "own")):
        told = (
            f"dcm2niix has images wrong ({'; '.join(attempt.doubts)})."
            " They are made from the headers and pixels instead; sidecars say less"
        )
        if any(image.bval or image.bvec for image in attempt.images):
            told += ", and there are no gradients"
        return Conversion(
            images=images,
            headers=headers,
            warnings=tuple(dict.fromkeys((*troubles, told, *_untold(images, headers), *found.oddities))),
            converter=f"{converter}, {_OWN}",
            arguments=attempt.run.arguments,
        )
    if any(image.mended for image in attempt.images):
        converter += f", {_OWN}"
    warnings = [*troubles, *_unanswered(attempt), *found.oddities, *gaps(decoded)]
    warnings += _untold(attempt.images, decoded)
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


def _untold(images: Sequence[Image], headers: Sequence[Header]) -> list[str]:
    """Words for volumes over time whose slices nothing tells apart."""
    if not any(image.origin is Origin.SCANNER and image.stored().ndim > 3 for image in images):
        return []
    for places in repeats(headers):
        moments = {tuple(sorted(header.moments for header in place)) for place in places}
        if not counts_through(places) and any(len(set(place)) < len(place) for place in moments):
            return [
                "Nothing says which of the slices at one place belong to one volume (InstanceNumber,"
                f" TemporalPositionIdentifier, {', '.join(TIMES)} do not): volumes may be mixed"
            ]
    return []


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


def _attempt(
    source: _Source, out: Path, headers: Sequence[Header], options: Sequence[str], expected: int = 0
) -> _Attempt:
    """Run dcm2niix once, and compare what it makes with ``headers``.

    Args:
        expected: slices, if there are more than those of the headers.
    """
    out.mkdir(parents=True)
    run = run_dcm2niix(source.folder, out, options=options)
    complaints = tuple(map(source.named, run.complaints))
    images, doubts = [], []
    written = [_image(path) for path in sorted(out.glob(f"{STEM}*.nii"))]
    for image in _tell_apart([image for image in written if image.stored().size]):
        settled, doubt = checked(image, headers)
        images.append(settled)
        doubts += doubt
    slices = _count(images)
    expected = expected or sum(header.slices for header in headers)
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


def _own_images(headers: Sequence[Header], folder: Path) -> tuple[Image, ...]:
    """Images of a series that dcm2niix refuses or has wrong, without it; none when its slices are not even stacks."""
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
        slope, intercept = exact_scaling(image, [place[0] for place in stack.owners])
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
                return in_time([header for index, header in enumerate(headers) if index in whole])
            return None
    return None


def gaps(headers: Sequence[Header]) -> list[str]:
    """Words for missing slices, as the headers' positions show them: holes, and unequal repeats.

    Slices of one orientation and matrix are one stack; its positions along the normal should be
    evenly apart, and each should be there as often as the others.
    """
    stacks: dict[tuple, list[float]] = {}
    tolerances: dict[tuple, float] = {}
    for header in headers:
        if header.planes is None:
            continue
        normals = np.cross(header.planes.per_column, header.planes.per_row)
        normals /= np.linalg.norm(normals, axis=1)[:, None]
        along = np.einsum("ij,ij->i", normals, header.planes.positions)
        for normal, place in zip(np.round(normals, 3) + 0.0, along, strict=True):
            stack = header.rows, header.columns, *normal
            stacks.setdefault(stack, []).append(float(place))
            tolerances[stack] = position_tolerance(header.planes)
    words = []
    for stack, places in stacks.items():
        words += _gaps_in(np.array(places), tolerances[stack])
    return words


def _gaps_in(places: np.ndarray, tolerance: float) -> list[str]:
    ordered = np.sort(places)
    starts = np.flatnonzero(np.diff(ordered, prepend=-np.inf) > tolerance)
    counts = np.diff(np.append(starts, len(ordered)))
    unique = ordered[starts]
    words = []
    if len(unique) > 2:
        steps = np.diff(unique)
        usual = float(np.median(steps))
        digits = max(2, 1 - math.floor(math.log10(usual)))
        for index in np.flatnonzero(steps > usual * (1 + SPACING_TOLERANCE) + tolerance):
            missing = steps[index] / usual - 1
            about = f", about {round(missing)} missing" if round(missing) >= 1 else ""
            words.append(
                f"Gap between slices: {steps[index]:.4g} mm from {unique[index]:.{digits}f} to"
                f" {unique[index + 1]:.{digits}f} mm where the others are {usual:.4g} mm apart{about}"
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


def _is_encoded(header: Header) -> bool:
    syntax = UID(header.transfer_syntax)
    return syntax.is_transfer_syntax and (syntax.is_compressed or syntax.is_deflated)


def _rewrite(headers: Iterable[Header], source: _Source) -> dict[Path, str]:
    """Put copies that are uncompressed and plainly written in the place of a series' files.

    They are without Philips's own scale slopes, so that dcm2niix takes each frame's RescaleSlope.

    Files that cannot be decoded are taken away, since one of them can stop dcm2niix for all.

    Returns:
        Words for those, by file.
    """
    troubles = {}
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
            target.unlink(missing_ok=True)
            troubles[header.path] = (
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
