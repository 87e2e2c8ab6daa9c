"""What was taken of a unit: one line a file, appended when the file is safe in the spool.

A killed process loses at most what it was about to write; then a file is read once more, and the spool and the
ledger find that they have it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..spool import disk_errors
from .tree import File


@dataclass(frozen=True)
class Taken:
    """What became of a file, as it was when it was read.

    Attributes:
        uid, item, sha256: series (or study), its own UID and checksum, as the ledger will have them; empty when
            ``reason`` says why it was not taken.
        part: path within an archive (ZIP, TAR); empty for the file itself.
    """

    path: str
    size: int
    changed: int
    uid: str = ""
    item: str = ""
    sha256: str = ""
    part: str = ""
    reason: str = ""

    def is_of(self, file: File) -> bool:
        """Whether the file is still as it was."""
        return (self.path, self.size, self.changed) == (file.path, file.size, file.changed)


class Journal:
    """The journal of one unit, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # By path and part: a unit may have a hundred thousand files, and each is asked for.
        self._entries: dict[str, dict[str, Taken]] = {}
        with disk_errors("cannot read", path):
            if path.exists():
                for line in path.read_text(encoding="utf-8").splitlines():
                    try:
                        entry = Taken(**json.loads(line))
                    except (ValueError, TypeError):  # cut off by a crash
                        continue
                    self._keep(entry)

    def __iter__(self) -> Iterator[Taken]:
        return (entry for parts in self._entries.values() for entry in parts.values())

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def has(self, file: File) -> bool:
        """Whether the file, as it is now, was taken or refused already, with all its parts."""
        entry = self._entries.get(file.path, {}).get("")
        return entry is not None and entry.is_of(file)

    def of(self, path: str) -> list[Taken]:
        """What became of a file and its parts."""
        return list(self._entries.get(path, {}).values())

    def add(self, *entries: Taken) -> None:
        """Write entries; they survive this process from here on."""
        with disk_errors("cannot write", self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torn = self.path.exists() and self.path.stat().st_size and not _ends_a_line(self.path)
            with self.path.open("a", encoding="utf-8") as file:
                if torn:
                    file.write("\n")
                file.writelines(json.dumps(asdict(entry)) + "\n" for entry in entries)
        for entry in entries:
            self._keep(entry)

    def _keep(self, entry: Taken) -> None:
        self._entries.setdefault(entry.path, {})[entry.part] = entry

    def remove(self) -> None:
        """Forget the unit."""
        with disk_errors("cannot remove", self.path):
            self.path.unlink(missing_ok=True)
        self._entries = {}


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
