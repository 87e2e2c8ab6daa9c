"""Each attribute of table E.1-1 of PS3.15 gets what the table says, under each option.

``table_e1_1.csv`` has the codes of the standard's edition 2024e, taken from another source than the
library that the package uses.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.tag import Tag

from tardis_imagetrove.deidentification import Option, Profile
from tardis_imagetrove.deidentification.rules import DESCRIPTORS, Action, action, survives

ROWS = list(csv.DictReader(Path(__file__).with_name("table_e1_1.csv").open()))

#: What the codes of the column of the Basic Profile allow (PS3.15 section E.1.1). More than is asked may
#: always be taken: to remove a thing that might be emptied, for example.
ALLOWED = {
    "X": {Action.REMOVE},
    "Z": {Action.EMPTY, Action.PSEUDONYM},
    "D": {Action.DUMMY},
    "U": {Action.UID},
    "X/Z": {Action.REMOVE, Action.EMPTY},
    "X/D": {Action.REMOVE, Action.DUMMY},
    "Z/D": {Action.EMPTY, Action.DUMMY, Action.PSEUDONYM},
    "X/Z/D": {Action.REMOVE, Action.EMPTY, Action.DUMMY},
    "X/Z/U*": {Action.REMOVE, Action.EMPTY, Action.KEEP},  # sequences, whose items' UIDs are replaced
}
COLUMNS = {
    Option.RETAIN_DEVICE: "device",
    Option.RETAIN_INSTITUTION: "institution",
    Option.RETAIN_PATIENT: "patient",
    Option.RETAIN_DATES: "full-dates",
    Option.SHIFT_DATES: "modified-dates",
    Option.CLEAN_DESCRIPTORS: "descriptors",
}


def vr_of(tag) -> str:
    return dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"


@pytest.mark.parametrize("lean", [True, False])
def test_the_basic_profile_does_what_the_table_says(lean):
    wrong = []
    for row in ROWS:
        tag = Tag(int(row["tag"], 16))
        done = action(tag, vr_of(tag), Profile(), lean)
        if done not in ALLOWED[row["basic"]]:
            wrong.append((row["tag"], row["basic"], done))
    assert len(ROWS) > 600
    assert wrong == []


@pytest.mark.parametrize("option", COLUMNS)
def test_an_option_keeps_what_its_column_says_and_nothing_else(option):
    kept_by_option, kept_by_column = set(), set()
    for row in ROWS:
        tag = Tag(int(row["tag"], 16))
        basic, done = (
            action(tag, vr_of(tag), Profile(options), lean=True)
            for options in (frozenset(), frozenset({option}))
        )
        if done != basic:
            assert done == {"K": Action.KEEP, "C": done}[row[COLUMNS[option]]], row
            kept_by_option.add(row["tag"])
        if row[COLUMNS[option]] == ("C" if option in (Option.SHIFT_DATES, Option.CLEAN_DESCRIPTORS) else "K"):
            kept_by_column.add(row["tag"])
    if option == Option.CLEAN_DESCRIPTORS:  # others of this column are removed
        assert kept_by_option == {f"{tag:08X}" for tag in DESCRIPTORS} and kept_by_option <= kept_by_column
    elif option == Option.SHIFT_DATES:  # not times of VRs that are no dates
        assert kept_by_column - kept_by_option == {"00080201", "00340007", "04000310"}
        assert kept_by_option <= kept_by_column
    else:
        assert kept_by_option == kept_by_column


@pytest.mark.parametrize(
    ("vr", "keyword_tag"),
    [
        ("DT", 0x0008041F),  # a date that the table does not have
        ("PN", 0x00142006),
        ("LT", 0x00380102),  # not in the dictionary at all
        ("OB", 0x00282000),  # an ICC profile
        ("OW", 0x60003000),  # an overlay
        ("LO", 0x50000022),  # a curve
    ],
)
def test_what_the_table_does_not_name_and_can_say_anything_is_removed(vr, keyword_tag):
    assert action(Tag(keyword_tag), vr, Profile(), lean=True) == Action.REMOVE


def test_titles_can_be_made_of_what_survives():
    basic = Profile()
    assert survives(Tag(0x00100020), basic)  # the patient's ID, as a pseudonym
    assert survives(Tag(0x00080060), basic)  # the modality
    assert not survives(Tag(0x0008103E), basic)
    assert survives(Tag(0x0008103E), Profile.of(["clean-descriptors"]))
    assert not survives(Tag(0x00080020), basic)
    assert survives(Tag(0x00080020), Profile.of(["shift-dates"]))
    assert not survives(Tag(0x0019, 0x100C), Profile.of(["retain-safe-private"]))
