"""Compares the receiver with DCMTK's storescp and with Orthanc on the same data in one run.

    python benchmarks/receiver.py [--quick] [--json FILE] [--folder /dev/shm]

Only the ratios of one run mean something: the servers take turns, each scenario is repeated, and the
median counts. Ours syncs every instance and its folder before it answers; storescp syncs nothing;
Orthanc syncs its files. "synced" is storescp made to sync as ours does (sync_on_fclose.c, built by the
C compiler, where there is one). The sender is DCMTK's dcmsend; with Nagle's delay as Debian builds it,
and without it (TCP_NODELAY=1 in the environment of DCMTK and Orthanc). A program that is not installed
is named as missing.

How much syncing costs is the disk's affair, so the run says what one sync takes; with ``--folder`` on a
memory file system the servers are compared without it. ext4 does not use an inode again for some minutes
after its file was removed, and making a file takes the longer the more of those it must pass over: what
the servers stored is therefore emptied in between, and removed at the end. A second run within five
minutes of the first is slower for all.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

HOST = "127.0.0.1"
PIXEL_BYTES = {"MR": 256 * 256 * 2, "CT": 512 * 512 * 2}


@dataclass(frozen=True)
class Scenario:
    """What is sent: ``count`` instances of ``kind``, shared by ``associations`` senders."""

    kind: str
    count: int
    associations: int
    nagle: bool

    @property
    def bytes(self) -> int:
        """Of pixels."""
        return self.count * PIXEL_BYTES[self.kind]

    @property
    def name(self) -> str:
        return f"{self.kind} x{self.associations}{' Nagle' if self.nagle else ''}"


@dataclass(frozen=True)
class Server:
    """A receiver under test: ``command(port, folder)`` runs it in the foreground.

    ``synced``: with sync_on_fclose.c in it.
    """

    name: str
    program: str
    command: Callable[[int, Path], list[str]]
    synced: bool = False


@dataclass
class Result:
    """Instances per second of each run, by server."""

    scenario: str
    rates: dict[str, list[float]] = field(default_factory=dict)

    def median(self, server: str) -> float | None:
        values = self.rates.get(server)
        return statistics.median(values) if values else None


def ours(port: int, folder: Path) -> list[str]:
    return [sys.executable, __file__, "--serve", str(port), str(folder)]


def orthanc(port: int, folder: Path) -> list[str]:
    settings = {
        "Name": "bench",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomPort": port,
        "DicomAet": "BENCH",
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "HttpServerEnabled": False,
        "RemoteAccessAllowed": False,
        "StorageCompression": False,
        "Plugins": [],
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(settings))
    return ["Orthanc", str(file)]


def storescp(port: int, folder: Path) -> list[str]:
    return ["storescp", "-od", str(folder), str(port)]


def storescp_fork(port: int, folder: Path) -> list[str]:
    return ["storescp", "--fork", "-od", str(folder), str(port)]


SERVERS = (
    Server("ours", sys.executable, ours),
    Server("storescp", "storescp", storescp),
    Server("storescp --fork", "storescp", storescp_fork),
    Server("synced", "storescp", storescp, synced=True),
    Server("synced --fork", "storescp", storescp_fork, synced=True),
    Server("Orthanc", "Orthanc", orthanc),
)


@functools.cache
def sync_on_fclose() -> Path | None:
    """The library that makes storescp sync, built anew; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = Path(tempfile.mkdtemp(prefix="bench-")) / "sync_on_fclose.so"
    source = Path(__file__).with_name("sync_on_fclose.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


def serve(port: int, folder: Path) -> None:
    """Run our receiver until SIGTERM."""
    from tardis_imagetrove.scp import ReceiverConfig, Sender, SenderList, running_receiver
    from tardis_imagetrove.spool import Spool

    spool = Spool(folder / "spool", reserve_bytes=0)
    spool.prepare()
    senders = SenderList(spool)  # asked as in a closed installation
    senders.replace(Sender(title, HOST) for title in ("DCMSEND", "ECHOSCU", "PYNETDICOM", "BENCH"))
    config = ReceiverConfig(host=HOST, port=port, workers=2, require_called_ae=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with running_receiver(config, spool, senders.admit):
        signal.pause()


def write_instance(path: Path, kind: str, number: int, frames: int = 1) -> None:
    """A generated instance: an MR of 132 KB, a CT of 525 KB, or an enhanced MR of ``frames`` of 1 MB."""
    sop_class, size = {
        "MR": (MRImageStorage, 256),
        "CT": (CTImageStorage, 512),
        "enhanced": (EnhancedMRImageStorage, 724),
    }[kind]
    instance = Dataset()
    instance.SOPClassUID = sop_class
    instance.SOPInstanceUID = generate_uid(entropy_srcs=[kind, str(number)])
    instance.StudyInstanceUID = generate_uid(entropy_srcs=[kind, "study"])
    instance.SeriesInstanceUID = generate_uid(entropy_srcs=[kind, "series"])
    instance.PatientID = "BENCH"
    instance.PatientName = "Bench^Mark"
    instance.Modality = "CT" if kind == "CT" else "MR"
    instance.Manufacturer = "Bench"
    instance.InstanceNumber = number
    instance.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    instance.ImagePositionPatient = [0, 0, number]
    instance.Rows = instance.Columns = size
    instance.SamplesPerPixel = 1
    instance.PhotometricInterpretation = "MONOCHROME2"
    instance.BitsAllocated, instance.BitsStored, instance.HighBit = 16, 12, 11
    instance.PixelRepresentation = 0
    noise = np.random.default_rng(number)
    frame = noise.integers(0, 4096, (size, size), dtype=np.uint16).tobytes()
    if frames > 1:
        instance.NumberOfFrames = frames
    instance.PixelData = frame * frames
    instance["PixelData"].VR = "OW"
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance.save_as(path, enforce_file_format=True)


def make_data(root: Path, kind: str, count: int) -> list[Path]:
    """``count`` files in four folders, a quarter each."""
    folders = [root / f"{kind}-{quarter}" for quarter in range(4)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_instance(folders[number % 4] / f"{number:05}.dcm", kind, number)
    return folders


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def environment(nagle: bool, synced: bool = False) -> dict[str, str]:
    """Our environment, in which DCMTK's programs have Nagle's delay (their default) or not."""
    kept = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    if synced:
        kept["LD_PRELOAD"] = str(sync_on_fclose())
    return kept if nagle else {**kept, "TCP_NODELAY": "1"}


def answers_echo(port: int) -> bool:
    """Whether an association can be opened, and an echo comes back."""
    from tardis_imagetrove.scu import CannotSend, Peer, echo

    try:
        echo(Peer(HOST, port, called="BENCH", calling="BENCH", seconds=2))
    except CannotSend:
        return False
    return True


@contextlib.contextmanager
def running(
    server: Server, nagle: bool, parent: Path | None = None
) -> Iterator[tuple[int, subprocess.Popen, Path]]:
    """The server on a free port with an empty folder; yields when it answers an echo."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    port = free_port()
    process = subprocess.Popen(
        server.command(port, folder),
        env=environment(nagle, server.synced),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            if process.poll() is not None:
                raise RuntimeError(f"{server.name} ended with {process.returncode}")
            if answers_echo(port):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"{server.name} does not answer")
        yield port, process, folder
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def send(port: int, folders: list[list[Path]], nagle: bool) -> float:
    """Send each list of folders by a dcmsend of its own, all at once; seconds until the last is done."""
    started = time.perf_counter()
    senders = [
        subprocess.Popen(
            ["dcmsend", "-aec", "BENCH", HOST, str(port), "+sd", *map(str, group)],
            env=environment(nagle),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for group in folders
    ]
    for sender in senders:
        errors = sender.communicate()[1].decode()
        if sender.returncode:
            raise RuntimeError(f"dcmsend ended with {sender.returncode}: {errors[-500:]}")
    return time.perf_counter() - started


def measure(scenarios: list[Scenario], servers: list[Server], repeats: int, data: Path) -> list[Result]:
    """Every scenario on every server in turn, ``repeats`` times."""
    results = []
    for scenario in scenarios:
        root = data / f"{scenario.kind}-{scenario.count}"
        folders = (
            make_data(root, scenario.kind, scenario.count) if not root.exists() else sorted(root.iterdir())
        )
        groups = [folders] if scenario.associations == 1 else [[folder] for folder in folders]
        result = Result(scenario.name)
        for repeat in range(repeats):
            for server in servers if repeat % 2 == 0 else servers[::-1]:
                if server.synced and scenario.nagle:
                    continue  # nine seconds to see once more what Nagle's delay does
                with running(server, scenario.nagle) as (port, _process, folder):
                    os.sync()  # nobody pays for what another left unwritten
                    seconds = send(port, groups, scenario.nagle)
                    if stored_bytes(folder) < scenario.bytes:
                        raise RuntimeError(f"{server.name} did not store everything")
                result.rates.setdefault(server.name, []).append(scenario.count / seconds)
                print(f"  {scenario.name:12} {server.name:16} {scenario.count / seconds:8.1f}/s", flush=True)
        results.append(result)
    return results


def family(process: subprocess.Popen) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        children += (task / "children").read_text().split()
    return sorted({process.pid, *map(int, children)})


def resident_mib(pid: int, peak: bool = False) -> float:
    key = "VmHWM" if peak else "VmRSS"
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sync_ms(count: int = 100) -> dict[str, float]:
    """Milliseconds that it takes to sync a new file of 132 KB, and then the folder that names it: median and mean."""
    times: dict[str, list[float]] = {"file": [], "folder": []}
    content = os.urandom(132_000)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = os.open(name, os.O_RDONLY)
        for number in range(count):
            with (Path(name) / str(number)).open("wb") as file:
                file.write(content)
                file.flush()
                for key, descriptor in (("file", file.fileno()), ("folder", folder)):
                    started = time.perf_counter()
                    os.fsync(descriptor)
                    times[key].append((time.perf_counter() - started) * 1000)
        os.close(folder)
    return {
        f"{key}_{what}": round(measure_of(values), 2)
        for key, values in times.items()
        for what, measure_of in (("median", statistics.median), ("mean", statistics.mean))
    }


def opening_ms(servers: list[Server], count: int) -> dict[str, float]:
    """Median milliseconds of a whole echoscu (120 contexts proposed), less what it needs without a peer."""
    times: dict[str, list[float]] = {server.name: [] for server in servers}
    for server in servers:
        with running(server, False) as (port, _process, _folder):
            for _ in range(count):
                started = time.perf_counter()
                subprocess.run(
                    ["echoscu", "-ppc", "120", "-pts", "4", HOST, str(port)],
                    env=environment(False),
                    check=True,
                )
                times[server.name].append((time.perf_counter() - started) * 1000)
    started = time.perf_counter()
    for _ in range(count):
        subprocess.run(["echoscu", "--version"], stdout=subprocess.DEVNULL, check=True)
    alone = (time.perf_counter() - started) / count * 1000
    return {name: round(statistics.median(values) - alone, 1) for name, values in times.items()}


def element(group: int, number: int, value: bytes) -> bytes:
    """An element of Implicit VR Little Endian."""
    return struct.pack("<HHI", group, number, len(value)) + value


def uid_bytes(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


def flood(port: int, count: int, look: Callable[[int], None]) -> None:
    """Send ``count`` small MR instances, 200 a series, on one association; ``look`` is called after each.

    A sender of its own: ten times as quick as pynetdicom's, and without 100,000 files to read.
    """
    from pynetdicom import build_context
    from pynetdicom.pdu import A_ASSOCIATE_RQ
    from pynetdicom.pdu_primitives import (
        A_ASSOCIATE,
        ImplementationClassUIDNotification,
        MaximumLengthNotification,
    )

    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title = primitive.called_ae_title = "BENCH"
    context = build_context(MRImageStorage, [ImplicitVRLittleEndian])
    context.context_id = 1
    primitive.presentation_context_definition_list = [context]
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.826.0.1.3680043.9.3811.3.0.4"
    primitive.user_information = [length, implementation]
    sop_class = uid_bytes(MRImageStorage)
    with socket.create_connection((HOST, port), timeout=60) as sock, sock.makefile("rb") as answers:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def answer() -> bytes:
            kind, size = struct.unpack(">BxI", answers.read(6))
            body = answers.read(size)
            if kind not in (2, 4):
                raise RuntimeError(f"PDU of type {kind} instead of an answer")
            return body

        sock.sendall(A_ASSOCIATE_RQ(primitive).encode())
        answer()
        for number in range(count):
            uid = uid_bytes(f"2.25.4242.{number // 200}.{number}")
            command = b"".join(
                (
                    element(0, 2, sop_class),
                    element(0, 0x100, b"\1\0"),
                    element(0, 0x110, b"\1\0"),
                    element(0, 0x700, b"\0\0"),
                    element(0, 0x800, b"\1\0"),
                    element(0, 0x1000, uid),
                )
            )
            data = b"".join(
                (
                    element(8, 0x16, sop_class),
                    element(8, 0x18, uid),
                    element(0x20, 0xE, uid_bytes(f"2.25.4242.{number // 200}")),
                    element(0x7FE0, 0x10, bytes(512)),
                )
            )
            sock.sendall(
                b"".join(
                    struct.pack(">BxIIBB", 4, len(part) + 6, len(part) + 2, 1, control) + part
                    for control, part in (
                        (3, element(0, 0, struct.pack("<I", len(command))) + command),
                        (2, data),
                    )
                )
            )
            if element(0, 0x900, b"\0\0") not in answer():
                raise RuntimeError(f"instance {number} was refused")
            look(number + 1)
        sock.sendall(struct.pack(">BxI4x", 5, 4))


def our_memory_over(count: int) -> dict[str, float]:
    """Ours alone: resident memory after a tenth of ``count`` instances, and after all.

    On a memory file system where there is one with a GB to spare: it is not about the disk.
    """
    resident: dict[int, float] = {}
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > 2**30
    with running(SERVERS[0], False, memory if has_room else None) as (port, process, folder):

        def look(done: int) -> None:
            if done in (count // 10, count):
                resident[done] = sum(map(resident_mib, family(process)))

        started = time.perf_counter()
        flood(port, count, look)
        seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return {
        "instances": count,
        "instances_per_s": round(count / seconds),
        "resident_mib_after_a_tenth": round(resident[count // 10], 1),
        "resident_mib_after_all": round(resident[count], 1),
    }


def our_footprint(data: Path, seconds: float, frames: int) -> dict[str, float]:
    """Ours alone: memory for one very large instance, and CPU of four idle associations."""
    large = data / "large"
    large.mkdir()
    write_instance(large / "large.dcm", "enhanced", 0, frames)
    size = (large / "large.dcm").stat().st_size
    with running(SERVERS[0], False) as (port, process, _folder):
        seconds_large = send(port, [[large]], False)
        peak = max(resident_mib(pid, peak=True) for pid in family(process))
    from pynetdicom import AE

    with running(SERVERS[0], False) as (port, process, _folder):
        ae = AE()
        ae.add_requested_context("1.2.840.10008.1.1")
        open_now = [ae.associate(HOST, port) for _ in range(4)]
        pids = family(process)
        before = sum(map(cpu_seconds, pids))
        time.sleep(seconds)
        idle = (sum(map(cpu_seconds, pids)) - before) / seconds
        for association in open_now:
            association.release()
    shutil.rmtree(large)
    return {
        "large_instance_mib": round(size / 2**20),
        "large_instance_mib_per_s": round(size / 2**20 / seconds_large),
        "peak_resident_mib": round(peak, 1),
        "idle_cpu_percent_of_a_core": round(100 * idle, 2),
    }


def ratios(result: Result) -> dict[str, float]:
    """Ours as a ratio to each of the others."""
    mine = result.median("ours")
    others = {name: result.median(name) for name in result.rates if name != "ours"}
    return {name: round(mine / rate, 2) for name, rate in others.items() if mine and rate}


def table(results: list[Result], servers: list[Server]) -> str:
    """Instances per second, and in brackets ours as a ratio to that server."""
    header = ["scenario", *(server.name for server in servers)]
    rows = [header]
    for result in results:
        mine = result.median("ours")
        row = [result.scenario]
        for server in servers:
            rate = result.median(server.name)
            if rate is None:
                row.append("-")
            elif server.name == "ours" or not mine:
                row.append(f"{rate:.0f}/s")
            else:
                row.append(f"{rate:.0f}/s ({mine / rate:.2f}x)")
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer instances and one repeat, to see that it runs"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--only", help="only scenarios whose name contains this")
    parser.add_argument(
        "--folder", type=Path, help="where data is generated and stored (default: the temporary folder)"
    )
    parser.add_argument("--serve", nargs=2, metavar=("PORT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(int(options.serve[0]), Path(options.serve[1]))
        return 0
    if options.folder:
        tempfile.tempdir = str(options.folder)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        tempfile.tempdir = name
        return compare(options)


def compare(options: argparse.Namespace) -> int:
    """Everything that is measured, and how it is told."""
    servers = [
        server
        for server in SERVERS
        if shutil.which(server.program) and not (server.synced and sync_on_fclose() is None)
    ]
    tools = [tool for tool in ("dcmsend", "echoscu") if shutil.which(tool) is None]
    missing = sorted({server.name for server in SERVERS} - {server.name for server in servers}) + tools
    for name in missing:
        print(f"missing: {name} is not installed and is left out")
    if tools:
        print(f"Without {' and '.join(tools)} (DCMTK) nothing is sent for comparison.")
        servers = []
    scale = 10 if options.quick else 1
    repeats = 1 if options.quick else options.repeats
    scenarios = [
        Scenario("MR", 1000 // scale, 1, False),
        Scenario("CT", 400 // scale, 1, False),
        Scenario("MR", 1000 // scale, 4, False),
        Scenario("CT", 400 // scale, 4, False),
        Scenario("MR", 200 // scale, 1, True),
        Scenario("CT", 200 // scale, 1, True),
    ]
    if options.only:
        scenarios = [scenario for scenario in scenarios if options.only in scenario.name]
    data = Path(tempfile.mkdtemp(prefix="bench-data-"))
    extra: dict[str, object] = {"sync_ms_before": sync_ms()}
    results = measure(scenarios, servers, repeats, data) if servers else []
    extra["sync_ms_after"] = sync_ms()
    if not options.only:
        if servers:
            extra["opening_ms"] = opening_ms(
                [server for server in servers if not server.synced], 5 if options.quick else 30
            )
            extra["ours"] = our_footprint(data, 2 if options.quick else 20, 50 if options.quick else 1024)
        extra["ours_over_many"] = our_memory_over(2000 if options.quick else 100_000)
    print()
    if results:
        print(table(results, servers))
    for key, value in extra.items():
        print(f"{key}: {json.dumps(value)}")
    report = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": os.getloadavg()[0],
        "missing": missing,
        "results": [{**asdict(result), "ratios": ratios(result)} for result in results],
        **extra,
    }
    print(json.dumps(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
