"""Compares our images of real scanner data with references, series by series.

    python benchmarks/fidelity.py DIR [DIR ...] [--json FILE] [--only TEXT]

DIR is laid out as dcm2niix's validation repositories are (neurolabusc/dcm_qa and its siblings): DICOM in
``In/``, reference images in ``Ref/``, and optionally a ``batch.sh`` with the options that named them. DIR may also
hold several such folders. Each series is converted by dcm2niix alone and by our ``nifti`` and ``metadata`` filters, run
as a worker runs them. One line a series says what differs, and what a researcher would read about it.

The reference of an image is the file in ``Ref/`` of the name that dcm2niix gives it today. Where ``Ref/`` has none,
today's dcm2niix is the reference. Sidecars are always compared with today's, because their keys grow with each release.

The exit status is 1 if a series differs for no known reason (see :data:`REASONS`), or fails.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "devhost")]
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "devhost.settings")
os.environ.setdefault("PYTHONWARNINGS", "ignore")
os.environ.setdefault("DEVHOST_STATE", tempfile.mkdtemp(prefix="fidelity-state-"))

import django  # noqa: E402

django.setup()

import nibabel  # noqa: E402
import numpy as np  # noqa: E402

from tardis_imagetrove.conversion.offline import FoundSeries, convert_series, find_series  # noqa: E402
from tardis_imagetrove.conversion.registry import load  # noqa: E402
from tardis_imagetrove.filters.nifti import IDENTIFYING_FIELDS  # noqa: E402
from tardis_imagetrove.imaging.dcm2niix import find_dcm2niix, version_of  # noqa: E402

FILTERS = ("nifti", "metadata")

SAME_PLACE_MM = 0.05
"""Two affines are the same if no corner of the volume moves farther. NIfTI stores them in single precision."""

SIDECAR_OWN = re.compile(r"ConversionSoftware|^BidsGuess$|^UsePhilipsFloat|^Philips(Rescale|Scale)")
"""Sidecar keys that are not compared: about the converter, and about the scaling that it chose."""

DISPLAY_SCALING = (
    "values by RescaleSlope and RescaleIntercept (PS3.3 C.11.1.1.2), as dcm2niix -p n has them; its default is the"
    " private scale slope of Philips"
)

_STEP = "TriggerTime (PS3.3 C.7.6.16.2.2) of the slices at one place rises by {} from volume to volume"
_PAIRS = (
    "label and control have one TriggerTime (FrameAcquisitionDateTime), which rises by {}, so that volumes are {} apart;"
    " dcm2niix's step is the last volume's time divided by the number of steps"
)
_TILT = (
    "the gantry was tilted; ours is the affine of ImagePositionPatient and ImageOrientationPatient (PS3.3 C.7.6.2.1.1),"
    " from which dcm2niix's differs"
)

REASONS: dict[tuple[str, str], tuple[str, str]] = {
    ("dcm_qa_ge", "fMRI_Multiphase_Des_0_35Delay"): ("time step", _STEP.format("1350 ms, TR and the delay")),
    ("dcm_qa_ge", "fMRI_Multiphase_Des_VariableDelays1s"): (
        "time step",
        _STEP.format("1997 to 2017 ms: the delays are not TR"),
    ),
    ("dcm_qa_trt", "EPI_mph_acc"): ("time step", _STEP.format("4000 ms: a volume takes two TR")),
    ("dcm_qa_polar", "FM_cv12"): (
        "time step",
        _STEP.format("7400 ms, and every second volume is in each of the two images"),
    ),
    ("dcm_qa_ct", "STEREOTAXIS"): ("affine", _TILT),
    ("dcm_qa_philips_asl", "0202_SOURCE_pCASL"): (
        "time step",
        _PAIRS.format("9.1 s", "4.55 s, which is RepetitionTime"),
    ),
    ("dcm_qa_philips_asl", "0402_SOURCE_3D_pCASL"): (
        "time step",
        _PAIRS.format("33.87 s", "16.94 s, four times RepetitionTime"),
    ),
    ("dcm_qa_philips_enh", "1903_WIP_SOURCE_3DpCASL"): (
        "time step",
        _PAIRS.format("127.5 s", "63.75 s, 15 times RepetitionTime")
        + " In the enhanced object all volumes of one come before those of the other, and none is stated",
    ),
    ("dcm_qa_philips_asl", "0302_SOURCE_ASL_MultiPhase"): (
        "time step",
        "the fourth axis is phase, label or control, and repetition: TriggerTime comes back, and no step is stated",
    ),
    ("dcm_qa_philips", "dti_ax"): (
        "gradients",
        "DiffusionBValue and DiffusionGradientOrientation are in the header of every volume",
    ),
}
"""Known differences: repository and part of the series' name to the one kind of difference, and the reason by the
standard, which was seen in the headers. Another difference of the same series has no reason."""


def reason_for(row: Row) -> str:
    """The reason of all of a series' differences; what it has already if there is none."""
    for (repository, part), (kind, reason) in REASONS.items():
        if row.repository == repository and part in row.series and row.differences:
            each = (one for words in row.differences for one in words.partition(": ")[2].split("; "))
            return reason if all(kind in one for one in each) else ""
    return row.reason


# Series and references


@dataclass
class Row:
    """One series.

    Attributes:
        verdict: ``same``, ``sidecar`` (images are the same), ``differs``, ``nothing`` (neither makes an image) or
            ``failed``.
        reference: where the images were compared with: ``Ref``, ``dcm2niix``, or both.
        state: of the nifti filter's run.
        cpu: seconds of both filters; ``cpu_dcm2niix`` of dcm2niix alone, uncompressed, ``cpu_dcm2niix_gz`` compressed.
    """

    repository: str
    series: str
    number: str
    files: int
    verdict: str = ""
    reference: str = ""
    differences: list[str] = field(default_factory=list)
    sidecar: list[str] = field(default_factory=list)
    state: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dcm2niix_says: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    reference_images: list[str] = field(default_factory=list)
    cpu: float = 0
    cpu_dcm2niix: float = 0
    cpu_dcm2niix_gz: float = 0
    reason: str = ""
    folder: str = ""


def repositories(folder: Path) -> Iterator[Path]:
    """The folders with ``In/`` at or directly under a folder; without any, the folder itself."""
    if (folder / "In").is_dir() or (folder / "Ref").is_dir():
        yield folder
        return
    found = [child for child in sorted(folder.iterdir()) if (child / "In").is_dir()]
    yield from found or [folder]


@dataclass(frozen=True)
class Batch:
    """What ``batch.sh`` says: the folders that are converted one by one, and how images are named."""

    folders: tuple[Path, ...]
    names: str


def read_batch(repository: Path) -> Batch:
    text = (repository / "batch.sh").read_text(errors="replace") if (repository / "batch.sh").exists() else ""
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    folders = [
        repository / name for name in re.findall(r"^\s*indir\d?=\$\{basedir\}/(\S+)", text, re.MULTILINE)
    ]
    names = re.search(r"-f\s+[\"']?([^\s\"']*%[^\s\"']*)", text)
    folders = [path for path in dict.fromkeys(folders) if path.is_dir()]
    whole = repository / "In"
    return Batch(
        tuple(folders) or ((whole if whole.is_dir() else repository),), names[1] if names else "%p_%s"
    )


def unpacked(folder: Path, scratch: Path) -> Path:
    """The folder, or a copy in which what is compressed is not."""
    packed = [path for path in folder.rglob("*") if path.suffix in (".gz", ".zip") and path.is_file()]
    if not packed:
        return folder
    copy = scratch / "unpacked" / folder.name
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.gz", "*.zip"))
    for path in packed:
        target = copy / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(target.with_suffix(""))
        else:
            target.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    return copy


# Converting


@contextlib.contextmanager
def cpu_of_children() -> Iterator[list[float]]:
    """Processor seconds of this process and its children within the block."""

    def used() -> float:
        return sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    taken = [0.0]
    before = used()
    try:
        yield taken
    finally:
        taken[0] = used() - before


def dcm2niix_alone(source: Path, out: Path, *options: str) -> tuple[float, list[str]]:
    """Run dcm2niix as its users do; returns processor seconds and what it printed."""
    out.mkdir(parents=True)
    with cpu_of_children() as taken:
        done = subprocess.run(
            [str(find_dcm2niix()), "-b", "y", *options, "-o", str(out), str(source)],
            capture_output=True,
            check=False,
        )
    return taken[0], done.stdout.decode(errors="replace").splitlines()


@dataclass(frozen=True)
class Image:
    """A NIfTI file with what lies beside it, in canonical (RAS+) order of axes."""

    path: Path
    nifti: nibabel.Nifti1Image
    sidecar: dict[str, object]

    @classmethod
    def read(cls, path: Path) -> Image:
        stem = path.with_name(re.sub(r"\.nii(\.gz)?$", "", path.name))
        text = _text(stem, ".json")
        return cls(path, nibabel.load(path), json.loads(text, strict=False) if text else {})

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.nifti.shape
        return tuple(shape) + (1,) * (3 - len(shape))

    def gradients(self) -> tuple[np.ndarray, np.ndarray] | None:
        stem = self.path.with_name(re.sub(r"\.nii(\.gz)?$", "", self.path.name))
        values, vectors = _text(stem, ".bval"), _text(stem, ".bvec")
        if not values or not vectors:
            return None
        rows = [np.array(line.split(), float) for line in vectors.splitlines() if line.strip()]
        return np.array(values.split(), float), np.array(rows)


def _text(stem: Path, suffix: str) -> str:
    plain, packed = Path(f"{stem}{suffix}"), Path(f"{stem}{suffix}.gz")
    if plain.exists():
        return plain.read_text(errors="replace")
    return gzip.decompress(packed.read_bytes()).decode(errors="replace") if packed.exists() else ""


def images_in(folder: Path) -> list[Image]:
    return [Image.read(path) for path in sorted(folder.rglob("*.nii*"))]


# Comparing


def differences(ours: Image, theirs: Image) -> list[str]:
    """What differs between two images of the same slices; nothing if they are the same."""
    if _plain(ours.shape) != _plain(theirs.shape):
        return [f"shape {_shape(ours)}, reference {_shape(theirs)}"]
    found = []
    one, other = (_canonical(image) for image in (ours, theirs))
    if one.shape != other.shape:
        return [f"axes lie otherwise: {_axes(ours)}, reference {_axes(theirs)}"]
    away = _corner_distance(one.affine, other.affine, one.shape[:3])
    if away > SAME_PLACE_MM:
        found.append(f"affine: a voxel lies up to {away:.3g} mm elsewhere")
    if one.get_data_dtype().names != other.get_data_dtype().names:
        found.append("one is in colour, the other is not")
    elif one.get_data_dtype().names:
        if not np.array_equal(np.asanyarray(one.dataobj), np.asanyarray(other.dataobj)):
            found.append("colours differ")
    else:
        found += _voxels(one, other)
    found += _step(ours, theirs)
    found += _gradients(ours, theirs)
    return found


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(shape[:3])) + shape[3:]


def _shape(image: Image) -> str:
    return "×".join(map(str, image.shape))


def _axes(image: Image) -> str:
    return "".join(nibabel.aff2axcodes(image.nifti.affine))


def _canonical(image: Image) -> nibabel.Nifti1Image:
    nifti = image.nifti
    if len(nifti.shape) < 3:
        nifti = nibabel.Nifti1Image(np.asanyarray(nifti.dataobj)[..., None], nifti.affine, nifti.header)
    return nibabel.as_closest_canonical(nifti)


def _corner_distance(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    corners = np.array(
        [[i, j, k, 1] for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)]
    )
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


def _voxels(one: nibabel.Nifti1Image, other: nibabel.Nifti1Image) -> list[str]:
    mine, theirs = (np.asanyarray(image.dataobj, dtype=np.float64) for image in (one, other))
    scale = max(float(np.abs(theirs).max(initial=0)), 1e-30)
    differing = np.abs(mine - theirs) > 1e-5 * scale * (1e-1 if scale < 1e4 else 1) + 1e-6 * np.abs(theirs)
    differing |= np.isnan(mine) != np.isnan(theirs)
    if not differing.any():
        return []
    share = float(differing.mean())
    worst = float(np.nanmax(np.abs(mine - theirs)))
    words = f"voxels: {share:.2%} differ, by up to {worst:.4g} (largest value {scale:.4g})"
    if mine.ndim == 4 and mine.shape[3] > 1:
        volumes = differing.reshape(-1, mine.shape[3]).any(axis=0)
        words += f", in {int(volumes.sum())} of {mine.shape[3]} volumes"
        if all(_somewhere(mine[..., t], theirs) for t in range(min(3, mine.shape[3]))):
            words += " (the same volumes in another order)"
    return [words]


def _somewhere(volume: np.ndarray, others: np.ndarray) -> bool:
    return any(np.allclose(volume, others[..., t], rtol=1e-5) for t in range(others.shape[3]))


def _step(ours: Image, theirs: Image) -> list[str]:
    """Seconds between volumes."""
    if len(ours.shape) < 4 or len(theirs.shape) < 4:
        return []
    one, other = (_seconds(image) for image in (ours, theirs))
    return (
        []
        if abs(one - other) <= 1e-3 * max(abs(other), 1e-6)
        else [f"time step {one:.4g} s, reference {other:.4g} s"]
    )


def _seconds(image: Image) -> float:
    unit = image.nifti.header.get_xyzt_units()[1]
    return float(image.nifti.header["pixdim"][4]) * {"msec": 1e-3, "usec": 1e-6}.get(unit, 1)


def _gradients(ours: Image, theirs: Image) -> list[str]:
    one, other = ours.gradients(), theirs.gradients()
    if one is None or other is None:
        if one is other:
            return []
        return [
            "gradients, where the reference has none"
            if other is None
            else "no gradients, where the reference has them"
        ]
    if one[0].shape != other[0].shape or one[1].shape != other[1].shape:
        return [f"{one[0].size} gradients, reference {other[0].size}"]
    words = []
    if not np.allclose(one[0], other[0], atol=1):
        words.append(f"b-values differ by up to {np.abs(one[0] - other[0]).max():.4g}")
    turned = np.minimum(np.abs(one[1] - other[1]).max(axis=0), np.abs(one[1] + other[1]).max(axis=0))
    if turned.max(initial=0) > 0.01:
        words.append(
            f"gradient directions differ by up to {turned.max():.3g} in {int((turned > 0.01).sum())} of {one[0].size}"
        )
    return words


def sidecar_differences(ours: dict[str, object], theirs: dict[str, object]) -> list[str]:
    """Keys of the reference's sidecar that ours lacks, or has another value for."""
    found, lacking = [], []
    for key, value in theirs.items():
        if SIDECAR_OWN.search(key) or key in IDENTIFYING_FIELDS:
            continue
        if key not in ours:
            lacking.append(key)
        elif not _alike(ours[key], value):
            found.append(f"{key} is {_brief(ours[key])}, reference {_brief(value)}")
    if lacking:
        found.append(f"lacks {', '.join(lacking)}")
    return found


def _alike(one: object, other: object) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return abs(one - other) <= 1e-3 * max(abs(one), abs(other)) + 1e-6
    return one == other


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def pairs(
    ours: list[Image], theirs: list[Image]
) -> tuple[list[tuple[Image, Image, list[str]]], list[Image], list[Image]]:
    """Each image with the reference that it resembles most; and images and references without one."""
    found = [
        (len(words), position, i, j, words)
        for i, mine in enumerate(ours)
        for position, (j, other) in enumerate(enumerate(theirs))
        for words in [differences(mine, other)]
    ]
    matched, taken_i, taken_j = [], set(), set()
    for _, _, i, j, words in sorted(found, key=lambda one: (*one[:1], abs(one[2] - one[3]), *one[1:4])):
        if i not in taken_i and j not in taken_j:
            taken_i.add(i)
            taken_j.add(j)
            matched.append((ours[i], theirs[j], words))
    return (
        matched,
        [image for i, image in enumerate(ours) if i not in taken_i],
        [image for j, image in enumerate(theirs) if j not in taken_j],
    )


# One series


def compare_series(repository: Path, batch: Batch, series: FoundSeries, label: str, scratch: Path) -> Row:
    number = series.directory.split("_")[0].lstrip("0") or "0"
    row = Row(repository.name, series.directory, number, len(series.files), folder=label)
    source = scratch / label / "dicom"
    source.mkdir(parents=True)
    for index, path in enumerate(series.files):
        (source / f"{index:06d}_{path.name[-60:]}").symlink_to(path.resolve())
    row.cpu_dcm2niix, said = dcm2niix_alone(
        source, scratch / "today", "-z", "n", "-f", batch.names.replace("%f", label)
    )
    row.cpu_dcm2niix_gz, _ = dcm2niix_alone(source, scratch / "packed", "-z", "i", "-f", "%s")
    row.dcm2niix_says = [line for line in said if re.search(r"[Ww]arning|[Ee]rror|Unable|Unsupported", line)][
        :12
    ]
    today = images_in(scratch / "today")
    registry = load()
    out = scratch / "ours"
    out.mkdir()
    with cpu_of_children() as taken:
        done = list(convert_series(series, {name: registry[name] for name in FILTERS}, out, overwrite=False))
    row.cpu = taken[0]
    nifti = done[0]
    row.state = nifti.outcome.value
    row.problems, row.notes = list(nifti.words), list(nifti.notes)
    if done[1].outcome.value != "done":
        row.problems += [f"metadata: {words}" for words in done[1].words]
    ours = images_in(out)
    row.images = [f"{image.path.name} {_shape(image)}" for image in ours]
    row.reference_images = [f"{image.path.name} {_shape(image)}" for image in today]
    if row.state == "failed":
        row.verdict = "failed"
        return row
    if not ours and not today:
        row.verdict = "nothing"
        return row
    matched, extra, missing = pairs(ours, today)
    if any("voxels" in one for *_, words in matched for one in words) and _is_philips(today):
        dcm2niix_alone(
            source, scratch / "display", "-z", "n", "-p", "n", "-f", batch.names.replace("%f", label)
        )
        display = images_in(scratch / "display")
        again = pairs(ours, display)
        if sum(len(words) for *_, words in again[0]) < sum(len(words) for *_, words in matched):
            matched, extra, missing = again
            today, row.reason = display, DISPLAY_SCALING
    of_ref = 0
    for mine, other, words in matched:
        name = other.path.name
        row.sidecar += [
            f"{mine.path.name}: {words}" for words in sidecar_differences(mine.sidecar, other.sidecar)
        ]
        if not row.reason and (theirs := reference_of(repository, other)) is not None:
            of_ref += 1
            against = differences(mine, theirs)
            if against and not words:
                row.differences += [f"{name}: (Ref/ only, as dcm2niix today) {'; '.join(against)}"]
            elif words and not against:
                row.differences += [f"{name}: (dcm2niix today only, as Ref/) {'; '.join(words)}"]
            else:
                row.differences += [f"{name}: {'; '.join(words)}"] * bool(words)
        elif words:
            row.differences.append(f"{name}: {'; '.join(words)}")
    row.differences += [f"also {image.path.name} ({_shape(image)})" for image in extra]
    row.differences += [f"no image like {image.path.name} ({_shape(image)})" for image in missing]
    row.reference = "Ref" if of_ref == len(today) and today else "Ref, dcm2niix" if of_ref else "dcm2niix"
    hard = [words for words in row.differences if " only, as " not in words]
    row.verdict = "differs" if hard else "sidecar" if row.sidecar else "same"
    return row


def _is_philips(images: list[Image]) -> bool:
    return any("philips" in str(image.sidecar.get("Manufacturer", "")).lower() for image in images)


def reference_of(repository: Path, today: Image) -> Image | None:
    """The image in ``Ref/`` of the same name and shape; dcm2niix adds a letter where two series share a name."""
    stem = re.sub(r"\.nii(\.gz)?$", "", today.path.name)
    folder = repository / "Ref"
    if not folder.is_dir():
        return None
    named = [
        path
        for path in sorted(folder.iterdir())
        if re.fullmatch(re.escape(stem) + r"[a-z]?\.nii(\.gz)?", path.name)
    ]
    fitting = [image for image in map(Image.read, named) if image.shape == today.shape]
    return min(fitting, key=lambda image: len(differences(image, today)), default=None)


def run(repository: Path, only: str) -> Iterator[Row]:
    batch = read_batch(repository)
    with tempfile.TemporaryDirectory(prefix="fidelity-") as place:
        for folder in batch.folders:
            ready = unpacked(folder, Path(place))
            found, _ = find_series(ready, Path(place, "nothing"))
            for number, series in enumerate(found):
                if only and only not in series.directory:
                    continue
                scratch = Path(place, f"series-{folder.name}-{number}")
                scratch.mkdir()
                yield compare_series(repository, batch, series, folder.name, scratch)
                shutil.rmtree(scratch)


# Showing


def line_of(row: Row) -> str:
    ratio = f"{row.cpu / row.cpu_dcm2niix:5.1f}×" if row.cpu_dcm2niix else "    -"
    where = f"{row.repository.removeprefix('dcm_qa_')}/{row.folder + '/' if row.folder != 'In' else ''}{row.series}"
    flag = "PROBLEM" if row.problems and row.state == "partial" else "note" if row.notes else ""
    return f"{row.verdict:8} {flag:8} {row.state:8} {row.files:6} files {row.cpu:7.2f} s {ratio} {where}"


def details_of(row: Row) -> Iterator[str]:
    for mark, words in (("≠", row.differences), ("k", row.sidecar), ("!", row.problems), ("·", row.notes)):
        yield from (f"           {mark} {one}" for one in words)
    if row.reason:
        yield f"           reason: {row.reason}"


def summary_of(rows: list[Row]) -> dict[str, object]:
    counts = Counter(row.verdict for row in rows)
    equal = [row for row in rows if row.verdict in ("same", "sidecar")]
    flagged = [row for row in equal if row.state == "partial"]
    cpu, alone, packed = (
        sum(getattr(row, name) for row in rows) for name in ("cpu", "cpu_dcm2niix", "cpu_dcm2niix_gz")
    )
    return {
        "series": len(rows),
        **{name: counts[name] for name in ("same", "sidecar", "differs", "nothing", "failed")},
        "explained": sum(bool(row.reason) for row in rows if row.verdict in ("differs", "failed")),
        "same_images": len(equal),
        "same_images_flagged": len(flagged),
        "cpu": round(cpu, 1),
        "cpu_dcm2niix": round(alone, 1),
        "cpu_dcm2niix_gz": round(packed, 1),
        "cpu_ratio": round(cpu / alone, 2) if alone else None,
        "cpu_ratio_gz": round(cpu / packed, 2) if packed else None,
        "worst_ratio": round(
            max((row.cpu / row.cpu_dcm2niix for row in rows if row.cpu_dcm2niix > 0.05), default=0), 2
        ),
        "dcm2niix": version_of(find_dcm2niix()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--json", type=Path, help="where to write the rows and the summary")
    parser.add_argument("--only", default="", help="series whose folder name contains this")
    parser.add_argument("--quiet", action="store_true", help="one line a series, without the differences")
    options = parser.parse_args()
    rows: list[Row] = []
    started = time.monotonic()
    for folder in options.folders:
        for repository in repositories(folder):
            for row in run(repository.resolve(), options.only):
                row.reason = reason_for(row)
                rows.append(row)
                print(line_of(row), *(() if options.quiet else details_of(row)), sep="\n", flush=True)
                if options.json:
                    _write(options.json, rows)
    summary = summary_of(rows)
    print(json.dumps(summary), f"in {time.monotonic() - started:.0f} s")
    shutil.rmtree(os.environ["DEVHOST_STATE"], ignore_errors=True)
    bad = [row for row in rows if row.verdict in ("differs", "failed") and not row.reason]
    return 1 if bad or not rows else 0


def _write(path: Path, rows: list[Row]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(
        json.dumps({"summary": summary_of(rows), "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
    )
    part.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
