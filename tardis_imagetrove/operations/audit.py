"""Proves that what was acknowledged is kept: ledger, manifests, MyTARDIS's records and the bytes in the storage boxes.

An audit only looks. Each finding says what a person can do.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from django.db import transaction
from django.utils import timezone

from ..archive import read_manifest
from ..errors import ImageTroveError, PermanentError, RetriableError
from ..ingest.states import newest_archives
from ..models import Archive, Audit, AuditFinding, FilterOutput, Original, Series
from ..mytardis import mytardis
from ..sandbox.scratch import scratch_folder
from ..spool import Spool


@dataclass(frozen=True)
class Finding:
    """Something that is not as the records say.

    Attributes:
        code: stable, for filters.
        subject: UID of the series that it is about, or a file's name in its storage box.
        text: what is wrong.
        advice: what a person can do.
    """

    code: str
    subject: str
    text: str
    advice: str


#: A file in a storage box may be about to be registered for so long.
_SETTLED = timedelta(days=1)
#: Found by reading bytes only: an audit that does not read them cannot say that they are gone.
_DEEP = frozenset({"changed", "unreadable", "not-in-archive", "not-in-ledger"})


@dataclass(frozen=True)
class Part:
    """One thing that was looked at, and what was found.

    Attributes:
        name: an archive, a storage box, or the like.
        position: primary key of the archive; 0 of what else there is.
    """

    name: str
    findings: list[Finding]
    position: int = 0


class Pace:
    """Waits between blocks, so that no more than some bytes a second are read."""

    def __init__(self, bytes_a_second: float = 0.0, sleep: Callable[[float], None] = time.sleep) -> None:
        self._rate, self._sleep = bytes_a_second, sleep
        self._start, self._bytes = time.monotonic(), 0

    def __call__(self, count: int) -> None:
        if not self._rate:
            return
        self._bytes += count
        if (ahead := self._start + self._bytes / self._rate - time.monotonic()) > 0:
            self._sleep(ahead)


def run(
    about: Audit,
    spool: Spool,
    scratch: Path,
    progress: Callable[[int, int], None] = lambda done, of: None,
    pace: Pace | None = None,
) -> Iterator[Finding]:
    """Audit, and record what is found; ``about`` may have been begun before and is resumed then.

    Args:
        scratch: for archives that are read.
        progress: told how many of how many archives are done.

    Raises:
        DatabaseError: the database is away.
        SpoolError: the spool cannot be read.
    """
    for part in _parts(about, spool, scratch, progress, pace or Pace()):
        yield from part.findings
        with transaction.atomic():
            _record(part, about.deep)
            if part.position:
                about.position, about.looked = part.position, about.looked + 1
                about.save(update_fields=["position", "looked"])
    _forget_deleted()
    about.finished = timezone.now()
    about.save(update_fields=["finished"])


def open_findings():  # noqa: ANN201 (a queryset)
    """What was found and is not known to be gone."""
    return AuditFinding.objects.filter(gone=None)


def _record(part: Part, deep: bool) -> None:
    now, keys = timezone.now(), set()
    for finding in part.findings:
        identity = repr((finding.code, finding.subject, finding.text))
        key = hashlib.sha256(identity.encode()).hexdigest()
        keys.add(key)
        told = {"part": part.name, "advice": finding.advice, "last_seen": now, "gone": None}
        row, new = AuditFinding.objects.get_or_create(
            key=key,
            defaults={
                **told,
                "code": finding.code,
                "subject": finding.subject,
                "text": finding.text,
                "first_seen": now,
            },
        )
        if not new:
            if row.gone is not None:  # it has come back
                told |= {"first_seen": now, "noticed": False}
            AuditFinding.objects.filter(pk=row.pk).update(**told)
    if any(finding.code == "unreachable" for finding in part.findings):
        return  # what could not be looked at is not known to be gone
    gone = open_findings().filter(part=part.name).exclude(key__in=keys)
    if not deep:
        gone = gone.exclude(code__in=_DEEP)
    gone.update(gone=now)


def _forget_deleted() -> None:
    """Findings of archives that are no longer there are gone; the series has one of its own then."""
    of_archives = open_findings().filter(part__startswith="archive:")
    for pk, part in of_archives.values_list("pk", "part"):
        if not Archive.objects.filter(pk=int(part.partition(":")[2])).exists():
            AuditFinding.objects.filter(pk=pk).update(gone=timezone.now())


def _chosen(about: Audit, pk: int) -> bool:
    """Whether an archive is in the sample: the same seed chooses the same, whatever is added."""
    digest = hashlib.sha256(f"{about.seed}:{pk}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < about.share * 2**64


def _parts(
    about: Audit, spool: Spool, scratch: Path, progress: Callable[[int, int], None], pace: Pace
) -> Iterator[Part]:
    archives = Archive.objects.select_related("series", "datafile").order_by("pk")
    if about.since:
        archives = archives.filter(created__gte=about.since)
    everything = archives.values_list("pk", flat=True)
    ids = [pk for pk in everything if _chosen(about, pk)]
    newest = set(newest_archives().values_list("pk", flat=True)) if ids else set()
    for number, pk in enumerate(ids, 1):
        if pk <= about.position:
            continue
        archive = archives.filter(pk=pk).first()
        if archive is not None:  # it may be superseded or deleted meanwhile
            found = _of_archive(archive, archive.pk in newest, about.deep, scratch, pace)
            yield Part(f"archive:{pk}", list(found), pk)
        progress(number, len(ids))
    yield Part("series", list(_of_series()))
    yield Part("spool", list(_of_spool(spool)))
    if about.share >= 1 and not about.since:
        yield Part("records", list(_of_records()))
        for box_id in mytardis().boxes_with_files():
            yield Part(f"box:{box_id}", list(_of_box(box_id)))


def _of_records() -> Iterator[Finding]:
    """DataFiles in the app's folders that nothing of the app names."""
    known = [
        Archive.objects.values("datafile"),
        Original.objects.values("datafile"),
        Original.objects.exclude(report=None).values("report"),
        FilterOutput.objects.values("datafile"),
    ]
    for datafile_id, name in mytardis().unrecorded(known):
        yield Finding(
            "unknown-output",
            name,
            f"no archive and no filter run knows DataFile {datafile_id}",
            "Delete it in MyTARDIS, if its archive was deleted on purpose.",
        )


def _of_box(box_id: int) -> Iterator[Finding]:
    """Files in a storage box that MyTARDIS does not know."""
    try:
        for name in mytardis().orphans(box_id, timezone.now() - _SETTLED):
            yield Finding(
                "orphan",
                name,
                f"no DataFile of MyTARDIS names this file of storage box {box_id}",
                "Look into it; delete it by hand if it is of no use.",
            )
    except RetriableError as error:
        yield Finding(
            "unreachable", f"storage box {box_id}", str(error), "Audit again when the storage box is back."
        )


def _of_archive(
    archive: Archive, is_newest: bool, deep: bool, scratch: Path, pace: Pace
) -> Iterator[Finding]:
    uid, name = archive.series.series_uid, f"archive version {archive.version}"
    found = list(_of_file(uid, name, archive.datafile_id, archive.sha512, deep, pace))
    yield from found
    if is_newest:
        rows = archive.instances.count()
        if rows < archive.instance_count and not archive.profile:  # copies of several originals may be one
            yield Finding(
                "ledger-short",
                uid,
                f"{name} has {archive.instance_count} instances, but the ledger has {rows}",
                "Restore the database from a backup, or send the series again; it is then recorded again.",
            )
        if deep and not found:
            yield from _of_manifest(archive, scratch, pace)
    for output in FilterOutput.objects.filter(run__archive=archive).select_related("run"):
        yield from _of_file(
            uid,
            f"{output.kind} of filter {output.run.filter}, version {archive.version}",
            output.datafile_id,
            "",
            deep,
            pace,
            "Run the filter again: manage.py imagetrove_convert, or the series' page.",
        )
    for original in Original.objects.filter(archive=archive):
        yield from _of_file(
            uid, f"originals version {original.version}", original.datafile_id, original.sha512, deep, pace
        )


_FROM_BACKUP = (
    "Restore the file from a backup of the storage box, or have the instrument send the series again."
)


def _of_file(
    uid: str, what: str, datafile_id: int, sha512: str, deep: bool, pace: Pace, advice: str = _FROM_BACKUP
) -> Iterator[Finding]:
    portal = mytardis()
    try:
        if not portal.is_kept(datafile_id):
            yield Finding(
                "missing",
                uid,
                f"{what} (DataFile {datafile_id}) is not in its storage box, is shorter or longer than it was"
                " stored, or is not verified",
                advice,
            )
        elif deep and (kept := portal.checksum(datafile_id, pace)) and sha512 and kept != sha512:
            yield Finding(
                "changed", uid, f"{what} (DataFile {datafile_id}) has changed: the checksum differs", advice
            )
    except PermanentError as error:
        yield Finding("missing", uid, f"{what}: {error}", advice)
    except RetriableError as error:
        code = "changed" if "is not what was stored" in str(error) else "unreachable"
        again = advice if code == "changed" else "Run the audit again when the storage box is back."
        yield Finding(code, uid, f"{what}: {error}", again)


def _of_manifest(archive: Archive, scratch: Path, pace: Pace) -> Iterator[Finding]:
    """Compare the ledger with the archive's own list of what it holds."""
    uid = archive.series.series_uid
    with scratch_folder(scratch) as folder:
        try:
            mytardis().fetch(archive.datafile_id, folder / "archive.zip", pace)
            members = read_manifest(folder / "archive.zip").members
        except (ImageTroveError, OSError) as error:
            yield Finding("unreadable", uid, f"archive version {archive.version}: {error}", _FROM_BACKUP)
            return
    held = Counter(member.name for member in members)
    known = set(archive.instances.values_list("member", flat=True))
    if lost := sorted(known - held.keys()):
        yield Finding(
            "not-in-archive",
            uid,
            f"archive version {archive.version} lacks {len(lost)} instances of the ledger: {lost[0]}",
            _FROM_BACKUP,
        )
    if unknown := sorted(held.keys() - known):
        yield Finding(
            "not-in-ledger",
            uid,
            f"the ledger lacks {len(unknown)} instances of archive version {archive.version}: {unknown[0]}",
            "Restore the database from a backup.",
        )


def _of_series() -> Iterator[Finding]:
    """Series that count as archived, and whose archive is gone; the ledger goes with it."""
    gone = Series.objects.filter(archives=None, state__in=(Series.State.DONE, Series.State.PARTIAL))
    for uid in gone.values_list("series_uid", flat=True):
        yield Finding(
            "no-archive",
            uid,
            "recorded as archived, but its archive was deleted in MyTARDIS",
            "If that was a mistake, restore it from a backup, or send the series again.",
        )


def _of_spool(spool: Spool) -> Iterator[Finding]:
    """Series that wait without files."""
    waiting = {uid for uid in spool.series_uids() if spool.files(uid)}
    held = Series.objects.filter(state__in=(Series.State.HELD, Series.State.WAITING))
    for uid, state in held.values_list("series_uid", "state"):
        if uid not in waiting:
            yield Finding(
                "no-files",
                uid,
                f"it is {Series.State(state).label.lower()!r}, but has no files in the spool",
                "If its files were removed on purpose, discard it on the board.",
            )
