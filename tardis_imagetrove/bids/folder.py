"""A BIDS dataset in a folder: only what changed is written, what went is removed, what others wrote is left alone."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from ..disk import sync_file, sync_folder
from ..errors import ImageTroveError, PermanentError
from .dataset import SOURCES, tsv
from .plan import File, Plan
from .scan import Source

Fetch = Callable[[Source, Path], object]
"""Copies a file of MyTARDIS to a path, checked against its checksum."""

_OWN = PurePosixPath(SOURCES).parent
_DESCRIPTION = "dataset_description.json"


class Change(Enum):
    """What was done with a file."""

    SAME = "unchanged"
    WRITTEN = "written"
    REMOVED = "removed"
    KEPT = "left as it is"
    FAILED = "not written"


@dataclass(frozen=True)
class Done:
    """What was done with one file, and why if it was not what the plan asks for."""

    change: Change
    name: str
    why: str = ""


def update(folder: Path, plan: Plan, fetch: Fetch, dry_run: bool = False) -> Iterator[Done]:
    """Bring a folder into agreement with a plan, file by file, each of which appears whole or not at all.

    A file that somebody has changed, or that this never wrote, stays as it is.

    Args:
        dry_run: change nothing; say what would be done.

    Raises:
        PermanentError: the folder holds another dataset, or another process writes it.
        OSError: the folder cannot be written.
    """
    _refuse_others(folder, plan)
    if dry_run:
        yield from _update(folder, plan, fetch, dry_run)
        return
    (folder / _OWN).mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        yield from _update(folder, plan, fetch, dry_run)


def _update(folder: Path, plan: Plan, fetch: Fetch, dry_run: bool) -> Iterator[Done]:
    recorded = _recorded(folder)
    planned = {row[0]: row for row in _rows(plan.files[-1].content)}
    rows = {}
    for file in plan.files[:-1]:
        row = planned.get(file.name)
        done = _settle(folder, file, row, recorded.get(file.name), fetch, dry_run)
        if done.change in (Change.SAME, Change.WRITTEN):
            if row:
                rows[file.name] = row
        elif file.name in recorded:
            rows[file.name] = recorded[file.name]
        yield done
    names = {file.name for file in plan.files}
    for name in sorted(recorded.keys() - names):
        if gone := _remove(folder, name, recorded[name], dry_run):
            yield gone
    if not dry_run:
        header = plan.files[-1].content.decode().splitlines()[0].split("\t")
        content = tsv(header, sorted(rows.values()))
        if not (folder / SOURCES).exists() or (folder / SOURCES).read_bytes() != content:
            _write(folder, File(SOURCES, content=content), fetch)


def _settle(
    folder: Path, file: File, row: list[str] | None, former: list[str] | None, fetch: Fetch, dry_run: bool
) -> Done:
    path = folder / file.name
    wanted = file.source.sha512 if file.source else hashlib.sha512(file.content).hexdigest()
    if path.is_symlink() or path.exists():
        if (
            former
            and former[2] == wanted
            and path.is_file()
            and path.stat().st_size == file.size
            and file.source
        ):
            return Done(Change.SAME, file.name)
        there = _sha512(path) if path.is_file() else ""
        if there == wanted:
            return Done(Change.SAME, file.name)
        ours = former is not None and there == former[2]
        if not ours and row is not None:
            why = "it was changed by hand" if former else "it was here before"
            return Done(Change.KEPT, file.name, f"{why}; remove it to have it created")
    if dry_run:
        return Done(Change.WRITTEN, file.name)
    try:
        _write(folder, file, fetch)
    except ImageTroveError as error:
        return Done(Change.FAILED, file.name, str(error))
    return Done(Change.WRITTEN, file.name)


def _write(folder: Path, file: File, fetch: Fetch) -> None:
    path, part = folder / file.name, folder / _OWN / ".part"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if file.source:
            fetch(file.source, part)
        else:
            part.write_bytes(file.content)
        sync_file(part)
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _remove(folder: Path, name: str, row: list[str], dry_run: bool) -> Done | None:
    path = folder / name
    if not path.is_file() or path.is_symlink():
        return None
    if _sha512(path) != row[2]:
        return Done(Change.KEPT, name, "it is in the dataset no more, but was changed by hand")
    if not dry_run:
        path.unlink()
        for parent in path.parents:
            if parent == folder:
                break
            with suppress(OSError):  # not empty
                parent.rmdir()
    return Done(Change.REMOVED, name)


def _refuse_others(folder: Path, plan: Plan) -> None:
    description = folder / _DESCRIPTION
    if not description.exists():
        return
    former = _recorded(folder).get(_DESCRIPTION)
    if former is None:
        raise PermanentError(
            f"{folder} contains a dataset that this command did not create; choose another folder"
        )
    names = [_title(content) for content in (description.read_bytes(), plan.files[0].content)]
    if names[0] != names[1]:
        raise PermanentError(
            f"{folder} contains the dataset {names[0]!r}, not {names[1]!r}; choose another folder"
        )


def _title(content: bytes) -> str:
    try:
        return str(json.loads(content)["Name"])
    except (ValueError, KeyError, TypeError):
        return "?"


def _recorded(folder: Path) -> dict[str, list[str]]:
    """What was written the last time, by name; names that would leave the folder are not ours."""
    try:
        content = (folder / SOURCES).read_bytes()
    except FileNotFoundError:
        return {}
    found = {}
    for row in _rows(content):
        path = PurePosixPath(row[0])
        if len(row) > 2 and path.parts and not path.is_absolute() and ".." not in path.parts:
            found[row[0]] = row
    return found


def _rows(content: bytes) -> list[list[str]]:
    return [line.split("\t") for line in content.decode("utf-8", "replace").split("\n")[1:] if line]


def _sha512(path: Path) -> str:
    digest = hashlib.sha512()
    with path.open("rb") as file:
        while block := file.read(1024 * 1024):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / _OWN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PermanentError(f"another process writes {folder}") from None
        yield
    finally:
        os.close(descriptor)
