"""Compares our filters with the original ImageTrove's tools on the same data in one run.

    python benchmarks/convert.py [--slices 1000] [--rounds 3] [--json FILE] [--data DIR]

The original: dcm2mnc, mincconvert -2, mnc2nii, mincpik, and zip of the DICOM files. Ours: the archive,
and the NIfTI, MINC and picture filters, each in a process of its own as on a worker that has one task at
a time. Both run one step after the other; rounds take turns, and the median counts. Only the ratios of
one run mean something. A program that is not installed is named as missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tardis_imagetrove.archive import Member, zip_stream  # noqa: E402
from tardis_imagetrove.filters.base import DicomSeries  # noqa: E402
from tardis_imagetrove.filters.minc import MincFilter  # noqa: E402
from tardis_imagetrove.filters.nifti import NiftiFilter  # noqa: E402
from tardis_imagetrove.filters.picture import PictureFilter  # noqa: E402
from tardis_imagetrove.phantom import oblique_mr_series  # noqa: E402

MEMORY_TARGET_MB = 300
TIME_TARGET = 0.5


@dataclass(frozen=True)
class Step:
    """One step of a round: seconds on the wall, the largest of its processes in MB, bytes that it made."""

    name: str
    seconds: float
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
        largest = max(
            resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        sending.send((seconds, largest / 1024))

    process = context.Process(target=child)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{name} failed")
    seconds, memory = receiving.recv()
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Step(name, seconds, memory, size)


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
    series = DicomSeries(tuple(files), "0003_t1")

    def archive(out: Path) -> None:
        members = (
            Member(
                name=path.name,
                sop_instance_uid=path.stem,
                sop_class_uid="",
                transfer_syntax_uid="",
                size=path.stat().st_size,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                source=path,
            )
            for path in files
        )
        with (out / "a.zip").open("wb") as file:
            file.writelines(zip_stream("1", "2", members))

    def filtered(kind: type) -> Callable[[Path], None]:
        def work(out: Path) -> None:
            if warnings := kind().run(series, out).warnings:
                raise SystemExit(f"{kind.name}: {warnings}")

        return work

    return [
        measured("archive", archive, work / "zip"),
        *(
            measured(kind.name, filtered(kind), work / kind.name)
            for kind in (NiftiFilter, MincFilter, PictureFilter)
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="a folder with one series, instead of a generated one")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()

    missing = [
        name for name in ("dcm2mnc", "mincconvert", "mnc2nii", "mincpik", "zip") if not shutil.which(name)
    ]
    rounds: dict[str, list[list[Step]]] = {"original": [], "ours": []}
    with tempfile.TemporaryDirectory(prefix="bench-convert-") as scratch:
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
                shutil.rmtree(work)
        total = sum(path.stat().st_size for path in files)

    report = {
        "slices": len(files),
        "megabytes": round(total / 1e6, 1),
        "rounds": options.rounds,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "missing": missing,
        "steps": {},
    }
    print(f"{len(files)} files, {total / 1e6:.0f} MB, median of {options.rounds} rounds")
    totals = {}
    for name, done in rounds.items():
        if not done:
            print(f"{name}: missing {', '.join(missing)}")
            continue
        steps = [
            Step(
                columns[0].name,
                statistics.median(step.seconds for step in columns),
                max(step.memory_mb for step in columns),
                columns[0].size,
            )
            for columns in zip(*done, strict=True)
        ]
        totals[name] = statistics.median(sum(step.seconds for step in one) for one in done)
        report["steps"][name] = [asdict(step) for step in steps]
        print(f"\n{name}")
        for step in steps:
            print(
                f"  {step.name:16} {step.seconds:7.2f} s {step.memory_mb:6.0f} MB {step.size / 1e6:8.1f} MB made"
            )
        print(f"  {'together':16} {totals[name]:7.2f} s")
    memory = max(step["memory_mb"] for step in report["steps"]["ours"])
    report["seconds"] = totals
    report["memory_mb"] = memory
    print(f"\nmemory of ours: {memory:.0f} MB (target {MEMORY_TARGET_MB})")
    if "original" in totals:
        report["ratio"] = totals["ours"] / totals["original"]
        print(f"time of ours to the original: {report['ratio']:.2f} (target {TIME_TARGET})")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
