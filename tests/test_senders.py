"""The receiver's list of senders follows admin, and outlives the database."""

from __future__ import annotations

import contextlib
from io import StringIO

import pytest
from django.core import checks
from django.core.management import call_command

from tardis_imagetrove import senders as module
from tardis_imagetrove.checks import check_senders
from tardis_imagetrove.scp import Sender, SenderList
from tardis_imagetrove.scu import NotAdmitted, Peer, echo
from tardis_imagetrove.senders import SenderWatch, configured_senders

from .conftest import configure, phantom
from .site import Site, eventually

pytestmark = pytest.mark.django_db(transaction=True)


def test_senders_of_enabled_instruments_count(owner):
    configure(owner).senders.create(ae_title="A", address="10.0.0.1", report_port=104)
    configure(owner, name="Off", enabled=False).senders.create(ae_title="B", address="10.0.0.2")
    assert configured_senders() == [Sender("A", "10.0.0.1", "Phantom MR", 104)]


def test_with_the_database_away_the_last_known_senders_count(owner, spool, monkeypatch, caplog):
    configure(owner).senders.create(ae_title="A", address="10.0.0.1")
    senders = SenderList(spool)
    watch = SenderWatch(senders)
    watch.look()

    def away():
        raise module.DatabaseError("no connection")

    with monkeypatch.context() as patch:
        patch.setattr(module, "configured_senders", away)
        for _ in range(3):
            watch.look()
        assert senders.admit("A", "10.0.0.1") is None
        # Another process, started meanwhile.
        later = SenderList(spool)
        SenderWatch(later).look()
        assert later.admit("A", "10.0.0.1") is None
    assert caplog.text.count("the configuration cannot be read: no connection") == 2
    watch.look()
    assert "the configuration can be read again" in caplog.text


def test_a_check_names_instruments_without_senders(owner):
    def said() -> list[tuple[str, str]]:
        return [
            (one.id, str(one.msg)) for one in checks.run_checks(databases=["default"]) if "W007" in one.id
        ]

    assert said() == []
    one, _two = configure(owner), configure(owner, name="Two")
    configure(owner, name="Off", enabled=False)
    assert said() == [
        (
            "imagetrove.W007",
            "No sender is configured for Phantom MR, Two: nothing can be received.",
        )
    ]
    one.senders.create(ae_title="A", address="10.0.0.1")
    ((_, words),) = said()
    assert words.startswith("No sender is configured for Two: only what another instrument's sender sends")
    assert check_senders() == []  # the database is asked by `check --database default` only


@pytest.fixture
def site(owner, tmp_path):
    site = Site(tmp_path)
    yield site
    site.stop()


def admitted(site, calling: str = "DEMO") -> bool:
    try:
        echo(Peer("127.0.0.1", site.port, calling=calling))
    except NotAdmitted:
        return False
    return True


@pytest.mark.slow
def test_a_receiver_is_closed_and_follows_admin_while_it_runs(site, owner):
    site.start_receiver("--workers", "2", closed=True)
    assert not admitted(site)
    assert "nobody may store: no enabled instrument has a sender" in site.log.read_text()
    configuration = configure(owner)
    sender = configuration.senders.create(ae_title="DEMO", address="127.0.0.0/8")
    eventually(lambda: admitted(site), 30, "the sender is admitted")
    assert not admitted(site, "OTHER")
    sender.address = "10.0.0.1"
    sender.save()
    eventually(lambda: not admitted(site), 30, "the sender is shut out")
    sender.address = "127.0.0.1"
    sender.save()
    eventually(lambda: admitted(site), 30, "the sender is admitted")
    configuration.enabled = False
    configuration.save()
    eventually(lambda: not admitted(site), 30, "a disabled instrument's sender is shut out")


@pytest.mark.slow
def test_a_receiver_that_starts_with_the_database_away_admits_whom_it_knew(site, owner, tmp_path):
    configure(owner).senders.create(ae_title="DEMO", address="127.0.0.1")
    site.start_receiver(closed=True)
    assert admitted(site)
    site.kill("receiver")
    site.env["IMAGETROVE_TEST_DATABASE"] = "/nowhere/database"
    site.start_receiver(closed=True)
    paths = phantom(tmp_path / "in", slices=2)
    assert site.send(*paths) == 2
    assert not admitted(site, "OTHER")
    assert "senders: the last known ones count" in site.log.read_text()


@pytest.mark.slow
def test_a_receiver_that_never_saw_the_database_tells_peers_to_try_later(site):
    site.env["IMAGETROVE_TEST_DATABASE"] = "/nowhere/database"
    site.start_receiver(closed=True)
    with pytest.raises(Exception, match="refuses the association: No reason given|Temporary|temporary"):
        admitted(site)
    assert "nobody may store until the database is back to name the senders" in site.log.read_text()


@pytest.mark.slow
def test_promiscuous_is_said_loudly_and_lets_everybody_in(site):
    site.start_receiver()
    assert admitted(site, "ANYBODY")
    assert "PROMISCUOUS: every sender that reaches this port may store" in site.log.read_text()


@pytest.mark.slow
def test_status_tells_who_may_store(site, owner, settings):
    settings.IMAGETROVE = {"SPOOL": str(site.spool.root)}

    def said() -> str:
        out = StringIO()
        with contextlib.suppress(SystemExit):  # no receiver runs
            call_command("imagetrove_status", stdout=out)
        return out.getvalue()

    configure(owner)
    assert "Senders: none configured\n  instruments without a sender: Phantom MR\n" in said()
    configure(owner, name="Two").senders.create(ae_title="A", address="10.0.0.1")
    assert "Senders: 1 configured\n  instruments without a sender: Phantom MR\n" in said()
    assert "EVERYBODY" not in said()
    site.start_receiver()
    assert "Senders: ALL accepted: a receiver runs with --promiscuous\n" in said()
    site.kill("receiver")
    assert "EVERYBODY" not in said()
