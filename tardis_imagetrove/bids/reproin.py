"""Names by ReproIn, the convention by which protocols at the scanner name what they scan.

https://github.com/ReproNim/reproin: ``func-bold_task-rest_acq-mb8_run-01__anything``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .names import KINDS, ORDER, label

_DATATYPES = ("anat", "func", "dwi", "fmap", "perf", "pet")
_SUFFIXES = {
    "anat": "",
    "func": "bold",
    "dwi": "dwi",
    "perf": "asl",
    "pet": "pet",
    "fmap": "",
}


@dataclass(frozen=True)
class ReproIn:
    """What a protocol's name says.

    Attributes:
        suffix: empty where the kind of image says it (a field map's magnitude or phase).
        scout: it is a localizer.
        run: ``+`` for the next run, ``=`` for the same one, a number, or empty.
        duplicate: the scanner, or a person, marked it as one that was repeated.
        ignored: parts that are not BIDS's.
    """

    datatype: str
    suffix: str
    session: str = ""
    entities: Mapping[str, str] = field(default_factory=dict)
    run: str = ""
    scout: bool = False
    duplicate: bool = False
    ignored: tuple[str, ...] = ()


def parse(text: str) -> ReproIn | None:
    """What a protocol's or a series' name says; ``None`` if it is not by ReproIn."""
    text = re.sub(r"^(?:[A-Z]+:|WIP )+", "", text.strip())
    name, marked, custom = text.partition("__")
    duplicate = bool(marked) and any(re.match(r"dup-?\d*", part) for part in custom.split("__"))
    parts = name.strip().split("_")
    if parts[0] == "scout":
        parts[0] = "anat-scout"
    if parts[0] == "bids":
        parts = parts[1:] or [""]
    datatype, dash, suffix = parts[0].partition("-")
    if datatype not in _DATATYPES or (dash and not suffix.isalnum()):
        return None
    scout = suffix.lower() in ("scout", "localizer")
    rest = parts[1:]
    if not dash:
        # A datatype alone is by the convention only with an entity after it: "func_task-rest", not "anat_old".
        if not any(re.match(rf"(?:ses|{'|'.join(ORDER)})[-+=]", part) for part in rest):
            return None
        suffix = _SUFFIXES[datatype]
    if rest and rest[-1].upper() == "SBREF" and datatype in ("func", "dwi"):
        suffix, rest = "sbref", rest[:-1]
    # By the letters' case, BIDS has each suffix once.
    spelled = {known.lower(): known for where, known in KINDS if where == datatype}
    suffix = spelled.get(suffix.lower(), suffix)
    if suffix and not scout and (datatype, suffix) not in KINDS:
        return None
    session, run, entities, ignored = "", "", {}, []
    for part in rest:
        found = re.fullmatch(r"([a-z0-9]+?)(?:-(.+)|([+=]))", part)
        if not found:
            ignored.append(part)
            continue
        key, value = found[1], found[2] or found[3]
        if key == "ses":
            session = "" if value in "+=" else label(value)
        elif key == "run":
            run = value if value in "+=" else re.sub(r"\D", "", value)
        elif key in ORDER and value not in "+=":
            entities[key] = label(value)
        else:
            ignored.append(part)
    return ReproIn(datatype, suffix, session, entities, run, scout, duplicate, tuple(ignored))
