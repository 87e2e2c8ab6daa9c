"""The filters of this installation, by name: those of the ``FILTERS`` setting, then those of entry points."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from django.utils.module_loading import import_string

from ..conf import settings
from ..errors import PermanentError
from .base import Filter

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
    for path in settings.FILTERS if paths is None else paths:
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
