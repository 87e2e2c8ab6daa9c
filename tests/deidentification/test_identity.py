"""A patient's names, numbers and dates are found in kept text in every script, and other words are left alone."""

from __future__ import annotations

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from tardis_imagetrove.deidentification import Profile, Pseudonyms, deidentify, new_secret
from tardis_imagetrove.deidentification.identity import _COMMON, Identity, Trace, fold

from ..conftest import phantom
from ..filters.truth import edit


def of_name(name: str) -> Identity:
    identity = Identity()
    identity.add_name(name)
    return identity


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("Li^Bo=李^波", "li_t1|李波 coil|波李|李 coil|李先生|Bo Li|libo|BoLi1|LIBO_x|HeadLi|li2|ＬＩ t1|l\u200bi t1"),
        ("Yamashita^Tarou=山下^太郎=やました^たろう", "YAMASHITA|ヤマシタ coil|ﾔﾏｼﾀ|YamashitaCoil|DRYAMASHITA|太郎さん"),
        ("Müller^Jürgen", "MUELLER|muller|Mu\u0308ller|JURGEN t1|müller_t1"),
        ("Mueller^J", "Müller"),
        ("O'Brien^Seán", "obrien|OBRIEN|O Brien|sean"),
        ("김^희중", "김 coil|희중|김희중 t1|김씨"),
        ("สมชาย^ใจดี", "คุณสมชาย|ใจดี"),
        ("Иванов^Пётр", "ИВАНОВ|петр t1"),
        ("राम^कृष्ण", "राम|कृष्ण t1"),
        ("محمد^علي", "محمد|مُحَمَّد t1|علي"),
        ("כהן^דוד", "כהן|t1 דוד"),
        ("Παπαδόπουλος^Νίκος", "ΠΑΠΑΔΟΠΟΥΛΟΣ|νικοσ"),
        ("Yıldız^Şule", "YILDIZ|SULE t1"),
        ("Sørensen^Åse", "SOERENSEN|sorensen|aase"),
        ("van der Berg^Anna", "vanderberg|berg|van der Berg"),
        ("Phantom^One", "phantom one|PhantomOne|one"),
    ],
)  # fmt: skip
def test_a_name_is_found_however_it_is_written(name, texts):
    identity = of_name(name)
    assert {text: identity.found_in(text) for text in texts.split("|")} == dict.fromkeys(
        texts.split("|"), Trace.NAME
    )


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("Li^Bo=李^波", "slice|head|Bodies|b1000|波谱|磁共振波谱|HEA;HEP|lithium"),
        ("He^An", "head|HEAD|channel|*se2d1"),
        ("Se^Ep", "*se2d1_15|ep2d_bold"),
        ("Corona^A", "coronal|a|A1"),
        ("Smith^J", "j|t1_j|J coil|blacksmith"),
        ("van der Berg^Anna", "van|der|de"),
        ("Phantom^One", "Phantom generator"),
        ("Dr^Head", "dr"),
        ("김^희중", "김치|희소"),
    ],
)
def test_words_are_compared_and_not_letters(name, texts):
    identity = of_name(name)
    assert {text: identity.found_in(text) for text in texts.split("|")} == dict.fromkeys(texts.split("|"))


@pytest.mark.parametrize(
    ("number", "found", "left"),
    [
        ("PID-88812", "syngo PID-88812|88812|pid88812|X088812Y|888-12|８８８１２", "188812|8881|1.88812"),
        ("88812", "PID-88812|PID88812|id 88812", "88813"),
        ("٨٨٨١٢", "88812", ""),
        ("7", "id 7|pat007|#7", "7|SIEMENS 7T|*tfl3d7"),
        ("100", "100|ep_100_x|sub-100", "b100|1000"),
        ("SUBJ-001", "001|subj_001", "1|x001"),
        ("AB12CD", "ab12cd|ab-12-cd", "12|ab"),
        ("123-45-678", "12345678|123 45 678", ""),
        ("yamashita_001", "YAMASHITA", "yama"),
    ],
)
def test_a_number_is_found_with_and_without_its_prefix(number, found, left):
    identity = Identity()
    identity.add_number(number)
    texts = found.split("|")
    assert {text: bool(identity.found_in(text)) for text in texts} == dict.fromkeys(texts, True)
    assert {text: identity.found_in(text, vr="CS") for text in left.split("|")} == dict.fromkeys(
        left.split("|")
    )


@pytest.mark.parametrize(
    ("text", "trace"),
    [
        ("scan of 1943-09-17", Trace.DATE),
        ("17.9.1943", Trace.DATE),
        ("19430917", Trace.DATE),
        ("19430917121314", Trace.DATE),
        ("昭和18年9月17日", Trace.DATE),
        ("1943年9月17日", Trace.DATE),
        ("17 Sep 43", Trace.DATE),
        ("Sept 17, 1943", Trace.DATE),
        ("+61 7 3365 1111", Trace.CONTACT),
        ("(07) 3365 1111", Trace.CONTACT),
        ("078-05-1120", Trace.CONTACT),
        ("someone@example.org", Trace.CONTACT),
        ("1.2.826.0.1.3680043.8.498.1", Trace.UID),
        ("Dr. Huang", Trace.NAME),
        ("Huang^Wei", Trace.NAME),
        ("SN 12345678", Trace.NUMBER),
        ("name \ufffd\ufffd", Trace.UNREADABLE),
        ("HEA;HEP", None),
        ("B30f", None),
        ("*fl3d1_ns", None),
        ("4.1.3.0", None),
        ("12:HE1-4;SP1,2", None),
        ("Head_32", None),
    ],
)
def test_what_is_identifying_by_its_form_is_found_whoever_the_patient_is(text, trace):
    assert Identity().found_in(text) == trace


#: Letters of every script that names are written in, and not of punctuation.
LETTERS = st.characters(categories=("Lu", "Ll", "Lo"), exclude_characters="=^\\")
WORDS = st.text(LETTERS, min_size=3, max_size=12).filter(lambda word: fold(word) not in _COMMON)


@settings(max_examples=300, deadline=None)
@given(family=WORDS, given_name=WORDS, other=WORDS)
def test_names_of_all_scripts_are_found(family, given_name, other):
    identity = of_name(f"{family}^{given_name}={other}")
    for text in (
        f"t1_{family}", f"{given_name} coil", f"{family} {given_name}", f"{given_name}{family}", other, other.upper(),
    ):  # fmt: skip
        assert identity.found_in(text) == Trace.NAME, text


@pytest.fixture
def instance(tmp_path):
    return phantom(tmp_path / "in", slices=1)[0]


def copied(instance, tmp_path, change):
    edit(instance, change)
    made = deidentify(instance, tmp_path / "copy.dcm", Profile(), Pseudonyms(new_secret()))
    return pydicom.dcmread(made.path), made


def li_bo(dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID = "Li^Bo=李^波", "PID-88812"
    dataset.SequenceName, dataset.ReceiveCoilName = "li_t1", "李波 coil"
    dataset.SoftwareVersions = ["syngo PID-88812", "E11"]
    dataset.ScanOptions = ["FS", "LI"]
    dataset.PulseSequenceName = "slice_head"
    dataset.AcquisitionNumber = "88812"
    dataset.PatientBirthDateInAlternativeCalendar = "昭和18年9月17日"
    dataset.PatientDeathDateInAlternativeCalendar = "平成18年9月17日"
    dataset.ContentDescription = "Bo Li"
    code, nested = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99LOCAL", "knee of Bo"
    nested.CodeValue, nested.CodingSchemeDesignator, nested.CodeMeaning = "L-1", "SRT", "88812"
    code.AnatomicRegionModifierSequence = [nested]
    dataset.AnatomicRegionSequence = [code]


def test_a_copy_keeps_no_name_and_no_number_in_any_text_and_reports_what_it_took(instance, tmp_path):
    made, copy = copied(instance, tmp_path, li_bo)
    assert not made.SequenceName and not made.ReceiveCoilName and made.AcquisitionNumber is None
    assert made.SoftwareVersions == ["", "E11"] and made.ScanOptions == ["FS", ""]
    assert made.PulseSequenceName == "slice_head"
    region = made.AnatomicRegionSequence[0]
    assert not region.CodeMeaning and not region.AnatomicRegionModifierSequence[0].CodeMeaning
    for keyword in ("PatientBirthDateInAlternativeCalendar", "ContentDescription"):
        assert keyword not in made
    content = copy.path.read_bytes()
    for text in ("李", "波", "昭和", "88812", "Li", "Bo"):
        assert text.encode() not in content.replace(b"2.25.", b"")
    assert "SequenceName, which contains a name that the instance carries" in copy.losses
    assert "SoftwareVersions, which contains a number that the instance carries" in copy.losses
    rows = {(row.attribute, row.done.value) for row in copy.report}
    assert ("SequenceName (0018,0024)", "emptied") in rows
    assert ("PatientBirthDateInAlternativeCalendar (0010,0033)", "removed") in rows
    assert ("EchoTime (0018,0081)", "kept") in rows
    assert not any(
        "Li" in word or "88812" in word for row in copy.report for word in row if isinstance(word, str)
    )


@pytest.mark.parametrize("vr", ["LO", "SH", "CS", "IS", "ST"])
def test_retired_order_numbers_and_free_text_go(vr, instance, tmp_path):
    tags = {
        "SH": (0x00401006, 0x00401007, 0x00402006, 0x00402007, 0x00540400, 0x20000050),
        "LO": (0x00700081, 0x00281416, 0x30040006, 0x00440009, 0x0018100A, 0x20000050),
        "CS": (0x0040A491,), "IS": (0x00201200,), "ST": (0x00080092,),
    }[vr]  # fmt: skip
    value = {"CS": "PARTIAL", "IS": "4711"}.get(vr, "Ward seven")
    made, _ = copied(instance, tmp_path, lambda d: [d.add_new(tag, vr, value) for tag in tags])
    assert [tag for tag in tags if tag in made] == []


def test_text_outside_the_declared_character_set_is_not_kept(instance, tmp_path):
    edit(instance, lambda d: d.update({"SpecificCharacterSet": "ISO_IR 192", "SequenceName": "PLACE-"}))
    instance.write_bytes(instance.read_bytes().replace(b"PLACE-", "李波t".encode("gbk")[:6].ljust(6)))
    made = deidentify(instance, tmp_path / "copy.dcm", Profile(), Pseudonyms(new_secret()))
    assert not pydicom.dcmread(made.path).SequenceName
