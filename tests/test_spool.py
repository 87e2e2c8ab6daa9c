"""The spool: what is committed is whole and durable, whatever else happens."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardis_imagetrove.spool import Spool, SpoolError, SpoolFull, Stored, item_uid
from tardis_imagetrove.uids import is_uid


def store(spool: Spool, content: bytes, series: str = "1.2", sop: str = "1.2.3") -> Stored:
    with spool.incoming() as incoming:
        incoming.write(content)
        return incoming.commit(series, sop)


def test_a_committed_file_is_listed_with_its_uid_and_bytes(spool):
    assert store(spool, b"abc") is Stored.NEW
    (file,) = spool.files("1.2")
    assert (item_uid(file), file.read_bytes()) == ("1.2.3", b"abc")
    assert spool.series_uids() == ["1.2"]


def test_the_same_bytes_again_are_kept_once_and_other_bytes_beside_them(spool):
    assert [store(spool, b"abc"), store(spool, b"abc"), store(spool, b"abd"), store(spool, b"abd")] == [
        Stored.NEW,
        Stored.IDENTICAL,
        Stored.DIFFERENT,
        Stored.IDENTICAL,
    ]
    files = spool.files("1.2")
    assert sorted(file.read_bytes() for file in files) == [b"abc", b"abd"]
    assert {item_uid(file) for file in files} == {"1.2.3"}


@pytest.fixture
def durable(monkeypatch):
    """What was asked of the disk, in order: names that were made, and what was synced (``True`` once it was)."""
    asked: list[tuple[str, Path]] = []
    fsync, link, mkdir = os.fsync, os.link, Path.mkdir

    def opened(descriptor: int) -> Path:
        return Path(f"/proc/self/fd/{descriptor}").readlink()

    def noted_fsync(descriptor):
        fsync(descriptor)
        asked.append(("sync", opened(descriptor)))

    def noted_link(source, target, *, dst_dir_fd):
        link(source, target, dst_dir_fd=dst_dir_fd)
        asked.append(("name", opened(dst_dir_fd) / target))

    def noted_mkdir(folder, *arguments, **options):
        mkdir(folder, *arguments, **options)
        asked.append(("name", folder))

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    monkeypatch.setattr(Path, "mkdir", noted_mkdir)
    return asked


def test_bytes_and_every_name_on_the_way_to_them_are_synced_before_a_commit_returns(spool, durable):
    """Else a power cut takes the file, its name in the series' folder, or that folder's name."""
    with spool.incoming() as incoming:
        incoming.write(b"abc")
        del durable[:]
        incoming.commit("1.2", "1.2.3")
        received = incoming.path
        assert received.exists()  # until the sender has its answer
    folder = spool.series_root / "1.2"
    assert durable[:2] == [("name", folder), ("name", folder / "1.2.3.dcm")]
    assert {path for what, path in durable[2:] if what == "sync"} == {received, folder, spool.series_root}
    assert not received.exists()


@pytest.mark.parametrize("content", [b"abc", b"abd"])
def test_a_file_that_is_sent_again_is_acknowledged_once_the_folder_is_synced(spool, durable, content):
    """Its first sender may have been cut off before its name was durable."""
    store(spool, b"abc")
    del durable[:]
    store(spool, content)
    assert ("sync", spool.series_root / "1.2") in durable
    assert (content == b"abd") == any(path.suffix == ".part" for what, path in durable if what == "sync")


def test_every_process_syncs_the_name_of_a_series_folder_before_it_acknowledges(spool, durable):
    """The process that made the folder may be killed before it syncs the name."""
    other = Spool(spool.root, 0)
    store(spool, b"abc")
    del durable[:]
    store(other, b"abd", sop="1.2.4")
    assert ("sync", spool.series_root) in durable
    del durable[:]
    store(other, b"abd", sop="1.2.5")
    assert ("sync", spool.series_root) not in durable  # once is enough
    spool.discard("1.2", spool.files("1.2"))
    store(spool, b"abc")  # makes the folder anew
    del durable[:]
    store(other, b"abd", sop="1.2.4")
    assert ("sync", spool.series_root) in durable


@pytest.mark.parametrize("failing", ["series", "1.2", "part"])
def test_an_error_of_a_sync_is_not_forgotten(spool, durable, failing, monkeypatch):
    """Whichever sync failed, nothing is acknowledged, the name is gone, and the retry syncs all three again."""
    spool.prepare()
    noted = os.fsync

    def fails(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if failing in (path.name, path.suffix[1:]):
            raise OSError(errno.EIO, "Input/output error")
        noted(descriptor)

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(SpoolError, match="Input/output error"):
            patch.setattr(os, "fsync", fails)
            store(spool, b"abc")
        assert spool.files("1.2") == []
    del durable[:]
    assert store(spool, b"abc") is Stored.NEW
    assert {path.name for what, path in durable if what == "sync"} >= {"series", "1.2"}
    assert not list(spool.root.glob("incoming/*/*"))


def test_a_file_whose_name_could_not_be_taken_back_keeps_both(spool, monkeypatch):
    """Two names say that it was not acknowledged; the next start settles it."""
    spool.prepare()
    with monkeypatch.context() as patch, pytest.raises(SpoolError):
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        patch.setattr(os, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only")))
        store(spool, b"abc")
    (file,) = spool.files("1.2")
    assert file.stat().st_nlink == 2
    assert store(spool, b"abc") is Stored.IDENTICAL  # and takes its place, as nobody synced the first
    (file,) = spool.files("1.2")
    assert (file.stat().st_nlink, file.read_bytes()) == (1, b"abc")


def killed_receiver(spool: Spool, size: int, content: bytes) -> Path:
    """What a receiver leaves that was killed when its file had both names."""
    spool.prepare()
    folder = spool.root / "incoming" / "dead"
    folder.mkdir()
    part = folder / f"0.{size}.part"
    part.write_bytes(content)
    final = spool.series_root / "1.2" / "1.2.3.dcm"
    final.parent.mkdir()
    os.link(part, final)
    return final


def test_a_complete_file_of_a_killed_receiver_is_kept_and_synced(spool, synced):
    final = killed_receiver(spool, 3, b"abc")
    synced.clear()
    Spool(spool.root, 0).prepare()
    assert (final.read_bytes(), final.stat().st_nlink) == (b"abc", 1)
    assert synced[:3] == [final, final.parent, spool.series_root]
    assert not (spool.root / "incoming" / "dead").exists()


def test_a_file_that_a_power_cut_has_shortened_is_removed(spool, caplog):
    final = killed_receiver(spool, 3, b"ab")
    Spool(spool.root, 0).prepare()
    assert not final.exists()
    assert "2 of 3 bytes and was not acknowledged" in caplog.text
    assert store(spool, b"abc") is Stored.NEW


def test_a_killed_receivers_file_that_cannot_be_synced_keeps_both_names(spool, monkeypatch, caplog):
    final = killed_receiver(spool, 3, b"abc")
    noted = os.fsync

    def fails(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink() == final:
            raise OSError(errno.EIO, "Input/output error")
        noted(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        Spool(spool.root, 0).prepare()
    assert "cannot clear up" in caplog.text
    assert final.stat().st_nlink == 2
    Spool(spool.root, 0).prepare()
    assert final.stat().st_nlink == 1


def test_a_disk_that_does_not_sync_has_not_stored(spool, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    with spool.incoming() as incoming:
        incoming.write(b"abc")
        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(SpoolError, match="Input/output error"):
            incoming.commit("1.2", "1.2.3")
    assert spool.files("1.2") == []


def test_what_is_not_committed_leaves_nothing(spool):
    with pytest.raises(ZeroDivisionError), spool.incoming() as incoming:
        incoming.write(b"abc")
        raise ZeroDivisionError
    assert spool.series_uids() == []
    assert not [path for path in spool.root.rglob("*.part")]


@pytest.mark.parametrize("uid", ["", "../x", "1.2/3", "1..2", "1.2.", "1" * 65, "1.2\n", "x", "１.2"])
def test_a_uid_that_is_none_never_becomes_a_path(spool, uid):
    with spool.incoming() as incoming:
        incoming.write(b"abc")
        with pytest.raises(ValueError, match="not a DICOM UID"):
            incoming.commit(uid, "1.2")
        with pytest.raises(ValueError, match="not a DICOM UID"):
            incoming.commit("1.2", uid)


@given(st.text())
def test_what_passes_for_a_uid_is_one_path_component(text):
    if is_uid(text):
        assert Path(text).name == text
        assert text not in (".", "..")
        assert text.isascii()


def test_below_the_reserve_nothing_is_begun(tmp_path):
    spool = Spool(tmp_path, reserve_bytes=2**62)
    spool.prepare()
    with pytest.raises(SpoolFull, match="reserve"):
        spool.incoming()


def test_a_spool_that_cannot_be_made_says_where(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="file"):
        Spool(tmp_path / "file" / "spool").prepare()


def test_a_lock_is_held_by_one_and_freed_by_death(spool, tmp_path):
    code = (
        "import sys, time; from tardis_imagetrove.spool import Spool\n"
        f"with Spool({str(spool.root)!r}).lock('1.2') as mine: print(mine, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline().strip() == "True"
    with spool.lock("1.2") as mine:
        assert not mine
    child.kill()
    child.wait()
    with spool.lock("1.2") as mine:
        assert mine
    assert not list((spool.root / "locks").iterdir())


def test_a_dead_receivers_leftovers_go_and_a_living_ones_stay(spool, tmp_path):
    code = (
        "import time; from tardis_imagetrove.spool import Spool\n"
        f"spool = Spool({str(spool.root)!r}, 0); spool.prepare(); incoming = spool.incoming(); incoming.write(b'x')\n"
        "print(incoming.path, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    part = Path(child.stdout.readline().strip())
    Spool(spool.root, 0).prepare()
    assert part.exists()
    child.kill()
    child.wait()
    Spool(spool.root, 0).prepare()
    assert not part.exists()


def test_a_series_that_gains_a_file_has_another_token_and_an_empty_one_has_none(spool):
    assert spool.token("1.2") is None
    store(spool, b"abc")
    first = spool.token("1.2")
    store(spool, b"abc", sop="1.2.4")
    assert spool.token("1.2") != first
    spool.discard("1.2", spool.files("1.2"))
    assert spool.token("1.2") is None
    assert spool.series_uids() == []


def test_clearing_leaves_what_arrived_meanwhile(spool):
    store(spool, b"abc")
    files = spool.files("1.2")
    store(spool, b"late", sop="1.2.4")
    spool.discard("1.2", files)
    assert [item_uid(file) for file in spool.files("1.2")] == ["1.2.4"]


def test_what_is_stored_is_synced_and_so_are_the_names_that_lead_to_it(spool, synced):
    with spool.incoming() as incoming:
        incoming.write(b"abc")
        incoming.commit("1.2", "1.2.3")
    assert set(synced[-3:]) == {incoming.path, spool.series_root, spool.series_root / "1.2"}


def test_a_duplicate_is_synced_as_well(spool, synced):
    store(spool, b"abc")
    synced.clear()
    store(spool, b"abc")
    assert synced[-1] == spool.series_root / "1.2"


def test_a_spool_that_goes_away_amid_storing_is_an_error(spool):
    with spool.incoming() as incoming, pytest.raises(SpoolError, match="No such file"):
        incoming.write(b"abc")
        shutil.rmtree(spool.root)
        incoming.commit("1.2", "1.2.3")


def test_a_temporary_file_that_is_cleared_away_is_an_error(spool):
    store(spool, b"abc")
    with spool.incoming() as incoming, pytest.raises(SpoolError, match="No such file"):
        incoming.path.unlink()
        incoming.commit("1.2", "1.2.4")


@pytest.mark.slow
def test_many_processes_storing_and_clearing_at_once_lose_nothing(spool, tmp_path):
    code = (
        "import sys; from tardis_imagetrove.spool import Spool\n"
        f"spool = Spool({str(spool.root)!r}, 0); spool.prepare()\n"
        "for number in range(100):\n"
        "    with spool.incoming() as incoming:\n"
        "        incoming.write(b'%d' % number)\n"
        "        incoming.commit('1.2', f'1.{number}')\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    taken = set()
    while any(child.poll() is None for child in children) or spool.files("1.2"):
        files = spool.files("1.2")
        taken |= {file.read_bytes() for file in files}
        spool.discard("1.2", files)
    assert [child.returncode for child in children] == [0, 0, 0]
    assert taken == {b"%d" % number for number in range(100)}


@pytest.mark.slow
def test_a_killed_receiver_leaves_whole_files_only(spool, tmp_path):
    code = (
        "from tardis_imagetrove.spool import Spool\n"
        f"spool = Spool({str(spool.root)!r}, 0); spool.prepare()\n"
        "for number in range(10**6):\n"
        "    with spool.incoming() as incoming:\n"
        "        for _ in range(10): incoming.write(b'x' * 1000)\n"
        "        incoming.commit('1.2', f'1.{number}')\n"
        "    print(number, flush=True)\n"
    )
    for moment in (0.11, 0.23, 0.31):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        child.stdout.readline()
        time.sleep(moment)
        os.kill(child.pid, signal.SIGKILL)
        acknowledged = [int(line) for line in child.stdout.read().split()]
        names = {file.name for file in spool.files("1.2")}
        assert {f"1.{number}.dcm" for number in acknowledged} <= names
        assert {file.stat().st_size for file in spool.files("1.2")} == {10000}
