"""The old uploader's files: their syntax, what it means, and what is said of mistakes."""

from __future__ import annotations

import contextlib
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tardis_imagetrove.contrib.uploader.conf import (
    MAX_DEPTH,
    Binding,
    ConfError,
    Group,
    Import,
    Severity,
    interpret,
    load,
    parse,
    quoted,
)

ONE = """
instruments = ["Skyra"]
Skyra
{
    instrument       = [ ["Manufacturer", "SIEMENS"],   # both must hold
                         ["ManufacturerModelName", "Skyra"] ]
    experiment_title = [ "PatientID" ]
    dataset_title    = [ "SeriesDescription" ]
    default_operators = ["operator.one@example.edu"]
    default_institution_name = "University of Example"
    default_institutional_department_name = "Imaging"
    default_institutional_address = "1 Example Road"
    schema_experiment = "http://example.edu/schema/1"
    schema_dataset    = "http://example.edu/schema/2"
    schema_file       = "http://example.edu/schema/3"
}
"""


@pytest.fixture
def read(tmp_path):
    """Settings of a text, and of other files beside it."""

    def read(text: str, environ=None, **others: str):
        for name, content in {"main": text, **others}.items():
            (tmp_path / f"{name}.conf").write_text(content, encoding="utf-8")
        return load(tmp_path / "main.conf", environ or {})

    return read


def values(settings):
    return {name: setting.value for name, setting in settings.values.items()}


def texts(conf, severity):
    return [note.text for note in conf.notes if note.severity is severity]


# Syntax


def test_every_kind_of_value_is_read(read):
    found = read(
        'text = "hi \\"there\\"\\n\\u00e9\\ud834\\udd1e"\nwhole = -33\nbroken = 1.50e1\n'
        'yes = on\nno = off\ntoo = true\nnor = false\nmixed = [1, "foo", [off, []]]\n'
    )
    assert values(found) == {
        "text": 'hi "there"\né𝄞',
        "whole": Decimal(-33),
        "broken": Decimal(15),
        "yes": True,
        "no": False,
        "too": True,
        "nor": False,
        "mixed": (Decimal(1), "foo", (False, ())),
    }


def test_comments_and_line_ends_may_stand_wherever_the_uploader_took_them(read):
    found = read(
        "# first\n\naa # x\n= # y\n 1 # z\nbb\n=\n[\n2\n#foo\n,\n#bar\n3\n]#quux\r\ng { h-i { j_9 { a=false}}}\rc=1"
    )
    assert values(found) == {"aa": 1, "bb": (2, 3), "g.h-i.j_9.a": False, "c": 1}


def test_a_text_may_go_over_several_lines_and_hold_a_hash(read):
    assert values(read('address = "1 Road # 2\nTown"')) == {"address": "1 Road # 2\nTown"}


def test_a_name_that_begins_like_a_word_of_the_syntax_is_a_name(read):
    assert values(read("imports = 1\nimport-x = 2\nonwards = on\n")) == {
        "imports": 1,
        "import-x": 2,
        "onwards": True,
    }


def test_a_file_with_a_byte_order_mark_and_an_empty_file_are_read(read):
    assert values(read("\ufeffa = 1")) == {"a": 1}
    assert values(read("  # nothing\n")) == {}


@pytest.mark.parametrize(
    ("text", "where", "expected"),
    [
        ("a = 1\nb ?", "2:3", "= or { after the name, found '?'"),
        ("a =", "1:4", "a value"),
        ("a = 1\n  b = [1,\n]", "3:1", "a value"),
        ("a = [1 2]", "1:8", ", or ] in the list of line 1, found a number"),
        ('x = 1\na = "abc\n', "2:5", 'a " that closes'),
        (r'a = "\x"', "1:6", r"one of \n \t"),
        (r'a = "\ud800"', "1:6", "a pair of UTF-16 surrogates"),
        (r'a = "\u12g4"', "1:6", "four hexadecimal digits"),
        ("g {\n a = 1\n", "3:1", "a } that closes the group 'g' of line 1"),
        ("g { a = 1 b = 2 }", "1:11", "the end of the line after a setting"),
        ("a = 1\n}", "2:1", "a setting"),
        ("import = 1", "1:8", "the name of a file in double quotes"),
        ("a = 1e400", "1:5", "an exponent up to 300"),
        ("a = 1" + "0" * 9 + "e" + "9" * 9, "1:5", "an exponent up to 300"),
        ("a = 1;", "1:6", "the end of the line"),
        ("_a = 1", "1:1", "a name, which begins with a letter"),
        ("a = [" * 3, "1:6", "a value"),
        ("a = " + "[" * (MAX_DEPTH + 1), f"1:{5 + MAX_DEPTH}", "lists are nested deeper"),
        ("a {" * (MAX_DEPTH + 1), f"1:{3 * MAX_DEPTH + 4}", "groups are nested deeper"),
    ],
)
def test_a_mistake_is_told_with_line_column_and_what_was_expected(text, where, expected):
    with pytest.raises(ConfError) as error:
        parse(text, "old.conf")
    assert str(error.value).startswith(f"old.conf:{where}: ")
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "text", ["pass = hunter2", 'pass = "hunter2', "hunter2", "pass hunter2", "pass = 12hunter2"]
)
def test_a_mistake_never_repeats_what_may_be_a_password(text):
    with pytest.raises(ConfError) as error:
        parse(text, "old.conf")
    assert "unter2" not in str(error.value)


def test_what_is_no_text_in_utf_8_is_told_with_its_place(tmp_path):
    (tmp_path / "a.conf").write_bytes(b'a = 1\nb = "Universit\xe9"')
    with pytest.raises(ConfError, match=r"a\.conf:2:15: expected text in UTF-8"):
        load(tmp_path / "a.conf", {})


def test_a_file_that_is_not_there_or_is_a_folder_is_told(tmp_path):
    for path in (tmp_path / "none.conf", tmp_path):
        with pytest.raises(ConfError, match=re.escape(str(path))):
            load(path, {})


# What the syntax means


def test_the_later_of_two_settings_counts_and_the_line_is_told(read):
    found = read('a = 1\ng { b = 1 }\ng {\n b = 2\n c = 3\n}\na = "secret"\n')
    assert values(found) == {"a": "secret", "g.b": 2, "g.c": 3}
    assert [text.partition("main.conf:")[2] for text in found.warnings] == [
        "4:2: g.b is set again: this one counts, not that of line 2",
        "7:1: a is set again: this one counts, not that of line 1",
    ]


def test_variables_are_the_nearest_setting_above_or_of_the_environment(read):
    found = read(
        'base = "$(ROOT)/x"\nnumber = 1.50\nthousand = 1e3\n'
        'g {\n name = "in $(base)"\n base = "own"\n h {\n  is = "$(base) $(number) $(thousand) $(g.name) 5$$"\n }\n}',
        {"ROOT": "/srv"},
    )
    assert values(found)["g.h.is"] == "own 1.5 1000 in /srv/x 5$"


def test_a_variable_that_is_not_set_costs_its_setting_alone(read):
    found = read(
        'a = "$(nowhere)"\nb = "pa$word"\nc = "$(a)"\nd = "$(open"\nlist = ["$(a)"]\ne = "$(list)"\nf = 1'
    )
    problems = {name: setting.problem for name, setting in found.values.items()}
    assert "refers to 'nowhere', which is not defined above or in the environment" in problems["a"]
    assert "found a $ alone" in problems["b"] and "pa$word" not in problems["b"]
    assert "which has no value" in problems["c"]
    assert "a ) after $(" in problems["d"]
    assert "neither text nor a number" in problems["e"]
    assert problems["f"] == ""
    assert values(found)["list"] == ("$(a)",)  # lists are taken as they stand
    assert "list: $(…) is not replaced" in found.warnings[0]


def test_imports_are_relative_to_their_file_and_take_the_group_they_stand_in(read, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one.conf").write_text('x = "one"\nimport "two.conf"')
    (tmp_path / "sub" / "two.conf").write_text('y = "$(x) two"')
    found = read('folder = "sub"\ng {\n import "$(folder)/one.conf"\n}\nz = 1')
    assert values(found) == {"folder": "sub", "g.x": "one", "g.y": "one two", "z": 1}


def test_an_import_that_fails_is_told_and_the_rest_goes_on(read):
    found = read(
        'import "main.conf"\nimport "gone.conf"\nimport "wrong.conf"\nimport "\\u0000"\nimport "$(no)"\na = 1',
        wrong="b = 2\nc =",
    )
    assert values(found) == {"a": 1}
    words = ["imports itself", "found none", "wrong.conf:2:4: expected a value", "null", "refers to 'no'"]
    assert len(found.problems) == len(words)
    for problem, expected in zip(found.problems, words, strict=True):
        assert expected in problem


def test_imports_and_variables_cannot_be_made_to_fill_the_memory(read):
    bombs = {f"b{n}": f'import "b{n + 1}.conf"\nimport "b{n + 1}.conf"' for n in range(30)}
    found = read('import "b0.conf"\na = 1', **bombs, b30="")
    assert any("more than 100 files" in problem for problem in found.problems)
    assert values(found) == {"a": 1}
    doubling = 'v0 = "xxxxxxxxxx"\n' + "\n".join(f'v{n + 1} = "$(v{n})$(v{n})"' for n in range(40))
    found = read(doubling)
    assert any("more than 1000000 characters" in setting.problem for setting in found.values.values())


# What a file says of instruments


def test_a_block_becomes_an_instrument(read):
    (instrument,) = interpret(read(ONE)).instruments
    assert instrument.name == "Skyra"
    assert instrument.instrument == (("Manufacturer", "SIEMENS"), ("ManufacturerModelName", "Skyra"))
    assert (instrument.experiment_title, instrument.dataset_title) == (("PatientID",), ("SeriesDescription",))
    assert instrument.schema_file == "http://example.edu/schema/3"
    assert instrument.default_operators == ("operator.one@example.edu",)
    assert instrument.default_institutional_address == "1 Example Road"
    assert interpret(read(ONE)).notes == ()


def test_settings_of_the_top_are_named_as_ignored_and_no_value_is_told(read):
    conf = interpret(
        read(
            'user = "admin"\npass = "hunter2"\northanc_host = "http://me:hunter2@localhost"\ncolour = "hunter2"\n'
            + ONE
        )
    )
    ignored = texts(conf, Severity.IGNORED)
    assert [text.partition("main.conf:")[2].split(":")[2].strip() for text in ignored] == [
        "user",
        "pass",
        "orthanc_host",
        "colour",
    ]
    assert "needs no password" in ignored[1]
    assert "there is no such setting" in ignored[3]
    assert not any("hunter2" in text for text in ignored)
    assert conf.user == "admin"


def test_a_bruker_block_is_left_out_and_the_next_is_not(read):
    bruker = 'Bruker1 {\n top_level_directory = "/mounts/incoming"\n subdirectory = "nmr"\n}\n'
    conf = interpret(read(ONE.replace('["Skyra"]', '["Bruker1", "Skyra"]') + bruker))
    assert [one.name for one in conf.instruments] == ["Skyra"]
    (text,) = [text for text in texts(conf, Severity.IGNORED) if "Bruker" in text]
    assert "Bruker1: is a Bruker block" in text
    assert "add a folder source" in text
    assert texts(conf, Severity.LEFT_OUT) == []


def test_listed_without_block_and_block_not_listed_are_told(read):
    conf = interpret(read(ONE.replace('["Skyra"]', '["Skyra", "Skyrra", "Skyra"]') + "Old { a = 1 }"))
    assert [one.name for one in conf.instruments] == ["Skyra"]
    absent, unlisted = texts(conf, Severity.LEFT_OUT)
    assert "Skyrra: is listed in `instruments` and has no block; did you mean 'Skyra'?" in absent
    assert "Old: the block is not named in the list" in unlisted
    assert "listed twice" in texts(conf, Severity.WARNING)[0]


@pytest.mark.parametrize("name", ["", "A\\u0000", "\\u001b[2JA"])
def test_an_entry_of_the_list_that_no_terminal_could_show_is_told_without_it(read, name):
    conf = interpret(read(f'instruments = ["{name}"]'))
    (text,) = texts(conf, Severity.LEFT_OUT)
    assert "instruments: an entry is not a name in quotes" in text
    assert text.isprintable()


def test_without_the_list_of_instruments_it_is_told_what_to_add(read):
    conf = interpret(read(ONE.replace("instruments =", "instrumentes =")))
    assert conf.instruments == ()
    assert 'add instruments = ["Skyra"]' in texts(conf, Severity.LEFT_OUT)[0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [('"Skyra"', "expected a list"), ("on", "expected a list"), ('["Skyra", 3]', "an entry is not a name")],
)
def test_a_list_of_instruments_that_is_none_is_told(read, wrong, said):
    assert said in texts(interpret(read(ONE.replace('["Skyra"]', wrong))), Severity.LEFT_OUT)[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"PatientID"', '"PatientsID"', "'PatientsID' is not a DICOM field; did you mean PatientID?"),
        ('["Manufacturer", "SIEMENS"]', '["Manufactorer", "SIEMENS"]', "did you mean Manufacturer?"),
        ('["Manufacturer", "SIEMENS"]', '["Manufacturer"]', "expected pairs"),
        ('["Manufacturer", "SIEMENS"]', '["SeriesNumber", 3]', "expected pairs"),
        ('[ "PatientID" ]', "[]", "at least one DICOM field"),
        ('[ "PatientID" ]', '"PatientID"', "expected a list of texts"),
        ('"University of Example"', "3", "expected text in double quotes"),
        ('"University of Example"', r'"\u0000"', "contains a control character"),
        ('"University of Example"', '"$(nothing)"', "Skyra.default_institution_name: refers to 'nothing'"),
        ('    schema_file       = "http://example.edu/schema/3"\n', "", "Skyra: lacks schema_file"),
        ("dataset_title ", "dataset_titel ", "Skyra: lacks dataset_title"),
    ],
)
def test_a_mistake_in_one_block_is_told_and_leaves_out_that_block_alone(read, old, new, said):
    assert old in ONE
    other = ONE.split("]\n", 1)[1].replace("Skyra\n{", "Other\n{").replace('"Skyra"]', '"Other"]')
    text = ONE.replace('["Skyra"]', '["Skyra", "Other"]').replace(old, new)
    conf = interpret(read(text + other))
    assert [one.name for one in conf.instruments] == ["Other"]
    (left_out,) = texts(conf, Severity.LEFT_OUT)
    assert said in left_out


def test_a_misspelt_optional_key_is_told_with_the_right_one(read):
    conf = interpret(read(ONE.replace("default_operators", "default_operator")))
    unknown, absent = texts(conf, Severity.WARNING)
    assert "unknown key; did you mean default_operators?" in unknown
    assert "lacks default_operators" in absent
    assert conf.instruments[0].default_operators is None


# Whatever is in a file

names = st.from_regex(r"[A-Za-zÀ-ÿ][A-Za-z0-9_-]{0,8}", fullmatch=True).filter(
    lambda name: name != "import" and name[0].isalpha()
)
strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
plain = strings | st.booleans() | st.integers(-(10**9), 10**9).map(Decimal)
any_value = st.recursive(plain, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
directive = st.deferred(lambda: bindings | imports | groups)
bindings = st.tuples(st.just("bind"), names, any_value)
imports = st.tuples(st.just("import"), strings)
groups = st.tuples(st.just("group"), names, st.lists(directive, max_size=3))


def written(value) -> str:
    if isinstance(value, tuple):
        return "[ " + " ,\n".join(written(item) for item in value) + "]"
    if isinstance(value, bool):
        return "on" if value else "false"
    return quoted(value) if isinstance(value, str) else str(value)


def as_text(body) -> str:
    lines = []
    for kind, *rest in body:
        if kind == "bind":
            lines.append(f"{rest[0]} = {written(rest[1])} # a comment")
        elif kind == "import":
            lines.append(f"import {quoted(rest[0])}")
        else:
            lines.append(f"{rest[0]}\n{{\n{as_text(rest[1])}\n}}")
    return "\n".join(lines)


def as_tuples(directives):
    found = []
    for one in directives:
        if isinstance(one, Binding):
            found.append(("bind", one.name, one.value))
        elif isinstance(one, Import):
            found.append(("import", one.file))
        elif isinstance(one, Group):
            found.append(("group", one.name, as_tuples(one.body)))
    return found


@settings(deadline=None)
@given(st.lists(directive, max_size=5))
def test_what_is_written_is_read_again(body):
    assert as_tuples(parse(as_text(body), "f")) == body


def read_all(path: Path) -> None:
    with contextlib.suppress(ConfError):
        interpret(load(path, {"HOME": "/home"}))


fragments = st.sampled_from(
    [
        *'{}[]="\\#,$()\n\r\t .-+0e9',
        "import ",
        "on",
        "$(a)",
        "instruments",
        '["A"]',
        "A {",
        "instrument = ",
        '"\\u',
        "\ufeff",
        "\0",
    ]
)


@settings(deadline=None)
@given(st.text(max_size=60) | st.lists(fragments | st.sampled_from(["a", "b = 1\n", 'x="'])).map("".join))
def test_garbage_raises_nothing_but_its_own_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "garbage.conf"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    read_all(path)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_text_raise_nothing_but_the_same_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "garbage.conf"
    path.write_bytes(content)
    read_all(path)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_file_raises_nothing_but_the_same_error(tmp_path_factory, data):
    cut = data.draw(st.integers(0, len(ONE)))
    path = tmp_path_factory.getbasetemp() / "damaged.conf"
    path.write_text(
        ONE[:cut] + data.draw(st.text(max_size=3)) + ONE[cut + data.draw(st.integers(0, 3)) :],
        newline="",
        errors="surrogatepass",
    )
    read_all(path)
