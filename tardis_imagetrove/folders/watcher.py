"""Watches folder sources: looks, waits until a unit is complete, takes it, clears it when it is archived."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageTroveError
from ..spool import Spool, SpoolError
from .clearing import MissingFrom, clear
from .importing import Imported, Unit, has_marker, import_unit, listing_of, units
from .journal import Journal
from .source import Afterwards, Source
from .stability import StabilityTracker

log = logging.getLogger(__name__)

#: Seconds between two looks at a source at least; network mounts give no events, so there is polling.
LEAST_SECONDS = 10
#: A look takes this part of the time at most: a large tree on a slow mount is looked at less often.
PART_OF_TIME = 0.1


@dataclass(frozen=True)
class UnitStatus:
    """How a unit stands, for whoever shows it.

    Attributes:
        state: ``growing``, ``taken``, ``cleared``, ``trouble``, ``well`` when trouble is over, or ``looked`` when a
            whole source was looked at.
        text: why, or what was done.
    """

    source: str
    unit: str
    state: str
    text: str = ""
    imported: Imported | None = None


Report = Callable[[UnitStatus], None]


def journal_path(spool: Spool, source: Source, unit: Unit) -> Path:
    """Where the journal of a unit is kept: beside the spool's series."""
    name = hashlib.sha256(f"{source.root}\0{unit.name}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return spool.root / "folders" / source.key / f"{name}.jsonl"


class FolderWatcher:
    """Looks at all sources again and again; it may be stopped at any time, and several may run at once.

    Args:
        sources: the enabled sources, read anew at each look.
        announce: called with a source's key and the UID of a series or study before its first file is spooled.
        missing: how many of some files are not in a verified archive.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        spool: Spool,
        sources: Callable[[], Iterable[Source]],
        announce: Callable[[str, str], None],
        missing: MissingFrom,
        report: Report = lambda status: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spool = spool
        self._sources, self._announce, self._missing, self._report = sources, announce, missing, report
        self._clock = clock
        self._trackers: dict[str, StabilityTracker] = {}
        self._due: dict[str, float] = {}
        self._done: dict[tuple[str, str], str] = {}
        self._trouble: dict[tuple[str, str], str] = {}

    def run(self, stop: threading.Event, tick_seconds: float = 2.0) -> None:
        """Look until ``stop`` is set; no trouble ends it."""
        while not stop.wait(tick_seconds):
            try:
                self.tick(stop)
            except ImageTroveError as error:
                self._say("", str(error))
            except Exception:
                log.exception("folder watcher: unexpected error; continuing")

    def hurry(self) -> None:
        """Look at each source at the next tick."""
        self._due.clear()

    def tick(self, stop: threading.Event | None = None) -> None:
        """Look at each source that is due."""
        for source in self._sources():
            if stop is not None and stop.is_set():
                return
            if self._clock() < self._due.get(source.key, 0.0):
                continue
            began = self._clock()
            try:
                self._look(source, stop)
            except (ImageTroveError, OSError) as error:
                self._say(source.key, str(error))
            except Exception as error:
                self._say_unexpected(source.key, error)
            else:
                self._say(source.key, "")
                self._report(UnitStatus(source.key, "", "looked"))
            took = self._clock() - began
            wait = max(min(LEAST_SECONDS, source.quiet_seconds / 3), took / PART_OF_TIME)
            self._due[source.key] = self._clock() + wait

    def _say(self, key: str, words: str, unit: str = "") -> None:
        """Log trouble once, not at every look of a night without a mount."""
        if words != self._trouble.get((key, unit), ""):
            where = f"{key or '-'}: {unit}" if unit else key or "-"
            log.warning("folder source %s: %s", where, words or "works again")
            self._report(UnitStatus(key, unit, "trouble" if words else "well", words))
        self._trouble[key, unit] = words

    def _say_unexpected(self, key: str, error: Exception, unit: str = "") -> None:
        """Say a mistake of ours, which stops nothing that is next to it; with its place, once."""
        words = f"unexpected error: {type(error).__name__}: {error}"
        if words != self._trouble.get((key, unit), ""):
            log.error("folder source %s: %s", key, unit or "-", exc_info=error)
        self._say(key, words, unit)

    def _look(self, source: Source, stop: threading.Event | None) -> None:
        tracker = self._trackers.setdefault(source.key, StabilityTracker(self._clock))
        seen = set()
        for unit in units(source):
            if stop is not None and stop.is_set():
                return
            seen.add(unit.name)
            try:
                self._look_at_unit(source, unit, tracker)
            except SpoolError:
                raise  # no other unit can be taken either
            except (ImageTroveError, OSError) as error:
                self._say(source.key, str(error), unit.name)
            except Exception as error:
                self._say_unexpected(source.key, error, unit.name)
            else:
                self._say(source.key, "", unit.name)
        tracker.forget_others(seen)
        for key, name in list(self._trouble):
            if key == source.key and name and name not in seen:  # its trouble went with it
                self._say(key, "", name)
                del self._trouble[key, name]

    def _look_at_unit(self, source: Source, unit: Unit, tracker: StabilityTracker) -> None:
        listing = listing_of(source, unit)
        signature = listing.signature()
        # A marker says that nothing more is written; that it is so is seen at the next look.
        quiet = min(source.quiet_seconds, LEAST_SECONDS) if source.marker else source.quiet_seconds
        complete = tracker.see(unit.name, (signature, listing.unreadable), quiet) and has_marker(source, unit)
        if not complete or listing.unreadable:
            self._report(UnitStatus(source.key, unit.name, "growing", listing.unreadable))
            return
        key = source.key, unit.name
        journal = None
        if self._done.get(key) != signature:
            journal = Journal(journal_path(self.spool, source, unit))
            imported = import_unit(
                source,
                unit,
                self.spool,
                journal,
                announce=lambda uid: self._announce(source.key, uid),
                listing=listing,
            )
            self._report(
                UnitStatus(
                    source.key,
                    unit.name,
                    "growing" if imported.unstable else "taken",
                    imported.unstable,
                    imported,
                )
            )
            if imported.unstable:
                return
            self._done[key] = signature
            if imported.taken:
                log.info(
                    "folder source %s: %s taken: files=%d series=%d left_out=%d",
                    source.key,
                    unit.name,
                    len(imported.taken),
                    len(imported.uids),
                    len(imported.left_out),
                )
        if source.afterwards is not Afterwards.KEEP:
            journal = journal or Journal(journal_path(self.spool, source, unit))
            done = clear(source, unit, journal, self._missing)
            if not unit.path.exists() or "deleted" in done:
                log.info("folder source %s: %s: %s", source.key, unit.name, done)
                self._report(UnitStatus(source.key, unit.name, "cleared", done))
