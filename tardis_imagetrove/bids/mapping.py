"""An instrument's mapping table: DICOM fields to data type, suffix and entities, one rule a line.

ProtocolName ~ fmri_(?P<task>\\w+)           => func/bold task-{task}
SequenceName ~ pcasl & MRAcquisitionType = 3D => perf/asl M0Type="Absent" aslcontext=["control", "label"]
SeriesDescription ~ ^QA                       => leave out: quality assurance
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ..errors import PermanentError
from ..formats.base import Fields
from ..formats.dicom.fields import is_foreign, parse_field
from .names import KINDS, NUMBERED, ORDER, Name, NotBids, label

LEAVE_OUT = "leave out"
ASL_CONTEXT = "aslcontext"
_ASL_KINDS = ("m0scan", "control", "label", "deltam", "cbf", "noRF", "n/a")


class BadRule(PermanentError):
    """A line of a mapping table that cannot be used; the text names it."""


@dataclass(frozen=True)
class Condition:
    """A field's value must be this, or the pattern must be found in it."""

    name: str
    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Rule:
    """What scans are called whose fields fit all conditions.

    Attributes:
        kind: data type and suffix; ``None`` to leave the scan out.
        entities: values may have ``{group}`` of the conditions' patterns in them.
        sidecar: fields to set in the sidecar.
        context: of ASL, what each volume is.
        why: for a scan that is left out.
    """

    line: int
    text: str
    conditions: tuple[Condition, ...]
    kind: tuple[str, str] | None
    entities: Mapping[str, str] = field(default_factory=dict)
    sidecar: Mapping[str, object] = field(default_factory=dict)
    context: tuple[str, ...] = ()
    why: str = ""

    def match(self, fields: Fields) -> Mapping[str, str] | None:
        """What the patterns' groups found in a scan that fits; ``None`` for one that does not."""
        groups: dict[str, str] = {}
        for condition in self.conditions:
            found = condition.pattern.search(fields.get(condition.name, ""))
            if found is None:
                return None
            groups |= {name: value or "" for name, value in found.groupdict().items()}
        return groups

    def name(self, groups: Mapping[str, str]) -> Name:
        """What a scan is called.

        Raises:
            NotBids: what a group found makes no name.
        """
        assert self.kind is not None
        entities = {}
        for entity, template in self.entities.items():
            text = re.sub(r"\{(\w+)\}", lambda found: groups.get(found[1], ""), template)
            value = (text.strip() if entity in NUMBERED else label(text)) or ""
            if value:
                entities[entity] = value
        return Name(*self.kind, entities).checked()


@dataclass(frozen=True)
class MappingTable:
    """How an instrument's scans are named.

    Attributes:
        participant: the field that tells people apart.
        session: the field that tells a person's sessions apart; empty lets studies be sessions.
    """

    participant: str = "PatientID"
    session: str = ""
    rules: tuple[Rule, ...] = ()

    def fields(self) -> set[str]:
        """Every field that it looks at."""
        named = {condition.name for rule in self.rules for condition in rule.conditions}
        return named | {self.participant} | ({self.session} if self.session else set())

    def find(self, fields: Fields) -> tuple[Rule, Mapping[str, str]] | None:
        """The first rule that fits, with what its groups found."""
        for rule in self.rules:
            if (groups := rule.match(fields)) is not None:
                return rule, groups
        return None


DEFAULT = MappingTable()


@lru_cache(maxsize=256)
def mapping_table(participant: str, session: str, rules: str) -> MappingTable:
    """The table of an instrument's fields and lines.

    Raises:
        BadRule: as :func:`parse`.
    """
    return MappingTable(participant or DEFAULT.participant, session, parse(rules))


def parse(text: str) -> tuple[Rule, ...]:
    """The rules of a table.

    Raises:
        BadRule: a line that is none; the text names line and cause.
    """
    rules = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                rules.append(_rule(number, line.strip()))
            except (PermanentError, re.error) as error:
                raise BadRule(f"line {number}: {error}") from error
    return tuple(rules)


def _rule(number: int, line: str) -> Rule:
    left, arrow, right = line.rpartition("=>")
    if not arrow or not left.strip() or not right.strip():
        raise BadRule("write FIELD ~ pattern => datatype/suffix")
    conditions = tuple(_condition(part) for part in re.split(r"\s+&\s+", left.strip()))
    target = right.strip()
    if target.lower().startswith(LEAVE_OUT):
        why = target[len(LEAVE_OUT) :].lstrip(": ").strip()
        return Rule(number, line, conditions, None, why=why)
    kind, _, rest = target.partition(" ")
    datatype, _, suffix = kind.partition("/")
    if (datatype, suffix) not in KINDS:
        near = sorted("/".join(known) for known in KINDS if suffix in known or datatype in known)
        raise BadRule(f"BIDS has no {kind}; there is {', '.join(near or sorted(map('/'.join, KINDS)))}")
    entities, settings = _options(rest)
    context = settings.pop(ASL_CONTEXT, ())
    if not isinstance(context, (list, tuple)) or not all(one in _ASL_KINDS for one in context):
        raise BadRule(f"{ASL_CONTEXT} must be a list of {', '.join(_ASL_KINDS)}")
    # Whether a name comes of it, with a number for each group.
    groups = {name for condition in conditions for name in condition.pattern.groupindex}
    for template in entities.values():
        for used in re.findall(r"\{(\w*)\}", template):
            if used not in groups:
                raise BadRule(
                    f"{{{used}}} is not a named group of the patterns: write (?P<{used or 'name'}>…)"
                )
    rule = Rule(number, line, conditions, (datatype, suffix), entities, settings, tuple(context))
    try:
        rule.name(dict.fromkeys(groups, "1"))
    except NotBids as error:
        raise BadRule(str(error)) from error
    return rule


def _condition(text: str) -> Condition:
    found = re.match(r"\s*([^~=]*?)\s*([~=])\s*(.*)", text)
    if not found or not found[1]:
        raise BadRule(f"{text!r} is neither FIELD ~ pattern nor FIELD = value")
    name, sign, value = found[1], found[2], found[3].strip()
    if not is_foreign(name):
        parse_field(name)
    try:
        # A value is compared as people write it; both without regard to upper and lower case.
        pattern = re.compile(value if sign == "~" else rf"\A{re.escape(value)}\Z", re.IGNORECASE)
    except re.error as error:
        raise BadRule(f"{value!r} is not a regular expression: {error}") from error
    return Condition(name, pattern)


def _options(text: str) -> tuple[dict[str, str], dict[str, object]]:
    entities: dict[str, str] = {}
    settings: dict[str, object] = {}
    decoder = json.JSONDecoder()
    rest = text.strip()
    while rest:
        if found := re.match(r"(\w+)=", rest):
            try:
                settings[found[1]], end = decoder.raw_decode(rest, found.end())
            except ValueError:
                raise BadRule(f'{rest[:40]!r}: the value must be JSON: 1.5, "text", true or a list') from None
        elif found := re.match(r"([a-z]+)-(\S+)", rest):
            if found[1] not in ORDER:
                raise BadRule(f"{found[1]!r} is not an entity of BIDS; there are {', '.join(ORDER)}")
            entities[found[1]], end = found[2], found.end()
        else:
            raise BadRule(f"{rest[:40]!r} is neither entity-value nor SidecarField=value")
        rest = rest[end:].lstrip()
    return entities, settings
