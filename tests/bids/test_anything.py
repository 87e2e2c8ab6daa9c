"""Whatever headers and sidecars hold, each image has one name that BIDS has, or is left out with a reason."""

from __future__ import annotations

import contextlib
import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from tardis_imagetrove.bids import reproin
from tardis_imagetrove.bids.dataset import plan
from tardis_imagetrove.bids.mapping import BadRule, MappingTable, parse

from .conftest import Project

WORDS = ["t1", "T1w", "anat", "func", "fmap", "epi", "dwi", "task", "rest", "run", "01", "+", "=", "-", "_", "__", "dup",
         "ses", "AP", "pa", "bold", "SBRef", "scout", "mp2rage", "INV1", "gre_field", "pcasl", "é", "李", " ", "\t", "\n", "\\"]  # fmt: skip
NAMES = st.lists(st.sampled_from(WORDS), max_size=7).map("".join) | st.text(max_size=12)
VALUES = st.sampled_from(
    [
        0,
        1,
        -1,
        2.0,
        0.03,
        0.1,
        1e9,
        float("nan"),
        float("inf"),
        "",
        "x",
        "j-",
        None,
        True,
        [1, 2],
        ["P", 3],
        {},
    ]
)
SIDECARS = st.dictionaries(
    st.sampled_from(
        ["EchoTime", "RepetitionTime", "InversionTime", "ImageType", "PhaseEncodingDirection", "TotalReadoutTime",
         "SliceTiming", "VolumeTiming", "ShimSetting", "ContrastBolusAgent", "BidsGuess", "Manufacturer", "SeriesTime"]
    ),
    VALUES,
)  # fmt: skip
FIELDS = st.fixed_dictionaries(
    {
        "SeriesDescription": NAMES,
        "ProtocolName": NAMES,
        "PatientID": st.sampled_from(["A-1", "A1", "a 1", "李", "王", "", "x" * 64]),
        "Modality": st.sampled_from(["MR", "MR", "MR", "PT", "CT", ""]),
        "ScanningSequence": st.sampled_from(["EP", "GR", "SE\\IR", ""]),
        "ImageType": st.sampled_from(
            ["ORIGINAL\\PRIMARY\\M", "DERIVED\\PRIMARY\\ADC", "ORIGINAL\\PRIMARY\\P", ""]
        ),
        "StudyInstanceUID": st.sampled_from(["1.2", "1.3", ""]),
        "StudyDate": st.sampled_from(["20240101", "2024", ""]),
        "SeriesNumber": st.sampled_from(["1", "2", "-3", "²", ""]),
        "AcquisitionTime": st.sampled_from(["101500.5", "noon", "256199", ""]),
        "AcquisitionDate": st.sampled_from(["20240101", "20241399", ""]),
        "PatientAge": st.sampled_from(["034Y", "002W", "old", ""]),
        "StudyID": st.sampled_from(["1", "one", ""]),
    }
)
IMAGES = st.lists(
    st.tuples(st.sampled_from([1, 1, 2, 5]), st.sampled_from(["", "e1", "e2_ph", "Eq_1"]), SIDECARS),
    max_size=3,
)
PATH = re.compile(
    r"sub-[a-zA-Z0-9]+/(ses-[a-zA-Z0-9]+/)?(anat|func|dwi|fmap|perf|pet)/sub-[a-zA-Z0-9]+(_[a-z]+-[a-zA-Z0-9]+)*_[a-zA-Z0-9]+"
)


@settings(max_examples=60)
@given(st.lists(st.tuples(FIELDS, IMAGES), max_size=6), st.booleans())
def test_each_image_has_one_name_or_a_reason(scans, by_field):
    project = Project()
    table = MappingTable(session="StudyID") if by_field else MappingTable()
    for fields, images in scans:
        made = [project.image(volumes, label=label, **sidecar) for volumes, label, sidecar in images]
        project.add(fields["SeriesDescription"], *made, mapping=table, **fields)
    found = plan(project.scans, "Anything", "1")
    stems = [one.stem for one in found.named]
    assert all(PATH.fullmatch(stem) for stem in stems), stems
    names = [file.name.lower() for file in found.files]
    assert len(set(names)) == len(names)
    for one in found.named:
        one.name.checked()
    for file in found.files:
        if file.name.endswith(".json"):
            json.loads(file.content, parse_constant=lambda text: 1 / 0)
    whole = {one.scan.id for one in found.left_out if not one.image}
    for scan in project.scans:
        for image in scan.images:
            named = sum(one.image is image for one in found.named)
            left = sum(one.scan is scan and one.image == image.label for one in found.left_out)
            assert named == 1 or left or scan.id in whole, (scan.title, image.label)
    people = {one.scan.get("PatientID"): one.place.participant.lower() for one in found.named}
    assert len(set(people.values())) == len(people)


@settings(max_examples=100)
@given(st.lists(st.sampled_from(["ProtocolName", " ~ ", " = ", " => ", "anat/T1w", "func/bold", " task-{x}", " run-{r}", "(?P<r>", ")", "(", " & ", "\n", "#", " a=1", ' b="', "leave out"]) | st.text(max_size=5), max_size=12).map("".join))  # fmt: skip
def test_a_table_of_any_text_is_read_or_refused(text):
    with contextlib.suppress(BadRule):
        parse(text)
    reproin.parse(text)
