"""What a folder source is: where files appear, when they are complete, and what becomes of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from ..errors import PermanentError


class Kind(str, Enum):
    """What a source holds."""

    DICOM = "dicom"
    PARAVISION = "paravision"
    ANY = "folder"


class Afterwards(str, Enum):
    """What becomes of files that are archived and verified."""

    KEEP = "keep"
    MOVE = "move"
    DELETE = "delete"


class OutsideRoots(PermanentError):
    """A folder that the site's settings do not allow as a source; the text names it."""


@dataclass(frozen=True)
class Source:
    """A folder source.

    Attributes:
        key: names its state on disk; never changes.
        quiet_seconds: without any change in a whole unit, after which the unit is complete.
        marker: name of a file that completes a unit, in it or beside it; ``{name}`` is the unit's name. Empty: none.
        take, leave: patterns of paths below the root (``fnmatch``); empty ``take`` is everything.
        move_to: for :attr:`Afterwards.MOVE`.
        pattern: regular expression over a unit's path whose named groups are fields; for :attr:`Kind.ANY`.
    """

    key: str
    root: Path
    kind: Kind = Kind.DICOM
    quiet_seconds: float = 300
    marker: str = ""
    take: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()
    afterwards: Afterwards = Afterwards.KEEP
    move_to: Path | None = None
    pattern: str = ""

    def wants(self, path: str) -> bool:
        """Whether a path below the root is taken."""
        return (not self.take or _fits(path, self.take)) and not self.leaves(path)

    def leaves(self, path: str) -> bool:
        """Whether a path below the root is left out: by a pattern, or since it is where units are moved to."""
        return _fits(path, self.leave) or self._holds_moved(path)

    def _holds_moved(self, path: str) -> bool:
        return self._moved is not None and (path == self._moved or path.startswith(f"{self._moved}/"))

    @cached_property
    def _moved(self) -> str | None:
        """Where units are moved to, below the root; ``None`` if it is elsewhere."""
        if self.move_to is None:
            return None
        root, apart = Path(os.path.realpath(self.root)), Path(os.path.realpath(self.move_to))
        return apart.relative_to(root).as_posix() if root in apart.parents else None


def _fits(path: str, patterns: Iterable[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(
        fnmatchcase(path, pattern) or fnmatchcase(name, pattern) or fnmatchcase(path, f"{pattern}/*")
        for pattern in patterns
    )


def is_below(one: Path, other: Path) -> bool:
    """Whether one of two folders is the other, or lies in it."""
    here, there = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    return here == there or here in there.parents or there in here.parents


def check_root(folder: Path, roots: Iterable[Path | str]) -> Path:
    """The folder without links, if it is one of the allowed roots or below one.

    Raises:
        OutsideRoots: it is not.
    """
    real = Path(os.path.realpath(folder))
    allowed = [Path(os.path.realpath(root)) for root in roots]
    if not any(real == root or root in real.parents for root in allowed):
        raise OutsideRoots(
            f"{folder} is not below a folder of IMAGETROVE['FOLDER_ROOTS'] ({', '.join(map(str, allowed)) or 'empty'})"
        )
    return real
