"""Moves or deletes a unit's files, once the ledger holds every byte of them and their archives are verified."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ..errors import PermanentError
from .importing import Unit, listing_of
from .journal import Journal, Taken
from .source import Afterwards, Source
from .tree import Listing

MissingFrom = Callable[[Iterable[Taken]], str]
"""Why files are not all in verified archives; empty if they are."""


def not_yet_clear(
    source: Source, unit: Unit, journal: Journal, listing: Listing, missing: MissingFrom
) -> str:
    """Why the files of a unit must stay as they are; empty when they are archived."""
    if listing.unreadable:
        return f"cannot be read completely: {listing.unreadable}"
    if changed := sum(not journal.has(file) for file in listing.files):
        return f"{changed} files are not imported yet, or have changed"
    paths = {file.path for file in listing.files}
    taken = [entry for entry in journal if entry.uid and entry.path in paths]
    if not taken:
        return "nothing of it was taken"
    return missing(taken)


def clear(source: Source, unit: Unit, journal: Journal, missing: MissingFrom) -> str:
    """Do with a unit what its source says, if it may be; returns what was done or why not.

    Raises:
        PermanentError: the files cannot be moved there.
        OSError: a file cannot be moved or deleted.
    """
    if source.afterwards is Afterwards.KEEP:
        return ""
    listing = listing_of(source, unit)
    if reason := not_yet_clear(source, unit, journal, listing, missing):
        return reason
    if source.afterwards is Afterwards.MOVE:
        return _move(source, unit, journal)
    return _delete(unit, journal, listing)


def _move(source: Source, unit: Unit, journal: Journal) -> str:
    if source.move_to is None or unit.name == ".":
        raise PermanentError(f"{unit.path} cannot be moved: no destination folder is set")
    is_folder = unit.path.is_dir()
    target = _claimed(source.move_to / unit.name, is_folder)
    try:
        unit.path.rename(target)  # at once and complete, or not at all
    except OSError as error:
        _give_up(target)
        if error.errno == errno.EXDEV:
            raise PermanentError(f"{source.move_to} is not on the file system of {source.root}") from error
        raise
    # What was written after the last look was moved along, and nobody would look for it there.
    moved = listing_of(replace(source, move_to=None), replace(unit, path=target))
    files = moved.files if is_folder else [replace(file, path=unit.path.name) for file in moved.files]
    if moved.unreadable or not all(map(journal.has, files)):
        # Under another name if the instrument has made the entry again meanwhile: it is then looked at as one of its own.
        back = _claimed(unit.path, is_folder)
        target.rename(back)
        return f"files were written while it was moved; it was put back as {back.name}"
    journal.remove()
    return f"moved to {target}"


def _claimed(wanted: Path, is_folder: bool) -> Path:
    """A place that nobody else takes meanwhile: an empty folder or file, which a rename replaces."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        target = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        try:
            if is_folder:
                target.mkdir()
            else:
                target.touch(exist_ok=False)
            return target
        except FileExistsError:
            number += 1


def _give_up(target: Path) -> None:
    with contextlib.suppress(OSError):
        if target.is_dir():
            target.rmdir()
        elif not target.stat().st_size:
            target.unlink()


def _delete(unit: Unit, journal: Journal, listing: Listing) -> str:
    deleted = kept = 0
    for file in listing.files:
        path = unit.path if unit.path.is_file() else unit.path / file.path
        about = path.lstat()
        unchanged = (about.st_size, about.st_mtime_ns) == (file.size, file.changed)
        if unchanged and not any(entry.reason for entry in journal.of(file.path)):
            path.unlink()
            deleted += 1
        else:
            kept += 1
    if unit.path.is_dir():
        _remove_empty(unit.path, keep_root=unit.name == ".")
    if not kept:
        journal.remove()
    return f"{deleted} files deleted" + (f", {kept} kept" if kept else "")


def _remove_empty(folder: Path, keep_root: bool) -> None:
    for root, _, _ in os.walk(folder, topdown=False):
        if keep_root and Path(root) == folder:
            continue
        with contextlib.suppress(OSError):  # not empty
            Path(root).rmdir()
