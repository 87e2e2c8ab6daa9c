"""Files that are small and cost much: ingest holds their series with the reason, and the watcher never reads them whole."""

from __future__ import annotations

import errno
import struct
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tardis_imagetrove.formats.dicom.fields import field_text
from tardis_imagetrove.ingest import limited
from tardis_imagetrove.ingest.glance import CannotGlance, glance
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Series
from tardis_imagetrove.scp.part10 import file_beginning, read_file_meta

from ..conftest import deliver, phantom, series_uid

MR = "1.2.840.10008.5.1.4.1.1.4"
FIELDS = ("Manufacturer", "StationName", "PatientName", "(0008,0070)", "SeriesDescription")


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def uids(series: str, sop: str = "1.2.3") -> bytes:
    def even(uid: str) -> bytes:
        return uid.encode() + b"\0" * (len(uid) % 2)

    return (
        element(8, 0x16, b"UI", even(MR))
        + element(8, 0x18, b"UI", even(sop))
        + element(0x20, 0x0E, b"UI", even(series))
    )


def long_element(vr: bytes, length: int) -> bytes:
    return struct.pack("<HH2sHI", 0x0021, 0x0010, vr, 0, length)


def deflated(series: str) -> tuple[str, bytes]:
    """300 MiB of zeros in 300 KB, before the pixels."""
    pack = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = pack.compress(uids(series) + long_element(b"OB", 300 << 20))
    for _ in range(300):
        body += pack.compress(bytes(1 << 20))
    return DeflatedExplicitVRLittleEndian, body + pack.flush()


def empty_items(series: str) -> tuple[str, bytes]:
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 1_000_000
    return ExplicitVRLittleEndian, uids(series) + long_element(b"SQ", 0xFFFFFFFF) + items


def nested(series: str) -> tuple[str, bytes]:
    deep = (struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + long_element(b"SQ", 0xFFFFFFFF)) * 10_000
    return ExplicitVRLittleEndian, uids(series) + long_element(b"SQ", 0xFFFFFFFF) + deep


def endless_value(series: str) -> tuple[str, bytes]:
    return ExplicitVRLittleEndian, uids(series) + long_element(b"OB", 0xFFFFFFF0) + bytes(100)


BOMBS = [deflated, empty_items, nested, endless_value]


def spooled(spool, series: str, bomb, sop: str = "1.2.3") -> Path:
    syntax, body = bomb(series)
    with spool.incoming() as incoming:
        incoming.write(file_beginning(MR, sop, syntax))
        incoming.write(body)
        incoming.commit(series, sop)
    return spool.series_root / series / f"{sop}.dcm"


@pytest.fixture
def tight(monkeypatch):
    """Limits that a test reaches in a moment."""
    monkeypatch.setattr(limited, "MEMORY_MIB", 128)
    monkeypatch.setattr(limited, "FILE_CPU_SECONDS", 1.0)


@pytest.mark.parametrize("bomb", [deflated, empty_items, nested])
def test_a_file_that_costs_too_much_holds_its_series_with_the_reason(
    spool, scratch, configuration, tight, bomb
):
    """Whatever it is, it ends within the limits, its series says why, and the file stays."""
    path = spooled(spool, "1.2.99", bomb)
    assert ingest_series(spool, "1.2.99", [], scratch) == []
    series = Series.objects.get(series_uid="1.2.99")
    assert series.state == Series.State.HELD
    assert "1.2.3.dcm" in series.reason or "reading failed" in series.reason
    assert path.exists()


def cut_off(series: str) -> tuple[str, bytes]:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 3
    return ExplicitVRLittleEndian, uids(series) + long_element(b"SQ", 0xFFFFFFFF) + item[:-3]


def test_a_file_that_is_cut_off_in_a_sequence_holds_its_series(spool, scratch, configuration):
    """pydicom raises the error of a disk for it, which would pass; this stays as it is."""
    path = spooled(spool, "1.2.99", cut_off)
    with pytest.raises(OSError) as raised:
        pydicom.dcmread(path, defer_size=None).walk(lambda *_: None)
    assert raised.value.errno is None
    ingest_series(spool, "1.2.99", [], scratch)
    series = Series.objects.get(series_uid="1.2.99")
    assert series.state == Series.State.HELD
    assert "1.2.3.dcm" in series.reason and "damaged" in series.reason


def test_an_error_of_the_disk_is_waited_for(spool, scratch, configuration, monkeypatch, tmp_path):
    files = phantom(tmp_path / "in")
    deliver(spool, *files)

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("tardis_imagetrove.formats.dicom.files.read_attributes", fails)
    ingest_series(spool, series_uid(files[0]), [], scratch)
    assert Series.objects.get().state == Series.State.WAITING


@pytest.mark.parametrize("bomb", [empty_items, cut_off])
def test_the_other_files_of_the_series_are_archived(spool, scratch, configuration, tight, tmp_path, bomb):
    files = phantom(tmp_path / "in")
    deliver(spool, *files)
    uid = series_uid(files[0])
    spooled(spool, uid, bomb, sop="1.2.3")
    ingest_series(spool, uid, [], scratch)
    series = Series.objects.get(series_uid=uid)
    assert series.archives.get().instance_count == len(files)
    assert "1.2.3.dcm" in series.reason
    assert [file.name for file in spool.files(uid)] == ["1.2.3.dcm"]


def test_what_cannot_be_read_within_the_series_limits_is_held(spool, scratch, configuration, monkeypatch):
    monkeypatch.setattr(limited, "SECONDS", 1.0)
    monkeypatch.setattr(limited, "SECONDS_PER_FILE", 0.0)
    monkeypatch.setattr(limited, "BYTES_PER_SECOND", 1e12)
    spooled(spool, "1.2.99", empty_items)
    ingest_series(spool, "1.2.99", [], scratch)
    series = Series.objects.get(series_uid="1.2.99")
    assert series.state == Series.State.HELD
    assert "reading failed" in series.reason
    assert "1 s" in series.reason


@pytest.mark.parametrize("bomb", BOMBS)
def test_the_watchers_glance_is_bounded(tmp_path, bomb, monkeypatch):
    """It parses no sequence and inflates no more than its limit; what it cannot see it does without."""
    monkeypatch.setattr("pydicom.filereader.data_element_generator", None)  # no parser but its own
    syntax, body = bomb("1.2.99")
    path = tmp_path / "x.dcm"
    path.write_bytes(file_beginning(MR, "1.2.3", syntax) + body)
    try:
        header = glance(path, ["Manufacturer", "(0051,1001)"])
    except CannotGlance as error:
        assert "x.dcm" in str(error)  # noqa: PT017 (either outcome is right)
    else:
        assert field_text(header, "Manufacturer") == ""


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_glance_sees_what_pydicom_reads(tmp_path, syntax):
    (path, *_) = phantom(tmp_path / "in")
    dataset = pydicom.dcmread(path)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Grün^Åse"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    seen = glance(path, FIELDS)
    read = pydicom.dcmread(path)
    assert {name: field_text(seen, name) for name in FIELDS} == {
        name: field_text(read, name) for name in FIELDS
    }
    assert field_text(seen, "PatientName") == "Grün^Åse"


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\2\0\0\0UL"]
)
def test_a_file_without_meta_information_is_none(tmp_path, content):
    assert read_file_meta(content) is None
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    with pytest.raises(CannotGlance, match="not a DICOM file"):
        glance(path, FIELDS)
