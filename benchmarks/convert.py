"""Compares our filters with the original ImageTrove's tools on the same data in one run.

    python benchmarks/convert.py [--slices 1000] [--rounds 3] [--series 200] [--json FILE] [--data DIR]

Four things are measured:

- **Conversion.** The original: dcm2mnc, mincconvert -2, mnc2nii, mincpik, and zip of the DICOM files. Ours: the
  archive, its unpacking, and all four filters, each in a process of its own as a worker runs them. One step
  after the other; rounds take turns, and the median counts.
- **Kinds of series.** One enhanced multi-frame object, and a series of 5,000 files: processor seconds of the ``nifti``
  and ``metadata`` filters, beside dcm2niix alone on the same files, without compression.
- **The page.** The same series is sent to a running site (embedded host, SQLite): seconds from the last slice's
  acknowledgement, without the quiet period, to the last output's record.
- **Workers.** Many series (24 slices of 192 x 192) are archived and converted by one worker, and by two.

Only the ratios of one run mean something. A program that is not installed is named as missing.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DEVHOST = REPOSITORY / "devhost"
STATE = Path(tempfile.mkdtemp(prefix="bench-convert-"))
"""Of the embedded host, and for everything else that is written."""

sys.path[:0] = [str(REPOSITORY), str(DEVHOST)]
os.environ.update(
    DEVHOST_STATE=str(STATE / "host"),
    DEVHOST_QUIET_SECONDS="15",
    DJANGO_SETTINGS_MODULE="devhost.settings",
    PYTHONPATH=os.pathsep.join([str(REPOSITORY), str(DEVHOST)]),
    PYTHONWARNINGS="ignore",
)

import django  # noqa: E402
import numpy as np  # noqa: E402

django.setup()

from devhost.send import send  # noqa: E402
from tardis_imagetrove.archive import Member, unpack, zip_stream  # noqa: E402
from tardis_imagetrove.conversion.execution import execute  # noqa: E402
from tardis_imagetrove.conversion.registry import load, options_of  # noqa: E402
from tardis_imagetrove.filters.base import DicomSeries, Filter  # noqa: E402
from tardis_imagetrove.formats import Item  # noqa: E402
from tardis_imagetrove.imaging.dcm2niix import find_dcm2niix  # noqa: E402
from tardis_imagetrove.phantom import oblique_mr_series  # noqa: E402
from tests.filters.truth import enhanced, repeated  # noqa: E402

QUIET_SECONDS = 15.0
PAGE_TARGET = 3.0
WORKERS_TARGET = 1.8
MEMORY_TARGET_MB = 300
TIME_TARGET = 0.5
KIND_TARGET = 4.0


@dataclass(frozen=True)
class Step:
    """One step of a round: seconds on the wall and of the processors, the largest of its processes in MB,
    bytes that it made."""

    name: str
    seconds: float
    cpu_seconds: float
    memory_mb: float
    size: int


def measured(name: str, work: Callable[[Path], None], out: Path) -> Step:
    """Do ``work`` in a fresh process whose imports are done, and measure it."""
    context = get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    out.mkdir()

    def child() -> None:
        started = time.perf_counter()
        work(out)
        seconds = time.perf_counter() - started
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
        sending.send((seconds, cpu, max(usage.ru_maxrss for usage in used) / 1024))

    process = context.Process(target=child)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{name} failed")
    seconds, cpu, memory = receiving.recv()
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Step(name, seconds, cpu, memory, size)


def run(*command: object, **options: object) -> None:
    subprocess.run(
        [str(part) for part in command],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    )


def original(files: list[Path], work: Path) -> list[Step]:
    """The pipeline of ImageTrove as its Dockerfile had it."""

    def found(folder: str) -> Path:
        return next((work / folder).rglob("*.mnc"))

    return [
        measured("dcm2mnc", lambda out: run("dcm2mnc", *files, out), work / "mnc1"),
        measured(
            "mincconvert -2",
            lambda out: run("mincconvert", "-2", found("mnc1"), out / "a.mnc"),
            work / "mnc2",
        ),
        measured("mnc2nii", lambda out: run("mnc2nii", "-nii", found("mnc2"), out / "a.nii"), work / "nii"),
        measured(
            "mincpik", lambda out: run("mincpik", "--triplanar", found("mnc2"), out / "a.png"), work / "pik"
        ),
        measured(
            "zip", lambda out: run("zip", "-q", "-j", out / "a.zip", "-@", input=listed(files)), work / "zip"
        ),
    ]


def listed(files: list[Path]) -> bytes:
    return "\n".join(map(str, files)).encode()


def ours(files: list[Path], work: Path) -> list[Step]:
    """Archive and filters as ingest and a worker run them."""

    def archive(out: Path) -> None:
        members = (
            Member(
                path.name,
                Item(
                    path,
                    path.stem,
                    "",
                    "",
                    path.stat().st_size,
                    hashlib.sha256(path.read_bytes()).hexdigest(),
                ),
            )
            for path in files
        )
        with (out / "a.zip").open("wb") as file:
            file.writelines(zip_stream("1", "2", members))

    steps = [measured("archive", archive, work / "zip")]
    dicom, shared = work / "dicom", work / "shared"
    shared.mkdir()
    steps.append(measured("unpack", lambda out: unpack(work / "zip" / "a.zip", out) and None, dicom))
    series = DicomSeries(tuple(sorted(dicom.iterdir())), "0003_t1", shared=shared)
    return [*steps, *(filtered(kind, series, work / name) for name, kind in load().items())]


def filtered(kind: Filter, series: DicomSeries, out: Path) -> Step:
    """A filter in a process of its own."""
    out.mkdir()
    started = time.perf_counter()
    report = execute(kind, series, options_of(kind)[1], out)
    seconds = time.perf_counter() - started
    if report.error or report.value.warnings:
        raise SystemExit(f"{kind.name}: {report.error or report.value.warnings}")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Step(kind.name, seconds, report.cpu_seconds, report.memory_mib * 1.048576, size)


# Kinds of series


def time_series(folder: Path, volumes: int, slices: int = 25) -> list[Path]:
    """Small slices, each a file of its own, volume by volume."""
    files = oblique_mr_series(folder, slices=slices, rows=64, columns=64, slice_spacing=4)

    def change(dataset, repeat: int) -> None:  # noqa: ANN001
        dataset.TemporalPositionIdentifier, dataset.NumberOfTemporalPositions = repeat + 1, volumes
        dataset.AcquisitionNumber, dataset.RepetitionTime = repeat + 1, "2000"
        seconds = 36_000 + 2 * repeat
        dataset.AcquisitionTime = f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}.000000"
        pixels = np.frombuffer(dataset.PixelData, "<u2")
        dataset.PixelData = (pixels + repeat).astype("<u2").tobytes()

    return repeated(files, volumes, change)


def kind_of_series(name: str, files: list[Path], scratch: Path) -> dict[str, float]:
    """Processor seconds of our two filters, and of dcm2niix alone."""
    alone, shared = scratch / f"{name}-alone", scratch / f"{name}-shared"
    shared.mkdir()
    (folder,) = {path.parent for path in files}
    step = measured(
        "dcm2niix", lambda out: run(find_dcm2niix(), "-b", "y", "-z", "n", "-o", out, folder), alone
    )
    series, filters = DicomSeries(tuple(files), "0003_t1", shared=shared), load()
    ours = sum(
        filtered(filters[kind], series, scratch / f"{name}-{kind}").cpu_seconds
        for kind in ("nifti", "metadata")
    )
    return {
        "files": len(files),
        "cpu_seconds": ours,
        "dcm2niix": step.cpu_seconds,
        "ratio": ours / step.cpu_seconds,
    }


def kinds_of_series(scratch: Path, quick: bool) -> dict[str, dict[str, float]]:
    files = time_series(scratch / "files", volumes=8 if quick else 200)
    whole = scratch / "whole"
    whole.mkdir()
    times = [1 + number // 25 for number in range(len(files))]
    one = enhanced(files, whole / "whole.dcm", times=times)
    return {
        "enhanced": kind_of_series("enhanced", [one], scratch),
        "many_files": kind_of_series("many_files", files, scratch),
    }


# A running site


@contextlib.contextmanager
def process(name: str, *command: str):  # noqa: ANN201
    """A process of the site, ended with the block."""
    with (STATE / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, *command], stdout=log, stderr=log, cwd=REPOSITORY, start_new_session=True
        )
    try:
        yield child
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def worker(name: str):  # noqa: ANN201
    """A worker that does one task at a time."""
    return process(
        name,
        *("-m", "celery", "-A", "tardis.celery.tardis_app", "worker", "--concurrency", "1"),
        *("--hostname", f"{name}@%h", "--without-gossip", "--without-mingle", "--loglevel", "INFO"),
    )


def prepare_site() -> None:
    from django.contrib.auth.models import User
    from django.core.management import call_command

    from tardis_imagetrove.models import InstrumentConfiguration

    call_command("migrate", verbosity=0)
    InstrumentConfiguration.objects.create(
        name="Bench",
        instrument=[["ManufacturerModelName", "Phantom generator"]],
        experiment_title=["PatientID"],
        dataset_title=["SeriesDescription"],
        schema_experiment="http://example.edu/schema/1",
        schema_dataset="http://example.edu/schema/2",
        schema_file="http://example.edu/schema/3",
        owner=User.objects.create_user("bench"),
    )


def wait_until(done: Callable[[], object], what: str, seconds: float = 1800) -> None:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise SystemExit(f"not within {seconds} s: {what}; see the logs in {STATE}")
        time.sleep(0.05)


def archived_and_converted(count: int) -> bool:
    from tardis_imagetrove.models import Series

    states = list(Series.objects.values_list("state", flat=True))
    if bad := [state for state in states if state in ("held", "partial")]:
        raise SystemExit(f"{len(bad)} series did not come through: see the logs in {STATE}")
    return states.count("done") == count


class SendingPaused(Exception):
    """Nothing came for a quiet period in the middle of the series."""


def whole(slices: int) -> bool:
    """Whether all slices are in one archive.

    Raises:
        SendingPaused: for a quiet period, so that some have come late and made a second version.
    """
    from tardis_imagetrove.models import Archive

    counts = dict(Archive.objects.values_list("version", "instance_count"))
    if len(counts) > 1:
        raise SendingPaused
    return counts.get(1) == slices


def forget() -> None:
    """Leave nothing of a measurement to the next."""
    from tardis.tardis_portal.models import Experiment

    from tardis_imagetrove.models import Series

    Series.objects.all().delete()
    for experiment in Experiment.objects.all():
        experiment.datasets.all().delete()
        experiment.delete()


def ready(name: str) -> bool:
    return " ready." in (STATE / f"{name}.log").read_text(errors="replace")


def undisturbed_page_seconds(files: list[Path], attempts: int = 3) -> float:
    """:func:`page_seconds`, tried again when sending paused."""
    for _ in range(attempts):
        try:
            return page_seconds(files)
        except SendingPaused:
            say("sending paused for longer than the quiet period: once more")
            forget()
            shutil.rmtree(STATE / "host" / "spool", ignore_errors=True)
            (STATE / "page.log").unlink()
    raise SystemExit("sending paused for longer than the quiet period, each time")


def page_seconds(files: list[Path]) -> float:
    """From the last acknowledgement to the last record, without the quiet period."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    receiver = ("-m", "django", "imagetrove_scp", "--host", "127.0.0.1", "--port", str(port), "--promiscuous")
    with worker("page"), process("receiver", *receiver):
        wait_until(lambda: ready("page") and listens(), "the site runs", 120)
        if send(files, "127.0.0.1", port) != len(files):
            raise SystemExit("not every slice was acknowledged")
        acknowledged = time.monotonic()
        wait_until(lambda: whole(len(files)) and archived_and_converted(1), "the dataset page is finished")
        seconds = time.monotonic() - acknowledged - QUIET_SECONDS
    forget()
    return seconds


def many_seconds(names: list[str], sources: list[list[Path]]) -> float:
    """To archive and convert series that are in the spool, by these workers."""
    from tardis_imagetrove.tasks import open_spool, queue_series

    spool = open_spool()
    spool.prepare()
    uids = []
    for paths in sources:
        for path in paths:
            with spool.incoming() as incoming:
                incoming.write(path.read_bytes())
                incoming.commit(path.parent.name, path.stem)
        uids.append(paths[0].parent.name)
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(worker(name))
        wait_until(lambda: all(map(ready, names)), "the workers run", 120)
        started = time.monotonic()
        for uid in uids:
            queue_series(uid)
        wait_until(lambda: archived_and_converted(len(uids)), "all series are converted")
        seconds = time.monotonic() - started
    forget()
    return seconds


def small_series(folder: Path, count: int) -> list[list[Path]]:
    """Series whose folders and files are named by their UIDs."""
    from pydicom.uid import generate_uid

    made = []
    for _ in range(count):
        uid = str(generate_uid())
        paths = oblique_mr_series(folder / uid, slices=24, rows=192, columns=192, series_uid=uid)
        made.append([path.rename(path.with_stem(_sop(path))) for path in paths])
    return made


def _sop(path: Path) -> str:
    import pydicom

    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def say(words: str) -> None:
    """How far it is, for whoever waits."""
    print(words, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--series", type=int, default=200, help="for the workers; 0 leaves them out")
    parser.add_argument("--no-page", action="store_true", help="without the running site's page")
    parser.add_argument("--data", type=Path, help="a folder with one series, instead of a generated one")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()

    missing = [
        name for name in ("dcm2mnc", "mincconvert", "mnc2nii", "mincpik", "zip") if not shutil.which(name)
    ]
    rounds: dict[str, list[list[Step]]] = {"original": [], "ours": []}
    with tempfile.TemporaryDirectory(prefix="data-", dir=STATE) as scratch:
        if options.data:
            files = sorted(path for path in options.data.rglob("*") if path.is_file())
        else:
            files = oblique_mr_series(
                Path(scratch, "dicom"),
                slices=options.slices,
                rows=256,
                columns=256,
                pixel_spacing=(0.9, 0.9),
                slice_spacing=180 / options.slices,
            )
        for number in range(options.rounds):
            for name, pipeline in (("original", original), ("ours", ours)):
                if name == "original" and missing:
                    continue
                work = Path(scratch, f"{name}-{number}")
                work.mkdir()
                rounds[name].append(pipeline(files, work))
                took = [
                    sum(getattr(step, of) for step in rounds[name][-1]) for of in ("seconds", "cpu_seconds")
                ]
                say(f"round {number + 1}, {name}: {took[0]:.2f} s ({took[1]:.2f} s of processors)")
                shutil.rmtree(work)
        total = sum(path.stat().st_size for path in files)
        kinds = kinds_of_series(Path(scratch), quick=options.slices < 100)
        page = many = None
        if options.series or not options.no_page:
            prepare_site()
        if not options.no_page:
            page = undisturbed_page_seconds(files)
            say(f"page: {page:.2f} s")
        if options.series:
            sources = small_series(Path(scratch, "small"), options.series)
            many = {
                "one_worker": many_seconds(["one"], sources),
                "two_workers": many_seconds(["first", "second"], sources),
            }

    report = {
        "slices": len(files),
        "megabytes": round(total / 1e6, 1),
        "rounds": options.rounds,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "missing": missing,
        "steps": {},
    }
    print(f"{len(files)} files, {total / 1e6:.0f} MB, median of {options.rounds} rounds")
    totals, processors = {}, {}
    for name, done in rounds.items():
        if not done:
            print(f"{name}: missing {', '.join(missing)}")
            continue
        steps = [
            Step(
                columns[0].name,
                statistics.median(step.seconds for step in columns),
                statistics.median(step.cpu_seconds for step in columns),
                max(step.memory_mb for step in columns),
                columns[0].size,
            )
            for columns in zip(*done, strict=True)
        ]
        processors[name] = statistics.median(sum(step.cpu_seconds for step in one) for one in done)
        totals[name] = statistics.median(sum(step.seconds for step in one) for one in done)
        report["steps"][name] = [asdict(step) for step in steps]
        print(f"\n{name}")
        for step in steps:
            print(
                f"  {step.name:16} {step.seconds:7.2f} s ({step.cpu_seconds:6.2f} s of processors) {step.memory_mb:6.0f} MB {step.size / 1e6:8.1f} MB made"
            )
        print(f"  {'together':16} {totals[name]:7.2f} s ({processors[name]:6.2f} s of processors)")
    memory = max(step["memory_mb"] for step in report["steps"]["ours"])
    report["seconds"], report["cpu_seconds"] = totals, processors
    report["memory_mb"] = memory
    print(f"\nmemory of ours: {memory:.0f} MB (target {MEMORY_TARGET_MB})")
    if "original" in totals:
        report["ratio"] = totals["ours"] / totals["original"]
        report["cpu_ratio"] = processors["ours"] / processors["original"]
        print(
            f"time of ours to the original: {report['ratio']:.2f} (target {TIME_TARGET});"
            f" of the processors, which other work on the machine disturbs less: {report['cpu_ratio']:.2f}"
        )
    report["kinds"] = kinds
    for name, numbers in kinds.items():
        print(
            f"{name}: {numbers['files']} files, {numbers['cpu_seconds']:.2f} s of processors, dcm2niix alone"
            f" {numbers['dcm2niix']:.2f} s: {numbers['ratio']:.1f} times (target {KIND_TARGET:g})"
        )
    if page is not None:
        report["page_seconds"], report["page_ratio"] = page, page / totals["ours"]
        print(
            f"last slice to finished page: {page:.2f} s, {report['page_ratio']:.2f} of the conversion"
            f" itself (target {PAGE_TARGET:g})"
        )
    if many:
        report["workers"] = {**many, "series": options.series}
        report["workers_ratio"] = many["one_worker"] / many["two_workers"]
        print(
            f"{options.series} series: {many['one_worker']:.1f} s by one worker, {many['two_workers']:.1f} s"
            f" by two: {report['workers_ratio']:.2f} times (target {WORKERS_TARGET})"
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise  # the logs are of use
    shutil.rmtree(STATE, ignore_errors=True)
