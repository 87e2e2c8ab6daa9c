"""Makes volumes of a series once and for all its filters: dcm2niix's NIfTI, checked against the headers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
from pydicom.uid import UID

from ..errors import PermanentError
from ..formats.dicom.attributes import Instance
from .assembly import assembled, own_images, with_owners
from .checking import checked
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
from .finishing import finished
from .gaps import complete_volumes, copies_in, gaps
from .headers import TIMES, Header, counts_through, read_headers, repeats
from .image import Image, Origin
from .labels import IMAGE_TYPE, tell_apart
from .messages import weigh
from .sidecar import OWN_SOFTWARE, load_sidecar
from .source import Source, is_encoded, rewrite
from .stack import (
    has_palette,
    stacks_of,
)

UNPLACED = (
    "The headers do not say where every slice lies (ImagePositionPatient, ImageOrientationPatient, PixelSpacing);"
    " places and sizes of voxels are a guess"
)

_IMAGE = "1.2.840.10008.5.1.4.1.1."
_KINDS_WITHOUT_PLACE = (
    *(f"{_IMAGE}{part}" for part in ("1", "3", "3.1", "6", "6.1", "7", "20", "481.1", "77.1.6")),
    *(f"{_IMAGE}{part}." for part in ("1", "7", "12")),
    *(f"{_IMAGE}77.1.{part}" for part in ("1", "1.1", "2", "2.1", "4", "4.1", "5.1", "5.2")),
)
"""SOP classes whose IOD has no Image Plane module (PS3.3 annex A): radiographs, ultrasound, secondary captures,
planar nuclear medicine, fluoroscopy, RT images, visible light. What ends with a dot is a family. Ophthalmic
tomography is not among them: it has planes."""

_ANSWERED_BY_PLACES = re.compile(
    r"Warning: Instance Number \(0020,0013\) order is not spatial"
    r"|DICOM images may be missing, expected \d+ spatial locations per volume, but found"
)
"""What dcm2niix doubts in the order of slices, where each was found at its place by the headers."""

_ANSWERED_BY_CHECKS = re.compile(
    r"Warning: (Patient Position \(|Unable to determine (manufacturer|slice direction)|Missing GE protocol data block"
    r"|Support for images that allocate 1 bits|Double-precision DICOM conversion untested)"
)
"""What it doubts in places and values, which were compared with the headers and the pixels."""

_ANSWERED_BY_GRADIENTS = re.compile(
    r"(Warning: )?(Check bvecs: expected Patient Position|Saving \d+ DTI gradients\. Validate vectors)"
)
"""What it doubts in gradients, where those of all images were compared with the headers, or with the vendor's
private elements in patient coordinates."""

_ANSWERED_BY_TIMES = re.compile(
    r"Warning: (Discrepancy between reported \(|Assuming TR = [\d.]+ms, not 0018,0080)"
)
"""What it doubts in the time step, where that is the headers', or none is stated."""

_ANSWERED_BY_SLICE_TIMES = re.compile(
    r"Warning: (Weird CSA 'ProtocolSliceNumber'"
    r"|Assuming mosaics saved in reverse order due to 'sSliceArray\.ucImageNumb')"
)
"""What it doubts in a mosaic's order and slice times, where the sidecar's are those of a volume's header by place."""

_ANSWERED_BY_LATER_SLICE_TIMES = re.compile(r"Warning: Issue870: Slice timing range")
"""What it doubts in the slice times of the first two volumes, where those of a later one are used."""

_SAID_AS_UNPLACED = re.compile(
    r"Warning: (Patient Position \(|Unable to determine (manufacturer|slice direction)|Bogus spatial matrix"
    r"|All images appear to be a single slice)"
    r"|Unable to determine spatial orientation"
)
"""What dcm2niix says of images without a place, for which we have words of our own."""

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
        notes: words worth knowing, about nothing that is wrong.
        converter: name and version.
        arguments: that the converter was given.
    """

    images: tuple[Image, ...]
    headers: tuple[Header, ...]
    warnings: tuple[str, ...]
    converter: str
    arguments: tuple[str, ...] = ()
    skipped: str = ""
    notes: tuple[str, ...] = ()


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


def survey(instances: Sequence[Instance], name: str) -> Survey:
    """What the headers of a series say.

    Raises:
        PermanentError: not one file could be read.
    """
    headers, troubles = read_headers(instances)
    if not headers:
        raise PermanentError(f"No file of {name} is readable DICOM. " + "; ".join(troubles[:5]))
    with_pixels = tuple(header for header in headers if header.has_pixels)
    skipped = ""
    if not with_pixels:
        kinds = sorted({UID(header.sop_class_uid).name for header in headers})
        skipped = f"The series has no pixels ({', '.join(kinds)})"
    return Survey(name, with_pixels, tuple(troubles), skipped, tuple(_oddities(with_pixels)))


def has_no_place(header: Header) -> bool:
    """Whether instances of this kind say by the standard nothing of a place in the patient.

    Tomographic nuclear medicine has its place in the detectors' sequence (PS3.3 C.8.4.11): one without it is doubtful.
    """
    kind = header.sop_class_uid
    if any("TOMO" in str(frame.traits[IMAGE_TYPE]) for frame in header.facts):
        return False
    return any(kind.startswith(uid) if uid.endswith(".") else kind == uid for uid in _KINDS_WITHOUT_PLACE)


def _placeless(headers: Sequence[Header]) -> Iterator[str]:
    """A note on each kind of images that have no place in the patient."""
    kinds = {header.sop_class_uid for header in headers if header.planes is None and has_no_place(header)}
    for kind in sorted(kinds):
        yield (
            f"Images of this kind ({UID(kind).name}) have no place in the patient; places and sizes of voxels"
            " are a guess"
        )


def _oddities(headers: Sequence[Header]) -> Iterator[str]:
    """Each kind of words once, with the first file that they are about."""
    kinds: dict[str, list[str]] = {}
    for header in headers:
        for words in header.oddities:
            kinds.setdefault(words, []).append(header.path.name)
        if header.planes is None and not has_no_place(header):
            kinds.setdefault(UNPLACED, []).append(header.path.name)
    scaled = {header.slice_matrix for header in headers if header.scaling is not None}
    # Images of another matrix are another thing: a report's pages beside its scout.
    unscaled = [h.path.name for h in headers if h.scaling is None and h.slice_matrix in scaled]
    if unscaled:
        kinds["RescaleSlope is missing where other instances have one; values are taken with slope 1"] = (
            unscaled
        )
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

    source = Source(headers, folder / "in")
    options = (*OPTIONS, *(DISPLAY_SCALING if _has_philips_scaling(headers) else ()))
    if any(map(has_palette, headers)):
        # dcm2niix would write the numbers of the colours.
        troubles += rewrite(headers, source).values()
    attempt = _attempt(source, folder / "out", headers, options)
    decoded = headers
    if attempt.misunderstood or (attempt.wants_decoding and any(map(is_encoded, headers))):
        undecodable = rewrite(headers, source)
        left = tuple(header for header in headers if header.path not in undecodable)
        again = _attempt(source, folder / "again", left, options, attempt.expected)
        if attempt.misunderstood or again.rank > attempt.rank:
            decoded = left
            troubles += undecodable.values()
        attempt = max(attempt, again, key=lambda one: one.rank)
    used = decoded
    incomplete = (not attempt.images or attempt.doubts) and stacks_of(decoded) is None
    if incomplete and (whole := complete_volumes(decoded)):
        kept = {header.path for header in whole}
        for header in headers:
            if header.path not in kept:
                source.place(header).unlink(missing_ok=True)
        shortened = _attempt(source, folder / "whole", whole, options)
        if not attempt.images or (shortened.images and not shortened.doubts):
            attempt, used = shortened, whole
            troubles.append(f"{len(decoded) - len(whole)} slices of incomplete volumes are not converted")
    copies = copies_in(used)
    if copies:
        troubles.append(
            f"{len(copies)} slices are there twice with equal pixels; one of each is used"
            f" ({min(path.name for path in copies)} and others)"
        )
    stacks = stacks_of(header for header in used if header.path not in copies)
    images, words = with_owners(attempt.images, used), []
    if images and stacks:
        lost = attempt.slices < sum(header.slices for header in used)
        images, words = assembled(images, stacks, folder / "own", lost)
    elif stacks:
        images = own_images(stacks, folder / "own")
    if any(image.wrong for image in attempt.images) and not any(image.wrong for image in images):
        words = [
            f"dcm2niix has images wrong ({'; '.join(attempt.doubts)})."
            " They are made from the headers and pixels instead",
            *filter(str.strip, words),
        ]
    if not attempt.images:
        said = "; ".join(dict.fromkeys((*troubles, *attempt.complaints))) or "it gave no reason"
        refusal = (
            f"dcm2niix made no image of the {len(headers)} instances of {found.name}"
            f" ({attempt.run.meaning}): {said}"
        )
        if not images:
            raise PermanentError(refusal)
        words = [f"{refusal}. The images are made from the headers and pixels instead; sidecars say less"]
    images = tell_apart(images)
    numbers = {header.instance_number for header in headers}
    images = [
        finished(image, f"Image {image.label}" if image.label else "The image", numbers) for image in images
    ]
    if any(image.mended for image in images):
        converter += f", {OWN_SOFTWARE}"
    warnings = [*troubles, *words, *found.oddities, *gaps(decoded), *_untold(images, decoded)]
    notes = list(_placeless(headers))
    if attempt.images and not words:
        warnings[len(troubles) : len(troubles)], its_notes = weigh(_unanswered(attempt, images, headers))
        notes += [*its_notes, *_later_slice_times(attempt, images)]
    notes += [note for image in images for note in image.notes]
    expected = sum(header.slices for header in headers)
    if attempt.images and attempt.run.code in PARTIAL_CODES and not words:
        warnings.append(f"dcm2niix converted only a part of the series ({attempt.run.meaning})")
    elif attempt.images and attempt.run.code != ExitCode.SUCCESS:
        warnings.append(f"dcm2niix ended with {attempt.run.meaning}")
    slices = _count(images) if attempt.images else expected
    if slices not in (expected, expected - len(copies)):
        warnings.append(f"dcm2niix wrote {slices} of the {expected} slices of the series")
    warnings += [word for image in images for word in image.words]
    return Conversion(
        images=tuple(images),
        headers=headers,
        warnings=tuple(dict.fromkeys(filter(str.strip, warnings))),
        notes=tuple(notes),
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


def _unanswered(attempt: _Attempt, images: Sequence[Image], headers: Sequence[Header]) -> list[str]:
    """dcm2niix's complaints without those that our own checks and words settle.

    Args:
        images: as they are in the end.
    """
    scanners = [image for image in images if image.origin is Origin.SCANNER]
    placed = [image for image in scanners if image.placed]
    others = [image for image in scanners if not image.placed]
    settled = []
    known = all(has_no_place(header) for header in headers if header.planes is None)
    directed = all(image.compared or not image.bvec for image in scanners)
    if placed and not any(image.wrong for image in scanners) and (not others or known):
        settled.append(_ANSWERED_BY_PLACES)
    if placed and directed and not attempt.doubts and (not others or known):
        settled.append(_ANSWERED_BY_CHECKS)
        if any(image.compared for image in scanners):
            settled.append(_ANSWERED_BY_GRADIENTS)
        if all(image.slices_timed is not None for image in scanners):
            settled.append(_ANSWERED_BY_SLICE_TIMES)
            if all(image.slices_timed for image in scanners):
                settled.append(_ANSWERED_BY_LATER_SLICE_TIMES)
    if others and (known or not placed):
        settled.append(_SAID_AS_UNPLACED)
    series = [image for image in scanners if image.stored().ndim > 3]
    if series and all(image.timed for image in series):
        settled.append(_ANSWERED_BY_TIMES)
    return [words for words in attempt.complaints if not any(one.match(words) for one in settled)]


def _later_slice_times(attempt: _Attempt, images: Sequence[Image]) -> list[str]:
    """A note when the slice times of the first volume could not be used, and a later one's are."""
    odd = any("Issue870" in words for words in attempt.complaints)
    return [
        f"The slice times in the first volume's header cannot be right; SliceTiming is that of volume {later + 1}"
        for later in {image.slices_timed for image in images if image.slices_timed}
        if odd
    ]


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


def _attempt(
    source: Source, out: Path, headers: Sequence[Header], options: Sequence[str], expected: int = 0
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
    for image in written:
        if not image.stored().size:
            continue
        settled, doubt = checked(image, headers)
        images.append(replace(settled, words=tuple(doubt)))
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

    sidecar = beside(".json")
    return Image(
        path=path,
        label=label,
        sidecar=sidecar,
        bval=beside(".bval"),
        bvec=beside(".bvec"),
        affine=np.asarray(nifti.affine, float),
        slope=float(slope),
        intercept=float(intercept),
        origin=_MADE_BY_CONVERTER[made[1]] if made else Origin.SCANNER,
        mirrored=_mirrored(load_sidecar(sidecar)) if sidecar else None,
    )


def _mirrored(fields: Mapping[str, object]) -> int | None:
    """The axis along which dcm2niix mirrors an image of GE's sequence epi_pepolar, which stores one polarity so.

    See https://github.com/rordenlab/dcm2niix/issues/532.
    """
    if (
        "pepolar" not in str(fields.get("SequenceName", ""))
        or fields.get("PhaseEncodingPolarityGE") != "Unflipped"
    ):
        return None
    return 1 if fields.get("InPlanePhaseEncodingDirectionDICOM") == "ROW" else 0


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
