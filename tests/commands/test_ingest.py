"""``imagetrove_ingest``: series are queued at once when an operator asks."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from tardis_imagetrove.spool import Spool

from ..conftest import deliver, phantom, series_uid

pytestmark = pytest.mark.django_db(transaction=True)

INGEST = "tardis_imagetrove.ingest_series"


@pytest.fixture
def two(spool, settings, tmp_path):
    """UIDs of two series in the spool."""
    settings.IMAGETROVE = {"SPOOL": str(spool.root)}
    paths = [phantom(tmp_path / name, slices=1)[0] for name in "ab"]
    deliver(spool, *paths)
    return [series_uid(path) for path in paths]


def run(*arguments, **options) -> str:
    out = StringIO()
    call_command("imagetrove_ingest", *arguments, stdout=out, **options)
    return out.getvalue()


def test_a_series_is_queued_by_its_uid(two, queued):
    assert run(two[1]) == f"{two[1]}: queued\n"
    assert queued == [(INGEST, two[1], None)]


def test_all_that_waits_is_queued(two, queued):
    run("--all-waiting")
    assert queued == [(INGEST, uid, None) for uid in sorted(two)]


def test_of_another_spool_the_worker_is_told(two, queued, tmp_path):
    other = Spool(tmp_path / "other", reserve_bytes=0)
    other.prepare()
    assert run("--all-waiting", spool=other.root) == "Nothing waits in the spool.\n"
    path = phantom(tmp_path / "c", slices=1)[0]
    deliver(other, path)
    run("--all-waiting", spool=other.root)
    assert queued == [(INGEST, series_uid(path), str(other.root))]


def test_a_series_that_is_not_there_is_told_and_the_others_are_queued(two, queued):
    with pytest.raises(CommandError, match=r"not in the spool: 1\.2\.3$"):
        run("1.2.3", two[0])
    assert queued == [(INGEST, two[0], None)]


def test_nothing_or_both_is_a_mistake(two, queued):
    for arguments in ((), ("--all-waiting", two[0])):
        with pytest.raises(CommandError, match="Name series, or give --all-waiting"):
            run(*arguments)
    assert queued == []


def test_a_broker_or_a_spool_that_is_away_is_told(two, settings, queued):
    queued.away = True
    with pytest.raises(CommandError, match="the broker cannot be reached"):
        run("--all-waiting")
    for folder, said in ((None, "is not set"), ("/nowhere/at/all", "/nowhere/at/all")):
        settings.IMAGETROVE = {"SPOOL": folder}
        with pytest.raises(CommandError, match=said):
            run("--all-waiting")
