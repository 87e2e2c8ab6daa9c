"""Who is let in, how many at once, and how long anybody may keep us waiting."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time

import pytest

from tardis_imagetrove.scp import Timeouts

from .peer import MR, Ended, RawPeer, associate_rq, echo_command, mr_dataset, p_data, store_command

QUICK = Timeouts(associate=0.5, idle=0.5, stall=0.5, slow=1.0, slow_bytes=1000, close=0.2)


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_64_associations_are_open_at_once_and_the_65th_is_told_to_try_later(receive, workers):
    receiver = receive(workers=workers, max_associations_per_address=64)
    peers = [RawPeer(receiver.port) for _ in range(64)]
    for peer in peers:
        peer.associate()
    assert receiver.open_associations == 64
    with RawPeer(receiver.port) as late, pytest.raises(Ended) as end:
        late.associate()
    assert (end.value.kind, end.value.body) == (3, bytes((0, 2, 3, 2)))
    for peer in peers:
        assert peer.echo().status == 0
    peers[0].release()
    until(lambda: receiver.open_associations == 63)
    with RawPeer(receiver.port) as again:
        again.associate()
    for peer in peers:
        peer.socket.close()


def test_connections_that_say_nothing_take_nobodys_place(receive):
    receiver = receive(max_associations=2)
    silent = [RawPeer(receiver.port) for _ in range(100)]  # more than may wait: the oldest are cut
    with RawPeer(receiver.port) as one, RawPeer(receiver.port) as two:
        one.associate()
        two.associate()
        assert one.echo().status == two.echo().status == 0
    assert silent[0].ended() == (0, b"")
    for peer in silent:
        peer.socket.close()


def test_the_called_title_is_checked_unless_told_otherwise(receive):
    with RawPeer(receive().port) as peer, pytest.raises(Ended) as end:
        peer.associate(called="ELSEWHERE")
    assert (end.value.kind, end.value.body) == (3, bytes((0, 1, 1, 7)))
    with RawPeer(receive(require_called_ae=False).port) as peer:
        peer.associate(called="ELSEWHERE")


@pytest.mark.parametrize("workers", [1, 2])
def test_who_is_not_admitted_is_rejected_and_the_reason_is_logged(receive, caplog, workers):
    asked = []

    def admit(calling, address):
        asked.append((calling, address, threading.get_ident()))
        return None if calling == "MR1" else f"{calling} is on no list"

    receiver = receive(admit=admit, workers=workers)
    with RawPeer(receiver.port) as peer:
        peer.associate(calling="MR1")
        assert peer.store("1.2.3", mr_dataset("1.2.3")).status == 0
    with RawPeer(receiver.port) as peer, pytest.raises(Ended) as end:
        peer.associate(calling="STRANGER")
    assert (end.value.kind, end.value.body) == (3, bytes((0, 1, 1, 3)))
    assert [one[:2] for one in asked] == [("MR1", "127.0.0.1"), ("STRANGER", "127.0.0.1")]
    receiver.stop(2)
    assert "STRANGER is on no list" in caplog.text
    assert receiver.counters().rejections == {"not-admitted": 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_trouble_in_asking_lets_nobody_in_for_now(receive, workers):
    def admit(calling, address):
        raise RuntimeError("database is away")

    receiver = receive(admit=admit, workers=workers)
    with RawPeer(receiver.port) as peer, pytest.raises(Ended) as end:
        peer.associate()
    assert (end.value.kind, end.value.body) == (3, bytes((0, 2, 2, 1)))
    assert receiver.open_associations == 0


def ends_within(peer: RawPeer, seconds: float) -> tuple[int, bytes]:
    peer.socket.settimeout(seconds)
    return peer.ended()


def test_a_silent_peer_is_closed(receive):
    with RawPeer(receive(timeouts=QUICK).port) as peer:
        assert ends_within(peer, 10) == (0, b"")


def test_a_request_that_trickles_in_is_closed_in_time(receive):
    data = associate_rq([(MR, ("1.2.840.10008.1.2",))])
    with RawPeer(receive(timeouts=QUICK).port) as peer:
        with pytest.raises(OSError, match="reset|pipe"):
            for at in range(len(data)):
                peer.socket.sendall(data[at : at + 1])
                time.sleep(0.1)
        assert at < 100


def test_an_idle_association_is_aborted(receive):
    with RawPeer(receive(timeouts=QUICK).port) as peer:
        peer.associate()
        assert ends_within(peer, 10) == (7, bytes(4))


@pytest.mark.parametrize(
    "sent",
    [
        p_data(1, 3, store_command(MR, "1.2.3")),  # and then no data set
        p_data(1, 3, store_command(MR, "1.2.3"))[:20],
        p_data(1, 3, store_command(MR, "1.2.3")) + struct.pack(">BxI", 4, 100000),
        b"\4",
    ],
)
def test_a_peer_that_stalls_in_a_message_is_aborted_and_leaves_nothing(receive, spool, sent):
    receiver = receive(timeouts=QUICK)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        peer.socket.sendall(sent)
        assert ends_within(peer, 10) == (7, bytes(4))
    receiver.stop(2)
    assert not list(spool.root.glob("incoming/*/*"))


def test_a_data_set_that_trickles_in_is_aborted(receive, caplog):
    caplog.set_level(logging.INFO)
    receiver = receive(timeouts=QUICK)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        peer.socket.sendall(
            p_data(1, 3, store_command(MR, "1.2.3")) + struct.pack(">BxIIBB", 4, 10**6, 10**6 - 4, 1, 0)
        )
        with pytest.raises(OSError, match="reset|pipe"):
            for _ in range(100):
                peer.socket.sendall(b"x")
                time.sleep(0.1)
    receiver.stop(2)
    assert "less than 1000 bytes in 1 s inside a message" in caplog.text


def test_a_peer_that_takes_no_answer_is_given_up(receive):
    receiver = receive(timeouts=QUICK)
    with RawPeer(receiver.port) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.associate()
        echoes = p_data(1, 3, echo_command()) * 1000
        with pytest.raises(OSError):
            while True:
                peer.socket.sendall(echoes)
    until(lambda: receiver.open_associations == 0)


def test_slow_and_hostile_peers_hold_nobody_up(receive, stored):
    receiver = receive()
    slow = []
    for sent in (b"", b"\1", b"GET / HTTP/1.0\r\n", struct.pack(">BxI", 1, 100)):
        for _ in range(5):
            slow.append(RawPeer(receiver.port))
            slow[-1].socket.sendall(sent)
    for _ in range(5):
        slow.append(RawPeer(receiver.port))
        slow[-1].associate()
        slow[-1].socket.sendall(p_data(1, 3, store_command(MR, "1.2.3")) + struct.pack(">BxI", 4, 100000))
    with RawPeer(receiver.port) as peer:
        peer.associate()
        for number in range(20):
            assert peer.store(f"1.2.{number}", mr_dataset(f"1.2.{number}")).status == 0
        peer.release()
    assert len(stored()) == 20
    for peer in slow:
        peer.socket.close()
