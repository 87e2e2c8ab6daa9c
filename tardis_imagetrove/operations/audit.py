"""Proves that what was acknowledged is kept: ledger, manifests, MyTARDIS's records and the bytes in the storage boxes.

An audit only looks. Each finding says what a person can do.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..archive import read_manifest
from ..errors import ImageTroveError, PermanentError, RetriableError
from ..ingest.states import newest_archives
from ..models import Archive, FilterOutput, Original, Series
from ..mytardis import mytardis
from ..sandbox.scratch import scratch_folder
from ..spool import Spool


@dataclass(frozen=True)
class Finding:
    """Something that is not as the records say.

    Attributes:
        code: stable, for filters.
        series_uid: the series that it is about.
        text: what is wrong.
        advice: what a person can do.
    """

    code: str
    series_uid: str
    text: str
    advice: str


@dataclass(frozen=True)
class Scope:
    """What is audited.

    Attributes:
        since: archives made from then on; None for all.
        share: of the archives, chosen at random, from 0 to 1.
        deep: also read every byte, and compare each archive's manifest with the ledger.
    """

    since: datetime | None = None
    share: float = 1.0
    deep: bool = False


def audit(
    scope: Scope, spool: Spool, scratch: Path, progress: Callable[[int, int], None] = lambda done, of: None
) -> Iterator[Finding]:
    """What is not as it should be.

    Args:
        scratch: for archives that are read.
        progress: told how many of how many archives are done.

    Raises:
        DatabaseError: the database is away.
        SpoolError: the spool cannot be read.
    """
    archives = Archive.objects.select_related("series", "datafile").order_by("pk")
    if scope.since:
        archives = archives.filter(created__gte=scope.since)
    ids = list(archives.values_list("pk", flat=True))
    if scope.share < 1:
        ids = sorted(random.sample(ids, round(len(ids) * scope.share)))
    newest = set(newest_archives().filter(pk__in=ids).values_list("pk", flat=True)) if ids else set()
    for number, pk in enumerate(ids, 1):
        archive = archives.filter(pk=pk).first()
        if archive is not None:  # it may be superseded or deleted meanwhile
            yield from _of_archive(archive, archive.pk in newest, scope.deep, scratch)
        progress(number, len(ids))
    yield from _of_series()
    yield from _of_spool(spool)


def _of_archive(archive: Archive, is_newest: bool, deep: bool, scratch: Path) -> Iterator[Finding]:
    uid, name = archive.series.series_uid, f"archive version {archive.version}"
    found = list(_of_file(uid, name, archive.datafile_id, archive.sha512, deep))
    yield from found
    if is_newest:
        rows = archive.instances.count()
        if rows < archive.instance_count and not archive.profile:  # copies of several originals may be one
            yield Finding(
                "ledger-short",
                uid,
                f"{name} has {archive.instance_count} instances, and the ledger {rows} of them",
                "Restore the database from a backup, or send the series again: it is entered anew.",
            )
        if deep and not found:
            yield from _of_manifest(archive, scratch)
    for output in FilterOutput.objects.filter(run__archive=archive).select_related("run"):
        yield from _of_file(
            uid,
            f"{output.kind} of filter {output.run.filter}, version {archive.version}",
            output.datafile_id,
            "",
            deep,
            "Run the filter again: manage.py imagetrove_convert, or the series' page.",
        )
    for original in Original.objects.filter(archive=archive):
        yield from _of_file(
            uid, f"originals version {original.version}", original.datafile_id, original.sha512, deep
        )


_FROM_BACKUP = (
    "Restore the file from a backup of the storage box, or have the instrument send the series again."
)


def _of_file(
    uid: str, what: str, datafile_id: int, sha512: str, deep: bool, advice: str = _FROM_BACKUP
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
        elif deep and (kept := portal.checksum(datafile_id)) and sha512 and kept != sha512:
            yield Finding(
                "changed", uid, f"{what} (DataFile {datafile_id}) is not what was archived: checksum", advice
            )
    except PermanentError as error:
        yield Finding("missing", uid, f"{what}: {error}", advice)
    except RetriableError as error:
        code = "changed" if "is not what was stored" in str(error) else "unreachable"
        again = advice if code == "changed" else "Audit it again when the storage box is back."
        yield Finding(code, uid, f"{what}: {error}", again)


def _of_manifest(archive: Archive, scratch: Path) -> Iterator[Finding]:
    """Compare the ledger with the archive's own list of what it holds."""
    uid = archive.series.series_uid
    with scratch_folder(scratch) as folder:
        try:
            mytardis().fetch(archive.datafile_id, folder / "archive.zip")
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
            f"archive version {archive.version} does not hold {len(lost)} instances of the ledger: {lost[0]}",
            _FROM_BACKUP,
        )
    if unknown := sorted(held.keys() - known):
        yield Finding(
            "not-in-ledger",
            uid,
            f"the ledger does not know {len(unknown)} instances of archive version {archive.version}: {unknown[0]}",
            "Restore the database from a backup.",
        )


def _of_series() -> Iterator[Finding]:
    """Series that count as archived, and whose archive is gone; the ledger goes with it."""
    gone = Series.objects.filter(archives=None, state__in=(Series.State.DONE, Series.State.PARTIAL))
    for uid in gone.values_list("series_uid", flat=True):
        yield Finding(
            "no-archive",
            uid,
            "it counts as archived, and has no archive: it was deleted in MyTARDIS",
            "If that was not meant, restore it from a backup, or have the series sent again.",
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
                f"it is {Series.State(state).label.lower()!r}, and has no files in the spool",
                "Discard it on the board, if its files were removed on purpose.",
            )
