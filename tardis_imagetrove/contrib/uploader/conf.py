"""Reads ``imagetrove_uploader.conf``: the syntax of the old uploader's files, and what they say of instruments (pure).

The syntax is that of the Haskell package *configurator*, which the old uploader read its files
with: ``name = value``, groups in braces, lists, comments from ``#``, ``$(name)`` in text, and
``import "file"``. What its parser accepts is accepted here with the same meaning; what it
refuses is refused, with the place and what was expected there. No error and no warning ever
repeats a value, since the files hold passwords.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from enum import Enum
from pathlib import Path

from ...errors import PermanentError
from ...formats.dicom.fields import UnknownField, parse_field

#: Limits that no honest file comes near: lists and groups in one another, characters that all
#: texts together may gain by ``$(…)``, bytes of a file, files by ``import``, a number's exponent.
MAX_DEPTH = 64
MAX_TEXT = 1_000_000
MAX_FILE_BYTES = 4_000_000
MAX_FILES = 100
MAX_EXPONENT = 300

Value = str | Decimal | bool | tuple["Value", ...]


@dataclass(frozen=True)
class Place:
    """Where something stands: file, and line and column from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class ConfError(PermanentError):
    """The file is not in the syntax, or cannot be read; the text says where and what was expected."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(f"{place}: {text}")
        self.place = place
        self.text = text


# Syntax


@dataclass(frozen=True)
class Binding:
    """``name = value``."""

    name: str
    value: Value
    place: Place


@dataclass(frozen=True)
class Group:
    """``name { … }``."""

    name: str
    body: tuple[Directive, ...]
    place: Place


@dataclass(frozen=True)
class Import:
    """``import "file"``."""

    file: str
    place: Place


Directive = Binding | Group | Import

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[\w-]*")
_PLAIN = re.compile(r'[^"\\]*')
_COMMENT = re.compile(r"#[^\r\n]*")
_LINE_END = re.compile(r"\r\n|\r|\n")
_WORDS: dict[str, bool] = {"on": True, "true": True, "off": False, "false": False}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_A_VALUE = 'a value ("text" in double quotes, a number, on, off, true, false, or a [list])'


def parse(text: str, file: str) -> tuple[Directive, ...]:
    """The directives of a file's text.

    Args:
        file: its name, for the words of errors.

    Raises:
        ConfError: it is not in the syntax.
    """
    return _Parser(text, file).file()


class _Parser:
    """Recursive descent over ``text``; ``at`` is the index of the next character."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.name = text.removeprefix("\ufeff"), file  # editors on Windows begin files with it
        self.at = 0
        self.lines = [0, *(end.end() for end in _LINE_END.finditer(self.text))]

    def file(self) -> tuple[Directive, ...]:
        body = self.directives(0)
        if self.at < len(self.text):
            raise self.unexpected("a setting (name = value), a group (name { … }) or an import")
        return body

    # Places and errors

    def place(self, at: int | None = None) -> Place:
        at = self.at if at is None else at
        line = bisect_right(self.lines, at)
        return Place(self.name, line, at - self.lines[line - 1] + 1)

    def unexpected(self, expected: str) -> ConfError:
        return ConfError(self.place(), f"expected {expected}, found {self.found()}")

    def found(self) -> str:
        """What stands here, in words that give no value away."""
        if self.at >= len(self.text):
            return "the end of the file"
        character = self.text[self.at]
        if character in "\r\n":
            return "the end of the line"
        if character.isalpha():
            return "a word without quotes"
        if character.isdigit():
            return "a number"
        if character.isspace():
            return "a space"
        return repr(character) if character.isprintable() else f"the character U+{ord(character):04X}"

    # What is skipped

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def skip(self, spaces: str | None) -> None:
        """Skip comments, and ``spaces`` or, for None, any white space and line ends."""
        while character := self.peek():
            if comment := _COMMENT.match(self.text, self.at):
                self.at = comment.end()
            elif character in spaces if spaces is not None else character.isspace():
                self.at += 1
            else:
                return

    # Directives

    def directives(self, depth: int) -> tuple[Directive, ...]:
        if depth > MAX_DEPTH:
            raise ConfError(self.place(), f"groups are nested deeper than {MAX_DEPTH}")
        body: list[Directive] = []
        self.skip(None)
        while self.peek() not in ("", "}"):
            body.append(self.directive(depth))
            self.skip(" \t")
            if self.peek() not in ("", "}", "\r", "\n"):
                raise self.unexpected("the end of the line after a setting")
            self.skip(None)
        return tuple(body)

    def directive(self, depth: int) -> Directive:
        start = self.at
        if self.text.startswith("import", start):
            self.at += len("import")
            self.skip(None)
            if self.peek() == '"':
                return Import(self.string(), self.place(start))
            self.at = start
        if not self.peek().isalpha():
            raise self.unexpected("a name, which begins with a letter")
        name = self.word()
        place = self.place(start)
        self.skip(None)
        if name == "import":
            raise self.unexpected('the name of a file in double quotes after "import"')
        if self.peek() == "=":
            self.at += 1
            self.skip(None)
            return Binding(name, self.value(0), place)
        if self.peek() == "{":
            opening = self.place()
            self.at += 1
            body = self.directives(depth + 1)
            if self.peek() != "}":
                raise self.unexpected(f"a }} that closes the group {name!r} of line {opening.line}")
            self.at += 1
            return Group(name, body, place)
        raise self.unexpected("= or { after the name")  # which may be a stray password

    def word(self) -> str:
        found = _WORD.match(self.text, self.at)
        assert found is not None  # it may be empty, so it matches anywhere
        self.at = found.end()
        return found[0]

    # Values

    def value(self, depth: int) -> Value:
        character = self.peek()
        if character == '"':
            return self.string()
        if character == "[":
            return self.list(depth + 1)
        if number := _NUMBER.match(self.text, self.at):
            exponent = number[2] or "e0"
            if len(exponent) > 9 or abs(int(exponent[1:])) > MAX_EXPONENT:
                raise self.unexpected(f"a number with an exponent up to {MAX_EXPONENT}")
            self.at = number.end()
            return Decimal(number[0])
        start = self.at
        word = self.word() if character.isalpha() else ""
        if word not in _WORDS:
            self.at = start
            raise self.unexpected(_A_VALUE)
        return _WORDS[word]

    def list(self, depth: int) -> tuple[Value, ...]:
        if depth > MAX_DEPTH:
            raise ConfError(self.place(), f"lists are nested deeper than {MAX_DEPTH}")
        opening = self.place()
        self.at += 1
        items: list[Value] = []
        self.skip(None)
        if self.peek() != "]":
            while True:
                items.append(self.value(depth))
                self.skip(None)
                if self.peek() != ",":
                    break
                self.at += 1
                self.skip(None)
        if self.peek() != "]":
            raise self.unexpected(f", or ] in the list of line {opening.line}")
        self.at += 1
        return tuple(items)

    def string(self) -> str:
        opening = self.place()
        self.at += 1
        parts: list[str] = []
        while True:
            plain = _PLAIN.match(self.text, self.at)
            assert plain is not None  # it may be empty, so it matches anywhere
            parts.append(plain[0])
            self.at = plain.end()
            if self.peek() == "":
                raise ConfError(opening, 'expected a " that closes the text that begins here, found none')
            if self.peek() == '"':
                self.at += 1
                return "".join(parts)
            parts.append(self.escape())

    def escape(self) -> str:
        place = self.place()
        kind = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        if kind != "u":
            raise ConfError(place, r"expected one of \n \t \r \" \\ \uXXXX, found another escape")
        first = self.four_digits(place)
        if not 0xD800 <= first <= 0xDFFF:
            return chr(first)
        if self.text.startswith("\\u", self.at):
            self.at += 2
            second = self.four_digits(place)
            if first <= 0xDBFF and 0xDC00 <= second <= 0xDFFF:
                return chr(((first - 0xD800) << 10) + (second - 0xDC00) + 0x10000)
        raise ConfError(place, "expected a pair of UTF-16 surrogates, found half of one")

    def four_digits(self, place: Place) -> int:
        digits = self.text[self.at : self.at + 4]
        if not re.fullmatch(r"[0-9A-Fa-f]{4}", digits):
            raise ConfError(place, r"expected four hexadecimal digits after \u")
        self.at += 4
        return int(digits, 16)


def quoted(text: str) -> str:
    """``text`` as the syntax writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'


# Settings: groups unfolded, imports followed, $(names) replaced


@dataclass(frozen=True)
class Setting:
    """What a name stands for; ``problem`` says why it has no value, where it has none."""

    value: Value
    place: Place
    problem: str = ""


@dataclass(frozen=True)
class Settings:
    """All of a file and its imports.

    Attributes:
        values: by dotted name (``Skyra.dataset_title``), as the uploader looked them up.
        groups: dotted names of the groups, and where each begins.
        warnings: what is doubtful.
        problems: what could not be read, beside which the rest stands.
    """

    values: Mapping[str, Setting]
    groups: Mapping[str, Place]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read a file, with what it imports.

    Args:
        environ: the variables that ``$(NAME)`` falls back on.

    Raises:
        ConfError: the file itself cannot be read or is not in the syntax. What it imports may
            fail without stopping the rest.
    """
    loader = _Loader(environ)
    loader.follow(parse(_read(path, Place(str(path), 1, 1)), str(path)), "", path, (_identity(path),))
    return Settings(loader.values, loader.groups, tuple(loader.warnings), tuple(loader.problems))


def _identity(path: Path) -> str:
    return os.path.realpath(path)


def _read(path: Path, place: Place) -> str:
    try:
        if not path.is_file():
            raise ConfError(place, f"expected a file, found none at {path}")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfError(place, f"{path} cannot be read: {reason}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfError(place, f"{path} is larger than {MAX_FILE_BYTES} bytes: no configuration")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode("utf-8")) + 1
        raise ConfError(
            Place(str(path), line, column), "expected text in UTF-8, found other bytes"
        ) from error


class _Loader:
    """Unfolds directives into :class:`Settings`, from first to last, as *configurator* does."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.values: dict[str, Setting] = {}
        self.groups: dict[str, Place] = {}
        self.warnings: list[str] = []
        self.problems: list[str] = []
        self.files = 1
        self.gained = 0

    def follow(
        self, body: tuple[Directive, ...], prefix: str, path: Path, open_files: tuple[str, ...]
    ) -> None:
        for directive in body:
            if isinstance(directive, Binding):
                self.bind(directive, prefix)
            elif isinstance(directive, Group):
                name = prefix + directive.name
                self.groups.setdefault(name, directive.place)
                self.follow(directive.body, f"{name}.", path, open_files)
            else:
                try:
                    self.include(directive, prefix, path, open_files)
                except ConfError as error:
                    self.problems.append(str(error))

    def bind(self, binding: Binding, prefix: str) -> None:
        name, value, problem = prefix + binding.name, binding.value, ""
        if isinstance(value, str):
            try:
                value = self.interpolate(value, prefix, binding.place)
            except ConfError as error:
                value, problem = "", f"{error.place}: {name}: {error.text}"
        elif _mentions_a_variable(value):
            self.warnings.append(f"{binding.place}: {name}: $(…) is not replaced within a list")
        former = self.values.get(name)
        if former is not None:
            where = f"line {former.place.line}"
            if former.place.file != binding.place.file:
                where += f" of {former.place.file}"
            self.warnings.append(
                f"{binding.place}: {name} is set again: this one counts, not that of {where}"
            )
        self.values[name] = Setting(value, binding.place, problem)

    def include(self, directive: Import, prefix: str, path: Path, open_files: tuple[str, ...]) -> None:
        place = directive.place
        target = path.parent / self.interpolate(directive.file, "", place)
        self.files += 1
        if self.files > MAX_FILES:
            raise ConfError(place, f"imports more than {MAX_FILES} files")
        try:
            identity = _identity(target)
        except ValueError as error:
            raise ConfError(place, f"expected the name of a file, found {error}") from error
        if identity in open_files:
            raise ConfError(place, f"{target} imports itself")
        body = parse(_read(target, place), str(target))
        self.follow(body, prefix, target, (*open_files, identity))

    def interpolate(self, text: str, prefix: str, place: Place) -> str:
        """``text`` with ``$(name)`` replaced and ``$$`` made ``$``."""
        parts: list[str] = []
        position = 0
        while (dollar := text.find("$", position)) >= 0:
            parts.append(text[position:dollar])
            kind = text[dollar + 1 : dollar + 2]
            if kind == "$":
                parts.append("$")
                position = dollar + 2
            elif kind == "(":
                end = text.find(")", dollar)
                if end <= dollar + 2:
                    raise ConfError(place, "expected a name and a ) after $( in the text")
                parts.append(self.variable(text[dollar + 2 : end], prefix, place))
                position = end + 1
            else:
                raise ConfError(
                    place, "expected $(name), or $$ for a dollar sign, found a $ alone in the text"
                )
            self.gained += len(parts[-1])
            if self.gained > MAX_TEXT:
                raise ConfError(place, f"what $(…) refers to makes more than {MAX_TEXT} characters")
        return "".join([*parts, text[position:]])

    def variable(self, name: str, prefix: str, place: Place) -> str:
        """The nearest setting of that name from the group outwards, else the environment's."""
        groups = prefix.split(".")[:-1]
        for depth in range(len(groups), -1, -1):
            found = self.values.get(".".join([*groups[:depth], name]))
            if found is None:
                continue
            if found.problem:
                raise ConfError(place, f"refers to {name!r}, which has no value")
            if isinstance(found.value, str):
                return found.value
            if isinstance(found.value, Decimal):
                whole = found.value == found.value.to_integral_value()
                return f"{found.value:.0f}" if whole else f"{found.value.normalize():f}"
            raise ConfError(place, f"refers to {name!r}, which is neither text nor a number")
        if name in self.environ:
            return self.environ[name]
        raise ConfError(place, f"refers to {name!r}, which is not defined above or in the environment")


def _mentions_a_variable(value: Value) -> bool:
    if isinstance(value, tuple):
        return any(_mentions_a_variable(item) for item in value)
    return isinstance(value, str) and "$(" in value


# What it says of instruments


@dataclass(frozen=True)
class UploaderInstrument:
    """One instrument's block; None is what the block does not say.

    Attributes:
        place: where the block begins.
        places: where each of its settings stands, by its key.
    """

    name: str
    place: Place
    places: Mapping[str, Place]
    instrument: tuple[tuple[str, str], ...]
    experiment_title: tuple[str, ...]
    dataset_title: tuple[str, ...]
    schema_experiment: str
    schema_dataset: str
    schema_file: str
    default_institution_name: str | None = None
    default_institutional_department_name: str | None = None
    default_institutional_address: str | None = None
    default_operators: tuple[str, ...] | None = None


class Severity(Enum):
    """What a note means for the import."""

    LEFT_OUT = "left out"  # something was not imported
    WARNING = "warning"  # doubtful, and imported
    IGNORED = "ignored"  # nothing here corresponds to it


@dataclass(frozen=True)
class Note:
    """Something to tell the operator."""

    severity: Severity
    text: str


@dataclass(frozen=True)
class UploaderConf:
    """What a file says that still has a meaning, and notes on all that has none.

    Attributes:
        user: the MyTARDIS account that the uploader worked as, which owned what it made.
    """

    instruments: tuple[UploaderInstrument, ...]
    notes: tuple[Note, ...]
    user: str = ""


_NO_LONGER = {
    "user": "the app works within MyTARDIS; an account of this name owns new instruments' experiments"
    " unless --owner names another",
    "pass": "the app works within MyTARDIS and needs no password: delete it from the file if you keep that",
    "orthanc_host": "instruments send to imagetrove_scp directly; Orthanc is not needed",
    "mytardis_directory": "files go through MyTARDIS's storage boxes: choose one in the instrument's configuration",
    "temp_directory": "IMAGETROVE['SCRATCH'] names the folder for conversions",
    "tmp": "IMAGETROVE['SCRATCH'] names the folder for conversions",
    "processed_directory": "received files wait in IMAGETROVE['SPOOL'] and leave it once they are archived",
    "logfile": "messages go through Django's LOGGING",
    "prefix": "nothing is uploaded over MyTARDIS's API",
}
_TEXTS = (
    "schema_experiment",
    "schema_dataset",
    "schema_file",
    "default_institution_name",
    "default_institutional_department_name",
    "default_institutional_address",
)
_REQUIRED = (
    "instrument",
    "experiment_title",
    "dataset_title",
    "schema_experiment",
    "schema_dataset",
    "schema_file",
)
_KEYS = (*_REQUIRED, *_TEXTS[3:], "default_operators")
_FOLDERS = ("top_level_directory", "subdirectory", "processed_directory", "temp_directory")


def interpret(settings: Settings) -> UploaderConf:
    """What the settings say of instruments; what is wrong with one of them leaves out that one."""
    notes = [Note(Severity.LEFT_OUT, text) for text in settings.problems]
    notes += [Note(Severity.WARNING, text) for text in settings.warnings]
    listed, list_notes = _listed(settings)
    notes += list_notes

    instruments = []
    for name in listed:
        found, block_notes = _instrument(settings, name)
        notes += block_notes
        if found is not None:
            instruments.append(found)
    for name, place in settings.groups.items():
        if name not in listed and not any(
            one.startswith(f"{name}.") or name.startswith(f"{one}.") for one in listed
        ):
            notes.append(
                Note(
                    Severity.LEFT_OUT,
                    f"{place}: {name}: the block is not named in the list `instruments`, so the uploader did not use it",
                )
            )
    for name, setting in settings.values.items():
        if "." not in name and name != "instruments":
            why = _NO_LONGER.get(name, "there is no such setting")
            notes.append(Note(Severity.IGNORED, f"{setting.place}: {name}: {why}"))
    user = settings.values.get("user")
    return UploaderConf(
        tuple(instruments), tuple(notes), user.value if user and isinstance(user.value, str) else ""
    )


def _listed(settings: Settings) -> tuple[list[str], list[Note]]:
    """The names in ``instruments``, each once."""
    setting = settings.values.get("instruments")
    if setting is None:
        blocks = ", ".join(quoted(name) for name in settings.groups if "." not in name)
        return [], [
            Note(
                Severity.LEFT_OUT,
                "there is no list `instruments`, without which no block is used"
                + (f": add instruments = [{blocks}]" if blocks else ""),
            )
        ]
    if not isinstance(setting.value, tuple):
        return [], [
            Note(Severity.LEFT_OUT, f'{setting.place}: instruments: expected a list of names ["A", "B"]')
        ]
    names, notes = [], []
    for item in setting.value:
        if not isinstance(item, str) or not item or not item.isprintable():
            notes.append(
                Note(Severity.LEFT_OUT, f"{setting.place}: instruments: an entry is not a name in quotes")
            )
        elif item in names:
            notes.append(Note(Severity.WARNING, f"{setting.place}: instruments: {item!r} is listed twice"))
        else:
            names.append(item)
    return names, notes


def _instrument(settings: Settings, name: str) -> tuple[UploaderInstrument | None, list[Note]]:
    own = {
        key.removeprefix(f"{name}."): setting
        for key, setting in settings.values.items()
        if key.startswith(f"{name}.")
    }
    place = settings.groups.get(name)
    if place is None:
        listed = settings.values["instruments"].place
        near = get_close_matches(name, settings.groups, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        text = f"{listed}: {name}: is listed in `instruments` and has no block{hint}"
        return None, [Note(Severity.LEFT_OUT, text)]
    if "instrument" not in own and "top_level_directory" in own:
        text = (
            f"{place}: {name}: is a Bruker block, whose data the uploader read from a folder"
            " (top_level_directory). It is not imported: add a folder source for that folder in admin,"
            " with the format Bruker ParaVision, and its instrument"
        )
        return None, [Note(Severity.IGNORED, text)]
    problems: list[str] = []
    notes: list[Note] = []
    missing = [key for key in _REQUIRED if key not in own]
    if missing:
        problems.append(f"{place}: {name}: lacks {', '.join(missing)}")
    known: dict[str, object] = {}
    for key, setting in own.items():
        where = f"{setting.place}: {name}.{key}"
        if key not in _KEYS:
            notes.append(Note(*_unknown_key(key, where)))
            continue
        if setting.problem:
            problems.append(setting.problem)
            continue
        try:
            known[key] = _checked(key, setting.value)
        except PermanentError as error:
            problems.append(f"{where}: {error}")
    if problems:
        return None, [*notes, *(Note(Severity.LEFT_OUT, text) for text in problems)]
    absent = [key for key in _KEYS if key not in own]
    if absent:
        notes.append(Note(Severity.WARNING, f"{place}: {name}: lacks {', '.join(absent)}"))
    places = {key: own[key].place for key in known}
    return UploaderInstrument(name=name, place=place, places=places, **known), notes  # type: ignore[arg-type]


def _unknown_key(key: str, where: str) -> tuple[Severity, str]:
    if key in _FOLDERS:
        return Severity.IGNORED, f"{where}: folders are configured as folder sources in admin"
    near = get_close_matches(key, _KEYS, 1)
    return Severity.WARNING, f"{where}: unknown key" + (f"; did you mean {near[0]}?" if near else "")


def _checked(key: str, value: Value) -> object:
    """The value of a block's key, in the type that :class:`UploaderInstrument` has it in.

    Raises:
        PermanentError: it is of another kind, or names no DICOM field.
    """
    if key in _TEXTS:
        if not isinstance(value, str):
            raise PermanentError("expected text in double quotes")
        return _printable(value)
    if key == "instrument":
        if not isinstance(value, tuple) or not value:
            raise PermanentError('expected a list of pairs [["Manufacturer", "SIEMENS"]]')
        return tuple(_pair(item) for item in value)
    if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
        raise PermanentError('expected a list of texts ["…", "…"]')
    if key == "default_operators":
        return tuple(_printable(item) for item in value)
    if not value:
        raise PermanentError("expected at least one DICOM field")
    return tuple(_field(item) for item in value)


def _pair(item: Value) -> tuple[str, str]:
    if not isinstance(item, tuple) or len(item) != 2 or not all(isinstance(part, str) for part in item):
        raise PermanentError('expected pairs of a DICOM field and a value ["Manufacturer", "SIEMENS"]')
    return _field(item[0]), _printable(item[1])


def _field(name: str) -> str:
    try:
        parse_field(name)
    except UnknownField as error:
        raise PermanentError(str(error)) from error
    return name.strip()


def _printable(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise PermanentError("contains a control character")
    return text
