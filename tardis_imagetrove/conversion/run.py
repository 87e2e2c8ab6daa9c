"""Running a filter: input from the archive, outputs into the dataset, and a record of how it went."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from django.db import DatabaseError, DataError, connection, transaction
from django.db.models import F, Max

from ..archive import read_manifest, unpack
from ..deidentification import Option, Profile
from ..deidentification.rules import stays
from ..errors import KilledError, PermanentError, RetriableError
from ..filters.base import DicomSeries, Filter, FilterResult, FilterSettings
from ..formats import DICOM
from ..formats.dicom.fields import is_foreign, parse_field
from ..ingest import states
from ..ingest.limited import leave_connections
from ..models import (
    LOST_ATTEMPTS,
    NOTE,
    WARNING,
    Archive,
    FilterOutput,
    FilterRun,
    Instance,
    InstrumentConfiguration,
)
from ..mytardis import FileRecord, mytardis
from ..mytardis.base import Sums, file_chunks
from ..mytardis.parameters import set_parameters
from ..parameters import Level, Parameters
from ..reasons import Reason
from ..sandbox.isolation import Report
from ..sandbox.scratch import scratch_folder
from .execution import execute
from .registry import load, options_of, survey

log = logging.getLogger(__name__)


KILLED_ATTEMPTS = 5
"""Earlier attempts whose files, left in the storage box by a killed worker, are looked for and removed."""


class Superseded(Exception):
    """A newer archive of the series is there, and its own runs; or this one's dataset is the series' no more."""


class Overtaken(Exception):
    """Another worker has this run now, since this one gave no sign of life."""


class Supply:
    """One archive's files for the runs of one worker: fetched when the first needs them, and unpacked once."""

    def __init__(self, archive: Archive, folder: Path) -> None:
        self._archive, self._folder = archive, folder
        self._files: tuple[Path, ...] = ()
        self.sha512 = ""
        self.format, self.fields = DICOM, {}
        self.folder = folder / "dicom"
        self.shared = folder / "shared"
        self.shared.mkdir()

    def files(self) -> tuple[Path, ...]:
        """The files of the archive.

        Raises:
            RetriableError: the storage box fails.
            PermanentError: it has another archive than ingest has recorded.
        """
        if not self._files:
            with TemporaryDirectory(dir=self._folder) as place:
                packed = Path(place, "archive.zip")
                sums = mytardis().fetch(self._archive.datafile_id, packed)
                if sums.sha512 != self._archive.sha512:
                    raise PermanentError(
                        f"DataFile {self._archive.datafile_id} is not the archive that was recorded (sha512 differs)"
                    )
                dicom = Path(place, "dicom")
                dicom.mkdir()
                manifest = read_manifest(packed)
                self.format, self.fields = manifest.kind, manifest.fields
                names = [path.relative_to(dicom) for path in unpack(packed, dicom)]
                dicom.rename(self.folder)
            self._files = tuple(self.folder / name for name in names)
            for path in self._files:
                path.chmod(0o444)  # no filter may change what the next one reads
            self.sha512 = sums.sha512
        return self._files


def run_filters(run_id: int, scratch: Path, beat_seconds: float) -> Iterator[int]:
    """Do one queued filter run, and then what else is queued for the same archive, over one copy of it.

    Another worker may do some of them at the same time: each run is claimed when it is its turn.

    Yields:
        After each run of ours that has ended, the id of its series.
    """
    archive = Archive.objects.filter(runs=run_id).select_related("series__configuration").first()
    if archive is None:
        return
    tried: list[int] = []
    with scratch_folder(scratch) as folder:
        supply = Supply(archive, folder)
        while run_id is not None:
            tried.append(run_id)
            if (series_id := run_filter(run_id, folder, beat_seconds, supply)) is not None:
                yield series_id
            queued = archive.runs.filter(state=FilterRun.State.QUEUED).exclude(pk__in=tried)
            run_id = queued.order_by("pk").values_list("pk", flat=True).first()


def run_filter(run_id: int, scratch: Path, beat_seconds: float, supply: Supply | None = None) -> int | None:
    """Do one queued filter run; returns the id of its series, or None if it was not ours to do.

    Safe to call at any time, by any number of workers: one claims the run, and one that was
    taken for dead and is not writes nothing any more. Trouble ends up in the run's state.

    Args:
        supply: of its archive, where several runs use one.
    """
    if not states.claim(run_id):
        return None
    run = FilterRun.objects.select_related("archive__series__configuration", "archive__datafile").get(
        pk=run_id
    )
    started = time.monotonic()
    lost = 0
    # What is recorded is the last attempt's, or nothing.
    run.options, run.input_sha512, run.programs = {}, "", []
    warnings: list[str] = []
    notes: tuple[str, ...] = ()
    run.exit_status = run.memory_mib = None
    try:
        with ExitStack() as stack:
            if supply is None:
                supply = Supply(run.archive, stack.enter_context(scratch_folder(scratch)))
            result = _convert(run, scratch, beat_seconds, supply, warnings)
        state, reason = _verdict(result, warnings)
        notes = result.notes
    except Overtaken:
        log.warning("filter %s of series %s: another worker has taken over", run.filter, run.archive.series)
        return None
    except Superseded as error:
        state, reason = FilterRun.State.SKIPPED, Reason("superseded", str(error))
    except KilledError as error:
        lost = run.lost + 1
        state, reason = FilterRun.State.WAITING, Reason.of(error)
        if lost >= LOST_ATTEMPTS:
            state, reason = FilterRun.State.FAILED, Reason.of(error, f"{error}, {lost} times in a row")
    except (PermanentError, DataError) as error:  # a value that the database has no room for stays so
        state, reason = FilterRun.State.FAILED, Reason.of(error, otherwise="invalid")
    except (RetriableError, OSError, DatabaseError) as error:
        state, reason = FilterRun.State.WAITING, Reason.of(error)
    except Exception as error:  # a fault in one filter stops neither the worker nor the other filters
        log.exception("filter %s of series %s failed", run.filter, run.archive.series)
        unexpected = f"unexpected {type(error).__name__}: {error}"
        state, reason = FilterRun.State.FAILED, Reason("unexpected", unexpected)
    reasons = [] if reason is None else [replace(reason, text=_without_folders(reason.text, scratch))]
    states.finish(
        run,
        state,
        [
            *reasons,
            *(Reason(WARNING, text) for text in warnings),
            *(Reason(NOTE, _without_folders(text, scratch)) for text in notes),
        ],
        lost=lost,
        seconds=time.monotonic() - started,
        **{name: getattr(run, name) for name in _RECORD},
    )
    return run.archive.series_id


_RECORD = ("options", "input_sha512", "programs", "exit_status", "memory_mib")


def _mine(run: FilterRun):  # noqa: ANN202 (a queryset)
    """The run, as long as nobody has taken it over: what is recorded goes through this."""
    return FilterRun.objects.filter(pk=run.pk, state=FilterRun.State.RUNNING, attempts=run.attempts)


@contextmanager
def _beating(run: FilterRun, seconds: float) -> Iterator[None]:
    """Show that the worker is alive, until the block ends."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(seconds):
            try:
                _mine(run).update(beat=F("beat") + 1)
            except DatabaseError as error:
                log.warning("filter run %s: no sign of life could be given: %s", run.pk, error)
        connection.close()

    thread = threading.Thread(target=beat, name=f"beat-{run.pk}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _verdict(result: FilterResult, warnings: list[str]) -> tuple[FilterRun.State, Reason | None]:
    if result.skipped:
        return FilterRun.State.SKIPPED, Reason("not-applicable", result.skipped)
    return FilterRun.State.PARTIAL if warnings else FilterRun.State.DONE, None


def _without_folders(words: str, scratch: Path) -> str:
    """Words for everybody who may see the series: files in the scratch folder by their names alone."""
    return re.sub(rf"{re.escape(str(scratch))}(?:/[^\s/'\"]+)*/(?=[^\s/'\"])", "", words)


def _convert(
    run: FilterRun, scratch: Path, beat_seconds: float, supply: Supply, warnings: list[str]
) -> FilterResult:
    """Do a run, and set on it what is to be recorded; add the filter's warnings to ``warnings``."""
    conversion = load().get(run.filter)
    if conversion is None:
        unusable = survey().entry_point_problems
        raise PermanentError(
            "; ".join(
                [f"filter {run.filter!r} is not in IMAGETROVE['FILTERS'] or an installed package", *unusable]
            )
        )
    run.options, limits = options_of(conversion)
    _refuse_superseded(run.archive)
    series = run.archive.series
    classes = Instance.objects.filter(archive=run.archive).order_by().values_list("sop_class_uid", flat=True)
    if refusal := conversion.takes.refusal(series.modality, classes.distinct()):
        result = FilterResult(skipped=refusal)
        with _beating(run, beat_seconds):
            _keep(run, conversion, result)
        return result
    with TemporaryDirectory(prefix=f"imagetrove-{run.filter}-", dir=scratch) as folder:
        with _beating(run, beat_seconds):
            given = DicomSeries(
                supply.files(), series.directory, _settings(run.archive), run.options, supply.shared
            )
            if supply.format != DICOM:
                given = replace(given, format=supply.format, folder=supply.folder, fields=supply.fields)
        run.input_sha512 = supply.sha512
        out = Path(folder)
        # Between two threads' lives: the child is forked from a process that has one.
        report = execute(
            conversion, given, limits, out, leave_connections, lambda: _beating(run, beat_seconds)
        )
        _note(run, report)
        if report.error is not None:
            raise report.error
        warnings += [_without_folders(text, scratch) for text in report.value.warnings]
        with _beating(run, beat_seconds):
            _keep(run, conversion, report.value)
    return report.value


def _note(run: FilterRun, report: Report) -> None:
    programs = report.programs
    run.programs = [
        {**asdict(program), "seconds": round(program.seconds, 3), "memory_mib": round(program.memory_mib, 1)}
        for program in programs
    ]
    run.exit_status = programs[-1].exit_status if programs else report.exit_status
    run.memory_mib = round(report.memory_mib, 1)


def _settings(archive: Archive) -> FilterSettings:
    configuration: InstrumentConfiguration | None = archive.series.configuration
    if configuration is None:
        return FilterSettings()
    if archive.profile:  # what the configuration says of people and places is as identifying as headers
        return _settings_of_copies(archive, configuration)
    return FilterSettings(
        institution_name=configuration.default_institution_name,
        institutional_department_name=configuration.default_institutional_department_name,
        institution_address=configuration.default_institutional_address,
        operators=tuple(configuration.default_operators),
        identity=tuple((field, value) for field, value in configuration.instrument),
        project=archive.series.project,
        identifying_metadata=configuration.identifying_metadata,
    )


def _settings_of_copies(archive: Archive, configuration: InstrumentConfiguration) -> FilterSettings:
    """What filters are told of a de-identified series: what its profile lets stay as it is in a header."""
    profile = Profile.of(archive.series.deidentification["options"])
    identity = tuple(
        (field, value)
        for field, value in configuration.instrument
        if not is_foreign(field) and stays(parse_field(field), profile)
    )
    if Option.RETAIN_INSTITUTION not in profile:
        return FilterSettings(identity=identity, project=archive.series.project)
    return FilterSettings(
        institution_name=configuration.default_institution_name,
        institutional_department_name=configuration.default_institutional_department_name,
        institution_address=configuration.default_institutional_address,
        identity=identity,
        project=archive.series.project,
    )


def _keep(run: FilterRun, conversion: Filter, result: FilterResult) -> None:
    """Store the outputs beside the DICOM and record them, all or none, in place of an earlier attempt's.

    Whatever fails, and whenever the worker is killed, the series has the former outputs or the new.

    Raises:
        Overtaken: another worker has the run.
        Superseded: late instances have made a newer archive.
    """
    tardis = mytardis()
    series = run.archive.series
    box_id = tardis.box_for(
        run.archive.datafile.dataset_id,
        series.configuration.storage_box_id if series.configuration else None,
    )
    records = [
        FileRecord(
            dataset_id=run.archive.datafile.dataset_id,
            directory=series.directory,
            filename=output.path.name,
            version=run.archive.version,
            mimetype=output.mimetype,
            take=run.attempts,
        )
        for output in result.outputs
    ]
    sums: list[Sums] = []
    try:
        for record, output in zip(records, result.outputs, strict=True):
            with output.path.open("rb") as file:
                sums.append(tardis.store(record, file_chunks(file), box_id))
        with transaction.atomic():
            if not _mine(run).select_for_update().exists():
                raise Overtaken
            _refuse_superseded(run.archive)
            former = list(run.outputs.values_list("datafile_id", flat=True))
            tardis.set_aside(former)
            for record, output, its_sums in zip(records, result.outputs, sums, strict=True):
                FilterOutput.objects.create(
                    run=run, datafile_id=tardis.register(record, its_sums, box_id), kind=output.kind
                )
            _mine(run).update(filter_version=conversion.version, converter=result.converter[:200])
    except BaseException:
        for record in records[: len(sums)]:
            tardis.discard(record, box_id)
        raise
    # A worker that is killed here leaves the run unfinished: the next attempt finds both and removes both.
    if former:
        tardis.remove_datafiles(former)
    for record in records:
        for take in range(max(1, run.attempts - KILLED_ATTEMPTS), run.attempts):
            tardis.discard(replace(record, take=take), box_id)
    for parameters in result.parameters:
        _set(run, parameters)


def _refuse_superseded(archive: Archive) -> None:
    """Outputs of an older archive must not come to lie before those of the newest.

    Nor may they be seen by others than the archive: a series whose experiment was deleted, and that is sent
    again, may come to be shown in another way.

    Raises:
        Superseded: late instances have made a newer archive, or its dataset is the series' no more.
    """
    newest = Archive.objects.filter(series=archive.series).aggregate(Max("version"))["version__max"]
    if newest is not None and newest > archive.version:
        raise Superseded(f"late instances made version {newest}")
    if not Archive.objects.filter(
        pk=archive.pk, datafile__dataset=F("series__dataset_key__dataset")
    ).exists():
        raise Superseded("its archive is in no dataset of the series any more")


def _set(run: FilterRun, parameters: Parameters) -> None:
    series = run.archive.series
    configuration = series.configuration
    if configuration is None or series.dataset_key is None:
        return
    target, namespace = {
        Level.EXPERIMENT: (
            series.dataset_key.experiment_key.experiment_id,
            configuration.schema_experiment,
        ),
        Level.DATASET: (series.dataset_key.dataset_id, configuration.schema_dataset),
        Level.DATAFILE: (run.archive.datafile_id, configuration.schema_file),
    }[parameters.level]
    set_parameters(parameters, target, namespace)
