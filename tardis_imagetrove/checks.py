"""System checks: what is wrong with a site's configuration, told before it costs anybody a scan.

Their ids are stable and listed in ``docs/install.md``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string

from .conf import DEFAULTS, settings
from .conversion import registry
from .models import InstrumentConfiguration
from .mytardis import mytardis
from .mytardis.parameters import schema_problem
from .parameters import Level
from .scp import is_promiscuous
from .senders import configured_senders, instruments_without_senders
from .spool import SpoolError

#: Settings of which the receiver knows nothing.
_WORKERS_ALONE = ("SCRATCH", "INGEST_QUEUE", "CONVERT_QUEUE", "FILTERS")


#: Tag of what must be right for receiving; what only workers need keeps no receiver from starting.
RECEIVING = "imagetrove_receiving"


@checks.register("imagetrove", RECEIVING)
def check_settings(**_: object) -> list[checks.CheckMessage]:
    """The ``IMAGETROVE`` setting: its keys and types."""
    return [*_check_keys(), *_check_kinds(name for name in settings.problems() if name not in _WORKERS_ALONE)]


@checks.register("imagetrove")
def check_what_settings_name(**_: object) -> list[checks.CheckMessage]:
    """The folders, filters and queues that the ``IMAGETROVE`` setting names."""
    if "IMAGETROVE" in settings.problems():
        return []
    # What is wrong with FILTERS is told with the filters.
    kinds = _check_kinds(("SCRATCH", "INGEST_QUEUE", "CONVERT_QUEUE"))
    return [*kinds, *_check_folders(), *_check_filters(), *_check_queues()]


def _check_keys() -> Iterator[checks.CheckMessage]:
    if "IMAGETROVE" in settings.problems():
        return
    for key in sorted(settings.given().keys() - DEFAULTS.keys(), key=repr):
        yield checks.Error(
            f"IMAGETROVE contains an unknown key {key!r}.",
            hint=f"The settings are {', '.join(sorted(DEFAULTS))}.",
            id="imagetrove.E001",
        )


def _check_kinds(names: Iterable[str]) -> Iterator[checks.CheckMessage]:
    problems = settings.problems()
    for name in names:
        if name in problems:
            yield checks.Error(f"{problems[name]}.", id="imagetrove.E002")


def _check_folders() -> Iterator[checks.CheckMessage]:
    problems = settings.problems()
    if "SPOOL" not in problems and not settings.SPOOL:
        yield checks.Error(
            "IMAGETROVE['SPOOL'] is not set.",
            hint="Name the folder in which received files wait until they are archived.",
            id="imagetrove.E003",
        )
    for key in ("SPOOL", "SCRATCH"):
        value = None if key in problems else getattr(settings, key)
        if not value:
            continue
        if not _can_be_written(Path(value)):
            yield checks.Error(
                f"IMAGETROVE[{key!r}]: {value} cannot be written by this user.", id="imagetrove.E004"
            )
        elif not Path(value).exists():
            yield checks.Warning(
                f"IMAGETROVE[{key!r}]: {value} does not exist.",
                hint="If it is on its own disk, mount it. Otherwise create the folder.",
                id="imagetrove.W003",
            )


def _can_be_written(folder: Path) -> bool:
    """Whether the folder, or the one in which it would be made, can be written."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
    except OSError:  # its name is too long, or this user may not look there
        return False
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _check_filters() -> Iterator[checks.CheckMessage]:
    found = registry.survey()
    for problem in (*found.setting_problems, *found.entry_point_problems):
        yield checks.Error(f"{problem}.", id="imagetrove.E005")
    for problem in registry.option_problems(found.filters):
        yield checks.Error(f"{problem}.", id="imagetrove.E008")
    for conversion in found.filters.values():
        for problem in conversion.problems():
            yield checks.Warning(f"Filter {conversion.name}: {problem}.", id="imagetrove.W001")


def _check_queues() -> Iterator[checks.CheckMessage]:
    from tardis.celery import tardis_app

    conf = tardis_app.conf
    named = {getattr(queue, "name", queue) for queue in conf.task_queues or ()}
    problems = settings.problems()
    for key in ("INGEST_QUEUE", "CONVERT_QUEUE"):
        queue = None if key in problems else getattr(settings, key)
        if queue and not conf.task_create_missing_queues and queue not in named:
            yield checks.Error(
                f"IMAGETROVE[{key!r}]: queue {queue!r} is not defined in Celery, and Celery may not create queues.",
                hint="Add it to Celery's setting of task queues.",
                id="imagetrove.E009",
            )


@checks.register("imagetrove", deploy=True)
def check_broker(**_: object) -> list[checks.CheckMessage]:
    """Whether Celery's broker answers within seconds, and workers listen; by ``check --deploy``: it connects."""
    from .tasks import broker_problem, unheard

    if problem := broker_problem():
        return [
            checks.Error(
                f"Celery's broker cannot be reached: {problem}",
                hint="Series wait in the spool meanwhile. See MyTARDIS's setting of the broker's URL.",
                id="imagetrove.E006",
            )
        ]
    if {"IMAGETROVE", "INGEST_QUEUE", "CONVERT_QUEUE"} & settings.problems().keys():
        return []  # told by the check of settings
    return [
        checks.Warning(
            f"{words[0].upper()}{words[1:]}.", id="imagetrove.W008", hint="Until then, series wait."
        )
        for words in unheard()
    ]


@checks.register("imagetrove", deploy=True)
def check_spool_is_safe(**_: object) -> list[checks.CheckMessage]:
    """Whether the receiver that runs now knows its senders, and has room; by ``check --deploy``."""
    from .tasks import open_spool

    if not {"SPOOL", "SPOOL_RESERVE_MIB"}.isdisjoint(settings.problems()):
        return []  # told by the check of settings
    found: list[checks.CheckMessage] = []
    try:
        spool = open_spool()
        if is_promiscuous(spool):
            found.append(
                checks.Warning(
                    "The receiver accepts every sender: it was started with --promiscuous.",
                    hint="Anybody who reaches the port can store. Configure senders and restart it without.",
                    id="imagetrove.W010",
                )
            )
        if (free := spool.free_bytes()) < max(1, spool.reserve_bytes):
            words = (
                f"has {free / 2**20:.0f} MiB for receiving"
                if free > 0
                else "is in its reserve: every instance is refused"
            )
            found.append(
                checks.Warning(
                    f"The disk of {spool.root} {words}; the reserve is {spool.reserve_bytes / 2**20:.0f} MiB.",
                    hint="A day of scans must fit, for when workers are away.",
                    id="imagetrove.W011",
                )
            )
    except (SpoolError, ImproperlyConfigured):
        pass  # a folder that is missing is told by the check of folders
    return found


@checks.register("imagetrove")
def check_mytardis(**_: object) -> list[checks.CheckMessage]:
    """What in MyTARDIS's own settings keeps its pages, and so this app's, from working."""
    return [
        checks.Warning(problem, hint=hint, id="imagetrove.W004")
        for problem, hint in mytardis().site_problems()
    ]


@checks.register(checks.Tags.database)
def check_mytardis_database(databases: Sequence[str] | None = None, **_: object) -> list[checks.CheckMessage]:
    """The same of what MyTARDIS needs to find in its database; by ``check --database default``."""
    if not databases:
        return []
    try:
        return [
            checks.Warning(problem, hint=hint, id="imagetrove.W006")
            for problem, hint in mytardis().database_problems()
        ]
    except DatabaseError:  # before the first migrate
        return []


@checks.register(checks.Tags.database)
def check_schemas(databases: Sequence[str] | None = None, **_: object) -> list[checks.CheckMessage]:
    """Whether each instrument's schemas are of the right type; by ``check --database default``.

    No error: ``migrate`` asks this as well, and one instrument must not keep MyTARDIS from migrating.
    """
    if not databases:
        return []
    try:
        return [
            checks.Warning(f"Instrument configuration {configuration.name}: {problem}.", id="imagetrove.W005")
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
            id="imagetrove.W007",
        )
    ]


@checks.register("imagetrove")
def check_dataset_views(**_: object) -> list[checks.CheckMessage]:
    """Whether what ``DATASET_VIEWS`` names for datasets' pages is there; MyTARDIS only logs that it is not."""
    found = []
    for pattern, view in _dataset_views():
        if isinstance(view, str):
            try:
                view = import_string(view)
            except ImportError as error:
                found.append(f"DATASET_VIEWS[{pattern!r}]: {error}")
                continue
        ours = getattr(view, "__module__", "").partition(".")[0] == __package__
        if ours and not _is_our_page(view):
            found.append(f"DATASET_VIEWS[{pattern!r}]: {view!r} is not a dataset page")
    return [checks.Warning(f"{words}.", hint=_DATASET_VIEWS_HINT, id="imagetrove.W009") for words in found]


@checks.register(checks.Tags.database)
def check_dataset_schemas(databases: Sequence[str] | None = None, **_: object) -> list[checks.CheckMessage]:
    """Whether ``DATASET_VIEWS`` and the instruments' schemas fit; by ``check --database default``."""
    ours = [pattern for pattern, view in _dataset_views() if _is_our_page(view)]
    if not databases or not ours:  # a site may do without our page
        return []
    try:
        schemas = dict(InstrumentConfiguration.objects.values_list("name", "schema_dataset"))
    except DatabaseError:  # before the first migrate
        return []
    without = [
        f"Instrument configuration {name}: no pattern of DATASET_VIEWS for the app's page matches its dataset"
        f" schema {schema}; MyTARDIS shows its own page for these datasets"
        for name, schema in sorted(schemas.items())
        if not any(re.match(pattern, schema) for pattern in ours)
    ]
    idle = [
        f"DATASET_VIEWS[{pattern!r}] matches no instrument's dataset schema"
        for pattern in ours
        if schemas and not any(re.match(pattern, schema) for schema in schemas.values())
    ]
    return [
        checks.Warning(f"{words}.", hint=_DATASET_VIEWS_HINT, id="imagetrove.W009")
        for words in (*without, *idle)
    ]


_DATASET_VIEWS_HINT = (
    "An entry is a regular expression of the dataset's schema, and the page:"
    " (r'http://example\\.edu/schema/2$', 'tardis_imagetrove.views.DatasetPage')."
)


def _dataset_views() -> list[tuple[str, object]]:
    return list(getattr(django_settings, "DATASET_VIEWS", None) or ())


def _is_our_page(view: object) -> bool:
    from .views import DatasetPage

    with suppress(ImportError):
        view = import_string(view) if isinstance(view, str) else view
    return isinstance(view, type) and issubclass(view, DatasetPage)


@checks.register("imagetrove")
def check_mounted(**_: object) -> list[checks.CheckMessage]:
    """Whether MyTARDIS has mounted the app's pages and its API, which it omits without a word when it cannot."""
    found = []
    series = {"api_name": "v1", "resource_name": "tardis-imagetrove_series"}
    for what, module, name, kwargs in (
        ("pages", "urls", "tardis_imagetrove:index", {}),
        ("API", "api", "api_dispatch_list", series),
    ):
        try:
            reverse(name, kwargs=kwargs)
        except NoReverseMatch:
            found.append(
                checks.Warning(
                    f"MyTARDIS has not mounted the {what} of tardis_imagetrove.",
                    hint="INSTALLED_APPS must contain 'tardis_imagetrove' itself, not a class of its apps module;"
                    f" importing tardis_imagetrove.{module} in `manage.py shell` shows any other cause.",
                    id="imagetrove.W002",
                )
            )
    return found
