"""Who may store: titles with addresses, kept beside the spool, asked for each association."""

from __future__ import annotations

import logging
import os

import pytest

from tardis_imagetrove.scp import Sender, SenderList, is_promiscuous, promiscuous_mark
from tardis_imagetrove.spool import Spool, SpoolError

from .peer import Ended, RawPeer, mr_dataset


@pytest.fixture
def senders(spool):
    spool.prepare()
    return SenderList(spool)


@pytest.mark.parametrize(
    ("network", "address", "welcome"),
    [
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.4", False),
        ("10.1.2.0/24", "10.1.2.4", True),
        ("10.1.2.0/24", "10.1.3.4", False),
        ("0.0.0.0/0", "192.168.0.1", True),
        ("0.0.0.0/0", "fd00::1", False),
        ("::/0", "fd00::1", True),
        ("::/0", "192.168.0.1", False),
        ("fd00:1::/64", "fd00:1::5", True),
        ("fd00:1::/64", "fd00:2::5", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("10.1.2.3", "::ffff:10.1.2.3", True),
    ],
)
def test_a_sender_is_a_title_at_an_address(senders, network, address, welcome):
    senders.replace([Sender("SKYRA", network)])
    assert (senders.admit("SKYRA", address) is None) is welcome
    assert (
        senders.admit("skyra", address) == f"'skyra' at {address} is not a sender of any enabled instrument"
    )
    if not welcome:
        assert senders.admit("SKYRA", address) == f"'SKYRA' is a sender, but not from {address}"


def test_the_narrowest_entry_that_takes_reports_counts(senders):
    wide, narrow, plain = (
        Sender("A", "10.0.0.0/8", report_port=1),
        Sender("A", "10.1.0.0/16", report_port=2),
        Sender("A", "10.1.2.3"),
    )
    senders.replace([wide, plain, narrow])
    assert senders.find("A", "10.1.2.3") == narrow
    assert senders.find("A", "10.9.0.1") == wide
    assert senders.find("B", "10.9.0.1") is None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stranger_is_rejected_and_logged_with_peer_title_and_reason(
    receive, senders, stored, caplog, workers
):
    senders.replace([Sender("SCANNER", "127.0.0.1"), Sender("ELSEWHERE", "10.0.0.1")])
    receiver = receive(admit=senders.admit, workers=workers)
    for calling in ("STRANGER", "ELSEWHERE"):
        with RawPeer(receiver.port) as peer, pytest.raises(Ended) as ended:
            peer.associate(calling=calling)
        assert (ended.value.kind, ended.value.body) == (3, b"\0\1\1\3")
    with RawPeer(receiver.port) as peer:
        peer.associate(calling="SCANNER")
        assert peer.store("1.2.3", mr_dataset("1.2.3")).status == 0
        peer.release()
    assert len(stored()) == 1
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    (stranger,) = [line for line in lines if "STRANGER" in line]
    assert "no association with 127.0.0.1:" in stranger
    assert "not a sender of any enabled instrument" in stranger
    assert any("'ELSEWHERE' is a sender, but not from 127.0.0.1" in line for line in lines)


def test_refusals_of_one_peer_are_not_logged_without_end(receive, senders, caplog):
    senders.replace([])
    receiver = receive(admit=senders.admit)
    for number in range(20):
        with RawPeer(receiver.port) as peer, pytest.raises(Ended):
            peer.associate(calling=f"STRANGER{number}")
    assert 1 <= caplog.text.count("no association with") <= 6


def test_a_change_counts_for_the_next_association(receive, senders):
    receiver = receive(admit=senders.admit)
    senders.replace([])
    with RawPeer(receiver.port) as peer, pytest.raises(Ended):
        peer.associate()
    senders.replace([Sender("SCANNER", "127.0.0.0/8")])
    with RawPeer(receiver.port) as peer:
        peer.associate()
        senders.replace([])
        assert peer.store("1.2.3", mr_dataset("1.2.3")).status == 0


def test_before_any_list_is_known_a_peer_is_told_to_try_later(receive, senders, caplog):
    with RawPeer(receive(admit=senders.admit).port) as peer, pytest.raises(Ended) as ended:
        peer.associate()
    assert (ended.value.kind, ended.value.body) == (3, b"\0\2\2\1")
    assert "Traceback" not in caplog.text


def test_the_last_known_list_outlives_the_process(senders, spool):
    known = [Sender("SKYRA", "10.1.2.0/24", "Skyra", 104), Sender("X", "::1")]
    assert senders.replace(known)
    assert not senders.replace(known)
    later = SenderList(spool)
    assert later.senders is None
    assert later.recall()
    assert list(later.senders) == known
    # What is configured counts, not what was kept.
    later.replace([])
    later.recall()
    assert later.senders == ()


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"senders": [{"ae_title": "A"}]}', '{"senders": [{"ae_title": "A", "network": "b"}]}'],
)
def test_a_kept_list_that_is_damaged_lets_nobody_in(senders, spool, content, caplog):
    (spool.root / "senders.json").write_text(content)
    assert not senders.recall()
    assert senders.senders is None
    assert "senders.json cannot be used" in caplog.text


def test_a_spool_that_is_gone_does_not_keep_a_change_from_counting(senders, spool, caplog):
    away = spool.root.with_name("away")
    spool.root.rename(away)
    senders.replace([Sender("A", "::1")])
    assert senders.admit("A", "::1") is None
    assert "cannot be kept" in caplog.text
    away.rename(spool.root)
    senders.replace([Sender("A", "::1")])
    assert SenderList(spool).recall()


def test_a_promiscuous_receiver_is_known_while_it_lives(spool):
    spool.prepare()
    assert not is_promiscuous(spool)
    with promiscuous_mark(spool), promiscuous_mark(Spool(spool.root)):
        assert is_promiscuous(spool)
    assert not is_promiscuous(spool)
    child = os.fork()
    if child == 0:  # one that is killed
        mark = promiscuous_mark(spool)
        mark.__enter__()
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert not is_promiscuous(spool)
    with pytest.raises(SpoolError, match="cannot write"), promiscuous_mark(Spool(spool.root / "no")):
        pass
