"""What the DICOM headers say, computed apart from the package: PS3.3 C.7.6.2.1.1, written out."""

import copy

import numpy as np
import pydicom
from pydicom.uid import EnhancedMRImageStorage

from tardis_imagetrove.errors import PermanentError


def pixel_to_ras(position, orientation, spacing):
    """The matrix of equation C.7.6.2.1-1, from (column, row) to mm, then from LPS to RAS. Shape (4, 3)."""
    sx, sy, sz = (float(value) for value in position)
    xx, xy, xz, yx, yy, yz = (float(value) for value in orientation)
    row_spacing, column_spacing = (float(value) for value in spacing)
    lps = np.array(
        [
            [xx * column_spacing, yx * row_spacing, sx],
            [xy * column_spacing, yy * row_spacing, sy],
            [xz * column_spacing, yz * row_spacing, sz],
            [0, 0, 1],
        ]
    )
    return np.diag([-1, -1, 1, 1]) @ lps


def places_and_values(path):
    """Of every pixel of a single-frame file: mm in RAS, shape (rows, columns, 3), and its real value."""
    dataset = pydicom.dcmread(path)
    matrix = pixel_to_ras(dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing)
    row, column = np.mgrid[: dataset.Rows, : dataset.Columns]
    places = np.stack([column, row, np.ones_like(row)], axis=-1) @ matrix[:3].T
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    return places, dataset.pixel_array * slope + intercept


def worst(files, affine, voxels):
    """How far an image is from the DICOM files: mm at most, and value at most, over every pixel.

    Each pixel's place is looked up in the image through the inverse of its affine.
    """
    inverse = np.linalg.inv(affine)
    distance = difference = 0.0
    seen = np.zeros(voxels.shape[:3], int)
    for path in files:
        places, values = places_and_values(path)
        indices = places @ inverse[:3, :3].T + inverse[:3, 3]
        nearest = np.rint(indices).astype(int)
        assert (nearest >= 0).all() and (nearest < voxels.shape[:3]).all(), f"{path.name} is outside"
        back = nearest @ affine[:3, :3].T + affine[:3, 3]
        distance = max(distance, float(np.linalg.norm(back - places, axis=-1).max()))
        i, j, k = np.moveaxis(nearest, -1, 0)
        difference = max(difference, float(np.abs(voxels[i, j, k] - values).max()))
        np.add.at(seen, (i, j, k), 1)
    assert (seen == 1).all(), "the image has voxels that no pixel is at, or two are"
    return distance, difference


def edit(path, change):
    """Apply ``change`` to a file's dataset and write it back."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def repeated(files, times, change):
    """A series whose files are repeated with new instance numbers and UIDs, each changed by
    ``change(dataset, repeat)``."""
    made = list(files)
    originals = [pydicom.dcmread(path) for path in files]
    for repeat in range(times):
        for index, original in enumerate(originals):
            dataset = copy.deepcopy(original)
            number = repeat * len(originals) + index + 1
            dataset.InstanceNumber = number
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = (
                f"{original.SOPInstanceUID[:55]}.{number}"
            )
            change(dataset, repeat)
            path = files[index].with_name(f"I{number:04d}.dcm")
            dataset.save_as(path)
            made.append(path)
    for path in files:
        path.unlink()
    return made[len(files) :]


def timed_out(*_, **__):
    """Stands for a converter that hangs, without the wait."""
    raise PermanentError("dcm2niix did not finish within 1800 s and was stopped")


def enhanced(files, path, kind=EnhancedMRImageStorage, times=None):
    """One multi-frame object of single-frame files, in their order: attributes of the frames are moved into
    functional groups (PS3.3 C.7.6.16).

    Args:
        times: TemporalPositionIndex of each.
    """
    sources = [pydicom.dcmread(file) for file in files]
    whole = copy.deepcopy(sources[0])
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = kind
    whole.NumberOfFrames = len(sources)
    whole.PixelData = b"".join(source.PixelData for source in sources)
    moved = {
        "PlanePositionSequence": ("ImagePositionPatient",),
        "PlaneOrientationSequence": ("ImageOrientationPatient",),
        "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
        "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    }
    groups = []
    for number, source in enumerate(sources):
        group, content = pydicom.Dataset(), pydicom.Dataset()
        for sequence, keywords in moved.items():
            item = pydicom.Dataset()
            for keyword in keywords:
                setattr(
                    item,
                    keyword,
                    source.get(keyword, {"RescaleSlope": "1", "RescaleIntercept": "0"}.get(keyword)),
                )
                if keyword in whole:
                    delattr(whole, keyword)
            setattr(group, sequence, [item])
        content.StackID, content.InStackPositionNumber = "1", number + 1
        if times:
            content.TemporalPositionIndex = times[number]
        group.FrameContentSequence = [content]
        groups.append(group)
    whole.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
    whole.PerFrameFunctionalGroupsSequence = groups
    whole.save_as(path)
    return path
