"""The last step of an image: time axis, gradients and sidecar agree with the headers of its volumes."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import nibabel
import numpy as np

from .frames import TRAITS, Frame
from .gradients import NOT_WEIGHTED, difference, read_table, table_of, write_table
from .image import Image, Origin
from .sidecar import Owners, load_sidecar, pet_times, save_sidecar, traits_in, with_texts
from .stack import LPS_TO_RAS
from .times import comes_back, grouped_step, time_axis

VENDORS = re.compile(
    r"siemens|ge med|^ge|philips|toshiba|canon|uih|united imaging|bruker|hitachi|mediso", re.IGNORECASE
)
"""Manufacturers whose gradients dcm2niix knows by their private elements."""

ROUNDING_MS = 5.0
"""Milliseconds by which slice times may differ and be the same: two ticks of the scanner's clock of 2.5 ms."""

MOST_VOLUMES = 8
"""Volumes with whose slice times a sidecar's are compared: the first may have odd ones."""

SAME_STEP = 0.005
"""Part by which a time step may differ from that of the headers and be kept."""


def finished(image: Image, name: str, numbers: Collection[int]) -> Image:
    """The image with its per-volume facts from the headers; :attr:`Image.words` tells what was changed.

    Args:
        numbers: all InstanceNumbers of the series.
        name: of the image, at the beginning of a sentence.
    """
    if image.origin is not Origin.SCANNER or not image.owners:
        return image
    frames = [header.facts_of(index) for header, index in image.owners]
    words: list[str] = list(image.words)
    fields = load_sidecar(image.sidecar) if image.sidecar else {}
    before = dict(fields)
    fields = with_texts(fields, image.owners[0][0].path)
    fields = traits_in(fields, frames, image.differs_in)
    image, told = _with_gradients(image, frames, name)
    words += told
    if len(frames) > 1:
        times = _with_times(image, frames, fields, name)
        fields = times.fields
        words += times.words
        image = replace(image, timed=times.settled, notes=(*image.notes, *times.notes))
        words += _lost_numbers(image, frames, numbers, name)
        words += _traits_within(image, frames, name)
    image = replace(image, slices_timed=_slices_timed(image, fields))
    if image.sidecar and fields != before:
        save_sidecar(image.sidecar, fields)
    return replace(image, words=tuple(words))


def _with_gradients(image: Image, frames: Sequence[Frame], name: str) -> tuple[Image, list[str]]:
    own = table_of(frames, image.affine)
    theirs = read_table(image.bval, image.bvec) if image.bval and image.bvec else None
    if own is None:
        vendors = table_of(
            [
                replace(frame, b_value=frame.vendor_b_value, gradient=frame.vendor_gradient)
                for frame in frames
            ],
            image.affine,
        )
        if vendors is not None and theirs is not None and not difference(vendors, theirs):
            return replace(image, compared=True), []
        return image, _b_values_without_table(image, frames, name)
    if theirs is not None:
        differing = difference(own, theirs)
        if not differing:
            return replace(image, compared=True), []
        if VENDORS.search(image.owners[0][0].manufacturer):
            return image, [
                f"{name}: the gradients by DiffusionBValue and DiffusionGradientOrientation differ from those that"
                f" dcm2niix reads from private elements ({differing}); dcm2niix's are kept"
            ]
    bval, bvec = image.path.with_suffix(".bval"), image.path.with_suffix(".bvec")
    write_table(own, bval, bvec)
    return replace(image, bval=bval, bvec=bvec, compared=True), []


def _b_values_without_table(image: Image, frames: Sequence[Frame], name: str) -> list[str]:
    """Words when volumes are weighted, and no file says how."""
    b_values = {frame.b_value for frame in frames if not np.isnan(frame.b_value)}
    if image.bval or len(b_values) < 2 or max(b_values) <= NOT_WEIGHTED:
        return []
    listed = ", ".join(f"{value:g}" for value in sorted(b_values)[:8])
    return [
        f"{name}: its volumes differ in b-value ({listed} s/mm\N{SUPERSCRIPT TWO}), but headers have no directions"
    ]


@dataclass(frozen=True)
class _Times:
    """What became of an image's time axis: the sidecar's fields, and whether the step is the headers' or not stated."""

    fields: dict[str, object]
    settled: bool = False
    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _with_times(image: Image, frames: Sequence[Frame], fields: dict[str, object], name: str) -> _Times:
    """Put the headers' time step into the NIfTI, and times into the sidecar's fields."""
    told = dict(fields)
    if image.owners[0][0].modality in ("PT", "NM"):
        pet = pet_times(frames)
        for field, values in pet.items():
            if field != "FrameTimesStart" or not _rises(told.get(field)):
                told[field] = values
    if image.bval:
        return _Times(told)  # the fourth axis is diffusion
    axis = time_axis(frames)
    stated = image.time_step()
    if axis is not None and axis.clock == "acquisition" and len(frames) < 3 and stated > 0:
        return _Times(told)  # one distance between two volumes does not say what the step is
    if axis is None:
        return _untimed(image, frames, told, name)
    words, notes = [], []
    if axis.step > 0:
        if abs(axis.step - stated) > max(SAME_STEP * axis.step, 1.5 * axis.precision):
            set_time_step(image, axis.step)
            if stated > 0:
                notes.append(
                    f"{name}: volumes are {axis.step:g} s apart by the headers, where dcm2niix has {stated:g} s"
                )
            if told.get("RepetitionTime") == round(stated, 6) and not _has_repetition(frames, stated):
                told["RepetitionTime"] = axis.step
    else:
        steps = np.diff(axis.starts)
        if (
            axis.clock == "acquisition"
            and abs(float(np.median(steps)) - stated) <= 0.02 * stated + axis.precision
        ):
            return _Times(told)
        set_time_step(image, 0.0)
        if image.owners[0][0].modality not in ("PT", "NM"):
            told["VolumeTiming"] = list(axis.starts)
            words.append(
                f"{name}: the time between volumes varies from {steps.min():.4g} to {steps.max():.4g} s, so no time"
                " step is stated; the sidecar has VolumeTiming"
            )
    if axis.lost:
        words.append(
            f"{name}: {axis.lost} of {len(frames) + axis.lost} volumes are missing: a step between volumes is a"
            f" multiple of {axis.step:g} s"
        )
    return _Times(told, True, tuple(words), tuple(notes))


def _untimed(image: Image, frames: Sequence[Frame], told: dict[str, object], name: str) -> _Times:
    """Of volumes several of which have one time, as label and control of a perfusion, or come back to a time.

    The step of those that come in equal groups is the mean one, if it is a whole number of repetition times. Where
    dcm2niix has made a step of others by the last volume's time, none is stated.
    """
    stated = image.time_step()
    guessed = stated > 0 and not _has_repetition(frames, stated)
    if not comes_back(frames) and (found := grouped_step(frames)) is not None:
        step, group = found
        if abs(step - stated) > SAME_STEP * step:
            set_time_step(image, step)
            told["RepetitionTime"] = step
        note = f"{name}: {group} volumes each have one time; the time step is their mean distance, {step:g} s"
        return _Times(told, True, notes=(note,))
    if not guessed or not comes_back(frames):
        return _Times(told)
    set_time_step(image, 0.0)
    repetitions = {frame.repetition for frame in frames}
    if len(repetitions) == 1 and not math.isnan(frames[0].repetition):
        told["RepetitionTime"] = round(frames[0].repetition, 6)
    else:
        told.pop("RepetitionTime", None)
    told.pop("RepetitionTimeExcitation", None)
    note = f"{name}: its volumes are not in the order of time alone (phases, label and control), so no time step is stated"
    return _Times(told, True, notes=(note,))


def _slices_timed(image: Image, fields: Mapping[str, object]) -> int | None:
    """Of a mosaic: the volume whose header has the slice times of the sidecar, within the repetition time."""
    stated, repetition = fields.get("SliceTiming"), fields.get("RepetitionTime")
    if not image.placed or not isinstance(stated, list) or not isinstance(repetition, (int, float)):
        return None
    ours = np.array(stated, float) * 1000
    for volume, (header, _) in enumerate((image.owners or ())[:MOST_VOLUMES]):
        if not header.mosaic or header.planes is None or len(header.slice_times) != len(ours):
            continue
        columns, rows = header.slice_matrix
        planes = header.planes
        centres = planes.positions + planes.per_column * (columns - 1) / 2 + planes.per_row * (rows - 1) / 2
        places = (
            np.linalg.inv(LPS_TO_RAS @ image.affine)
            @ np.append(centres, np.ones((len(centres), 1)), axis=1).T
        )
        order = np.rint(places[2]).astype(int)
        if sorted(order) != list(range(len(ours))):
            continue
        theirs = np.empty(len(ours))
        theirs[order] = header.slice_times
        theirs -= theirs.min()
        if theirs.max() <= repetition * 1000 + ROUNDING_MS and np.abs(theirs - ours).max() <= ROUNDING_MS:
            return volume
    return None


def _rises(values: object) -> bool:
    return isinstance(values, list) and len(values) > 1 and bool((np.diff(values) > 0).all())


def _has_repetition(frames: Sequence[Frame], seconds: float) -> bool:
    return any(abs(frame.repetition - seconds) < 1e-4 for frame in frames)


def set_time_step(image: Image, step: float) -> None:
    """Write the seconds between volumes into the NIfTI; 0: not known."""
    with image.path.open("r+b") as file:
        header = nibabel.Nifti1Header.from_fileobj(file, check=False)
        header["pixdim"][4] = step
        file.seek(0)
        header.write_to(file)


def _lost_numbers(image: Image, frames: Sequence[Frame], numbers: Collection[int], name: str) -> list[str]:
    """Words for volumes that are missing by InstanceNumber, in a series whose times do not tell."""
    owners = image.owners
    if len(owners) < 3 or any(header.slices != 1 for header, _ in owners) or time_axis(frames) is not None:
        return []
    steps = np.diff([header.instance_number for header, _ in owners])
    usual = int(np.median(steps))
    if usual < 1 or (steps < 1).any() or (steps % usual).any() or (steps == usual).mean() < 0.6:
        return []
    missing = int((steps // usual - 1).sum())
    if not missing:
        return []
    first = int(np.flatnonzero(steps > usual)[0])
    if any(
        number in numbers
        for at in np.flatnonzero(steps > usual)
        for number in _between(owners, int(at), usual)
    ):
        return []  # those are slices of other places
    return [
        f"{name}: {missing} of {len(owners) + missing} volumes are missing: InstanceNumber jumps from"
        f" {owners[first][0].instance_number} to {owners[first + 1][0].instance_number} where it usually rises by"
        f" {usual}"
    ]


def _between(owners: Owners, at: int, usual: int) -> range:
    return range(owners[at][0].instance_number + usual, owners[at + 1][0].instance_number, usual)


def _traits_within(image: Image, frames: Sequence[Frame], name: str) -> list[str]:
    """Words when volumes of one image differ in more than time."""
    words = []
    for index, trait in enumerate(TRAITS):
        values = {frame.traits[index] for frame in frames}
        if len(values) > 1 and trait.keyword != "ImageType":
            listed = ", ".join(sorted(str(value) for value in values)[:6])
            words.append(
                f"{name}: its volumes differ in {trait.keyword} ({listed}), so the fourth axis is not only time"
            )
    return words
