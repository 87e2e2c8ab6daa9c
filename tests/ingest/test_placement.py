"""Placement: which instrument, experiment, dataset and project a header names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardis_imagetrove.ingest.placement import (
    Rule,
    Unplaceable,
    check_late,
    directory_name,
    explain,
    place,
    place_all,
    project_number,
)

RULE = Rule(
    id=1,
    name="Skyra",
    owner_id=7,
    instrument=(("Manufacturer", "SIEMENS"), ("ManufacturerModelName", "Skyra")),
    experiment_title=("PatientID", "StudyDescription"),
    dataset_title=("SeriesDescription",),
    project_field="ReferringPhysicianName",
    project_pattern=r"\d{5}",
)


def header(**values) -> dict[str, str]:
    return {
        keyword: value
        for keyword, value in {
            "Manufacturer": "SIEMENS",
            "ManufacturerModelName": "Skyra",
            "PatientID": "P1",
            "StudyDescription": "Brain",
            "SeriesDescription": "t1",
            "ReferringPhysicianName": "12345^Smith",
            **values,
        }.items()
        if value is not None
    }


def test_all_pairs_must_hold():
    assert place(header(), [RULE]).rule_id == 1
    with pytest.raises(Unplaceable, match="Skyra: ManufacturerModelName is 'Prisma', not 'Skyra'"):
        place(header(ManufacturerModelName="Prisma"), [RULE])


def test_padding_of_a_configured_value_does_not_count():
    padded = replace(RULE, instrument=(("Manufacturer", "SIEMENS "),))
    assert place(header(), [padded]).rule_id == 1


def test_each_rule_is_explained_nearest_first():
    far = Rule(2, "Prisma", 7, (("Manufacturer", "GE"), ("StationName", "X")), ("PatientID",), ("Modality",))
    near = Rule(
        3, "Vida", 7, (("Manufacturer", "SIEMENS"), ("StationName", "MR9")), ("PatientID",), ("Modality",)
    )
    verdicts = explain(header(), [far, near, RULE])
    assert [verdict.rule.name for verdict in verdicts] == ["Skyra", "Vida", "Prisma"]
    assert [verdict.matches for verdict in verdicts] == [True, False, False]
    assert verdicts[1].held == (("Manufacturer", "SIEMENS"),)
    assert verdicts[1].failed == (("StationName", "MR9", ""),)
    assert verdicts[2].text() == "Manufacturer is 'SIEMENS', not 'GE' and StationName is empty, not 'X'"
    assert verdicts[2].text(quoting=False) == "Manufacturer is not 'GE' and StationName is not 'X'"


def test_without_a_match_the_scan_is_described_and_the_two_nearest_instruments_are_named():
    rules = [
        Rule(
            n,
            f"MR{n}",
            7,
            (("Manufacturer", "SIEMENS"), ("StationName", f"MR{n}")),
            ("PatientID",),
            ("Modality",),
        )
        for n in range(5)
    ]
    with pytest.raises(Unplaceable) as raised:
        place(header(Modality="MR", StationName="MR9"), rules)
    assert str(raised.value) == (
        "matches no instrument: MR scan from SIEMENS Skyra, station MR9"
        " (MR0: StationName is 'MR9', not 'MR0'; MR1: StationName is 'MR9', not 'MR1'; and 3 more)"
    )


def test_a_scan_that_may_be_of_a_de_identified_instrument_is_not_quoted():
    with pytest.raises(Unplaceable) as raised:
        place(
            header(StationName="SECRET"), [replace(RULE, instrument=(("StationName", "A"),))], discreet=True
        )
    assert str(raised.value) == "matches no instrument (Skyra: StationName is not 'A')"


def test_two_instruments_are_one_too_many_and_both_are_named():
    other = Rule(2, "Any Siemens", 7, (("Manufacturer", "SIEMENS"),), ("PatientID",), ("SeriesDescription",))
    with pytest.raises(Unplaceable, match="more than one instrument: Skyra, Any Siemens"):
        place(header(), [RULE, other])


def test_without_any_instrument_it_says_so():
    with pytest.raises(Unplaceable, match="no instrument is configured"):
        place(header(), [])


def test_titles_are_the_fields_joined():
    placement = place(header(), [RULE])
    assert (placement.experiment_title, placement.dataset_title) == ("P1/Brain", "t1")


@pytest.mark.parametrize("value", [None, ""])
def test_a_title_field_without_a_value_is_named(value):
    with pytest.raises(
        Unplaceable, match="has no SeriesDescription, which Skyra needs for the dataset's title"
    ):
        place(header(SeriesDescription=value), [RULE])


def test_titles_that_look_alike_are_told_apart_by_their_fields():
    one = place(header(PatientID="a/b", StudyDescription="c"), [RULE])
    other = place(header(PatientID="a", StudyDescription="b/c"), [RULE])
    assert one.experiment_title == other.experiment_title
    assert one.experiment_key != other.experiment_key


def test_a_title_is_cut_to_what_mytardis_holds_and_stays_distinct():
    one = place(header(PatientID="x" * 500 + "1"), [RULE])
    other = place(header(PatientID="x" * 500 + "2"), [RULE])
    assert len(one.experiment_title) == 400
    assert one.experiment_key != other.experiment_key


def test_series_of_two_projects_never_share_an_experiment():
    one = place(header(), [RULE])
    other = place(header(ReferringPhysicianName="54321"), [RULE])
    nobody = place(header(ReferringPhysicianName="Smith"), [RULE])
    assert (one.group, other.group, nobody.group) == ("Project 12345", "Project 54321", "")
    assert len({one.experiment_key, other.experiment_key, nobody.experiment_key}) == 3
    assert len({one.dataset_key, other.dataset_key, nobody.dataset_key}) == 3


@pytest.mark.parametrize(
    ("text", "pattern", "number"),
    [
        ("12345", r"\d{5}", "12345"),
        ("P12345^Smith", r"\d{5}", "12345"),
        ("12345^12345", r"\d{5}", "12345"),
        ("123456", r"\d{5}", ""),
        ("1123456", r"\d{5}", ""),
        ("Smith", r"\d{5}", ""),
        ("project AB-77", r"project ([A-Z]+-\d+)", "AB-77"),
        ("", r"\d*", ""),
    ],
)
def test_the_project_is_never_a_piece_of_a_longer_number(text, pattern, number):
    assert project_number(text, pattern) == number


def test_two_projects_in_one_field_are_refused():
    with pytest.raises(Unplaceable, match="ReferringPhysicianName names more than one project: 12345, 54321"):
        place(header(ReferringPhysicianName="12345 54321"), [RULE])


def test_instances_that_disagree_hold_the_series():
    with pytest.raises(Unplaceable, match="disagree.*PatientID is 'P1' and 'P2'"):
        place_all([header(), header(PatientID="P2")], [RULE])


def test_a_series_is_of_one_patient_though_its_titles_do_not_ask():
    rule = replace(RULE, experiment_title=("StudyDescription",))
    with pytest.raises(Unplaceable, match="PatientID is 'P1' and 'P2'"):
        place_all([header(), header(PatientID="P2")], [rule])
    late = dict(place_all([header()], [rule]).fields)
    check_late([header()], late)
    with pytest.raises(Unplaceable, match="PatientID is 'P2', not 'P1'"):
        check_late([header(PatientID="P2")], late)


def test_a_private_tag_names_an_instrument():
    made = header()
    made["(0019,100a)"] = "special"
    rule = Rule(3, "Private", 7, (("(0019,100a)", "special"),), ("PatientID",), ("SeriesDescription",))
    assert place(made, [rule]).rule_id == 3


@given(st.integers().map(str) | st.text(), st.text())
def test_a_directory_is_one_safe_component(number, description):
    name = directory_name(number, description)
    assert name
    assert len(name) <= 80
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@pytest.mark.parametrize(
    ("number", "description", "name"),
    [
        ("3", "t1_mprage_sag", "0003_t1_mprage_sag"),
        ("12", "T2*/SWI (3 mm)", "0012_T2_SWI_3_mm"),
        ("1", "Schädel", "0001_Schadel"),
        ("1", "头", "0001_series"),
        ("-7", "t1", "0000_t1"),
        ("99999999999", "t1", "99999999999_t1"),
        ("", "../../etc", "0000_etc"),
        ("", "", "0000_series"),
    ],
)
def test_directories_read_like_the_series(number, description, name):
    assert directory_name(number, description) == name
