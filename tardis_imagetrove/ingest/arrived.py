"""What ingest knows of a file that it has read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Arrived:
    """A DICOM file that was read: one from the spool, or a de-identified copy of it.

    Attributes:
        size: bytes.
        sha256: of its bytes, in hexadecimal.
    """

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    sha256: str

    @property
    def identity(self) -> tuple[str, str]:
        return (self.sop_instance_uid, self.sha256)
