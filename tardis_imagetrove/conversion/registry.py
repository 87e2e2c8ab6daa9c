"""The filters of this installation, by name: those of the ``FILTERS`` setting, then those of entry points."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..conf import DEFAULTS, settings
from ..errors import PermanentError
from ..filters.base import Filter, Makes, Option, Takes
from ..sandbox.isolation import Limits

GROUP = "tardis_imagetrove.filters"
"""The group of entry points by which an installed distribution brings filters."""

NAME_LENGTH = 64
"""Of a filter's name at most, as its runs are recorded."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """All filters that can be used, and words for those that cannot.

    Attributes:
        filters: by name, the setting's first, in its order.
        setting_problems, entry_point_problems: each names the path, or the distribution and entry point.
    """

    filters: dict[str, Filter]
    setting_problems: tuple[str, ...]
    entry_point_problems: tuple[str, ...]


def load(paths: Iterable[str] | None = None) -> dict[str, Filter]:
    """One instance of each filter, by its name; of ``paths`` alone if they are given.

    An installed distribution's filter that cannot be used is left out and told in the log and by
    the system check: a package that somebody installs must not stop the filters of the others.

    Raises:
        PermanentError: a path that cannot be imported, or is no filter, or two of one name.
    """
    found = survey(paths)
    for problem in found.setting_problems:
        raise PermanentError(problem)
    for problem in found.entry_point_problems:
        log.error("%s", problem)
    return found.filters


def survey(paths: Iterable[str] | None = None) -> Survey:
    """What :func:`load` finds, mistakes included; raises nothing."""
    filters: dict[str, Filter] = {}
    setting_problems, entry_point_problems = [], []
    try:
        named = settings.FILTERS if paths is None else paths
    except ImproperlyConfigured as error:
        named, setting_problems = (), [str(error)]
    for path in named:
        try:
            _add(filters, f"IMAGETROVE['FILTERS']: {path}", lambda path=path: import_string(path))
        except PermanentError as error:
            setting_problems.append(str(error))
    for point in _entry_points(tuple(sys.path)) if paths is None else ():
        try:
            _add(filters, _called(point), point.load, again_is_fine=True)
        except PermanentError as error:
            entry_point_problems.append(str(error))
    return Survey(filters, tuple(setting_problems), tuple(entry_point_problems))


def kinds() -> dict[str, Makes]:
    """Kinds of files by name, in the order in which filters list them: this site's, then the package's own.

    A file stays what it is when the site no longer runs the filter that made it.
    """
    found: dict[str, Makes] = {}
    for filters in (survey().filters, survey(DEFAULTS["FILTERS"]).filters):
        for conversion in filters.values():
            for makes in conversion.makes:
                found.setdefault(makes.kind, makes)
    return found


@lru_cache(maxsize=4)
def _entry_points(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Those of :data:`GROUP` that are installed on ``path``, looked for on disk once a process."""
    return tuple(sorted(entry_points(group=GROUP), key=_called))


def _called(point: EntryPoint) -> str:
    distribution = point.dist.metadata["Name"] if point.dist else "?"
    return f"distribution {distribution}, entry point {point.name} = {point.value}"


def _add(
    filters: dict[str, Filter], where: str, find: Callable[[], object], again_is_fine: bool = False
) -> None:
    """Add one instance of the class that ``find`` gives.

    Args:
        where: how a person finds the mistake.
        again_is_fine: the same class under the same name is there already and stays.

    Raises:
        PermanentError: it cannot be found or used.
    """
    try:
        kind = find()
    except Exception as error:  # a module raises what it likes when it is imported
        raise PermanentError(f"{where} cannot be imported: {_words(error)}") from error
    if not (isinstance(kind, type) and issubclass(kind, Filter)):
        raise PermanentError(f"{where} is not a subclass of {Filter.__module__}.Filter")
    for attribute in ("name", "title", "version"):
        if not isinstance(value := getattr(kind, attribute, None), str) or not value:
            raise PermanentError(f"{where} has no {attribute}")
        if len(value) > NAME_LENGTH:
            raise PermanentError(f"{where}: its {attribute} has more than {NAME_LENGTH} characters")
    if mistake := _mistake_in_class(kind):
        raise PermanentError(f"{where}: {mistake}")
    if kind.name in filters:
        if again_is_fine and type(filters[kind.name]) is kind:
            return
        raise PermanentError(f"{where}: two filters are named {kind.name!r}")
    try:
        filters[kind.name] = kind()
    except Exception as error:
        raise PermanentError(f"{where} cannot be used: {_words(error)}") from error


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"


def _mistake_in_class(kind: type[Filter]) -> str:
    """What is wrong with the other attributes of a filter's class; empty if nothing is."""
    if not isinstance(kind.takes, Takes):
        return "its takes is no Takes"
    for attribute, wanted in (("makes", Makes), ("options", Option)):
        value = getattr(kind, attribute)
        if not isinstance(value, tuple) or not all(isinstance(one, wanted) for one in value):
            return f"its {attribute} must be a tuple of {wanted.__name__}"
    names = [option.name for option in _all_options(kind)]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        return f"two of its options are named {', '.join(doubled)}"
    for option in _all_options(kind):
        if problem := option.problem(option.default):
            return f"the default of its option {option.name} {problem}"
    return ""


def _all_options(conversion: Filter | type[Filter]) -> tuple[Option, ...]:
    """A filter's own options, and the limits that each filter has."""
    return (
        *conversion.options,
        Option("seconds", float(conversion.seconds), "Seconds after which a run is stopped.", least=1),
        Option("memory_mib", float(conversion.memory_mib), "MiB of memory that a run may use.", least=64),
    )


def option_problems(filters: dict[str, Filter]) -> list[str]:
    """What is wrong with ``IMAGETROVE['FILTER_OPTIONS']``, each in words that name the key."""
    given = settings.FILTER_OPTIONS
    if not isinstance(given, dict) or not all(isinstance(values, dict) for values in given.values()):
        return ["IMAGETROVE['FILTER_OPTIONS'] is no dictionary of a dictionary for each filter"]
    found = []
    for name, values in given.items():
        where = f"IMAGETROVE['FILTER_OPTIONS'][{name!r}]"
        if name not in filters:
            found.append(f"{where}: unknown filter")
            continue
        known = {option.name: option for option in _all_options(filters[name])}
        for key, value in values.items():
            if key not in known:
                found.append(f"{where}: unknown option {key!r}; the options are {', '.join(known)}")
            elif problem := known[key].problem(value):
                found.append(f"{where}[{key!r}] {problem}")
    return found


def options_of(conversion: Filter) -> tuple[dict[str, object], Limits]:
    """The values of a filter's own options, and its limits, as the site has set them.

    Raises:
        PermanentError: a value is wrong.
    """
    for problem in option_problems({conversion.name: conversion}):
        if problem.startswith(f"IMAGETROVE['FILTER_OPTIONS'][{conversion.name!r}]"):
            raise PermanentError(problem)
    given = settings.FILTER_OPTIONS.get(conversion.name, {})
    values = {option.name: given.get(option.name, option.default) for option in _all_options(conversion)}
    limits = Limits(float(values.pop("seconds")), float(values.pop("memory_mib")))
    return values, limits
