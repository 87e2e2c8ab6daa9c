"""Peers that are let in and mean harm: each is cut off or slowed down, and the others are served.

How much a good sender loses beside them is measured by ``benchmarks/hostile.py``.
"""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tardis_imagetrove.scp import head
from tardis_imagetrove.scp.action import MAX_ACTION_BYTES, Budget, read_commitment
from tardis_imagetrove.scp.association import MAX_COMMAND_FRAGMENTS, MAX_EMPTY_FRAGMENTS
from tardis_imagetrove.scp.pace import AssociationPace, CpuPace
from tardis_imagetrove.scp.pdu import MalformedPDU, decode_associate_rq
from tardis_imagetrove.scp.records import Caller

from .peer import MR, Ended, RawPeer, associate_rq, echo_command, mr_dataset, p_data, store_command

ABORTED = (7, bytes(4))
CALLER = Caller("MR1", "IMAGETROVE", "10.0.0.1")


# Messages without progress


@pytest.mark.parametrize(
    "sent",
    [
        p_data(1, 1, b""),
        b"".join(p_data(1, 1, b"\0") for _ in range(MAX_COMMAND_FRAGMENTS + 1)),
        p_data(1, 3, store_command(MR, "1.2.3")) + p_data(1, 0, b"") * (MAX_EMPTY_FRAGMENTS + 1),
        p_data(1, 1, bytes(9000)),
    ],
    ids=["empty command fragment", "many command fragments", "empty data fragments", "long command"],
)
def test_a_message_without_progress_is_aborted(receive, stored, sent):
    receiver = receive()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        peer.socket.sendall(sent)
        assert peer.ended() == ABORTED
    assert stored() == []


def test_empty_fragments_of_honest_senders_are_taken(receive, stored):
    """Some toolkits end a data set with an empty fragment."""
    data = mr_dataset("1.2.3")
    with RawPeer(receive().port) as peer:
        peer.associate()
        peer.socket.sendall(
            p_data(1, 3, store_command(MR, "1.2.3"))
            + p_data(1, 0, data)
            + p_data(1, 0, b"") * MAX_EMPTY_FRAGMENTS
            + p_data(1, 2, b"")
        )
        assert peer.response().status == 0
        peer.socket.sendall(
            p_data(1, 1, echo_command()[:20]) + p_data(1, 1, echo_command()[20:]) + p_data(1, 3, b"")
        )
        assert peer.response().status == 0
    assert len(stored()) == 1


# Negotiation


def user_items(request: bytes, items: bytes) -> bytes:
    """The request with more user items at its end, where the user information stands."""
    at = request.rindex(struct.pack(">BxHI", 0x51, 4, 16384)) - 4
    length = struct.unpack_from(">H", request, at + 2)[0]
    body = request[6 : at + 2] + struct.pack(">H", length + len(items)) + request[at + 4 :] + items
    return struct.pack(">BxI", 1, len(body)) + body


def role(sop_class: str) -> bytes:
    uid = sop_class.encode()
    return struct.pack(">BxHH", 0x54, len(uid) + 4, len(uid)) + uid + b"\1\1"


def test_role_selections_are_answered_once_a_class(receive):
    request = user_items(associate_rq([(MR, (ExplicitVRLittleEndian,))]), role(MR) * 1000)
    with RawPeer(receive().port) as peer:
        peer.socket.sendall(request)
        kind, body = peer.read_pdu()
        assert (kind, body.count(MR.encode())) == (2, 1)


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (
            user_items(associate_rq([(MR, ("1.2",))]), struct.pack(">BxH", 0x54, 0) * 2100),
            "user information: too many items",
        ),
        (
            associate_rq([(MR, ("1.2",))]) + struct.pack(">BxH", 0x99, 0) * 300,
            "A-ASSOCIATE-RQ: too many items",
        ),
        (
            associate_rq([(MR, ("1.2",))])
            + struct.pack(">BxH4B", 0x20, 4 + 4 * 600, 3, 0, 0, 0)
            + struct.pack(">BxH", 0x40, 0) * 600,
            "presentation context: too many items",
        ),
        (
            associate_rq([(MR, ("1.2",))])
            + struct.pack(">BxH4B", 0x20, 60_008, 3, 0, 0, 0)
            + struct.pack(">BxH", 0x40, 60_000)
            + b"1" * 60_000,
            "a transfer syntax has 60000 bytes",
        ),
    ],
    ids=["roles", "items", "syntaxes", "long syntax"],
)
def test_a_request_that_is_longer_than_any_honest_one_is_malformed(request_bytes, reason):
    with pytest.raises(MalformedPDU, match=reason):
        decode_associate_rq(request_bytes[6:])


# Places


@pytest.mark.parametrize("workers", [1, 2])
def test_one_address_cannot_take_all_associations(receive, workers):
    receiver = receive(workers=workers, max_associations=6, max_associations_per_address=4)
    flood = [RawPeer(receiver.port, address="127.0.0.2") for _ in range(5)]
    for peer in flood[:4]:
        peer.associate()
    with pytest.raises(Ended) as end:
        flood[4].associate()
    assert (end.value.kind, end.value.body) == (3, bytes((0, 2, 3, 2)))
    with RawPeer(receiver.port) as good:
        good.associate()
        assert good.echo().status == 0
    for peer in flood:
        peer.socket.close()


def test_short_fragments_are_charged_between_two_reads_of_the_socket(receive, monkeypatch):
    """A buffer holds 20,000 fragments of a byte: a tenth of a second that nobody else would have."""
    looks: list[int] = []
    monkeypatch.setattr(AssociationPace, "keep", lambda self: looks.append(1))
    with RawPeer(receive().port) as peer:
        peer.associate()
        before = len(looks)
        data = mr_dataset("1.2.3", pixels=bytes(4000))
        assert peer.store("1.2.3", data, piece=1).status == 0
    assert len(looks) - before > len(data) * 2 / 40


def test_a_flood_of_connections_cuts_its_own(receive):
    receiver = receive(max_associations=2)  # of which 68 may wait
    with RawPeer(receiver.port) as good:
        flood = [RawPeer(receiver.port, address="127.0.0.2") for _ in range(100)]
        good.associate()
        assert good.echo().status == 0
    assert flood[0].ended() == (0, b"")
    for peer in flood:
        peer.socket.close()


# CPU


class Clocks:
    """Time and CPU time that pass when a test says so."""

    def __init__(self) -> None:
        self.now = self.cpu = self.queue = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def pace(clocks):
    return CpuPace(lambda: clocks.now, lambda: clocks.cpu, lambda: clocks.queue)


def work(clocks: Clocks, one: AssociationPace, seconds: float, queued: float = 0.0) -> float:
    """An association works, after it has queued for the CPU; how long it has to wait then."""
    before = len(clocks.slept)
    one._cpu, one._queue = clocks.cpu, clocks.queue  # its thread's own clocks
    clocks.cpu += seconds
    clocks.queue += queued
    clocks.now += seconds + queued
    one.keep()
    return sum(clocks.slept[before:])


def test_alone_an_association_is_never_slowed_down(clocks, pace):
    one = AssociationPace(pace, "10.0.0.1", clocks.sleep)
    assert [work(clocks, one, 0.02) for _ in range(50)] == [0] * 50


def test_who_uses_more_than_a_share_of_a_busy_core_waits_and_the_others_do_not(clocks, pace):
    """Five associations of one address have no more than one of another."""
    greedy = [AssociationPace(pace, "10.0.0.2", clocks.sleep) for _ in range(5)]
    good = AssociationPace(pace, "10.0.0.1", clocks.sleep)
    for _ in range(20):  # so that it is known to be busy
        for one in greedy:
            work(clocks, one, 0.01)
    waited, good_waited = 0.0, 0.0
    for _ in range(40):
        good_waited += work(clocks, good, 0.002)
        for one in greedy:
            waited += work(clocks, one, 0.01)
    assert good_waited == 0
    assert waited > 0.5


def test_a_peer_that_connects_again_and_again_has_one_share(clocks, pace):
    good = AssociationPace(pace, "10.0.0.1", clocks.sleep)
    waited, good_waited = 0.0, 0.0
    for _ in range(200):
        good_waited += work(clocks, good, 0.0005)
        waited += work(clocks, AssociationPace(pace, "10.0.0.2", clocks.sleep), 0.004)
    assert good_waited == 0
    assert waited > 0.3


def test_work_that_takes_longer_than_a_window_is_paid_for_in_the_next_ones(clocks, pace):
    good = AssociationPace(pace, "10.0.0.1", clocks.sleep)

    def while_the_greedy_one_sleeps(seconds):
        end = clocks.now + seconds
        while clocks.now < end:
            work(clocks, good, 0.004)
            clocks.now += 0.001

    greedy = AssociationPace(pace, "10.0.0.2", while_the_greedy_one_sleeps)
    pieces = 0
    while clocks.now < 10:
        work(clocks, good, 0.005)
        work(clocks, greedy, 0.1)
        pieces += 1
    assert pieces * 0.1 < 0.75 * clocks.now


def test_nobody_waits_for_more_than_a_second_or_so_at_once(clocks, pace):
    """Our own waiting must not look like a peer that sends too slowly."""
    good = AssociationPace(pace, "10.0.0.1", clocks.sleep)

    def while_the_greedy_one_sleeps(seconds):
        clocks.slept.append(seconds)
        end = clocks.now + seconds
        while clocks.now < end:
            work(clocks, good, 0.0001, queued=0.0099)

    greedy = AssociationPace(pace, "10.0.0.2", while_the_greedy_one_sleeps)
    for _ in range(20):
        work(clocks, good, 0.0001, queued=0.0099)
        before = clocks.now
        work(clocks, greedy, 0.2, queued=0.2)
        assert clocks.now - before < 0.4 + 1.5


def test_on_a_machine_that_others_keep_busy_the_shares_are_equal_as_well(clocks, pace):
    """A process that gets a quarter of a core from the kernel never uses most of one."""
    greedy = AssociationPace(pace, "10.0.0.2", clocks.sleep)
    good = AssociationPace(pace, "10.0.0.1", clocks.sleep)
    waited, good_waited = 0.0, 0.0
    for _ in range(100):
        good_waited += work(clocks, good, 0.001, queued=0.003)
        waited += work(clocks, greedy, 0.005, queued=0.015)
    assert good_waited == 0
    assert waited > 0.2


def test_idle_cpu_slows_nobody_down(clocks, pace):
    one, two = (AssociationPace(pace, f"10.0.0.{n}", clocks.sleep) for n in (1, 2))
    for _ in range(50):
        assert work(clocks, one, 0.01) == work(clocks, two, 0.01) == 0
        clocks.now += 0.05


# What is read


def test_the_head_of_a_data_set_is_read_for_so_many_elements(monkeypatch):
    monkeypatch.setattr(head, "MAX_ELEMENTS", 1000)
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    start = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    scanner = head.HeadScanner(ExplicitVRLittleEndian)
    with pytest.raises(head.UnreadableDataSet, match="no UIDs in the first 1000 elements"):
        scanner.feed(start + items * 2000)


def test_a_hostile_head_is_refused_and_the_association_goes_on(receive, stored):
    start = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * (head.MAX_ELEMENTS + 1)
    with RawPeer(receive().port, seconds=60) as peer:
        peer.associate()
        answer = peer.store("1.2.3", start + items)
        assert (answer.status, answer.comment[:9]) == (0xC000, "Data set:")
        assert peer.store("1.2.3", mr_dataset("1.2.3")).status == 0
    assert len(stored()) == 1


def action_information(references: int, syntax: str) -> bytes:
    information = Dataset()
    information.TransactionUID = "1.2.3"
    items = []
    for number in range(references):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MR, f"1.2.3.{number}"
        items.append(item)
    information.ReferencedSOPSequence = items
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    write_dataset(buffer, information)
    return buffer.getvalue()


SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_references_are_read_as_pydicom_writes_them(syntax, count):
    request = read_commitment(action_information(count, syntax), syntax, CALLER)
    assert request.transaction_uid == "1.2.3"
    assert [one.sop_instance for one in request.references] == [f"1.2.3.{n}" for n in range(count)]
    assert {one.sop_class for one in request.references} == {MR}


def test_references_in_items_of_undefined_length_are_read():
    def uid(group, number, text):
        value = text.encode() + b"\0" * (len(text) % 2)
        return struct.pack("<HHI", group, number, len(value)) + value

    data = (
        uid(8, 0x1195, "1.2.3")
        + struct.pack("<HHI", 8, 0x1199, 0xFFFFFFFF)
        + (struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + uid(8, 0x1150, MR) + uid(8, 0x1155, "1.2"))
        + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )
    (one,) = read_commitment(data, ImplicitVRLittleEndian, CALLER).references
    assert (one.sop_class, one.sop_instance) == (MR, "1.2")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            struct.pack("<HHI", 8, 0x1199, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 700_000,
            "too many",
        ),
        (
            (struct.pack("<HHI", 8, 0x1199, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF))
            * 5000,
            "nested too deep",
        ),
        (struct.pack("<HHI", 8, 0x1195, 0xFFFFFF0) + b"1.2", "cut off"),
        (struct.pack("<HHI", 8, 0x1199, 0xFFFFFF0) + b"1.2", "cut off"),
        (struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), "out of place"),
        (
            struct.pack("<HHI", 8, 0x1199, 0xFFFFFFFF) * 2 + struct.pack("<HHI", 8, 0x1155, 4) + b"1.2\0",
            "an item belongs",
        ),
    ],
)
def test_hostile_references_are_refused_within_bounds(data, reason):
    assert len(data) < MAX_ACTION_BYTES
    with pytest.raises(ValueError, match=reason):
        read_commitment(data, ImplicitVRLittleEndian, CALLER)


@given(st.binary(max_size=300), st.sampled_from(SYNTAXES))
def test_any_bytes_are_references_or_a_value_error(data, syntax):
    for content in (data, action_information(2, syntax)[: len(data)] + data):
        with contextlib.suppress(ValueError):
            read_commitment(content, syntax, CALLER)


def test_requests_share_a_budget():
    budget = Budget(100)
    assert budget.take(60)
    assert not budget.take(60)
    budget.give_back(60)
    assert budget.take(100)
