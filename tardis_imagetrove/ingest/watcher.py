"""The watcher: sees which series are complete and which work has stalled, and has it queued.

It runs inside the receiving process, so nothing else need be scheduled. Several may run at
once, and it may be stopped at any time: all that it knows is in the spool and the database,
and whatever it queues twice is done once. It compares for change only and counts time with
the monotonic clock, so that a clock set back or forth neither hurries nor delays anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.db import DatabaseError, close_old_connections
from django.db.models import Count, Max, Q

from ..errors import ImageTroveError, RetriableError
from ..formats.dicom.fields import fields_of
from ..models import FilterRun, InstrumentConfiguration, PixelRule, ProjectGroup, Series
from ..reasons import Reason
from ..spool import Spool
from . import states
from .glance import glance
from .placement import match
from .series import rules

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Seconds; see the settings of the same names."""

    quiet: float
    stall: float
    retry: float
    retry_max: float


@dataclass
class _Seen:
    """What the watcher last saw of a series or a run, and since when."""

    what: object
    since: float
    times_queued: int = 0
    quiet: float = 0.0
    first: float = 0.0


class Watcher:
    """Queues what is due; see the module.

    Args:
        queue_series: called with a SeriesInstanceUID to be ingested.
        queue_run: called with the id of a filter run to be done.
            Both raise RetriableError when the broker is away.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        spool: Spool,
        timing: Timing,
        queue_series: Callable[[str], None],
        queue_run: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spool = spool
        self.timing = timing
        self._queue_series, self._queue_run = queue_series, queue_run
        self._clock = clock
        self._series: dict[str, _Seen] = {}
        self._runs: dict[int, _Seen] = {}
        self._configured: object = None
        self._broker_away = ""

    def run(self, stop: threading.Event, tick_seconds: float) -> None:
        """Look every ``tick_seconds`` until ``stop`` is set; no trouble ends it."""
        trouble = ""
        while not stop.wait(tick_seconds):
            close_old_connections()
            try:
                self.tick()
            except (ImageTroveError, DatabaseError) as error:
                # Said once, not at every tick of a night without a database.
                if str(error) != trouble:
                    trouble = str(error)
                    log.warning("watcher: %s; going on as soon as it can", trouble)
            except Exception:
                log.exception("watcher: unexpected; going on")
            else:
                if trouble:
                    log.warning("watcher: continuing")
                trouble = ""

    def tick(self) -> None:
        """Look once."""
        self._broker_away = ""
        reconfigured = self._reconfigured()
        self._look_at_spool(reconfigured)
        self._look_at_runs()

    def waiting(self) -> tuple[int, float]:
        """How many series have files in the spool, and seconds since the oldest was first seen."""
        seen = list(self._series.values())
        return len(seen), self._clock() - min((one.first for one in seen), default=self._clock())

    # Series

    def _reconfigured(self) -> bool:
        """Whether an administrator has changed what series are held by since the last look."""
        now = (
            InstrumentConfiguration.objects.aggregate(Count("pk"), Max("modified")),
            PixelRule.objects.aggregate(Count("approved"), Max("approved")),
            ProjectGroup.objects.aggregate(Max("pk")),
        )
        changed, self._configured = self._configured not in (None, now), now
        return changed

    def _look_at_spool(self, reconfigured: bool) -> None:
        waiting = {uid: token for uid in self.spool.series_uids() if (token := self.spool.token(uid))}
        for gone in self._series.keys() - waiting.keys():
            del self._series[gone]
        known = dict(
            Series.objects.filter(series_uid__in=waiting).values_list("series_uid", "state")
            if len(waiting) < 500
            else Series.objects.exclude(state=Series.State.DONE).values_list("series_uid", "state")
        )
        for uid, token in waiting.items():
            seen = self._series.get(uid)
            if seen is None or seen.what != token:
                self._series[uid] = _Seen(
                    token,
                    self._clock(),
                    quiet=seen.quiet if seen else self._quiet_seconds(uid),
                    first=seen.first if seen else self._clock(),
                )
                if seen is None and uid not in known:
                    states.received(uid)
            elif self._series_is_due(seen, known.get(uid), reconfigured):
                self._queue(uid, seen, known.get(uid))

    def _mark_queued(self, uid: str, state: str | None, again: bool) -> None:
        """Show that a series is queued, and why again if the watcher alone can know.

        While a worker is at it, the state is the worker's.
        """
        reason = None
        if again and state == Series.State.QUEUED:
            reason = Reason("no-worker", "no worker has picked it up; requeued")
        elif state == Series.State.INGESTING:
            with self.spool.lock(uid) as nobody_has_it:
                if not nobody_has_it:
                    return
            reason = Reason("worker-lost", "the worker died; requeued")
        states.queued(uid, seen=state, reason=reason)

    def _quiet_seconds(self, uid: str) -> float:
        """The quiet period of the instrument that the series seems to be of."""
        site_rules = rules()
        names = {name for rule in site_rules for name in rule.fields()}
        for path in self.spool.files(uid)[:1]:
            try:
                rule = match(fields_of(glance(path, names), names), site_rules)
            except Exception:  # whatever is in the file, the watcher continues with the site's quiet period
                break
            own = InstrumentConfiguration.objects.values_list("quiet_seconds", flat=True).get(pk=rule.id)
            return self.timing.quiet if own is None else own
        return self.timing.quiet

    def _series_is_due(self, seen: _Seen, state: str | None, reconfigured: bool) -> bool:
        if seen.times_queued == 0:
            return self._clock() - seen.since >= seen.quiet
        if state == Series.State.HELD:  # trying again changes nothing until something else does
            return reconfigured
        return self._clock() - seen.since >= self._backoff(seen.times_queued, state == Series.State.WAITING)

    def _backoff(self, times: int, said_why: bool) -> float:
        """Seconds to the next attempt: from the retry period where a reason is known, else from the stall."""
        first = self.timing.retry if said_why else self.timing.stall
        return min(first * 2 ** (times - 1), self.timing.retry_max)

    def _queue(self, uid: str, seen: _Seen, state: str | None) -> None:
        seen.times_queued += 1
        seen.since = self._clock()
        try:
            if not self._broker_away:
                self._mark_queued(uid, state, again=seen.times_queued > 1)
            self._hand_over(self._queue_series, uid)
        except RetriableError as error:
            states.wait(uid, Reason.of(error))

    def _hand_over(self, queue: Callable[..., None], what: str | int) -> None:
        """Queue, unless the broker was away at this look already: it may take seconds to be sure of that.

        Raises:
            RetriableError: the broker is away.
        """
        if self._broker_away:
            raise RetriableError(self._broker_away)
        try:
            queue(what)
        except RetriableError as error:
            self._broker_away = str(error)
            raise

    # Filter runs

    def _look_at_runs(self) -> None:
        unfinished = {
            pk: (state, attempts, beat, lost)
            for pk, state, attempts, beat, lost in FilterRun.objects.filter(
                state__in=FilterRun.UNFINISHED
            ).values_list("pk", "state", "attempts", "beat", "lost")
        }
        for gone in self._runs.keys() - unfinished.keys():
            del self._runs[gone]
        for pk, (state, attempts, beat, lost) in unfinished.items():
            seen = self._runs.get(pk)
            if seen is None or seen.what != (state, attempts, beat, lost):
                times = seen.times_queued if seen and state == FilterRun.State.QUEUED else 0
                self._runs[pk] = _Seen((state, attempts, beat, lost), self._clock(), times)
                continue
            if state == FilterRun.State.WAITING:
                due = self._backoff(attempts, said_why=True)
            elif state == FilterRun.State.QUEUED:
                due = self._backoff(seen.times_queued + 1, said_why=False)
            else:
                due = self._backoff(lost + 1, said_why=False)
            if self._clock() - seen.since < due:
                continue
            seen.times_queued += 1
            seen.since = self._clock()
            if state == FilterRun.State.WAITING:
                marked = states.requeue([pk], seen=Q(attempts=attempts, beat=beat))
            else:  # a worker may just have come back to life
                marked = states.take_back(pk, state, attempts, beat, lost) == FilterRun.State.QUEUED
            if marked:
                try:
                    self._hand_over(self._queue_run, pk)
                except RetriableError as error:
                    states.not_handed_over(pk, Reason.of(error))
