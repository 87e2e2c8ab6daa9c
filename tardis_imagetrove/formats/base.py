"""The types of what arrives, whatever its format and whichever door it came by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Fields = Mapping[str, str]
"""Values as text by field name: DICOM keywords and tags, or ``format:NAME`` for what DICOM has no name for."""


@dataclass(frozen=True)
class Item:
    """One file that arrived and was read, or its de-identified copy.

    Attributes:
        uid: identifies it within its acquisition: a SOPInstanceUID, or a path below the study's folder.
        kind: what it is: a SOPClassUID, or empty.
        encoding: how its content is stored: a TransferSyntaxUID, or empty.
        size: bytes.
        sha256: of its bytes, in hexadecimal.
    """

    path: Path
    uid: str
    kind: str
    encoding: str
    size: int
    sha256: str

    @property
    def identity(self) -> tuple[str, str]:
        return (self.uid, self.sha256)


@dataclass(frozen=True)
class Acquisition:
    """What belongs together and is archived as one: a DICOM series, or a study folder of another format.

    Attributes:
        fields: one mapping for each group of items that have the same values of the fields asked for.
        unreadable: a sentence for each file that could not be read.
    """

    uid: str
    study_uid: str
    items: tuple[Item, ...]
    fields: tuple[Fields, ...]
    unreadable: tuple[str, ...] = ()


class Format(Protocol):
    """How files of one format are read and named."""

    def read(self, uid: str, paths: Iterable[Path], names: Iterable[str]) -> Acquisition:
        """Read files as one acquisition.

        Args:
            names: the fields that are asked for.

        Raises:
            OSError: a file cannot be read now.
        """
        ...

    def member_name(self, item: Item) -> str:
        """An item's name in the archive, below the acquisition's own folder."""
        ...
