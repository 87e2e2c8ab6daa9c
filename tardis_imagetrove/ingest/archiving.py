"""A series' next archive: all its instances, old and new, stored, verified and entered in the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from django.db import transaction

from ..archive import Member, read_manifest, zip_stream
from ..deidentification import report_json, report_of, rows_of
from ..formats import DICOM, Acquisition, Item, format_of
from ..models import Archive, DatasetKey, FilterOutput, FilterRun, Instance, Original, Series
from ..mytardis import FileRecord, MyTardis, mytardis
from ..mytardis.base import Sums
from ..reasons import Reason
from ..sandbox.scratch import scratch_folder
from . import states
from .preparation import Batch, Preparation


def is_here(archive: Archive | None, key: DatasetKey | None) -> bool:
    """Whether an archive is in the dataset that its series has now."""
    return archive is not None and key is not None and archive.datafile.dataset_id == key.dataset_id


@dataclass(frozen=True)
class _Contents:
    """What an archive is to hold.

    Attributes:
        entries: for the ledger: what was received, each with the name in the archive of what is shown of it.
        former: the version whose members are among its own.
        originals: what is stored apart; empty if nothing is.
    """

    members: list[Member]
    entries: list[Member]
    former: Archive | None
    originals: Sequence[Member] = ()

    @property
    def has_every_original(self) -> bool:
        held = {member.item.identity for member in self.originals}
        return all(entry.item.identity in held for entry in self.entries)


def archive_instances(
    series: Series,
    found: Acquisition,
    batch: Batch,
    preparation: Preparation,
    filter_names: Sequence[str],
    scratch: Path,
) -> None:
    """Store all instances of the series, old and new, as its next archive, and record it."""
    portal = mytardis()
    configuration = series.configuration
    former = series.archives.order_by("-version").first()
    record = _record(series.dataset_key, series.directory, series.directory, _next(former), found.kind)
    original = series.originals.order_by("-version").first()
    apart = None
    if preparation.keeps_originals:
        # By the UID, which no two series share, in a directory that need not be found by a researcher.
        apart = _record(
            series.originals_key, series.series_uid, series.series_uid, _next(original), found.kind
        )
    stored: dict[FileRecord, int] = {}

    def store(record: FileRecord, content: Iterable[bytes]) -> Sums:
        box_id = portal.box_for(record.dataset_id, configuration.storage_box_id)
        sums = portal.store(record, content, box_id)
        stored[record] = box_id
        return sums

    def zipped(series_uid: str, study_uid: str, members: Iterable[Member]) -> Iterable[bytes]:
        fields = None if found.kind == DICOM else found.fields[-1]
        return zip_stream(series_uid, study_uid, members, found.kind, fields)

    try:
        with scratch_folder(scratch) as folder:
            contents = _gather(series, found.kind, batch, preparation, folder)
            report = report_of(contents.former.report if contents.former else ()) + batch.report
            if apart is not None:
                study_uid = found.fields[0].get("StudyInstanceUID", "")
                apart_sums = store(apart, zipped(series.series_uid, study_uid, contents.originals))
                stem = f"{series.series_uid}_deidentification"
                # Of an original that was deleted the report may be there still.
                reports = portal.versions(apart.dataset_id, stem)
                told = replace(
                    apart,
                    filename=f"{stem}.json",
                    version=max(reports.values(), default=0) + 1,
                    mimetype="application/json",
                )
                text = report_json(series.series_uid, preparation.profile, len(contents.members), report)
                told_sums = store(told, [text.encode()])
            sums = store(record, zipped(series.public_uid, series.study_uid, contents.members))
        with transaction.atomic():
            archive = Archive.objects.create(
                series=series,
                version=record.version,
                datafile_id=portal.register(record, sums, stored[record]),
                sha512=sums.sha512,
                instance_count=len(contents.members),
                profile=preparation.profile,
                losses=list(
                    dict.fromkeys([*(contents.former.losses if contents.former else ()), *batch.losses])
                ),
                report=rows_of(report),
            )
            if apart is not None:
                newest = Original.objects.create(
                    series=series,
                    version=apart.version,
                    archive=archive if contents.has_every_original else None,
                    datafile_id=portal.register(apart, apart_sums, stored[apart]),
                    sha512=apart_sums.sha512,
                    report_id=portal.register(told, told_sums, stored[told]),
                )
                older = series.originals.exclude(pk=newest.pk)
                portal.supersede([*older.values_list("datafile_id", flat=True), *reports])
            _enter(series, archive, contents.entries, contents.former)
            FilterRun.objects.bulk_create(
                FilterRun(archive=archive, filter=name)
                for name in filter_names
                if not configuration.filters or name in configuration.filters
            )
            _supersede(portal, series, archive)
            states.archived(series, archive)
    except BaseException:
        for one, box_id in stored.items():
            portal.discard(one, box_id)
        raise


def _gather(series: Series, kind: str, batch: Batch, preparation: Preparation, folder: Path) -> _Contents:
    """What goes into the next archive, and beside it.

    Args:
        folder: for former archives.
    """
    portal = mytardis()
    name_of = format_of(kind).member_name
    former = series.archives.order_by("-version").first()
    members = _former_members(portal, former, folder / "former.zip")
    if former is not None and not _may_join(former, series, preparation, folder / "former.zip"):
        former, members = None, []
    names = _add(members, series.directory, (one.shown for one in batch.made), name_of)
    before = _ledger(former) if former else ()
    now = (Member(names[one.shown.identity], one.received) for one in batch.made)
    entries = list({one.item.identity: one for one in (*before, *now)}.values())
    originals: list[Member] = []
    if preparation.keeps_originals:
        older = series.originals.order_by("-version").first()
        originals = _former_members(portal, older, folder / "original.zip")
        _add(originals, series.series_uid, (one.received for one in batch.made), name_of)
    return _Contents(members, entries, former, originals)


def _ledger(archive: Archive) -> list[Member]:
    """What the ledger has of an archive."""
    rows = archive.instances.values_list("member", "sop_instance_uid", "sop_class_uid", "size", "sha256")
    return [
        Member(member, Item(Path(), uid, kind, "", size, sha256)) for member, uid, kind, size, sha256 in rows
    ]


def _next(former: Archive | Original | None) -> int:
    return former.version + 1 if former else 1


def _record(key: DatasetKey, directory: str, name: str, version: int, kind: str) -> FileRecord:
    return FileRecord(
        dataset_id=key.dataset_id,
        directory=directory,
        filename=f"{name}_{kind}.zip",
        version=version,
        mimetype="application/zip",
    )


def _former_members(portal: MyTardis, former: Archive | Original | None, path: Path) -> list[Member]:
    """The members of a former archive, which is fetched to ``path``."""
    if former is None:
        return []
    portal.fetch(former.datafile_id, path)
    return list(read_manifest(path).members)


def _may_join(former: Archive, series: Series, preparation: Preparation, path: Path) -> bool:
    """Whether what a former archive holds may be in the series' next one.

    Only what was shown in the same way: received instances must not get among copies, nor the
    other way round. They could if the experiment was deleted and the instrument changed.

    Args:
        path: of the former archive.
    """
    if is_here(former, series.dataset_key):
        return True
    # Not the versions of what made them.
    same = former.profile.partition(";")[0] == preparation.profile.partition(";")[0]
    return same and read_manifest(path).uid == series.public_uid


def _add(
    members: list[Member], directory: str, new: Iterable[Item], name_of: Callable[[Item], str]
) -> dict[tuple[str, str], str]:
    """Add files to an archive's members, sorted by name; returns their names by UID and checksum.

    The same bytes under the same UID are one member; copies may be the same whose originals are not.
    """
    names = {member.item.identity: member.name for member in members}
    taken = {member.name for member in members}
    for item in new:
        if item.identity not in names:
            name = f"{directory}/{name_of(item)}"
            if name in taken:  # other bytes under the same UID
                path = PurePosixPath(name)
                name = str(path.with_name(f"{path.stem}~{item.sha256[:16]}{path.suffix}"))
            members.append(Member(name, item))
            taken.add(name)
            names[item.identity] = name
    members.sort(key=lambda member: member.name)
    return names


def _enter(series: Series, archive: Archive, entries: list[Member], former: Archive | None) -> None:
    """Enter the instances of an archive in the ledger, in place of what it had of them.

    Args:
        former: the version that the archive holds all of.
    """
    count = Counter(entry.item.uid for entry in entries)
    if former is not None:
        series.instances.filter(archive=former).delete()
    if series.instances.exists():
        entered = {entry.item.identity for entry in entries}
        rows = series.instances.values_list("pk", "sop_instance_uid", "sha256")
        again = [pk for pk, *identity in rows if tuple(identity) in entered]
        for start in range(0, len(again), 500):
            series.instances.filter(pk__in=again[start : start + 500]).delete()
    Instance.objects.bulk_create(
        (
            Instance(
                series=series,
                archive=archive,
                sop_instance_uid=entry.item.uid,
                sop_class_uid=entry.item.kind,
                size=entry.item.size,
                sha256=entry.item.sha256,
                member=entry.name,
                conflict=count[entry.item.uid] > 1,
            )
            for entry in entries
        ),
        batch_size=500,
    )


def _supersede(portal: MyTardis, series: Series, archive: Archive) -> None:
    """Move what came of the archive's earlier versions out of sight, and stop their filters."""
    older = series.archives.exclude(pk=archive.pk)
    late = Reason("superseded", f"late instances made version {archive.version}")
    states.skip(FilterRun.objects.filter(archive__in=older), late, running=True)
    outputs = FilterOutput.objects.filter(run__archive__in=older).values_list("datafile_id", flat=True)
    portal.supersede([*older.values_list("datafile_id", flat=True), *outputs])
