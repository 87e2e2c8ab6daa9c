"""What de-identification did with each attribute, and how often; it holds no value."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from pydicom.datadict import keyword_for_tag, private_dictionaries
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag


class Done(Enum):
    """What happened to an attribute."""

    REMOVED = "removed"
    EMPTIED = "emptied"
    REPLACED = "replaced"
    CLEANED = "cleaned"
    SHIFTED = "shifted"
    KEPT = "kept"


class Row(NamedTuple):
    """One kind of event: an attribute, what was done with it, and why."""

    attribute: str
    done: Done
    why: str


Report = Counter[Row]
"""Rows with the number of times that each occurred: instances, and items of their sequences."""


def name_of(tag: BaseTag, dataset: Dataset | None = None) -> str:
    """An attribute's keyword and tag; of a private one the creator, if it is a known one, and the element.

    An unknown creator, like any other text in a file, may be somebody's name.
    """
    if tag.is_private:
        block = dataset.get(Tag(tag.group, tag.element >> 8)) if dataset is not None else None
        creator = str(block.value).strip() if block is not None and block.value else ""
        known = creator if creator in private_dictionaries else "unknown creator"
        return f"{known} ({tag.group:04X},xx{tag.element & 0xFF:02X})"
    keyword = keyword_for_tag(tag) or "unknown attribute"
    return f"{keyword} ({tag.group:04X},{tag.element:04X})"


def rows_of(report: Mapping[Row, int]) -> list[dict[str, object]]:
    """A report as JSON has it, sorted by what was done and by attribute."""
    order = list(Done)
    rows = sorted(
        report.items(), key=lambda item: (order.index(item[0].done), item[0].attribute, item[0].why)
    )
    return [
        {"attribute": row.attribute, "done": row.done.value, "why": row.why, "count": count}
        for row, count in rows
    ]


def report_of(rows: Iterable[Mapping[str, object]]) -> Report:
    """The report of :func:`rows_of`."""
    report: Report = Counter()
    for row in rows:
        report[Row(str(row["attribute"]), Done(row["done"]), str(row["why"]))] += int(str(row["count"]))
    return report


def report_json(series_uid: str, profile: str, instances: int, report: Mapping[Row, int]) -> str:
    """A report as a file."""
    return (
        json.dumps(
            {
                "SeriesInstanceUID": series_uid,
                "profile": profile,
                "instances": instances,
                "attributes": rows_of(report),
            },
            indent=1,
        )
        + "\n"
    )
