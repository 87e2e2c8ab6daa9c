"""Score de-identification by removal and by preservation, in the manner of MIDI-B (arXiv 2507.23608).

    python benchmarks/deidentification.py [--every 1] [--json FILE]

Test objects of every storage SOP class that pydicom knows, of every image among pydicom's test files, and of what
highdicom makes (where it is installed) get identifying values in every attribute of PS3.15 table E.1-1, in private
blocks, sequences, overlays, file meta information, segments of compressed frames and corners of the picture; and
values that research needs in every attribute that is kept. Then each is de-identified by the strictest profile and
by one with options, and each value is a check: an identifying one must not be found in the copy's bytes in any
form, a research value must be as it was. A kind of which no safe copy can be made is held: nothing of it is shown, and
nothing is counted of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, UID_dictionary

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tardis_imagetrove.deidentification import (
    NotDeidentifiable,
    PixelRegions,
    Profile,
    Pseudonyms,
    Region,
    deidentify,
)
from tardis_imagetrove.deidentification.kept import KEPT
from tests.deidentification.planted import Planted, found_in, plant_file

PROFILES = {
    "strictest": (),
    "with options": ("clean-descriptors", "shift-dates", "retain-safe-private", "clean-pixels"),
}

#: Patients in several scripts, each with a number: name, what of it is planted in kept text, and text that must stay.
PATIENTS = (
    ("Zqsmith^Janet", ("Zqsmith", "Janet"), "head coil"),
    ("Li^Bo=李^波", ("Li", "Bo", "李", "波"), "slice line body"),
    ("Yamada^Tarou=山田^太郎=やまだ^たろう", ("YAMADA", "山田", "太郎", "やまだ"), "t1 mprage"),
    ("Hong^Gildong=洪^吉洞=홍^길동", ("Hong", "吉洞", "길동"), "dti 64 dir"),
    ("Люкceмбypг^Анна", ("Люкceмбypг", "АННА"), "tof 3d"),
    ("Ørsted^Åse Żółć", ("ørsted", "Åse", "ŻÓŁĆ"), "flair ax"),
    ("محمد^علي", ("محمد", "علي"), "ep2d bold"),
)
#: Kept attributes whose text is searched for the patient.
TEXTS = ("ReceiveCoilName", "SoftwareVersions", "SequenceName", "TransmitCoilName", "ConvolutionKernel")

#: Kept attributes that say how the pixels lie, or what the object is: not ours to change.
_STRUCTURE = frozenset(
    [
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "NumberOfFrames",
        "SOPClassUID",
        "SpecificCharacterSet",
        "BurnedInAnnotation",
        "ImageType",
        "Modality",
        "Manufacturer",
        "ManufacturerModelName",
        "LossyImageCompression",
        "LongitudinalTemporalInformationModified",
        "PixelPaddingValue",
        "RecognizableVisualFeatures",
        "DataRepresentation",
        "DataPointRows",
        "DataPointColumns",
        "BodyPartExamined",  # with EchoTime, where values of a wrong kind are planted
        "EchoTime",
    ]
)
_VALUES = {
    "FD": 1.5, "FL": 2.5, "DS": "3.25", "IS": "7", "US": 11, "SS": -3, "UL": 13, "SL": -5, "CS": "AXIAL",
}  # fmt: skip


@dataclass
class Score:
    """Checks and failures by category.

    ``misses`` name the failures, ``held`` says of what there is no copy and why, ``unwritable`` what pydicom could not
    write with planted values.
    """

    checks: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    misses: list[str] = field(default_factory=list)
    unwritable: list[str] = field(default_factory=list)
    objects: int = 0
    held: Counter[str] = field(default_factory=Counter)

    def check(self, category: str, holds: bool, what: str) -> None:
        """Count one check."""
        self.checks[category] += 1
        if not holds:
            self.failures[category] += 1
            self.misses.append(f"{category}: {what}")

    @property
    def percent(self) -> float:
        """Of all checks that hold."""
        total = self.checks.total()
        return 100.0 * (total - self.failures.total()) / total if total else 0.0


def image(kind: str) -> Dataset:
    """A small image of a SOP class."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = kind
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    made.Modality, made.Manufacturer, made.ManufacturerModelName = "OT", "Acme", "One"
    made.Rows, made.Columns, made.SamplesPerPixel = 16, 16, 1
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.PhotometricInterpretation, made.BurnedInAnnotation = "MONOCHROME2", "NO"
    made.PixelData = np.arange(256, dtype="<u2").tobytes()
    made["PixelData"].VR = "OW"
    return made


def sources() -> Iterator[tuple[str, Dataset]]:
    """What values are planted in."""
    for uid, (name, kind, _info, retired, _keyword) in sorted(UID_dictionary.items()):
        if kind == "SOP Class" and name.endswith("Storage") and not retired:
            yield name, image(uid)
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
        try:
            found = pydicom.dcmread(path)
            if "PixelData" in found and found.file_meta.TransferSyntaxUID and UID(found.SOPClassUID).name:
                found.BurnedInAnnotation = "NO"
                found.pixel_array  # noqa: B018 (what cannot be decoded cannot be compared)
                yield path.name, found
        except Exception:  # damaged on purpose
            continue
    yield from _highdicom()


def _highdicom() -> Iterator[tuple[str, Dataset]]:
    try:
        import highdicom
    except ImportError:
        print("highdicom is not installed: its objects are left out", file=sys.stderr)
        return
    capture = highdicom.sc.SCImage(
        pixel_array=np.zeros((16, 16, 3), np.uint8),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.9",
        series_number=9,
        sop_instance_uid="1.2.3.9.1",
        instance_number=1,
        manufacturer="Acme",
        patient_orientation=("L", "P"),
        anatomical_orientation_type="BIPED",
    )
    capture.BurnedInAnnotation = "NO"
    yield "highdicom secondary capture", capture
    source = image("1.2.840.10008.5.1.4.1.1.4")
    source.update(
        {
            "FrameOfReferenceUID": "1.2.3.5",
            "ImagePositionPatient": [0, 0, 0],
            "PixelSpacing": [1, 1],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "SliceThickness": 1,
            "PatientID": "1",
            "PatientName": "A",
            "PatientBirthDate": "",
            "PatientSex": "",
            "StudyDate": "",
            "StudyTime": "",
            "AccessionNumber": "",
            "StudyID": "",
            "ReferringPhysicianName": "",
            "SeriesNumber": 1,
            "InstanceNumber": 1,
        }  # fmt: skip
    )
    segment = highdicom.seg.SegmentDescription(
        1,
        "Brain",
        highdicom.sr.CodedConcept("123037004", "SCT", "Anatomical Structure"),
        highdicom.sr.CodedConcept("12738006", "SCT", "Brain"),
        highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    common = {
        "source_images": [source], "series_instance_uid": "1.2.3.8", "series_number": 8, "sop_instance_uid": "1.2.3.8.1",
        "instance_number": 1, "manufacturer": "Acme", "manufacturer_model_name": "One", "software_versions": "1",
        "device_serial_number": "1",
    }  # fmt: skip
    yield (
        "highdicom segmentation",
        highdicom.seg.Segmentation(
            pixel_array=np.ones((1, 16, 16), np.uint8),
            segmentation_type="BINARY",
            segment_descriptions=[segment],
            **common,
        ),
    )


def with_marked_frames(dataset: Dataset, planted: Planted) -> None:
    """Put comments and application data with identifying text into JPEG frames."""
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    frames = []
    for frame in generate_frames(
        dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames", 1) or 1)
    ):
        if frame[:2] == b"\xff\xd8":
            text = planted.value("OB", "JPEG comment")
            exif = b"Exif\0\0" + planted.value("OB", "JPEG application data")
            for marker, content in ((0xFE, text), (0xE1, exif)):
                segment = bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content
                frame = frame[:2] + segment + frame[2:]
        frames.append(frame)
    dataset.PixelData = encapsulate(frames)


def plant_research(dataset: Dataset) -> dict[str, object]:
    """Put a harmless value into every kept attribute, and return what must be in the copy."""
    kept: dict[str, object] = {}
    for tag in sorted(KEPT):
        keyword = keyword_for_tag(tag)
        vr = dictionary_VR(tag)  # of those that may be either, the pixels decide
        if keyword in _STRUCTURE or keyword in TEXTS or vr not in _VALUES or Tag(tag) in dataset:
            continue
        dataset.add_new(tag, vr, _VALUES[vr])
        kept[keyword] = dataset[tag].value
    return kept


def score_object(
    name: str, source: Dataset, number: int, options: tuple[str, ...], folder: Path, score: Score
) -> None:
    """Plant, de-identify, and count."""
    score.objects += 1
    planted = Planted()
    kept = plant_research(source)
    with_marked_frames(source, planted)
    pixels = source.pixel_array if "PixelData" in source else None
    plain, marked, out = folder / "plain.dcm", folder / "marked.dcm", folder / "copy.dcm"
    source.save_as(plain, enforce_file_format=True)
    patient, parts, harmless = PATIENTS[number % len(PATIENTS)]
    identifier = f"ZQ-{number:05d}"
    plant_file(
        plain, marked, planted, PatientID=identifier, StudyInstanceUID="1.2.826.0.1.77.1", SOPInstanceUID=f"1.2.826.0.1.77.{number}.9"
    )  # fmt: skip
    if source.file_meta.TransferSyntaxUID.is_implicit_VR:  # nothing can be of another VR there
        planted.values = {v: where for v, where in planted.values.items() if "of another VR" not in where}
    planted.values |= {identifier: "PatientID", "1.2.826.0.1.77.1": "StudyInstanceUID"}
    dataset = pydicom.dcmread(marked)
    for value in str(dataset.PatientName).split("^"):
        planted.values.pop(value, None)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = patient
    for place, part in zip(TEXTS, (*parts, identifier), strict=False):
        setattr(dataset, place, f"{part} 12" if place != "SequenceName" else part)
    meaning = Dataset()
    meaning.CodeValue, meaning.CodingSchemeDesignator, meaning.CodeMeaning = "T-1", "SCT", f"of {parts[-1]}"
    dataset.ContrastBolusAgentSequence = Sequence([meaning])
    dataset.PrimaryAnatomicStructureSequence = Sequence([Dataset()])
    dataset.PrimaryAnatomicStructureSequence[0].CodeMeaning = harmless
    dataset.save_as(marked)

    pseudonyms = Pseudonyms("a" * 64)
    profile = Profile.of(options)
    try:
        deidentify(marked, out, profile, pseudonyms)
    except NotDeidentifiable as error:
        score.held[f"{name}: {error}"] += 1
        return
    content = out.read_bytes()
    left = found_in(content, planted.values)
    for value, where in planted.values.items():
        score.check("identifying values removed", value not in left, f"{name}: {value} of {where}")
    made = pydicom.dcmread(out)
    agents = made.get("ContrastBolusAgentSequence") or [Dataset()]
    meant = str(agents[0].get("CodeMeaning", "")).casefold().split()
    for part in {*parts, identifier}:
        gone = not any(part.casefold() in str(made.get(place, "")).casefold().split() for place in TEXTS)
        gone &= part.casefold() not in meant
        score.check("patient's name and number removed from kept text", gone, f"{name}: {part}")
    for keyword, value in kept.items():
        same = keyword in made and made[keyword].value == value
        score.check(
            "research values preserved", same, f"{name}: {keyword} was {value!r}, is {made.get(keyword)!r}"
        )
    structure = made.get("PrimaryAnatomicStructureSequence")
    same = bool(structure) and structure[0].get("CodeMeaning") == harmless
    score.check("research values preserved", same, f"{name}: CodeMeaning {harmless!r}")
    if pixels is not None:
        same = made.pixel_array.shape == pixels.shape and np.array_equal(made.pixel_array, pixels)
        score.check("pixels preserved", same, name)
    for keyword, wanted in (
        ("PatientID", pseudonyms.patient(identifier)),
        ("StudyInstanceUID", pseudonyms.uid("1.2.826.0.1.77.1")),
        ("SOPInstanceUID", pseudonyms.uid(f"1.2.826.0.1.77.{number}.9")),
        ("PatientIdentityRemoved", "YES"),
    ):
        score.check("replaced the same everywhere", str(made.get(keyword)) == wanted, f"{name}: {keyword}")
    if "shift-dates" in options:
        before, after = (_date(one.get("StudyDate")) for one in (dataset, made))
        moved = pseudonyms.moved(identifier)
        near = before is not None and after is not None and abs((before - after) - abs(moved)).days <= 1
        score.check(
            "dates shifted by one distance",
            near,
            f"{name}: {dataset.get('StudyDate')} {made.get('StudyDate')}",
        )


def _date(value: object) -> datetime | None:
    try:
        return datetime.strptime(str(value), "%Y%m%d")  # noqa: DTZ007 (dates)
    except ValueError:
        return None


def score_corners(folder: Path, score: Score) -> None:
    """Text in a corner of ultrasound images, in each encoding that pydicom has samples of."""
    for name in (
        "SC_rgb_small_odd.dcm",
        "SC_rgb_rle_2frame.dcm",
        "examples_palette.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
    ):
        source = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "test_files" / name)
        source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
        source.BurnedInAnnotation = "YES"
        source.save_as(folder / "corner.dcm")
        height, width = max(1, source.Rows // 4), max(1, source.Columns // 2)
        rule = PixelRegions(name, "", "", "", source.Rows, source.Columns, (Region(0, 0, width, height),))
        deidentify(
            folder / "corner.dcm",
            folder / "copy.dcm",
            Profile.of(["clean-pixels"]),
            Pseudonyms("a" * 64),
            [rule],
        )
        made = pydicom.dcmread(folder / "copy.dcm")
        shape = (int(source.get("NumberOfFrames", 1) or 1), source.Rows, source.Columns, -1)
        after, before = made.pixel_array.reshape(shape), source.pixel_array.reshape(shape)
        corner = after[:, :height, :width].reshape(-1, after.shape[-1])
        score.check("burned-in text removed", len(np.unique(corner, axis=0)) == 1, name)
        outside = np.ones(shape[1:3], bool)
        outside[:height, :width] = False
        score.check("pixels preserved", np.array_equal(after[:, outside], before[:, outside]), name)


def run(every: int = 1, only: str = "") -> dict[str, Score]:
    """Score all profiles.

    Args:
        every: take one object of so many.
        only: objects whose name has this in it.
    """
    scores = {}
    with tempfile.TemporaryDirectory(prefix="score-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, about the values that are planted
        folder = Path(name)
        for words, options in PROFILES.items():
            score = scores[words] = Score()
            for number, (what, source) in enumerate(sources()):
                if number % every == 0 and only in what:
                    try:
                        score_object(what, source, number, options, folder, score)
                    except (TypeError, AttributeError) as error:  # pydicom's, for values of a wrong kind
                        score.unwritable.append(f"{what}: {str(error).partition(chr(10))[0]}")
            if "clean-pixels" in options:
                score_corners(folder, score)
    return scores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="take one object of so many")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true", help="say why objects are held")
    options = parser.parse_args()
    scores = run(options.every)
    told = {}
    for words, score in scores.items():
        print(
            f"\n{words}: {score.objects} objects, of which {score.held.total()} are held; {score.percent:.4f} %"
        )
        for category, count in score.checks.items():
            failed = score.failures[category]
            print(f"  {category:50} {count:9}  {failed:5} failed  {100 * (count - failed) / count:.4f} %")
        for what in score.unwritable:
            print(f"    not written: {what}")
        if options.verbose:
            for why in sorted(score.held):
                print(f"    held: {why}")
        for miss in score.misses[:20]:
            print(f"    {miss}")
        told[words] = {
            "objects": score.objects,
            "held": score.held.total(),
            "percent": round(score.percent, 4),
            "checks": score.checks,
            "failures": score.failures,
        }
    print(json.dumps(told))
    if options.json:
        options.json.write_text(json.dumps(told))
    removal = ("identifying values removed", "patient's name and number removed from kept text")
    return int(any(score.failures[category] for score in scores.values() for category in removal))


if __name__ == "__main__":
    sys.exit(main())
