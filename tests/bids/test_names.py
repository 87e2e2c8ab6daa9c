"""What scans are called: by rules, by ReproIn, by their sequence; and what has no name, with the reason."""

from __future__ import annotations

import json

import pytest

from tardis_imagetrove.bids import reproin
from tardis_imagetrove.bids.dataset import plan, tsv
from tardis_imagetrove.bids.mapping import BadRule, MappingTable, parse
from tardis_imagetrove.bids.names import Name, NotBids, label
from tardis_imagetrove.bids.people import labels
from tardis_imagetrove.bids.scan import INJECTED_AT
from tardis_imagetrove.bids.sidecars import REQUIRED

EPI = {"RepetitionTime": 2.0, "EchoTime": 0.03, "TotalReadoutTime": 0.05}


def names(project):
    """Images' paths without participant and extension, and the reasons why others have none, by series."""
    made = plan(project.scans, "P", "1")
    found = {}
    for one in made.named:
        found.setdefault(one.scan.id, []).append(str(one.name))
    return found, {one.scan.id: one.reason for one in made.left_out}


@pytest.mark.parametrize(
    ("text", "name", "session", "run"),
    [
        ("anat-T1w", "anat/T1w", "", ""),
        ("anat-T1w_acq-MPRAGE_run-1", "anat/acq-MPRAGE_T1w", "", "1"),
        ("func-bold_task-rest_run-01", "func/task-rest_bold", "", "01"),
        ("func_ses-02_task-n-back_run+", "func/task-nback_bold", "02", "+"),
        ("func_task-rest_acq-mb8_SBRef", "func/task-rest_acq-mb8_sbref", "", ""),
        ("WIP dwi_dir-AP__custom text", "dwi/dir-AP_dwi", "", ""),
        ("XX:fmap-epi_dir-PA", "fmap/dir-PA_epi", "", ""),
        ("anat-t2W", "anat/T2w", "", ""),
    ],
)
def test_reproin_is_read(text, name, session, run):
    said = reproin.parse(text)
    assert str(Name(said.datatype, said.suffix, said.entities)) == name
    assert (said.session, said.run, said.scout, said.duplicate) == (session, run, False, False)


def test_reproin_knows_scouts_and_duplicates():
    assert reproin.parse("anat-scout_ses-1").scout and reproin.parse("scout").scout
    assert reproin.parse("func_task-rest__dup-01").duplicate


@pytest.mark.parametrize(
    "text", ["", "t1_mprage", "anatomy", "anat_old", "func", "func-T1w", "_", "anat-", "-_-"]
)
def test_other_names_are_not_reproin(text):
    assert reproin.parse(text) is None


def test_what_was_scanned_again_under_its_name_is_cancelled_before(project):
    bold = project.image(5, **EPI)
    for _ in range(2):
        project.add("func_task-rest_run-01", bold)
    project.add("func_task-rest_run-02", bold)
    project.add("func_task-go__dup-01", bold)
    found, left = names(project)
    assert found == {2: ["func/task-rest_run-01_bold"], 3: ["func/task-rest_run-02_bold"]}
    assert "scanned again under the same name as 0002_func" in left[1] and "__dup" in left[4]


def test_a_repeat_that_is_shorter_than_what_it_replaces_is_noted(project):
    for volumes in (9, 5):
        project.add("func_task-rest", project.image(volumes, **EPI))
    (named,) = plan(project.scans, "P", "1").named
    assert named.scan.id == 2 and "has 9 volumes; this has 5" in named.notes[0]


def test_a_pet_scan_has_times_by_its_headers(project):
    given = dict.fromkeys(REQUIRED["pet", "pet"], "x")
    for name in ("TimeZero", "InjectionStart", "InjectedMass", "InjectedMassUnits", "SpecificRadioactivity"):
        del given[name]
    given |= {"SeriesTime": "10:15:00", "ReconMethodParameterLabels": ["subsets", "iterations"]}
    del given["ReconMethodParameterUnits"]
    project.add("FDG", project.image(3, **given), Modality="PT", **{INJECTED_AT: "100500.00"})
    (named,) = plan(project.scans, "P", "1").named
    told = named.sidecar
    assert str(named.name) == "pet/pet" and told["TimeZero"] == "10:15:00" and told["InjectionStart"] == -600
    assert told["InjectedMass"] == "n/a" and told["ReconMethodParameterUnits"] == ["none", "none"]


def test_reproin_counts_runs(project):
    bold = project.image(5, **EPI)
    for name in ("func_task-a_run+", "func_task-b_run+", "func_task-a_run+", "func_task-a_run="):
        project.add(name, bold)
    found, left = names(project)
    assert found[1] == ["func/task-a_run-01_bold"] and found[2] == ["func/task-b_run-01_bold"]
    assert found[4] == ["func/task-a_run-02_bold"] and 3 in left


@pytest.mark.parametrize(
    ("name", "fields", "image", "expected"),
    [
        ("t1_mprage", {}, {}, "anat/T1w"),
        ("sag 3D FLAIR", {}, {}, "anat/FLAIR"),
        ("t2_tse_tra", {}, {}, "anat/T2w"),
        ("t2* gre", {}, {}, "anat/T2starw"),
        ("x", {"ScanningSequence": "SE"}, {"EchoTime": 0.1, "RepetitionTime": 4.0}, "anat/T2w"),
        ("x", {"ScanningSequence": "GR\\IR"}, {"InversionTime": 0.9}, "anat/T1w"),
        ("x", {"ScanningSequence": "EP"}, {"volumes": 4, **EPI}, "func/task-x_bold"),
        ("DTI 64", {}, {"volumes": 3, "gradients": (0, 1, 1)}, "dwi/dwi"),
        ("dti_PA", {}, {"volumes": 3, "gradients": (0, 1, 1)}, "dwi/dir-PA_dwi"),
        ("B0map", {"ImageType": "ORIGINAL\\PRIMARY\\P"}, {"EchoTime1": 0.004, "EchoTime2": 0.007}, "fmap/phasediff"),
        ("x", {}, {"BidsGuess": ["anat", "_acq-gir2_T2w"]}, "anat/T2w"),
        ("t1_mprage post", {}, {"ContrastBolusAgent": "Gadovist (7)"}, "anat/ce-Gadovist7_T1w"),
        ("T1 FLAIR sag", {}, {}, "anat/T1w"),
        ("EPI forest run", {}, {"volumes": 4, **EPI}, "func/task-forest_bold"),
        ("rsfMRI this is it", {}, {"volumes": 4, **EPI}, "func/task-rest_bold"),
        ("dti this is it", {}, {"volumes": 3, "gradients": (0, 1, 1)}, "dwi/dwi"),
        ("mp2rage_INV1", {}, {}, "anat/inv-1_MP2RAGE"),
        ("mp2rage", {"ImageType": "DERIVED\\PRIMARY\\M\\UNI"}, {}, "anat/UNIT1"),
    ],
)  # fmt: skip
def test_a_sequence_suggests_a_name(project, name, fields, image, expected):
    project.add(name, project.image(**image), **fields)
    assert names(project) == ({1: [expected]}, {})


@pytest.mark.parametrize(
    ("name", "fields", "image", "reason"),
    [
        ("localizer", {}, {}, "localizer"),
        ("head", {"Modality": "CT"}, {}, "no place for CT"),
        ("x", {}, {}, "add a rule"),
        ("ep2d_bold", {}, {}, "one volume"),
        ("rest_bold", {}, {"volumes": 3, "step": 0.0}, "requires RepetitionTime"),
        ("dti", {"ScanningSequence": "EP"}, {}, "without gradients"),
        ("t1", {"ImageType": "DERIVED\\SECONDARY\\MPR"}, {}, "reformatted"),
        ("t1", {"PatientID": ""}, {}, "PatientID is empty"),
        ("t1", {}, {"label": "Eq_1"}, "interpolated"),
        ("FDG brain", {"Modality": "PT"}, {"Units": "BQML"}, "requires Manufacturer, "),
        ("T1 map", {}, {}, "a map, or a scan for one"),
        ("ep2d_perf DSC", {"ScanningSequence": "EP"}, {"volumes": 9, **EPI}, "does not say ASL"),
        ("pcasl", {}, {"volumes": 2}, "requires MagneticFieldStrength"),
    ],
)
def test_what_is_left_out_has_a_reason(project, name, fields, image, reason):
    project.add(name, project.image(**image), **fields)
    found, left = names(project)
    assert found == {} and reason in left[1]


def test_runs_are_numbered_where_names_clash(project):
    for _ in range(2):
        project.add("t1_mprage")
    project.add("T2w")
    assert names(project)[0] == {1: ["anat/run-01_T1w"], 2: ["anat/run-02_T1w"], 3: ["anat/T2w"]}


def test_labels_are_letters_and_digits_and_never_shared():
    people = ["A-1", "A1", "a 1", "Zoë", "B", "李", "王", "b.2"]
    found = labels(people)
    assert len({one.lower() for one in found.values()}) == len(people)
    assert all(one.isascii() and one.isalnum() for one in found.values())
    assert found["Zoë"] == "Zoe" and found["B"] == "B" and found["A1"] != "A1"
    assert label("n-back (2)") == "nback2"
    # Who else is there does not change whom a label stands for.
    assert {labels(people[:n])[one] for n in (3, 5, 8) for one in ("A1",)} == {found["A1"]}


def test_one_id_with_two_birth_dates_is_nobody(project):
    for birth in ("19700101", "19800101"):
        project.add("t1", PatientBirthDate=birth)
    project.add("t1", person="P2", PatientBirthDate="19900101")
    found, left = names(project)
    assert found == {3: ["anat/T1w"]} and "stands for 2 people" in left[1] and "1970" not in left[1]


def test_sessions_are_studies_fields_or_as_named(project):
    project.add("t1", study="2")
    project.add("t1", study="1")
    project.add("t1", person="P2")
    stems = [one.stem for one in plan(project.scans, "P", "1").named]
    assert [stem.split("/")[1] for stem in stems] == ["ses-01", "ses-02", "ses-01"]
    assert stems[0].startswith("sub-P1/ses-01/anat/sub-P1_ses-01_T1w")
    project.scans.clear()
    project.add("anat-T1w_ses-base", study="3")
    project.add("t2w", study="3")
    table = MappingTable(session="StudyID")
    project.add("t1", study="4", mapping=table, StudyID="week 2")
    stems = [one.stem for one in plan(project.scans, "P", "1").named]
    assert {stem.split("/")[1] for stem in stems} == {"ses-base", "ses-week2"}


def test_without_a_second_study_there_are_no_sessions(project):
    project.add("t1")
    assert plan(project.scans, "P", "1").named[0].stem == "sub-P1/anat/sub-P1_T1w"


def test_a_rule_comes_before_all(project):
    table = MappingTable(
        rules=parse(
            r'ProtocolName ~ ^fmri_(?P<t>\w+?)(?:_r(?P<r>\d))?$ => func/bold task-{t} run-{r} TaskName="Go, no go"'
            "\nSeriesDescription = anat-T1w => leave out: not of this study"
        )
    )
    project.add("fmri_go_r3", project.image(3, **EPI), mapping=table)
    project.add("anat-T1w", mapping=table)
    made = plan(project.scans, "P", "1")
    assert [str(one.name) for one in made.named] == ["func/task-go_run-3_bold"]
    assert made.named[0].sidecar["TaskName"] == "Go, no go"
    assert made.left_out[0].reason == "not of this study"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ProtocolName ~ x", "write FIELD"),
        ("Protocol ~ x => anat/T1w", "ProtocolName"),
        ("ProtocolName ~ ( => anat/T1w", "regular expression"),
        ("ProtocolName ~ x => anat/T9w", "BIDS has no anat/T9w"),
        ("ProtocolName ~ x => func/bold", "needs task-"),
        ("ProtocolName ~ x => anat/T1w dir-AP", "BIDS does not allow dir-"),
        ("ProtocolName ~ x => anat/T1w foo-AP", "not an entity"),
        ("ProtocolName ~ x => anat/T1w acq-{x}", "named group"),
        ("ProtocolName ~ x => anat/T1w EchoTime=abc", "JSON"),
        ("ProtocolName ~ x => perf/asl aslcontext=[1]", "list of"),
        ("ProtocolName ~ x => anat/T1w run-one", "a number"),
        ("=> anat/T1w", "write FIELD"),
    ],
)
def test_a_bad_rule_is_named_by_line_and_cause(line, problem):
    with pytest.raises(BadRule, match="line 2: ") as caught:
        parse(f"# comment\n{line}\n")
    assert problem in str(caught.value)


def test_names_that_bids_does_not_have_are_refused():
    for name in (Name("anat", "bold"), Name("func", "bold"), Name("anat", "T1w", {"run": "x"})):
        with pytest.raises(NotBids):
            name.checked()


def test_field_maps_say_what_they_are_for(project):
    shim, other = [1, 2], [3, 4]
    ap, pa = ({**EPI, "PhaseEncodingDirection": d, "ShimSetting": shim} for d in ("j-", "j"))
    project.add("fmap-epi_dir-AP", project.image(**ap))
    project.add("fmap-epi_dir-PA", project.image(**pa))
    project.add("func_task-a", project.image(3, **ap))
    project.add("func_task-b", project.image(3, **{**ap, "ShimSetting": other}))
    project.add("func_task-c", project.image(3, **ap), FrameOfReferenceUID="1.2.3")
    one, two, a, b, c = (dict(named.sidecar) for named in plan(project.scans, "P", "1").named)
    assert (
        one["IntendedFor"]
        == two["IntendedFor"]
        == [
            "func/sub-P1_task-a_bold.nii.gz",
            "func/sub-P1_task-c_bold.nii.gz",
        ]
    )
    assert one["B0FieldIdentifier"] == two["B0FieldIdentifier"] == a["B0FieldSource"] == c["B0FieldSource"]
    assert "B0FieldSource" not in b


def test_a_single_direction_serves_images_of_the_other(project):
    ap, pa = ({**EPI, "PhaseEncodingDirection": d} for d in ("j-", "j"))
    project.add("fmap-epi_dir-AP", project.image(**ap))
    project.add("func_task-a", project.image(3, **ap))
    project.add("func_task-b", project.image(3, **pa))
    first, *_ = plan(project.scans, "P", "1").named
    assert first.sidecar["IntendedFor"] == ["func/sub-P1_task-b_bold.nii.gz"]


def test_deidentified_scans_say_so(project):
    codes = [{"CodeValue": "113100", "CodingSchemeDesignator": "DCM"}]
    hidden = {"PatientIdentityRemoved": "YES", "PatientAge": "", "PatientSex": ""}
    image = project.image(DeidentificationMethodCodeSequence=codes)
    project.add("t1", image, person="x1", LongitudinalTemporalInformationModified="MODIFIED", **hidden)
    project.add("t1", image, person="x2", LongitudinalTemporalInformationModified="REMOVED", **hidden)
    project.add("t1", person="x3")
    made = plan(project.scans, "P", "1")
    files = {file.name: file.content.decode() for file in made.files if file.source is None}
    assert json.loads(files["sub-x1/anat/sub-x1_T1w.json"])["DeidentificationMethodCodeSequence"] == codes
    assert files["participants.tsv"].splitlines()[1:] == [
        "sub-x1\tn/a\tn/a",
        "sub-x2\tn/a\tn/a",
        "sub-x3\t34\tF",
    ]
    assert "\tshifted\n" in files["sub-x1/sub-x1_scans.tsv"]
    assert files["sub-x2/sub-x2_scans.tsv"].splitlines()[1] == "anat/sub-x2_T1w.nii.gz\tn/a\tn/a"
    assert "T10:03:00\ttrue" in files["sub-x3/sub-x3_scans.tsv"]
    assert "de-identified" in files["README"] and "shifted" in files["README"]


def test_a_sidecar_is_mended(project):
    fields = {**EPI, "PhaseEncodingDirection": "y", "SliceTiming": [0, 3.0, 1.0], "EchoTime": float("nan")}
    project.add("func_task-a", project.image(3, **fields))
    (named,) = plan(project.scans, "P", "1").named
    assert named.sidecar == {"RepetitionTime": 2.0, "TotalReadoutTime": 0.05, "TaskName": "a"}
    assert len(named.notes) == 3


def test_the_same_scans_give_the_same_bytes_and_every_file_is_listed(project):
    project.add("t1")
    project.add("localizer")
    made, again = (plan(list(scans), "P", "1") for scans in (project.scans, reversed(project.scans)))
    assert made.files == again.files
    listed = made.files[-1].content.decode().splitlines()[1:]
    assert [line.split("\t")[0] for line in listed] == sorted(
        file.name for file in made.files if not file.name.startswith("imagetrove/")
    )
    assert tsv(("a",), [["b\tc\nd"]]) == b"a\nb c d\n"
