"""Missing slices and volumes, as the headers' positions and numbers show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from ..formats.dicom.files import read_attributes
from .headers import Header, in_time
from .stack import frame_pixels, position_tolerance

SPACING_TOLERANCE = 0.02
"""How much two neighbouring distances between slices may differ, as a part of the usual one."""


WHOLE = 0.15
"""How far a gap may be from a whole number of distances, as a part of one, for slices to be missing in it."""

OFTEN = 0.2
"""Part of the distances above which wider ones are how the series was taken, not gaps in it."""


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


def copies_in(headers: Sequence[Header]) -> set[Path]:
    """Single-frame instances that repeat another's place, pixels and header, but for UID and number.

    Equal pixels alone make no copy: volumes of a phantom, or of a scan whose pixels were blanked, differ in a
    gradient or a time that only a private element may hold. The slices of one place decide whether the others
    are looked at.
    """
    places: dict[tuple, list[Header]] = {}
    for header in headers:
        if header.planes is not None and header.slices == 1:
            place = np.concatenate(
                [header.planes.positions[0], header.planes.per_column[0], header.planes.per_row[0]]
            )
            key = (*np.round(place, 4), header.moments, header.facts, header.slice_matrix)
            places.setdefault(tuple(map(str, key)), []).append(header)
    repeated = [place for place in places.values() if len(place) > 1]
    copies: set[Path] = set()
    repeated = repeated[len(repeated) // 2 :] + repeated[: len(repeated) // 2]
    for number, place in enumerate(repeated):
        seen: dict[bytes, list[Header]] = {}
        for header in place:
            try:
                pixels = frame_pixels(header, 0).tobytes()
            except Exception:  # as many kinds of error as there are decoders
                continue
            alike = seen.setdefault(pixels, [])
            if any(_same_header(header.path, other.path) for other in alike):
                copies.add(header.path)
            else:
                alike.append(header)
        if number == 0 and not copies:
            break
    return copies


#: What may differ in the header of a copy.
_OF_A_COPY = frozenset(
    tag_for_keyword(name)
    for name in ("SOPInstanceUID", "InstanceNumber", "InstanceCreationDate", "InstanceCreationTime")
)


def _same_header(one: Path, other: Path) -> bool:
    """Whether two files say the same of everything but themselves; undecoded values are compared."""
    first, second = (read_attributes(path)[0] for path in (one, other))
    tags = first.keys() - _OF_A_COPY
    return tags == second.keys() - _OF_A_COPY and all(_raw(first, tag) == _raw(second, tag) for tag in tags)


def _raw(dataset: Dataset, tag: BaseTag) -> object:
    element = dataset.get_item(tag)
    return element.value if isinstance(element.value, (bytes, type(None))) else str(element)


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
        tolerance = position_tolerance(header.planes)
        for normal, place in zip((np.round(normals, 3) + 0.0).tolist(), along.tolist(), strict=True):
            stack = header.rows, header.columns, *normal
            stacks.setdefault(stack, []).append(place)
            tolerances[stack] = tolerance
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
        wider = np.flatnonzero(steps > usual * (1 + SPACING_TOLERANCE) + tolerance)
        ratios = steps[wider] / usual
        whole = np.abs(ratios - np.round(ratios)) <= WHOLE
        if len(wider) > OFTEN * len(steps) and not whole.any():
            words.append(
                f"Distances between slices vary from {steps.min():.4g} to {steps.max():.4g} mm; no slice need be missing"
            )
            wider = wider[:0]
        for index in wider:
            missing = steps[index] / usual - 1
            about = f", about {round(missing)} missing" if abs(missing - round(missing)) <= WHOLE else ""
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
