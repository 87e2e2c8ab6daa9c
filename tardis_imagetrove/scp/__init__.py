"""The DICOM network: receives instances from scanners and puts them into the spool; knows no Django."""

from .admission import Sender, SenderList, is_promiscuous, is_receiving, promiscuous_mark, receiving_mark
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
    "Sender",
    "SenderList",
    "TLSFiles",
    "Timeouts",
    "is_promiscuous",
    "is_receiving",
    "promiscuous_mark",
    "receiving_mark",
    "running_receiver",
]
