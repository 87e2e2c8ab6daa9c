"""What breaks the protocol is answered as PS3.8 says, and nobody else notices."""

from __future__ import annotations

import logging
import socket
import struct

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from .peer import (
    MR,
    VERIFICATION,
    Ended,
    RawPeer,
    associate_rq,
    echo_command,
    mr_dataset,
    p_data,
    store_command,
)


def implicit(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def command(field: int, data_set: int = 0x0101) -> bytes:
    """A command set of any operation."""
    return (
        implicit(0x0002, MR.encode() + b"\0")
        + implicit(0x0100, struct.pack("<H", field))
        + implicit(0x0110, struct.pack("<H", 9))
        + implicit(0x0800, struct.pack("<H", data_set))
    )


def pdv(length: int, context_id: int, control: int, data: bytes) -> bytes:
    """A P-DATA-TF whose PDV length may be a lie."""
    return struct.pack(">BxIIBB", 4, len(data) + 6, length, context_id, control) + data


@pytest.mark.parametrize(
    ("sent", "source", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 0, 0),
        (struct.pack(">BxI4x", 5, 4), 0, 0),  # a release of no association
        (struct.pack(">BxI", 1, 0xFFFFFFFF), 2, 6),
        (struct.pack(">BxI", 1, 10) + bytes(10), 2, 6),
        (struct.pack(">BxI", 1, 80) + bytes(68) + b"\x20\0\xff\xff" + bytes(8), 2, 6),
    ],
)
def test_what_is_no_association_request_is_aborted(receive, sent, source, reason):
    with RawPeer(receive().port) as peer:
        peer.socket.sendall(sent)
        assert peer.ended() == (7, bytes((0, 0, source, reason)))


@pytest.mark.parametrize(
    ("sent", "source", "reason"),
    [
        (struct.pack(">BxI4x", 9, 4), 2, 1),  # no such PDU type
        (associate_rq([(MR, (ImplicitVRLittleEndian,))]), 2, 2),  # a second request
        (struct.pack(">BxI4x", 6, 4), 2, 2),  # the answer to a release that nobody asked for
        (struct.pack(">BxI", 5, 4096), 2, 6),
        (struct.pack(">BxI", 4, 0xFFFFFFFF), 2, 6),
        (struct.pack(">BxI", 4, 0), 2, 6),
        (struct.pack(">BxI3x", 4, 3), 2, 6),
        (pdv(1, 1, 3, b""), 2, 6),
        (pdv(1000, 1, 3, b"12"), 2, 6),
        (p_data(99, 3, echo_command()), 2, 6),  # a context that nobody proposed
        (p_data(3, 3, store_command(MR, "1.2.3")), 2, 6),  # a context that was refused
        (p_data(1, 2, b"data without a command"), 0, 0),
        (p_data(1, 3, b"no command set"), 0, 0),
        (p_data(1, 3, command(0x8001)), 0, 0),  # a response to nothing
        (p_data(1, 3, store_command(MR, "1.2.3")) * 2, 0, 0),  # a command instead of a data set
        (p_data(1, 3, store_command(MR, "1.2.3")) + p_data(5, 2, b"x"), 0, 0),  # data in another context
        (p_data(1, 1, bytes(30000)) * 3, 0, 0),  # a command set without end
        (p_data(1, 1, echo_command()[:20]) + p_data(5, 3, echo_command()[20:]), 0, 0),
    ],
)
def test_a_breach_inside_an_association_is_aborted_and_leaves_nothing(receive, spool, sent, source, reason):
    receiver = receive()
    with RawPeer(receiver.port) as peer:
        peer.associate([(MR, (ExplicitVRLittleEndian,)), ("1.2.840.10008.5.1.4.1.2.2.1", (ExplicitVRLittleEndian,)),
                        (VERIFICATION, (ImplicitVRLittleEndian,))])  # fmt: skip
        peer.socket.sendall(sent)
        assert peer.ended() == (7, bytes((0, 0, source, reason)))
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.echo().status == 0
        peer.release()
    assert not list(spool.root.glob("incoming/*/*"))
    assert not list(spool.series_root.iterdir())


@pytest.mark.parametrize(
    "field", [0x0010, 0x0020, 0x0021, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150, 0x0777]
)
@pytest.mark.parametrize("with_data", [False, True])
def test_other_operations_are_answered_as_unrecognized(receive, field, with_data):
    with RawPeer(receive().port) as peer:
        peer.associate()
        peer.socket.sendall(p_data(1, 3, command(field, 0x0000 if with_data else 0x0101)))
        if with_data:
            peer.socket.sendall(p_data(1, 0, b"first") + p_data(1, 2, b"last"))
        answer = peer.response()
        assert (answer.field, answer.status) == (field | 0x8000, 0x0211)
        assert answer.dataset.MessageIDBeingRespondedTo == 9
        assert peer.store("1.2.3", mr_dataset("1.2.3")).status == 0


def test_a_cancel_has_no_answer(receive):
    with RawPeer(receive().port) as peer:
        peer.associate()
        cancel = implicit(0x0100, b"\xff\x0f") + implicit(0x0120, b"\1\0") + implicit(0x0800, b"\1\1")
        peer.socket.sendall(p_data(1, 3, cancel))
        assert peer.echo().field == 0x8030


def test_a_store_on_the_context_of_another_service_is_refused(receive):
    with RawPeer(receive().port) as peer:
        peer.associate([(VERIFICATION, (ImplicitVRLittleEndian,))])
        assert peer.store("1.2.3", mr_dataset("1.2.3")).status == 0x0122


def test_several_pdvs_in_one_pdu_are_taken_apart(receive, stored):
    data = mr_dataset("1.2.3")
    with RawPeer(receive().port) as peer:
        peer.associate()
        whole = p_data(1, 3, store_command(MR, "1.2.3")) + p_data(1, 0, data[:31]) + p_data(1, 2, data[31:])
        body = b""
        while whole:
            (length,) = struct.unpack_from(">I", whole, 2)
            body, whole = body + whole[6 : 6 + length], whole[6 + length :]
        peer.socket.sendall(struct.pack(">BxI", 4, len(body)) + body)
        assert peer.response().status == 0
    assert stored()[0].read_bytes().endswith(data)


def test_a_data_set_may_come_byte_by_byte(receive, stored):
    data = mr_dataset("1.2.3")
    with RawPeer(receive().port) as peer:
        peer.associate()
        stream = p_data(1, 3, store_command(MR, "1.2.3")) + p_data(1, 2, data)
        for at in range(len(stream)):
            peer.socket.sendall(stream[at : at + 1])
        assert peer.response().status == 0
    assert stored()[0].read_bytes().endswith(data)


def test_answers_respect_the_peers_maximum_length(receive):
    with RawPeer(receive().port) as peer:
        peer.associate(max_pdu=40)
        peer.socket.sendall(p_data(1, 3, store_command(MR, "1.2.3")) + p_data(1, 2, mr_dataset("1.2.3")))
        lengths, data = [], b""
        while True:
            kind, body = peer.read_pdu()
            assert kind == 4
            lengths.append(len(body))
            data += body[6:]
            if body[5] & 2:
                break
        assert len(lengths) > 2
        assert max(lengths) <= 40


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ((6, b"\0\2"), (1, 2, 2)),  # protocol version
        ((80, b"9"), (1, 1, 2)),  # application context
    ],
)
def test_requests_of_another_protocol_are_rejected(receive, change, answer):
    data = bytearray(associate_rq([(MR, (ImplicitVRLittleEndian,))]))
    data[change[0] : change[0] + len(change[1])] = change[1]
    with RawPeer(receive().port) as peer:
        peer.socket.sendall(data)
        assert peer.ended() == (3, bytes((0, *answer)))


def test_a_peer_that_leaves_in_the_middle_leaves_nothing(receive, spool, caplog):
    caplog.set_level(logging.INFO)
    receiver = receive()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        peer.socket.sendall(p_data(1, 3, store_command(MR, "1.2.3")) + p_data(1, 0, mr_dataset("1.2.3")))
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    receiver.stop(2)
    assert not list(spool.root.glob("incoming/*/*"))
    assert not list(spool.series_root.iterdir())
    assert "in the middle of 1.2.3" in caplog.text


def test_an_abort_and_a_release_in_the_middle_of_an_instance_store_nothing(receive, stored):
    receiver = receive()
    for last in (struct.pack(">BxI4x", 7, 4), struct.pack(">BxI4x", 5, 4)):
        with RawPeer(receiver.port) as peer:
            peer.associate()
            peer.socket.sendall(
                p_data(1, 3, store_command(MR, "1.2.3")) + p_data(1, 0, mr_dataset("1.2.3")) + last
            )
            peer.ended()
    receiver.stop(2)
    assert stored() == []


def test_one_line_tells_of_an_association(receive, caplog):
    caplog.set_level(logging.INFO, logger="tardis_imagetrove.scp")
    receiver = receive()
    with RawPeer(receiver.port) as peer:
        peer.associate(calling="MR1")
        peer.store("1.2.3", mr_dataset("1.2.3"))
        peer.store("1.2.3", mr_dataset("1.2.3"))
        peer.store("1.2.4", mr_dataset("1.2.3"))
        peer.release()
    receiver.stop(2)
    (line,) = [
        record.getMessage() for record in caplog.records if record.getMessage().startswith("association")
    ]
    size = 2 * len(mr_dataset("1.2.3"))
    for part in ("peer=127.0.0.1:", "calling='MR1'", "called='IMAGETROVE'", "stored=1 duplicates=1 differing=0",
                 f"refused=1 bytes={size}", "ended='released'"):  # fmt: skip
        assert part in line


def test_a_connection_that_says_nothing_is_not_worth_a_line(receive, caplog):
    caplog.set_level(logging.INFO, logger="tardis_imagetrove.scp")
    receiver = receive()
    RawPeer(receiver.port).socket.close()
    receiver.stop(2)
    assert [record.getMessage() for record in caplog.records if "association" in record.getMessage()] == []


def test_many_refusals_of_one_kind_are_logged_only_a_few_times(receive, caplog):
    receiver = receive()
    for _ in range(20):
        with RawPeer(receiver.port) as peer, pytest.raises(Ended):
            peer.associate(called="ELSEWHERE")
    receiver.stop(2)
    assert len([record for record in caplog.records if "ELSEWHERE" in record.getMessage()]) == 5
    assert receiver.counters().rejections == {"called-ae": 20}
