"""DICOM fields: how a configuration names one, and its value as text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from pydicom.datadict import keyword_dict, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

from ...errors import PermanentError
from ..base import Fields

_TAG = re.compile(r"\(?\s*([0-9A-Fa-f]{4})\s*,?\s*([0-9A-Fa-f]{4})\s*\)?\Z")

_TEXT_VRS = {"LO", "SH", "PN", "LT", "ST", "UT", "UC"}


class UnknownField(PermanentError):
    """A configuration names a field that is neither a DICOM keyword nor a tag."""


def parse_field(text: str) -> BaseTag:
    """The tag of a field: a DICOM keyword (PS3.6), or a tag such as ``(0019,100a)``.

    Raises:
        UnknownField: neither.
    """
    name = text.strip()
    tag = tag_for_keyword(name)
    if name and tag is not None:
        return Tag(tag)
    if match := _TAG.match(name):
        return Tag(int(match[1], 16), int(match[2], 16))
    by_letters = {word.lower(): word for word in keyword_dict if word}
    near = [by_letters[word] for word in get_close_matches(name.lower().replace(" ", ""), by_letters, 1, 0.8)]
    hint = f"; did you mean {near[0]}?" if near else "; use a DICOM keyword, or a tag as (0019,100a)"
    raise UnknownField(f"{text!r} is not a DICOM field{hint}")


def is_keyword(name: str) -> bool:
    """Whether DICOM has an attribute of this keyword (PS3.6)."""
    return tag_for_keyword(name) is not None


def is_foreign(field: str) -> bool:
    """Whether a field is another format's, which DICOM has no name for: ``paravision:NAME``, ``path:NAME``."""
    return ":" in field


def field_text(header: Dataset, field: str) -> str:
    """A field's value as text, without padding; empty when it is absent or empty, or another format's.

    Several values are joined by a backslash, as DICOM itself writes them.
    """
    element = None if is_foreign(field) else decoded(header, parse_field(field))
    if element is None or element.value is None:
        return ""
    value = element.value
    values = value if isinstance(value, (MultiValue, list, tuple)) else [value]
    return "\\".join(_one_text(item) for item in values).strip()


def fields_of(header: Dataset, names: Iterable[str]) -> Fields:
    """The values of several fields as text, by the names that they were asked for by."""
    return {name: field_text(header, name) for name in names}


def _one_text(value: object) -> str:
    return without_padding(value.decode("latin-1") if isinstance(value, bytes) else str(value))


def without_padding(text: str) -> str:
    """One value's text as it is shown."""
    text = text.replace("\0", "")  # PostgreSQL cannot store it
    # Empty components at the end of a person's name carry no meaning (PS3.5 section 6.2).
    return text.strip(" \r\n\t").rstrip("^")


def decoded(header: Dataset, tag: BaseTag) -> DataElement | None:
    """A decoded element, ``None`` if it is absent; text outside the file's character set is read as Latin-1.

    Otherwise each of its bytes would become U+FFFD, and two patients would have one name.
    """
    if tag not in header:
        return None
    raw = header.get_item(tag)
    element = header[tag]
    undecoded = raw.value if isinstance(raw, RawDataElement) else None
    if element.VR in _TEXT_VRS and undecoded and "\ufffd" in str(element.value):
        element = header[tag] = DataElement(tag, element.VR, undecoded.decode("latin-1"))
    return element
