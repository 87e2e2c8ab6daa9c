"""Metadata: numbers with units, words, and no person, from all that a series' headers say."""

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tardis_imagetrove.errors import PermanentError
from tardis_imagetrove.filters.base import DicomSeries, FilterSettings
from tardis_imagetrove.filters.metadata import MetadataFilter
from tardis_imagetrove.filters.shared import instances_of, survey_of
from tardis_imagetrove.imaging.source import in_one_line
from tardis_imagetrove.imaging.stack import frame_pixels

from .truth import edit, enhanced


def told(files, **settings):
    """Name to value and unit of all parameters, and the result."""
    series = DicomSeries(tuple(map(Path, files)), "0003_t1", FilterSettings(**settings))
    result = MetadataFilter().run(series, Path("unused"))
    return {
        value.name: (value.value, value.units) for one in result.parameters for value in one.values
    }, result


def test_numbers_have_units_and_a_range_where_instances_differ(phantom):
    files = phantom()
    edit(files[2], lambda dataset: setattr(dataset, "EchoTime", "19.5"))
    found, result = told(files)
    assert found["RepetitionTime"] == (450, "ms")
    assert found["EchoTimeMin"] == (9.2, "ms")
    assert found["EchoTimeMax"] == (19.5, "ms")
    assert found["PixelSpacingRows"] == (5.5, "mm")
    assert found["NumberOfInstances"] == (7, "")
    assert found["Study Date"][0].isoformat().startswith("2024-05-17T10:15:00")
    assert result.warnings == ()


def test_functional_groups_are_read_where_the_top_says_nothing(phantom):
    files = phantom()
    whole = enhanced(files, files[0].with_name("whole.dcm"))

    def into_groups(dataset):
        del dataset.FlipAngle
        timing = pydicom.Dataset()
        timing.FlipAngle = 33.0
        dataset.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence = [timing]

    edit(whole, into_groups)
    found, _ = told([whole])
    assert found["FlipAngle"] == (33, "deg")
    assert found["SliceThickness"] == (9, "mm")
    assert found["PixelSpacingColumns"] == (4.25, "mm")


def test_siemens_private_header_says_what_the_standard_attributes_do_not(siemens):
    found, _ = told(siemens)
    assert found["DiffusionBValueMin"] == (0, "s/mm^2")
    assert found["DiffusionBValueMax"] == (1000, "s/mm^2")
    assert found["ReceiveCoilName"] == ("T:HEA;HEP", "")
    assert found["NumberOfImagesInMosaic"] == (48, "")
    assert found["BandwidthPerPixelPhaseEncode"] == (19.055, "Hz/pixel")


@pytest.mark.parametrize(
    ("creator", "block", "element", "vr", "values"),
    [
        ("SIEMENS MR HEADER", (0x0019, 0x10), 0x0C, "IS", [0, 700, 1400]),
        ("SIEMENS MR HEADER", (0x0019, 0x11), 0x0C, "UN", [b"0 ", b"700 ", b"1400"]),
        ("GEMS_PARM_01", (0x0043, 0x10), 0x39, "IS", [[0, 8, 0, 0], [1000000700, 8, 0, 0], [1400, 8, 0, 0]]),
        ("Philips Imaging DD 001", (0x2001, 0x10), 0x03, "FL", [0.0, 700.0, 1400.0]),
        ("Image Private Header", (0x0065, 0x10), 0x09, "FD", [0.0, 700.0, 1400.0]),
    ],
)
def test_b_values_are_found_where_each_vendor_keeps_them(phantom, creator, block, element, vr, values):
    group, number = block

    def add(dataset, value):
        dataset.add_new((group, number), "LO", creator)
        dataset.add_new((group, number << 8 | element), vr, value)

    files = phantom()[:6]
    for path, value in zip(files, values * 2, strict=True):
        edit(path, lambda dataset, value=value: add(dataset, value))
    found, _ = told(files)
    assert found["DiffusionBValueMin"] == (0, "s/mm^2")
    assert found["DiffusionBValueMax"] == (1400, "s/mm^2")
    found, _ = told(files[::3])
    assert not any("DiffusionBValue" in name for name in found)  # 0 in every image says nothing


def test_the_standard_attributes_come_before_the_private_ones(siemens):
    for path, value in zip(siemens, (5.0, 995.0), strict=True):
        edit(path, lambda dataset, b=value: dataset.add_new("DiffusionBValue", "FD", b))
    edit(siemens[0], lambda dataset: setattr(dataset, "ReceiveCoilName", "Head32"))
    found, _ = told(siemens)
    assert found["DiffusionBValueMax"] == (995, "s/mm^2")
    assert found["ReceiveCoilName"] == ("Head32", "")


def test_a_damaged_private_header_is_passed_over(siemens):
    edit(siemens[0], lambda dataset: setattr(dataset[0x0029, 0x1010], "value", b"SV10" + b"\xff" * 60))
    found, _ = told(siemens)
    assert found["RepetitionTime"] == (6600, "ms")
    assert "DiffusionBValue" not in found


def test_a_damaged_file_is_named_and_the_others_are_read(phantom, tmp_path):
    files = phantom()
    files[3].write_bytes(np.random.default_rng(1).bytes(4000))
    found, result = told(files)
    assert found["NumberOfInstances"] == (6, "")
    assert any(files[3].name in words and "left out" in words for words in result.warnings)
    with pytest.raises(PermanentError, match=files[3].name):
        told([files[3]])


def test_a_person_is_told_only_where_the_instrument_says_so(phantom):
    files = phantom(patient_name="Quetzal^Xiomara", patient_id="QX-998877")
    found, result = told(files)
    assert "Quetzal" not in repr(result)
    assert "QX-998877" not in repr(result)
    found, _ = told(files, identifying_metadata=True)
    assert found["Patient Name"] == ("Quetzal^Xiomara", "")
    assert found["PatientID"] == ("QX-998877", "")


def test_a_value_that_is_no_number_is_named_and_the_rest_of_its_file_is_read(phantom):
    files = phantom()

    def spoil(dataset):
        dataset._dict[pydicom.tag.Tag("EchoTime")] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag("EchoTime"), "DS", 4, b"many", 0, False, True
        )

    edit(files[3], spoil)
    found, result = told(files)
    assert found["EchoTime"] == (9.2, "ms")
    assert found["NumberOfInstances"] == (7, "")
    assert result.warnings == (f"{files[3].name}: EchoTime is not a number (many); it is left out",)


def test_pixel_spacing_is_that_of_all_instances(phantom):
    files = phantom()
    edit(files[4], lambda dataset: setattr(dataset, "PixelSpacing", ["5.5", "8"]))
    found, _ = told(files)
    assert found["PixelSpacingColumnsMin"] == (4.25, "mm")
    assert found["PixelSpacingColumnsMax"] == (8, "mm")
    assert found["PixelSpacingRows"] == (5.5, "mm")


RAW_PYTHON = re.compile(
    r"object has no|NoneType|Traceback|\w+Error\b|unpack|invalid literal|could not convert|not supported|unhashable"
)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("NumberOfFrames", "IS", b"many"),
        ("NumberOfFrames", "IS", b"-1"),
        ("RescaleSlope", "DS", b"many"),
        ("Rows", "US", b"\1\0\2\0"),
        ("Rows", "US", b"\1"),
        ("BitsStored", "US", b"\1\0\2\0"),
        ("ImagePositionPatient", "DS", b"a\\b\\c "),
        ("SharedFunctionalGroupsSequence", "SQ", b"many"),
        ("PhotometricInterpretation", "CS", b"1\\2\\3 "),
        ("SpecificCharacterSet", "CS", b"no such set "),
    ],
)
def test_broken_values_are_told_in_plain_words_and_stop_nothing(phantom, tmp_path, keyword, vr, value):
    files = phantom()
    tag = pydicom.tag.Tag(keyword)

    def spoil(dataset):
        dataset._dict[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)

    edit(files[3], spoil)
    shared = tmp_path / "shared"
    shared.mkdir()
    series = DicomSeries(tuple(files), "0003_t1", shared=shared)
    found = instances_of(series)
    survey = survey_of(series)
    words = [*survey.troubles, *survey.oddities, *MetadataFilter().run(series, tmp_path).warnings]
    words += [in_one_line(error) for error in _errors(survey.headers)]
    assert len(found) == 7 and len(survey.headers) >= 6
    assert not [one for one in words if RAW_PYTHON.search(one)]


def _errors(headers):
    for header in headers:
        try:
            frame_pixels(header, 0)
        except Exception as error:  # as many kinds of error as there are decoders
            yield error
