"""The DICOM network: receives instances from scanners and puts them into the spool; knows no Django."""

from .config import ReceiverConfig, ReceiverConfigError, Timeouts, TLSFiles
from .receiver import Receiver, ReceiverError, running_receiver
from .records import AssociationRecord, Caller, CommitmentReference, CommitmentRequest, Counters

__all__ = [
    "AssociationRecord",
    "Caller",
    "CommitmentReference",
    "CommitmentRequest",
    "Counters",
    "Receiver",
    "ReceiverConfig",
    "ReceiverConfigError",
    "ReceiverError",
    "TLSFiles",
    "Timeouts",
    "running_receiver",
]
