"""What a good sender keeps of its rate beside peers that mean harm.

    python benchmarks/hostile.py [--seconds 4] [--rounds 3] [--json FILE]

A sender of small MR instances works alone, then beside four associations of each kind of hostile peer, and alone
again: only the ratio within a round means something, and the median of the rounds counts. The hostile peers come
from another address of this machine, and have the lowest priority, so that what is seen is what they cost the
receiver and not what they cost the machine. As often as they are cut off, they connect again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from receiver import HOST, answers_echo, free_port

from tests.scp.peer import MR, Ended, RawPeer, associate_rq, mr_dataset, p_data, store_command

HOSTILE = "127.0.0.2"
PEERS = 4


def serve(port: int, folder: Path) -> None:
    """Run our receiver until it is killed."""
    from tardis_imagetrove.scp import ReceiverConfig, running_receiver
    from tardis_imagetrove.spool import Spool

    spool = Spool(folder / "spool", reserve_bytes=0)
    spool.prepare()
    config = ReceiverConfig(host=HOST, port=port, workers=1, require_called_ae=False)
    with running_receiver(config, spool, lambda calling_ae, address: None):
        time.sleep(86400)


def empty_fragments(peer: RawPeer) -> None:
    """Fragments without a byte, for ever."""
    peer.associate()
    peer.socket.sendall(p_data(1, 3, store_command(MR, "1.2.3")))
    while True:
        peer.socket.sendall(p_data(1, 0, b"") * 5000)


def fragments_of_a_byte(peer: RawPeer) -> None:
    """An instance that never ends, a byte a fragment."""
    peer.associate()
    peer.socket.sendall(p_data(1, 3, store_command(MR, "1.2.4")) + p_data(1, 0, mr_dataset("1.2.4")))
    while True:
        peer.socket.sendall(p_data(1, 0, b"\0") * 20_000)


def long_negotiation(peer: RawPeer) -> None:
    """128 contexts of long transfer syntaxes."""
    syntaxes = tuple(f"1.2.840.{'9' * 48}.{number}" for number in range(30))
    peer.associate([(f"1.2.840.{number}", syntaxes) for number in range(128)])


def role_selections(peer: RawPeer) -> None:
    """2,000 role selections."""
    request = associate_rq([(MR, (ExplicitVRLittleEndian,))])
    at = request.rindex(struct.pack(">BxHI", 0x51, 4, 16384)) - 4
    uid = MR.encode()
    roles = (struct.pack(">BxHH", 0x54, len(uid) + 4, len(uid)) + uid + b"\1\1") * 2000
    length = struct.unpack_from(">H", request, at + 2)[0]
    body = request[6 : at + 2] + struct.pack(">H", (length + len(roles)) % 65536) + request[at + 4 :] + roles
    peer.socket.sendall(struct.pack(">BxI", 1, len(body)) + body)
    peer.ended()


def interleaved_contexts(peer: RawPeer) -> None:
    """Fragments of two messages in turn."""
    peer.associate([(MR, (ExplicitVRLittleEndian,))] * 2)
    peer.socket.sendall((p_data(1, 1, b"\0" * 10) + p_data(3, 1, b"\0" * 10)) * 1000)
    peer.ended()


def empty_items(peer: RawPeer) -> None:
    """A data set that begins with a million empty items."""
    peer.associate()
    start = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    peer.socket.sendall(p_data(1, 3, store_command(MR, "1.2.5")) + p_data(1, 0, start))
    piece = p_data(1, 0, struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 8000)
    for _ in range(128):
        peer.socket.sendall(piece)
    peer.socket.sendall(p_data(1, 2, b""))
    peer.response()


KINDS: dict[str, Callable[[RawPeer], None]] = {
    "empty fragments": empty_fragments,
    "fragments of one byte": fragments_of_a_byte,
    "128 contexts, 30 long syntaxes each": long_negotiation,
    "2,000 role selections": role_selections,
    "interleaved contexts": interleaved_contexts,
    "a million empty items": empty_items,
}


def harm(kind: str, port: int, end: float) -> None:
    """Be a hostile peer until ``end``."""
    os.nice(19)
    while time.monotonic() < end:
        with contextlib.suppress(OSError, Ended), RawPeer(port, seconds=2, address=HOSTILE) as peer:
            peer.socket.settimeout(max(end - time.monotonic(), 0.1))
            KINDS[kind](peer)


def good_rate(port: int, seconds: float) -> float:
    """Instances per second of one association."""
    with RawPeer(port, seconds=60) as peer:
        peer.associate()
        count = 0
        started = time.monotonic()
        while time.monotonic() < started + seconds:
            uid = f"1.2.{os.getpid()}.{time.monotonic_ns()}"
            if peer.store(uid, mr_dataset(uid, pixels=bytes(131_072))).status != 0:
                raise RuntimeError("the good sender was refused")
            count += 1
        return count / (time.monotonic() - started)


def beside(kind: str, port: int, seconds: float) -> float:
    """The good sender's rate beside hostile peers of that kind."""
    end = time.monotonic() + seconds + 1
    peers = [multiprocessing.Process(target=harm, args=(kind, port, end), daemon=True) for _ in range(PEERS)]
    for one in peers:
        one.start()
    time.sleep(0.5)
    rate = good_rate(port, seconds)
    for one in peers:
        one.terminate()
        one.join()
    return rate


@contextlib.contextmanager
def running() -> Iterator[int]:
    """Our receiver's port."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(port), folder], stderr=subprocess.DEVNULL
        )
        try:
            for _ in range(100):
                if answers_echo(port):
                    break
                if process.poll() is not None:
                    raise RuntimeError(f"the receiver ended with {process.returncode}")
                time.sleep(0.1)
            else:
                raise RuntimeError("the receiver does not answer")
            yield port
        finally:
            process.kill()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(int(options.serve[0]), Path(options.serve[1]))
        return 0
    ratios: dict[str, list[float]] = {kind: [] for kind in KINDS}
    alone: list[float] = []
    with running() as port:
        good_rate(port, 1)
        for _ in range(options.rounds):
            for kind in KINDS:
                before = good_rate(port, options.seconds)
                rate = beside(kind, port, options.seconds)
                after = good_rate(port, options.seconds)
                alone += [before, after]
                ratios[kind].append(rate / statistics.mean((before, after)))
                print(f"  {kind:36} {rate:6.0f}/s of {before:.0f}, {after:.0f}", flush=True)
    print(
        f"\n{PEERS} hostile associations beside one sender of MR (131 KB), alone {statistics.median(alone):.0f}/s"
    )
    for kind, values in ratios.items():
        spread = ", ".join(f"{value:.2f}" for value in sorted(values))
        print(f"  {kind:36} {statistics.median(values):.2f}   ({spread})")
    if options.json:
        options.json.write_text(json.dumps({"alone": alone, "ratios": ratios}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
