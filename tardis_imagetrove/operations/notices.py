"""Notices: events and problems are found, kept for each subscriber, and sent, once each.

It works on the database alone, beside everything else: a mail server that hangs delays neither receiving nor ingest.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.sites.models import Site
from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import F, Q
from django.utils import timezone

from ..errors import PermanentError, RetriableError
from ..models import AuditFinding, Event, InstrumentConfiguration, Notice, OpenProblem, Series, Subscription
from ..reasons import Reason
from . import delivery, status

log = logging.getLogger(__name__)

K, N = Subscription.Kind, Notice.Stage

#: Seconds between two looks for events, and between two for problems of the site.
LOOK_SECONDS = 10.0
PROBLEM_SECONDS = 60.0
#: Events are looked at again for so long: what was written first may become visible last.
_LAG = timedelta(minutes=10)
#: A failure is tried again after a minute, then after twice as long each time, up to this; and given up after so many.
_LONGEST = timedelta(hours=6)
MOST_ATTEMPTS = 20
#: Notices in one message.
MOST_TOGETHER = 100
#: Notices that were sent are kept so long.
_KEPT = timedelta(days=90)

#: The event of each kind.
_EVENTS: Mapping[str, tuple[str, ...]] = {
    K.HELD: ("held",),
    K.FAILED: ("run-failed",),
    K.READY: ("done", "partial"),
}


@dataclass(frozen=True)
class Looked:
    """What a round has done."""

    new: int = 0
    sent: int = 0
    failed: int = 0


def one_round(problems: bool = True) -> Looked:
    """Find what is new, and send what is due.

    Args:
        problems: also look for problems of the site and for silence, which takes seconds.

    Raises:
        DatabaseError: the database is away.
    """
    new = find_events()
    if problems:
        new += find_silence() + find_problems()
    sent, failed = send_due()
    return Looked(new, sent, failed)


# Finding


def find_events(now: datetime | None = None) -> int:
    """Keep a notice for each event that somebody wants to be told; returns how many are new."""
    now = now or timezone.now()
    return sum(
        _keep(_of_events(one, now), one, since=now) for one in Subscription.objects.filter(enabled=True)
    )


def _of_events(subscription: Subscription, now: datetime) -> Iterator[Notice]:
    kinds = {
        event: kind for kind, events in _EVENTS.items() if kind in subscription.kinds for event in events
    }
    if not kinds:
        return
    # What was before somebody subscribed is not told.
    since = max(subscription.since - _LAG, subscription.created)
    found = Event.objects.filter(_about(subscription, "series__"), kind__in=kinds, at__gt=since, at__lte=now)
    for event in found.select_related("series__configuration").order_by("pk"):
        text = _event_text(event, subscription)
        yield _notice(subscription, kinds[event.kind], _event_key(event), text, event.series)


def _event_key(event: Event) -> str:
    """The same for events that tell nothing new: held again for the same reason, converted again."""
    if event.kind == "held":
        return f"held:{event.series_id}:{hashlib.sha256(repr(event.reasons).encode()).hexdigest()[:40]}"
    if event.kind in _EVENTS[K.READY]:
        newest = event.series.archives.order_by("-version").first()
        return f"ready:{event.series_id}:{newest.version if newest else 0}"
    return f"event:{event.pk}"


def _about(subscription: Subscription, path: str = "") -> Q:
    wanted = Q()
    if subscription.configuration_id:
        wanted &= Q(**{f"{path}configuration": subscription.configuration_id})
    if subscription.project:
        wanted &= Q(**{f"{path}project": subscription.project})
    return wanted


def _event_text(event: Event, subscription: Subscription) -> str:
    """What happened; without details nothing that a scanner or a person has typed."""
    series = event.series
    instrument = series.configuration.name if series.configuration else "no instrument"
    if event.kind == "run-failed":
        text = f"The conversion {event.subject} of a series of {instrument} failed"
    elif event.kind == "held":
        text = f"A series of {instrument} is held"
    else:
        newest = series.archives.order_by("-version").first()
        count = newest.instance_count if newest else 0
        text = f"A scan of {instrument} is archived: {count} image{'s' if count != 1 else ''}"
        if event.kind == "partial":
            text += "; not all conversions are complete"
    codes = ", ".join(dict.fromkeys(str(reason.get("code", "")) for reason in event.reasons))
    if event.kind == "held" and codes:
        text += f" ({codes})"
    if subscription.with_details:
        details = [("Series", str(series)), ("Project", series.project), ("Reason", event.reason)]
        text += "".join(f"\n{name}: {value}" for name, value in details if value)
    return text


def find_silence(now: datetime | None = None) -> int:
    """Keep a notice for each instrument of which nothing has come for too long."""
    now, new = now or timezone.now(), 0
    for subscription in Subscription.objects.filter(enabled=True):
        if K.SILENCE not in subscription.kinds:
            continue
        instruments = InstrumentConfiguration.objects.filter(enabled=True)
        if subscription.configuration_id:
            instruments = instruments.filter(pk=subscription.configuration_id)
        made = []
        for instrument in instruments:
            last = Series.objects.filter(configuration=instrument).order_by("-created").first()
            # One from which nothing came yet is not silent, it is new.
            if last is None or now - last.created < timedelta(hours=subscription.silence_hours):
                continue
            text = f"{instrument.name} has sent nothing since {_time(last.created)}"
            made.append(_notice(subscription, K.SILENCE, f"silence:{instrument.pk}:{last.pk}", text))
        new += _keep(made, subscription)
    return new


def find_problems(look: Callable[[], Iterable[Reason]] | None = None) -> int:
    """Keep a notice for each problem of the site that has begun since the last look; held series have their own."""
    wanted = [one for one in Subscription.objects.filter(enabled=True) if K.PROBLEM in one.kinds]
    if not wanted:
        return 0
    reasons = status.look(counting=False).problems if look is None else look()
    found: dict[str, list[str]] = {}
    for reason in reasons:
        if reason.code not in ("held", "filter-failed", "audit"):  # each of them has a notice of its own
            found.setdefault(reason.code, []).append(reason.text)
    OpenProblem.objects.exclude(code__in=found).delete()
    for code in found:
        OpenProblem.objects.get_or_create(code=code)
    new = 0
    for problem in OpenProblem.objects.filter(code__in=found):
        key = f"problem:{problem.code}:{problem.pk}"
        for one in wanted:
            texts = found[problem.code]
            if problem.code in _NAMING and not one.with_details:
                texts = [_NAMING[problem.code]]
            text = "; ".join(f"{words[:1].upper()}{words[1:]}" for words in texts)
            new += _keep([_notice(one, K.PROBLEM, key, f"Problem: {text}")], one)
    return new


#: Problems whose words may hold names of folders, and so of people; and what is told instead.
_NAMING = {"folder-source": "a folder source has a problem; see its page in admin or the status"}


def tell_audit() -> int:
    """Keep a notice of an audit's new findings; each finding is told once, and again if it comes back."""
    rows = list(AuditFinding.objects.filter(gone=None, noticed=False).order_by("pk"))
    if not rows:
        return 0
    identity = [(row.pk, row.first_seen.isoformat()) for row in rows]
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:40]
    codes = Counter(row.code for row in rows)
    count = len(rows)
    text = f"The audit has {count} new finding{'s' if count != 1 else ''}: " + ", ".join(
        f"{number} × {code}" for code, number in sorted(codes.items())
    )
    new = 0
    for one in Subscription.objects.filter(enabled=True):
        if K.AUDIT in one.kinds:
            details = (
                "".join(f"\n{row.code}: {row.subject}: {row.text}" for row in rows[:50])
                if one.with_details
                else ""
            )
            new += _keep([_notice(one, K.AUDIT, f"audit:{digest}", text + details)], one)
    AuditFinding.objects.filter(pk__in=[row.pk for row in rows]).update(noticed=True)
    return new


def _notice(
    subscription: Subscription, kind: str, key: str, text: str, series: Series | None = None
) -> Notice:
    due = timezone.now() + timedelta(minutes=subscription.digest_minutes)
    return Notice(subscription=subscription, kind=kind, key=key, text=text, series=series, due=due)


def _keep(notices: Iterable[Notice], subscription: Subscription, since: datetime | None = None) -> int:
    """Write down the notices that are not there yet; returns how many."""
    made = list({notice.key: notice for notice in notices}.values())
    with transaction.atomic():
        there = set(
            subscription.notices.filter(key__in=[one.key for one in made]).values_list("key", flat=True)
        )
        new = [one for one in made if one.key not in there]
        # Another process may have been quicker: the key is unique.
        Notice.objects.bulk_create(new, ignore_conflicts=True)
        if since is not None:
            Subscription.objects.filter(pk=subscription.pk, since__lt=since).update(since=since)
    return len(new)


# Sending


def send_due(now: datetime | None = None) -> tuple[int, int]:
    """Send what is due, one message to each subscriber; returns how many notices were sent, and how many not.

    A notice is marked before it is sent, so a process that dies in between leaves one that is perhaps lost, and
    never one that comes twice.
    """
    now, sent, failed = now or timezone.now(), 0, 0
    Notice.objects.filter(stage__in=(N.SENT, N.GIVEN_UP), created__lt=now - _KEPT).delete()
    address = site_address()
    for subscription in Subscription.objects.filter(enabled=True, notices__stage=N.WAITING).distinct():
        if is_quiet(subscription, now):
            continue
        waiting = subscription.notices.filter(stage=N.WAITING)
        if not waiting.filter(due__lte=now).exists():
            continue
        # All that waits goes along: that is what a digest is.
        mine = list(_claim(waiting.filter(attempts=0) | waiting.filter(due__lte=now)))
        if not mine:
            continue
        try:
            delivery.send(subscription, mine, address)
        except (RetriableError, PermanentError) as error:
            failed += len(mine)
            _put_off(mine, str(error), now, for_good=isinstance(error, PermanentError))
            log.warning("subscription %s: %s", subscription.pk, error)
        else:
            sent += len(mine)
            _mark(mine, stage=N.SENT, problem="")
    return sent, failed


def _claim(notices) -> Iterator[Notice]:  # noqa: ANN001 (a queryset)
    """Take notices, so that no other process sends them."""
    ids = list(notices.order_by("pk").values_list("pk", flat=True)[:MOST_TOGETHER])
    token = uuid.uuid4().hex
    Notice.objects.filter(pk__in=ids, stage=N.WAITING).update(
        stage=N.SENDING, claim=token, attempts=F("attempts") + 1
    )
    taken = Notice.objects.filter(claim=token).select_related("series__dataset_key").order_by("pk")
    return iter(taken)


def _put_off(notices: Iterable[Notice], problem: str, now: datetime, for_good: bool) -> None:
    for notice in notices:
        if for_good or notice.attempts >= MOST_ATTEMPTS:
            _mark([notice], stage=N.GIVEN_UP, problem=problem[:500])
        else:
            pause = min(timedelta(minutes=2 ** min(notice.attempts - 1, 20)), _LONGEST)
            _mark([notice], stage=N.WAITING, problem=problem[:500], due=now + pause)


def _mark(notices: Iterable[Notice], **changes: object) -> None:
    Notice.objects.filter(pk__in=[one.pk for one in notices], stage=N.SENDING).update(**changes)


def is_quiet(subscription: Subscription, now: datetime) -> bool:
    """Whether it is the subscriber's quiet time, by the site's clock."""
    start, end = subscription.quiet_from, subscription.quiet_to
    if start is None or end is None:
        return False
    clock = timezone.localtime(now).time()
    return start <= clock < end if start <= end else clock >= start or clock < end


def site_address() -> str:
    """The site's address for links, by Django's sites; MyTARDIS has one."""
    return f"https://{Site.objects.get_current().domain}"


def _time(moment: datetime) -> str:
    return f"{timezone.localtime(moment):%Y-%m-%d %H:%M}"


class NoticeSource:
    """Looks for what is new and sends what is due, on a thread of the receiving service."""

    name = "notices"

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; no trouble ends it."""
        since_problems = PROBLEM_SECONDS
        while not stop.wait(LOOK_SECONDS):
            since_problems += LOOK_SECONDS
            try:
                close_old_connections()
                one_round(problems=since_problems > PROBLEM_SECONDS)
                if since_problems > PROBLEM_SECONDS:
                    since_problems = 0.0
            except DatabaseError as error:
                log.warning("notices wait: the database cannot be asked: %s", str(error).partition("\n")[0])
            except Exception:  # what is wrong with one round must not end the others
                log.exception("notices: unexpected; going on")
            finally:
                close_old_connections()
