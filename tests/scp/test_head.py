"""The scanner finds what pydicom finds, in whatever pieces the bytes come."""

from __future__ import annotations

import struct
import warnings
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tardis_imagetrove.scp import head
from tardis_imagetrove.scp.head import SERIES, SOP_CLASS, SOP_INSTANCE, HeadScanner, UnreadableDataSet

from .peer import MR, sample_files, uid_element

SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]
PRIVATE_SYNTAX = "1.2.840.113619.5.2"


def scan(syntax: str, data: bytes, sizes=(1 << 20,)) -> HeadScanner:
    scanner, offset, turn = HeadScanner(syntax), 0, 0
    while offset < len(data):
        size = sizes[turn % len(sizes)]
        scanner.feed(memoryview(data)[offset : offset + size])
        offset, turn = offset + size, turn + 1
    return scanner


def encode(dataset: Dataset, syntax: str) -> bytes:
    file = DicomBytesIO()
    file.is_implicit_VR = syntax == ImplicitVRLittleEndian
    file.is_little_endian = syntax != ExplicitVRBigEndian
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dataset(file, dataset)
    data = file.getvalue()
    if syntax == DeflatedExplicitVRLittleEndian:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
    return data


@st.composite
def datasets(draw, depth: int = 0) -> Dataset:
    """Data sets with sequences of both kinds of length, private elements, and the three UIDs, some inside sequences."""
    dataset = Dataset()
    uids = st.from_regex(r"[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}){0,3}", fullmatch=True)
    for name in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        if depth == 0 or draw(st.booleans()):
            setattr(dataset, name, draw(uids))
    if draw(st.booleans()):
        dataset.PatientName = draw(st.text("ABC^ ", max_size=20))
    if draw(st.booleans()):
        dataset.add_new((0x0009, 0x0010), "LO", "TEST")
        dataset.add_new((0x0009, 0x1001), "OB", bytes(draw(st.integers(0, 300)) * 2))
    if draw(st.booleans()):
        dataset.add_new((0x0009, 0x1002), "UN", b"\xfe\xff\x00\xe0" * draw(st.integers(0, 5)))
    if depth < 3 and draw(st.booleans()):
        items = draw(st.lists(datasets(depth + 1), max_size=3))
        for item in items:
            item.is_undefined_length_sequence_item = draw(st.booleans())
        dataset.ReferencedImageSequence = Sequence(items)
        dataset["ReferencedImageSequence"].is_undefined_length = draw(st.booleans())
    if depth == 0:
        dataset.add_new((0x7FE0, 0x0010), "OW", bytes(draw(st.integers(0, 300)) * 2))
    return dataset


@given(datasets(), st.sampled_from(SYNTAXES), st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_it_finds_the_uids_of_generated_data_sets(dataset, syntax, sizes):
    scanner = scan(syntax, encode(dataset, syntax), sizes)
    assert scanner.found == {
        SOP_CLASS: dataset.SOPClassUID,
        SOP_INSTANCE: dataset.SOPInstanceUID,
        SERIES: dataset.SeriesInstanceUID,
    }
    assert scanner.done


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_it_finds_the_uids_of_real_files(size):
    for sample in sample_files():
        scanner = scan(sample.transfer_syntax, sample.data[:200_000], (size,))
        assert (scanner.found[SOP_INSTANCE], scanner.found[SERIES]) == (sample.sop_instance, sample.series)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_private_transfer_syntax_is_recognised_by_its_first_element(syntax):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = MR, "1.2.3", "4.5.6"
    assert scan(PRIVATE_SYNTAX, encode(dataset, syntax)).found[SERIES] == "4.5.6"


def test_a_sequence_of_unknown_vr_is_implicit_inside():
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    item += struct.pack("<HHI", 0x0008, 0x1150, 6) + b"1.2.3\0"
    item += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    unknown = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF) + item
    data = uid_element(8, 0x16, MR) + uid_element(8, 0x18, "1.2") + unknown + uid_element(0x20, 0x0E, "1.2.9")
    assert scan(ExplicitVRLittleEndian, data, (5,)).found[SERIES] == "1.2.9"


def test_it_keeps_no_more_than_a_piece_of_a_large_element():
    scanner = HeadScanner(ExplicitVRLittleEndian)
    scanner.feed(struct.pack("<HH2sHI", 9, 0x1010, b"OB", 0, 0xFFFFFFF0))
    for _ in range(100):
        scanner.feed(bytes(1 << 20))
    assert len(scanner._carry) == 0
    assert not scanner.done


def test_a_deflate_bomb_is_given_up(monkeypatch):
    monkeypatch.setattr(head, "MAX_INFLATED_BYTES", 1 << 20)
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = (
        deflate.compress(struct.pack("<HH2sHI", 9, 0x1010, b"OB", 0, 0xFFFFFFF0) + bytes(1 << 24))
        + deflate.flush()
    )
    with pytest.raises(UnreadableDataSet, match="no UIDs in the first 1048576 inflated bytes"):
        scan(DeflatedExplicitVRLittleEndian, bomb)


def test_endless_nesting_is_given_up():
    step = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(UnreadableDataSet, match="nested more than 128 deep"):
        scan(ExplicitVRLittleEndian, step * 100)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x08\0\x16\0??\x04\0abcd", "has no VR"),
        (struct.pack("<HHI", 0xFFFE, 0xE000, 0), "is in no sequence"),
        (struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), "ends nothing"),
        (struct.pack("<HHI", 0xFFFE, 0x1234, 0), "is not a delimiter"),
    ],
)
def test_what_is_no_data_set_says_where(data, words):
    with pytest.raises(UnreadableDataSet, match=words):
        scan(ExplicitVRLittleEndian, data)


@given(st.binary(max_size=300), st.sampled_from([*SYNTAXES, PRIVATE_SYNTAX]), st.integers(1, 40))
def test_any_bytes_are_scanned_or_unreadable(data, syntax, size):
    try:
        scan(syntax, data, (size,))
    except UnreadableDataSet as error:
        assert str(error)
