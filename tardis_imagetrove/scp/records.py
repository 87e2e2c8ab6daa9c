"""The small records that associations, workers and their receiver hand to each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Caller:
    """Who asks for an association."""

    calling_ae: str
    called_ae: str
    address: str


@dataclass
class AssociationRecord:
    """What became of one connection; the log line of an association is made of it.

    Attributes:
        peer: address and port.
        duplicates: instances that were here already, byte for byte; ``stored`` does not count them.
        differing: instances kept beside other bytes under the same SOP Instance UID; ``stored`` counts them too.
        refused: C-STOREs that were answered with a failure.
        bytes: of the data sets that were acknowledged.
        ended: how, in words.
        rejected: why there was no association at all, as a short key for counting; empty if there was one.
    """

    peer: str
    calling_ae: str = ""
    called_ae: str = ""
    tls: bool = False
    established: bool = False
    stored: int = 0
    duplicates: int = 0
    differing: int = 0
    refused: int = 0
    bytes: int = 0
    seconds: float = 0.0
    ended: str = ""
    rejected: str = ""

    def line(self) -> str:
        """The record as one line."""
        if not self.established:
            return f"no association with {self.peer} calling={self.calling_ae!r} called={self.called_ae!r}: {self.ended}"
        return (
            f"association peer={self.peer} calling={self.calling_ae!r} called={self.called_ae!r}"
            f" tls={'yes' if self.tls else 'no'} stored={self.stored} duplicates={self.duplicates}"
            f" differing={self.differing} refused={self.refused} bytes={self.bytes}"
            f" seconds={self.seconds:.3f} ended={self.ended!r}"
        )


@dataclass
class Counters:
    """What was received since the start; the receiver sums those of its workers.

    Attributes:
        instances: acknowledged and new, those that differ from an earlier one included.
        bytes: of the acknowledged instances' data sets, duplicates included.
        refusals: C-STOREs refused, by reason.
        rejections: associations refused and connections dropped before one, by reason.
    """

    instances: int = 0
    duplicates: int = 0
    differing: int = 0
    bytes: int = 0
    echoes: int = 0
    associations: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    rejections: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counters) -> None:
        """Add another's counts to these."""
        for name in ("instances", "duplicates", "differing", "bytes", "echoes", "associations"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.refusals.update(other.refusals)
        self.rejections.update(other.rejections)


@dataclass(frozen=True)
class CommitmentReference:
    """An instance that a peer asks about (PS3.4 table J.3-1)."""

    sop_class: str
    sop_instance: str


@dataclass(frozen=True)
class CommitmentRequest:
    """A storage commitment request (PS3.4 section J.3.2), as received from a peer."""

    transaction_uid: str
    references: tuple[CommitmentReference, ...]
    caller: Caller
