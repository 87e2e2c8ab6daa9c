"""Reports the outcome of a storage commitment to the peer that asked (PS3.4 section J.3.3), on an association of our own."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role

from ..errors import RetriableError
from .negotiation import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from .part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from .records import CommitmentReference

#: Failure reasons of PS3.4 table J.3-2 and PS3.3 section C.14.1.1 that an archive needs.
NO_SUCH_OBJECT_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
PROCESSING_FAILURE = 0x0110

_ALL_COMMITTED = 1
_FAILURES_EXIST = 2


class ReportNotDelivered(RetriableError):
    """The peer could not be told; the text says why. To be tried again later."""


@dataclass(frozen=True)
class FailedReference:
    """An instance that is not safely stored, and why (a failure reason of PS3.3 section C.14.1.1)."""

    reference: CommitmentReference
    reason: int = NO_SUCH_OBJECT_INSTANCE


@dataclass(frozen=True)
class CommitmentReport:
    """The outcome of one storage commitment request: each of its references stands in one of the two tuples."""

    transaction_uid: str
    committed: tuple[CommitmentReference, ...]
    failed: tuple[FailedReference, ...] = ()


@dataclass(frozen=True)
class ReportTarget:
    """Where the asking peer listens, and the AE titles of both."""

    host: str
    port: int
    ae_title: str
    our_ae_title: str


def _item(reference: CommitmentReference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class
    item.ReferencedSOPInstanceUID = reference.sop_instance
    return item


def event_information(report: CommitmentReport) -> Dataset:
    """The event information of the N-EVENT-REPORT (PS3.4 table J.3-2)."""
    dataset = Dataset()
    dataset.TransactionUID = report.transaction_uid
    if report.committed:
        dataset.ReferencedSOPSequence = Sequence([_item(one) for one in report.committed])
    if report.failed:
        items = []
        for failure in report.failed:
            item = _item(failure.reference)
            item.FailureReason = failure.reason
            items.append(item)
        dataset.FailedSOPSequence = Sequence(items)
    return dataset


def send_report(
    report: CommitmentReport, target: ReportTarget, tls: ssl.SSLContext | None = None, seconds: float = 30.0
) -> None:
    """Deliver a report; returns when the peer has confirmed it.

    Args:
        tls: a client context with our certificate, for a peer that listens with TLS.
        seconds: for connecting, for negotiating, and for the peer's answer, each.

    Raises:
        ReportNotDelivered: the peer is away, rejects us, or does not confirm.
    """
    ae = AE(target.our_ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = seconds
    ae.add_requested_context(STORAGE_COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association = ae.associate(
        target.host,
        target.port,
        ae_title=target.ae_title,
        ext_neg=[build_role(STORAGE_COMMITMENT, scp_role=True)],
        tls_args=(tls, target.host) if tls else None,
    )
    where = f"{target.ae_title} at {target.host} port {target.port}"
    if not association.is_established:
        how = "rejects our association" if association.is_rejected else "does not accept an association"
        raise ReportNotDelivered(f"{where} {how}; the report of {report.transaction_uid} waits")
    try:
        event = _FAILURES_EXIST if report.failed else _ALL_COMMITTED
        status, _reply = association.send_n_event_report(
            event_information(report), event, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
    except (ValueError, RuntimeError) as error:
        raise ReportNotDelivered(f"{where} does not accept storage commitment reports: {error}") from error
    finally:
        if association.is_established:
            association.release()
    answer = status.get("Status")
    if answer is None:
        raise ReportNotDelivered(f"{where} did not confirm the report of {report.transaction_uid}")
    if answer != 0:
        raise ReportNotDelivered(
            f"{where} answers the report of {report.transaction_uid} with 0x{answer:04X}"
        )
