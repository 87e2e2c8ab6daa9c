"""Importing a folder by hand, and saying beforehand what would be made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import PermanentError
from ..folder_sources import assign_to
from ..folders.importing import (
    Imported,
    Unit,
    describe_study,
    import_unit,
    listing_of,
    reason_of,
    unit_of,
    units,
)
from ..folders.journal import Journal, Taken
from ..folders.source import Kind, Source
from ..folders.watcher import journal_path
from ..formats import Fields
from ..formats.dicom.fields import fields_of
from ..formats.dicom.files import UnreadableFile, read_header
from ..ingest.placement import Placement, Rule, Unplaceable, place_all
from ..ingest.series import rule_of, rules
from ..models import InstrumentConfiguration
from ..spool import Spool

BY_HAND = "by-hand"
"""Key of a source that a person names on the command line."""


@dataclass(frozen=True)
class Wish:
    """Where a person says that a folder belongs; what is empty is decided by the rules.

    Attributes:
        project: its number; ``None`` for what the files say.
    """

    configuration: InstrumentConfiguration | None = None
    project: str | None = None
    experiment: str = ""
    dataset: str = ""

    @property
    def assigned(self) -> dict[str, object]:
        """As a series keeps it.

        Raises:
            PermanentError: titles or a project without an instrument.
        """
        if self.configuration is None:
            if self.project is not None or self.experiment or self.dataset:
                raise PermanentError("give --instrument too: its owner and schemas are used")
            return {}
        said: dict[str, object] = {"instrument": self.configuration.pk}
        if self.project is not None:
            said["project"] = self.project
        return {**said, **{name: text for name in ("experiment", "dataset") if (text := getattr(self, name))}}

    def rules(self) -> tuple[Rule, ...]:
        """The rules that decide."""
        if self.configuration is None:
            return rules()
        return (rule_of(self.configuration).assigned(self.project, self.experiment, self.dataset),)


def source_by_hand(folder: Path, kind: Kind) -> Source:
    """A source for one import of a folder or file."""
    return Source(key=BY_HAND, root=folder, kind=kind, quiet_seconds=0)


def units_by_hand(source: Source) -> list[Unit]:
    """What is imported as one each: of DICOM and other files the whole folder, of ParaVision each study.

    Raises:
        PermanentError: there is no such folder, or no study in it.
    """
    whole = unit_of(source.root)
    if source.kind is not Kind.PARAVISION:
        return [whole]
    found = list(units(source))
    if not found:
        raise PermanentError(f"{source.root} contains no ParaVision study")
    return found


def import_by_hand(
    source: Source,
    unit: Unit,
    spool: Spool,
    wish: Wish,
    progress: Callable[[Taken], None] = lambda taken: None,
) -> Imported:
    """Take a unit into the spool; what was taken before is not read again.

    Raises:
        SpoolError: the spool cannot be written; what was taken stays taken.
        PermanentError: the wish makes no sense.
    """
    assigned = wish.assigned

    def announce(uid: str) -> None:
        assign_to(uid, assigned)

    return import_unit(source, unit, spool, Journal(journal_path(spool, source, unit)), progress, announce)


# What would be made


@dataclass
class Planned:
    """One series or study that an import would bring.

    Attributes:
        problem: why it would be held; empty if it has a place.
    """

    uid: str
    description: str
    files: int
    placement: Placement | None = None
    problem: str = ""


@dataclass
class Plan:
    """What an import would make.

    Attributes:
        left_out: reason for each path that would not be taken.
        unopened: archives (ZIP, TAR) whose content is only looked at by the import itself.
    """

    series: list[Planned] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    unopened: list[str] = field(default_factory=list)


def plan(source: Source, unit: Unit, wish: Wish) -> Plan:
    """What importing a unit would make; headers are read, and nothing is written.

    Raises:
        OSError: the unit cannot be listed.
        PermanentError: the wish makes no sense.
    """
    wish.assigned  # noqa: B018 (it raises)
    listing = listing_of(source, unit)
    planned = Plan(left_out=dict(listing.left_out))
    if listing.unreadable:
        planned.left_out[unit.name] = listing.unreadable
    site_rules = wish.rules()
    if source.kind is not Kind.DICOM:
        uid, _study, fields, troubles = describe_study(source, unit)
        planned.left_out.update({words.partition(" ")[0]: words for words in troubles})
        planned.series.append(_planned(uid, [fields], len(listing.files), site_rules))
        return planned
    names = {name for rule in site_rules for name in rule.fields()} | {"SeriesDescription"}
    groups: dict[str, tuple[list[Fields], int]] = {}
    for path, relative in _paths(unit, listing.files):
        if path.suffix.lower() in (".zip", ".tar", ".tgz", ".gz"):
            planned.unopened.append(relative)
            continue
        try:
            header = read_header(path, {*names, "SeriesInstanceUID", "SOPInstanceUID"})
        except UnreadableFile as error:
            planned.left_out[relative] = reason_of(error)
            continue
        except OSError as error:
            planned.left_out[relative] = f"cannot be read ({error.strerror})"
            continue
        uid, fields = str(header.SeriesInstanceUID), fields_of(header, names)
        known, count = groups.get(uid, ([], 0))
        groups[uid] = (known if fields in known else [*known, fields], count + 1)
    planned.series += [_planned(uid, fields, count, site_rules) for uid, (fields, count) in groups.items()]
    return planned


def _paths(unit: Unit, files) -> Iterator[tuple[Path, str]]:  # noqa: ANN001 (of a listing)
    for file in files:
        yield (unit.path if unit.path.is_file() else unit.path / file.path), file.path


def _planned(uid: str, fields: list[Fields], count: int, site_rules: tuple[Rule, ...]) -> Planned:
    made = Planned(uid, fields[0].get("SeriesDescription", ""), count)
    try:
        made.placement = place_all(fields, site_rules)
    except Unplaceable as error:
        made.problem = str(error)
    return made
