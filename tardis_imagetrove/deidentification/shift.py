"""Dates and times moved by a fixed distance (PS3.5 section 6.2 DA, TM, DT)."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)\Z")
TIME = re.compile(r"(\d\d):?(\d\d)?:?(\d\d)?(?:\.(\d{1,6}))?\Z")
DATETIME = re.compile(r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)?(?:[+-]\d{4})?\Z")


def moved_date_and_time(date: str, time: str, by: timedelta) -> tuple[str | None, str | None]:
    """A date and the time that belongs to it, moved together; None for what cannot be read.

    A date without a time is moved by whole days.
    """
    day, clock = DATE.match(date.strip()), TIME.match(time.strip())
    try:
        if day is None:
            return None, None
        year, month, number = (int(part) for part in day.groups())
        start = datetime(year, month, number)  # noqa: DTZ001 (the scanner's own)
        moment = start + _since_midnight(clock) + by if clock else start + timedelta(days=by.days)
    except (ValueError, OverflowError):
        return None, None
    return moment.strftime("%Y%m%d").zfill(8), _time_text(moment, clock) if clock else None


def moved_time(text: str, by: timedelta) -> str | None:
    """A time without a date, moved; None if it cannot be read."""
    clock = TIME.match(text.strip())
    if not clock:
        return None
    try:
        return _time_text(datetime(2000, 1, 1) + _since_midnight(clock) + by, clock)  # noqa: DTZ001
    except ValueError:
        return None


def moved_datetime(text: str, by: timedelta) -> str | None:
    """A DT with at least year, month and day, moved; None otherwise. Its time zone, which tells the place, is dropped."""
    found = DATETIME.match(text.strip())
    if not found:
        return None
    date, time = moved_date_and_time(found[1], found[2] or "", by)
    return None if date is None else date + (time or "")


def _since_midnight(clock: re.Match[str]) -> timedelta:
    hours, minutes, seconds, fraction = clock.groups()
    if int(hours) > 23 or int(minutes or 0) > 59 or int(seconds or 0) > 60:
        raise ValueError("no time of day")
    return timedelta(
        hours=int(hours),
        minutes=int(minutes or 0),
        seconds=int(seconds or 0),
        microseconds=int((fraction or "").ljust(6, "0")),
    )


def _time_text(moment: datetime, clock: re.Match[str]) -> str:
    """The time of day as TM, with a fraction if the original has one."""
    text = moment.strftime("%H%M%S")
    return f"{text}.{moment.microsecond:06d}" if clock[4] else text
