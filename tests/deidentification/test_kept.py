"""The list of attributes that a copy keeps although the standard's table does not name them, and its page."""

from __future__ import annotations

import re
from pathlib import Path

from pydicom.datadict import dictionary_VR, tag_for_keyword

from tardis_imagetrove.deidentification.kept import KEPT, KEPT_BY_SUBJECT
from tardis_imagetrove.deidentification.rules import code

PAGE = Path(__file__).parents[2] / "docs" / "deidentified-attributes.md"


def printed() -> dict[str, list[str]]:
    """Keywords by heading, as the page prints them."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        heading: re.findall(r"`(\w+)`", body)
        for heading, _, body in (section.partition("\n") for section in sections)
    }


def test_the_page_prints_the_list_of_the_code():
    assert printed() == {subject: list(keywords) for subject, keywords in KEPT_BY_SUBJECT.items()}


def test_each_attribute_is_listed_once_and_is_none_of_the_table():
    keywords = [keyword for group in KEPT_BY_SUBJECT.values() for keyword in group]
    assert len(keywords) == len(set(keywords)) == len(KEPT)
    assert [keyword for keyword in keywords if code(tag_for_keyword(keyword))] == []


def test_nothing_is_listed_that_can_hold_a_date_a_person_or_free_text():
    vrs = {dictionary_VR(tag) for tag in KEPT}
    assert vrs.isdisjoint({"DA", "DT", "TM", "PN", "AE", "ST", "LT", "UT", "UC", "UR", "UN", "OB"})
