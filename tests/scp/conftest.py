"""Fixtures of the receiver's tests: a spool, and receivers on free ports of the loopback."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import settings

from tardis_imagetrove.scp import ReceiverConfig, Timeouts, running_receiver
from tardis_imagetrove.spool import Spool

# A machine that is busy with something else is no failure.
settings.register_profile("scp", deadline=None)
settings.load_profile("scp")

#: Quick enough for tests to wait for, long enough for a busy machine.
TIMEOUTS = Timeouts(associate=3.0, idle=30.0, stall=10.0, slow=10.0, close=0.5)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", reserve_bytes=0)


@pytest.fixture
def receive(spool):
    """Starts receivers: ``receive(admit=…, max_associations=…)``; all stop with the test."""
    with contextlib.ExitStack() as stack:

        def start(spool=spool, admit=None, commitment=None, **options):
            options = {"host": "127.0.0.1", "port": 0, "timeouts": TIMEOUTS, **options}
            return stack.enter_context(
                running_receiver(ReceiverConfig(**options), spool, admit, commitment, grace_seconds=2)
            )

        yield start


@pytest.fixture
def stored(spool):
    """The files in the spool's series folders, by name."""

    def files() -> list[Path]:
        return sorted(spool.series_root.glob("*/*"))

    return files
