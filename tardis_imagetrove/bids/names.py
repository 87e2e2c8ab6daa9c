"""Names of BIDS: data types, suffixes and entities, in the order that the specification has them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..errors import PermanentError

ORDER = ("task", "acq", "ce", "trc", "rec", "dir", "run", "echo", "flip", "inv", "mt", "part", "chunk")
"""Entities after subject and session, in the order of file names."""

NUMBERED = frozenset({"run", "echo", "flip", "inv", "chunk"})
"""Entities whose value is a number."""


class NotBids(PermanentError):
    """A data type, suffix or entity that BIDS does not have."""


@dataclass(frozen=True)
class Kind:
    """What files of a data type and suffix may and must have in their names."""

    may: frozenset[str]
    must: frozenset[str] = frozenset()


def _kind(may: str, must: str = "") -> Kind:
    return Kind(frozenset(may.split()) | frozenset(must.split()), frozenset(must.split()))


_ANAT = _kind("acq ce rec run echo part chunk task")
_PARAMETRIC = _kind("acq ce rec run task")
KINDS: dict[tuple[str, str], Kind] = {
    **{
        ("anat", suffix): _ANAT
        for suffix in ["T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "PDT2", "angio"]
    },
    **{
        ("anat", suffix): _PARAMETRIC
        for suffix in [
            "UNIT1",
            "T1map",
            "T2map",
            "T2starmap",
            "R1map",
            "R2map",
            "R2starmap",
            "PDmap",
            "MTRmap",
            "MTsat",
            "Chimap",
            "S0map",
            "M0map",
        ]
    },
    **{("anat", suffix): _kind("acq ce rec run part task", "echo") for suffix in ("MEGRE", "MESE")},
    ("anat", "MP2RAGE"): _kind("acq ce rec run echo flip part task", "inv"),
    ("anat", "VFA"): _kind("acq ce rec run part task", "flip"),
    ("anat", "MTR"): _kind("acq ce rec run part task", "mt"),
    ("anat", "MPM"): _kind("acq ce rec run echo part task", "flip mt"),
    **{
        ("func", suffix): _kind("acq ce rec dir run echo part", "task") for suffix in ("bold", "cbv", "sbref")
    },
    **{("dwi", suffix): _kind("acq rec dir run part") for suffix in ("dwi", "sbref")},
    **{
        ("fmap", suffix): _kind("acq run")
        for suffix in ["phasediff", "phase1", "phase2", "magnitude1", "magnitude2", "magnitude", "fieldmap"]
    },
    **{("fmap", suffix): _kind("acq ce run part chunk", "dir") for suffix in ("epi", "m0scan")},
    **{("perf", suffix): _kind("acq rec dir run") for suffix in ("asl", "m0scan")},
    ("pet", "pet"): _kind("task trc rec run"),
}


def label(text: str) -> str:
    """Letters and digits of a text, all that a label may have; of a text without any, a part of its checksum."""
    plain = unicodedata.normalize("NFKD", text)
    found = "".join(c for c in plain if c.isascii() and c.isalnum())
    return found or ("x" + digest(text, 8) if text.strip() else "")


def digest(text: str, length: int) -> str:
    """The beginning of a text's SHA-256, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


@dataclass(frozen=True)
class Name:
    """What a file is called within its participant and session."""

    datatype: str
    suffix: str
    entities: Mapping[str, str] = field(default_factory=dict)

    def checked(self) -> Name:
        """The name itself.

        Raises:
            NotBids: BIDS has no such name; the text says which part is the cause.
        """
        kind = KINDS.get((self.datatype, self.suffix))
        if kind is None:
            raise NotBids(f"BIDS has no {self.datatype}/{self.suffix}")
        for entity, value in self.entities.items():
            if entity not in ORDER:
                raise NotBids(f"{entity!r} is not an entity of BIDS; there are {', '.join(ORDER)}")
            if entity not in kind.may:
                raise NotBids(f"BIDS does not allow {entity}- in {self.datatype}/{self.suffix}")
            if not re.fullmatch(r"[0-9]+" if entity in NUMBERED else r"[a-zA-Z0-9]+", value):
                wanted = "a number" if entity in NUMBERED else "letters and digits alone"
                raise NotBids(f"{entity}-{value}: the value must be {wanted}")
        for entity in sorted(kind.must - self.entities.keys()):
            raise NotBids(f"{self.datatype}/{self.suffix} needs {entity}- in BIDS")
        return self

    def having(self, **entities: str) -> Name:
        """The name with these entities besides."""
        return replace(self, entities={**self.entities, **entities})

    def without(self, *names: str) -> Name:
        """The name without these entities."""
        return replace(
            self, entities={name: value for name, value in self.entities.items() if name not in names}
        )

    def known(self) -> Name:
        """The name without entities that its kind does not take."""
        kind = KINDS[self.datatype, self.suffix]
        return replace(
            self, entities={name: value for name, value in self.entities.items() if name in kind.may}
        )

    def stem(self, participant: str, session: str = "") -> str:
        """The path in the dataset, without an extension."""
        parts = [f"sub-{participant}", *([f"ses-{session}"] if session else [])]
        entities = [f"{name}-{self.entities[name]}" for name in ORDER if name in self.entities]
        return "/".join([*parts, self.datatype, "_".join([*parts, *entities, self.suffix])])

    def __str__(self) -> str:
        entities = [f"{name}-{self.entities[name]}" for name in ORDER if name in self.entities]
        return f"{self.datatype}/" + "_".join([*entities, self.suffix])
