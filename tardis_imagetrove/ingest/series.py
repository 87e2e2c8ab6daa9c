"""Ingest of one series: place it, archive its instances, enter them in the ledger, clear the spool."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from django.contrib.auth.models import Group
from django.db import DatabaseError, IntegrityError, transaction
from pydicom.dataset import Dataset
from pydicom.uid import UID

from ..archive import ManifestEntry, Member, read_manifest, zip_stream
from ..dicom import UnreadableFile, field_text, read_header
from ..errors import PermanentError, RetriableError
from ..models import (
    Archive,
    DatasetKey,
    ExperimentKey,
    FilterOutput,
    FilterRun,
    Instance,
    InstrumentConfiguration,
    ProjectGroup,
    Series,
)
from ..mytardis import FileRecord, MyTardis, mytardis
from ..spool import Spool, SpooledFile, file_sha256, is_uid
from .placement import Placement, Rule, check_late, directory_name, place_all

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arrived:
    """A spooled file that was read."""

    file: SpooledFile
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    sha256: str

    @property
    def identity(self) -> tuple[str, str]:
        return (self.sop_instance_uid, self.sha256)


@dataclass(frozen=True)
class Reading:
    """What the spool holds of a series.

    Attributes:
        headers: one of each kind that says something different in the fields that place a series;
            not one an instance, of which there may be a hundred thousand.
        unreadable: words for the files that stay where they are.
    """

    arrived: list[Arrived]
    headers: list[Dataset]
    unreadable: list[str]


def rules() -> tuple[Rule, ...]:
    """The enabled instruments' rules."""
    return tuple(
        Rule(
            id=configuration.pk,
            name=configuration.name,
            owner_id=configuration.owner_id,
            instrument=tuple((field, value) for field, value in configuration.instrument),
            experiment_title=tuple(configuration.experiment_title),
            dataset_title=tuple(configuration.dataset_title),
            project_field=configuration.project_field,
            project_pattern=configuration.project_pattern,
            project_group=configuration.project_group,
        )
        for configuration in InstrumentConfiguration.objects.filter(enabled=True)
    )


def ingest_series(spool: Spool, series_uid: str, filter_names: Sequence[str], scratch: Path) -> list[int]:
    """Archive what the spool holds of a series; returns the ids of the filter runs to start.

    Safe to call at any time, by any number of workers, again after any crash: one works, the
    others return at once, and what is done already is not done twice. Trouble ends up in the
    series' state and reason; the spool keeps its files until they are verified in the archive.
    """
    with spool.lock(series_uid) as mine:
        if not mine:
            return []
        try:
            return _ingest(spool, series_uid, filter_names, scratch)
        except PermanentError as error:
            note(series_uid, Series.State.HELD, str(error))
        except (RetriableError, OSError, DatabaseError) as error:
            note(series_uid, Series.State.WAITING, str(error))
        except Exception as error:  # a fault of ours must lose nothing either
            log.exception("series %s: ingest failed", series_uid)
            note(series_uid, Series.State.WAITING, f"unexpected {type(error).__name__}: {error}")
    return []


def note(series_uid: str, state: Series.State, reason: str) -> None:
    """Record how a series stands; with the database away, say it in the log."""
    log.warning("series %s: %s: %s", series_uid, state.label.lower(), reason)
    try:
        series, _ = Series.objects.get_or_create(series_uid=series_uid)
        series.state, series.reason = state, reason
        series.save(update_fields=["state", "reason", "modified"])
    except DatabaseError as error:
        log.warning("series %s: its state cannot be recorded: %s", series_uid, error)


def _ingest(spool: Spool, series_uid: str, filter_names: Sequence[str], scratch: Path) -> list[int]:
    files = spool.files(series_uid)
    if not files:
        return []
    site_rules = rules()
    series, _ = Series.objects.get_or_create(series_uid=series_uid)
    fields = set(series.placed_by).union(*(rule.fields() for rule in site_rules))
    reading = _read(files, series_uid, fields)
    arrived = reading.arrived
    if not arrived:
        raise PermanentError("cannot be read: " + "; ".join(reading.unreadable))

    ledger = {
        (uid, sha256): archive_id
        for uid, sha256, archive_id in series.instances.values_list(
            "sop_instance_uid", "sha256", "archive_id"
        )
    }
    new = {item.identity: item for item in arrived if item.identity not in ledger}
    # Without a dataset its experiment was deleted: MyTARDIS leaves the files where nobody sees them, and
    # whoever sends the series again wants it back.
    if new or series.dataset_key is None:
        _describe(series, reading.headers[0], Series.State.INGESTING)
        if series.dataset_key is None or series.configuration is None:
            _locate(series, place_all(reading.headers, site_rules), reading.headers[0])
        else:
            check_late(reading.headers, series.placed_by)
        _archive(series, list(new.values()), filter_names, scratch)
    # From here on every file that was read is in a verified archive.
    spool.discard(series_uid, [item.file for item in arrived])

    Series.objects.filter(pk=series.pk).update(left_out="; ".join(reading.unreadable))
    refresh_state(series.pk)
    runs = FilterRun.objects.filter(archive__series=series, state=FilterRun.State.QUEUED)
    return list(runs.values_list("pk", flat=True))


def _read(files: list[SpooledFile], series_uid: str, fields: set[str]) -> Reading:
    arrived, unreadable = [], []
    headers: dict[tuple[str, ...], Dataset] = {}
    for file in files:
        try:
            header = read_header(file.path, fields)
            uid = str(header.SOPInstanceUID)
            if str(header.SeriesInstanceUID) != series_uid:
                raise UnreadableFile(f"{file.path.name}: is of series {header.SeriesInstanceUID}")
            if not is_uid(uid):
                raise UnreadableFile(f"{file.path.name}: SOPInstanceUID {uid!r} is no UID")
        except UnreadableFile as error:
            unreadable.append(str(error))
            continue
        headers.setdefault(tuple(field_text(header, field) for field in sorted(fields)), header)
        arrived.append(
            Arrived(
                file,
                uid,
                field_text(header, "SOPClassUID")[:64],
                str(header.file_meta.get("TransferSyntaxUID", "")),
                file.path.stat().st_size,
                file_sha256(file.path),
            )
        )
    return Reading(arrived, list(headers.values()), unreadable)


def _describe(series: Series, header: Dataset, state: Series.State) -> None:
    series.study_uid = field_text(header, "StudyInstanceUID")[:64]
    series.description = (field_text(header, "SeriesDescription") or field_text(header, "ProtocolName"))[:255]
    series.modality = field_text(header, "Modality")[:16]
    series.state, series.reason = state, ""
    series.save()


def _locate(series: Series, placement: Placement, header: Dataset) -> None:
    """Give the series its dataset and its directory there.

    Raises:
        PermanentError: the series has a dataset, whose instrument is gone, and would get another now.
    """
    if series.dataset_key is not None and series.dataset_key.key != placement.dataset_key:
        raise PermanentError(
            "late instances cannot join their series: its instrument's configuration was removed, and by the"
            f" present ones they belong to {placement.experiment_title!r} / {placement.dataset_title!r}"
        )
    configuration = InstrumentConfiguration.objects.get(pk=placement.rule_id)
    series.configuration, series.project = configuration, placement.group
    series.placed_by = dict(placement.fields)
    if series.dataset_key is not None:
        series.save()
        return
    series.dataset_key = _dataset_key(placement, configuration, header)
    number = header.get("SeriesNumber")
    wanted = directory_name("" if number is None else number, series.description)
    # Asked for at once: a dataset may have thousands of one name, and trying each takes longer every time.
    others = Series.objects.filter(dataset_key=series.dataset_key).exclude(pk=series.pk)
    taken = set(others.filter(directory__startswith=wanted).values_list("directory", flat=True))
    for attempt in count(1):
        series.directory = wanted if attempt == 1 else f"{wanted}_{attempt}"
        if series.directory in taken:
            continue
        try:
            with transaction.atomic():
                series.save()
            return
        except IntegrityError:
            if not others.filter(directory=series.directory).exists():
                raise  # it is not that another worker was quicker


def _project_group(portal: MyTardis, name: str) -> tuple[int, bool]:
    """Id of the project's group, made if it does not exist, and whether it was made just now.

    Raises:
        PermanentError: a user has made a group of that name, and no administrator stands for it.
    """
    with transaction.atomic():
        group, made = Group.objects.get_or_create(name=name)
        if not made and not ProjectGroup.objects.filter(group=group).exists():
            admins = portal.group_admins(group.pk)
            if admins:
                raise PermanentError(
                    f"the group {name!r} is managed by {', '.join(admins)}, who may have made it to see these scans;"
                    " an administrator must add it under ImageTrove, Project groups, or rename it"
                )
        ProjectGroup.objects.get_or_create(group=group)
    return group.pk, made


def _dataset_key(placement: Placement, configuration: InstrumentConfiguration, header: Dataset) -> DatasetKey:
    """The dataset's key, with dataset and experiment made if they are new.

    The keys are unique, so of two workers that make the same thing one is rolled back and finds
    the other's.
    """
    portal = mytardis()
    group_id, new_group = _project_group(portal, placement.group) if placement.group else (None, False)
    institution = field_text(header, "InstitutionName") or configuration.default_institution_name

    def experiment() -> ExperimentKey:
        experiment_id = portal.make_experiment(placement.experiment_title, placement.owner_id, institution)
        portal.grant_experiment(experiment_id, placement.owner_id, group_id)
        if group_id is not None:
            portal.join_project(experiment_id, placement.owner_id, group_id)
        return ExperimentKey.objects.create(key=placement.experiment_key, experiment_id=experiment_id)

    def dataset() -> DatasetKey:
        dataset_id = portal.make_dataset(
            parent.experiment_id, placement.dataset_title, configuration.mytardis_instrument_id
        )
        portal.inherit_dataset_access(parent.experiment_id, dataset_id)
        return DatasetKey.objects.create(
            key=placement.dataset_key, experiment_key=parent, dataset_id=dataset_id
        )

    parent = _found_or_made(ExperimentKey, placement.experiment_key, experiment)
    found = _found_or_made(DatasetKey, placement.dataset_key, dataset)
    if new_group:  # the former one of that name was renamed or deleted: what there was is this one's as well
        portal.grant_experiment(parent.experiment_id, placement.owner_id, group_id)
        portal.inherit_dataset_access(parent.experiment_id, found.dataset_id)
    return found


def _found_or_made(model, key: str, make):  # noqa: ANN001, ANN202 (one of the two key models)
    found = model.objects.filter(key=key).first()
    if found is not None:
        return found
    try:
        with transaction.atomic():
            return make()
    except IntegrityError:
        return model.objects.get(key=key)


def _archive(
    series: Series,
    new: list[Arrived],
    filter_names: Sequence[str],
    scratch: Path,
) -> None:
    """Store all instances of the series, old and new, as its next archive, and record it."""
    portal = mytardis()
    configuration = series.configuration
    former = series.archives.order_by("-version").first()
    record = FileRecord(
        dataset_id=series.dataset_key.dataset_id,
        directory=series.directory,
        filename=f"{series.directory}_dicom.zip",
        version=former.version + 1 if former else 1,
        mimetype="application/zip",
    )
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="imagetrove-", dir=scratch))
        members = []
        if former is not None:
            path = Path(folder) / "former.zip"
            portal.fetch(former.datafile_id, path)
            kept = stack.enter_context(ZipFile(path))
            members += [_kept_member(kept, entry) for entry in read_manifest(path)]
        taken = {member.name for member in members}
        for item in new:
            members.append(_member(series.directory, item, taken))
            taken.add(members[-1].name)
        members.sort(key=lambda member: member.name)
        sums = portal.store(
            record, zip_stream(series.series_uid, series.study_uid, members), configuration.storage_box_id
        )
    try:
        with transaction.atomic():
            archive = Archive.objects.create(
                series=series,
                version=record.version,
                datafile_id=portal.register(record, sums, configuration.storage_box_id),
                sha512=sums.sha512,
                instance_count=len(members),
            )
            _enter(series, archive, members)
            FilterRun.objects.bulk_create(
                FilterRun(archive=archive, filter=name)
                for name in filter_names
                if not configuration.filters or name in configuration.filters
            )
            if former is not None:
                _supersede(portal, series, archive)
    except BaseException:
        portal.discard(record, configuration.storage_box_id)
        raise


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
        source=item.file.path,
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


def _enter(series: Series, archive: Archive, members: list[Member]) -> None:
    """Enter the archive's instances in the ledger, in place of the former version's."""
    times = Counter(member.sop_instance_uid for member in members)
    series.instances.all().delete()
    Instance.objects.bulk_create(
        (
            Instance(
                series=series,
                archive=archive,
                sop_instance_uid=member.sop_instance_uid,
                sop_class_uid=member.sop_class_uid,
                size=member.size,
                sha256=member.sha256,
                member=member.name,
                conflict=times[member.sop_instance_uid] > 1,
            )
            for member in members
        ),
        batch_size=500,
    )


def _supersede(portal: MyTardis, series: Series, archive: Archive) -> None:
    """Move what came of the archive's earlier versions out of sight, and stop their filters."""
    older = series.archives.exclude(pk=archive.pk)
    FilterRun.objects.filter(archive__in=older, state__in=FilterRun.UNFINISHED).update(
        state=FilterRun.State.SKIPPED, reason=f"late instances made version {archive.version}"
    )
    outputs = FilterOutput.objects.filter(run__archive__in=older).values_list("datafile_id", flat=True)
    portal.supersede([*older.values_list("datafile_id", flat=True), *outputs])


def refresh_state(series_id: int) -> None:
    """Make the series' state follow from the filter runs of its newest archive."""
    with transaction.atomic():
        series = Series.objects.select_for_update().get(pk=series_id)
        archive = series.archives.order_by("-version").first()
        if archive is None:
            return
        runs = list(archive.runs.all())
        reasons = [
            f"{run.filter}: {run.reason}"
            for run in runs
            if run.state in (FilterRun.State.FAILED, FilterRun.State.PARTIAL, FilterRun.State.WAITING)
        ]
        conflicts = archive.instances.filter(conflict=True).values("sop_instance_uid").distinct().count()
        if conflicts:
            reasons.append(
                f"{conflicts} SOPInstanceUID{'s' if conflicts > 1 else ''} came with different contents; all are kept"
            )
        if series.left_out:
            reasons.append(f"left in the spool: {series.left_out}")
        if any(run.state in FilterRun.UNFINISHED for run in runs):
            series.state = Series.State.CONVERTING
        elif reasons:
            series.state = Series.State.PARTIAL
        else:
            series.state = Series.State.DONE
        series.reason = "; ".join(reasons)
        series.save(update_fields=["state", "reason", "modified"])
