"""A generated MR series of a lopsided head, for trying and testing the whole path without anybody's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)

HEAD_SEMI_AXES = np.array([70.0, 90.0, 80.0])
"""Of an adult's head in mm: left-right, front-back, head-foot."""


def tilted(orientation: Sequence[float], degrees: Sequence[float]) -> tuple[float, ...]:
    """Turn an ImageOrientationPatient about the patient's x, then y, then z axis.

    Args:
        orientation: six direction cosines, row then column (PS3.3 C.7.6.2.1.1).
        degrees: three angles.

    Returns:
        Six direction cosines, orthonormal to 1e-15.
    """
    rotation = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, other = [index for index in range(3) if index != axis]
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        rotation = turn @ rotation
    return tuple(np.concatenate([rotation @ orientation[:3], rotation @ orientation[3:]]))


OBLIQUE = tilted(AXIAL, (-22.0, 9.0, 14.0))


def oblique_mr_series(
    folder: Path,
    *,
    slices: int = 24,
    rows: int = 96,
    columns: int = 80,
    pixel_spacing: tuple[float, float] = (1.5, 1.25),
    slice_spacing: float = 3.0,
    orientation: Sequence[float] = OBLIQUE,
    centre: Sequence[float] = (4.0, -11.0, 7.0),
    reverse: bool = False,
    study_uid: str = "",
    series_uid: str = "",
    series_number: int = 3,
    series_description: str = "t1_phantom_oblique",
    patient_name: str = "Phantom^Oblique",
    patient_id: str = "PHANTOM-1",
    overrides: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write one series of MR Image Storage instances as Part 10 files.

    The phantom is drawn in patient coordinates, so it lies the same way whatever the slices'
    orientation: nose to the front, a bright ball on the patient's left, a dark one at the top
    of the right, and a slope of brightness along each axis.

    Args:
        folder: where the files go; made if it is not there.
        pixel_spacing: mm between rows, then between columns, as in PixelSpacing.
        slice_spacing: mm between the centres of neighbouring slices.
        orientation: ImageOrientationPatient.
        centre: of the volume, in patient coordinates (LPS, mm).
        reverse: number the instances against the slice normal.
        study_uid, series_uid: new ones when empty.
        overrides: DICOM keyword to value, set on every instance last; ``None`` removes the attribute.

    Returns:
        The files, by InstanceNumber.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study_uid = study_uid or generate_uid()
    series_uid = series_uid or generate_uid()
    row, column = (np.array(orientation[:3], float), np.array(orientation[3:], float))
    normal = np.cross(row, column)
    per_column, per_row = row * pixel_spacing[1], column * pixel_spacing[0]
    offsets = (np.arange(slices) - (slices - 1) / 2) * slice_spacing
    corner = np.asarray(centre) - per_column * (columns - 1) / 2 - per_row * (rows - 1) / 2
    scale = _head_scale(row, column, rows * pixel_spacing[0], columns * pixel_spacing[1])

    files = []
    for index, offset in enumerate(offsets[::-1] if reverse else offsets):
        position = corner + normal * offset
        grid = (
            position
            + np.arange(columns)[None, :, None] * per_column
            + np.arange(rows)[:, None, None] * per_row
        )
        pixels = head_pixels(grid - np.asarray(centre), scale, seed=index)
        dataset = _instance(study_uid, series_uid, index)
        dataset.PatientName, dataset.PatientID = patient_name, patient_id
        dataset.SeriesNumber, dataset.SeriesDescription = series_number, series_description
        dataset.ProtocolName = series_description
        dataset.Rows, dataset.Columns = rows, columns
        dataset.PixelSpacing = [_decimal(value) for value in pixel_spacing]
        dataset.SliceThickness = dataset.SpacingBetweenSlices = _decimal(slice_spacing)
        dataset.ImageOrientationPatient = [_decimal(value) for value in orientation]
        dataset.ImagePositionPatient = [_decimal(value) for value in position]
        dataset.SliceLocation = _decimal(float(position @ normal))
        dataset.AcquisitionMatrix = [0, columns, rows, 0]
        dataset.PixelData = pixels.tobytes()
        for keyword, value in (overrides or {}).items():
            if value is not None:
                setattr(dataset, keyword, value)
            elif keyword in dataset:
                delattr(dataset, keyword)
        path = folder / f"MR{index + 1:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def head_pixels(points: np.ndarray, scale: float, seed: int = 0) -> np.ndarray:
    """Brightness of the phantom at ``points``.

    Args:
        points: mm from the head's centre in patient coordinates (LPS), shape (..., 3).
        scale: size of the head against an adult's.
        seed: of the grain that makes neighbouring voxels differ.

    Returns:
        ``uint16`` below 4096, shape (...).
    """
    x, y, z = np.moveaxis(points / (HEAD_SEMI_AXES * scale), -1, 0)

    def ball(cx: float, cy: float, cz: float, rx: float, ry: float, rz: float) -> np.ndarray:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1

    value = np.zeros(x.shape)
    value[ball(0, -1.02, -0.15, 0.14, 0.2, 0.22)] = 1500  # the nose, in front
    value[ball(0, 0, 0, 0.97, 0.97, 0.97)] = 2300  # scalp
    value[ball(0, 0, 0, 0.9, 0.91, 0.9)] = 250  # skull
    brain = ball(0, 0, 0, 0.84, 0.86, 0.84)
    folds = np.sin(9 * x + 2 * z) * np.sin(8 * y - 1.5 * x) * np.sin(8 * z + y)
    value[brain] = 1500 + 260 * np.tanh(3 * folds[brain])
    value[ball(0, 0, 0, 0.62, 0.66, 0.6)] = 2050
    value[brain & (np.abs(x + 0.03) < 0.015) & (z > 0.4)] = 500  # between the hemispheres
    value[ball(0.16, -0.1, 0.1, 0.1, 0.38, 0.2)] = 420  # ventricles, the left one larger
    value[ball(-0.14, -0.06, 0.1, 0.07, 0.3, 0.16)] = 420
    value[ball(0.5, 0.25, 0.12, 0.16, 0.13, 0.18)] = 3500  # on the patient's left
    value[ball(-0.4, -0.3, 0.45, 0.13, 0.13, 0.13)] = 120  # top of the right
    inside = value > 0
    value[inside] += 90 * x[inside] - 120 * y[inside] + 150 * z[inside]
    grain = np.random.default_rng(seed).integers(0, 60, x.shape)
    return np.clip(value + grain, 0, 4095).astype("<u2")


def _head_scale(row: np.ndarray, column: np.ndarray, height: float, width: float) -> float:
    """How large a head fits the field of view, ``height`` by ``width`` mm."""
    across = 2 * np.linalg.norm(HEAD_SEMI_AXES * row)
    down = 2 * np.linalg.norm(HEAD_SEMI_AXES * column)
    return 0.88 * min(width / across, height / down)


def _decimal(value: float) -> str:
    """``value`` as a Decimal String of at most 16 characters (PS3.5 6.2)."""
    for digits in range(16, 0, -1):
        text = f"{value + 0.0:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value!r} does not fit a Decimal String")


def _instance(study_uid: str, series_uid: str, index: int) -> Dataset:
    """All that an MR Image Storage instance must hold beside its geometry and pixels (PS3.3 A.4)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series_uid, str(index)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[study_uid, "frame of reference"])
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    dataset.Modality, dataset.Manufacturer = "MR", "TOSHIBA"  # a vendor that dcm2niix knows
    dataset.ManufacturerModelName = "Phantom generator"
    dataset.InstitutionName, dataset.InstitutionalDepartmentName = "Example Institute", "Imaging"
    dataset.StationName, dataset.OperatorsName = "PHANTOM1", "Operator^One"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20240517"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101500"
    dataset.AccessionNumber, dataset.StudyID = "", "1"
    dataset.StudyDescription = "Phantom study"
    dataset.ReferringPhysicianName = "Project 12345"
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    dataset.PatientWeight, dataset.PatientPosition = "70", "HFS"
    dataset.BodyPartExamined, dataset.PositionReferenceIndicator = "HEAD", ""
    dataset.InstanceNumber, dataset.AcquisitionNumber = index + 1, 1
    dataset.ScanningSequence, dataset.SequenceVariant = "GR", "SP"
    dataset.ScanOptions, dataset.MRAcquisitionType = "", "2D"
    dataset.RepetitionTime, dataset.EchoTime = "450", "9.2"
    dataset.EchoTrainLength, dataset.EchoNumbers = 1, 1
    dataset.FlipAngle, dataset.MagneticFieldStrength = "70", "3"
    dataset.InPlanePhaseEncodingDirection = "COL"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = "1500", "3000"
    return dataset
