"""ReceiverStopping in order: what is in flight finishes, what is idle is told, nothing lasts longer than the grace time."""

from __future__ import annotations

import threading
import time

import pytest

from tardis_imagetrove.scp import Receiver, ReceiverConfig

from .peer import MR, RawPeer, mr_dataset, p_data, store_command
from .test_limits import until

pytestmark = pytest.mark.parametrize("workers", [1, 2])


def stopping(receiver: Receiver, grace_seconds: float) -> threading.Thread:
    thread = threading.Thread(target=receiver.stop, args=(grace_seconds,))
    thread.start()
    return thread


def test_an_instance_in_flight_is_finished_and_acknowledged(receive, spool, stored, workers):
    receiver = receive(workers=workers)
    data = mr_dataset("1.2.3", pixels=bytes(1000))
    with RawPeer(receiver.port) as busy, RawPeer(receiver.port) as idle:
        busy.associate()
        idle.associate()
        busy.socket.sendall(p_data(1, 3, store_command(MR, "1.2.3")) + p_data(1, 0, data[:500]))
        until(lambda: list(spool.root.glob("incoming/*/*.part")))
        thread = stopping(receiver, 10)
        assert idle.ended() == (7, bytes(4))  # at once
        assert thread.is_alive()
        busy.socket.sendall(p_data(1, 2, data[500:]))
        assert busy.response().status == 0
        assert busy.ended() == (7, bytes(4))
        thread.join(10)
        assert not thread.is_alive()
    assert [path.name for path in stored()] == ["1.2.3.dcm"]
    assert receiver.counters().instances == 1


def test_what_does_not_finish_in_the_grace_time_is_cut(receive, spool, workers):
    receiver = receive(workers=workers)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        peer.socket.sendall(p_data(1, 3, store_command(MR, "1.2.3")) + p_data(1, 0, mr_dataset("1.2.3")[:50]))
        until(lambda: list(spool.root.glob("incoming/*/*.part")))
        started = time.monotonic()
        receiver.stop(0.3)
        assert time.monotonic() - started < 30  # the peer would wait a minute
        assert peer.ended()[0] in (0, 7)
    assert not list(spool.root.glob("incoming/*/*"))
    assert not list(spool.series_root.iterdir())


def test_nobody_is_accepted_any_more_and_the_port_is_free(receive, spool, workers):
    receiver = receive(workers=workers)
    port = receiver.port
    receiver.stop(1)
    with pytest.raises(ConnectionRefusedError):
        RawPeer(port)
    again = receive(workers=workers, port=port)
    with RawPeer(again.port) as peer:
        peer.associate()


def test_a_taken_port_is_named(receive, spool, workers):
    taken = receive().port
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {taken}: another program"):
        Receiver(ReceiverConfig(host="127.0.0.1", port=taken, workers=workers), spool).start()
