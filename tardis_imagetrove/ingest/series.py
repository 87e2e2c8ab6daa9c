"""Ingest of one series: read it, place it, have it archived, clear the spool."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from django.contrib.auth.models import Group
from django.db import DatabaseError, DataError, IntegrityError, transaction

from ..errors import PermanentError, RetriableError, is_of_system
from ..formats import Acquisition, Fields, read
from ..models import DatasetKey, ExperimentKey, FilterRun, InstrumentConfiguration, ProjectGroup, Series
from ..mytardis import MyTardis, mytardis
from ..reasons import Reason, as_json, render
from ..sandbox.scratch import scratch_folder
from ..spool import Spool
from . import states
from .archiving import archive_instances, is_here
from .limited import within_limits
from .placement import (
    Destination,
    Placement,
    Rule,
    Unplaceable,
    directory_name,
    is_discreet,
    place_all,
)
from .preparation import Batch, Preparation, preparation_for

log = logging.getLogger(__name__)

MOST_MOVED = 100
"""Datasets of one key that were moved away, one after the other, among which a series' own is looked for."""


class Blocked(PermanentError):
    """Nothing of a series can be archived, for several reasons."""

    def __init__(self, what: str, reasons: Sequence[Reason]) -> None:
        super().__init__(f"{what}: {render(reasons)}")
        self.reasons = tuple(replace(reason, subject=what) for reason in reasons)


def rules() -> tuple[Rule, ...]:
    """The enabled instruments' rules."""
    return tuple(map(rule_of, InstrumentConfiguration.objects.filter(enabled=True)))


def rule_of(configuration: InstrumentConfiguration) -> Rule:
    """An instrument's rule; of a configuration that was never saved, its id is 0."""
    return Rule(
        id=configuration.pk or 0,
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
            if isinstance(error, OSError) and not is_of_system(error):  # of a library, over what is in a file
                states.hold(series_uid, *_reasons(error, "invalid"))
            else:
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
    names = set(series.placed_by).union(*(rule.fields() for rule in site_rules))
    found = within_limits(lambda: read(series_uid, files, names), files, "reading")
    if not found.items:
        raise Blocked("cannot be read", _left_out(found, series))

    newest = series.archives.order_by("-version").first()
    ledger = set(series.instances.filter(archive=newest).values_list("sop_instance_uid", "sha256"))
    # Elsewhere: its experiment or dataset was deleted. MyTARDIS leaves the files where nobody sees them, and
    # whoever sends the series again wants it back.
    gone = not is_here(newest, series.dataset_key)
    new = {item.identity: item for item in found.items if gone or item.identity not in ledger}
    batch: Batch | None = None
    if new:
        placement = _place(series, found, site_rules)
        configuration = placement and InstrumentConfiguration.objects.get(pk=placement.rule_id)
        preparation = preparation_for(series, configuration, placement.group if placement else "")
        if placement is None:
            preparation.check_late(found.fields, series.placed_by)
        with scratch_folder(scratch) as folder:
            batch = preparation.prepare(found, new.values(), folder)
            if _has_something(series, batch):
                _describe(series, batch.fields, batch.shown_uid)
                if placement is not None:
                    _locate(series, placement, preparation, configuration, batch.fields)
                archive_instances(series, found, batch, preparation, filter_names, scratch)
    # From here on every file that was read, and not refused, is in a verified archive. The series' record comes
    # first: once the spool is empty nothing tries again.
    left_out = as_json(_left_out(found, series, batch))
    Series.objects.filter(pk=series.pk).update(left_out=left_out)
    states.refresh(series.pk, ingested=True)
    queued = FilterRun.objects.filter(archive__series=series, state=FilterRun.State.QUEUED)
    runs = list(queued.values_list("pk", flat=True))
    refused = {item.path for item in batch.refused} if batch else set()
    spool.discard(series_uid, [path for path in found.read if path not in refused])
    return runs


def _has_something(series: Series, batch: Batch) -> bool:
    """Whether there is something to archive.

    Raises:
        Blocked: there is not, and nothing of the series is archived yet.
    """
    if batch.made or series.archives.exists():
        return bool(batch.made)
    series.description = series.study_uid = ""
    series.save()
    raise Blocked("cannot be de-identified", _refused(batch))


def _place(series: Series, found: Acquisition, site_rules: tuple[Rule, ...]) -> Placement | None:
    """Where a series belongs; None if it has its place.

    Raises:
        Unplaceable: nowhere, or the instances disagree.
    """
    apart = series.is_deidentified and series.deidentification["keep_originals"]
    if series.dataset_key and series.configuration and (series.originals_key or not apart):
        return None
    try:
        return place_all(found.fields, _of_a_person(series, found, site_rules) or site_rules)
    except Unplaceable:
        if not series.is_deidentified and not is_discreet(found.fields, site_rules):
            _describe(series, found.fields[0])
        raise


def _of_a_person(series: Series, found: Acquisition, site_rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rule of the instrument that a person assigned the series to; none if nobody did.

    Raises:
        Unplaceable: the instrument is not there, or shows what another that fits would de-identify.
    """
    if not series.assigned:
        return ()
    rule = next((rule for rule in site_rules if rule.id == series.assigned["instrument"]), None)
    if rule is None:
        raise Unplaceable(
            "assigned to an instrument whose configuration was removed or disabled; assign it anew",
            code="assigned-to-none",
        )
    if not rule.discreet and is_discreet(found.fields, site_rules):
        raise Unplaceable(
            f"assigned to {rule.name}, which shows originals, but it matches an instrument whose series are"
            " de-identified; assign it to one that de-identifies",
            code="assigned-undisguised",
        )
    said = series.assigned
    return (rule.assigned(said.get("project"), said.get("experiment", ""), said.get("dataset", "")),)


def _left_out(found: Acquisition, series: Series, batch: Batch | None = None) -> list[Reason]:
    """Why files stay in the spool; for a de-identified series, without text that may name anybody."""
    if not (series.is_deidentified and found.unreadable):
        return [*(Reason("unreadable", text) for text in found.unreadable), *_refused(batch)]
    for words in found.unreadable:
        log.warning("series %s: left in the spool: %s", series.series_uid, words.partition(": ")[0])
    count = len(found.unreadable)
    unreadable = f"{count} file{'s' if count > 1 else ''} that cannot be read"
    return [Reason("unreadable", unreadable), *_refused(batch)]


def _refused(batch: Batch | None) -> list[Reason]:
    return [Reason("not-de-identifiable", text) for text in batch.reasons] if batch else []


def _describe(series: Series, fields: Fields, shown_uid: str = "") -> None:
    series.study_uid = fields.get("StudyInstanceUID", "")[:64]
    series.description = (fields.get("SeriesDescription") or fields.get("ProtocolName", ""))[:255]
    series.modality = fields.get("Modality", "")[:16]
    series.shown_uid = shown_uid or series.shown_uid
    series.save()
    states.begin_ingest(series)


def _locate(
    series: Series,
    placement: Placement,
    preparation: Preparation,
    configuration: InstrumentConfiguration,
    fields: Fields,
) -> None:
    """Give the series its dataset and its directory there, and its originals theirs.

    Args:
        fields: of what is shown.

    Raises:
        PermanentError: the series has a dataset, whose instrument is gone, and would get another now.
    """
    destination, apart = preparation.destinations(placement, fields)
    known = itertools.islice(_successors(destination.dataset_key), MOST_MOVED)
    if series.dataset_key is not None and series.dataset_key.key not in known:
        raise PermanentError(
            "late instances cannot join their series: its instrument's configuration was removed, and by the"
            f" present ones they belong to {destination.experiment_title!r} / {destination.dataset_title!r}"
        )
    series.configuration, series.project = configuration, placement.group
    series.placed_by = preparation.remembered(placement.fields)
    series.deidentification, series.pseudonym_key = dict(preparation.record), preparation.key
    if preparation.key is None:
        series.shown_uid = ""
    if series.dataset_key is None:
        institution = preparation.institution(fields, configuration)
        series.dataset_key = _dataset_key(destination, configuration.mytardis_instrument_id, institution)
        _give_directory(series, directory_name(fields.get("SeriesNumber", ""), series.description))
    if apart is not None and series.originals_key is None:
        # Of no instrument: a facility's managers are shown the titles of what its instruments made.
        series.originals_key = _dataset_key(apart, None, "")
    series.save()


def _give_directory(series: Series, wanted: str) -> None:
    """Save the series with a directory that no other series of its dataset has."""
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


def project_group(portal: MyTardis, name: str) -> tuple[int, bool]:
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
    group_id, new_group = project_group(portal, destination.group) if destination.group else (None, False)

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
