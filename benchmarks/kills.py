"""Kill the receiver again and again while it receives, and look for what it had acknowledged.

    python benchmarks/kills.py [--kills 1000] [--seed 1]

A receiver of two processes takes small and large instances from three senders, some of them twice; at a random
moment all its processes are killed (SIGKILL) and it is started anew over the same spool. After each start, every
instance that was answered with success must be in the spool once, byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from receiver import HOST, answers_echo, free_port

from tardis_imagetrove.scp.part10 import file_beginning
from tardis_imagetrove.spool import Spool
from tests.processes import is_alive
from tests.scp.peer import MR, Ended, RawPeer, mr_dataset

SENDERS = 3


def serve(port: int, folder: Path) -> None:
    """Run our receiver until it is killed."""
    from tardis_imagetrove.scp import ReceiverConfig, running_receiver

    spool = Spool(folder, reserve_bytes=0)
    spool.prepare()
    config = ReceiverConfig(host=HOST, port=port, workers=2, require_called_ae=False)
    with running_receiver(config, spool, lambda calling_ae, address: None):
        time.sleep(86400)


class Sender(threading.Thread):
    """Sends until the connection breaks; remembers what was acknowledged, as digests of the whole file."""

    def __init__(self, port: int, name: str, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._port, self._name, self._chance = port, name, chance
        self.acknowledged: dict[str, str] = {}
        self.refused = 0

    def run(self) -> None:
        with contextlib.suppress(OSError, Ended), RawPeer(self._port, seconds=30) as peer:
            peer.associate()
            number = 0
            while True:
                number += 1
                uid = f"{self._name}.{number}"
                size = self._chance.choice((2, 2000, 130_000, 700_000))
                data = mr_dataset(uid, f"{self._name}.0", pixels=self._chance.randbytes(size))
                for _ in range(self._chance.choice((1, 1, 1, 2))):
                    if peer.store(uid, data).status != 0:
                        self.refused += 1
                        continue
                    content = file_beginning(MR, uid, ExplicitVRLittleEndian) + data
                    self.acknowledged[uid] = hashlib.sha256(content).hexdigest()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the receiver's whole group, and wait until none of its threads runs any more."""
    group = [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and in_group(path, process.pid)
    ]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while any(map(is_alive, group)):
        time.sleep(0.01)


def in_group(path: Path, group: int) -> bool:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[2]) == group
    except OSError:
        return False


def start(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start the receiver; returns once it answers."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(port), str(folder)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(300):
        if answers_echo(port):
            return process
        if process.poll() is not None:
            raise RuntimeError(f"the receiver ended with {process.returncode}")
        time.sleep(0.05)
    raise RuntimeError("the receiver does not answer")


def look(folder: Path, acknowledged: dict[str, str]) -> Counter[str]:
    """What became of the acknowledged instances."""
    digests = Counter(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "series").rglob("*")
        if path.is_file() and path.suffix == ".dcm"
    )
    result: Counter[str] = Counter(acknowledged=len(acknowledged), stored=digests.total())
    for digest in acknowledged.values():
        result["lost or changed"] += digest not in digests
        result["doubled"] += digests[digest] > 1
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(int(options.serve[0]), Path(options.serve[1]))
        return 0
    chance = random.Random(options.seed)
    total: Counter[str] = Counter()
    refused = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder, port = Path(name) / "spool", free_port()
        process = start(port, folder)
        for number in range(options.kills):
            senders = [
                Sender(port, f"1.2.{options.seed}.{number}.{one}", random.Random(chance.random()))
                for one in range(SENDERS)
            ]
            for sender in senders:
                sender.start()
            time.sleep(chance.uniform(0.01, 0.8))
            kill(process)
            for sender in senders:
                sender.join(60)
            acknowledged = {uid: digest for sender in senders for uid, digest in sender.acknowledged.items()}
            refused += sum(sender.refused for sender in senders)
            # What the next receiver makes of what the killed one left behind is part of the promise.
            process = start(port, folder)
            found = look(folder, acknowledged)
            total += found
            if found["lost or changed"] or found["doubled"]:
                print(f"after kill {number + 1}: {dict(found)}", flush=True)
            if (number + 1) % 50 == 0:
                print(f"{number + 1} kills: {dict(total)}, {refused} refused", flush=True)
            for series in (folder / "series").iterdir():
                shutil.rmtree(series)
        kill(process)
    print(
        f"{options.kills} kills, {total['acknowledged']} instances acknowledged: {total['lost or changed']} lost or "
        f"changed, {total['doubled']} doubled, {refused} refused (seed {options.seed})"
    )
    return int(bool(total["lost or changed"] or total["doubled"]))


if __name__ == "__main__":
    sys.exit(main())
