"""System checks: each mistake in the settings has its own message, and a sound site has none."""

from __future__ import annotations

import importlib.util

import pytest
from django.apps import apps
from django.core import checks
from django.core.management import call_command

from tardis_imagetrove.checks import (
    check_dataset_schemas,
    check_mytardis_database,
    check_schemas,
    check_senders,
    check_spool_is_safe,
)
from tardis_imagetrove.models import Series
from tardis_imagetrove.scp import promiscuous_mark
from tardis_imagetrove.spool import Spool

from .conftest import configure

TYPED = "objectacl" not in apps.all_models["tardis_portal"]


def found(settings, **changes) -> dict[str, str]:
    settings.IMAGETROVE = {**settings.IMAGETROVE, **changes}
    return {message.id: str(message.msg) for message in checks.run_checks(tags=["imagetrove"])}


def test_a_sound_site_has_nothing_to_be_told(settings, tmp_path):
    assert found(settings, SPOOL=str(tmp_path)) == {}


@pytest.mark.parametrize(
    ("changes", "id_", "words"),
    [
        ({"SPOOLL": "/tmp"}, "imagetrove.E001", "IMAGETROVE contains an unknown key 'SPOOLL'"),
        ({"QUIET_SECONDS": "60"}, "imagetrove.E002", "IMAGETROVE['QUIET_SECONDS'] is '60'"),
        ({"STALL_SECONDS": 0}, "imagetrove.E002", "IMAGETROVE['STALL_SECONDS'] is 0"),
        ({"RETRY_SECONDS": True}, "imagetrove.E002", "IMAGETROVE['RETRY_SECONDS'] is True"),
        ({"SPOOL": None}, "imagetrove.E003", "IMAGETROVE['SPOOL'] is not set"),
        (
            {"SPOOL": "/dev/null/x"},
            "imagetrove.E004",
            "IMAGETROVE['SPOOL']: /dev/null/x cannot be written",
        ),
        ({"SCRATCH": "/dev/null"}, "imagetrove.E004", "IMAGETROVE['SCRATCH']: /dev/null cannot be written"),
        ({"FILTERS": ["no.such.Filter"]}, "imagetrove.E005", "no.such.Filter cannot be imported"),
        ({"FILTERS": ["pathlib.Path"]}, "imagetrove.E005", "pathlib.Path is not a subclass"),
        (
            {"FILTERS": ["tardis_imagetrove.filters.nifti.NiftiFilter"] * 2},
            "imagetrove.E005",
            "two filters are named 'nifti'",
        ),
        (
            {"FILTER_OPTIONS": {"nifty": {}}},
            "imagetrove.E008",
            "IMAGETROVE['FILTER_OPTIONS']['nifty']: unknown filter",
        ),
        (
            {"FILTER_OPTIONS": {"nifti": {"second": 1}}},
            "imagetrove.E008",
            "['nifti']: unknown option 'second'; the options are seconds, memory_mib",
        ),
        (
            {"FILTER_OPTIONS": {"nifti": {"seconds": 0}}},
            "imagetrove.E008",
            "['nifti']['seconds'] is 0: it must be at least 1",
        ),
        (
            {"FILTER_OPTIONS": {"minc": {"memory_mib": "4G"}}},
            "imagetrove.E008",
            "['minc']['memory_mib'] is '4G': it must be of type float",
        ),
        ({"FILTER_OPTIONS": ["nifti"]}, "imagetrove.E008", "is no dictionary"),
        ({"CONVERT_QUEUE": ""}, "imagetrove.E002", "IMAGETROVE['CONVERT_QUEUE'] is ''"),
        ({"CONVERT_QUEUE": ["a"]}, "imagetrove.E002", "IMAGETROVE['CONVERT_QUEUE'] is ['a']"),
        ({"SPOOL": 5}, "imagetrove.E002", "IMAGETROVE['SPOOL'] is 5: it must be a folder's path"),
        ({"SPOOL": b"/spool"}, "imagetrove.E002", "IMAGETROVE['SPOOL'] is b'/spool'"),
        ({"SPOOL": "/a\0b"}, "imagetrove.E002", "IMAGETROVE['SPOOL'] is '/a\\x00b'"),
        ({"SPOOL": "/a" * 9000}, "imagetrove.E004", "cannot be written"),
        ({"SCRATCH": ["/tmp"]}, "imagetrove.E002", "IMAGETROVE['SCRATCH'] is ['/tmp']"),
        ({"FILTERS": None}, "imagetrove.E005", "IMAGETROVE['FILTERS'] is None: it must be a list"),
        ({"FILTERS": "a.B"}, "imagetrove.E005", "IMAGETROVE['FILTERS'] is 'a.B': it must be a list"),
        ({"FILTERS": [5]}, "imagetrove.E005", "IMAGETROVE['FILTERS'] is [5]: it must be a list"),
        ({"QUIET_SECONDS": float("nan")}, "imagetrove.E002", "IMAGETROVE['QUIET_SECONDS'] is nan"),
        ({"RETRY_SECONDS": 10**400}, "imagetrove.E002", "IMAGETROVE['RETRY_SECONDS'] is 1000"),
    ],
)
def test_a_mistake_is_named_with_its_setting(settings, changes, id_, words):
    messages = found(settings, **changes)
    assert words in messages[id_]


@pytest.mark.parametrize("wrong", [5, ["SPOOL"], "SPOOL"])
def test_settings_that_are_no_dictionary_are_told(settings, wrong):
    settings.IMAGETROVE = wrong
    (message,) = (m for m in checks.run_checks(tags=["imagetrove"]) if m.id.startswith("imagetrove.E"))
    assert message.msg.startswith("IMAGETROVE must be a dictionary, and is of type ")


def test_keys_that_are_no_texts_are_told_beside_others(settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, None: 1, "SPOOLL": 2}
    told = " ".join(m.msg for m in checks.run_checks(tags=["imagetrove"]) if m.id == "imagetrove.E001")
    assert "IMAGETROVE contains an unknown key None" in told
    assert "IMAGETROVE contains an unknown key 'SPOOLL'" in told


def test_a_queue_of_the_wrong_kind_does_not_stop_the_check_of_the_broker(settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "INGEST_QUEUE": ["a"]}
    assert "imagetrove.E002" in {m.id for m in checks.run_checks(include_deployment_checks=True)}


@pytest.mark.parametrize("key", ["SPOOL", "SCRATCH"])
def test_a_folder_that_is_not_there_is_told_since_its_disk_may_not_be_mounted(settings, tmp_path, key):
    messages = found(settings, **{key: str(tmp_path / "not" / "mounted")})
    assert "not/mounted does not exist" in messages["imagetrove.W003"]


def test_a_receiver_for_everybody_and_a_spool_without_space_are_told(settings, tmp_path):
    def unsafe(reserve: int, folder: str = str(tmp_path)) -> list[str]:
        settings.IMAGETROVE = {**settings.IMAGETROVE, "SPOOL": folder, "SPOOL_RESERVE_MIB": reserve}
        return [message.id for message in check_spool_is_safe()]

    assert unsafe(0) == unsafe(0, str(tmp_path / "away")) == unsafe(-1) == []
    with promiscuous_mark(Spool(tmp_path)):
        assert unsafe(0) == ["imagetrove.W010"]
    free = Spool(tmp_path).free_bytes() // 2**20
    assert unsafe(free * 2 // 3) == ["imagetrove.W011"]
    assert unsafe(free * 2) == ["imagetrove.W011"]
    (message,) = check_spool_is_safe()
    assert "every instance is refused" in message.msg


@pytest.mark.skipif(TYPED, reason="MyTARDIS 5.0 has needs of its own")
def test_mytardis_4_needs_nothing_else(settings):
    settings.ROOT_URLCONF = "tardis_imagetrove.urls"
    assert "imagetrove.W004" not in found(settings)


@pytest.mark.skipif(not TYPED, reason="only MyTARDIS 5.0 needs these")
def test_what_mytardis_5_lacks_for_its_own_pages_is_told(settings):
    del settings.DEFAULT_PERMISSIONS
    settings.ROOT_URLCONF = "django.contrib.auth.urls"
    told = " ".join(m.msg for m in checks.run_checks(tags=["imagetrove"]) if m.id == "imagetrove.W004")
    assert "tardis.apps.sftp" in told
    assert "DEFAULT_PERMISSIONS" in told


@pytest.mark.skipif(not TYPED, reason="only MyTARDIS 5.0 has a public user")
@pytest.mark.django_db(transaction=True)
def test_a_public_user_who_is_not_there_is_told(settings, owner):
    assert check_mytardis_database(databases=["default"]) == []
    settings.PUBLIC_USER_ID = 4711
    (message,) = check_mytardis_database(databases=["default"])
    assert "4711 (PUBLIC_USER_ID)" in message.msg


def test_a_queue_that_celery_would_not_make_is_told(settings):
    from tardis.celery import tardis_app

    assert "imagetrove.E009" not in found(settings, INGEST_QUEUE="mine")
    tardis_app.conf.task_create_missing_queues = False
    try:
        assert (
            "queue 'mine' is not defined in Celery" in found(settings, INGEST_QUEUE="mine")["imagetrove.E009"]
        )
    finally:
        tardis_app.conf.task_create_missing_queues = True


def test_a_missing_converter_is_told(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    messages = found(settings)
    assert "dcm2niix" in messages["imagetrove.W001"]


def test_pages_and_api_that_are_not_mounted_are_told(settings):
    settings.ROOT_URLCONF = "django.contrib.auth.urls"
    told = [m.msg for m in checks.run_checks(tags=["imagetrove"]) if m.id == "imagetrove.W002"]
    assert told == [f"MyTARDIS has not mounted the {what} of tardis_imagetrove." for what in ("pages", "API")]


def test_a_converter_that_is_too_old_is_told_with_its_version(settings, monkeypatch, tmp_path):
    program = tmp_path / "dcm2niix"
    program.write_text("#!/bin/sh\necho 'Chris Rorden dcm2niiX version v1.0.20160101'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "v1.0.20160101" in found(settings)["imagetrove.W001"]


def test_a_broker_that_is_away_is_told(settings, monkeypatch):
    from kombu import Connection
    from tardis.celery import tardis_app

    monkeypatch.setattr(
        type(tardis_app), "connection_for_write", lambda _: Connection("amqp://127.0.0.1:1//")
    )
    messages = checks.run_checks(tags=["imagetrove"], include_deployment_checks=True)
    assert "cannot be reached" in {message.id: message.msg for message in messages}["imagetrove.E006"]


@pytest.mark.django_db(transaction=True)
def test_a_schema_of_the_wrong_type_is_told_with_the_instrument(owner):
    from tardis.tardis_portal.models import Schema

    configuration = configure(owner)
    assert check_schemas(databases=["default"]) == []
    Schema.objects.create(namespace=configuration.schema_dataset, type=Schema.EXPERIMENT)
    (message,) = check_schemas(databases=["default"])
    assert "Phantom MR: schema http://example.edu/schema/2 is" in message.msg
    call_command("migrate", verbosity=0, skip_checks=False)  # which one instrument must not stop


# The page of a dataset

PAGE = "tardis_imagetrove.views.DatasetPage"


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("tardis_imagetrove.views.DatasetPagee", 'does not define a "DatasetPagee"'),
        ("tardis_imagetrov.views.DatasetPage", "No module named 'tardis_imagetrov'"),
        ("tardis_imagetrove.views.series_list", "series_list"),
        (PAGE, None),
        ("tardis.tardis_portal.views.pages.DatasetView", None),
    ],
)
def test_a_dataset_view_that_is_not_there_is_told(settings, tmp_path, view, words):
    settings.DATASET_VIEWS = [("http://example.edu/", view)]
    told = found(settings, SPOOL=str(tmp_path))
    if words is None:
        assert told == {}
    else:
        assert list(told) == ["imagetrove.W009"]
        assert words in told["imagetrove.W009"] and "'http://example.edu/'" in told["imagetrove.W009"]


@pytest.mark.django_db
def test_instruments_whose_datasets_have_no_page_and_pages_without_an_instrument_are_told(owner, settings):
    configure(owner, name="Skyra", schema_dataset="http://example.edu/schema/20")
    settings.DATASET_VIEWS = [(r"http://example\.edu/schema/2$", PAGE), (r"http://", "another.apps.View")]
    told = [message.msg for message in check_dataset_schemas(databases=["default"])]
    assert told == [
        "Instrument configuration Skyra: no pattern of DATASET_VIEWS for the app's page matches its dataset"
        " schema http://example.edu/schema/20; MyTARDIS shows its own page for these datasets.",
        r"DATASET_VIEWS['http://example\\.edu/schema/2$'] matches no instrument's dataset schema.",
    ]
    settings.DATASET_VIEWS = [(r"http://example\.edu/schema/2", PAGE)]
    assert check_dataset_schemas(databases=["default"]) == []
    settings.DATASET_VIEWS = []
    assert check_dataset_schemas(databases=["default"]) == []


@pytest.mark.django_db
def test_an_instrument_behind_a_router_is_not_told_to_have_no_sender(owner):
    one = configure(owner, name="Skyra")
    one.senders.all().delete()
    assert [message.id for message in check_senders(databases=["default"])] == ["imagetrove.W007"]
    Series.objects.create(series_uid="1.2.3", configuration=one)
    assert check_senders(databases=["default"]) == []
