"""Everything that is kept of one participant, before somebody deletes it; it only looks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from django.db.models import Q

from ..deidentification import Pseudonyms
from ..errors import PermanentError
from ..formats.dicom.fields import fields_of
from ..formats.packed import PackedFormat, fields_in
from ..ingest.glance import glance
from ..models import Archive, FilterOutput, Original, PseudonymKey, Series
from ..spool import Spool

PATIENT_ID = "PatientID"


@dataclass(frozen=True)
class Kept:
    """What is kept of one series.

    Attributes:
        series: None if no record of it is there.
        datafiles: numbers of its DataFiles, superseded ones included, by what they are.
        waiting: its files in the spool and the trash that are the participant's.
        others: its files there that are somebody else's.
        unread: why files there could not be read; they may be the participant's.
    """

    series_uid: str
    series: Series | None
    datafiles: dict[str, list[int]]
    waiting: tuple[Path, ...] = ()
    others: int = 0
    unread: tuple[str, ...] = ()


def find(patient_id: str, spool: Spool) -> Iterator[Kept]:
    """The series of a participant, by UID, and series whose files cannot be read.

    Archived series are found by what they were placed by, also where only a pseudonym is kept of it.

    Raises:
        DatabaseError: the database is away.
        SpoolError: the spool cannot be read.
    """
    wanted = Q(**{f"placed_by__{PATIENT_ID}": patient_id}, pseudonym_key=None)
    for key in PseudonymKey.objects.all():
        digest = Pseudonyms(key.secret).digest([PATIENT_ID, patient_id])
        wanted |= Q(**{f"placed_by__{PATIENT_ID}": digest}, pseudonym_key=key)
    found = {series.series_uid: series for series in Series.objects.filter(wanted)}
    files: dict[str, list[Path]] = {uid: spool.files(uid) for uid in spool.series_uids()}
    for one in spool.trash():
        files.setdefault(one.series_uid, []).extend(sorted(one.path.iterdir()))
    for uid in sorted(found.keys() | files.keys()):
        own, others, unread = _sorted(files.get(uid, ()), patient_id)
        if uid in found or own or unread:
            series = found.get(uid) or Series.objects.filter(series_uid=uid).first()
            # Archived files are the participant's only if the series was placed as such.
            yield Kept(uid, series, _datafiles(found.get(uid)), own, others, unread)


def _sorted(files: Iterable[Path], patient_id: str) -> tuple[tuple[Path, ...], int, tuple[str, ...]]:
    own, others, unread = [], 0, []
    for path in files:
        try:
            if path.suffix == PackedFormat.suffix:
                value = fields_in(path).get(PATIENT_ID, "")
            else:
                value = fields_of(glance(path, [PATIENT_ID]), [PATIENT_ID]).get(PATIENT_ID, "")
        except FileNotFoundError:  # archived or restored meanwhile
            continue
        except (PermanentError, OSError) as error:
            unread.append(f"{path}: {error}")
            continue
        if value == patient_id:
            own.append(path)
        else:
            others += 1
    return tuple(own), others, tuple(unread)


def _datafiles(series: Series | None) -> dict[str, list[int]]:
    if series is None:
        return {}
    originals = Original.objects.filter(series=series)
    ids = {
        "archives": Archive.objects.filter(series=series).values_list("datafile_id", flat=True),
        "originals": originals.values_list("datafile_id", flat=True),
        "reports": originals.exclude(report=None).values_list("report_id", flat=True),
        "converted files": FilterOutput.objects.filter(run__archive__series=series).values_list(
            "datafile_id", flat=True
        ),
    }
    return {what: sorted(found) for what, found in ids.items() if found}
