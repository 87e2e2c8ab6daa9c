"""What dcm2niix's messages mean for the data: a problem, a note, or nothing.

A message that no row knows is a problem, in the words of dcm2niix. Lines of its output that are no messages are
left out before (:mod:`.dcm2niix`); doubts that the checks of the headers settle are left out in :mod:`.volume`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum


class Weight(Enum):
    """A problem makes the conversion one with warnings; a note is shown beside it; nothing is left out."""

    PROBLEM = "problem"
    NOTE = "note"
    NOTHING = "nothing"


def _always(found: re.Match[str]) -> bool:
    return True


@dataclass(frozen=True)
class Meaning:
    """One row: a kind of message, its weight, and why.

    Attributes:
        pattern: of the message, without ``Warning:`` before it.
        words: what the message means for the data; dcm2niix's own where empty.
        why: the reason for the weight.
        holds: whether the row is about this message, by the numbers in it.
    """

    pattern: str
    weight: Weight
    words: str
    why: str
    holds: Callable[[re.Match[str]], bool] = _always


_NUMBER = r"(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"


def _within_repetition(found: re.Match[str]) -> bool:
    """Whether the last slice of a volume is acquired before the next volume begins."""
    ends, repetition = float(found[1]), float(found[2])
    return 0 <= ends <= repetition


MEANINGS = (
    Meaning(
        rf"Issue870: Slice timing range of first volume: range 0\.\.{_NUMBER} ms, TA=.*, TR={_NUMBER} ms",
        Weight.NOTE,
        "Slice times differ a little from volume to volume; SliceTiming in the sidecar is the first volume's",
        "the times fit into the repetition time, and differ by the clock's rounding",
        _within_repetition,
    ),
    Meaning(
        rf"Issue870: Slice timing range of 2nd volume: TA={_NUMBER} ms, TR={_NUMBER} ms",
        Weight.NOTHING,
        "",
        "comes with the message about the first volume",
        _within_repetition,
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
        "frames are compared with the headers one by one",
    ),
    Meaning(
        r"Philips enhanced DICOMs \(hint",
        Weight.NOTHING,
        "",
        "advice for whoever exports, not a doubt about this series",
    ),
    Meaning(
        r"(?:Siemens MoCo\? )?Bogus slice timing \(range -1\.\.-1",
        Weight.NOTE,
        "The headers hold no usable slice times",
        "-1 is the scanner's mark for times that it did not record, as of derived series",
    ),
    Meaning(
        r"Gantry Tilt Correction is new",
        Weight.NOTE,
        "The gantry was tilted: the image that is named Tilt is resampled, the other one has the slices as acquired",
        "places of slices are compared with the headers",
    ),
)


def weigh(messages: Iterable[str]) -> tuple[list[str], list[str]]:
    """Problems and notes among dcm2niix's messages, in their order, each kind of note once."""
    problems, notes = [], []
    for message in messages:
        meaning = _meaning_of(message)
        if meaning is None or meaning.weight is Weight.PROBLEM:
            problems.append((meaning and meaning.words) or message)
        elif meaning.weight is Weight.NOTE:
            notes.append(meaning.words)
    return problems, list(dict.fromkeys(notes))


def _meaning_of(message: str) -> Meaning | None:
    text = message.removeprefix("Warning: ")
    for meaning in MEANINGS:
        if (found := re.match(meaning.pattern, text)) and meaning.holds(found):
            return meaning
    return None
