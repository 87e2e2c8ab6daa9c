"""The conformance statement says what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tardis_imagetrove import __version__
from tardis_imagetrove.scp import ReceiverConfig, commitment, dimse, part10
from tardis_imagetrove.scp.action import MAX_ACTION_BYTES
from tardis_imagetrove.scp.association import MAX_P_DATA_BYTES
from tardis_imagetrove.scp.receiver import Receiver
from tardis_imagetrove.spool import Spool

STATEMENT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()


def row(beginning: str) -> str:
    """What a row of a table says, whose first cell begins so."""
    (found,) = re.findall(rf"^\| {re.escape(beginning)}[^|]*\|(.*)\|$", STATEMENT, re.MULTILINE)
    return found.strip()


def test_the_identity_is_that_of_the_program():
    assert f"receiver {__version__}" in STATEMENT
    assert row("Implementation class UID") == part10.IMPLEMENTATION_CLASS_UID
    assert row("Implementation version name") == part10.IMPLEMENTATION_VERSION_NAME


@pytest.mark.parametrize(
    ("beginning", "name"),
    [
        ("from the connection to the whole", "associate"),
        ("between two messages", "idle"),
        ("without a byte inside a message", "stall"),
        ("less than 16 KiB", "slow"),
        ("for the peer to close", "close"),
    ],
)
def test_the_time_outs_are_the_defaults(beginning, name):
    assert row(beginning).split()[0] == f"{getattr(ReceiverConfig().timeouts, name):g}"


def test_the_limits_are_the_defaults(tmp_path):
    config = ReceiverConfig()
    assert config.timeouts.slow_bytes == 16 * 1024
    assert row("Associations at once").startswith(
        f"{config.max_associations}, of which one address has at most {config.max_associations_per_address};"
    )
    waiting = Receiver(config, Spool(tmp_path))._gate._max_waiting
    assert row("Connections without an association").startswith(f"{waiting} at once")
    assert row("Maximum PDU length").startswith(f"{config.max_pdu} bytes are asked for; up to 16 MiB")
    assert MAX_P_DATA_BYTES == 16 * 1024**2


def test_every_status_of_a_store_is_listed():
    listed = {int(code, 16) for code in re.findall(r"^\| ([0-9A-F]{4}) \|", STATEMENT, re.MULTILINE)}
    assert listed == {
        dimse.SUCCESS,
        dimse.OUT_OF_RESOURCES,
        dimse.OUT_OF_RESOURCES_DISK_TROUBLE,
        dimse.DATA_SET_DOES_NOT_MATCH,
        dimse.CANNOT_UNDERSTAND,
        dimse.PROCESSING_FAILURE,
        dimse.INVALID_SOP_INSTANCE,
        dimse.SOP_CLASS_NOT_SUPPORTED,
    }


def test_every_answer_to_a_commitment_request_and_every_failure_reason_is_listed():
    beginning, end = STATEMENT.index("##### 4.2.1.3"), STATEMENT.index("##### 4.2.1.4")
    codes = re.findall(r"^\| 0x([0-9A-F]{4})( \||)", STATEMENT[beginning:end], re.MULTILINE)
    assert {int(code, 16) for code, cell in codes if cell} == {
        dimse.SUCCESS,
        dimse.PROCESSING_FAILURE,
        dimse.NO_SUCH_ACTION,
        dimse.MISTYPED_ARGUMENT,
        dimse.RESOURCE_LIMITATION,
    }
    assert {int(code, 16) for code, cell in codes if not cell} == {
        commitment.NO_SUCH_OBJECT_INSTANCE,
        commitment.CLASS_INSTANCE_CONFLICT,
        commitment.PROCESSING_FAILURE,
    }
    assert f"longer than {MAX_ACTION_BYTES // 1024**2} MiB" in STATEMENT
