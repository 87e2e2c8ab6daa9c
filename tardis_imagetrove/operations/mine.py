"""Where a researcher's scans are: what arrived of their projects lately, in words without anybody else's data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db.models import Count, Q
from django.utils.timezone import now

from ..models import ProjectGroup, Series
from ..mytardis import mytardis

#: Days that are looked back, and series that are listed.
DAYS = 14
MOST = 200

S = Series.State

_WORDS = {
    S.RECEIVING: "Arriving",
    S.QUEUED: "Queued",
    S.INGESTING: "Archiving",
    S.WAITING: "Waiting to retry",
    S.HELD: "Waiting for an operator",
    S.CONVERTING: "Archived, converting",
    S.DONE: "Ready",
    S.PARTIAL: "Ready, with notes on the conversion",
    S.DISCARDED: "Files discarded",
}


@dataclass(frozen=True)
class Scan:
    """A series that the visitor may see."""

    id: int
    title: str
    modality: str
    project: str
    state: str
    words: str
    dataset_id: int
    changed: datetime


@dataclass(frozen=True)
class Waiting:
    """How many series of a project wait for an operator, or to be tried again."""

    project: str
    count: int


@dataclass(frozen=True)
class Mine:
    """What a researcher is shown; ``more`` says that there are older ones of the last days."""

    scans: tuple[Scan, ...]
    waiting: tuple[Waiting, ...]
    more: bool


def mine(user: User) -> Mine:
    """What arrived of a person's projects in the last :data:`DAYS` days.

    A project's group counts if ingest made it or an administrator stands for it. Of the series, those are listed
    whose dataset MyTARDIS lets the person see; of others there is no more than their number.
    """
    groups = list(ProjectGroup.objects.filter(group__user=user).values_list("group__name", flat=True))
    own = Series.objects.filter(Q(project__in=groups) | Q(project="", configuration__owner=user))
    visible = own.filter(
        dataset_key__dataset__in=mytardis().visible_datasets(user),
        modified__gte=now() - timedelta(days=DAYS),
    )
    rows = list(visible.select_related("dataset_key").order_by("-modified", "-pk")[: MOST + 1])
    stuck = own.filter(state__in=(S.HELD, S.WAITING)).exclude(project="")
    counts = stuck.order_by("project").values_list("project").annotate(Count("pk"))
    return Mine(
        scans=tuple(
            Scan(
                id=series.pk,
                title=series.description or series.directory,
                modality=series.modality,
                project=series.project,
                state=series.state,
                words=_WORDS[S(series.state)],
                dataset_id=series.dataset_key.dataset_id,
                changed=series.modified,
            )
            for series in rows[:MOST]
        ),
        waiting=tuple(Waiting(project, count) for project, count in counts),
        more=len(rows) > MOST,
    )
