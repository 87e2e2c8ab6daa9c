"""Damaged conversations: whatever a peer sends, the receiver answers or ends, stores nothing by mistake, and serves the next.

The corpus beside this file holds whole conversations as a peer sends them; what once broke the receiver
is added to it. ``python -m tests.scp.test_fuzz`` writes the honest ones anew.
"""

from __future__ import annotations

import contextlib
import logging
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tardis_imagetrove.scp import ReceiverConfig, Timeouts, running_receiver
from tardis_imagetrove.spool import Spool

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

CORPUS = Path(__file__).parent / "corpus"
UID = "1.2.3"
RELEASE = struct.pack(">BxI4x", 5, 4)
REQUEST = associate_rq(
    [(MR, (ExplicitVRLittleEndian, ImplicitVRLittleEndian)), (VERIFICATION, (ImplicitVRLittleEndian,))]
)


def honest_conversations() -> dict[str, bytes]:
    data = mr_dataset(UID, pixels=bytes(300))
    store = p_data(1, 3, store_command(MR, UID))
    return {
        "echo": REQUEST + p_data(3, 3, echo_command()) + RELEASE,
        "store": REQUEST + store + p_data(1, 2, data) + RELEASE,
        "store-in-pieces": REQUEST + store + p_data(1, 0, data[:99]) + p_data(1, 2, data[99:]) + RELEASE,
        "store-twice": REQUEST + (store + p_data(1, 2, data)) * 2 + RELEASE,
        "store-then-abort": REQUEST + store + p_data(1, 0, data[:99]) + struct.pack(">BxI4x", 7, 4),
        "action": REQUEST
        + store.replace(b"\x01\x00\x00\x00\x02", b"\x30\x01\x00\x00\x02", 1)
        + p_data(1, 2, data),
    }


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """One receiver for all conversations, whose time-outs are short."""
    spool = Spool(tmp_path_factory.mktemp("fuzz") / "spool", reserve_bytes=0)
    timeouts = Timeouts(associate=0.3, idle=0.3, stall=0.3, slow=0.5, slow_bytes=1, close=0.1)
    with running_receiver(ReceiverConfig(host="127.0.0.1", port=0, timeouts=timeouts), spool) as receiver:
        yield receiver, spool


def converse(port: int, conversation: bytes, sizes=(1 << 20,)) -> None:
    """Send it all, in pieces, and read to the end."""
    with RawPeer(port) as peer:
        # The receiver may have hung up before the end of it.
        with contextlib.suppress(OSError):
            offset, turn = 0, 0
            while offset < len(conversation):
                size = sizes[turn % len(sizes)]
                peer.socket.sendall(conversation[offset : offset + size])
                offset, turn = offset + size, turn + 1
            peer.socket.shutdown(1)
        with contextlib.suppress(OSError):
            peer.ended()


def check(target, caplog) -> None:
    """It is alive, nothing unforeseen happened, and all that is stored is a whole instance under its own name."""
    receiver, spool = target
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    for attempt in range(10):
        # The receiver's time-outs are short here, and a busy machine may make this peer too slow for them.
        try:
            with RawPeer(receiver.port) as peer:
                peer.associate()
                assert peer.echo().status == 0
                peer.release()
            break
        except (Ended, OSError):
            if attempt == 9:
                raise
    for path in spool.series_root.glob("*/*"):
        start = path.read_bytes()
        assert start[128:132] == b"DICM"
        assert path.name.partition("~")[0].removesuffix(".dcm").encode() in start
        assert path.parent.name.encode() in start


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*.bin")), ids=lambda file: file.stem)
def test_conversations_of_the_corpus(target, caplog, file):
    converse(target[0].port, file.read_bytes())
    converse(target[0].port, file.read_bytes(), (1, 2, 3, 50))
    check(target, caplog)


damages = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "copy", "length"]),
        st.integers(0, 2000),
        st.integers(0, 300),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def damage(conversation: bytes, steps) -> bytes:
    data = bytearray(conversation)
    for how, at, size, value in steps:
        # Half of the damage goes behind the association request, where an association is needed to get to.
        at = (len(REQUEST) + at) % (len(data) + 1) if at % 2 else at % (len(data) + 1)
        if how == "set":
            data[at : at + len(value)] = value
        elif how == "cut":
            del data[at : at + size]
        elif how == "insert":
            data[at:at] = value
        elif how == "copy":
            data[at:at] = data[at : at + size]
        else:
            data[at : at + 4] = struct.pack(">I", (size * 7919) if size % 3 else 0xFFFFFFFF)
    return bytes(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(honest_conversations())),
    damages,
    st.lists(st.integers(1, 400), min_size=1, max_size=3),
)
def test_damaged_conversations(target, caplog, name, steps, sizes):
    converse(target[0].port, damage(honest_conversations()[name], steps), sizes)
    check(target, caplog)


if __name__ == "__main__":
    for name, conversation in honest_conversations().items():
        (CORPUS / f"{name}.bin").write_bytes(conversation)
