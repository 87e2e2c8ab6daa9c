"""What dcm2niix's messages mean for the data: a problem, a note, or nothing.

A message that no row knows is a problem, in the words of dcm2niix. Lines of its output that are no messages are
left out before (:mod:`.dcm2niix`); doubts that the checks of the headers settle are left out in :mod:`.volume`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum


class Weight(Enum):
    """What a row makes of its messages: shown as a note, or left out. What no row knows is a problem."""

    NOTE = "note"
    NOTHING = "nothing"


def _always(messages: Sequence[str]) -> bool:
    return True


@dataclass(frozen=True)
class Meaning:
    """One row: a kind of message, its weight, and why.

    Attributes:
        pattern: of the message, without ``Warning:`` before it.
        words: what the message means for the data, of a note.
        why: the reason for the weight.
        holds: whether the row is about this message, by all messages of the run.
    """

    pattern: str
    weight: Weight
    words: str
    why: str
    holds: Callable[[Sequence[str]], bool] = _always


_NUMBER = r"(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
_TIMES_OF_FIRST = rf"Issue870: Slice timing range of first volume: range 0\.\.{_NUMBER} ms, TA={_NUMBER} ms, TR={_NUMBER} ms"
_TIMES_OF_SECOND = rf"Issue870: Slice timing range of 2nd volume: TA={_NUMBER} ms, TR={_NUMBER} ms"

_ROUNDING_MS = 5.0
"""Milliseconds by which slice times of two volumes may differ: two ticks of the scanner's clock of 2.5 ms."""


def _differ_by_rounding(messages: Sequence[str]) -> bool:
    """Whether the slice times of the first two volumes agree within rounding, and fit into the repetition time.

    A message that stands for several hides their numbers, and is not one of these.
    """
    first, second = (
        [found for text in map(_bare, messages) if (found := re.fullmatch(pattern, text))]
        for pattern in (_TIMES_OF_FIRST, _TIMES_OF_SECOND)
    )
    if len(first) != 1 or len(second) != 1:
        return False
    ends, one, repetition = map(float, first[0].groups())
    other = float(second[0][1])
    return abs(one - other) <= _ROUNDING_MS and 0 <= max(ends, one, other) <= repetition


MEANINGS = (
    Meaning(
        _TIMES_OF_FIRST,
        Weight.NOTE,
        "Slice times differ a little from volume to volume; SliceTiming in the sidecar is the first volume's",
        "the times fit into the repetition time, and differ by the clock's rounding",
        _differ_by_rounding,
    ),
    Meaning(
        _TIMES_OF_SECOND,
        Weight.NOTHING,
        "",
        "comes with the message about the first volume",
        _differ_by_rounding,
    ),
    Meaning(
        r"(?:Siemens XA exported as classic|4D Siemens XA images should be exported as enhanced)",
        Weight.NOTE,
        "The scanner exported classic DICOM, which holds less than enhanced DICOM: slice times may be missing or"
        " inaccurate in the sidecar",
        "voxels and places are compared with the headers; only the sidecar may say less",
    ),
    Meaning(
        r"(?:3D EPI: )?RepetitionTime set to volume TR",
        Weight.NOTE,
        "RepetitionTime in the sidecar is the time between volumes, RepetitionTimeExcitation the time between shots",
        "that is what BIDS asks for",
    ),
    Meaning(
        r"Guessing temporal order for Philips enhanced",
        Weight.NOTE,
        "The headers state the order of volumes only in part; the rest is by the rule for Philips enhanced DICOM",
        "slices of a volume must be of one temporal position, and only the order of whole volumes is by the rule",
    ),
    Meaning(
        r"Philips enhanced DICOMs \(hint",
        Weight.NOTHING,
        "",
        "advice for whoever exports, not a doubt about this series",
    ),
    Meaning(
        r"(?:Siemens MoCo\? )?Bogus slice timing \(range -1\.\.-1, TR=\S+ seconds\)$",
        Weight.NOTE,
        "The headers hold no usable slice times",
        "-1 is the scanner's mark for times that it did not record, as of derived series",
    ),
    Meaning(
        r"(?:Note: )?\d+ volumes appear to be ADC or trace images that will be removed to allow processing",
        Weight.NOTE,
        "Maps that the scanner made of the diffusion (ADC, trace) are left out of the diffusion volumes; an image"
        " that is named ADC has all volumes",
        "every volume is in one of the images, and is compared with the pixels",
    ),
    Meaning(
        r"(?:Gantry Tilt based on 0018,1120|Note these images have gantry tilt of)",
        Weight.NOTE,
        "The gantry was tilted: slices do not lie straight above each other",
        "places of slices are compared with the headers",
    ),
    Meaning(
        r"Interslice distance varies in this volume",
        Weight.NOTHING,
        "",
        "distances are compared with the headers, and uneven ones are a problem in words of our own",
    ),
    Meaning(
        r"Unable to distinguish Philips fieldmaps",
        Weight.NOTE,
        "The headers do not say of which kind the field map is (phase difference, two phases, or a map in Hz)",
        "voxels and places are the DICOM's; what the values mean is for whoever uses them to look up",
    ),
    Meaning(
        r"GE ABCD pepolar research sequence handling is experimental",
        Weight.NOTE,
        "A research sequence of GE that runs its phase encoding both ways (epi_pepolar): images are named by"
        " polarity, and those that the scanner stores mirrored are turned",
        "voxels of each polarity are compared with the DICOM's pixels, turned as dcm2niix turns them",
    ),
    Meaning(
        r"Gantry Tilt Correction is new",
        Weight.NOTE,
        "The gantry was tilted: an image that is named Tilt is resampled",
        "places of slices are compared with the headers",
    ),
)


def weigh(messages: Sequence[str]) -> tuple[list[str], list[str]]:
    """Problems and notes among dcm2niix's messages, in their order, each kind of note once."""
    problems, notes = [], []
    for message in messages:
        meaning = _meaning_of(message, messages)
        if meaning is None:
            problems.append(message)
        elif meaning.weight is Weight.NOTE:
            notes.append(meaning.words)
    return problems, list(dict.fromkeys(notes))


def _meaning_of(message: str, messages: Sequence[str]) -> Meaning | None:
    for meaning in MEANINGS:
        if re.match(meaning.pattern, _bare(message)) and meaning.holds(messages):
            return meaning
    return None


def _bare(message: str) -> str:
    return message.removeprefix("Warning: ")
