"""What operators do with series: each action is checked, executed once, and written down as one event.

Admin, board, API and commands all call these; :data:`ACTIONS` has them by name.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone

from ..conf import settings
from ..errors import PermanentError, RetriableError
from ..ingest import states
from ..models import FilterRun, Series
from ..reasons import Reason
from ..spool import Spool
from ..tasks import ingest_now, queue_again, run_again

S = Series.State

#: Seconds that an action waits for a worker that is at the series.
_LOCK_SECONDS = 5.0


class NotPossible(PermanentError):
    """An action cannot be done with a series; the text says why."""


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

    def check(self, series: Series, spool: Spool) -> str:
        """Why it cannot be done; empty if it can."""
        if series.state not in self.states:
            return f"a series that is {series.get_state_display().lower()!r} cannot be: {self.label.lower()}"
        return self.problem(series, spool)

    def problem(self, series: Series, spool: Spool) -> str:  # noqa: ARG002
        """What else stands against it."""
        return ""

    def execute(self, series: Series, spool: Spool, by: str, why: str = "") -> str:
        """Do it.

        Args:
            by: who does it.
            why: in that person's words, for the event.

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
            raise NotPossible(f"say why: {self.label.lower()} needs a reason")
        return self.do(series, spool, by, why.strip())

    @abstractmethod
    def do(self, series: Series, spool: Spool, by: str, why: str) -> str:
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
        return "no filter of it failed: to convert it again, choose 'Run filters again'"


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
            return "nothing of it waits in the spool; what is archived is deleted in MyTARDIS"
        return ""

    def do(self, series: Series, spool: Spool, by: str, why: str) -> str:
        with _locked(series, spool):
            moved = spool.move_to_trash(series.series_uid)
            count = moved.files if moved else 0
            text = f"{count} file{'s' if count != 1 else ''} moved to the trash: {why}"
            if not states.discarded(series, Reason("discarded", text), by=by):
                raise RetriableError("its state has changed meanwhile; look at it again")
        until = datetime.fromtimestamp(time.time() + settings.TRASH_DAYS * 86400, timezone.utc)
        return f"{count} file{'s' if count != 1 else ''} moved to the trash, kept until {until:%Y-%m-%d}"


class Restore(Action):
    """Move what the trash has of a series back into the spool; it is archived as if it had just arrived."""

    name = "restore"
    label = "Restore from the trash"
    states = frozenset(S.values) - {S.INGESTING}

    def problem(self, series: Series, spool: Spool) -> str:
        return "" if spool.trash(series.series_uid) else "the trash has nothing of it"

    def do(self, series: Series, spool: Spool, by: str, why: str) -> str:
        with _locked(series, spool):
            count = spool.restore(series.series_uid)
            text = f"{count} file{'s' if count != 1 else ''} moved back from the trash"
            states.restored(series, Reason("restored", f"{text}: {why}" if why else text), by=by)
        return text


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
            raise RetriableError("a worker is at it now; try again in a minute")
        time.sleep(0.1)


ACTIONS: dict[str, Action] = {
    action.name: action for action in (IngestNow(), Retry(), RunFilters(), Discard(), Restore())
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
    action: Action, series: Iterable[Series], spool: Spool, by: str, why: str = ""
) -> Iterator[Outcome]:
    """Do an action with each series; one that it cannot be done with stops none of the others.

    Without the broker it ends: nothing else would be queued either.
    """
    for one in series:
        try:
            yield Outcome(one, done=action.execute(one, spool, by, why))
        except NotPossible as error:
            yield Outcome(one, problem=str(error))
        except RetriableError as error:
            yield Outcome(one, problem=str(error))
            if "broker" in str(error):
                return
