"""Parameters: named values with units, on their way from a filter to MyTARDIS's parameter sets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class Level(str, Enum):
    """Where in MyTARDIS a parameter set belongs."""

    EXPERIMENT = "experiment"
    DATASET = "dataset"
    DATAFILE = "datafile"


@dataclass(frozen=True)
class Parameter:
    """One named value with its unit.

    ``value`` decides MyTARDIS's type: numbers become NUMERIC, an aware ``datetime`` DATETIME,
    a ``str`` STRING (LONGSTRING when it is longer than a line).
    """

    name: str
    value: float | int | str | datetime
    units: str = ""
    full_name: str = ""


@dataclass(frozen=True)
class Parameters:
    """The parameters of one level, under the instrument's schema of that level.

    Attributes:
        key: name of the parameter that tells sets of one schema apart, where an object has
            several (a dataset with several series); empty where it has one.
    """

    level: Level
    values: tuple[Parameter, ...]
    key: str = ""
