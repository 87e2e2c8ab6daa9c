"""``manage.py imagetrove_status``: how the site stands, for operators and for monitoring."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timedelta, timezone

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError

from ...conf import settings
from ...models import FilterRun, Series
from ...operations.status import (
    ATTENTION,
    AdmissionStatus,
    Records,
    SpoolStatus,
    look_at_admission,
    look_at_records,
    look_at_spool,
)
from ...tasks import broker_problem, listeners, open_spool, unheard


class Command(BaseCommand):
    help = (
        "How the received series stand: counts, what waits or is held and why, filters that failed, the spool. "
        "Ends with status 0 if all is well, with 1 if a series is held, a filter has failed, no worker takes work "
        "from a queue, a setting is of the wrong kind, or the spool, the database or the broker cannot be asked. "
        "What waits goes on by itself and is no failure."
    )
    requires_system_checks = []  # it is for when something is wrong

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="for programs: one JSON object")
        parser.add_argument(
            "--state",
            action="append",
            choices=Series.State.values,
            help="list the series in this state (may be given again; default: held and waiting)",
        )

    def handle(self, *, json: bool, state: list[str] | None, **options: object) -> None:
        admission = None
        try:
            spool = look_at_spool(open_spool())
            admission = look_at_admission(open_spool())
        except ImproperlyConfigured as error:
            spool = SpoolStatus(folder="", problem=str(error))
        records, problem = None, ""
        try:
            records = look_at_records(state or ATTENTION)
        except DatabaseError as error:
            problem = str(error).strip() or type(error).__name__
        wrong = list(settings.problems().values())
        unreachable = broker_problem()
        try:
            heard = None if unreachable else listeners()
            silent = unheard(heard) if heard else []
        except ImproperlyConfigured:  # a queue's name, told with the settings
            heard, silent = None, []
        well = bool(
            records
            and not records.series[Series.State.HELD]
            and not records.failed
            and not spool.problem
            and not silent
            and not wrong
            and not unreachable
        )
        if json:
            self._write_json(spool, admission, records, problem, unreachable, well, heard, wrong)
        else:
            for words in wrong:
                if words != spool.problem:
                    self.stdout.write(f"Settings: {words}")
            self._write_text(spool, admission, records, problem)
            if unreachable:
                self.stdout.write(f"Broker: cannot be reached: {unreachable}")
            self._write_workers(heard, silent)
        if not well:
            raise SystemExit(1)

    def _write_workers(self, heard: dict[str, list[str]] | None, silent: list[str]) -> None:
        for queue, workers in (heard or {}).items():
            if workers:
                self.stdout.write(f"Queue {queue}: {', '.join(workers)}")
        for words in silent:
            self.stdout.write(f"Workers: {words}")

    def _write_json(
        self,
        spool: SpoolStatus,
        admission: AdmissionStatus | None,
        records: Records | None,
        problem: str,
        unreachable: str,
        well: bool,
        heard: dict[str, list[str]] | None,
        wrong: list[str],
    ) -> None:
        said = {
            "well": well,
            "settings_problems": wrong,
            "spool": {
                **asdict(spool),
                "oldest_since": _time(spool.oldest_since).isoformat() if spool.files else None,
            },
            "admission": asdict(admission) if admission else None,
            "database_problem": problem,
            "broker_problem": unreachable,
            "workers": heard,
            **(asdict(records) if records else {}),
        }
        self.stdout.write(json.dumps(said, indent=2, ensure_ascii=False))

    def _write_text(
        self,
        spool: SpoolStatus,
        admission: AdmissionStatus | None,
        records: Records | None,
        problem: str,
    ) -> None:
        write = self.stdout.write
        if spool.problem:
            write(f"Spool: {spool.problem}")
        else:
            write(
                f"Spool {spool.folder}: {spool.files} files of {spool.series} series, {_size(spool.bytes)};"
                f" room for {_size(spool.free_bytes)}"
            )
        if spool.files:
            age = datetime.now(timezone.utc) - _time(spool.oldest_since)
            write(f"  waiting longest: {spool.oldest_series}, for {_duration(age)}")
        if admission is not None:
            self._write_admission(admission)
        if records is None:
            write(f"Database: cannot be asked: {problem}")
            return
        write(f"Series: {_counts(records.series, Series.State)}")
        write(f"Filter runs: {_counts(records.filter_runs, FilterRun.State)}")
        for one in records.listed:
            write(f"{one.state} {one.series_uid} {one.description}\n    {one.reason or '(no reason)'}")
        for run in records.failed:
            write(f"failed {run.series_uid} {run.description}\n    {run.filter}: {run.reason}")

    def _write_admission(self, admission: AdmissionStatus) -> None:
        write = self.stdout.write
        if admission.promiscuous:
            write("Senders: EVERYBODY may store: a receiver runs with --promiscuous")
        if admission.senders is not None:
            write(f"Senders: {admission.senders or 'none'} configured")
        if admission.without_senders:
            write(f"  instruments without a sender: {', '.join(admission.without_senders)}")
        if admission.commitments_waiting:
            write(f"Storage commitment: {admission.commitments_waiting} requests wait to be reported")


def _counts(by_state: dict[str, int], states: type[Series.State] | type[FilterRun.State]) -> str:
    said = [f"{by_state[state]} {state}" for state in states.values if by_state[state]]
    return ", ".join(said) or "none"


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _duration(time: timedelta) -> str:
    minutes = max(0, int(time.total_seconds() // 60))
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _size(count: int) -> str:
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
