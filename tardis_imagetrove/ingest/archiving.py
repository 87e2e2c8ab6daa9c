"""A series' next archive: all its instances, old and new, stored, verified and entered in the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from django.db import transaction
from pydicom.uid import UID

from ..archive import ManifestEntry, Member, read_manifest, read_series_uid, zip_stream
from ..formats.dicom.fields import field_text
from ..formats.dicom.files import read_header
from ..models import Archive, DatasetKey, FilterOutput, FilterRun, Instance, Original, Series
from ..mytardis import FileRecord, MyTardis, mytardis
from ..mytardis.base import Sums
from ..reasons import Reason
from ..sandbox.scratch import scratch_folder
from . import states
from .arrived import Arrived
from .deidentified import Copies, Disguise
from .limited import within_limits


def is_here(archive: Archive | None, key: DatasetKey | None) -> bool:
    """Whether an archive is in the dataset that its series has now."""
    return archive is not None and key is not None and archive.datafile.dataset_id == key.dataset_id


@dataclass(frozen=True)
class Entry:
    """An instance as the ledger has it: what was received, and the name of it, or its copy, in the archive."""

    sop_instance_uid: str
    sop_class_uid: str
    size: int
    sha256: str
    member: str


@dataclass(frozen=True)
class _Contents:
    """What an archive is to hold.

    Attributes:
        entries: for the ledger.
        former: the version whose members are among its own.
        originals: what is stored apart; empty if nothing is.
    """

    members: list[Member]
    entries: list[Entry]
    former: Archive | None
    originals: Sequence[Member] = ()

    @property
    def has_every_original(self) -> bool:
        held = {(member.sop_instance_uid, member.sha256) for member in self.originals}
        return all((entry.sop_instance_uid, entry.sha256) in held for entry in self.entries)


def archive_instances(
    series: Series,
    new: list[Arrived],
    filter_names: Sequence[str],
    scratch: Path,
    copies: Copies | None = None,
    disguise: Disguise | None = None,
) -> None:
    """Store all instances of the series, old and new, as its next archive, and record it.

    Args:
        copies, disguise: of ``new``, if they are archived in its place.
    """
    portal = mytardis()
    configuration = series.configuration
    former = series.archives.order_by("-version").first()
    record = _record(series.dataset_key, series.directory, series.directory, _next(former))
    original = series.originals.order_by("-version").first()
    apart = None
    if disguise is not None and disguise.keep_originals:
        # By the UID, which no two series share, in a directory that need not be found by a researcher.
        apart = _record(series.originals_key, series.series_uid, series.series_uid, _next(original))
    stored: dict[FileRecord, int] = {}

    def store(record: FileRecord, series_uid: str, study_uid: str, members: Iterable[Member]) -> Sums:
        box_id = portal.box_for(record.dataset_id, configuration.storage_box_id)
        sums = portal.store(record, zip_stream(series_uid, study_uid, members), box_id)
        stored[record] = box_id
        return sums

    try:
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder(scratch))
            contents = _gather(series, new, copies, disguise, folder, stack)
            if apart is not None:
                first = new[0].path
                study_uid = within_limits(
                    lambda: field_text(read_header(first, ()), "StudyInstanceUID"), [first], "reading"
                )
                apart_sums = store(apart, series.series_uid, study_uid, contents.originals)
            sums = store(record, series.public_uid, series.study_uid, contents.members)
        with transaction.atomic():
            archive = Archive.objects.create(
                series=series,
                version=record.version,
                datafile_id=portal.register(record, sums, stored[record]),
                sha512=sums.sha512,
                instance_count=len(contents.members),
                profile=disguise.profile.words if disguise else "",
                losses=_losses(contents.former, copies),
            )
            if apart is not None:
                newest = Original.objects.create(
                    series=series,
                    version=apart.version,
                    archive=archive if contents.has_every_original else None,
                    datafile_id=portal.register(apart, apart_sums, stored[apart]),
                    sha512=apart_sums.sha512,
                )
                older = series.originals.exclude(pk=newest.pk)
                portal.supersede(older.values_list("datafile_id", flat=True))
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


def _gather(
    series: Series,
    new: list[Arrived],
    copies: Copies | None,
    disguise: Disguise | None,
    folder: Path,
    stack: ExitStack,
) -> _Contents:
    """What goes into the next archive, and beside it.

    Args:
        folder: for former archives, which are open as long as ``stack``.
    """
    portal = mytardis()
    former = series.archives.order_by("-version").first()
    members = _former_members(portal, former, folder / "former.zip", stack)
    if former is not None and not _may_join(former, series, disguise, folder / "former.zip"):
        former, members = None, []
    if copies is None:
        _add(members, series.directory, new)
        return _Contents(members, [_entry(member, member.name) for member in members], former)
    names = _add(members, series.directory, [made.copy for made in copies.made])
    rows = series.instances.filter(archive=former) if former else series.instances.none()
    before = [Entry(**row) for row in rows.values(*Entry.__dataclass_fields__)]
    now = (_entry(made.arrived, names[made.copy.identity]) for made in copies.made)
    entries = list({(one.sop_instance_uid, one.sha256): one for one in (*before, *now)}.values())
    originals: list[Member] = []
    if disguise.keep_originals:
        older = series.originals.order_by("-version").first()
        originals = _former_members(portal, older, folder / "original.zip", stack)
        _add(originals, series.series_uid, new)
    return _Contents(members, entries, former, originals)


def _next(former: Archive | Original | None) -> int:
    return former.version + 1 if former else 1


def _record(key: DatasetKey, directory: str, name: str, version: int) -> FileRecord:
    return FileRecord(
        dataset_id=key.dataset_id,
        directory=directory,
        filename=f"{name}_dicom.zip",
        version=version,
        mimetype="application/zip",
    )


def _former_members(
    portal: MyTardis, former: Archive | Original | None, path: Path, stack: ExitStack
) -> list[Member]:
    """The members of a former archive, which is fetched to ``path`` and open as long as ``stack``."""
    if former is None:
        return []
    portal.fetch(former.datafile_id, path)
    kept = stack.enter_context(ZipFile(path))
    return [_kept_member(kept, entry) for entry in read_manifest(path)]


def _may_join(former: Archive, series: Series, disguise: Disguise | None, path: Path) -> bool:
    """Whether what a former archive holds may be in the series' next one.

    Only what was shown in the same way: what was received does not come to lie among copies, nor the
    other way round. It may have been so if its experiment was deleted, and its instrument changed.

    Args:
        path: of the former archive.
    """
    if is_here(former, series.dataset_key):
        return True
    now = disguise.profile.words if disguise else ""
    # Not the versions of what made them.
    same = former.profile.partition(";")[0] == now.partition(";")[0]
    return same and read_series_uid(path) == series.public_uid


def _losses(former: Archive | None, copies: Copies | None) -> list[str]:
    lost = [*(former.losses if former else ()), *(copies.losses if copies else ())]
    return list(dict.fromkeys(lost))


def _add(members: list[Member], directory: str, new: list[Arrived]) -> dict[tuple[str, str], str]:
    """Add files to an archive's members, sorted by name; returns their names by UID and checksum.

    The same bytes under the same UID, which copies may be whose originals are not, are one member.
    """
    names = {(member.sop_instance_uid, member.sha256): member.name for member in members}
    taken = {member.name for member in members}
    for item in new:
        if item.identity not in names:
            members.append(_member(directory, item, taken))
            taken.add(members[-1].name)
            names[item.identity] = members[-1].name
    members.sort(key=lambda member: member.name)
    return names


def _entry(item: Member | Arrived, member: str) -> Entry:
    return Entry(item.sop_instance_uid, item.sop_class_uid, item.size, item.sha256, member)


def _member(directory: str, item: Arrived, taken: set[str]) -> Member:
    syntax = UID(item.transfer_syntax_uid)
    name = f"{directory}/{item.sop_instance_uid}.dcm"
    if name in taken:  # other bytes under the same UID
        name = f"{directory}/{item.sop_instance_uid}~{item.sha256[:16]}.dcm"
    return Member(
        name=name,
        sop_instance_uid=item.sop_instance_uid,
        sop_class_uid=item.sop_class_uid,
        transfer_syntax_uid=item.transfer_syntax_uid,
        size=item.size,
        sha256=item.sha256,
        source=item.path,
        compressible=not (syntax.is_transfer_syntax and syntax.is_compressed),
    )


def _kept_member(archive: ZipFile, entry: ManifestEntry) -> Member:
    return Member(
        name=entry.file,
        sop_instance_uid=entry.sop_instance_uid,
        sop_class_uid=entry.sop_class_uid,
        transfer_syntax_uid=entry.transfer_syntax_uid,
        size=entry.size,
        sha256=entry.sha256,
        source=(archive, entry.file),
    )


def _enter(series: Series, archive: Archive, entries: list[Entry], former: Archive | None) -> None:
    """Enter the instances of an archive in the ledger, in place of what it had of them.

    Args:
        former: the version that the archive holds all of.
    """
    count = Counter(entry.sop_instance_uid for entry in entries)
    if former is not None:
        series.instances.filter(archive=former).delete()
    if series.instances.exists():
        entered = {(entry.sop_instance_uid, entry.sha256) for entry in entries}
        rows = series.instances.values_list("pk", "sop_instance_uid", "sha256")
        again = [pk for pk, *identity in rows if tuple(identity) in entered]
        for start in range(0, len(again), 500):
            series.instances.filter(pk__in=again[start : start + 500]).delete()
    Instance.objects.bulk_create(
        (
            Instance(
                series=series,
                archive=archive,
                sop_instance_uid=entry.sop_instance_uid,
                sop_class_uid=entry.sop_class_uid,
                size=entry.size,
                sha256=entry.sha256,
                member=entry.member,
                conflict=count[entry.sop_instance_uid] > 1,
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
