"""Runs one filter on one series: the only place that does, whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ..filters.base import DicomSeries, Filter, FilterResult
from ..sandbox.isolation import Limits, Report, isolated


def execute(
    conversion: Filter,
    series: DicomSeries,
    limits: Limits,
    out: Path,
    begin: Callable[[], None] = lambda: None,
    waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Report:
    """Run a filter in a process of its own, and check what it made.

    Args:
        out: an empty folder for its files.
        begin, waiting: as for :func:`~tardis_imagetrove.sandbox.isolation.isolated`.

    Returns:
        A report whose ``value`` is a :class:`~tardis_imagetrove.filters.base.FilterResult`, or None beside an
        ``error``; this function raises neither.
    """

    def work() -> FilterResult:
        result = conversion.run(series, out)
        conversion.check(result, out)
        return result

    return isolated(work, limits, begin, waiting)
