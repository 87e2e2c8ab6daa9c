"""What the operators' board shows: series by state, found by what people know of them, and one in full."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from urllib.parse import urlencode

from django.db.models import Count, Min, Q, QuerySet
from django.utils.timezone import now

from ..errors import PermanentError
from ..formats.dicom.fields import fields_of
from ..formats.packed import PackedFormat, fields_in
from ..ingest.glance import CannotGlance, glance
from ..ingest.placement import Verdict, explain
from ..ingest.series import rules
from ..models import Event, Series
from ..spool import Spool, Trashed
from ..uids import is_uid
from .actions import Action, possible
from .large import distinct
from .status import duration

S = Series.State

#: The tabs' order: what needs a person comes first.
ORDER = (
    S.HELD,
    S.WAITING,
    S.RECEIVING,
    S.QUEUED,
    S.INGESTING,
    S.CONVERTING,
    S.PARTIAL,
    S.DONE,
    S.DISCARDED,
)
#: States of work in progress: the age of the oldest says whether it goes on.
_AGES = frozenset({S.HELD, S.WAITING, S.RECEIVING, S.QUEUED, S.INGESTING, S.CONVERTING})
#: Events of a series that are shown, the newest.
MOST_EVENTS = 200


@dataclass(frozen=True)
class Tab:
    """A state with the number of its series, and the age of the one that has been longest in it."""

    state: str
    label: str
    count: int
    age: str = ""


def tabs() -> list[Tab]:
    """One for each state."""
    found = {
        state: (count, oldest)
        for state, count, oldest in Series.objects.order_by()
        .values_list("state")
        .annotate(Count("pk"), Min("modified"))
    }
    return [_tab(state, *found.get(state.value, (0, None))) for state in ORDER]


def _tab(state: Series.State, count: int, oldest: datetime | None) -> Tab:
    age = duration((now() - oldest).total_seconds()) if oldest and state in _AGES else ""
    return Tab(state.value, state.label, count, age)


@dataclass(frozen=True)
class Search:
    """What is looked for; as it stands in the address.

    Attributes:
        text: a UID as a whole, or part of a description, directory or project.
        reason: code of the first reason.
        since: day from which on the series last changed.
    """

    state: str = ""
    text: str = ""
    instrument: str = ""
    modality: str = ""
    reason: str = ""
    since: date | None = None

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> Search:
        """What an address asks for; what is no state, instrument or day counts as not asked for."""
        state, instrument = asked.get("state", ""), asked.get("instrument", "")
        try:
            since = date.fromisoformat(asked.get("since", ""))
        except ValueError:
            since = None
        return cls(
            state if state in S.values else "",
            # PostgreSQL takes no NUL.
            asked.get("q", "").replace("\0", "").strip()[:200],
            instrument if instrument.isdecimal() and len(instrument) < 10 else "",
            asked.get("modality", "").replace("\0", "")[:16],
            asked.get("reason", "").replace("\0", "")[:32],
            since,
        )

    def query(self, **changes: str) -> str:
        """As a query string, without what is not asked for."""
        given = {
            "state": self.state,
            "q": self.text,
            "instrument": self.instrument,
            "modality": self.modality,
            "reason": self.reason,
            "since": self.since.isoformat() if self.since else "",
            **changes,
        }
        return urlencode({name: value for name, value in given.items() if value})

    def found(self) -> QuerySet[Series]:
        """The series, the one that changed last first."""
        wanted = Q()
        if self.state:
            wanted &= Q(state=self.state)
        if self.instrument:
            wanted &= Q(configuration_id=int(self.instrument))
        if self.modality:
            wanted &= Q(modality=self.modality)
        if self.reason:
            wanted &= Q(reason_code=self.reason)
        if self.since:
            wanted &= Q(modified__date__gte=self.since)
        if self.text:
            wanted &= (
                Q(series_uid=self.text)
                | Q(study_uid=self.text)
                | Q(shown_uid=self.text)
                | Q(description__icontains=self.text)
                | Q(directory__icontains=self.text)
                | Q(project__icontains=self.text)
            )
        found = Series.objects.filter(wanted).select_related("configuration", "dataset_key")
        return found.order_by("-modified", "-pk")


def choices(name: str) -> list[str]:
    """The values that a field of series has, for a list to choose from."""
    return distinct(Series, name)


@dataclass(frozen=True)
class Shown:
    """A series in full.

    Attributes:
        events: what happened to it, the newest first.
        files, bytes: that wait in the spool.
        trash: what was discarded of it.
        verdicts: what each instrument's rule says of its first file in the spool, with the pairs that fail in words;
            none if the file is not to be had. Of a series that is de-identified no value is quoted.
        unread: why that file could not be read.
        actions: that can be done with it.
    """

    series: Series
    events: list[Event]
    files: int = 0
    bytes: int = 0
    trash: list[Trashed] = field(default_factory=list)
    verdicts: tuple[tuple[Verdict, str], ...] = ()
    unread: str = ""
    actions: list[Action] = field(default_factory=list)


def show(series: Series, spool: Spool) -> Shown:
    """Everything that an operator wants to know of a series.

    Raises:
        SpoolError: the spool cannot be read.
    """
    events = list(series.events.order_by("-pk")[:MOST_EVENTS])
    files = spool.files(series.series_uid)
    sizes = []
    for path in files:
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # archived meanwhile
            continue
    verdicts: tuple[Verdict, ...] = ()
    unread = ""
    if files:
        try:
            verdicts = verdicts_of(files[0])
        except (PermanentError, OSError) as error:
            unread = str(error)
    return Shown(
        series,
        events,
        len(sizes),
        sum(sizes),
        spool.trash(series.series_uid),
        in_words(verdicts, series.is_deidentified),
        unread,
        possible(series, spool),
    )


def in_words(verdicts: Iterable[Verdict], discreet: bool = False) -> tuple[tuple[Verdict, str], ...]:
    """Verdicts, each with the pairs that fail in words.

    Args:
        discreet: quote no value; nor is one quoted if an instrument fits whose series are de-identified.
    """
    verdicts = tuple(verdicts)
    discreet = discreet or any(one.matches and one.rule.discreet for one in verdicts)
    return tuple((verdict, verdict.text(not discreet)) for verdict in verdicts)


def verdicts_of_series(series_uid: str, spool: Spool) -> tuple[Verdict, ...]:
    """The same of the first file of a series in the spool.

    Raises:
        CannotGlance, OSError: as :func:`verdicts_of`.
        PermanentError: the spool has no files of it.
    """
    files = spool.files(series_uid) if is_uid(series_uid) else []
    if not files:
        raise PermanentError(f"the spool has no files of series {series_uid}")
    return verdicts_of(files[0])


def verdicts_of_bytes(chunks: Iterable[bytes]) -> tuple[Verdict, ...]:
    """The same of a file that is given by its bytes, and kept no longer than that.

    Raises:
        CannotGlance: it is no DICOM file, or damaged.
    """
    with tempfile.NamedTemporaryFile(prefix="imagetrove-") as file:
        file.writelines(chunks)
        file.flush()
        try:
            return verdicts_of(Path(file.name))
        except CannotGlance as error:
            raise CannotGlance(
                str(error).replace(file.name, "the file").replace(Path(file.name).name, "the file")
            ) from None


def verdicts_of(path: Path) -> tuple[Verdict, ...]:
    """What each enabled instrument's rule says of a DICOM file; the one that fits comes first.

    Raises:
        CannotGlance: it is no DICOM file, or damaged.
        OSError: it cannot be read.
    """
    site_rules = rules()
    names = {name for rule in site_rules for name in rule.fields()}
    if path.suffix == PackedFormat.suffix:
        return explain(fields_in(path), site_rules)
    return explain(fields_of(glance(path, names), names), site_rules)
