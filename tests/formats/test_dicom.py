"""Headers: fields by keyword or tag, and files that are damaged in any way are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_charset_files, get_testdata_file
from pydicom.dataset import Dataset

from tardis_imagetrove.formats.dicom.fields import UnknownField, field_text, parse_field
from tardis_imagetrove.formats.dicom.files import UnreadableFile, fields_in, read_header

from ..conftest import phantom


@pytest.mark.parametrize("text", ["(0010,0020)", "0010,0020", "00100020", " PatientID ", "(0010, 0020)"])
def test_a_field_is_named_by_keyword_or_tag(text):
    assert parse_field(text) == 0x00100020


@pytest.mark.parametrize("text", ["", "Patient", "(0010,002)", "0010-0020", "PatientID;"])
def test_what_is_no_field_is_said(text):
    with pytest.raises(UnknownField, match="is not a DICOM field"):
        parse_field(text)


def test_values_are_text_without_padding():
    header = Dataset()
    header.ImageType = ["ORIGINAL", "PRIMARY"]
    header.PatientName = "Smith^John^^"
    header.SeriesNumber = 3
    header.add_new((0x0019, 0x100A), "UN", b"value \0")
    assert field_text(header, "ImageType") == "ORIGINAL\\PRIMARY"
    assert field_text(header, "PatientName") == "Smith^John"
    assert field_text(header, "SeriesNumber") == "3"
    assert field_text(header, "(0019,100a)") == "value"
    assert field_text(header, "StudyID") == ""


@pytest.mark.parametrize(
    "path",
    sorted(set(get_charset_files("chr*.dcm")) - set(get_charset_files("chrSQ*.dcm"))),
    ids=lambda path: Path(path).name,
)
def test_names_are_read_in_their_character_set(path):
    assert field_text(dcmread(path), "PatientName") == str(dcmread(path).PatientName).rstrip("^")


WHOLE = Path(get_testdata_file("MR_small.dcm")).read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_read_or_named_and_nothing_else(tmp_path, data):
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, 900))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(content)
    try:
        header = read_header(broken)
    except UnreadableFile as error:
        assert "broken.dcm" in str(error)
    else:
        assert header.SOPInstanceUID


@pytest.mark.parametrize("most", [300, 3000, 10**6])
def test_fields_are_read_of_a_files_beginning_or_not_at_all(tmp_path, most):
    (path,) = phantom(tmp_path, slices=1, overrides={"PatientName": "L" * 60, "OtherPatientIDs": "1" * 1000})
    content = path.read_bytes()[:most]
    found = fields_in(content, ["PatientID", "EchoTime"], whole=most == 10**6)
    assert found == (None if most == 300 else {"PatientID": "PHANTOM-1", "EchoTime": "9.2"})


def test_a_damaged_beginning_is_an_error():
    with pytest.raises(UnreadableFile, match="damaged"):
        fields_in(b"no DICOM" * 100, ["PatientID"], whole=True)
