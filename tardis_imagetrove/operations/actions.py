"""What operators do with series: each action is checked, executed once, and written down as one event.

Admin, board, API and commands all call these; :data:`ACTIONS` has them by name.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from django.db.models import Q

from ..conf import settings
from ..errors import PermanentError, RetriableError
from ..ingest import states
from ..ingest.placement import project_number
from ..models import FilterRun, InstrumentConfiguration, Series
from ..reasons import Reason
from ..spool import Spool
from ..tasks import ingest_now, queue_again, run_again

S = Series.State

#: Seconds that an action waits for a worker that is at the series.
_LOCK_SECONDS = 5.0


class NotPossible(PermanentError):
    """An action cannot be done with a series; the text says why."""


@dataclass(frozen=True)
class Input:
    """What a person gives to an action beside the reason.

    Attributes:
        name: in forms, the API and as the option of the command.
        choices: value and words of each; None for text.
    """

    name: str
    label: str
    help: str = ""
    choices: Callable[[], list[tuple[str, str]]] | None = None


class Action(ABC):
    """Something that a person does with a series."""

    name: str
    """In addresses and commands."""

    label: str
    """On a button."""

    states: frozenset[str]
    """The states of series that it can be done with."""

    wants_why: bool = False
    """Whether a person has to say why."""

    inputs: tuple[Input, ...] = ()
    """What else a person gives."""

    def read(self, given: Mapping[str, str]) -> dict[str, object]:
        """What a person gave, as :meth:`do` takes it.

        Args:
            given: text by the name of each input.

        Raises:
            NotPossible: something is missing or wrong.
        """
        del given
        return {}

    def check(self, series: Series, spool: Spool) -> str:
        """Why it cannot be done; empty if it can."""
        if series.state not in self.states:
            return f"{self.label}: not possible in state {series.get_state_display()!r}"
        return self.problem(series, spool)

    def problem(self, series: Series, spool: Spool) -> str:  # noqa: ARG002
        """What else stands against it."""
        return ""

    def execute(
        self, series: Series, spool: Spool, by: str, why: str = "", given: Mapping[str, str] | None = None
    ) -> str:
        """Do it.

        Args:
            by: who does it.
            why: in that person's words, for the event.
            given: text by the name of each input.

        Returns:
            What was done, in words.

        Raises:
            NotPossible: it cannot be done.
            RetriableError: the broker, the disk or a worker stands against it now.
        """
        series.refresh_from_db()
        if problem := self.check(series, spool):
            raise NotPossible(problem)
        if self.wants_why and not why.strip():
            raise NotPossible(f"{self.label.lower()}: a reason is required")
        return self.do(series, spool, by, why.strip(), **self.read(given or {}))

    @abstractmethod
    def do(self, series: Series, spool: Spool, by: str, why: str, **read: Any) -> str:
        """Do what was checked; returns what was done."""


class IngestNow(Action):
    """Archive a series without waiting, or try again what is held."""

    name = "ingest"
    label = "Archive now, or retry"
    states = frozenset({S.RECEIVING, S.WAITING, S.HELD, S.QUEUED})

    def do(self, series: Series, spool: Spool, by: str, why: str) -> str:  # noqa: ARG002
        ingest_now(series.series_uid, by, str(spool.root))
        return "queued"


class Retry(Action):
    """Try everything of a series again that failed or waits: its ingest, and its filters."""

    name = "retry"
    label = "Retry what failed"
    states = frozenset({S.PARTIAL})

    def do(self, series: Series, spool: Spool, by: str, why: str) -> str:  # noqa: ARG002
        if spool.files(series.series_uid):
            filters = queue_again(series, by)
            return f"queued, with {', '.join(filters)}" if filters else "queued"
        failed = FilterRun.objects.filter(
            archive=series.archives.order_by("-version").first(),
            state__in=(FilterRun.State.FAILED, FilterRun.State.WAITING),
        )
        marked = run_again(list(failed.values_list("pk", flat=True)), by)
        return f"{len(marked)} filter run{'s' if len(marked) != 1 else ''} queued"

    def problem(self, series: Series, spool: Spool) -> str:
        newest = series.archives.order_by("-version").first()
        unfinished = FilterRun.objects.filter(
            archive=newest, state__in=(FilterRun.State.FAILED, FilterRun.State.WAITING)
        )
        if unfinished.exists() or spool.files(series.series_uid):
            return ""
        return "no filter failed; to convert the series again, choose 'Run filters again'"


class RunFilters(Action):
    """Run all filters of the newest archive again."""

    name = "convert"
    label = "Run filters again"
    states = frozenset({S.DONE, S.PARTIAL})

    def do(self, series: Series, spool: Spool, by: str, why: str) -> str:  # noqa: ARG002
        newest = series.archives.order_by("-version").first()
        marked = run_again(list(FilterRun.objects.filter(archive=newest).values_list("pk", flat=True)), by)
        return f"{len(marked)} filter run{'s' if len(marked) != 1 else ''} queued"


class Discard(Action):
    """Move what waits in the spool to the trash; what is archived stays."""

    name = "discard"
    label = "Discard"
    states = frozenset({S.RECEIVING, S.QUEUED, S.WAITING, S.HELD, S.PARTIAL, S.DONE})
    wants_why = True

    def problem(self, series: Series, spool: Spool) -> str:
        # A row whose folder was removed by hand can be got rid of as well.
        if series.state in (S.PARTIAL, S.DONE) and not spool.files(series.series_uid):
            return "it has no files in the spool; delete archived files in MyTARDIS"
        return ""

    def do(self, series: Series, spool: Spool, by: str, why: str) -> str:
        with _locked(series, spool):
            moved = spool.move_to_trash(series.series_uid)
            count = moved.files if moved else 0
            text = f"{count} file{'s' if count != 1 else ''} moved to the trash: {why}"
            if not states.discarded(series, Reason("discarded", text), by=by):
                raise RetriableError("its state has changed meanwhile; reload the page")
        until = datetime.fromtimestamp(time.time() + settings.TRASH_DAYS * 86400, timezone.utc)
        return f"{count} file{'s' if count != 1 else ''} moved to the trash, kept until {until:%Y-%m-%d}"


class Restore(Action):
    """Move what the trash has of a series back into the spool; it is archived as if it had just arrived."""

    name = "restore"
    label = "Restore from the trash"
    states = frozenset(S.values) - {S.INGESTING}

    def problem(self, series: Series, spool: Spool) -> str:
        return "" if spool.trash(series.series_uid) else "it has no files in the trash"

    def do(self, series: Series, spool: Spool, by: str, why: str) -> str:
        with _locked(series, spool):
            count = spool.restore(series.series_uid)
            text = f"{count} file{'s' if count != 1 else ''} moved back from the trash"
            states.restored(series, Reason("restored", f"{text}: {why}" if why else text), by=by)
        return text


BY_THE_RULES = "rules"
"""In place of an instrument: the rules decide again."""

#: Characters of a project's number that a person may type; the group's name has room for 100.
_PROJECT_LENGTH = 64


def _instruments() -> list[tuple[str, str]]:
    enabled = InstrumentConfiguration.objects.filter(enabled=True).order_by("name")
    return [
        *((str(pk), name) for pk, name in enabled.values_list("pk", "name")),
        (BY_THE_RULES, "by the rules again"),
    ]


class Assign(Action):
    """Say which instrument and project a series is of, where the rules cannot; late instances follow it."""

    name = "assign"
    label = "Assign by hand"
    states = frozenset({S.RECEIVING, S.WAITING, S.HELD})
    wants_why = True
    inputs = (
        Input(
            "instrument",
            "Instrument",
            "name or number, or 'rules' to let the rules decide again",
            _instruments,
        ),
        Input("project", "Project's number", "empty: only the owner sees it"),
    )

    def read(self, given: Mapping[str, str]) -> dict[str, object]:
        instrument, project = given.get("instrument", "").strip(), given.get("project", "").strip()
        if instrument == BY_THE_RULES:
            if project:
                raise NotPossible("project: requires an instrument; leave it empty if the rules decide")
            return {"configuration": None, "project": ""}
        named = Q(name=instrument) | (Q(pk=int(instrument)) if _is_number(instrument) else Q())
        configuration = (
            InstrumentConfiguration.objects.filter(named, enabled=True).first() if instrument else None
        )
        if configuration is None:
            raise NotPossible(
                f"instrument: {instrument!r} is not an enabled instrument"
                if instrument
                else "instrument: name one"
            )
        if len(project) > _PROJECT_LENGTH or not project.isprintable():
            raise NotPossible(f"project: a number or name of at most {_PROJECT_LENGTH} characters")
        if project and configuration.project_pattern:
            try:
                found = project_number(project, configuration.project_pattern)
            except PermanentError:
                found = ""
            if found != project:
                raise NotPossible(
                    f"project: {project!r} is not a project of {configuration.name}: its numbers match {configuration.project_pattern}"
                )
        return {"configuration": configuration, "project": project}

    def problem(self, series: Series, spool: Spool) -> str:  # noqa: ARG002
        return "it is already placed" if series.dataset_key_id else ""

    def do(
        self,
        series: Series,
        spool: Spool,
        by: str,
        why: str,
        configuration: InstrumentConfiguration | None = None,
        project: str = "",
    ) -> str:
        with _locked(series, spool):
            assigned = {"instrument": configuration.pk, "project": project} if configuration else {}
            Series.objects.filter(pk=series.pk, dataset_key=None).update(assigned=assigned)
            if configuration is None:
                text = "to be placed by the rules"
            else:
                text = f"to {configuration.name}, " + (f"project {project}" if project else "of no project")
            states.acted(series, "assigned", Reason("assigned", f"{text}: {why}"), by=by)
        if series.state == S.RECEIVING:  # more of it may come
            return f"assigned {text}"
        ingest_now(series.series_uid, by, str(spool.root))
        return f"assigned {text}, and queued"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


@contextmanager
def _locked(series: Series, spool: Spool) -> Iterator[None]:
    """Hold the series' lock in the spool, which ingest holds while it works.

    Raises:
        RetriableError: a worker is at it.
    """
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        with spool.lock(series.series_uid) as mine:
            if mine:
                yield
                return
        if time.monotonic() > until:
            raise RetriableError("a worker is processing it; try again in a minute")
        time.sleep(0.1)


ACTIONS: dict[str, Action] = {
    action.name: action for action in (IngestNow(), Retry(), Assign(), RunFilters(), Discard(), Restore())
}


@dataclass(frozen=True)
class Outcome:
    """What became of an action with one series; ``problem`` says why it was not done."""

    series: Series
    done: str = ""
    problem: str = ""


def possible(series: Series, spool: Spool) -> list[Action]:
    """The actions that can be done with a series."""
    return [action for action in ACTIONS.values() if not action.check(series, spool)]


def do_all(
    action: Action,
    series: Iterable[Series],
    spool: Spool,
    by: str,
    why: str = "",
    given: Mapping[str, str] | None = None,
) -> Iterator[Outcome]:
    """Do an action with each series; one that it cannot be done with stops none of the others.

    Without the broker it ends: nothing else would be queued either.
    """
    for one in series:
        try:
            yield Outcome(one, done=action.execute(one, spool, by, why, given))
        except NotPossible as error:
            yield Outcome(one, problem=str(error))
        except RetriableError as error:
            yield Outcome(one, problem=str(error))
            if "broker" in str(error):
                return
