"""Notices go out by a real mail server and a real web server: once each, and without delaying anything."""

from __future__ import annotations

import email
import hashlib
import hmac
import json
import socket
import threading
from datetime import datetime, time, timedelta
from datetime import timezone as tz
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.utils import timezone

from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Event, Notice, OpenProblem, Series, Subscription
from tardis_imagetrove.operations import delivery, notices
from tardis_imagetrove.reasons import Reason

from ..conftest import configure, deliver, phantom, series_uid
from ..site import free_port

pytestmark = pytest.mark.django_db(transaction=True)

K, N = Subscription.Kind, Notice.Stage


class Box:
    """What a mail server has taken; ``refuse`` makes it answer so."""

    def __init__(self):
        self.mails, self.refuse = [], ""

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 (aiosmtpd's name)
        if self.refuse:
            return self.refuse
        self.mails.append(email.message_from_bytes(envelope.content, policy=default))
        return "250 OK"


@pytest.fixture
def mailbox(settings):
    controller = pytest.importorskip("aiosmtpd.controller", reason="aiosmtpd is not installed")
    box = Box()
    server = controller.Controller(box, hostname="127.0.0.1", port=free_port())
    server.start()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
    yield box
    server.stop()


@pytest.fixture
def web():
    """A web server: what it was sent, and the answers that it gives in turn."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.taken.append((self.headers, body))
            self.send_response(server.answers.pop(0) if server.answers else 200)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.taken, server.answers = [], []
    server.address = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def subscribe(**fields) -> Subscription:
    values = {"name": "operators", "kinds": ["held", "ready", "failed"], **fields}
    if not values.get("webhook"):
        values.setdefault("mail", "operators@example.edu")
    return Subscription.objects.create(**values)


def hold(uid="1.2.3", reason="an odd reason for Ada", **fields) -> Series:
    series = states.received(uid)
    Series.objects.filter(pk=series.pk).update(**fields)
    states.hold(uid, Reason("no-instrument", reason))
    return series


def test_a_held_series_and_a_ready_scan_are_told_by_mail_without_what_names_anybody(
    mailbox, spool, scratch, tmp_path, owner, box
):
    configuration = configure(owner, storage_box=box)
    subscribe()
    hold(description="Ada Lovelace")
    files = phantom(tmp_path / "in", slices=3)
    deliver(spool, *files)
    ingest_series(spool, series_uid(files[0]), (), scratch)
    assert notices.one_round(problems=False) == notices.Looked(new=2, sent=2)
    (mail,) = mailbox.mails
    text = mail.get_content()
    assert mail["To"] == "operators@example.edu"
    assert mail["Subject"].startswith("[ImageTrove] 2 notices; the first: A series of no instrument is held")
    assert "A series of no instrument is held (no-instrument)" in text
    assert f"A scan of {configuration.name} is archived: 3 images" in text
    ready = Series.objects.get(configuration=configuration)
    assert f"/dataset/{ready.dataset_key.dataset_id}" in text
    assert f"/apps/tardis-imagetrove/series/{Series.objects.get(series_uid='1.2.3').pk}/" in text
    for secret in ("Ada", "1.2.3", ready.series_uid, ready.description):
        assert secret not in text
    # Nothing is told twice, whatever is looked at again.
    assert notices.one_round(problems=False) == notices.Looked()
    states.refresh(ready.pk)
    Event.objects.create(series=ready, kind="done")
    assert notices.one_round(problems=False) == notices.Looked()


def test_details_are_told_to_those_who_asked_for_them(mailbox):
    subscribe(with_details=True)
    hold(description="t1_brain", project="Project 12345")
    notices.one_round(problems=False)
    text = mailbox.mails[0].get_content()
    for words in ("Series: t1_brain", "Project: Project 12345", "Reason: an odd reason for Ada"):
        assert words in text


def test_each_is_told_what_they_subscribed_to(mailbox, owner):
    one, two = configure(owner), configure(owner, name="Two")
    subscribe(name="of one", configuration=one, mail="one@example.edu")
    subscribe(name="of a project", project="Project 2", mail="two@example.edu")
    subscribe(name="of failures", kinds=["failed"], mail="three@example.edu")
    subscribe(name="off", enabled=False, mail="four@example.edu")
    hold("1.1", configuration=one, project="Project 1")
    hold("1.2", configuration=two, project="Project 2")
    notices.one_round(problems=False)
    assert sorted(mail["To"] for mail in mailbox.mails) == ["one@example.edu", "two@example.edu"]


def test_what_was_before_somebody_subscribed_is_not_told(mailbox):
    hold()
    subscribe()
    assert notices.one_round(problems=False) == notices.Looked()
    hold("1.2.4")
    assert notices.one_round(problems=False).sent == 1


def test_an_event_that_becomes_visible_late_is_told_all_the_same(mailbox):
    subscribe()
    Subscription.objects.update(created=timezone.now() - timedelta(hours=1))
    late = Event.objects.create(series=states.received("1.2.3"), kind="held", reasons=[])
    Event.objects.filter(pk=late.pk).update(at=timezone.now() - timedelta(minutes=5))
    Subscription.objects.update(since=timezone.now())
    assert notices.one_round(problems=False).sent == 1


def test_with_the_mail_server_away_notices_wait_and_come_once(mailbox, settings):
    subscribe()
    hold()
    port, settings.EMAIL_PORT = settings.EMAIL_PORT, 1
    assert notices.one_round(problems=False) == notices.Looked(new=1, failed=1)
    notice = Notice.objects.get()
    assert notice.stage == N.WAITING and "ConnectionRefusedError" in notice.problem
    assert timezone.now() < notice.due < timezone.now() + timedelta(minutes=2)
    settings.EMAIL_PORT = port
    assert notices.one_round(problems=False) == notices.Looked()  # not yet
    assert notices.send_due(timezone.now() + timedelta(minutes=2)) == (1, 0)
    assert notices.send_due(timezone.now() + timedelta(days=2)) == (0, 0)
    assert len(mailbox.mails) == 1


def test_a_mail_server_that_hangs_is_given_up_after_its_time(settings, monkeypatch):
    monkeypatch.setattr(delivery, "SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = silent.getsockname()
        subscribe()
        hold()
        assert notices.one_round(problems=False).failed == 1
    assert "timed out" in Notice.objects.get().problem.lower()


def test_refused_for_long_it_is_given_up_and_others_are_not_held_up(mailbox):
    subscribe()
    hold()
    mailbox.refuse = "550 no such person"
    notices.find_events()
    now = timezone.now()
    pauses = []
    for _ in range(notices.MOST_ATTEMPTS):
        notices.send_due(now)
        notice = Notice.objects.get()
        pauses.append((notice.due - now).total_seconds() / 60)
        now = max(now, notice.due)
    assert pauses[:4] == [1, 2, 4, 8] and max(pauses) == 360
    assert (notice.stage, notice.attempts) == (N.GIVEN_UP, notices.MOST_ATTEMPTS)
    mailbox.refuse = ""
    hold("1.2.4")
    assert notices.one_round(problems=False).sent == 1


def test_a_webhook_is_signed_and_tried_again_at_500(web):
    one = subscribe(webhook=web.address)
    series = hold()
    web.answers = [500, 302]
    assert notices.one_round(problems=False).failed == 1
    assert notices.send_due(timezone.now() + timedelta(hours=1)) == (0, 1)
    assert "answers 302" in Notice.objects.get().problem  # it is not followed
    assert notices.send_due(timezone.now() + timedelta(hours=9)) == (1, 0)
    headers, body = web.taken[-1]
    wanted = hmac.new(
        one.secret.encode(), headers["X-ImageTrove-Timestamp"].encode() + b"." + body, hashlib.sha256
    )
    assert headers["X-ImageTrove-Signature"] == "sha256=" + wanted.hexdigest()
    (told,) = json.loads(body)["notices"]
    assert (told["kind"], told["text"]) == ("held", "A series of no instrument is held (no-instrument)")
    assert told["link"].endswith(f"/series/{series.pk}/")
    assert len(web.taken) == 3


def test_a_webhook_that_is_gone_is_given_up_at_once(web):
    subscribe(webhook=web.address)
    hold()
    web.answers = [410]
    notices.one_round(problems=False)
    assert Notice.objects.get().stage == N.GIVEN_UP


def test_a_digest_collects_and_quiet_hours_wait(mailbox):
    subscribe(digest_minutes=60)
    now = timezone.now()
    for number in range(3):
        hold(f"1.2.{number}")
    assert notices.one_round(problems=False) == notices.Looked(new=3)
    assert notices.send_due(now + timedelta(minutes=61)) == (3, 0)
    assert len(mailbox.mails) == 1
    quiet = Subscription(quiet_from=time(22), quiet_to=time(7))
    at = {hour: timezone.make_aware(datetime(2026, 11, 27, hour)) for hour in (6, 7, 12, 21, 22, 23)}
    assert [hour for hour, moment in at.items() if notices.is_quiet(quiet, moment)] == [6, 22, 23]
    quiet = Subscription(quiet_from=time(12), quiet_to=time(13))
    assert [hour for hour, moment in at.items() if notices.is_quiet(quiet, moment)] == [12]


def test_a_process_that_dies_while_sending_leaves_nothing_that_comes_twice(mailbox, monkeypatch):
    subscribe()
    hold()

    def die(*_arguments):
        raise KeyboardInterrupt

    send = delivery.send
    monkeypatch.setattr(delivery, "send", lambda *arguments: (send(*arguments), die()))
    with pytest.raises(KeyboardInterrupt):
        notices.one_round(problems=False)
    monkeypatch.setattr(delivery, "send", send)
    assert notices.send_due(timezone.now() + timedelta(days=1)) == (0, 0)
    assert len(mailbox.mails) == 1
    assert Notice.objects.get().stage == N.SENDING


def test_a_problem_is_told_when_it_begins_and_again_only_after_it_was_gone(mailbox):
    subscribe(kinds=["problem"])
    disk, held = Reason("in-reserve", "the disk is full"), Reason("held", "3 series are held")
    assert notices.find_problems(lambda: [disk, held]) == 1
    assert notices.find_problems(lambda: [disk]) == 0
    assert notices.find_problems(lambda: []) == 0
    assert not OpenProblem.objects.exists()
    assert notices.find_problems(lambda: [disk]) == 1
    notices.send_due()
    assert mailbox.mails[0].get_content().count("Problem: The disk is full") == 2


def test_a_folders_name_is_told_to_those_alone_who_asked_for_details(mailbox):
    subscribe(kinds=["problem"])
    subscribe(name="all", kinds=["problem"], mail="all@example.edu", with_details=True)
    one, two = (
        Reason("folder-source", f"folder source A: {name}: cannot be read") for name in ("Ada", "Bob")
    )
    assert notices.find_problems(lambda: [one, two]) == 2
    notices.send_due()
    told = {mail["To"]: mail.get_content() for mail in mailbox.mails}
    assert "A folder source has a problem" in told["operators@example.edu"]
    assert "Ada" not in told["operators@example.edu"]
    assert "Ada" in told["all@example.edu"] and "Bob" in told["all@example.edu"]


def test_a_real_site_without_a_receiver_has_a_problem(mailbox, spool, settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": str(spool.root), "SPOOL_RESERVE_MIB": 0}
    subscribe(kinds=["problem"])
    assert notices.one_round().sent == 1
    assert "no receiver runs" in mailbox.mails[0].get_content().lower()


def test_silence_is_told_once_until_something_comes(mailbox, owner):
    configuration, new = configure(owner), configure(owner, name="New")
    subscribe(kinds=["silence"], silence_hours=24)
    Series.objects.create(series_uid="1.2.3", configuration=configuration)
    assert notices.find_silence() == 0
    later = timezone.now() + timedelta(hours=25)
    assert notices.find_silence(later) == 1
    assert notices.find_silence(later + timedelta(hours=25)) == 0
    assert Notice.objects.get().text.startswith(f"{configuration.name} has sent nothing since 2")
    Series.objects.create(series_uid="1.2.4", configuration=configuration)
    assert notices.find_silence(later + timedelta(hours=25)) == 1
    assert not new.series_set.exists()


def test_an_audits_findings_are_told_once(mailbox, spool, settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": str(spool.root)}
    subscribe(kinds=["audit"])
    hold()
    Series.objects.update(state="done")
    for _ in range(2):
        with pytest.raises(CommandError, match="finding"):
            call_command("imagetrove_audit", stdout=StringIO(), skip_checks=True)
    notices.send_due()
    (mail,) = mailbox.mails
    assert "The audit has 1 new finding: 1 × no-archive" in mail.get_content()


def test_the_command_shows_what_it_would_send_and_sends_it(mailbox, spool, settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": str(spool.root)}
    subscribe()
    hold()
    out = StringIO()
    call_command("imagetrove_notices", dry_run=True, stdout=out, skip_checks=True)
    assert "to operators@example.edu: A series of no instrument is held" in out.getvalue()
    assert mailbox.mails == []
    call_command("imagetrove_notices", stdout=out, skip_checks=True)
    assert "0 new, 1 sent, 0 could not be sent." in out.getvalue()
    assert len(mailbox.mails) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mail": "", "webhook": ""}, "a mail address or a webhook"),
        ({"mail": "a@example.edu", "webhook": "https://example.edu/"}, "either"),
        ({"webhook": "ftp://example.edu/x"}, "https:// or http://"),
        ({"kinds": []}, "blank|Choose from"),
        ({"kinds": ["nonsense"]}, "Choose from"),
        ({"quiet_from": time(22)}, "both times"),
        ({"silence_hours": 0}, "greater than or equal to 1"),
    ],
)
def test_a_subscription_that_makes_no_sense_is_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        subscribe(**fields)


def test_old_notices_are_forgotten(mailbox):
    subscribe()
    hold()
    notices.one_round(problems=False)
    notices.send_due(datetime.now(tz.utc) + timedelta(days=91))
    assert not Notice.objects.exists()
