"""Worker processes: shared evenly, replaced when they die, gone when the receiver is."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tardis_imagetrove.spool import Spool, SpoolError, item_uid

from ..processes import is_alive
from .peer import MR, Ended, RawPeer, mr_dataset, p_data, store_command
from .test_limits import until


def workers_of(pid: int) -> set[int]:
    """The worker processes of a receiver's process."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # threads and processes come and go
            found |= {int(child) for child in (task / "children").read_text().split()}
    return {child for child in found if is_alive(child) and b"scp.worker" in _command_line(child)}


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_connections_are_shared_evenly(receive):
    receiver = receive(workers=2)
    workers = workers_of(os.getpid())
    assert len(workers) == 2
    before = {pid: threads_of(pid) for pid in workers}
    peers = [RawPeer(receiver.port) for _ in range(6)]
    for peer in peers:
        peer.associate()
    assert [threads_of(pid) - before[pid] for pid in workers] == [3, 3]
    for peer in peers:
        peer.socket.close()


def test_a_killed_worker_is_replaced_and_takes_nothing_with_it(receive, spool, stored, caplog):
    receiver = receive(workers=2)
    workers = workers_of(os.getpid())
    peers = [RawPeer(receiver.port) for _ in range(2)]
    for number, peer in enumerate(peers):
        peer.associate()
        assert peer.store(f"1.2.{number}", mr_dataset(f"1.2.{number}")).status == 0
        peer.socket.sendall(p_data(1, 3, store_command(MR, f"1.3.{number}")) + p_data(1, 0, b"x" * 100))
    victim = workers.pop()
    time.sleep(1.2)  # its counts have been told
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(workers_of(os.getpid())) == 2 and victim not in workers_of(os.getpid()))
    until(lambda: receiver.open_associations == 1)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.store("1.2.9", mr_dataset("1.2.9")).status == 0
        peer.release()
    for peer in peers:
        peer.socket.close()
    receiver.stop(2)
    assert [path.name for path in stored()] == ["1.2.0.dcm", "1.2.1.dcm", "1.2.9.dcm"]
    assert receiver.counters().instances == 3
    assert "ended with -9" in caplog.text
    Spool(spool.root).prepare()
    assert not list(spool.root.glob("incoming/*/*"))


def test_a_worker_that_is_told_to_end_finishes_first(receive, spool):
    receiver = receive(workers=2)
    workers = workers_of(os.getpid())
    peers = [RawPeer(receiver.port) for _ in range(2)]
    data = mr_dataset("1.2.3")
    for peer in peers:
        peer.associate()
        peer.socket.sendall(p_data(1, 3, store_command(MR, "1.2.3")) + p_data(1, 0, data[:50]))
    until(lambda: len(list(spool.root.glob("incoming/*/*.part"))) == 2)
    for worker in workers:
        os.kill(worker, signal.SIGTERM)
    time.sleep(0.2)
    for peer in peers:
        peer.socket.sendall(p_data(1, 2, data[50:]))
        assert peer.response().status == 0
        assert peer.ended() == (7, bytes(4))
    until(lambda: len(workers_of(os.getpid()) - workers) == 2)
    with RawPeer(receiver.port) as peer:
        peer.associate()


def test_logs_of_workers_come_out_here(receive, caplog):
    caplog.set_level(logging.INFO, logger="tardis_imagetrove.scp")
    receiver = receive(workers=2)
    with RawPeer(receiver.port) as peer:
        peer.associate(calling="MR1")
        peer.store("1.2.3", b"")
        peer.release()
    receiver.stop(2)
    assert "calling='MR1'" in caplog.text
    assert "SOPClassUID is missing" in caplog.text
    assert receiver.counters().refusals == {"bad-uid": 1}


def test_a_spool_that_cannot_be_used_is_said_at_the_start(receive, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SpoolError, match="cannot prepare the spool"):
        receive(spool=Spool(tmp_path / "file" / "spool"), workers=2)


RECEIVER = """
import sys, time
from tardis_imagetrove.scp import ReceiverConfig, running_receiver
from tardis_imagetrove.spool import Spool
assert "django" not in sys.modules
with running_receiver(ReceiverConfig(host="127.0.0.1", port=0, workers=int(sys.argv[2])), Spool(sys.argv[1], 0)) as one:
    print(one.port, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_receiver_killed_at_any_moment_loses_nothing_that_it_acknowledged(tmp_path, workers):
    root = tmp_path / "spool"
    acknowledged = []
    for round_number in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", RECEIVER, str(root), str(workers)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        port = int(process.stdout.readline())
        children = workers_of(process.pid)
        deadline = time.monotonic() + 0.1 + 0.15 * round_number
        with RawPeer(port) as peer:
            peer.associate()
            for number in range(100_000):
                uid = f"1.{round_number}.{number}"
                if time.monotonic() > deadline and process.poll() is None:
                    peer.socket.sendall(p_data(1, 3, store_command(MR, uid)) + p_data(1, 0, mr_dataset(uid)))
                    process.kill()
                    for child in children:
                        with contextlib.suppress(ProcessLookupError):  # it had nothing to finish
                            os.kill(child, signal.SIGKILL)
                try:
                    assert peer.store(uid, mr_dataset(uid)).status == 0
                except (Ended, OSError):
                    break
                acknowledged.append(uid)
        process.wait()
        process.stdout.close()
        until(lambda children=children: not any(map(is_alive, children)))
    spool = Spool(root)
    spool.prepare()
    kept = {item_uid(file): file for uid in spool.series_uids() for file in spool.files(uid)}
    assert len(acknowledged) > 10
    assert set(acknowledged) <= set(kept)
    for uid in acknowledged:
        assert kept[uid].read_bytes().endswith(mr_dataset(uid))
    assert len(list(root.glob("incoming/*/*"))) == 0


def test_workers_leave_when_their_receiver_is_killed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", RECEIVER, str(tmp_path / "spool"), "2"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    process.stdout.readline()
    children = workers_of(process.pid)
    assert len(children) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda children=children: not any(map(is_alive, children)))


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(receive):
    receiver = receive(workers=2)
    workers = workers_of(os.getpid())
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    # Their sockets take connections until they are full.
    peers = []
    try:
        until(lambda: peers.append(RawPeer(receiver.port)) or not workers & workers_of(os.getpid()), 60)
    finally:
        for peer in peers:
            peer.socket.close()
    with RawPeer(receiver.port) as peer:
        peer.associate()
