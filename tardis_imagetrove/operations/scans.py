"""A researcher's search: archived series that MyTARDIS lets a person see, by what the person may know of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from urllib.parse import urlencode

from django.contrib.auth.models import User
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Subquery, When

from ..models import Archive, InstrumentConfiguration, Series
from ..mytardis import mytardis
from ..mytardis.reading import Measure, keyed_sets, measures, sets_measured
from .large import distinct

#: Orders of the list, by their names in the address.
ORDERS = {
    "": ("-created", "-pk"),
    "oldest": ("created", "pk"),
    "description": ("description", "directory", "pk"),
}
_MOST_WORDS = 8


def archived() -> QuerySet[Series]:
    """Series with an archive in their dataset."""
    here = Archive.objects.filter(series=OuterRef("pk"), datafile__dataset=OuterRef("dataset_key__dataset"))
    # Not as EXISTS, which PostgreSQL joins with all archives there are, be it for the first page's fifty series.
    return Series.objects.alias(here=Subquery(here.values("pk")[:1])).filter(here__isnull=False)


def visible(user: User) -> QuerySet[Series]:
    """Series with an archive in a dataset that MyTARDIS lets the user see; the rights are part of the query."""
    if user.is_active and user.is_superuser:
        return archived()
    return archived().filter(dataset_key__dataset__in=mytardis().visible_datasets(user))


def modalities(user: User) -> list[str]:
    """Modalities of the series that the user may see."""
    values = distinct(Series, "modality")
    # One question for each value, which ends at its first series: a list of all series' values would read them all.
    asked = {
        f"has_{number}": Exists(visible(user).filter(modality=value)) for number, value in enumerate(values)
    }
    seen = User.objects.filter(pk=user.pk).annotate(**asked).values(*asked).get() if asked else {}
    return [value for value, there in zip(values, seen.values(), strict=True) if there]


def instruments(user: User) -> QuerySet[InstrumentConfiguration]:
    """Instruments of the series that the user may see."""
    theirs = visible(user).filter(configuration=OuterRef("pk"))
    return InstrumentConfiguration.objects.filter(Exists(theirs)).order_by("name")


def choices() -> list[Measure]:
    """Numbers with units that series can be found by."""
    return measures(_namespaces())


def _namespaces() -> list[str]:
    return list(InstrumentConfiguration.objects.values_list("schema_dataset", flat=True).distinct())


@dataclass(frozen=True)
class Search:
    """What is looked for; as it stands in the address.

    Attributes:
        text: words, each of which is part of a description, directory, project, or the title of a
            dataset or of an experiment that the user may see.
        measure: name of a numeric parameter, between ``least`` and ``most``.
        since, until: days between which the series arrived.
    """

    text: str = ""
    instrument: str = ""
    modality: str = ""
    experiment: str = ""
    measure: str = ""
    least: float | None = None
    most: float | None = None
    since: date | None = None
    until: date | None = None
    order: str = ""

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> Search:
        """What an address asks for; a malformed number, day or id counts as not asked for."""

        def text(name: str, most: int) -> str:
            return asked.get(name, "").replace("\0", "").strip()[:most]

        order = asked.get("order", "")
        return cls(
            text("q", 200),
            _id(asked.get("instrument", "")),
            text("modality", 16),
            _id(asked.get("experiment", "")),
            text("measure", 60),
            _number(asked.get("least", "")),
            _number(asked.get("most", "")),
            _day(asked.get("since", "")),
            _day(asked.get("until", "")),
            order if order in ORDERS else "",
        )

    def query(self) -> str:
        """As a query string, without what is not asked for."""
        given: dict[str, object] = {
            "q": self.text,
            "instrument": self.instrument,
            "modality": self.modality,
            "experiment": self.experiment,
            "measure": self.measure,
            "least": "" if self.least is None else f"{self.least:.15g}",
            "most": "" if self.most is None else f"{self.most:.15g}",
            "since": self.since or "",
            "until": self.until or "",
            "order": self.order,
        }
        return urlencode({name: value for name, value in given.items() if value != ""})

    def found(self, user: User) -> QuerySet[Series]:
        """The series that the user may see and looks for."""
        shown = mytardis().visible_experiments(user)
        found = visible(user)
        for word in self.text.split()[:_MOST_WORDS]:
            # Titles of experiments that the user may not see must not be found by guessing.
            titled = Q(dataset_key__dataset__experiments__in=shown.filter(title__icontains=word))
            found = found.filter(
                Q(description__icontains=word)
                | Q(directory__icontains=word)
                | Q(project__icontains=word)
                | Q(dataset_key__dataset__description__icontains=word)
                | Q(pk__in=Series.objects.filter(titled).order_by().values("pk"))
            )
        if self.experiment:
            within = shown.filter(pk=int(self.experiment))
            inside = Series.objects.filter(dataset_key__dataset__experiments__in=within)
            found = found.filter(pk__in=inside.order_by().values("pk"))
        if self.instrument:
            found = found.filter(configuration_id=int(self.instrument))
        if self.modality:
            found = found.filter(modality=self.modality)
        if self.since:
            found = found.filter(created__date__gte=self.since)
        if self.until:
            found = found.filter(created__date__lte=self.until)
        if self.measure and (self.least, self.most) != (None, None):
            found = self._measured(found)
        return found.select_related("dataset_key__dataset", "configuration").order_by(*ORDERS[self.order])

    def _measured(self, found: QuerySet[Series]) -> QuerySet[Series]:
        sets = sets_measured(_namespaces(), self.measure, self.least, self.most)
        found = found.annotate(public=Case(When(shown_uid="", then=F("series_uid")), default=F("shown_uid")))
        # Within the series' own dataset: another one's values are for others to see.
        keys = keyed_sets("SeriesInstanceUID", OuterRef("public"), OuterRef("dataset_key__dataset"))
        return found.filter(Exists(keys.filter(parameterset__in=sets)))


def _id(text: str) -> str:
    return text if text.isascii() and text.isdecimal() and len(text) < 10 else ""


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
