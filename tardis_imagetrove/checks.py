"""System checks: what is wrong with a site's configuration, told before it costs anybody a scan.

Their ids are stable and listed in ``docs/install.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from django.core import checks
from django.db import DatabaseError
from django.urls import NoReverseMatch, reverse

from .conf import DEFAULTS, settings
from .filters import registry
from .models import InstrumentConfiguration
from .mytardis.parameters import schema_problem
from .parameters import Level
from .senders import configured_senders, instruments_without_senders

#: Settings that are numbers, with the smallest value that makes sense.
_NUMBERS = {
    "SPOOL_RESERVE_MIB": 0,
    "QUIET_SECONDS": 0,
    "COMMITMENT_WAIT_SECONDS": 0,
    "STALL_SECONDS": 1,
    "RETRY_SECONDS": 1,
    "RETRY_SECONDS_MAX": 1,
}


#: Tag of what must be right for receiving; what only workers need keeps no receiver from starting.
RECEIVING = "imagetrove_receiving"


@checks.register("imagetrove", RECEIVING)
def check_settings(**_: object) -> list[checks.CheckMessage]:
    """The ``IMAGETROVE`` setting: its keys and types."""
    return [*_check_keys(), *_check_numbers()]


@checks.register("imagetrove")
def check_what_settings_name(**_: object) -> list[checks.CheckMessage]:
    """The folders and filters that the ``IMAGETROVE`` setting names."""
    return [*_check_folders(), *_check_filters()]


def _check_keys() -> Iterator[checks.CheckMessage]:
    for key in sorted(settings.given().keys() - DEFAULTS.keys()):
        yield checks.Error(
            f"IMAGETROVE[{key!r}] is no setting of this app.",
            hint=f"The settings are {', '.join(sorted(DEFAULTS))}.",
            id="imagetrove.E001",
        )


def _check_numbers() -> Iterator[checks.CheckMessage]:
    for key, least in _NUMBERS.items():
        value = getattr(settings, key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < least:
            yield checks.Error(
                f"IMAGETROVE[{key!r}] is {value!r}: it must be a number of at least {least}.",
                id="imagetrove.E002",
            )


def _check_folders() -> Iterator[checks.CheckMessage]:
    if not settings.SPOOL:
        yield checks.Error(
            "IMAGETROVE['SPOOL'] is not set.",
            hint="Name the folder in which received files wait until they are archived.",
            id="imagetrove.E003",
        )
    for key in ("SPOOL", "SCRATCH"):
        value = getattr(settings, key)
        if value and not _can_be_written(Path(value)):
            yield checks.Error(
                f"IMAGETROVE[{key!r}]: {value} cannot be written by this user.", id="imagetrove.E004"
            )


def _can_be_written(folder: Path) -> bool:
    """Whether the folder, or the one in which it would be made, can be written."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _check_filters() -> Iterator[checks.CheckMessage]:
    found = registry.survey()
    for problem in (*found.setting_problems, *found.entry_point_problems):
        yield checks.Error(f"{problem}.", id="imagetrove.E005")
    for conversion in found.filters.values():
        for problem in conversion.problems():
            yield checks.Warning(f"Filter {conversion.name}: {problem}.", id="imagetrove.W001")


@checks.register("imagetrove", deploy=True)
def check_broker(**_: object) -> list[checks.CheckMessage]:
    """Whether Celery's broker answers within seconds; by ``check --deploy``, since it connects."""
    from tardis.celery import tardis_app

    try:
        with tardis_app.connection_for_write() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=5)
    except Exception as error:  # each transport has its own
        return [
            checks.Error(
                f"Celery's broker cannot be reached: {type(error).__name__}: {error}",
                hint="Series wait in the spool meanwhile. See MyTARDIS's setting of the broker's URL.",
                id="imagetrove.E006",
            )
        ]
    return []


@checks.register(checks.Tags.database)
def check_schemas(databases: Sequence[str] | None = None, **_: object) -> list[checks.CheckMessage]:
    """Whether each instrument's schemas are of the right type; by ``check --database default``."""
    if not databases:
        return []
    try:
        return [
            checks.Error(f"Instrument configuration {configuration.name}: {problem}.", id="imagetrove.E007")
            for configuration in InstrumentConfiguration.objects.all()
            for level, namespace in (
                (Level.EXPERIMENT, configuration.schema_experiment),
                (Level.DATASET, configuration.schema_dataset),
                (Level.DATAFILE, configuration.schema_file),
            )
            if (problem := schema_problem(level, namespace))
        ]
    except DatabaseError:  # before the first migrate
        return []


@checks.register(checks.Tags.database)
def check_senders(databases: Sequence[str] | None = None, **_: object) -> list[checks.CheckMessage]:
    """Whether somebody may store for each enabled instrument; by ``check --database default``."""
    if not databases:
        return []
    try:
        names, senders = instruments_without_senders(), configured_senders()
    except DatabaseError:  # before the first migrate
        return []
    if not names:
        return []
    if senders:
        what = "only what another instrument's sender sends of it is taken"
    else:
        what = "nothing can be received"
    return [
        checks.Warning(
            f"No sender is configured for {', '.join(names)}: {what}.",
            hint="Add the AE title and address of the console to the instrument's configuration in admin.",
            id="imagetrove.W003",
        )
    ]


@checks.register("imagetrove")
def check_mounted(**_: object) -> list[checks.CheckMessage]:
    """Whether MyTARDIS has mounted the app's pages, which it omits without a word when it cannot."""
    try:
        reverse("tardis_imagetrove:index")
    except NoReverseMatch:
        return [
            checks.Warning(
                "The pages of tardis_imagetrove are not mounted.",
                hint="INSTALLED_APPS must hold 'tardis_imagetrove' itself, not a class of its apps module;"
                " importing tardis_imagetrove.urls by hand shows any other cause.",
                id="imagetrove.W002",
            )
        ]
    return []
