"""A copy says nothing of whose it is, whatever stood where, and goes on being a picture that converts."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import nibabel.nicom.csareader
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage

from tardis_imagetrove.deidentification import (
    NotDeidentifiable,
    Option,
    Profile,
    Pseudonyms,
    deidentify,
    new_secret,
)
from tardis_imagetrove.deidentification.shift import moved_date_and_time, moved_datetime, moved_time
from tardis_imagetrove.filters.base import DicomSeries
from tardis_imagetrove.filters.nifti import NiftiFilter

from ..conftest import phantom
from ..filters.truth import edit
from .planted import ROWS, Planted, found_in, plant_file

EVERY_BUT_FULL_DATES = [option.value for option in Option if option != Option.RETAIN_DATES]
SIEMENS = Path(nibabel.__file__).parent / "nicom/tests/data"


@pytest.fixture
def pseudonyms() -> Pseudonyms:
    return Pseudonyms(new_secret())


@pytest.fixture
def instance(tmp_path) -> Path:
    return phantom(tmp_path / "in", slices=1)[0]


def copy(path: Path, tmp_path: Path, pseudonyms: Pseudonyms, *options: str) -> Dataset:
    made = deidentify(path, tmp_path / "copy.dcm", Profile.of(options), pseudonyms)
    return pydicom.dcmread(made.path)


def test_nothing_identifying_is_left_of_a_file_that_has_it_everywhere(instance, tmp_path, pseudonyms):
    planted = Planted()
    plant_file(instance, tmp_path / "planted.dcm", planted)
    original = (tmp_path / "planted.dcm").read_bytes()
    assert found_in(original, planted.values) == planted.values  # the search does find them
    assert len(planted.values) > 2000
    made = deidentify(tmp_path / "planted.dcm", tmp_path / "copy.dcm", Profile(), pseudonyms)
    assert found_in(made.path.read_bytes(), planted.values) == {}
    assert b"087Y" in original and b"087Y" not in made.path.read_bytes()
    assert np.array_equal(pydicom.dcmread(made.path).pixel_array, pydicom.dcmread(instance).pixel_array)


@pytest.mark.parametrize("kind", ["enhanced", "PET"])
def test_nor_of_kinds_that_need_dummies(kind, instance, tmp_path, pseudonyms):
    planted = Planted()
    uid = {"enhanced": "1.2.840.10008.5.1.4.1.1.4.1", "PET": "1.2.840.10008.5.1.4.1.1.128"}[kind]
    plant_file(instance, tmp_path / "planted.dcm", planted, SOPClassUID=uid)
    made = deidentify(tmp_path / "planted.dcm", tmp_path / "copy.dcm", Profile(), pseudonyms)
    assert found_in(made.path.read_bytes(), planted.values) == {}


@pytest.mark.parametrize(
    ("option", "column"),
    [
        (Option.RETAIN_DEVICE, "device"),
        (Option.RETAIN_INSTITUTION, "institution"),
        (Option.RETAIN_PATIENT, "patient"),
        (Option.RETAIN_DATES, "full-dates"),
        (Option.SHIFT_DATES, ""),
        (Option.CLEAN_DESCRIPTORS, ""),
        (Option.RETAIN_SAFE_PRIVATE, ""),
    ],
)
def test_an_option_lets_through_what_its_column_names_and_nothing_else(
    option, column, instance, tmp_path, pseudonyms
):
    planted = Planted()
    plant_file(instance, tmp_path / "planted.dcm", planted)
    made = deidentify(tmp_path / "planted.dcm", tmp_path / "copy.dcm", Profile.of([option.value]), pseudonyms)
    may_stay = {str(Tag(int(row["tag"], 16))) for row in ROWS if column and row[column] == "K"}
    left = found_in(made.path.read_bytes(), planted.values)
    # Within a sequence that stays, the rules hold all the same.
    astray = {
        value: where
        for value, where in left.items()
        if may_stay.isdisjoint(place.partition(" at ")[0] for place in where.split("; "))
    }
    if option == Option.RETAIN_DATES:
        # All dates stay, in sequences too.
        astray = {value: where for value, where in astray.items() if not value[:8].replace(".", "").isdigit()}
    assert astray == {}
    assert bool(left) == bool(column)


def test_what_is_shown_still_says_what_it_is(instance, tmp_path, pseudonyms):
    original, made = pydicom.dcmread(instance), copy(instance, tmp_path, pseudonyms)
    for keyword in [
        "SOPClassUID",
        "Modality",
        "Manufacturer",
        "ManufacturerModelName",
        "SeriesNumber",
        "InstanceNumber",
        "Rows",
        "Columns",
        "PixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "EchoTime",
        "RepetitionTime",
        "PixelData",
    ]:
        assert made[keyword] == original[keyword], keyword
    assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID != original.SOPInstanceUID
    assert made.PatientID == made.PatientName != original.PatientID


def test_a_copy_declares_what_was_done(instance, tmp_path, pseudonyms):
    made = copy(instance, tmp_path, pseudonyms, "shift-dates", "clean-descriptors")
    assert made.PatientIdentityRemoved == "YES"
    assert made.LongitudinalTemporalInformationModified == "MODIFIED"
    assert made.DeidentificationMethod
    assert [item.CodeValue for item in made.DeidentificationMethodCodeSequence] == [
        "113100",
        "113105",
        "113107",
    ]
    assert {item.CodingSchemeDesignator for item in made.DeidentificationMethodCodeSequence} == {"DCM"}
    assert copy(instance, tmp_path, pseudonyms).LongitudinalTemporalInformationModified == "REMOVED"


def test_uids_and_patients_are_the_same_for_whoever_has_the_secret(instance, tmp_path):
    secret = new_secret()
    one = deidentify(instance, tmp_path / "one.dcm", Profile(), Pseudonyms(secret))
    other = deidentify(instance, tmp_path / "other.dcm", Profile(), Pseudonyms(secret))
    assert one.path.read_bytes() == other.path.read_bytes()
    foreign = deidentify(instance, tmp_path / "foreign.dcm", Profile(), Pseudonyms(new_secret()))
    a, b = pydicom.dcmread(one.path), pydicom.dcmread(foreign.path)
    for keyword in (
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "PatientID",
    ):
        assert a[keyword].value != b[keyword].value
    assert all(uid.startswith("2.25.") and uid.is_valid for uid in (a.SOPInstanceUID, a.FrameOfReferenceUID))


def test_references_follow_their_instances(instance, tmp_path, pseudonyms):
    original = pydicom.dcmread(instance)

    def refer(dataset):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
            dataset.SOPClassUID,
            dataset.SOPInstanceUID,
        )
        dataset.ReferencedImageSequence = Sequence([item])

    edit(instance, refer)
    made = copy(instance, tmp_path, pseudonyms)
    (item,) = made.ReferencedImageSequence
    assert item.ReferencedSOPInstanceUID == made.SOPInstanceUID == pseudonyms.uid(original.SOPInstanceUID)
    assert item.ReferencedSOPClassUID == original.SOPClassUID


def test_well_known_uids_are_nobodys(instance, tmp_path, pseudonyms):
    talairach = "1.2.840.10008.1.4.1.1"
    edit(instance, lambda dataset: setattr(dataset, "FrameOfReferenceUID", talairach))
    assert copy(instance, tmp_path, pseudonyms).FrameOfReferenceUID == talairach


def test_moved_dates_keep_their_distances_also_over_midnight(tmp_path, pseudonyms):
    paths = phantom(tmp_path / "in", slices=2)
    moments = (("20240229", "235959.500000"), ("20240301", "000001.250000"))
    for path, (date, time) in zip(paths, moments, strict=True):
        edit(
            path,
            lambda d, date=date, time=time: d.update(
                {
                    "AcquisitionDate": date,
                    "AcquisitionTime": time,
                    "AcquisitionDateTime": date + time + "+1000",
                }
            ),
        )
    made = [copy(path, tmp_path, pseudonyms, "shift-dates") for path in paths]
    moved = [np.datetime64(_iso(one.AcquisitionDate, one.AcquisitionTime)) for one in made]
    assert moved[1] - moved[0] == np.timedelta64(1750, "ms")
    assert moved[0] < np.datetime64("2024-02-28T23:59:59.5")
    for one, moment in zip(made, moved, strict=True):
        assert np.datetime64(_iso(one.AcquisitionDateTime[:8], one.AcquisitionDateTime[8:])) == moment


def _iso(date: str, time: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}"


def test_times_are_moved_as_exactly_as_they_are_given():
    by = -timedelta(days=10, seconds=3600)
    assert moved_date_and_time("20240115", "0030", by) == ("20240104", "233000")
    assert moved_date_and_time("20240115", "", by) == ("20240104", None)
    assert moved_date_and_time("2024.01.15", "12:00:00.5", by) == ("20240105", "110000.500000")
    assert moved_time("003000", by) == "233000"
    assert moved_datetime("20240115003000.000001+1000", by) == "20240104233000.000001"
    assert moved_datetime("2024", by) is moved_time("noon", by) is None
    assert moved_date_and_time("John", "120000", by) == (None, None)


@pytest.mark.parametrize("options", [[], ["retain-dates"], ["shift-dates"]])
def test_a_date_that_is_none_is_not_kept(options, instance, tmp_path, pseudonyms):
    edit(instance, lambda dataset: dataset.add_new("StudyDate", "DA", "Smith"))
    assert not copy(instance, tmp_path, pseudonyms, *options).StudyDate


@pytest.mark.parametrize(
    "options", [[], EVERY_BUT_FULL_DATES, ["retain-dates", "retain-patient-characteristics"]]
)
def test_the_birth_date_goes_whatever_is_kept(options, instance, tmp_path, pseudonyms):
    edit(
        instance, lambda dataset: dataset.update({"PatientBirthDate": "19620314", "PatientBirthTime": "0417"})
    )
    made = copy(instance, tmp_path, pseudonyms, *options)
    assert not made.PatientBirthDate and "PatientBirthTime" not in made


def test_descriptions_keep_known_words_alone(instance, tmp_path, pseudonyms):
    def describe(dataset):
        dataset.PatientName = "Hand^Mary"
        dataset.SeriesDescription = "t1_mprage_sag_Smith_p2_iso"
        dataset.ProtocolName = "Hand MRI of Mary 1962-03-14 STIR cor"

    edit(instance, describe)
    made = copy(instance, tmp_path, pseudonyms, "clean-descriptors")
    assert made.SeriesDescription == "t1_mprage_sag_p2_iso"
    assert made.ProtocolName == "STIR_cor"
    assert "SeriesDescription" not in copy(instance, tmp_path, pseudonyms)


def with_frame(name: str, path: Path, change: Callable[[bytes], bytes]) -> np.ndarray:
    """Write a scanner's compressed picture with another frame; returns the pixels that it had before."""
    dataset = pydicom.dcmread(get_testdata_file(name))
    pixels = dataset.pixel_array
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([change(frame)])
    dataset.BurnedInAnnotation = "NO"
    dataset.save_as(path)
    assert b"Smith" in path.read_bytes()
    return pixels


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("SC_rgb_jpeg_dcmtk.dcm", b"\xff\xfe\x00\x0dPhotoSmith1"),
        ("SC_rgb_jpeg_dcmtk.dcm", b"\xff\xe1\x00\x0cExif Smith"),
        ("MR_small_jpeg_ls_lossless.dcm", b"\xff\xfe\x00\x07Smith"),
        ("MR_small_jp2klossless.dcm", b"\xff\x64\x00\x09\x00\x01Smith"),
    ],
)
def test_comments_inside_compressed_pictures_go(name, segment, tmp_path, pseudonyms):
    def with_segment(frame: bytes) -> bytes:
        place = 2 if frame.startswith(b"\xff\xd8") else 4 + int.from_bytes(frame[4:6], "big")
        return frame[:place] + segment + frame[place:]

    pixels = with_frame(name, tmp_path / "in.dcm", with_segment)
    assert np.array_equal(pydicom.dcmread(tmp_path / "in.dcm").pixel_array, pixels)  # it does decode with it
    made = copy(tmp_path / "in.dcm", tmp_path, pseudonyms)
    assert b"Smith" not in (tmp_path / "copy.dcm").read_bytes()
    assert np.array_equal(made.pixel_array, pixels)


def test_patients_in_letters_of_another_character_set_stay_apart(instance, tmp_path, pseudonyms):
    """As a console writes that says UTF-8 and means GBK."""
    edit(instance, lambda dataset: setattr(dataset, "SpecificCharacterSet", "ISO_IR 192"))
    edit(instance, lambda dataset: setattr(dataset, "PatientID", "PATIENT-"))
    written = instance.read_bytes()
    made = set()
    for patient in ("张三先生", "王五先生"):
        instance.write_bytes(written.replace(b"PATIENT-", patient.encode("gbk")))
        made.add(str(copy(instance, tmp_path, pseudonyms).PatientID))
    assert len(made) == 2


JP2_BOXES = bytes.fromhex("0000000c6a5020200d0a870a") + b"\0\0\0\x15xml <a>Smith</a>" + b"\0\0\0\0jp2c"


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg_dcmtk.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)
@pytest.mark.parametrize("behind", [b"Smith^John", b"\xff\xd9Smith^John\xff\xd9"])
def test_what_lies_behind_the_end_of_a_compressed_picture_goes(name, behind, tmp_path, pseudonyms):
    pixels = with_frame(name, tmp_path / "in.dcm", lambda frame: frame.rstrip(b"\0") + behind)
    made = copy(tmp_path / "in.dcm", tmp_path, pseudonyms)
    assert b"Smith" not in (tmp_path / "copy.dcm").read_bytes()
    assert np.array_equal(made.pixel_array, pixels)


def test_a_comment_between_the_scans_of_a_picture_goes(tmp_path, pseudonyms):
    """In JPEG's colour planes one after the other; decoders pass over it."""

    def with_comment(frame: bytes) -> bytes:
        end = frame.rindex(b"\xff\xd9")
        return frame[:end] + b"\xff\xfe\0\x07Smith" + frame[end:]

    pixels = with_frame("SC_rgb_jpeg_dcmtk.dcm", tmp_path / "in.dcm", with_comment)
    made = copy(tmp_path / "in.dcm", tmp_path, pseudonyms)
    assert b"Smith" not in (tmp_path / "copy.dcm").read_bytes()
    assert np.array_equal(made.pixel_array, pixels)


def test_the_boxes_around_a_jpeg_2000_picture_go(tmp_path, pseudonyms):
    """Which DICOM does not have (PS3.5 A.4.4), and some writers put there with text in them."""
    pixels = with_frame("MR_small_jp2klossless.dcm", tmp_path / "in.dcm", lambda frame: JP2_BOXES + frame)
    made = copy(tmp_path / "in.dcm", tmp_path, pseudonyms)
    assert b"Smith" not in (tmp_path / "copy.dcm").read_bytes()
    assert np.array_equal(made.pixel_array, pixels)


def test_a_comment_among_the_tiles_of_a_picture_is_refused(tmp_path, pseudonyms):
    def with_comment(frame: bytes) -> bytes:
        place = frame.index(b"\xff\x90\0\x0a") + 12
        length = int.from_bytes(frame[place - 6 : place - 2], "big")
        tile = frame[: place - 6] + (length + 11).to_bytes(4, "big") + frame[place - 2 : place]
        return tile + b"\xff\x64\0\x09\0\1Smith" + frame[place:]

    pixels = with_frame("MR_small_jp2klossless.dcm", tmp_path / "in.dcm", with_comment)
    assert np.array_equal(pydicom.dcmread(tmp_path / "in.dcm").pixel_array, pixels)
    with pytest.raises(NotDeidentifiable):
        copy(tmp_path / "in.dcm", tmp_path, pseudonyms)


@pytest.mark.parametrize("options", [[], EVERY_BUT_FULL_DATES])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation is YES"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "does not say that there are none"),
        ({"ConversionType": "WSD"}, "captured from a screen"),
        ({"SOPClassUID": EncapsulatedPDFStorage}, "Encapsulated PDF"),
        ({"SOPClassUID": "1.3.12.2.1107.5.9.1"}, "cannot be copied safely"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "Siemens mosaic"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "VFRAME"]}, "United Imaging"),
    ],
)
def test_what_cannot_be_made_safe_is_refused_with_the_reason(
    changes, words, options, instance, tmp_path, pseudonyms
):
    edit(instance, lambda dataset: [setattr(dataset, name, value) for name, value in changes.items()])
    with pytest.raises(NotDeidentifiable, match=words) as refused:
        copy(instance, tmp_path, pseudonyms, *options)
    assert "Smith" not in str(refused.value) and "PHANTOM" not in str(refused.value)
    assert not (tmp_path / "copy.dcm").exists()


def test_a_number_that_is_none_is_not_kept(instance, tmp_path, pseudonyms):
    edit(instance, lambda dataset: setattr(dataset, "EchoTime", "88.125"))
    instance.write_bytes(instance.read_bytes().replace(b"88.125", b"Smith "))
    assert pydicom.dcmread(instance).EchoTime == "Smith"
    assert copy(instance, tmp_path, pseudonyms).EchoTime is None


def test_damage_is_told_without_what_stands_there(instance, tmp_path, pseudonyms):
    edit(instance, lambda dataset: delattr(dataset, "Rows"))
    with pytest.raises(NotDeidentifiable) as refused:
        copy(instance, tmp_path, pseudonyms)
    assert str(refused.value) == "de-identification fails over its contents (AttributeError)"


@pytest.mark.parametrize("options", [[], EVERY_BUT_FULL_DATES, ["retain-dates"]])
@pytest.mark.parametrize("tag", [0x00081140, 0x00080022, 0x00101010, 0x00080080, 0x0008103E, 0x00081150])
def test_a_wrong_vr_lets_nothing_through(tag, options, instance, tmp_path, pseudonyms):
    edit(instance, lambda dataset: dataset.add_new(tag, "LT", "t1 Smith"))
    assert b"Smith" in instance.read_bytes()
    copy(instance, tmp_path, pseudonyms, *options)
    assert b"Smith" not in (tmp_path / "copy.dcm").read_bytes()


def test_an_overlay_in_the_pixels_is_refused(instance, tmp_path, pseudonyms):
    edit(instance, lambda dataset: dataset.add_new(0x60000102, "US", 12))
    with pytest.raises(NotDeidentifiable, match="overlay"):
        copy(instance, tmp_path, pseudonyms)


def test_a_captured_picture_that_says_it_shows_no_names_is_taken(instance, tmp_path, pseudonyms):
    changes = {"SOPClassUID": SecondaryCaptureImageStorage, "BurnedInAnnotation": "NO"}
    edit(instance, lambda dataset: [setattr(dataset, name, value) for name, value in changes.items()])
    assert copy(instance, tmp_path, pseudonyms).PatientIdentityRemoved == "YES"


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("CT_small.dcm", ""),
        ("MR_small.dcm", ""),
        ("MR_small_bigendian.dcm", ""),
        ("MR_small_jp2klossless.dcm", ""),
        ("rtplan.dcm", ""),
        ("rtdose.dcm", ""),
        ("liver_1frame.dcm", ""),
        ("test-SR.dcm", "Comprehensive SR"),
        ("examples_ybr_color.dcm", "Ultrasound"),
        ("SC_rgb_rle.dcm", "Secondary Capture"),
        ("waveform_ecg.dcm", "ECG"),
    ],
)
def test_files_of_real_scanners_are_copied_or_refused(name, outcome, tmp_path, pseudonyms):
    path = Path(get_testdata_file(name))
    if outcome:
        with pytest.raises(NotDeidentifiable, match=outcome):
            copy(path, tmp_path, pseudonyms)
        return
    original, made = pydicom.dcmread(path), copy(path, tmp_path, pseudonyms)
    names = {str(e.value) for e in original.iterall() if e.VR == "PN" and e.value}
    dates = {str(e.value) for e in original.iterall() if e.VR == "DA" and e.value}
    ids = {str(original.get(keyword, "")) for keyword in ("PatientID", "AccessionNumber", "StudyInstanceUID")}
    content = (tmp_path / "copy.dcm").read_bytes()
    assert found_in(content, {v: "" for v in names | dates | ids if len(v) > 3}) == {}
    if "PixelData" in original and original.file_meta.TransferSyntaxUID.is_encapsulated is False:
        assert np.array_equal(made.pixel_array, original.pixel_array)


def siemens_diffusion(folder: Path) -> list[Path]:
    """Two mosaics of a real scanner, of b = 0 and b = 1000."""
    folder.mkdir()
    for name in ("siemens_dwi_0.dcm", "siemens_dwi_1000.dcm"):
        (folder / name).write_bytes(gzip.decompress((SIEMENS / f"{name}.gz").read_bytes()))
    return sorted(folder.iterdir())


def nifti(files: list[Path], out: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    out.mkdir()
    result = NiftiFilter().run(DicomSeries(tuple(files), "series"), out)
    return {"".join(output.path.suffixes): output.path for output in result.outputs}, result.warnings


def test_safe_private_elements_keep_mosaics_and_diffusion(tmp_path, pseudonyms):
    originals = siemens_diffusion(tmp_path / "in")
    (tmp_path / "copies").mkdir()
    profile = Profile.of(["retain-safe-private"])
    copies = [
        deidentify(path, tmp_path / "copies" / path.name, profile, pseudonyms).path for path in originals
    ]
    made, warnings = nifti(copies, tmp_path / "out")
    true, true_warnings = nifti(originals, tmp_path / "true")
    assert made.keys() == true.keys() and {".bval", ".bvec"} <= made.keys()
    for suffix in (".bval", ".bvec"):
        assert made[suffix].read_text() == true[suffix].read_text()
    image, true_image = nibabel.load(made[".nii.gz"]), nibabel.load(true[".nii.gz"])
    assert np.array_equal(image.dataobj, true_image.dataobj)
    assert np.array_equal(image.affine, true_image.affine)
    sidecar, true_sidecar = (json.loads(files[".json"].read_text()) for files in (made, true))
    for key in ("SliceTiming", "PhaseEncodingDirection", "RepetitionTime", "EchoTime"):
        assert sidecar[key] == true_sidecar[key], key
    assert warnings == true_warnings


def test_the_protocol_of_siemens_goes_with_all_that_it_says(tmp_path, pseudonyms):
    path = siemens_diffusion(tmp_path / "in")[1]
    original = pydicom.dcmread(path)
    made = copy(path, tmp_path, pseudonyms, "retain-safe-private")
    assert (0x0029, 0x1020) in original and (0x0029, 0x1020) not in made
    kept = made[0x0029, 0x1010].value
    assert b"NumberOfImagesInMosaic" in kept
    for name in (
        b"ImageHistory",
        b"MrPhoenixProtocol",
        b"UsedChannelMask",
        b"tPatientName",
        b"ReferencedImageSequence",
    ):
        assert name not in kept
    assert nibabel.nicom.csareader.get_csa_header(made, "image")["tags"]["B_value"]["items"] == [1000]


def test_what_the_profile_takes_from_diffusion_and_pet_is_told(tmp_path, pseudonyms):
    instance = phantom(tmp_path / "in", slices=1)[0]

    def diffusion(dataset):
        block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", ["800", "8", "0", "0"])

    edit(instance, diffusion)
    lossy = deidentify(instance, tmp_path / "copy.dcm", Profile(), pseudonyms)
    assert any("b-values" in words for words in lossy.losses)
    lossless = deidentify(instance, tmp_path / "copy.dcm", Profile.of(["retain-safe-private"]), pseudonyms)
    assert lossless.losses == ()
    assert pydicom.dcmread(lossless.path)[0x0043, 0x1039].value[0] == 800
    edit(instance, lambda dataset: setattr(dataset, "Modality", "PT"))
    assert any("SUV" in words for words in deidentify(instance, tmp_path / "c", Profile(), pseudonyms).losses)


def test_what_stays_private_keeps_its_place(instance, tmp_path, pseudonyms):
    def put(dataset):  # as Philips has it, where converters look for it
        for number, creator in enumerate(
            ("Philips MR Imaging DD 001", "Other", "Philips MR Imaging DD 005"), 0x12
        ):
            dataset.add_new((0x2005, number), "LO", creator)
        dataset.add_new((0x2005, 0x120E), "FL", 0.25)
        dataset.add_new((0x2005, 0x130E), "LO", "Smith")
        dataset.add_new((0x2005, 0x1412), "IS", "2")

    edit(instance, put)
    made = copy(instance, tmp_path, pseudonyms, "retain-safe-private")
    private = {f"{element.tag:08X}": element.value for element in made if element.tag.is_private}
    assert private == {
        "20050012": "Philips MR Imaging DD 001",
        "20050014": "Philips MR Imaging DD 005",
        "2005120E": 0.25,
        "20051412": 2,
    }


@pytest.mark.parametrize(
    "value", ["Smith", "20240131123", "1e5000", "", "12\\Smith", "1" * 17], ids=lambda value: value or "empty"
)
def test_a_safe_element_with_something_else_in_it_goes(value, instance, tmp_path, pseudonyms):
    def put(dataset):
        block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0B, "UN", value.encode())

    edit(instance, put)
    made = copy(instance, tmp_path, pseudonyms, "retain-safe-private")
    assert not any(element.tag.is_private for element in made)


def test_the_same_options_as_the_standards_table_are_known():
    with pytest.raises(
        ValueError, match="unknown option 'retain-everything'; the options are clean-descriptors"
    ):
        Profile.of(["retain-everything"])
    with pytest.raises(ValueError, match="not both"):
        Profile.of(["retain-dates", "shift-dates"])
    assert list(csv.DictReader([",".join(Profile.of(["shift-dates"]).names)]).fieldnames) == ["shift-dates"]


def test_the_last_sample_of_an_odd_number_stays_in_big_endian_words(tmp_path, pseudonyms):
    """It stands behind the padding there, and what is in the padding goes."""
    original = pydicom.dcmread(get_testdata_file("SC_rgb_small_odd_big_endian.dcm"))
    assert len(original.pixel_array.flat) % 2 == 1 and original["PixelData"].VR == "OW"
    original.BurnedInAnnotation = "NO"
    before = original.pixel_array.copy()
    original.PixelData = original.PixelData[:-2] + b"Z" + original.PixelData[-1:]
    original.save_as(tmp_path / "in.dcm")
    made = copy(tmp_path / "in.dcm", tmp_path, pseudonyms)
    assert np.array_equal(made.pixel_array, before)
    assert made.PixelData[-2:-1] == b"\0"
