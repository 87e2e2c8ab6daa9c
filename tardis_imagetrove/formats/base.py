"""The types of what arrives, whatever its format and whichever door it came by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Fields = Mapping[str, str]
"""Values as text by field name: DICOM keywords and tags, or ``format:NAME`` for what DICOM has no name for."""


DICOM = "dicom"
"""Name of the format that most of what arrives has."""


PARAVISION = "paravision"
"""Bruker ParaVision studies."""


FOREIGN = (PARAVISION, "path")
"""Prefixes of fields that DICOM has no name for: ``paravision:NAME``, and ``path:NAME`` of a folder source's pattern."""


@dataclass(frozen=True)
class Item:
    """One file that arrived and was read, or its de-identified copy.

    Attributes:
        path: where its bytes are: the file itself, or the ZIP file that holds it.
        uid: identifies it within its acquisition: a SOPInstanceUID, or a UID derived from its path.
        kind: what it is: a SOPClassUID, or empty.
        encoding: how its content is stored: a TransferSyntaxUID, or empty.
        size: bytes.
        sha256: of its bytes, in hexadecimal.
        member: its name in the ZIP file at ``path``; empty for a file of its own.
        name: its path below its study's folder; empty for DICOM, where the UID is the name.
    """

    path: Path
    uid: str
    kind: str
    encoding: str
    size: int
    sha256: str
    member: str = ""
    name: str = ""

    @property
    def identity(self) -> tuple[str, str]:
        return (self.uid, self.sha256)


@dataclass(frozen=True)
class Acquisition:
    """What belongs together and is archived as one: a DICOM series, or a study folder of another format.

    Attributes:
        kind: name of its format.
        items: the files that were read.
        fields: one mapping for each group of items that have the same values of the fields asked for; there may be
            a hundred thousand items, and few groups.
        unreadable: a sentence for each file that could not be read.
        read: the files in the spool that hold all of ``items``.
    """

    kind: str
    uid: str
    items: tuple[Item, ...]
    fields: tuple[Fields, ...]
    unreadable: tuple[str, ...]
    read: tuple[Path, ...]


class Format(Protocol):
    """How files of one format are read and named."""

    name: str
    """As the archive's manifest has it."""

    suffix: str
    """Of its files in the spool."""

    def read(self, uid: str, paths: Iterable[Path], names: Iterable[str]) -> Acquisition:
        """Read files from the spool as one acquisition.

        Args:
            names: the fields that are asked for.

        Raises:
            OSError: a file cannot be read now.
        """
        ...

    def member_name(self, item: Item) -> str:
        """An item's name in the archive, below the acquisition's own folder."""
        ...
