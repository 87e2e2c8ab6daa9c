"""A full disk, a spool that is read-only or gone: senders are told, and it goes on by itself when it can."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from tardis_imagetrove.spool import Spool

from .peer import MR, RawPeer, mr_dataset, p_data, store_command


def test_a_full_disk_refuses_with_a700_still_echoes_and_resumes_by_itself(receive, small_disk, caplog):
    spool = Spool(small_disk / "spool", reserve_bytes=0)
    receiver = receive(spool=spool)
    big = mr_dataset("1.2.1", pixels=bytes(3_000_000))
    with RawPeer(receiver.port) as peer:
        peer.associate()
        answer = peer.store("1.2.1", big)
        assert (answer.status, answer.comment) == (0xA700, "Out of disk space")
        assert peer.echo().status == 0
        assert peer.store("1.2.2", mr_dataset("1.2.2", pixels=bytes(1_000_000))).status == 0
        assert peer.store("1.2.3", mr_dataset("1.2.3", pixels=bytes(1_500_000))).status == 0xA700
        for path in spool.series_root.glob("*/*"):
            path.unlink()  # somebody makes room
        assert peer.store("1.2.3", mr_dataset("1.2.3", pixels=bytes(1_500_000))).status == 0
        peer.release()
    assert [path.name for path in spool.series_root.glob("*/*")] == ["1.2.3.dcm"]
    assert receiver.counters().refusals == {"disk-full": 2}
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize("workers", [1, 2])
def test_a_receiver_starts_on_a_full_disk_and_goes_on_when_there_is_room(
    receive, small_disk, caplog, workers
):
    # Full in that it has no room for another name: what a start needs first.
    subprocess.run(["mount", "-o", "remount,nr_inodes=40", small_disk], check=True)
    spool = Spool(small_disk / "spool", reserve_bytes=0)
    Spool(small_disk / "spool", reserve_bytes=0).prepare()
    fillers = []
    with pytest.raises(OSError, match="No space left"):
        for number in range(100):
            fillers.append(small_disk / str(number))
            fillers[-1].touch()
    receiver = receive(spool=spool, workers=workers)
    assert "instances are refused until there is room" in caplog.text
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.echo().status == 0
        open_files = sum(1 for _ in Path("/proc/self/fd").iterdir())
        for _ in range(5):
            assert peer.store("1.2.1", mr_dataset("1.2.1")).status == 0xA700
        assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= open_files
        for filler in fillers[:-1]:
            filler.unlink()
        assert peer.store("1.2.1", mr_dataset("1.2.1")).status == 0
        assert peer.echo().status == 0
    assert [path.name for path in spool.series_root.glob("*/*")] == ["1.2.1.dcm"]


def test_the_reserve_is_left_free(receive, small_disk):
    spool = Spool(small_disk / "spool", reserve_bytes=1024 * 1024)
    with RawPeer(receive(spool=spool).port) as peer:
        peer.associate()
        statuses = [
            peer.store(f"1.2.{n}", mr_dataset(f"1.2.{n}", pixels=bytes(300_000))).status for n in range(8)
        ]
    assert statuses[0] == 0
    assert statuses[-1] == 0xA700
    disk = os.statvfs(small_disk)
    assert disk.f_bavail * disk.f_frsize > 512 * 1024


def test_a_file_that_may_not_grow_is_refused_as_out_of_resources(receive, stored):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with RawPeer(receive().port) as peer:
        peer.associate()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            assert peer.store("1.2.1", mr_dataset("1.2.1", pixels=bytes(200_000))).status == 0xA700
            assert peer.echo().status == 0
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
        assert peer.store("1.2.1", mr_dataset("1.2.1", pixels=bytes(200_000))).status == 0
    assert len(stored()) == 1


def test_a_spool_that_goes_away_and_comes_back_is_refused_and_resumed(receive, spool, stored, caplog):
    receiver = receive()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert peer.store("1.2.1", mr_dataset("1.2.1")).status == 0
        away = spool.root.with_name("away")
        spool.root.rename(away)
        # The file that was ready is still ours, but has no place to go to.
        for number in (2, 3):
            answer = peer.store(f"1.2.{number}", mr_dataset(f"1.2.{number}"))
            assert (answer.status, answer.comment) == (0xA701, "Storage is not available")
        assert peer.echo().status == 0
        away.rename(spool.root)
        assert peer.store("1.2.3", mr_dataset("1.2.3")).status == 0
    assert [path.name for path in stored()] == ["1.2.1.dcm", "1.2.3.dcm"]
    assert str(spool.root) in caplog.text


def test_a_read_only_spool_is_refused(receive, small_disk):
    spool = Spool(small_disk / "spool", reserve_bytes=0)
    with RawPeer(receive(spool=spool).port) as peer:
        peer.associate()
        # Mounted over itself, as a disk with open files cannot become read-only.
        subprocess.run(["mount", "--bind", spool.root, spool.root], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", spool.root], check=True)
        answer = peer.store("1.2.1", mr_dataset("1.2.1"))
        subprocess.run(["umount", spool.root], check=True)
        assert answer.status == 0xA701
        assert peer.store("1.2.1", mr_dataset("1.2.1")).status == 0


def test_a_disk_that_does_not_sync_is_no_success(receive, stored, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    with RawPeer(receive().port) as peer:
        peer.associate()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            assert peer.store("1.2.1", mr_dataset("1.2.1")).status == 0xA701
        assert stored() == []
        assert peer.store("1.2.1", mr_dataset("1.2.1")).status == 0
    assert len(stored()) == 1


def test_two_receivers_share_one_spool(receive, spool, stored):
    one, two = receive(), receive(spool=Spool(spool.root, reserve_bytes=0))
    with RawPeer(one.port) as first, RawPeer(two.port) as second:
        first.associate()
        second.associate()
        for number in range(10):
            assert first.store(f"1.2.{number}", mr_dataset(f"1.2.{number}")).status == 0
            assert second.store(f"1.2.{number}", mr_dataset(f"1.2.{number}")).status == 0
    assert len(stored()) == 10


@pytest.mark.parametrize("workers", [1, 2])
def test_instances_that_never_end_leave_the_reserve_alone_and_others_are_stored_again(
    receive, small_disk, workers
):
    """The reserve counts while bytes arrive, for all receiving processes together."""
    reserve = 1024 * 1024
    spool = Spool(small_disk / "spool", reserve_bytes=reserve)
    receiver = receive(spool=spool, workers=workers)

    def free() -> int:
        disk = os.statvfs(small_disk)
        return disk.f_bavail * disk.f_frsize

    with RawPeer(receiver.port) as one, RawPeer(receiver.port) as two:
        least = free()
        for number, peer in enumerate((one, two)):
            peer.associate()
            peer.socket.sendall(p_data(1, 3, store_command(MR, f"1.2.{number}")))
            peer.socket.sendall(p_data(1, 0, mr_dataset(f"1.2.{number}")))
        piece = p_data(1, 0, bytes(32 * 1024))
        for _ in range(300):
            for peer in (one, two):
                peer.socket.sendall(piece)
            least = min(least, free())
        for peer in (one, two):
            peer.socket.sendall(p_data(1, 2, b"\0\0"))
            assert peer.response().status == 0xA700  # so there was no room above the reserve
        assert reserve - workers * 256 * 1024 <= least
        assert one.store("1.2.7", mr_dataset("1.2.7")).status == 0
