"""Attributes that are read fast are those that pydicom reads, however a file is written."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tardis_imagetrove.formats.dicom import attributes
from tardis_imagetrove.formats.dicom.attributes import Attributes, read, read_instances, tag_of
from tardis_imagetrove.imaging.headers import TAGS, header_of
from tardis_imagetrove.imaging.stack import frame_pixels

from ..conftest import phantom
from ..filters.truth import enhanced


def plain(found: Attributes) -> dict[int, object]:
    """All public values, items as such dictionaries."""
    values = {}
    for tag in found.elements:
        if not tag >> 16 & 1:
            try:
                value = found.get(pydicom.datadict.keyword_for_tag(tag))
            except (ValueError, KeyError) as error:
                value = type(error)
            values[tag] = [plain(item) for item in value] if isinstance(value, list) else value
    return values


def written(path: Path, syntax: str, undefined: bool) -> Path:
    """A small instance with sequences in sequences, of defined or undefined length."""
    dataset = pydicom.Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 144"
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.3"
    dataset.ConvolutionKernel = "H30"
    dataset.SeriesDescription = "Голова"
    dataset.PixelSpacing = [0.5, 0.25]
    dataset.add_new((0x0009, 0x0010), "LO", "SOMEBODY")
    dataset.add_new((0x0009, 0x1001), "OB", b"\0" * 40_000)
    place = pydicom.Dataset()
    place.ImagePositionPatient = [1, 2, 3]
    place.add_new((0x0009, 0x0010), "LO", "SOMEBODY")
    frame = pydicom.Dataset()
    frame.PlanePositionSequence = [place]
    dataset.PerFrameFunctionalGroupsSequence = [frame, frame]
    for sequence in (dataset["PerFrameFunctionalGroupsSequence"], frame["PlanePositionSequence"]):
        sequence.is_undefined_length = undefined
        for item in sequence.value:
            item.is_undefined_length_sequence_item = undefined
    dataset.Rows = dataset.Columns = 2
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 1
    dataset.PixelData = np.array(
        [1, -1, 0x7FFF, 0x0800], "i2" if syntax != ExplicitVRBigEndian else ">i2"
    ).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_values_and_items_are_read_in_every_byte_order_and_length(tmp_path, syntax, undefined):
    path = written(tmp_path / "a.dcm", syntax, undefined)
    found = read(path, TAGS | {tag_of("SeriesDescription")})
    assert found.attributes.get("SeriesDescription") == "Голова"
    assert found.attributes.get("Rows") == 2
    assert found.attributes.get("PixelSpacing") == "0.5\\0.25"
    assert found.attributes.get("Modality") is None
    frames = found.attributes.items("PerFrameFunctionalGroupsSequence")
    assert [frame.first("PlanePositionSequence").get("ImagePositionPatient") for frame in frames] == [
        "1.0\\2.0\\3.0"
    ] * 2
    assert (found.pixel_offset is None) == (syntax == ExplicitVRBigEndian)
    header = header_of(path)
    expected = pydicom.pixels.pixel_array(path)
    assert np.array_equal(frame_pixels(header, 0), expected)
    assert frame_pixels(header, 0).tolist() == [[1, -1], [-1, -0x800]]


def test_all_that_pydicom_reads_is_read_alike():
    """Over pydicom's own odd files: damaged, cut off, without meta, with VRs that do not exist."""
    compared = 0
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
        try:
            slow = attributes._read_slowly(path, TAGS)
        except Exception:
            with pytest.raises(Exception):  # noqa: B017, PT011 (of the same many kinds)
                read(path, TAGS)
            continue
        fast = read(path, TAGS)
        assert plain(fast.attributes) == plain(slow.attributes), path.name
        assert (fast.transfer_syntax, fast.pixel_bytes) == (slow.transfer_syntax, slow.pixel_bytes), path.name
        compared += fast.pixel_offset is not None
    assert compared > 50


def test_frames_of_an_enhanced_object_are_read_from_its_functional_groups(tmp_path):
    files = phantom(tmp_path)
    whole = header_of(enhanced(files, files[0].with_name("whole.dcm")))
    single = [header_of(path) for path in files]
    places = sorted(tuple(header.planes.positions[0]) for header in single)
    assert sorted(map(tuple, whole.planes.positions)) == places
    assert whole.plain is not None


def test_a_sequence_without_an_end_is_left_to_pydicom(tmp_path):
    path = written(tmp_path / "a.dcm", ExplicitVRLittleEndian, undefined=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(struct.pack("<HH", 0xFFFE, 0xE0DD))])
    with pytest.raises((EOFError, OSError)):
        read(path, TAGS)


def test_attributes_are_the_same_after_they_were_handed_to_another_process(tmp_path):
    path = written(tmp_path / "a.dcm", ExplicitVRLittleEndian, undefined=True)
    found = read(path, TAGS).attributes
    handed = pickle.loads(pickle.dumps(found))
    assert plain(handed) == plain(found)


def test_a_file_that_is_no_dicom_is_told_and_the_others_are_read(tmp_path):
    path = written(tmp_path / "a.dcm", ExplicitVRLittleEndian, undefined=False)
    other = tmp_path / "b.dcm"
    other.write_text("scribble")
    found = read_instances([path, other], TAGS)
    assert [one.trouble for one in found] == ["", "b.dcm: not a DICOM file"]
    assert found[0].attributes.get("Rows") == 2 and found[1].attributes is None
