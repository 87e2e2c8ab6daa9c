"""The filters of this installation, by name: those that the ``FILTERS`` setting lists."""

from __future__ import annotations

from collections.abc import Iterable

from django.utils.module_loading import import_string

from ..conf import settings
from ..errors import PermanentError
from .base import Filter


def load(paths: Iterable[str] | None = None) -> dict[str, Filter]:
    """One instance of each filter, by its name, in the order of the setting.

    Raises:
        PermanentError: a path that cannot be imported, or is no filter, or two of one name.
    """
    filters: dict[str, Filter] = {}
    for path in settings.FILTERS if paths is None else paths:
        try:
            kind = import_string(path)
        except ImportError as error:
            raise PermanentError(f"IMAGETROVE['FILTERS']: {path} cannot be imported: {error}") from error
        if not (isinstance(kind, type) and issubclass(kind, Filter)):
            raise PermanentError(
                f"IMAGETROVE['FILTERS']: {path} is not a subclass of {Filter.__module__}.Filter"
            )
        if kind.name in filters:
            raise PermanentError(f"IMAGETROVE['FILTERS']: two filters are named {kind.name!r}")
        filters[kind.name] = kind()
    return filters
