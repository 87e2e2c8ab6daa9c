"""Storage commitment requests that were taken on are on disk until they are done with."""

from __future__ import annotations

import dataclasses

import pytest

from tardis_imagetrove.scp import Caller, CommitmentReference, CommitmentRequest
from tardis_imagetrove.scp.pending import PendingCommitments
from tardis_imagetrove.spool import Spool, SpoolError

REQUEST = CommitmentRequest(
    "2.25.1",
    (CommitmentReference("1.2", "1.2.3"), CommitmentReference("1.2", "1.2.4")),
    Caller("SKYRA", "IMAGETROVE", "10.1.2.3"),
)


@pytest.fixture
def pending(spool):
    spool.prepare()
    return PendingCommitments(spool)


def test_a_request_is_there_as_it_was_until_it_is_removed(pending, spool):
    pending.take(REQUEST)
    later = PendingCommitments(Spool(spool.root))
    (name,) = later.waiting()
    with later.claim(name) as request:
        assert request == REQUEST
        later.remove(name)
    assert later.waiting() == {}
    with pending.claim(name) as request:
        assert request is None


def test_the_same_again_is_one_and_another_is_another(pending):
    pending.take(REQUEST)
    before = pending.waiting()
    pending.take(REQUEST)
    again = pending.waiting()
    assert again.keys() == before.keys()
    assert again != before  # so that whoever waits to try again can tell
    pending.take(dataclasses.replace(REQUEST, transaction_uid="2.25.2"))
    pending.take(dataclasses.replace(REQUEST, caller=Caller("PRISMA", "IMAGETROVE", "10.1.2.3")))
    assert len(pending.waiting()) == 3


def test_one_at_a_time_holds_a_request(pending, spool):
    pending.take(REQUEST)
    (name,) = pending.waiting()
    with pending.claim(name), PendingCommitments(spool).claim(name) as request:
        assert request is None
    with pending.claim(name) as request:
        assert request == REQUEST


def test_what_is_no_request_is_set_aside(pending, spool, caplog):
    pending.take(REQUEST)
    (name,) = pending.waiting()
    (spool.root / "commitments" / name).write_text("{")
    with pending.claim(name) as request:
        assert request is None
    assert pending.waiting() == {}
    assert name in caplog.text


def test_a_disk_that_does_not_keep_it_is_told(pending, spool):
    spool.root.rename(spool.root.with_name("away"))
    spool.root.mkdir()  # where its disk is not mounted
    with pytest.raises(SpoolError, match="cannot keep a storage commitment request"):
        pending.take(REQUEST)
