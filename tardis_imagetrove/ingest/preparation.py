"""Preparation: what is archived and shown of what was received: the same, or de-identified copies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom.datadict import dictionary_has_tag, dictionary_VR

from ..deidentification import (
    NotDeidentifiable,
    Option,
    PixelRegions,
    Profile,
    Pseudonyms,
    Report,
    deidentify,
    new_secret,
)
from ..disk import file_sha256
from ..errors import PermanentError, RetriableError
from ..formats import DICOM, Acquisition, Fields, Item, read
from ..formats.dicom.fields import parse_field
from ..models import InstrumentConfiguration, PixelRule, PseudonymKey, Series
from .limited import within_limits
from .placement import Destination, Placement, check_late


@dataclass(frozen=True)
class Prepared:
    """An item that was received, and what is shown of it: itself or its de-identified copy."""

    received: Item
    shown: Item


@dataclass(frozen=True)
class Batch:
    """What became of the items of an acquisition.

    Attributes:
        refused: items that cannot be shown; they stay in the spool.
        reasons: why, without text that may name anybody.
        fields: of what is shown.
        shown_uid: SeriesInstanceUID of the copies; empty where items are shown as received.
        losses: what preparation removed that researchers may miss.
        report: what preparation did with each attribute; empty where items are shown as received.
    """

    made: tuple[Prepared, ...]
    fields: Fields
    refused: tuple[Item, ...] = ()
    reasons: tuple[str, ...] = ()
    shown_uid: str = ""
    losses: tuple[str, ...] = ()
    report: Report = field(default_factory=Counter)


class Preparation(ABC):
    """How a series is shown. It is decided when the series is placed, and holds for its late instances."""

    profile: str = ""
    """As an archive records it; empty where items are shown as received."""

    keeps_originals: bool = False
    """Whether what was received is archived apart."""

    record: Mapping[str, object] = {}  # noqa: RUF012 (empty)
    """As the series remembers it."""

    key: PseudonymKey | None = None

    @abstractmethod
    def prepare(self, found: Acquisition, items: Iterable[Item], folder: Path) -> Batch:
        """What is shown of ``items``; files are made in ``folder``. One that is refused stops none of the others.

        Raises:
            PermanentError: the acquisition cannot be shown in this way.
            RetriableError: too little memory for an item.
            OSError: a file cannot be read or written.
        """

    @abstractmethod
    def destinations(self, placement: Placement, shown: Fields) -> tuple[Destination, Destination | None]:
        """Where what is shown goes, and where originals go if they are archived apart.

        Raises:
            Unplaceable: nothing is left for a title.
        """

    @abstractmethod
    def remembered(self, placed_by: Iterable[tuple[str, str]]) -> dict[str, str]:
        """What a series remembers of the fields that placed it."""

    @abstractmethod
    def check_late(self, headers: Iterable[Fields], placed_by: Mapping[str, str]) -> None:
        """Check that late instances belong to their series.

        Raises:
            Unplaceable: one differs in a field that placed the series.
        """

    @abstractmethod
    def institution(self, shown: Fields, configuration: InstrumentConfiguration) -> str:
        """The institution's name for a new experiment."""


class AsReceived(Preparation):
    """Everything is shown as it was received, byte for byte."""

    def prepare(self, found: Acquisition, items: Iterable[Item], folder: Path) -> Batch:  # noqa: ARG002
        return Batch(tuple(Prepared(item, item) for item in items), found.fields[0])

    def destinations(
        self,
        placement: Placement,
        shown: Fields,  # noqa: ARG002
    ) -> tuple[Destination, Destination | None]:
        return placement.destination, None

    def remembered(self, placed_by: Iterable[tuple[str, str]]) -> dict[str, str]:
        return dict(placed_by)

    def check_late(self, headers: Iterable[Fields], placed_by: Mapping[str, str]) -> None:
        check_late(headers, placed_by)

    def institution(self, shown: Fields, configuration: InstrumentConfiguration) -> str:
        return shown.get("InstitutionName", "") or configuration.default_institution_name


class Deidentification(Preparation):
    """Copies are shown that are de-identified by PS3.15 annex E."""

    def __init__(self, options: Profile, keeps_originals: bool, key: PseudonymKey) -> None:
        self.options, self.keeps_originals, self.key = options, keeps_originals, key
        self.profile = options.words
        self.record = {"options": options.names, "keep_originals": keeps_originals}
        self.pseudonyms = Pseudonyms(key.secret)

    def prepare(self, found: Acquisition, items: Iterable[Item], folder: Path) -> Batch:
        items = list(items)
        if found.kind != DICOM:
            raise PermanentError(
                f"cannot be de-identified: only DICOM can be, and this is {found.kind}; import it with an instrument"
                " that does not de-identify"
            )
        paths = [item.path for item in items]
        rules = []
        if Option.CLEAN_PIXELS in self.options:
            rules = [rule.pixel_regions for rule in PixelRule.objects.exclude(approved=None)]
        return within_limits(lambda: self._copies(found, items, folder, rules), paths, "de-identification")

    def _copies(
        self, found: Acquisition, items: list[Item], folder: Path, rules: list[PixelRegions]
    ) -> Batch:
        made: list[Prepared] = []
        refused: list[Item] = []
        reasons: Counter[str] = Counter()
        losses: dict[str, None] = {}
        report: Report = Counter()
        series_uid = ""
        for number, item in enumerate(items):
            try:
                out = folder / f"{number:06d}.dcm"
                copy = deidentify(item.path, out, self.options, self.pseudonyms, rules)
            except NotDeidentifiable as error:
                refused.append(item)
                reasons[str(error)] += 1
                continue
            except MemoryError:
                raise RetriableError(
                    f"too little memory to de-identify an instance of {item.size / 2**20:.0f} MiB"
                ) from None
            series_uid = copy.series_uid
            losses.update(dict.fromkeys(copy.losses))
            report.update(copy.report)
            size, sha256 = copy.path.stat().st_size, file_sha256(copy.path)
            shown = replace(item, path=copy.path, uid=copy.sop_instance_uid, size=size, sha256=sha256)
            made.append(Prepared(item, shown))
        fields: Fields = {}
        if made:
            names = set().union(*found.fields)
            fields = read(series_uid, [made[0].shown.path], names).fields[0]
        return Batch(
            tuple(made),
            fields,
            tuple(refused),
            tuple(
                f"{count} instance{'s' if count > 1 else ''}: {reason}" for reason, count in reasons.items()
            ),
            series_uid,
            tuple(losses),
            report,
        )

    def destinations(self, placement: Placement, shown: Fields) -> tuple[Destination, Destination | None]:
        digest = self.pseudonyms.digest
        apart = placement.apart(digest) if self.keeps_originals else None
        if Option.SHIFT_DATES in self.options:
            shown = {field: _marked(field, value) for field, value in shown.items()}
        return placement.deidentified(shown, digest), apart

    def _digest(self, field: str, value: str) -> str:
        return self.pseudonyms.digest([field, value])

    def remembered(self, placed_by: Iterable[tuple[str, str]]) -> dict[str, str]:
        return {field: self._digest(field, value) for field, value in placed_by}

    def check_late(self, headers: Iterable[Fields], placed_by: Mapping[str, str]) -> None:
        check_late(headers, placed_by, self._digest)

    def institution(self, shown: Fields, configuration: InstrumentConfiguration) -> str:
        institution = shown.get("InstitutionName", "")
        if Option.RETAIN_INSTITUTION in self.options:
            institution = institution or configuration.default_institution_name
        return institution


def _marked(field: str, value: str) -> str:
    """A shifted date or time as a title shows it."""
    tag = parse_field(field)
    is_time = dictionary_has_tag(tag) and dictionary_VR(tag) in ("DA", "DT", "TM")
    return f"{value} (shifted)" if value and is_time else value


def preparation_for(series: Series, configuration: InstrumentConfiguration | None, group: str) -> Preparation:
    """How a series is shown.

    A series that has its place keeps what was decided then, whatever its instrument says now.

    Args:
        configuration, group: where it is placed now; without meaning if it has its place.
    """
    if series.dataset_key is not None:
        if series.pseudonym_key is None:
            return AsReceived()
        kept = series.deidentification
        return Deidentification(Profile.of(kept["options"]), kept["keep_originals"], series.pseudonym_key)
    if configuration is None or not configuration.deidentify:
        return AsReceived()
    return Deidentification(
        Profile.of(configuration.deidentification_options),
        configuration.keep_originals,
        _key(group, configuration.owner_id),
    )


def _key(group: str, owner_id: int) -> PseudonymKey:
    """The project's secret, made if it has none; instruments that feed one project share it.

    Series of no project share their owner's.
    """
    scope = f"group {group}" if group else f"owner {owner_id}"
    key, _ = PseudonymKey.objects.get_or_create(scope=scope, defaults={"secret": new_secret()})
    return key
