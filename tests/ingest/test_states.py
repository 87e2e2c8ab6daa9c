"""States: one table of transitions, one event for each, and conditional updates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.db.models import Q

from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import LOST_ATTEMPTS, Event, FilterRun, Series
from tardis_imagetrove.reasons import MOST_REASONS, Reason, as_json, from_json, render

from ..conftest import deliver, phantom, series_uid, why

S, R = Series.State, FilterRun.State
WHY = Reason("test", "why; and why else")


def kinds(series=None) -> list[str]:
    found = Event.objects.order_by("pk")
    return list((found.filter(series=series) if series else found).values_list("kind", flat=True))


def in_state(state: str) -> Series:
    return Series.objects.create(series_uid=f"1.2.{Series.objects.count()}", state=state)


@pytest.fixture
def ingested(transactional_db, spool, scratch, configuration, tmp_path) -> Series:
    paths = phantom(tmp_path / "in", slices=2)
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), ("nifti", "metadata"), scratch)
    return Series.objects.get()


# The table


def test_the_tables_know_every_state():
    assert set(states.SERIES_TRANSITIONS) == set(S.values)
    assert set(states.RUN_TRANSITIONS) == set(R.values)
    for table in (states.SERIES_TRANSITIONS, states.RUN_TRANSITIONS):
        assert set().union(*table.values()) == set(table)
        assert all(state not in after for state, after in table.items())


def test_the_documentation_prints_the_tables():
    text = Path(__file__).parents[2].joinpath("docs/states.md").read_text()
    rows = dict(
        re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| ([^|]+) \|$", text.partition("## Filter runs")[0], re.M)
    )
    assert rows.keys() == set(S.values)
    for state, after in rows.items():
        assert set(re.findall(r"`(\w+)`", after)) == states.SERIES_TRANSITIONS[state], state
    rows = dict(
        re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| ([^|]+) \|$", text.partition("## Filter runs")[2], re.M)
    )
    assert rows.keys() == set(R.values)
    for state, after in rows.items():
        assert set(re.findall(r"`(\w+)`", after)) == states.RUN_TRANSITIONS[state], state


@pytest.mark.django_db
@pytest.mark.parametrize("state", S.values)
@pytest.mark.parametrize("to", [S.HELD, S.WAITING, S.INGESTING])
def test_a_series_changes_only_as_the_table_says(state, to):
    series = in_state(state)
    change = {
        S.HELD: lambda: states.hold(series.series_uid, WHY),
        S.WAITING: lambda: states.wait(series.series_uid, WHY),
        S.INGESTING: lambda: states.begin_ingest(series),
    }[to]
    change()
    allowed = to == state or to in states.SERIES_TRANSITIONS[state]
    assert Series.objects.get().state == (to if allowed else state)


# Series


@pytest.mark.django_db
def test_reasons_are_kept_as_data_whatever_they_contain():
    states.hold("1.2.3", WHY, Reason("other", "b\0", "Skyra"))
    series = Series.objects.get()
    assert series.why[0] == WHY and series.reason_code == "test"
    assert series.reason == "why; and why else; Skyra: b�"
    assert Event.objects.get(kind="held").reasons == series.reasons


def test_text_that_is_not_utf_8_is_stored_with_a_mark():
    assert as_json([Reason("test", "a\udcff")])[0]["text"] == "a?"


def test_ten_thousand_reasons_are_counted_and_not_kept():
    stored = as_json(Reason("unreadable", str(number)) for number in range(10_000))
    assert len(stored) == MOST_REASONS
    assert from_json(stored)[-1] == Reason("more", f"and {10_001 - MOST_REASONS} more")
    assert render(stored).endswith("; and 9951 more")


@pytest.mark.django_db
def test_each_change_has_one_event_and_none_is_written_for_nothing_new():
    states.received("1.2.3")
    states.received("1.2.3")
    assert states.queued("1.2.3", by="alice")
    states.wait("1.2.3", WHY)
    states.wait("1.2.3", WHY)
    states.wait("1.2.3", Reason("test", "another"))
    assert kinds() == ["received", "queued", "waiting", "waiting"]
    assert Event.objects.get(kind="queued").by == "alice"


@pytest.mark.django_db
def test_a_series_is_queued_only_as_it_was_seen():
    series = in_state(S.DONE)
    assert not states.queued(series.series_uid)  # nothing of it waits in the spool
    assert not states.queued(series.series_uid, seen=S.HELD)
    assert states.queued(series.series_uid, seen=S.DONE)
    assert Series.objects.get().state == S.QUEUED


def test_the_story_of_a_series_can_be_read(ingested):
    assert kinds(ingested) == ["received", "ingesting", "archived", "converting"]
    assert Event.objects.get(kind="archived").reason == "version 1, 2 instances"


def test_a_queued_series_without_files_or_archive_is_held(ingested, spool, scratch):
    lost = in_state(S.QUEUED)
    ingest_series(spool, lost.series_uid, (), scratch)
    lost.refresh_from_db()
    assert (lost.state, lost.reason_code) == (S.HELD, "no-files")
    states.queued(ingested.series_uid, seen=S.CONVERTING)
    ingest_series(spool, ingested.series_uid, (), scratch)
    ingested.refresh_from_db()
    assert ingested.state == S.CONVERTING


@pytest.mark.parametrize("state", states.IN_SPOOL)
def test_the_end_of_a_filter_does_not_hide_what_waits_in_the_spool(ingested, state):
    Series.objects.update(state=state)
    FilterRun.objects.update(state=R.DONE)
    states.refresh(ingested.pk)
    assert Series.objects.get().state == state
    states.refresh(ingested.pk, ingested=True)
    assert Series.objects.get().state == S.DONE


@pytest.mark.django_db
def test_a_discarded_series_can_come_back():
    states.hold("1.2.3", WHY)
    series = Series.objects.get()
    assert states.discarded(series, Reason("test", "a phantom"), by="alice")
    assert Series.objects.get().state == S.DISCARDED
    states.restored(series, by="bob")
    assert Series.objects.get().state == S.RECEIVING
    assert kinds() == ["received", "held", "discarded", "restored"]


def test_discarding_late_files_leaves_the_archives_state(ingested):
    FilterRun.objects.update(state=R.DONE)
    states.hold(ingested.series_uid, WHY)
    states.discarded(ingested, Reason("test", "another patient"), by="alice")
    assert Series.objects.get().state == S.DONE


# Filter runs


def test_one_of_two_workers_gets_a_run_and_an_overtaken_one_records_nothing(ingested):
    run = FilterRun.objects.get(filter="nifti")
    assert [states.claim(run.pk), states.claim(run.pk)] == [True, False]
    run.refresh_from_db()
    assert states.take_back(run.pk, run.state, run.attempts, run.beat, run.lost) == R.QUEUED
    assert states.claim(run.pk)
    before = Event.objects.count()
    assert not states.finish(run, R.DONE, [], converter="the first worker's")
    assert FilterRun.objects.get(pk=run.pk).converter == ""
    assert Event.objects.count() == before


def test_a_run_that_showed_life_is_not_taken_back(ingested):
    run = FilterRun.objects.get(filter="nifti")
    states.claim(run.pk)
    assert states.take_back(run.pk, R.RUNNING, 1, 0, 0) is None
    assert states.take_back(run.pk, R.RUNNING, 1, 1, LOST_ATTEMPTS - 1) == R.FAILED
    assert FilterRun.objects.get(pk=run.pk).reason == f"the worker died {LOST_ATTEMPTS} times in a row"


def test_what_has_ended_or_waits_is_requeued_and_the_series_follows(ingested):
    ended = FilterRun.objects.get(filter="nifti")
    FilterRun.objects.update(state=R.DONE)
    FilterRun.objects.filter(pk=ended.pk).update(state=R.FAILED, reasons=why("no dcm2niix"))
    states.refresh(ingested.pk)
    assert Series.objects.get().state == S.PARTIAL
    ids = list(FilterRun.objects.values_list("pk", flat=True))
    assert states.requeue([ended.pk, 10**6], by="alice") == [ended.pk]
    assert Series.objects.get().state == S.CONVERTING
    assert states.requeue(ids) == [pk for pk in ids if pk != ended.pk]  # the other was queued already
    assert states.requeue(ids, seen=Q(attempts=9)) == []
    event = Event.objects.filter(kind="run-queued", by="alice").get()
    assert (event.run, event.subject) == (ended, "nifti")


@pytest.mark.parametrize(("state", "after"), [(R.FAILED, R.FAILED), (R.WAITING, R.SKIPPED)])
def test_runs_of_a_superseded_archive_are_refused(ingested, spool, scratch, tmp_path, state, after):
    paths = phantom(tmp_path / "late", slices=3, series_uid=ingested.series_uid)
    deliver(spool, paths[-1])
    ingest_series(spool, ingested.series_uid, ("nifti",), scratch)
    old = FilterRun.objects.filter(archive__version=1)
    assert set(old.values_list("state", flat=True)) == {R.SKIPPED}
    old.update(state=state)
    assert states.requeue(list(old.values_list("pk", flat=True))) == []
    assert set(old.values_list("state", flat=True)) == {after}
