"""Private elements: CSA headers are read as nibabel reads them, damaged ones are empty."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import nibabel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tardis_imagetrove.formats.dicom.vendor import read_csa

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nibabel.nicom import csareader

DATA = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


def test_a_csa_header_is_read_as_nibabel_reads_it():
    content = (DATA / "csa2_b1000.bin").read_bytes()
    ours = {field.name: field.values() for field in read_csa(content)}
    theirs = {name: tag["items"] for name, tag in csareader.read(content)["tags"].items()}
    assert len(ours) > 80
    assert ours == theirs


def csa1(fields: dict[str, list[str]]) -> bytes:
    """A header of the older layout, in which the first field's number of items is added to each length."""
    content = struct.pack("<2I", len(fields), 77)
    more = len(next(iter(fields.values())))
    for name, texts in fields.items():
        content += struct.pack("<64si4siii", name.encode(), len(texts), b"DS", 3, len(texts), 77)
        for text in texts:
            value = text.encode() + b"\0"
            content += struct.pack("<4i", len(value) + more, len(value), 77, len(value))
            content += value.ljust(-(-len(value) // 4) * 4, b"\0")
    return content


def test_the_older_layout_is_read_too():
    fields = {"B_value": ["1000"], "SliceNormalVector": ["0.5", "-0.5", "0.70710678"]}
    found = {field.name: field.values() for field in read_csa(csa1(fields))}
    assert found == {"B_value": [1000.0], "SliceNormalVector": [0.5, -0.5, 0.70710678]}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_csa_header_is_an_error_and_nothing_else(data):
    content = bytearray((DATA / "csa2_b0.bin").read_bytes()[:4000])
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        for field in read_csa(bytes(content)):
            field.values()
    except ValueError:
        pass


@pytest.mark.parametrize("content", [b"", b"SV10", b"SV10\4\3\2\1" + b"\xff" * 100])
def test_what_is_not_a_csa_header_is_an_error(content):
    with pytest.raises(ValueError, match="CSA header"):
        list(read_csa(content))
