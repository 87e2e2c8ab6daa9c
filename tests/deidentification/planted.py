"""Instances with something identifying in every place that can hold it, and a search for all of it."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

ROWS = list(csv.DictReader(Path(__file__).with_name("table_e1_1.csv").open()))
#: Attributes that libraries newer than that edition of the table have in addition.
NEWER = (0x0040B034, 0x0040E012, 0x00102161, 0x00100044, 0x00100011, 0x00100012, 0x00700006)


class Planted:
    """Gives out values that are found nowhere else, and remembers them with where they were put."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._count = 0

    def value(self, vr: str, where: str) -> object:
        """A new value of a VR; None if no value of it could be recognised again."""
        self._count += 1
        n = self._count
        if vr in ("LO", "SH", "LT", "ST", "UT", "UC", "CS", "AE", "UR", "UN", "OB", "OW"):
            text = f"ZQSECRET{n:05d}X"
            self.values[text] = where
            return text.encode() if vr in ("UN", "OB", "OW") else text
        if vr == "PN":
            self.values[f"Zqfamily{n:05d}x"] = self.values[f"Zqgiven{n:05d}x"] = where
            return f"Zqfamily{n:05d}x^Zqgiven{n:05d}x"
        if vr in ("DA", "DT"):
            # Further apart than dates are moved, so that none is moved to where another was.
            day = (date(1000, 1, 1) + timedelta(days=3700 * (n % 880))).strftime("%Y%m%d")
            # The same one in several places, then.
            self.values[day] = f"{self.values[day]}; {where}" if day in self.values else where
            if vr == "DA":
                return day
            clock = f"131717.{n:06d}"
            self.values[clock] = where
            return day + clock
        if vr == "TM":
            self.values[f"131719.{n:06d}"] = where
            return f"131719.{n:06d}"
        if vr == "UI":
            self.values[f"1.2.826.0.1.77777.{n}.5"] = where
            return f"1.2.826.0.1.77777.{n}.5"
        if vr in ("IS", "DS"):
            self.values[f"77{n:05d}77"] = where
            return f"77{n:05d}77"
        if vr == "AS":
            return "087Y"
        return None


def plant(dataset: Dataset, planted: Planted, depth: int = 0) -> None:
    """Put a value into every attribute of the table, nested ones too, and into private ones."""
    for tag in [*(Tag(int(row["tag"], 16)) for row in ROWS), *map(Tag, NEWER)]:
        if tag.group in (0x0000, 0x0002):
            continue
        vr = dictionary_VR(tag).split(" ")[0] if dictionary_has_tag(tag) else "LO"
        where = f"{tag} at depth {depth}"
        if vr == "SQ":
            item = Dataset()
            if depth == 0:
                _plant_a_little(item, planted, where)
            else:
                item.PatientName = planted.value("PN", where)
            dataset.add_new(tag, "SQ", Sequence([item]))
        elif (value := planted.value(vr, where)) is not None:
            dataset.add_new(tag, vr, value)
    _plant_private(dataset, planted, f"at depth {depth}")


def _plant_a_little(item: Dataset, planted: Planted, where: str) -> None:
    item.PatientName = planted.value("PN", where)
    item.PatientID = planted.value("LO", where)
    item.StudyDate = planted.value("DA", where)
    item.AccessionNumber = planted.value("SH", where)
    item.ReferencedSOPInstanceUID = planted.value("UI", where)
    item.ImageComments = planted.value("LT", where)
    person = Dataset()
    person.PersonName = planted.value("PN", where)
    person.InstitutionName = planted.value("LO", where)
    item.PersonIdentificationCodeSequence = Sequence([person])
    _plant_private(item, planted, where)


def _plant_private(dataset: Dataset, planted: Planted, where: str) -> None:
    block = dataset.private_block(0x0009, planted.value("LO", f"private creator {where}"), create=True)
    block.add_new(0x01, "LO", planted.value("LO", f"private {where}"))
    block.add_new(0x02, "UN", planted.value("UN", f"private {where}"))
    item = Dataset()
    item.PatientName = planted.value("PN", f"private sequence {where}")
    block.add_new(0x03, "SQ", Sequence([item]))
    # In places that a vendor uses for what is safe.
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0D, "CS", planted.value("CS", f"safe place {where}"))
    block.add_new(0x0E, "UN", (planted.value("UN", f"safe place {where}") + b" " * 16)[:16])
    block.add_new(0x0C, "IS", "0")
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", b"SV10\4\3\2\1" + planted.value("OB", f"CSA header {where}"))
    block.add_new(0x20, "OB", planted.value("OB", f"CSA header {where}"))


def plant_file(path: Path, out: Path, planted: Planted, **attributes: object) -> None:
    """A copy of a DICOM file, at ``out``, with planted values everywhere."""
    dataset = pydicom.dcmread(path)
    own = {tag: dataset[tag] for tag in (0x00280103,)}
    plant(dataset, planted)
    kept = Dataset()  # in a sequence that the table does not name, all over again
    plant(kept, planted, depth=1)
    kept.CodeMeaning = "Head"
    dataset.AnatomicRegionSequence = Sequence([kept])
    for element in own.values():
        dataset.add(element)
    dataset.add_new(0x60003000, "OW", planted.value("OW", "overlay"))
    dataset.add_new(0x60004000, "LT", planted.value("LT", "overlay comment"))
    dataset.add_new(0x50000040, "SH", planted.value("SH", "curve"))
    dataset.add_new(0x00380F01, "LO", planted.value("LO", "unknown public attribute"))
    dataset.add_new(0x00180081, "LO", planted.value("LO", "number of another VR"))
    dataset.add_new(0x00180015, "UT", planted.value("LO", "code of another VR"))
    dataset.add_new(0x00089215, "LO", planted.value("LO", "sequence of another VR"))
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.PixelData = dataset.PixelData + planted.value("OW", "behind the pixels")
    dataset.preamble = planted.value("OB", "preamble").ljust(128, b"\0")
    meta = dataset.file_meta
    meta.SourceApplicationEntityTitle = planted.value("AE", "file meta")
    meta.SendingApplicationEntityTitle = planted.value("AE", "file meta")
    meta.PrivateInformationCreatorUID = planted.value("UI", "file meta")
    meta.PrivateInformation = planted.value("OB", "file meta")
    meta.ImplementationVersionName = planted.value("SH", "file meta")
    for keyword, value in attributes.items():
        for replaced in re.split(r"\^", str(dataset.get(keyword, ""))):
            planted.values.pop(replaced, None)
        setattr(dataset, keyword, value)
    # The patient's name where no rule looks for it.
    dataset.SequenceName = str(dataset.PatientName).partition("^")[0][:16]
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(out)


def found_in(content: bytes, values: dict[str, str]) -> dict[str, str]:
    """Those of the values that some form of them is found of, and where they had been put.

    Looked for as they are, in small letters, as UTF-16, and dates with separators, in the bytes themselves and
    in what is packed in them: ZIP, gzip, PNG's compressed chunks.
    """
    texts = [content.decode("latin-1"), content.decode("utf-16-le", "ignore")]
    texts += [part.decode("latin-1") for part in _unpacked(content)]
    everything = "\n".join(texts).casefold()
    # Thousands of values in megabytes: each is looked for where its first letters are.
    near: dict[str, str] = {}
    found = {}
    for value, where in values.items():
        for form in _forms(value):
            start = form[:4]
            if start not in near:
                places = (place.start() for place in re.finditer(re.escape(start), everything))
                near[start] = "\n".join(everything[max(0, place - 6) : place + 80] for place in places)
            if _is_in(form, near[start]):
                found[value] = where
    return found


def _is_in(form: str, text: str) -> bool:
    if not form.isdigit():
        return form in text
    # Not in the midst of a longer number, such as the UIDs made of pseudonyms.
    return form in text and re.search(rf"(?<!\d)(?<!2\.25\.){form}", text) is not None


def _forms(value: str) -> list[str]:
    forms = [value.casefold()]
    if re.fullmatch(r"\d{4}(0[1-9]|1[0-2])\d\d", value):
        year, month, day = value[:4], value[4:6], value[6:]
        forms += [f"{year}{mark}{month}{mark}{day}" for mark in "-./"]
        forms += [f"{day}{mark}{month}{mark}{year}" for mark in "-./"]
    if re.fullmatch(r"1317\d\d\.\d{6}", value):
        forms.append(f"{value[:2]}:{value[2:4]}:{value[4:]}")
    return forms


def _unpacked(content: bytes) -> Iterator[bytes]:
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield "\n".join(archive.namelist()).encode()
            for name in archive.namelist():
                yield archive.read(name)
    elif content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    elif content[:4] == b"\x89PNG":
        place = 8
        while place < len(content):
            length = int.from_bytes(content[place : place + 4], "big")
            kind, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
            if kind in (b"zTXt", b"iTXt", b"iCCP"):
                yield data
                start = data.find(b"\x78")
                if start >= 0:
                    yield zlib.decompress(data[start:])
            place += 12 + length
