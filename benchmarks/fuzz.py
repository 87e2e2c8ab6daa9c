"""Feeds damaged bytes to everything that reads a peer's or a file's bytes, for a bounded time.

    python benchmarks/fuzz.py [--seconds 60] [--inputs 1000000] [--seed 1]

Honest association requests, command sets, data sets, storage commitment requests and files are damaged at random and
read by the receiver's own readers. A reader may return or raise its own error; anything else is a fault, which is
printed with the seed and the input, and ends the run with status 1. So does an input that takes more than a second.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tardis_imagetrove.ingest.glance import CannotGlance, glance
from tardis_imagetrove.scp import dimse, pdu
from tardis_imagetrove.scp.action import read_commitment
from tardis_imagetrove.scp.head import HeadScanner, UnreadableDataSet
from tardis_imagetrove.scp.negotiation import negotiate
from tardis_imagetrove.scp.part10 import file_beginning
from tardis_imagetrove.scp.records import Caller

MR = "1.2.840.10008.5.1.4.1.1.4"
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    "1.2.3.4",
)
#: An input that takes longer is a fault: a gigabyte of such inputs would take hours.
MOST_SECONDS = 1.0


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def element(group: int, number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", group, number, len(value)) + value


def explicit(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def request() -> bytes:
    syntaxes = b"".join(item(0x40, uid.encode()) for uid in SYNTAXES)
    contexts = b"".join(
        item(0x20, bytes((number, 0, 0, 0)) + item(0x30, MR.encode()) + syntaxes) for number in (1, 3, 5)
    )
    role = item(0x54, struct.pack(">H", len(MR)) + MR.encode() + b"\1\0")
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3") + role + item(0x55, b"FUZZ")
    titles = b"IMAGETROVE".ljust(16) + b"SCANNER".ljust(16)
    return (
        struct.pack(">HH", 1, 0)
        + titles
        + bytes(32)
        + item(0x10, pdu.APPLICATION_CONTEXT.encode())
        + contexts
        + item(0x50, user)
    )


def command() -> bytes:
    return (
        element(0, 0x0002, MR.encode() + b"\0")
        + element(0, 0x0100, b"\1\0")
        + element(0, 0x0110, b"\1\0")
        + element(0, 0x0800, b"\0\0")
        + element(0, 0x1000, b"1.2.3\0")
    )


def data_set() -> bytes:
    start = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    inside = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + explicit(8, 0x1155, b"UI", b"1.2\0")
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return (
        explicit(8, 0x0005, b"CS", b"ISO_IR 192")
        + explicit(8, 0x0016, b"UI", MR.encode() + b"\0")
        + explicit(8, 0x0018, b"UI", b"1.2.3\0")
        + explicit(8, 0x0070, b"LO", b"Vendor")
        + start
        + inside
        + end
        + explicit(0x20, 0x000E, b"UI", b"1.2.4\0")
        + explicit(0x20, 0x0013, b"IS", b"1 ")
    )


def action() -> bytes:
    reference = element(8, 0x1150, MR.encode() + b"\0") + element(8, 0x1155, b"1.2.3\0")
    items = struct.pack("<HHI", 0xFFFE, 0xE000, len(reference)) + reference
    return element(8, 0x1195, b"1.2.9\0") + element(8, 0x1199, items)


def read_request(data: bytes, _random: random.Random) -> None:
    try:
        found = pdu.decode_associate_rq(data)
    except pdu.MalformedPDU:
        return
    agreement = negotiate(found, commitment=True)
    pdu.encode_associate_ac(found, agreement.results, agreement.roles, 16384, "1.2.3", "FUZZ")


def read_command(data: bytes, _random: random.Random) -> None:
    try:
        found = dimse.decode_command(data)
    except dimse.MalformedCommand:
        return
    pdu.encode_p_data(1, pdu.IS_COMMAND, dimse.encode_response(found, 0xC000, "x" * 70, (8, 0x18)), 100)


def read_head(data: bytes, chance: random.Random) -> None:
    syntax = chance.choice(SYNTAXES)
    if syntax == DeflatedExplicitVRLittleEndian and chance.random() < 0.8:
        pack = zlib.compressobj(1, zlib.DEFLATED, -15)
        data = pack.compress(data) + pack.flush()
    scanner, at = HeadScanner(syntax), 0
    try:
        while at < len(data) and not scanner.done:
            size = chance.randint(1, 200)
            scanner.feed(memoryview(data)[at : at + size])
            at += size
    except UnreadableDataSet:
        return


def read_action(data: bytes, chance: random.Random) -> None:
    try:
        read_commitment(data, chance.choice(SYNTAXES), Caller("A", "B", "10.0.0.1"))
    except ValueError:
        return


class ReadFile:
    """Reads files as the watcher does."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "x.dcm"

    def __call__(self, data: bytes, chance: random.Random) -> None:
        self._path.write_bytes(file_beginning(MR, "1.2.3", chance.choice(SYNTAXES)) + data)
        try:
            glance(self._path, ("Manufacturer", "(0020,0013)", "PatientName"))
        except CannotGlance:
            return


def damage(data: bytes, chance: random.Random) -> bytes:
    """``data`` with up to five bytes set, pieces cut, copied or put in, and lengths changed."""
    changed = bytearray(data)
    for _ in range(chance.randint(0, 5)):
        at = chance.randint(0, len(changed))
        size = chance.choice((1, 2, 4, 8, chance.randint(1, 300)))
        how = chance.randrange(5)
        if how == 0:
            changed[at : at + 1] = bytes((chance.randrange(256),))
        elif how == 1:
            del changed[at : at + size]
        elif how == 2:
            changed[at:at] = changed[at : at + size] * chance.choice((1, 1, 50))
        elif how == 3:
            changed[at:at] = chance.randbytes(size)
        else:
            changed[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), chance.randbytes(4)))
    return bytes(changed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inputs", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of pydicom, about character sets
    chance = random.Random(options.seed)
    counts: Counter[str] = Counter()
    slowest = 0.0
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        targets: list[tuple[str, Callable[[bytes, random.Random], None], bytes]] = [
            ("association request", read_request, request()),
            ("command set", read_command, command()),
            ("data set", read_head, data_set()),
            ("storage commitment", read_action, action()),
            ("file", ReadFile(Path(folder)), data_set()),
        ]
        while time.monotonic() < end and counts.total() < options.inputs:
            name, read, honest = targets[counts.total() % len(targets)]
            data = damage(honest, chance)
            started = time.process_time()
            try:
                read(data, chance)
            except Exception as error:
                print(f"fault: {name}, seed {options.seed}: {error!r}\n{data.hex()}")
                raise
            taken = time.process_time() - started
            slowest = max(slowest, taken)
            if taken > MOST_SECONDS:
                print(f"fault: {name}, seed {options.seed}: {taken:.1f} s\n{data.hex()}")
                return 1
            counts[name] += 1
    print(f"{counts.total()} inputs without a fault, seed {options.seed}, slowest {slowest * 1000:.0f} ms:")
    for name, count in counts.items():
        print(f"  {name}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
