"""Lists the files below a folder: nothing is opened, no link is followed out, no other file system entered."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class File:
    """A regular file below a unit.

    Attributes:
        path: below the unit, with ``/``; bytes that are not UTF-8 are kept by ``surrogateescape``.
        size: bytes.
        changed: time of the last change in nanoseconds; compared with an earlier value only, never with a clock.
    """

    path: str
    size: int
    changed: int


@dataclass
class Listing:
    """What is below a unit.

    Attributes:
        files: by path.
        left_out: reason for each path that is not a file to be taken.
        unreadable: some of it could not be listed now, so that nothing is known of its completeness.
    """

    files: list[File] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    unreadable: str = ""

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    def signature(self) -> str:
        """Differs whenever a file came, went, grew or changed."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.path}\0{file.size}\0{file.changed}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def list_unit(unit: Path, wants: Callable[[str], bool] = lambda path: True) -> Listing:
    """The files below a folder, or the one file itself; trouble is in the answer.

    Args:
        wants: whether a path below the unit is taken.
    """
    listing = Listing()
    try:
        about = unit.lstat()
    except OSError as error:
        listing.unreadable = f"{unit.name}: {error.strerror}"
        return listing
    if stat.S_ISREG(about.st_mode):
        listing.files.append(File(unit.name, about.st_size, about.st_mtime_ns))
        return listing
    if not stat.S_ISDIR(about.st_mode):
        listing.left_out[unit.name] = "not a regular file"
        return listing
    for entry, path in _walk(unit, "", about.st_dev, listing):
        try:
            found: os.stat_result | None = entry.stat(follow_symlinks=False)
            if found is not None and stat.S_ISLNK(found.st_mode):
                found = _linked_file(Path(entry.path), unit)
        except OSError as error:
            listing.left_out[path] = f"cannot be read ({error.strerror})"
            continue
        if found is None:
            listing.left_out[path] = "a link to a folder, or to something outside"
        elif not stat.S_ISREG(found.st_mode):
            listing.left_out[path] = "not a regular file"
        elif wants(path):
            listing.files.append(File(path, found.st_size, found.st_mtime_ns))
    listing.files.sort(key=lambda file: file.path)
    return listing


def _linked_file(link: Path, unit: Path) -> os.stat_result | None:
    """What a link leads to, if it is a regular file within the unit."""
    target = Path(os.path.realpath(link))
    if Path(os.path.realpath(unit)) not in target.parents:
        return None
    found = target.stat()
    return found if stat.S_ISREG(found.st_mode) else None


def _walk(folder: Path, prefix: str, device: int, listing: Listing) -> Iterator[tuple[os.DirEntry[str], str]]:
    """All entries that are not folders, depth first; without recursion, since folders may be nested deeply."""
    waiting = [(folder, prefix)]
    while waiting:
        here, above = waiting.pop()
        try:
            with os.scandir(here) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            # Of a mount that goes away it must not seem that it is empty.
            listing.unreadable = f"{above or folder.name}: {error.strerror}"
            continue
        for entry in found:
            path = f"{above}{entry.name}"
            try:
                if not entry.is_dir(follow_symlinks=False):
                    yield entry, path
                elif entry.stat(follow_symlinks=False).st_dev != device:
                    listing.left_out[path] = "another file system"
                else:
                    waiting.append((Path(entry.path), f"{path}/"))
            except OSError as error:
                listing.unreadable = f"{path}: {error.strerror}"
