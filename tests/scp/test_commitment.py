"""Storage commitment on the connection: the request is handed on, and the report goes out on an association of its own."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE, evt

from tardis_imagetrove.errors import PermanentError, RetriableError
from tardis_imagetrove.scp import CommitmentReference
from tardis_imagetrove.scp.commitment import (
    NO_SUCH_OBJECT_INSTANCE,
    CommitmentReport,
    FailedReference,
    ReportNotDelivered,
    ReportTarget,
    send_report,
)

from .peer import MR

COMMITMENT, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"


def action_information(transaction="2.25.1", instances=("1.2.3", "1.2.4")) -> Dataset:
    dataset = Dataset()
    if transaction is not None:
        dataset.TransactionUID = transaction
    items = []
    for uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MR, uid
        items.append(item)
    dataset.ReferencedSOPSequence = Sequence(items)
    return dataset


def ask(port: int, information: Dataset, action: int = 1):
    ae = AE("MODALITY")
    ae.add_requested_context(COMMITMENT)
    association = ae.associate("127.0.0.1", port, ae_title="IMAGETROVE")
    try:
        return association.send_n_action(information, action, COMMITMENT, INSTANCE)[0]
    finally:
        association.release()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_request_is_handed_on_and_answered(receive, workers):
    requests = []
    receiver = receive(commitment=requests.append, workers=workers)
    assert ask(receiver.port, action_information()).Status == 0
    (request,) = requests
    assert request.transaction_uid == "2.25.1"
    assert request.references == (CommitmentReference(MR, "1.2.3"), CommitmentReference(MR, "1.2.4"))
    assert (request.caller.calling_ae, request.caller.address) == ("MODALITY", "127.0.0.1")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("error", "status"),
    [(RetriableError("away"), 0x0213), (PermanentError("never"), 0x0110), (KeyError("unforeseen"), 0x0213)],
)
def test_a_request_that_cannot_be_taken_on_is_not_acknowledged(receive, error, status, workers):
    def commitment(request):
        raise error

    answer = ask(receive(commitment=commitment, workers=workers).port, action_information())
    assert answer.Status == status


@pytest.mark.parametrize(
    ("information", "action", "status"),
    [
        (action_information(transaction=None), 1, 0x0212),
        (action_information(instances=()), 1, 0x0212),
        (action_information(instances=("../x",)), 1, 0x0212),
        (action_information(), 2, 0x0123),
    ],
)
def test_a_wrong_request_is_answered_so(receive, information, action, status):
    requests = []
    assert ask(receive(commitment=requests.append).port, information, action).Status == status
    assert requests == []


@pytest.fixture
def modality():
    """A peer that takes reports; yields its port, the reports it got, and the status it answers with."""
    got, answer = [], [0x0000]

    def handle(event):
        got.append((event.event_type, event.event_information))
        return answer[0], None

    ae = AE("MODALITY")
    ae.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, handle)])
    yield server.server_address[1], got, answer
    server.shutdown()


REPORT = CommitmentReport("2.25.1", (CommitmentReference(MR, "1.2.3"),))


def test_a_report_reaches_the_peer(modality):
    port, got, _answer = modality
    failed = FailedReference(CommitmentReference(MR, "1.2.4"))
    send_report(REPORT, ReportTarget("127.0.0.1", port, "MODALITY", "IMAGETROVE"))
    send_report(
        CommitmentReport("2.25.2", REPORT.committed, (failed,)),
        ReportTarget("127.0.0.1", port, "M", "IMAGETROVE"),
    )
    (first, success), (second, failures) = got
    assert (first, success.TransactionUID, success.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) == (
        1,
        "2.25.1",
        "1.2.3",
    )
    assert "FailedSOPSequence" not in success
    (item,) = failures.FailedSOPSequence
    assert (second, item.ReferencedSOPInstanceUID, item.FailureReason) == (
        2,
        "1.2.4",
        NO_SUCH_OBJECT_INSTANCE,
    )


def test_a_report_that_is_not_confirmed_is_to_be_tried_again(modality):
    port, _got, answer = modality
    answer[0] = 0x0110
    with pytest.raises(ReportNotDelivered, match="MODALITY at 127.0.0.1 port .* with 0x0110"):
        send_report(REPORT, ReportTarget("127.0.0.1", port, "MODALITY", "IMAGETROVE"))


def test_a_peer_that_is_away_is_to_be_tried_again(receive):
    receiver = receive()
    port = receiver.port
    receiver.stop(1)
    with pytest.raises(ReportNotDelivered, match="does not accept an association"):
        send_report(REPORT, ReportTarget("127.0.0.1", port, "MODALITY", "IMAGETROVE"))
