"""``manage.py imagetrove_status``: the status of the site, for operators and for monitoring."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from django.core.management.base import BaseCommand, CommandParser

from ...models import Series
from ...operations.status import ATTENTION, Status, iso_time, lines, look
from ...reasons import as_json


class Command(BaseCommand):
    help = (
        "Show the status of the site: problems first, then the spool, senders, counts, and why series wait or are "
        "held. Exit status 0 means that nothing needs a person; 1 means a problem: a series is held, a filter has "
        "failed, no receiver runs, no worker takes work from a queue, the spool is read-only or in its reserve, a "
        "clock is wrong, a setting is invalid, or the spool, the database or the broker cannot be reached. Series "
        "that wait are retried automatically and are no problem."
    )
    requires_system_checks = []  # it is for when something is wrong

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="for programs: one JSON object")
        parser.add_argument(
            "--state",
            action="append",
            choices=Series.State.values,
            help="list the series in this state (can be repeated; default: held and waiting)",
        )

    def handle(self, *, json: bool, state: list[str] | None, **options: object) -> None:
        status = look(state or ATTENTION)
        try:
            for line in [_as_json(status)] if json else lines(status):
                self.stdout.write(line)
            self.stdout.flush()
        except BrokenPipeError:  # the reader, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not status.well:
            raise SystemExit(1)


def _as_json(status: Status) -> str:
    spool = {
        **asdict(status.spool),
        "oldest_since": iso_time(status.spool.oldest_since) if status.spool.files else None,
    }
    found = {
        "well": status.well,
        "problems": as_json(status.problems),
        "settings_problems": list(status.settings_problems),
        "spool": spool,
        "admission": asdict(status.admission) if status.admission else None,
        "database_problem": status.database_problem,
        "broker_problem": status.broker_problem,
        "workers": status.workers,
        **(asdict(status.records) if status.records else {}),
    }
    return json.dumps(found, indent=2, ensure_ascii=False)
