"""The whole path: a console sends, and the dataset is there, over a real association and with real workers."""

from __future__ import annotations

import random
import shutil
import threading
import time
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from devhost.send import send
from tardis_imagetrove.models import FilterOutput, FilterRun, Instance, Series
from tardis_imagetrove.mytardis import mytardis
from tardis_imagetrove.scu import read

from .conftest import configure, phantom, series_uid
from .site import Site, eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

CARRIED = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


@pytest.fixture
def site(owner, tmp_path):
    site = Site(tmp_path)
    yield site
    site.stop()


@pytest.fixture
def patient_site(owner, tmp_path):
    """A site that does not fill its queue by queuing again what a busy machine has not come to yet."""
    site = Site(tmp_path, STALL_SECONDS=12, RETRY_SECONDS_MAX=300)
    yield site
    site.stop()


@pytest.fixture
def running(site):
    site.start_worker()
    site.start_receiver()
    return site


def archived(uid: str, tmp_path: Path) -> dict[str, bytes]:
    """The data sets in a series' archive by SOPInstanceUID, as bytes from the end of the file meta."""
    archive = Series.objects.get(series_uid=uid).archives.order_by("-version").first()
    path = tmp_path / "fetched.zip"
    mytardis().fetch(archive.datafile_id, path)
    found: dict[str, bytes] = {}
    with zipfile.ZipFile(path) as opened:
        for name in opened.namelist():
            if name.endswith(".dcm"):
                sop = Path(name).stem
                assert sop not in found
                found[sop] = data_set(opened.read(name))
    return found


def data_set(part10: bytes) -> bytes:
    """What follows preamble, magic and file meta group (PS3.10 section 7.1)."""
    return part10[144 + int.from_bytes(part10[140:144], "little") :]


def sent_by(paths: list[Path]) -> dict[str, bytes]:
    """The data sets in files by SOPInstanceUID, as :func:`archived` has them."""
    return {str(read(path).SOPInstanceUID): data_set(path.read_bytes()) for path in paths}


def outputs_of(uid: str, folder: Path) -> dict[str, list[Path]]:
    """Fetched outputs of a series by kind."""
    folder.mkdir(exist_ok=True)
    found: dict[str, list[Path]] = {}
    outputs = FilterOutput.objects.filter(run__archive__series__series_uid=uid)
    for output in outputs.select_related("datafile").order_by("datafile__filename"):
        path = folder / output.datafile.filename
        mytardis().fetch(output.datafile_id, path)
        found.setdefault(output.kind, []).append(path)
    return found


def test_the_three_demo_series_arrive_with_all_that_is_made_of_them(running, owner, box, tmp_path):
    configure(owner, storage_box=box)
    configure(
        owner,
        name="Philips",
        storage_box=box,
        instrument=[["Manufacturer", "Philips Medical Systems"]],
    )
    configure(
        owner,
        name="Siemens",
        storage_box=box,
        instrument=[["Manufacturer", "SIEMENS"], ["ManufacturerModelName", "TrioTim"]],
        experiment_title=["StudyDescription"],
    )
    generated = phantom(tmp_path / "phantom", slices=10)
    sent = {
        "philips": [CARRIED / "philips_mprage.dcm.gz"],
        "siemens": [CARRIED / "siemens_dwi_0.dcm.gz", CARRIED / "siemens_dwi_1000.dcm.gz"],
        "phantom": generated,
    }
    uids = {name: str(read(paths[0]).SeriesInstanceUID) for name, paths in sent.items()}
    for name, paths in sent.items():
        assert running.send(*paths) == len(paths), name
    running.wait(uids.values())

    for name, kinds in {
        "philips": {"NIfTI", "Sidecar", "MINC", "Picture"},
        "siemens": {"NIfTI", "Sidecar", "Gradients", "MINC", "Picture"},
        "phantom": {"NIfTI", "Sidecar", "MINC", "Picture"},
    }.items():
        found = outputs_of(uids[name], tmp_path / name)
        assert found.keys() == kinds, name
        (nifti,), (minc,) = found["NIfTI"], found["MINC"]
        image, volume = nibabel.load(nifti), nibabel.load(minc)
        world = np.array([image.affine @ (i, j, k, 1) for i, j, k in np.ndindex(2, 2, 2)])
        # MINC's axes may be in another order: every corner of one is a corner of the other.
        corners = corner_points(image), corner_points(volume)
        assert np.allclose(*corners, atol=1e-3), name
        assert world.shape == (8, 4)
        for datafile in FilterOutput.objects.filter(run__archive__series__series_uid=uids[name]):
            assert datafile.datafile.file_objects.get().verified

    assert {uid: len(archived(uid, tmp_path)) for uid in uids.values()} == {
        uids["philips"]: 1,
        uids["siemens"]: 2,
        uids["phantom"]: 10,
    }


def corner_points(image) -> np.ndarray:
    """World coordinates of the corner voxels of a volume, in mm, sorted; shape (8, 3)."""
    last = np.array(image.shape[:3]) - 1
    if len(image.shape) == 4 and image.shape[0] < min(image.shape[1:]):  # MINC keeps time first
        last = np.array(image.shape[1:4]) - 1
    corners = np.array(list(np.ndindex(2, 2, 2))) * last
    points = corners @ image.affine[:3, :3].T + image.affine[:3, 3]
    return points[np.lexsort(points.round(3).T)]


def test_two_interleaved_series_on_two_associations_stay_apart(running, owner, box, tmp_path):
    configure(owner, storage_box=box, filters=["metadata"])
    one, other = phantom(tmp_path / "one", slices=12), phantom(tmp_path / "other", slices=12)
    mixed = [path for pair in zip(one, other, strict=True) for path in pair]
    senders = [threading.Thread(target=running.send, args=mixed[half::2][::-1]) for half in (0, 1)]
    senders += [threading.Thread(target=running.send, args=mixed)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    uids = [series_uid(one[0]), series_uid(other[0])]
    running.wait(uids)
    for uid, paths in zip(uids, (one, other), strict=True):
        assert archived(uid, tmp_path) == sent_by(paths)


def test_a_series_sent_twice_doubles_nothing(running, owner, box, tmp_path):
    from tardis.tardis_portal.models import DataFile, Dataset, Experiment

    configure(owner, storage_box=box)
    paths = phantom(tmp_path / "in")
    uid = series_uid(paths[0])
    assert running.send(*paths) == len(paths)
    running.wait([uid])
    before = sorted(DataFile.objects.values_list("filename", "version", "sha512sum"))
    assert running.send(*paths) == len(paths)
    eventually(lambda: not running.spool.series_uids(), what="the second sending is cleared")
    running.wait([uid])
    assert sorted(DataFile.objects.values_list("filename", "version", "sha512sum")) == before
    assert (Experiment.objects.count(), Dataset.objects.count()) == (1, 1)
    assert Instance.objects.count() == len(paths)
    assert archived(uid, tmp_path) == sent_by(paths)


def test_a_late_slice_joins_the_archived_series_and_its_image(running, owner, box, tmp_path):
    configure(owner, storage_box=box, filters=["nifti"])
    paths = phantom(tmp_path / "in", slices=8)
    uid = series_uid(paths[0])
    running.send(*paths[:-1])
    running.wait([uid])
    running.send(paths[-1])
    eventually(lambda: Series.objects.get().archives.count() == 2, what="a second version")
    running.wait([uid])
    assert archived(uid, tmp_path) == sent_by(paths)
    current = FilterOutput.objects.get(run__archive__version=2, kind="NIfTI").datafile
    mytardis().fetch(current.pk, tmp_path / "now.nii.gz")
    assert nibabel.load(tmp_path / "now.nii.gz").shape[2] == 8
    assert "superseded" not in current.directory
    former = FilterOutput.objects.get(run__archive__version=1, kind="NIfTI").datafile
    assert former.directory.endswith("/superseded/v1")


def test_an_instrument_that_de_identifies_shows_copies_of_late_slices_too(running, owner, box, tmp_path):
    configure(owner, storage_box=box, dataset_title=["Modality"], deidentify=True)
    paths = phantom(tmp_path / "in", slices=8)
    uid = series_uid(paths[0])
    running.send(*paths[:-1])
    running.wait([uid])
    running.send(paths[-1])
    eventually(lambda: Series.objects.get().archives.count() == 2, what="a second version")
    running.wait([uid])
    series = Series.objects.get()
    newest = series.archives.order_by("-version").first()
    assert {run.state for run in newest.runs.all()} == {FilterRun.State.DONE}, series.reason
    copies = archived(uid, tmp_path)
    assert len(copies) == 8 and not any(
        b"PHANTOM-1" in copy or b"Oblique" in copy for copy in copies.values()
    )
    outputs = outputs_of(uid, tmp_path / "out")
    assert {"NIfTI", "Sidecar", "MINC", "Picture"} <= outputs.keys()
    for path in (path for paths in outputs.values() for path in paths):
        assert b"PHANTOM-1" not in path.read_bytes() and b"Oblique" not in path.read_bytes()
    mytardis().fetch(newest.original.datafile_id, tmp_path / "originals.zip")
    with zipfile.ZipFile(tmp_path / "originals.zip") as originals:
        kept = [data_set(originals.read(name)) for name in originals.namelist() if name.endswith(".dcm")]
    assert sorted(kept) == sorted(data_set(path.read_bytes()) for path in paths)


def test_what_is_held_says_why_and_goes_on_by_itself_once_configured(running, owner, box, tmp_path):
    paths = phantom(tmp_path / "in", slices=2)
    uid = series_uid(paths[0])
    running.send(*paths)
    eventually(lambda: Series.objects.filter(state=Series.State.HELD).exists(), 30)
    assert "no instrument is configured" in Series.objects.get().reason
    configure(owner, storage_box=box, filters=["metadata"])
    running.wait([uid])
    eventually(lambda: Series.objects.get().state == Series.State.DONE)


def test_a_filter_that_fails_leaves_the_others_and_the_archive_alone(running, owner, box, tmp_path):
    configure(owner, storage_box=box)
    paths = phantom(tmp_path / "in", overrides={"PixelData": None})
    broken = [pydicom.dcmread(path) for path in phantom(tmp_path / "broken")]
    for path, dataset in zip(paths, broken, strict=True):
        dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]  # cut short on its way
        dataset.save_as(path)
    uid = series_uid(paths[0])
    running.send(*paths)
    running.wait([uid])
    series = Series.objects.get()
    assert series.state == Series.State.PARTIAL
    assert "nifti: " in series.reason
    assert FilterRun.objects.get(filter="metadata").state == FilterRun.State.DONE
    assert len(archived(uid, tmp_path)) == len(paths)


def test_with_the_database_away_the_receiver_goes_on_receiving(site, owner, box, tmp_path):
    configure(owner, storage_box=box, filters=["metadata"])
    real = site.env["IMAGETROVE_TEST_DATABASE"]
    site.env["IMAGETROVE_TEST_DATABASE"] = str(tmp_path / "no" / "such" / "database")
    site.start_receiver()
    paths = phantom(tmp_path / "in")
    assert site.send(*paths) == len(paths)
    time.sleep(2)
    assert site.echo()
    site.kill("receiver")
    site.env["IMAGETROVE_TEST_DATABASE"] = real
    site.start_worker()
    site.start_receiver()
    site.wait([series_uid(paths[0])])
    assert len(archived(series_uid(paths[0]), tmp_path)) == len(paths)


def test_with_the_broker_away_the_series_waits_and_says_so(site, owner, box, tmp_path):
    configure(owner, storage_box=box, filters=["metadata"])
    site.env["DEVHOST_BROKER"] = "amqp://guest@127.0.0.1:1//"
    site.start_receiver()
    paths = phantom(tmp_path / "in")
    assert site.send(*paths) == len(paths)
    eventually(lambda: Series.objects.filter(state=Series.State.WAITING).exists(), 30)
    assert "broker" in Series.objects.get().reason
    site.kill("receiver")
    del site.env["DEVHOST_BROKER"]
    site.start_worker()
    site.start_receiver()
    site.wait([series_uid(paths[0])])


@pytest.mark.slow(first=True)
def test_nothing_acknowledged_is_lost_when_receiver_and_worker_are_killed(patient_site, owner, box, tmp_path):
    """Ten kills at random moments while consoles go on sending; what was acknowledged is archived."""
    site = patient_site
    configure(owner, storage_box=box, filters=["metadata", "nifti"])
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    chance = random.Random(seed)
    site.start_worker()
    site.start_receiver()
    acknowledged: dict[str, dict[str, bytes]] = {}
    over = threading.Event()

    def console(number: int) -> None:
        """Sends a series, instance by instance, again until each is acknowledged, then the next series."""
        count = 0
        while not over.is_set():
            paths = phantom(tmp_path / f"console-{number}-{count}", slices=5)
            uid = series_uid(paths[0])
            for path in paths:
                while not over.is_set():
                    try:
                        if send([path], "127.0.0.1", site.port) == 1:
                            sop = str(read(path).SOPInstanceUID)
                            acknowledged.setdefault(uid, {})[sop] = data_set(path.read_bytes())
                            break
                    except (ConnectionError, RuntimeError, ValueError):
                        pass
                    time.sleep(0.2)
            shutil.rmtree(tmp_path / f"console-{number}-{count}")
            count += 1
            time.sleep(1.5)  # a broker of files takes a second for each message

    consoles = [threading.Thread(target=console, args=(number,)) for number in range(2)]
    for thread in consoles:
        thread.start()
    for _ in range(10):
        time.sleep(chance.uniform(0.3, 2.5))
        victim = chance.choice(["receiver", "worker"])
        site.kill(victim)
        site.start_receiver() if victim == "receiver" else site.start_worker()
    over.set()
    for thread in consoles:
        thread.join()

    assert sum(map(len, acknowledged.values())) > 10
    # What stood still because its worker died is taken up again after the stall time.
    site.wait(acknowledged, 600)  # on a busy machine
    eventually(lambda: not site.spool.series_uids(), 60, "the spool is clear")
    for uid, instances in acknowledged.items():
        found = archived(uid, tmp_path)
        assert {sop: found.get(sop) for sop in instances} == instances
    assert set(FilterRun.objects.values_list("state", flat=True)) <= {
        FilterRun.State.DONE,
        FilterRun.State.SKIPPED,  # of versions that late instances have superseded
        FilterRun.State.PARTIAL,  # of series that were cut off by the end of the test
    }
