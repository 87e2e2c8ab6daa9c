"""The time between volumes, from the headers of their frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.ma  # noqa: F401 (which np.nanmedian needs: once in the worker, not in each of its children)

from .frames import CLOCKS, Frame

EVEN = 0.02
"""Part of the usual step by which a step between volumes may differ and still be even."""

RESOLUTION = {"acquisition": 0.1}
"""Seconds by which a clock may be off beside that: scanners write AcquisitionTime when they get round to it."""


@dataclass(frozen=True)
class TimeAxis:
    """When volumes were taken.

    Attributes:
        clock: one of :data:`CLOCKS`.
        starts: seconds from the first volume, one a volume.
        step: seconds between volumes; 0 when the steps differ.
        lost: volumes that are missing in between, by the steps.
        precision: seconds by which the step may be off.
    """

    clock: str
    starts: tuple[float, ...]
    step: float
    lost: int
    precision: float


def time_axis(frames: Sequence[Frame]) -> TimeAxis | None:
    """The times of volumes by the surest clock that rises from volume to volume; ``None`` when there is none.

    Args:
        frames: of one slice, one a volume, in the image's order.
    """
    if len(frames) < 2:
        return None
    for index, clock in enumerate(CLOCKS[:4]):
        times = np.array([frame.clocks[index] for frame in frames])
        steps = np.diff(times)
        if np.isnan(times).any() or not (steps > 0).all():
            continue
        resolution = RESOLUTION.get(clock, 1e-3)
        if clock == "acquisition" and (times == np.round(times)).all():
            resolution = 1.0  # the header has whole seconds
        usual = float(np.median(steps))
        tolerance = EVEN * usual + resolution
        counts = np.round(steps / usual)
        lost = 0
        if (np.abs(steps - usual) <= tolerance).all():
            step = float(steps.mean())
        elif (
            len(steps) > 2
            and tolerance < usual / 4
            and (np.abs(steps - counts * usual) <= tolerance).all()
            and (counts == 1).mean() >= 0.6
        ):
            # Whole steps that are missing do not stretch the others.
            step, lost = float(steps[counts == 1].mean()), int((counts - 1).sum())
        else:
            step = 0.0
        precision = resolution if step == 0 else resolution / max(1, len(steps)) + 1e-3
        starts = tuple(round(float(time), 6) for time in times - times[0])
        return TimeAxis(clock, starts, step if step == 0 else _rounded(step), lost, precision)
    return None


def grouped_step(frames: Sequence[Frame]) -> tuple[float, int] | None:
    """The mean step of volumes that come in equal groups of one time each, and the size of a group.

    Returns:
        ``None`` unless the times rise evenly from group to group, by a whole number of repetition times for each volume.
    """
    repetition = frames[0].repetition
    if len(frames) < 4 or math.isnan(repetition) or repetition <= 0:
        return None
    for index, clock in enumerate(CLOCKS[:4]):
        times = np.array([frame.clocks[index] for frame in frames])
        starts = np.flatnonzero(np.diff(times, prepend=-np.inf) != 0)
        sizes = np.diff(np.append(starts, len(times)))
        if np.isnan(times).any() or len(starts) < 2 or sizes[0] < 2 or (sizes != sizes[0]).any():
            continue
        steps = np.diff(times[starts])
        usual = float(steps.mean())
        if usual <= 0 or (np.abs(steps - usual) > EVEN * usual + RESOLUTION.get(clock, 1e-3)).any():
            continue
        shots = usual / sizes[0] / repetition
        if round(shots) >= 1 and abs(shots - round(shots)) <= EVEN * shots:
            return _rounded(round(shots) * repetition), int(sizes[0])
    return None


def comes_back(frames: Sequence[Frame]) -> bool:
    """Whether volumes follow each other against a clock: their order is not that of time."""
    for index, _ in enumerate(CLOCKS[:4]):
        times = np.array([frame.clocks[index] for frame in frames])
        if not np.isnan(times).any() and (np.diff(times) < 0).any():
            return True
    return False


def _rounded(step: float) -> float:
    """To a millisecond for steps of some seconds: more digits than clocks have would be made up."""
    return round(step, max(3, 3 - math.floor(math.log10(step))))
