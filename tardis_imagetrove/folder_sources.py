"""Folder sources as they are configured, on a thread of the receiving service; and what the ledger says of their files."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, close_old_connections
from django.utils import timezone

from .conf import settings
from .errors import RetriableError
from .folders.journal import Journal, Taken
from .folders.source import Source
from .folders.watcher import FolderWatcher, UnitStatus
from .ingest import states
from .models import FolderSource, Instance, Series, folder_problems
from .mytardis import mytardis
from .spool import Spool

log = logging.getLogger(__name__)

#: Skipped files and are listed for a person.
MOST_LEFT_OUT = 200


class Unassignable(RetriableError):
    """The database is away: whose a series is could not be written down before it is spooled."""


def enabled_sources() -> list[Source]:
    """The enabled sources that the settings allow; what is wrong with the others is written down.

    Raises:
        DatabaseError: the database is away.
    """
    found = []
    for one in FolderSource.objects.filter(enabled=True):
        try:
            source = one.source()
            problems = folder_problems(source)
        except (re.error, ValueError) as error:  # changed by hand
            problems = {"pattern": str(error)}
        if problems:
            _note(one.pk, "; ".join(problems.values()))
        else:
            found.append(source)
    return found


def _note(pk: int, problem: str) -> None:
    FolderSource.objects.filter(pk=pk).update(problem=problem[:500], looked=timezone.now())


def pk_of(key: str) -> int:
    """The row of a source."""
    return int(key.rpartition("-")[2])


def assign(key: str, uid: str) -> None:
    """Write down whose a series is before its first file is in the spool.

    Raises:
        Unassignable: the database is away; nothing may be spooled yet.
    """
    try:
        source = FolderSource.objects.filter(pk=pk_of(key)).first()
        if source is not None and source.configuration_id:
            assign_to(uid, {"instrument": source.configuration_id})
    except DatabaseError as error:
        raise Unassignable(f"the database cannot be used: {str(error).partition(chr(10))[0]}") from error


def assign_to(uid: str, assigned: dict[str, object]) -> None:
    """Say whose a series is, unless it has its place, or a person has said so."""
    series = states.received(uid)
    Series.objects.filter(pk=series.pk, dataset_key=None, assigned={}).update(assigned=assigned)


def missing_from_archives(taken: Iterable[Taken]) -> str:
    """Why files are not all in verified archives, byte for byte; empty if they are.

    Raises:
        DatabaseError: the database is away.
    """
    wanted: dict[str, set[tuple[str, str]]] = {}
    for entry in taken:
        wanted.setdefault(entry.uid, set()).add((entry.item, entry.sha256))
    count = 0
    for uid, files in wanted.items():
        series = Series.objects.filter(series_uid=uid).first()
        newest = series and series.archives.order_by("-version").first()
        if newest is None:
            count += len(files)
            continue
        stored = [newest.datafile_id]
        if series.is_deidentified:  # its archive holds copies; what was received is in the original's
            original = series.originals.order_by("-version").first()
            if original is None or original.archive_id != newest.pk:
                return f"series {uid} is shown de-identified, and not all of its originals are kept"
            stored.append(original.datafile_id)
        if not all(map(mytardis().is_kept, stored)):
            return f"the archive of series {uid} is not verified"
        rows = Instance.objects.filter(series=series).values_list("sop_instance_uid", "sha256")
        count += len(files - set(rows))
    return f"{count} files are not archived yet" if count else ""


def left_out(source: FolderSource, spool: Spool) -> Iterator[tuple[str, str]]:
    """Paths of a source that were not taken, each with the reason.

    Raises:
        SpoolError: a journal cannot be read.
    """
    for path in sorted((spool.root / "folders" / f"source-{source.pk}").glob("*.jsonl")):
        for entry in Journal(path):
            if entry.reason:
                yield (f"{entry.path}: {entry.part}" if entry.part else entry.path), entry.reason


class FolderDoor:
    """Watches the folder sources; no trouble of one stops another, or the receiver."""

    name = "folders"

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._watcher = FolderWatcher(spool, self._sources, assign, self._missing, self._report)
        self._problems: dict[tuple[str, str], str] = {}

    def run(self, stop: threading.Event) -> None:
        """Look until ``stop`` is set."""
        self._watcher.run(stop)

    def look(self, stop: threading.Event | None = None) -> None:
        """Look once at what is due."""
        self._watcher.tick(stop)

    def look_again(self, stop: threading.Event | None = None) -> None:
        """Look once more, whether it is due or not."""
        self._watcher.hurry()
        self._watcher.tick(stop)

    def _sources(self) -> list[Source]:
        close_old_connections()
        try:
            return enabled_sources() if settings.FOLDER_ROOTS or FolderSource.objects.exists() else []
        except (DatabaseError, ImproperlyConfigured) as error:
            raise RetriableError(f"the sources cannot be read: {str(error).partition(chr(10))[0]}") from error
        finally:
            close_old_connections()

    @staticmethod
    def _missing(taken: Iterable[Taken]) -> str:
        try:
            return missing_from_archives(taken)
        except DatabaseError as error:
            return f"the database cannot be used: {str(error).partition(chr(10))[0]}"
        except RetriableError as error:  # a storage box cannot be asked
            return str(error)

    def _report(self, status: UnitStatus) -> None:
        """Keep what a person should see with the source."""
        if not status.source:
            return
        where = f"{status.unit}: " if status.unit else ""
        if status.state == "trouble":
            self._problems[status.source, status.unit] = f"{where}{status.text}"
        elif status.state == "well":
            self._problems.pop((status.source, status.unit), None)
        elif status.state != "looked":
            return
        told = [words for (source, _), words in self._problems.items() if source == status.source]
        try:
            _note(pk_of(status.source), "; ".join(told))
        except DatabaseError as error:
            log.warning("folder source %s: its state cannot be recorded: %s", status.source, error)
