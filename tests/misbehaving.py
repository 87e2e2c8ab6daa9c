"""Filters that take their time, hang, crash and eat memory, for tests with real workers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tardis_imagetrove.filters.base import DicomSeries, Filter, FilterResult, Output


class SlowFilter(Filter):
    """Takes as many seconds as IMAGETROVE_TEST_SLOW says, and writes the id of its process first."""

    name, title, version = "slow", "Slow", "1"

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        with Path(os.environ["IMAGETROVE_TEST_STARTS"]).open("a") as starts:
            starts.write(f"{os.getpid()}\n")
        time.sleep(float(os.environ["IMAGETROVE_TEST_SLOW"]))
        path = out / f"{series.name}.txt"
        path.write_text(str(len(series.files)))
        return FilterResult((Output(path, "text/plain", "Count"),))


class HangingFilter(SlowFilter):
    name, seconds = "hanging", 2

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        while True:
            pass


class HungryFilter(SlowFilter):
    name, memory_mib = "hungry", 200

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        held = []
        while True:
            held.append(bytearray(50 << 20))


class CrashingFilter(SlowFilter):
    name = "crashing"

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError


class WorkerKillingFilter(SlowFilter):
    """Kills the worker's own process, as nothing but a fault in the kernel's choice would."""

    name = "killing"

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
        raise AssertionError
