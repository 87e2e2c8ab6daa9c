"""ParaVision studies as NIfTI images: places and scaling from ``visu_pars``, nothing rotated or resampled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np

from ..formats.paravision.parameters import Parameters, UnreadableParameters, read_parameters
from ..formats.paravision.reconstruction import NotAnImage, Reconstruction, read_reconstruction
from ..formats.paravision.study import Place, parse_date, reconstructions
from .image import Image

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

#: Frame groups whose frames are images of their own, and the letters that tell them apart in names.
SEPARATE = {"FG_ECHO": "e", "FG_ISA": "map", "FG_COIL": "c", "FG_IRMODE": "ir"}
#: Frame groups along which time passes evenly.
IN_TIME = ("FG_CYCLE", "FG_MOVIE")
DIFFUSION = ("FG_DIFFUSION", "FG_DTI")

_EVEN = 0.01
"""How far a slice may lie from its place in an even stack, as a part of a voxel's smallest side."""
_SAME = 1e-4
"""Difference of directions, and in mm of positions, that is rounding."""

#: DICOM's PatientPosition (PS3.3 section C.7.3.1.1.2) for VisuSubjectPosition.
_POSITIONS = {
    "Head_Supine": "HFS",
    "Head_Prone": "HFP",
    "Head_Left": "HFDL",
    "Head_Right": "HFDR",
    "Foot_Supine": "FFS",
    "Foot_Prone": "FFP",
    "Foot_Left": "FFDL",
    "Foot_Right": "FFDR",
    "Tail_Supine": "FFS",
    "Tail_Prone": "FFP",
    "Tail_Left": "FFDL",
    "Tail_Right": "FFDR",
}
_PHASE = {"col_dir": "COL", "row_dir": "ROW"}


@dataclass(frozen=True)
class Volumes:
    """Frames that make one image.

    Attributes:
        frames: index of the frame of slice k in volume t, shape (slices, volumes); of frames of three axes one slice.
        affine: voxel index to mm in patient coordinates (LPS), shape (4, 4).
        label: what tells it from the reconstruction's other images.
    """

    frames: np.ndarray
    affine: np.ndarray
    label: str


@dataclass
class Study:
    """What became of a study.

    Attributes:
        warnings: a sentence for each reconstruction that is damaged or doubtful.
        notes: a sentence for each that is no image in space: spectra, complex values.
    """

    images: list[Image] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def convert_study(folder: Path, out: Path, name: str) -> Study:
    """The images of all reconstructions of a study.

    Args:
        out: an existing folder for the images.
        name: of the study, for messages.
    """
    made = Study()
    places = list(reconstructions(folder))
    if not places:
        made.warnings.append(f"{name} has no reconstruction (pdata/1/2dseq)")
    for place in places:
        where = f"Scan {place.scan}, reconstruction {place.number}"
        try:
            found = read_reconstruction(place)
            for volumes in volumes_of(found):
                made.images.append(_write(found, volumes, out, folder, made.warnings))
        except NotAnImage as error:
            made.notes.append(f"{where} {error}; it is archived but not converted")
        except UnreadableParameters as error:
            made.warnings.append(f"{where}: {error}; it is archived but not converted")
    return made


def volumes_of(found: Reconstruction) -> Iterator[Volumes]:
    """The images that a reconstruction holds: one for each slice package, and each echo, map or coil.

    Raises:
        UnreadableParameters: slices are not evenly apart, or not as often there as each other.
    """
    indices = found.indices()
    separate = [
        number for number, group in enumerate(found.groups) if group.name in SEPARATE and group.length > 1
    ]
    parts: dict[tuple[int, ...], list[int]] = {}
    for frame, index in enumerate(indices):
        parts.setdefault(tuple(int(index[number]) for number in separate), []).append(frame)
    for part, frames in parts.items():
        letters = [
            f"{SEPARATE[found.groups[number].name]}{index + 1}"
            for number, index in zip(separate, part, strict=True)
        ]
        packages = _packages(found, frames)
        for number, package in enumerate(packages, 1):
            label = [found.place.label, *([f"p{number}"] if len(packages) > 1 else []), *letters]
            order, affine = _stack(found, package)
            yield Volumes(order, affine, "_".join(label))


def _packages(found: Reconstruction, frames: Sequence[int]) -> list[list[int]]:
    """Frames by orientation, in the order of their first; volumes of three axes also by position."""
    packages: list[list[int]] = []
    for frame in frames:
        for package in packages:
            same = np.allclose(found.directions[package[0]], found.directions[frame], atol=_SAME)
            if same and (
                len(found.size) == 2
                or np.allclose(found.positions[package[0]], found.positions[frame], atol=_SAME)
            ):
                package.append(frame)
                break
        else:
            packages.append([frame])
    return packages


def _stack(found: Reconstruction, frames: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Frames by slice and volume, slices in the order of the normal, and their affine (LPS)."""
    directions, positions = found.directions[frames[0]], found.positions[frames]
    affine = np.eye(4)
    affine[:3, 0] = directions[0] * found.spacing[0]
    affine[:3, 1] = directions[1] * found.spacing[1]
    affine[:3, 2] = directions[2] * found.spacing[2]
    if len(found.size) == 3:
        affine[:3, 3] = positions[0]
        return np.array([frames]), affine
    along = positions @ directions[2]
    order = np.argsort(along, kind="stable")
    tolerance = _EVEN * min(found.spacing)
    starts = np.flatnonzero(np.diff(along[order], prepend=-np.inf) > tolerance)
    places = [sorted(place) for place in np.split(order, starts[1:])]
    if len({len(place) for place in places}) != 1:
        raise UnreadableParameters("some slices are there more often than others")
    corners = np.array([positions[place[0]] for place in places])
    if len(places) > 1:
        affine[:3, 2] = (corners[-1] - corners[0]) / (len(places) - 1)
    affine[:3, 3] = corners[0]
    even = corners[0] + np.arange(len(places))[:, None] * affine[:3, 2]
    if np.linalg.norm(corners - even, axis=1).max() > tolerance:
        raise UnreadableParameters("its slices are not evenly apart")
    for place in places:
        if np.ptp(positions[place], axis=0).max() > tolerance:
            raise UnreadableParameters("slices of one place are shifted against each other")
    return np.array([[frames[index] for index in place] for place in places]), affine


def _write(found: Reconstruction, volumes: Volumes, out: Path, study: Path, warnings: list[str]) -> Image:
    frames = volumes.frames
    slopes, offsets = found.slopes[frames], found.offsets[frames]
    alike = np.ptp(slopes) == 0 and np.ptp(offsets) == 0 and slopes.flat[0] != 0
    if (slopes == 0).any():
        raise UnreadableParameters("VisuCoreDataSlope is 0")
    kind = found.kind.newbyteorder("=") if alike else np.dtype(np.float32)
    if not alike and found.kind.itemsize > 2 and found.kind.kind == "i":
        kind = np.dtype(np.float64)  # float32 does not hold all 32-bit integers
    slope, intercept = (float(slopes.flat[0]), float(offsets.flat[0])) if alike else (1.0, 0.0)
    affine = LPS_TO_RAS @ volumes.affine

    columns, rows = found.size[:2]
    depth = found.size[2] if len(found.size) == 3 else len(frames)
    count = frames.shape[1]
    step = _time_step(found, count)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(kind)
    header.set_data_shape((columns, rows, depth, count) if count > 1 else (columns, rows, depth))
    sizes = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    header.set_zooms((*sizes, step) if count > 1 else sizes)
    header.set_xyzt_units("mm", "sec")
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_slope_inter(slope, intercept)
    header["vox_offset"] = 352
    path = out / f"{volumes.label}.nii"
    stored = found.stored()
    with path.open("wb") as file:
        header.write_to(file)
        file.write(b"\0" * (352 - file.tell()))
        for volume in range(count):
            for place in frames[:, volume]:
                values = found.frame(stored, int(place))
                if not alike:
                    values = values.astype(np.float64) * found.slopes[place] + found.offsets[place]
                file.write(np.ascontiguousarray(values, dtype=kind).tobytes())

    sidecar = path.with_suffix(".json")
    sidecar.write_text(
        json.dumps(sidecar_fields(found, volumes), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    bval = bvec = None
    if any(group.name in DIFFUSION and group.length > 1 for group in found.groups):
        gradients = _gradients(found, volumes, study)
        if gradients is None:
            warnings.append(
                f"Scan {found.place.scan}, reconstruction {found.place.number}: its b-values and directions are not"
                " known, so it has no bval and bvec"
            )
        else:
            bval, bvec = path.with_suffix(".bval"), path.with_suffix(".bvec")
            bval.write_text(" ".join(f"{number:g}" for number in gradients[0]) + "\n")
            bvec.write_text(
                "\n".join(" ".join(f"{number:.6g}" for number in row) for row in gradients[1]) + "\n"
            )
    return Image(
        path=path,
        label=volumes.label,
        sidecar=sidecar,
        bval=bval,
        bvec=bvec,
        affine=affine,
        slope=slope,
        intercept=intercept,
        placed=True,
    )


def _time_step(found: Reconstruction, volumes: int) -> float:
    """Seconds between volumes; 0 when there is one or it is not known."""
    if volumes < 2:
        return 0.0
    total = found.parameters.number("VisuAcqScanTime")
    if total and any(group.name in IN_TIME for group in found.groups):
        return total / 1000 / volumes
    repetition = found.parameters.number("VisuAcqRepetitionTime")
    return repetition / 1000 if repetition else 0.0


def sidecar_fields(found: Reconstruction, volumes: Volumes) -> dict[str, object]:
    """BIDS fields of an image: times in seconds, lengths in mm, frequencies in MHz."""
    parameters = found.parameters
    first = int(volumes.frames[0, 0])

    def number(name: str, factor: float = 1.0) -> float | None:
        values = found.numbers(name) if name in parameters and _fits(found, name) else None
        return None if values is None else round(float(values[first, 0]) * factor, 9)

    started = parse_date(parameters.text("VisuAcqDate"))
    phase = found.texts("VisuAcqImagePhaseEncDir") or found.texts("VisuAcqGradEncoding")
    kinds = found.texts("VisuCoreFrameType")
    position = parameters.text("VisuSubjectPosition")
    fields: dict[str, object | None] = {
        "Modality": "MR",
        "Manufacturer": parameters.text("VisuManufacturer") or parameters.text("ORIGIN"),
        "ManufacturersModelName": parameters.text("VisuStation"),
        "InstitutionName": parameters.text("VisuInstitution"),
        "SoftwareVersions": f"{parameters.text('VisuCreator')} {parameters.text('VisuCreatorVersion')}".strip(),
        "SeriesNumber": found.place.scan,
        "ReconstructionNumber": found.place.number,
        "ProtocolName": parameters.text("VisuAcquisitionProtocol"),
        "SeriesDescription": parameters.text("VisuAcquisitionProtocol"),
        "SequenceName": parameters.text("VisuAcqSequenceName"),
        "ImagedNucleus": parameters.text("VisuAcqImagedNucleus"),
        "ImagingFrequency": number("VisuAcqImagingFrequency"),
        "MagneticFieldStrength": number("VisuMagneticFieldStrength"),
        "RepetitionTime": number("VisuAcqRepetitionTime", 1e-3),
        "EchoTime": number("VisuAcqEchoTime", 1e-3),
        "InversionTime": number("VisuAcqInversionTime", 1e-3),
        "FlipAngle": number("VisuAcqFlipAngle"),
        "NumberOfAverages": number("VisuAcqNumberOfAverages"),
        "EchoTrainLength": number("VisuAcqEchoTrainLength"),
        "PixelBandwidth": number("VisuAcqPixelBandwidth"),
        "SliceThickness": number("VisuCoreFrameThickness") if len(found.size) == 2 else found.spacing[2],
        "SpacingBetweenSlices": round(float(np.linalg.norm(volumes.affine[:3, 2])), 9),
        "InPlanePhaseEncodingDirectionDICOM": _PHASE.get(phase[first]) if phase else None,
        "PatientPosition": _POSITIONS.get(position),
        "SubjectPosition": position,
        "SubjectType": parameters.text("VisuSubjectType"),
        "ImageType": [kinds[first]] if kinds else None,
        "AcquisitionTime": started.strftime("%H:%M:%S") if started else None,
        "FrameGroups": [f"{group.name}:{group.length}" for group in found.groups],
        "ConversionSoftware": converter(),
    }
    return {name: value for name, value in fields.items() if value not in (None, "", [])}


def converter() -> str:
    """Names and versions of the libraries that read and write."""
    return f"brukerapi {version('brukerapi')}, nibabel {nibabel.__version__}"


def _fits(found: Reconstruction, name: str) -> bool:
    try:
        found.numbers(name)
    except UnreadableParameters:
        return False
    return True


def _gradients(found: Reconstruction, volumes: Volumes, study: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """b-values in s/mm^2, shape (volumes,), and FSL's b-vectors, shape (3, volumes); ``None`` when not known.

    FSL's vectors are along the voxel axes; the first is turned round when the affine has a positive determinant
    (https://fsl.fmrib.ox.ac.uk/fsl/docs, FDT).
    """
    firsts = volumes.frames[0]
    matrices = found.numbers("VisuAcqDiffusionBMatrix", 9)
    if matrices is not None:
        values, directions = np.zeros(len(firsts)), np.zeros((len(firsts), 3))
        for index, matrix in enumerate(matrices[firsts].reshape(-1, 3, 3)):
            values[index] = np.trace(matrix)
            strengths, axes = np.linalg.eigh((matrix + matrix.T) / 2)
            if strengths[-1] > 0:
                directions[index] = axes[:, -1]
        # Patient coordinates to the axes of the voxels.
        along = directions @ found.directions[firsts[0]].T
    else:
        found_in_method = _method_gradients(found.place, len(firsts))
        if found_in_method is None:
            return None
        values, read_phase_slice = found_in_method
        phase = found.texts("VisuAcqImagePhaseEncDir")
        by_rows = bool(phase) and phase[int(firsts[0])] == "row_dir"
        along = read_phase_slice[:, [1, 0, 2]] if by_rows else read_phase_slice
    weak = values < 1e-3 * max(float(values.max()), 1.0)
    along = np.where(weak[:, None], 0.0, along)
    lengths = np.linalg.norm(along, axis=1, keepdims=True)
    along = np.divide(along, lengths, out=np.zeros_like(along), where=lengths > 0)
    if np.linalg.det((LPS_TO_RAS @ volumes.affine)[:3, :3]) > 0:
        along = along * [-1, 1, 1]
    return values, along.T + 0.0


def _method_gradients(place: Place, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """b-values, and directions in the gradients' frame (read, phase, slice), from the scan's ``method``."""
    try:
        method: Parameters = read_parameters(place.folder.parent.parent / "method")
        values = method.numbers("PVM_DwEffBval")
        vectors = method.numbers("PVM_DwGradVec")
    except UnreadableParameters:
        return None
    if len(values) != count or len(vectors) != 3 * count:
        return None
    return values, vectors.reshape(-1, 3)
