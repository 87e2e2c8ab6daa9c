"""Importing a folder: DICOM files go to the spool byte for byte, a ParaVision study as one pack with its fields."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tardis_imagetrove.folders.importing import import_unit, unit_of
from tardis_imagetrove.folders.journal import Journal
from tardis_imagetrove.folders.source import Kind, OutsideRoots, Source, check_root
from tardis_imagetrove.formats import read
from tardis_imagetrove.imaging.paravision import convert_study
from tardis_imagetrove.phantom import oblique_mr_series
from tardis_imagetrove.spool import Spool

VISU = """##TITLE=Parameter List
##JCAMPDX=4.24
##ORIGIN=Bruker BioSpin MRI GmbH
##$VisuCreatorVersion=( 65 )
<6.0.1>
##$VisuCoreFrameCount=6
##$VisuCoreDim=2
##$VisuCoreSize=( 2 )
4 3
##$VisuCoreDimDesc=( 2 )
spatial spatial
##$VisuCoreExtent=( 2 )
8 3
##$VisuCoreFrameThickness=( 1 )
0.5
##$VisuCoreUnits=( 2, 65 )
<mm> <mm>
##$VisuCoreOrientation=( 3, 9 )
0 1 0 0 0 1 1 0 0 0 1 0 0 0 1 1 0 0 0 1 0 0 0 1 1 0 0
##$VisuCorePosition=( 3, 3 )
5 1 2 3.5 1 2 2 1 2
##$VisuCoreDataSlope=( 6 )
1 1 1 1 1 2
##$VisuCoreDataOffs=( 6 )
0 0 0 0 0 0
##$VisuCoreWordType=_16BIT_SGN_INT
##$VisuCoreByteOrder=littleEndian
##$VisuFGOrderDescDim=2
##$VisuFGOrderDesc=( 2 )
(3, <FG_SLICE>, <>, 0, 2) (2, <FG_CYCLE>, <>, 2, 0)
##$VisuGroupDepVals=( 2 )
(<VisuCoreOrientation>, 0) (<VisuCorePosition>, 0)
##$VisuSubjectId=( 65 )
<Mouse 7>
##$VisuStudyUid=( 65 )
<1.2.3.4>
##END=
"""


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    reconstruction = folder / "1" / "pdata" / "1"
    reconstruction.mkdir(parents=True)
    (folder / "subject").write_text(
        "##TITLE=x\n##JCAMPDX=4.24\n##$SUBJECT_comment=( 65 )\n<CAI:12345>\n##END=\n"
    )
    (reconstruction / "visu_pars").write_text(VISU)
    np.arange(72, dtype="<i2").tofile(reconstruction / "2dseq")
    return folder


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "spool", reserve_bytes=0)
    made.prepare()
    return made


def test_a_paravision_study_becomes_images_in_the_world(study, tmp_path):
    (tmp_path / "out").mkdir()
    converted = convert_study(study, tmp_path / "out", "study")
    (image,) = converted.images
    assert (converted.warnings, converted.notes) == ([], [])
    made = nibabel.load(image.path)
    assert made.shape == (4, 3, 3, 2)
    stored = np.arange(72).reshape(2, 3, 3, 4)
    for k, frame in enumerate((2, 1, 0)):  # positions run against the normal
        assert np.array_equal(made.dataobj[:, :, k, 0], stored[0, frame].T)
    assert np.array_equal(made.dataobj[:, :, 0, 1], stored[1, 2].T * 2)  # its own slope
    corner = image.affine @ [0, 0, 2, 1]
    assert np.allclose(corner[:3], [-5, -1, 2], atol=1e-4)
    assert np.allclose((image.affine @ [3, 2, 0, 1])[:3], [-2, -(1 + 3 * 2), 2 + 2], atol=1e-4)


def test_a_study_that_is_cut_short_is_reported(study, tmp_path):
    (study / "1" / "pdata" / "1" / "2dseq").write_bytes(b"\0" * 100)
    (tmp_path / "out").mkdir()
    converted = convert_study(study, tmp_path / "out", "study")
    assert (converted.images, converted.notes) == ([], [])
    assert "2dseq has 100 bytes where visu_pars describes 144" in converted.warnings[0]


def test_a_study_is_one_pack_with_fields_and_every_file(study, spool, tmp_path):
    source = Source("s", study, Kind.PARAVISION)
    journal = Journal(tmp_path / "journal")
    done = import_unit(source, unit_of(study), spool, journal)
    assert done.uids == {"1.2.3.4"}
    found = read("1.2.3.4", spool.files("1.2.3.4"), ["PatientID", "paravision:subject"])
    assert found.kind == "paravision"
    assert found.fields[0]["PatientID"] == "Mouse 7"
    assert "CAI:12345" in found.fields[0]["paravision:subject"]
    assert sorted(item.name for item in found.items) == ["1/pdata/1/2dseq", "1/pdata/1/visu_pars", "subject"]
    again = import_unit(source, unit_of(study), spool, Journal(tmp_path / "journal"))
    assert (again.known, again.taken) == (3, [])


def test_dicom_files_and_those_in_a_zip_are_spooled_and_others_named(spool, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    paths = oblique_mr_series(folder)
    paths = sorted(folder.rglob("*.dcm")) if paths is None else list(paths)
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.write(paths[0], "a.IMA")
        archive.writestr("notes.txt", "hello")
    kept = paths[0].read_bytes()
    paths[0].unlink()
    (folder / "README").write_text("hello")
    done = import_unit(Source("s", folder), unit_of(folder), spool, Journal(tmp_path / "journal"))
    (uid,) = done.uids
    assert kept in [path.read_bytes() for path in spool.files(uid)]
    assert len(spool.files(uid)) == len(paths)
    assert done.left_out == {"README": "not a DICOM file", "more.zip: notes.txt": "not a DICOM file"}


def test_a_source_outside_the_allowed_roots_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    assert check_root(tmp_path / "a", [tmp_path]) == Path(tmp_path / "a").resolve()
    with pytest.raises(OutsideRoots, match="FOLDER_ROOTS"):
        check_root(tmp_path / "a" / "..", [tmp_path / "a"])


def packed(kind: str, content: bytes) -> bytes:
    """A ZIP or TAR of one DICOM file, or of none, as ``kind`` says."""
    out = io.BytesIO()
    if kind.startswith("zip"):
        method = {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}.get(kind[4:], zipfile.ZIP_DEFLATED)
        with zipfile.ZipFile(out, "w", method) as archive:
            archive.writestr("a/", b"")
            if kind != "zip of folders":
                archive.writestr("a/one.dcm", content)
        return out.getvalue()
    with tarfile.open(
        fileobj=out, mode={"gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(kind[4:], "w")
    ) as archive:
        info = tarfile.TarInfo("one.dcm")
        if kind == "tar of links":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
        elif kind != "tar of nothing":
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("zip of folders", "a ZIP file without files"),
        ("tar of links", "a TAR file without files"),
        ("tar of nothing", "a TAR file without files"),
        ("zip deflate", "damaged in the ZIP file"),
        ("zip bzip2", "damaged in the ZIP file"),
        ("zip lzma", "damaged in the ZIP file"),
        ("tar gz", "a damaged TAR file"),
        ("tar bz2", "not a DICOM file"),  # its only block, which has the header too
        ("tar xz", "a damaged TAR file"),
    ],
)
def test_a_packed_file_that_is_empty_or_damaged_is_named_and_stops_nothing(spool, tmp_path, kind, words):
    folder = tmp_path / "in"
    folder.mkdir()
    (good,) = oblique_mr_series(tmp_path, slices=1)
    content = bytearray(packed(kind, good.read_bytes()))
    if " of " not in kind:
        middle = len(content) // 2
        content[middle : middle + 200] = bytes(value ^ 0x5A for value in content[middle : middle + 200])
    (folder / "a-packed").write_bytes(content)
    (folder / "b-good.dcm").write_bytes(good.read_bytes())
    done = import_unit(Source("s", folder), unit_of(folder), spool, Journal(tmp_path / "journal"))
    assert [entry.path for entry in done.taken] == ["b-good.dcm"] and not done.unstable
    (reason,) = done.left_out.values()
    assert words in reason


def test_a_packed_file_that_ends_too_early_is_named(spool, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (good,) = oblique_mr_series(tmp_path, slices=1)
    whole = gzip.compress(gzip.decompress(packed("tar gz", good.read_bytes())))
    (folder / "short.tar.gz").write_bytes(whole[: len(whole) // 2])
    done = import_unit(Source("s", folder), unit_of(folder), spool, Journal(tmp_path / "journal"))
    assert not done.taken and not done.unstable
    assert any("damaged TAR file" in reason for reason in done.left_out.values())
