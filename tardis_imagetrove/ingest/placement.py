"""Where a series belongs: which instrument, which experiment and dataset, which project.

Everything here is pure and works on plain fields, whatever format they were read from.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ..errors import PermanentError
from ..formats.base import Fields

#: MyTARDIS's limit on an experiment's title.
EXPERIMENT_TITLE_LENGTH = 400
#: Length of a series' directory; leaves room in MyTARDIS's 255 and in a file system's names.
DIRECTORY_LENGTH = 80


#: What all instances of a series must agree on, whatever its titles are made of: a series is of one
#: patient (PS3.3 section A.1.2), and one of two is some console's or anonymiser's mistake.
ALWAYS_AGREED = ("PatientID",)

#: What an operator recognises a scan by.
DESCRIBING = (
    "Manufacturer",
    "ManufacturerModelName",
    "Modality",
    "StationName",
    "SourceApplicationEntityTitle",
)

#: Instruments that are named when none matches.
NEAREST = 2
#: Characters of a value that a message quotes.
QUOTED = 100


_NONE = "no-instrument"


class Unplaceable(PermanentError):
    """A series cannot be placed; the text says which field or rule is the cause.

    Its code is ``no-instrument`` if no rule fits, ``several-instruments`` if more than one does.
    """

    code = "unplaceable"


@dataclass(frozen=True)
class Rule:
    """An instrument's configuration, as far as it places series."""

    id: int
    name: str
    owner_id: int
    instrument: tuple[tuple[str, str], ...]
    experiment_title: tuple[str, ...]
    dataset_title: tuple[str, ...]
    project_field: str = ""
    project_pattern: str = ""
    project_group: str = "Project {}"
    discreet: bool = False  # its series are de-identified: no value is quoted
    project: str | None = None  # the number, where a person has said it
    experiment: str = ""  # the title, where a person has said it
    dataset: str = ""

    def assigned(self, project: str | None = None, experiment: str = "", dataset: str = "") -> Rule:
        """The rule for a series that a person says is this instrument's.

        Args:
            project: its number; empty for none, ``None`` for what the series itself says.
            experiment, dataset: titles in place of those by fields.
        """
        field = self.project_field if project is None else ""
        return replace(
            self, instrument=(), project_field=field, project=project, experiment=experiment, dataset=dataset
        )

    def fields(self) -> set[str]:
        """Every field that the rule looks at."""
        named = {field for field, _ in self.instrument} | {*self.experiment_title, *self.dataset_title}
        return named | {*ALWAYS_AGREED} | ({self.project_field} if self.project_field else set())


@dataclass(frozen=True)
class Destination:
    """A dataset and its experiment: the keys by which they are found, and what they are called when new.

    Attributes:
        group: the group that may read; empty for the owner alone.
    """

    experiment_key: str
    dataset_key: str
    experiment_title: str
    dataset_title: str
    owner_id: int
    group: str


@dataclass(frozen=True)
class Placement:
    """Where a series goes.

    Attributes:
        fields: every field that decided it, and its value.
        project: the number that the project rule found; empty when the series names none.
        group: the group that may read; empty for the owner alone.
    """

    rule_id: int
    owner_id: int
    experiment_values: tuple[tuple[str, str], ...]
    dataset_values: tuple[tuple[str, str], ...]
    project: str
    group: str
    fields: tuple[tuple[str, str], ...] = ()
    discreet: bool = False

    @property
    def experiment_title(self) -> str:
        return _title((value for _, value in self.experiment_values), EXPERIMENT_TITLE_LENGTH)

    @property
    def dataset_title(self) -> str:
        return _title(value for _, value in self.dataset_values)

    @property
    def experiment_key(self) -> str:
        """Digest of what makes two series share an experiment.

        The owner and the group are in it: series that different people may see never share one.
        """
        return _digest([self.owner_id, self.group, self.experiment_values])

    @property
    def dataset_key(self) -> str:
        return _digest([self.experiment_key, self.dataset_values])

    def title_fields(self) -> list[str]:
        return [field for field, _ in (*self.experiment_values, *self.dataset_values)]

    @property
    def destination(self) -> Destination:
        """Where it goes as it was received."""
        return Destination(
            self.experiment_key,
            self.dataset_key,
            self.experiment_title,
            self.dataset_title,
            self.owner_id,
            self.group,
        )

    def deidentified(self, copy: Fields, digest: Callable[[object], str]) -> Destination:
        """Where its de-identified copies go: found by the original values, titled by the copies'.

        The keys are never those of what is shown as it was received, nor those of originals.

        Args:
            copy: fields of one of the copies.
            digest: by a secret, so that nobody can try what values a key was made of.

        Raises:
            Unplaceable: de-identification has left nothing for a title.
        """
        titles = [
            [copy.get(field, "") for field, _ in values]
            for values in (self.experiment_values, self.dataset_values)
        ]
        for fields, texts, of_what in zip(
            (self.experiment_values, self.dataset_values), titles, ("experiment", "dataset"), strict=True
        ):
            if not any(texts):
                raise Unplaceable(
                    f"de-identification leaves nothing of {', '.join(field for field, _ in fields)}"
                    f" for the {of_what}'s title"
                )
        experiment = digest(["copies", self.owner_id, self.group, self.experiment_values])
        return Destination(
            experiment,
            digest(["copies", experiment, self.dataset_values]),
            _title(titles[0], EXPERIMENT_TITLE_LENGTH),
            _title(titles[1]),
            self.owner_id,
            self.group,
        )

    def apart(self, digest: Callable[[object], str]) -> Destination:
        """Where originals go whose copies are shown: an experiment of the owner's alone.

        An experiment, since that is what MyTARDIS 4.7 gives access to.
        """
        experiment = digest(["originals", self.owner_id, self.group, self.experiment_values])
        return Destination(
            experiment,
            digest(["originals", experiment, self.dataset_values]),
            shorten(f"Originals: {self.experiment_title}", EXPERIMENT_TITLE_LENGTH),
            self.dataset_title,
            self.owner_id,
            "",
        )


def _title(values: Iterable[str], length: int = 0) -> str:
    title = "/".join(value for value in values if value)
    return shorten(title, length) if length else title


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()


def shorten(text: str, length: int) -> str:
    """``text`` cut to ``length`` characters, with an ellipsis in place of what is gone."""
    return text if len(text) <= length else text[: length - 1] + "…"


@dataclass(frozen=True)
class Verdict:
    """What one rule says of a scan.

    Attributes:
        held: the name/value pairs that hold.
        failed: the others: field, value that the rule wants, value that the scan has.
    """

    rule: Rule
    held: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str, str], ...]

    @property
    def matches(self) -> bool:
        return not self.failed

    def text(self, quoting: bool = True) -> str:
        """The pairs that fail, in words.

        Args:
            quoting: also say what the scan has.
        """
        return " and ".join(_failure(field, wanted, actual, quoting) for field, wanted, actual in self.failed)


def _failure(field: str, wanted: str, actual: str, quoting: bool) -> str:
    if not quoting:
        return f"{field} is not {wanted!r}"
    return f"{field} is {repr(shorten(actual, QUOTED)) if actual else 'empty'}, not {wanted!r}"


def explain(fields: Fields, rules: Iterable[Rule]) -> tuple[Verdict, ...]:
    """What each rule says of a scan: those that match first, then by the number of pairs that hold."""
    verdicts = []
    for rule in rules:
        held, failed = [], []
        for field, value in rule.instrument:
            actual, wanted = fields.get(field, ""), value.strip()
            if actual == wanted:
                held.append((field, wanted))
            else:
                failed.append((field, wanted, actual))
        verdicts.append(Verdict(rule, tuple(held), tuple(failed)))
    return tuple(
        sorted(verdicts, key=lambda verdict: (not verdict.matches, -len(verdict.held), len(verdict.failed)))
    )


def describe(fields: Fields) -> str:
    """A scan in a few words: ``MR scan from SIEMENS Skyra, station MR1``."""
    maker = " ".join(filter(None, (fields.get("Manufacturer", ""), fields.get("ManufacturerModelName", ""))))
    words = " ".join(filter(None, (fields.get("Modality", ""), "scan", maker and f"from {maker}")))
    if station := fields.get("StationName", ""):
        words += f", station {station}"
    if sender := fields.get("SourceApplicationEntityTitle", ""):
        words += f", sent by {sender}"
    return shorten(words, 2 * QUOTED)


def is_discreet(headers: Iterable[Fields], rules: Iterable[Rule]) -> bool:
    """Whether one of a series' instances is of an instrument whose series are de-identified."""
    hidden = [rule for rule in rules if rule.discreet]
    return any(verdict.matches for header in headers for verdict in explain(header, hidden))


def match(fields: Fields, rules: Iterable[Rule], discreet: bool = False) -> Rule:
    """The one rule whose name/value pairs all hold.

    Args:
        discreet: quote no value of the scan.

    Raises:
        Unplaceable: none or several; the text describes the scan and names the nearest instruments.
    """
    verdicts = explain(fields, rules)
    found = [verdict.rule for verdict in verdicts if verdict.matches]
    if len(found) == 1:
        return found[0]
    if found:
        raise Unplaceable(
            "matches more than one instrument: " + ", ".join(rule.name for rule in found),
            code="several-instruments",
        )
    if not verdicts:
        raise Unplaceable("matches no instrument (no instrument is configured and enabled)", code=_NONE)
    nearest = "; ".join(
        f"{verdict.rule.name}: {verdict.text(not discreet)}" for verdict in verdicts[:NEAREST]
    )
    more = f"; and {len(verdicts) - NEAREST} more" if len(verdicts) > NEAREST else ""
    scan = "" if discreet else f": {describe(fields)}"
    raise Unplaceable(f"matches no instrument{scan} ({nearest}{more})", code=_NONE)


def project_number(text: str, pattern: str) -> str:
    """The project's number in ``text``: the pattern's first group, or its whole match; empty if none.

    A match that cuts a longer number short is none: ``\\d{5}`` does not find 12345 in 123456,
    which is somebody else's project.

    Raises:
        Unplaceable: several different numbers.
    """
    numbers = []
    for found in re.finditer(pattern, text):
        number = found[1] if found.re.groups else found[0]
        start, end = found.span(1 if found.re.groups else 0)
        cut_before = start > 0 and text[start - 1].isdigit() and text[start : start + 1].isdigit()
        cut_after = end < len(text) and text[end].isdigit() and text[end - 1 : end].isdigit()
        if number and not cut_before and not cut_after and number not in numbers:
            numbers.append(number)
    if len(numbers) > 1:
        raise Unplaceable(f"names more than one project: {', '.join(numbers)}")
    return numbers[0] if numbers else ""


def place(header: Fields, rules: Iterable[Rule], discreet: bool = False) -> Placement:
    """Where one instance belongs.

    Args:
        discreet: quote no value of the scan when no instrument matches.

    Raises:
        Unplaceable: no or several instruments, a title field without a value, several projects.
    """
    rule = match(header, rules, discreet)
    project = rule.project or ""
    if rule.project_field:
        try:
            project = project_number(header.get(rule.project_field, ""), rule.project_pattern)
        except Unplaceable as error:
            raise Unplaceable(f"{rule.project_field} {error}") from error
    return Placement(
        rule_id=rule.id,
        owner_id=rule.owner_id,
        experiment_values=(
            (("experiment", rule.experiment),)
            if rule.experiment
            else _values(header, rule.experiment_title, "the experiment's title", rule)
        ),
        dataset_values=(
            (("dataset", rule.dataset),)
            if rule.dataset
            else _values(header, rule.dataset_title, "the dataset's title", rule)
        ),
        project=project,
        group=rule.project_group.format(project) if project else "",
        fields=tuple((field, header.get(field, "")) for field in sorted(rule.fields())),
        discreet=rule.discreet,
    )


def _values(header: Fields, fields: tuple[str, ...], purpose: str, rule: Rule) -> tuple[tuple[str, str], ...]:
    values = tuple((field, header.get(field, "")) for field in fields)
    missing = [field for field, value in values if not value]
    if missing:
        raise Unplaceable(f"has no {' and no '.join(missing)}, which {rule.name} needs for {purpose}")
    return values


def place_all(headers: Iterable[Fields], rules: Iterable[Rule]) -> Placement:
    """Where a series belongs, on which all its instances must agree.

    Raises:
        Unplaceable: as :func:`place`, or two instances disagree.
    """
    headers, rules = tuple(headers), tuple(rules)
    discreet = is_discreet(headers, rules)
    agreed: Placement | None = None
    for header in headers:
        placement = place(header, rules, discreet)
        if agreed is None:
            agreed = placement
        elif placement != agreed:
            raise Unplaceable(
                f"instances disagree on where they belong: {_difference(agreed, placement, discreet)}"
                + ("" if discreet else f" (instance {header.get('SOPInstanceUID') or '?'})")
            )
    if agreed is None:
        raise Unplaceable("has no instance that can be read")
    return agreed


def _difference(one: Placement, other: Placement, discreet: bool) -> str:
    here, there = dict(one.fields), dict(other.fields)
    for field in here.keys() & there.keys():
        if here[field] != there[field]:
            if discreet:
                return f"they have different values of {field}"
            return f"{field} is {here[field]!r} and {there[field]!r}"
    return "they match different instruments"


def check_late(
    headers: Iterable[Fields],
    placed_by: Mapping[str, str],
    digest: Callable[[str, str], str] | None = None,
) -> None:
    """Check that late instances say of themselves what those said by which their series was placed.

    The configuration of today is not asked: it may have changed, and the series has its place.

    Args:
        digest: of a field's name and value, if digests are all that is known of the series' values.

    Raises:
        Unplaceable: one differs; the text names the field and both values.
    """
    for header in headers:
        for field, value in placed_by.items():
            late = header.get(field, "")
            if digest is not None and digest(field, late) != value:
                raise Unplaceable(f"a late instance differs from its series in {field}")
            if digest is None and late != value:
                raise Unplaceable(
                    f"late instance {header.get('SOPInstanceUID') or '?'} differs from its series:"
                    f" {field} is {late!r}, not {value!r}"
                )


def directory_name(number: str, description: str) -> str:
    """A series' directory: its number in four digits and its description (``0003_t1_mprage_sag``).

    Text that is not a number, and a negative number, which programs would take for an option, count as 0.
    """
    try:
        prefix = f"{max(0, int(number)):04d}"
    except ValueError:
        prefix = "0000"
    plain = unicodedata.normalize("NFKD", description).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")
    return f"{prefix}_{words}"[:DIRECTORY_LENGTH].rstrip("_") if words else f"{prefix}_series"
