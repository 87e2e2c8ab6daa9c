"""A dataset in a folder: written once, then only what changed; what a person did there stays."""

from __future__ import annotations

import pytest

from tardis_imagetrove.bids.dataset import plan
from tardis_imagetrove.bids.folder import Change, update
from tardis_imagetrove.errors import PermanentError, RetriableError


@pytest.fixture
def write(project, tmp_path):
    """Bring the folder up to date; what was done with each file, but for those that are as they were."""

    def write(dry_run=False, broken=(), title="P"):
        def fetch(source, path):
            path.write_bytes(project.bytes_of[source.id][:5])
            if source.id in broken:
                raise RetriableError("the box is away")
            path.write_bytes(project.bytes_of[source.id])

        made = plan(project.scans, title, "1")
        done = list(update(tmp_path / "out", made, fetch, dry_run))
        return {one.name: one.change for one in done if one.change is not Change.SAME}

    write.folder = tmp_path / "out"
    return write


T1, OTHER = "sub-P1/anat/sub-P1_T1w.nii.gz", "sub-P2/anat/sub-P2_T1w.nii.gz"


def test_only_what_changed_is_written_and_what_went_is_removed(project, write):
    project.add("t1")
    assert write(dry_run=True)[T1] is Change.WRITTEN and not write.folder.exists()
    assert write()[T1] is Change.WRITTEN
    assert write() == {}
    before = (write.folder / T1).stat().st_ino
    project.add("t1", person="P2")
    done = write()
    assert done[OTHER] is Change.WRITTEN and T1 not in done and done["participants.tsv"] is Change.WRITTEN
    assert (write.folder / T1).stat().st_ino == before
    del project.scans[0]
    assert write(dry_run=True)[T1] is Change.REMOVED and (write.folder / T1).exists()
    assert write()[T1] is Change.REMOVED
    assert not (write.folder / "sub-P1").exists() and (write.folder / OTHER).exists()
    assert write() == {}
    assert not (write.folder / "imagetrove" / ".part").exists()


def test_what_a_person_did_stays(project, write):
    scan = project.add("t1")
    write()
    (write.folder / "README").write_text("mine")
    (write.folder / "code").mkdir()
    (write.folder / T1.replace(".nii.gz", ".json")).write_text("{}")
    project.add("t1", person="P2")
    assert write()["README"] is Change.KEPT
    project.scans.remove(scan)
    assert write()[T1.replace(".nii.gz", ".json")] is Change.KEPT
    assert (write.folder / "README").read_text() == "mine" and (write.folder / "code").exists()


def test_a_file_that_cannot_be_had_does_not_stop_the_others(project, write):
    one, _ = project.add("t1"), project.add("t1", person="P2")
    done = write(broken={one.images[0].nifti.id})
    assert done[T1] is Change.FAILED and done[OTHER] is Change.WRITTEN and not (write.folder / T1).exists()
    assert write() == {T1: Change.WRITTEN}


def test_what_was_cut_off_is_taken_up_again(project, write):
    project.add("t1")
    write()
    (write.folder / "imagetrove" / "sources.tsv").write_text("name\tsize\tsha512\n")
    (write.folder / "dataset_description.json").unlink()
    assert write() == {"dataset_description.json": Change.WRITTEN}


def test_another_dataset_is_left_alone(project, write):
    project.add("t1")
    write()
    with pytest.raises(PermanentError, match="contains the dataset 'P', not 'Q'"):
        write(title="Q")
    (write.folder / "imagetrove" / "sources.tsv").unlink()
    with pytest.raises(PermanentError, match="did not create"):
        write()


def test_a_record_that_leaves_the_folder_removes_nothing(project, write, tmp_path):
    project.add("t1")
    write()
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    with (write.folder / "imagetrove" / "sources.tsv").open("a") as file:
        file.write(
            f"../outside\t0\t{'cf83e1357eefb8bd' + 'f1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e'}\n"
        )
    assert write() == {} and outside.exists()
