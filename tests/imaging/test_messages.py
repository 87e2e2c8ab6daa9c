"""Messages of dcm2niix: which are problems, which are notes, and which mean nothing for the data."""

from __future__ import annotations

import re

import pytest

from tardis_imagetrove.imaging.messages import MEANINGS, Weight, weigh

FIRST = "Warning: Issue870: Slice timing range of first volume: range 0..6487.5 ms, TA=6487.5 ms, TR=6600 ms"
SECOND = "Warning: Issue870: Slice timing range of 2nd volume: TA=6490 ms, TR=6600 ms"


def test_slice_times_that_differ_by_rounding_are_one_note():
    assert weigh([FIRST, SECOND]) == (
        [],
        [
            "Slice times differ a little from volume to volume; SliceTiming in the sidecar is the first volume's"
        ],
    )


def test_slice_times_of_two_volumes_that_are_apart_are_a_problem():
    apart = (FIRST, SECOND.replace("6490", "3000"))
    assert weigh(apart) == ([*apart], [])


@pytest.mark.parametrize("messages", [(FIRST,), (SECOND,), (f"{FIRST} (and 3 more like this)", SECOND)])
def test_slice_times_that_cannot_be_compared_are_a_problem(messages):
    assert weigh(messages) == ([*messages], [])


def test_slice_times_longer_than_the_repetition_time_are_a_problem():
    late = FIRST.replace("0..6487.5", "0..7000"), SECOND.replace("6490", "7000")
    assert weigh(late) == ([*late], [])


def test_slice_times_that_begin_before_the_volume_are_a_problem():
    odd = FIRST.replace("range 0..", "range -20..")
    assert weigh([odd, SECOND]) == ([odd, SECOND], [])


@pytest.mark.parametrize(
    "message",
    [
        "Siemens XA exported as classic not enhanced DICOM (issue 236)",
        "4D Siemens XA images should be exported as enhanced not classic DICOM. Slice times and other properties"
        " may be inaccurate.",
        "3D EPI: RepetitionTime set to volume TR 2.1s (per-shot TR 0.05s, RepetitionTimeExcitation) [issue 1024]",
        "Guessing temporal order for Philips enhanced DICOM ASL, DWI and fMRI (issue 533/809).",
        "Gantry Tilt Correction is new: please validate conversions",
        "Note these images have gantry tilt of 18.5 degrees (manufacturer ID = 2)",
        "Unable to distinguish Philips fieldmaps: phase difference, two phase/magnitude, direct fieldmapping.",
        "GE ABCD pepolar research sequence handling is experimental",
    ],
)
def test_what_is_worth_knowing_is_a_note_in_words_of_our_own(message):
    for one in (message, f"Warning: {message}", f"Warning: {message} (and 3 more like this)"):
        problems, notes = weigh([one])
        assert problems == []
        assert len(notes) == 1 and notes[0] not in one


def test_slice_times_that_the_scanner_did_not_record_are_a_note():
    message = "Warning: Siemens MoCo? Bogus slice timing (range -1..-1, TR=2 seconds)"
    assert weigh([message]) == ([], ["The headers hold no usable slice times"])
    several = f"{message} (and 3 more like this)"  # whose numbers nobody knows
    assert weigh([several]) == ([several], [])


def test_what_is_said_by_the_headers_checks_is_left_out():
    message = "Warning: Interslice distance varies in this volume (incompatible with NIfTI format)."
    assert weigh([message]) == ([], [])


def test_advice_to_whoever_exports_is_left_out():
    assert weigh(["Warning: Philips enhanced DICOMs (hint: export as classic DICOM)"]) == ([], [])


@pytest.mark.parametrize(
    "message",
    [
        "Warning: Siemens MoCo? Bogus slice timing (range -2..3, TR=2 seconds)",
        "Warning: Check bvecs: expected Patient Position (0018,5100) to be 'HFS' not 'FFS'",
        "Warning: Missing images. Expected 21 images, but found 7",
        "Warning: something that no row knows",
    ],
)
def test_every_other_message_stays_a_problem_as_it_is(message):
    assert weigh([message]) == ([message], [])


def test_every_row_has_a_reason_and_words_where_it_is_shown():
    for meaning in MEANINGS:
        assert meaning.why and re.compile(meaning.pattern)
        assert bool(meaning.words) == (meaning.weight is Weight.NOTE)
