"""Ingest of one series: read it, place it, have it archived, clear the spool."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from django.contrib.auth.models import Group
from django.db import DatabaseError, DataError, IntegrityError, transaction
from pydicom.dataset import Dataset

from ..deidentification import Option
from ..errors import PermanentError, RetriableError
from ..formats.dicom.fields import field_text
from ..formats.dicom.files import UnreadableFile, read_header
from ..models import DatasetKey, ExperimentKey, FilterRun, InstrumentConfiguration, ProjectGroup, Series
from ..mytardis import MyTardis, mytardis
from ..reasons import Reason, as_json, render
from ..sandbox.scratch import scratch_folder
from ..spool import Spool, SpooledFile, file_sha256, is_uid
from . import states
from .archiving import archive_instances, is_here
from .arrived import Arrived
from .deidentified import Copies, Disguise, disguise_for, make_copies
from .limited import within_limits
from .placement import (
    Destination,
    Placement,
    Rule,
    Unplaceable,
    check_late,
    directory_name,
    is_discreet,
    place_all,
)

log = logging.getLogger(__name__)

MOST_MOVED = 100
"""Datasets of one key that were moved away, one after the other, among which a series' own is looked for."""


class Blocked(PermanentError):
    """Nothing of a series can be archived, for several reasons."""

    def __init__(self, what: str, reasons: Sequence[Reason]) -> None:
        super().__init__(f"{what}: {render(reasons)}")
        self.reasons = tuple(replace(reason, subject=what) for reason in reasons)


@dataclass(frozen=True)
class Reading:
    """What the spool holds of a series.

    Attributes:
        headers: one of each kind that says something different in the fields that place a series;
            not one an instance, of which there may be a hundred thousand.
        unreadable: words for the files that stay where they are.
        files: those that were read.
    """

    arrived: list[Arrived]
    headers: list[Dataset]
    unreadable: list[str]
    files: list[SpooledFile]


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
            discreet=configuration.deidentify,
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
        except (PermanentError, DataError) as error:  # a value that the database has no room for stays so
            states.hold(series_uid, *_reasons(error, "invalid"))
        except (RetriableError, OSError, DatabaseError) as error:
            states.wait(series_uid, *_reasons(error, "unavailable"))
        except Exception as error:  # a fault of ours must lose nothing either
            log.exception("series %s: ingest failed", series_uid)
            unexpected = f"unexpected {type(error).__name__}: {error}"
            states.wait(series_uid, Reason("unexpected", unexpected))
    return []


def _reasons(error: BaseException, otherwise: str) -> tuple[Reason, ...]:
    """The reasons that an exception carries, or its message as one."""
    return error.reasons if isinstance(error, Blocked) else (Reason.of(error, otherwise=otherwise),)


def _ingest(spool: Spool, series_uid: str, filter_names: Sequence[str], scratch: Path) -> list[int]:
    files = spool.files(series_uid)
    if not files:  # what was held there may have been taken away
        for pk in Series.objects.filter(series_uid=series_uid).values_list("pk", flat=True):
            states.refresh(pk, ingested=True)
        return []
    site_rules = rules()
    series = states.received(series_uid)
    fields = set(series.placed_by).union(*(rule.fields() for rule in site_rules))
    paths = [file.path for file in files]
    reading = within_limits(lambda: _read(files, series_uid, fields), paths, "reading")
    arrived = reading.arrived
    if not arrived:
        raise Blocked("cannot be read", _left_out(reading, series))

    newest = series.archives.order_by("-version").first()
    ledger = set(series.instances.filter(archive=newest).values_list("sop_instance_uid", "sha256"))
    # Elsewhere: its experiment or dataset was deleted. MyTARDIS leaves the files where nobody sees them, and
    # whoever sends the series again wants it back.
    gone = not is_here(newest, series.dataset_key)
    new = {item.identity: item for item in arrived if gone or item.identity not in ledger}
    copies = None
    if new:
        placement = _place(series, reading, site_rules)
        configuration = _configuration(placement)
        disguise = disguise_for(series, configuration, placement.group if placement else "")
        if disguise is None:
            _describe(series, reading.headers[0])
            if placement is None:
                check_late(reading.headers, series.placed_by)
            else:
                _locate(series, placement, placement.destination, configuration, reading.headers[0])
            archive_instances(series, list(new.values()), filter_names, scratch)
        else:
            if placement is None:
                check_late(reading.headers, series.placed_by, disguise.digest)
            with scratch_folder(scratch) as folder:
                originals = [item.path for item in new.values()]
                copies = within_limits(
                    lambda: make_copies(new.values(), disguise, folder), originals, "de-identification"
                )
                _take_copies(series, copies, disguise, placement, configuration, filter_names, scratch)
    # From here on every file that was read, and not refused, is in a verified archive. What is said of the series
    # comes first: once the spool is empty nothing tries again.
    left_out = as_json(_left_out(reading, series, copies))
    Series.objects.filter(pk=series.pk).update(left_out=left_out)
    states.refresh(series.pk, ingested=True)
    queued = FilterRun.objects.filter(archive__series=series, state=FilterRun.State.QUEUED)
    runs = list(queued.values_list("pk", flat=True))
    refused = {item.path for item in copies.refused} if copies else set()
    spool.discard(series_uid, [file for file in reading.files if file.path not in refused])
    return runs


def _place(series: Series, reading: Reading, site_rules: tuple[Rule, ...]) -> Placement | None:
    """Where a series belongs; None if it has its place.

    Raises:
        Unplaceable: nowhere, or the instances disagree.
    """
    apart = series.is_deidentified and series.deidentification["keep_originals"]
    if series.dataset_key and series.configuration and (series.originals_key or not apart):
        return None
    try:
        return place_all(reading.headers, site_rules)
    except Unplaceable:
        if not series.is_deidentified and not is_discreet(reading.headers, site_rules):
            _describe(series, reading.headers[0])
        raise


def _configuration(placement: Placement | None) -> InstrumentConfiguration | None:
    return placement and InstrumentConfiguration.objects.get(pk=placement.rule_id)


def _take_copies(
    series: Series,
    copies: Copies,
    disguise: Disguise,
    placement: Placement | None,
    configuration: InstrumentConfiguration | None,
    filter_names: Sequence[str],
    scratch: Path,
) -> None:
    """Archive the copies of what is new, and the originals apart if they are kept.

    Raises:
        PermanentError: there is no copy, and nothing of the series is archived yet.
    """
    if not copies.made:
        if series.archives.exists():
            return
        series.description = series.study_uid = ""
        series.save()
        raise Blocked("cannot be de-identified", _refused(copies))
    first = copies.made[0].copy.path
    names = set(placement.title_fields()) if placement else ()
    header = within_limits(lambda: read_header(first, names), [first], "reading")
    series.shown_uid = copies.series_uid
    _describe(series, header)
    if placement is not None:
        digest = disguise.pseudonyms.digest
        _locate(series, placement, placement.disguised(header, digest), configuration, header, disguise)
        if disguise.keep_originals and series.originals_key is None:
            # Of no instrument: a facility's managers are shown the titles of what its instruments made.
            series.originals_key = _dataset_key(placement.apart(digest), None, "")
            series.save()
    archive_instances(series, [made.arrived for made in copies.made], filter_names, scratch, copies, disguise)


def _left_out(reading: Reading, series: Series, copies: Copies | None = None) -> list[Reason]:
    """Why files stay in the spool; for a de-identified series, without text that may name anybody."""
    if not (series.is_deidentified and reading.unreadable):
        return [*(Reason("unreadable", text) for text in reading.unreadable), *_refused(copies)]
    for words in reading.unreadable:
        log.warning("series %s: left in the spool: %s", series.series_uid, words.partition(": ")[0])
    count = len(reading.unreadable)
    unreadable = f"{count} file{'s' if count > 1 else ''} that cannot be read"
    return [Reason("unreadable", unreadable), *_refused(copies)]


def _refused(copies: Copies | None) -> list[Reason]:
    return [Reason("not-de-identifiable", text) for text in copies.reasons] if copies else []


def _read(files: list[SpooledFile], series_uid: str, fields: set[str]) -> Reading:
    arrived, unreadable, were_read = [], [], []
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
        were_read.append(file)
        arrived.append(
            Arrived(
                file.path,
                uid,
                field_text(header, "SOPClassUID")[:64],
                str(header.file_meta.get("TransferSyntaxUID", "")),
                file.path.stat().st_size,
                file_sha256(file.path),
            )
        )
    return Reading(arrived, list(headers.values()), unreadable, were_read)


def _describe(series: Series, header: Dataset) -> None:
    series.study_uid = field_text(header, "StudyInstanceUID")[:64]
    series.description = (field_text(header, "SeriesDescription") or field_text(header, "ProtocolName"))[:255]
    series.modality = field_text(header, "Modality")[:16]
    series.save()
    states.begin_ingest(series)


def _locate(
    series: Series,
    placement: Placement,
    destination: Destination,
    configuration: InstrumentConfiguration,
    header: Dataset,
    disguise: Disguise | None = None,
) -> None:
    """Give the series its dataset and its directory there.

    Args:
        header: of one of the instances as they will be archived.

    Raises:
        PermanentError: the series has a dataset, whose instrument is gone, and would get another now.
    """
    known = itertools.islice(_successors(destination.dataset_key), MOST_MOVED)
    if series.dataset_key is not None and series.dataset_key.key not in known:
        raise PermanentError(
            "late instances cannot join their series: its instrument's configuration was removed, and by the"
            f" present ones they belong to {destination.experiment_title!r} / {destination.dataset_title!r}"
        )
    series.configuration, series.project = configuration, placement.group
    series.placed_by = dict(placement.fields)
    if disguise is None:
        series.deidentification, series.pseudonym_key, series.shown_uid = {}, None, ""
    else:
        series.placed_by = {field: disguise.digest(field, value) for field, value in placement.fields}
        series.deidentification, series.pseudonym_key = disguise.record, disguise.key
    if series.dataset_key is not None:
        series.save()
        return
    institution = field_text(header, "InstitutionName")
    if disguise is None or Option.RETAIN_INSTITUTION in disguise.profile:
        institution = institution or configuration.default_institution_name
    series.dataset_key = _dataset_key(destination, configuration.mytardis_instrument_id, institution)
    number = header.get("SeriesNumber")
    wanted = directory_name("" if number is None else number, series.description)
    # Asked for at once: a dataset may have thousands of one name, and trying each takes longer every time.
    others = Series.objects.filter(dataset_key=series.dataset_key).exclude(pk=series.pk)
    taken = set(others.filter(directory__startswith=wanted).values_list("directory", flat=True))
    for attempt in itertools.count(1):
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


def _dataset_key(destination: Destination, instrument_id: int | None, institution: str) -> DatasetKey:
    """The dataset's key, with dataset and experiment made if they are new.

    The keys are unique, so of two workers that make the same thing one is rolled back and finds
    the other's.
    """
    portal = mytardis()
    owner_id = destination.owner_id
    group_id, new_group = _project_group(portal, destination.group) if destination.group else (None, False)

    def experiment() -> ExperimentKey:
        experiment_id = portal.make_experiment(destination.experiment_title, owner_id, institution)
        portal.grant_experiment(experiment_id, owner_id, group_id)
        if group_id is not None:
            ours = ExperimentKey.objects.values("experiment")
            portal.join_project(experiment_id, owner_id, group_id, ours)
        return ExperimentKey.objects.create(key=destination.experiment_key, experiment_id=experiment_id)

    def dataset(key: str) -> DatasetKey:
        dataset_id = portal.make_dataset(parent.experiment_id, destination.dataset_title, instrument_id)
        portal.inherit_dataset_access(parent.experiment_id, dataset_id)
        return DatasetKey.objects.create(key=key, experiment_key=parent, dataset_id=dataset_id)

    parent = _found_or_made(ExperimentKey, destination.experiment_key, experiment)
    for key in _successors(destination.dataset_key):
        found = _found_or_made(DatasetKey, key, lambda key=key: dataset(key))
        # A dataset that somebody moved is seen by those who see where it is now.
        if portal.is_in_experiment(found.dataset_id, parent.experiment_id):
            break
    if new_group:  # the former one of that name was renamed or deleted: what there was is this one's as well
        portal.grant_experiment(parent.experiment_id, owner_id, group_id)
        portal.inherit_dataset_access(parent.experiment_id, found.dataset_id)
    return found


def _successors(key: str) -> Iterator[str]:
    """A dataset's key, and those of the datasets that come after it was moved away."""
    while True:
        yield key
        key = hashlib.sha256(f"after {key}".encode()).hexdigest()


def _found_or_made(model, key: str, make):  # noqa: ANN001, ANN202 (one of the two key models)
    found = model.objects.filter(key=key).first()
    if found is not None:
        return found
    try:
        with transaction.atomic():
            return make()
    except IntegrityError:
        return model.objects.get(key=key)
