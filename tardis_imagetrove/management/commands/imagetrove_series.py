"""``manage.py imagetrove_series``: do something with series, or tell their story."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from ...errors import ImageTroveError
from ...models import Event, Series
from ...operations.actions import ACTIONS, do_all
from ...tasks import open_spool

LOG = "log"
_INPUTS = {one.name: one for action in ACTIONS.values() for one in action.inputs}


def _who() -> str:
    """The name of the user of this process; its number in a container that has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


class Command(BaseCommand):
    help = (
        "Do something with series, as on the board: "
        + "; ".join(f"{action.name} ({action.label.lower()})" for action in ACTIONS.values())
        + f"; or {LOG} (what happened to them)."
    )
    requires_system_checks = ("imagetrove",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=[LOG, *ACTIONS])
        parser.add_argument("series_uid", nargs="*", help="SeriesInstanceUID")
        parser.add_argument("--state", choices=Series.State.values, help="all series in this state")
        parser.add_argument("--reason", help="with --state: only those with this reason's code")
        parser.add_argument("--why", default="", help="kept with the series; assign and discard need it")
        for one in _INPUTS.values():
            parser.add_argument(f"--{one.name}", default="", help=f"for assign: {one.help}")
        parser.add_argument("--dry-run", action="store_true", help="list the series, without changing them")

    def handle(
        self,
        *,
        action: str,
        series_uid: list[str],
        state: str | None,
        reason: str | None,
        why: str,
        dry_run: bool,
        **options: object,
    ) -> None:
        if bool(series_uid) == bool(state) or (reason and not state):
            raise CommandError("Name series, or give --state, with or without --reason.")
        try:
            found = Series.objects.order_by("modified", "pk")
            if state:
                found = found.filter(state=state, **({"reason_code": reason} if reason else {}))
            else:
                found = found.filter(series_uid__in=series_uid)
            series = list(found)
            if absent := sorted(set(series_uid) - {one.series_uid for one in series}):
                raise CommandError(f"no such series: {', '.join(absent)}")
            if action == LOG:
                self._tell(series)
            elif dry_run:
                for one in series:
                    problem = ACTIONS[action].check(one, open_spool())
                    self.stdout.write(f"{one.series_uid}: {problem or 'would be done'}")
            else:
                given = {name: options[name] for name in _INPUTS}
                ACTIONS[action].read(given)
                self._act(action, series, why, given)
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error
        except (ImageTroveError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error

    def _act(self, name: str, series: Sequence[Series], why: str, given: Mapping[str, str]) -> None:
        by = f"{_who()} (imagetrove_series)"
        failed = 0
        for outcome in do_all(ACTIONS[name], series, open_spool(), by, why, given):
            failed += bool(outcome.problem)
            words = f"not done: {outcome.problem}" if outcome.problem else outcome.done
            self.stdout.write(f"{outcome.series.series_uid}: {words}")
        if failed:
            raise CommandError(f"not done with {failed} of {len(series)} series")

    def _tell(self, series: Sequence[Series]) -> None:
        for one in series:
            self.stdout.write(f"{one.series_uid} {one}: {one.get_state_display()}")
            for event in Event.objects.filter(series=one).order_by("pk"):
                by = f" by {event.by}" if event.by else ""
                subject = f" {event.subject}" if event.subject else ""
                why = f": {event.reason}" if event.reason else ""
                self.stdout.write(f"  {event.at:%Y-%m-%d %H:%M:%S %Z} {event.kind}{subject}{by}{why}")
