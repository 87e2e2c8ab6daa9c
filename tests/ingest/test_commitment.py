"""Storage commitment: success for what is archived and verified, and the peer is told until it has heard."""

from __future__ import annotations

import threading

import pytest
from django.db import OperationalError

from tardis_imagetrove.ingest import commitment
from tardis_imagetrove.ingest.commitment import CommitmentReporter, CommitmentTiming, outcome_of
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Archive, Instance
from tardis_imagetrove.scp import Caller, CommitmentReference, CommitmentRequest, Sender, SenderList
from tardis_imagetrove.scp.commitment import FailedReference, ReportNotDelivered
from tardis_imagetrove.scp.pending import PendingCommitments
from tardis_imagetrove.spool import item_uid

from ..conftest import deliver, phantom, series_uid

pytestmark = pytest.mark.django_db(transaction=True)

MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def archived(spool, scratch, configuration, tmp_path) -> list[CommitmentReference]:
    """References to an archived series."""
    paths = phantom(tmp_path / "in", slices=3)
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    return [
        CommitmentReference(MR, uid) for uid in Instance.objects.values_list("sop_instance_uid", flat=True)
    ]


def stored_copy():
    return Archive.objects.get().datafile.file_objects.get()


def test_what_is_archived_and_verified_is_committed(spool, archived):
    assert len(archived) == 3
    outcome = outcome_of(archived, spool)
    assert (list(outcome.committed), outcome.failed, outcome.waiting) == (archived, (), ())


def test_what_was_never_received_and_what_is_of_another_class_fails(spool, archived):
    unknown = CommitmentReference(MR, "1.2.3")
    other = CommitmentReference("1.2.840.10008.5.1.4.1.1.2", archived[0].sop_instance)
    outcome = outcome_of([archived[1], unknown, other], spool)
    assert outcome.committed == (archived[1],)
    assert outcome.failed == (FailedReference(unknown, 0x0112), FailedReference(other, 0x0119))
    assert outcome.waiting == ()


def test_what_is_only_in_the_spool_waits(spool, tmp_path, configuration, scratch):
    paths = phantom(tmp_path / "in", slices=2)
    deliver(spool, *paths)
    references = [CommitmentReference(MR, item_uid(file)) for file in spool.files(series_uid(paths[0]))]
    assert list(outcome_of(references, spool).waiting) == references
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    assert list(outcome_of(references, spool).committed) == references


def test_another_version_of_an_archived_instance_in_the_spool_waits(spool, archived, tmp_path):
    paths = phantom(tmp_path / "in2", slices=1, overrides={"PatientComments": "sent again, otherwise"})
    target = spool.series_root / "1.2.3"
    target.mkdir()
    (target / f"{archived[0].sop_instance}.dcm").write_bytes(paths[0].read_bytes())
    assert outcome_of(archived[:1], spool).waiting == (archived[0],)


@pytest.mark.parametrize("harm", ["unverified", "missing", "cut", "box"])
def test_an_archive_that_is_not_safely_in_its_storage_box_is_not_committed(spool, archived, tmp_path, harm):
    copy = stored_copy()
    (file,) = [path for path in (tmp_path / "store").rglob("*.zip")]
    if harm == "unverified":
        type(copy).objects.update(verified=False)
    elif harm == "missing":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        type(copy.storage_box).objects.filter(pk=copy.storage_box_id).update(
            django_storage_class="no.such.Storage"
        )
    outcome = outcome_of(archived, spool)
    assert (outcome.committed, list(outcome.waiting)) == ((), archived)


# Reporting


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """Takes reports, or not."""

    def __init__(self) -> None:
        self.got = []
        self.trouble: Exception | None = None

    def __call__(self, report, target) -> None:
        if self.trouble:
            raise self.trouble
        self.got.append((report, target))


@pytest.fixture
def site(spool):
    """A reporter with its parts; ``site.tick(seconds)`` lets time pass and does what is due."""

    class Site:
        clock, peer = Clock(), Peer()
        senders, pending = SenderList(spool), PendingCommitments(spool)
        timing = CommitmentTiming(wait=100, retry=10, retry_max=40, give_up=1000)

        def __init__(self) -> None:
            self.senders.replace([Sender("SKYRA", "10.1.2.3", report_port=1104)])
            self.restart()

        def restart(self) -> None:
            self.reporter = CommitmentReporter(spool, self.senders, self.timing, self.peer, self.clock)

        def tick(self, seconds: float = 0) -> None:
            for _ in range(int(seconds) + 1):
                self.reporter.tick()
                self.reporter.join(30)
                self.clock.now += 1 if seconds else 0

        def ask(self, *references, transaction="2.25.1") -> None:
            caller = Caller("SKYRA", "IMAGETROVE", "10.1.2.3")
            self.pending.take(CommitmentRequest(transaction, references, caller))

    return Site()


def test_a_peer_is_told_at_its_configured_port_once(site, archived):
    unknown = CommitmentReference(MR, "1.2.3")
    site.ask(*archived, unknown)
    site.tick(5)
    ((report, target),) = site.peer.got
    assert (target.host, target.port, target.ae_title, target.our_ae_title) == (
        "10.1.2.3",
        1104,
        "SKYRA",
        "IMAGETROVE",
    )
    assert (report.transaction_uid, list(report.committed)) == ("2.25.1", archived)
    assert report.failed == (FailedReference(unknown, 0x0112),)
    assert site.pending.waiting() == {}
    assert site.reporter.outcomes == {"failures": 1}


def test_the_report_waits_for_the_archive(site, spool, tmp_path, configuration, scratch):
    paths = phantom(tmp_path / "in", slices=1)
    deliver(spool, *paths)
    (file,) = spool.files(series_uid(paths[0]))
    site.ask(CommitmentReference(MR, item_uid(file)))
    site.tick(50)
    assert site.peer.got == []
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    site.tick(31)
    ((report, _),) = site.peer.got
    assert (len(report.committed), report.failed) == (1, ())


def test_what_is_not_archived_in_time_is_reported_as_failed(site, spool, tmp_path):
    paths = phantom(tmp_path / "in", slices=1)
    deliver(spool, *paths)
    (file,) = spool.files(series_uid(paths[0]))
    site.ask(CommitmentReference(MR, item_uid(file)))
    site.tick(140)
    ((report, _),) = site.peer.got
    assert (report.committed, [one.reason for one in report.failed]) == ((), [0x0110])


def test_a_peer_that_does_not_take_the_report_is_told_later_also_after_a_restart(site, archived):
    site.peer.trouble = ReportNotDelivered("away")
    site.ask(*archived)
    site.tick(100)
    site.restart()
    site.tick(5)
    site.peer.trouble = None
    site.tick(41)
    assert [list(report.committed) for report, _ in site.peer.got] == [archived]
    assert site.pending.waiting() == {}


def test_a_peer_that_asks_again_is_told_at_once(site, archived):
    site.peer.trouble = ReportNotDelivered("away")
    site.ask(*archived)
    site.tick(100)
    site.peer.trouble = None
    site.ask(*archived)
    site.tick()
    assert len(site.peer.got) == 1


def test_a_sender_that_was_taken_away_is_told_nothing_until_it_is_back(site, archived):
    site.ask(*archived)
    site.senders.replace([Sender("SKYRA", "10.1.2.3")])
    site.tick(5)
    assert site.peer.got == []
    site.senders.replace([Sender("SKYRA", "10.1.2.0/24", report_port=2)])
    site.tick(41)
    assert [target.port for _, target in site.peer.got] == [2]


def test_a_report_that_nobody_takes_is_given_up_in_the_end(site, archived, caplog):
    site.peer.trouble = ReportNotDelivered("away for good")
    site.ask(*archived)
    site.tick(1200)
    assert site.pending.waiting() == {}
    assert site.reporter.outcomes == {"given-up": 1}
    assert "2.25.1 is given up: away for good" in caplog.text


def test_with_the_database_away_the_request_waits(site, archived, monkeypatch):
    site.ask(*archived)

    def away(*_):
        raise OperationalError("no connection")

    with monkeypatch.context() as patch:
        patch.setattr(commitment, "_ledger", away)
        site.tick(5)
        assert site.peer.got == []
    site.tick(41)
    assert len(site.peer.got) == 1


def test_a_peer_that_hangs_holds_up_nobody_else(site, archived, spool):
    go_on = threading.Event()

    def deliver(report, target):
        if target.ae_title == "SLOW":
            go_on.wait(30)
        site.peer(report, target)

    site.senders.replace(
        [Sender("SLOW", "10.9.9.9", report_port=1), Sender("SKYRA", "10.1.2.3", report_port=1)]
    )
    site.reporter = CommitmentReporter(spool, site.senders, site.timing, deliver, site.clock)
    for number in range(20):
        site.pending.take(
            CommitmentRequest(f"2.25.1{number}", tuple(archived), Caller("SLOW", "X", "10.9.9.9"))
        )
    site.ask(*archived)
    for _ in range(10):
        site.reporter.tick()
        site.reporter.join(0.5)
    told = [target.ae_title for _, target in site.peer.got]
    go_on.set()
    site.reporter.join(30)
    assert told == ["SKYRA"]
