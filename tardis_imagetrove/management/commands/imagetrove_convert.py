"""``manage.py imagetrove_convert``: convert archived series again, or a folder without MyTARDIS."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from ...conf import settings
from ...conversion import offline as folders
from ...conversion import registry
from ...conversion import reruns as again
from ...deidentification import Option, Profile, Pseudonyms, new_secret
from ...errors import ImageTroveError, PermanentError
from ...filters.base import Filter
from ...ingest import states
from ...models import FilterRun, InstrumentConfiguration
from ...tasks import queue_runs, unheard

POLL_SECONDS = 0.5
"""Between two looks at the runs that are waited for, at least; looking takes a tenth of the time at most."""


class Command(BaseCommand):
    help = (
        "Convert archived series again (--series, --instrument or --all), or a folder of DICOM files without"
        " MyTARDIS (DIR --out DIR). Of an archived series those filters are run that have not been run on it, that"
        " failed, or that have another version now. Interrupted, it goes on when it is given again. Ends"
        " with status 0 if nothing failed."
    )
    requires_system_checks = []  # a folder needs no site, and one broken filter must stop no other

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="folder of DICOM files")
        parser.add_argument("--out", type=Path, help="output folder for the files of DIR")
        parser.add_argument(
            "--series",
            nargs="+",
            action="extend",
            metavar="UID",
            help="SeriesInstanceUID of an archived series",
        )
        parser.add_argument("--all", action="store_true", help="every archived series")
        parser.add_argument("--instrument", metavar="NAME", help="every archived series of an instrument")
        parser.add_argument("--filters", default="", help="names, joined by commas (default: all)")
        parser.add_argument(
            "--force",
            action="store_true",
            help="also run filters that are up to date; with DIR, replace existing files",
        )
        parser.add_argument(
            "--deidentify",
            nargs="?",
            const="",
            metavar="OPTIONS",
            help="with DIR, convert copies de-identified by the Basic Profile of DICOM PS3.15, which are kept in the"
            f" series' folders; with these options, joined by commas: {', '.join(one.value for one in Option)}."
            " Each time, patients and UIDs get other pseudonyms",
        )
        parser.add_argument(
            "--no-wait", action="store_true", help="queue the filters, and do not wait for them"
        )

    def handle(
        self,
        *,
        folder: Path | None,
        out: Path | None,
        series: list[str] | None,
        all: bool,  # noqa: A002 (the option's name)
        instrument: str | None,
        filters: str,
        force: bool,
        no_wait: bool,
        deidentify: str | None,
        **options: object,
    ) -> None:
        if sum(bool(chosen) for chosen in (folder, series, all, instrument)) != 1:
            raise CommandError("Give one of: --series UID …, --instrument NAME, --all, or DIR --out DIR.")
        if bool(folder) != bool(out):
            raise CommandError("A folder and --out belong together: DIR --out DIR.")
        if deidentify is not None and not folder:
            raise CommandError("--deidentify is for a folder; of archived series the instrument decides.")
        try:
            profile = None if deidentify is None else Profile.of(filter(None, deidentify.split(",")))
        except ValueError as error:
            raise CommandError(f"--deidentify: {error}.") from error
        self.failures: list[str] = []
        problems = settings.problems()
        if problems and (not folder or "IMAGETROVE" in problems):  # a folder needs few of them
            raise CommandError("\n".join(problems.values()))
        wanted = self._filters(filters)
        if folder and out:
            self._convert_folder(folder, out, wanted, force, profile)
        else:
            archives = states.newest_archives()
            try:
                if series:
                    archives = archives.filter(series__series_uid__in=series)
                    known = set(archives.values_list("series__series_uid", flat=True))
                    self.failures += [f"{uid}: no archived series" for uid in series if uid not in known]
                elif instrument:
                    if not InstrumentConfiguration.objects.filter(name=instrument).exists():
                        names = ", ".join(InstrumentConfiguration.objects.values_list("name", flat=True))
                        raise CommandError(f"No instrument {instrument!r}. There are: {names or 'none'}.")
                    archives = archives.filter(series__configuration__name=instrument)
                self._convert_archived(archives, wanted, bool(filters), force, no_wait)
            except UnicodeEncodeError as error:  # what the shell had in another encoding
                raise CommandError("--series or --instrument: not text in UTF-8.") from error
            except DatabaseError as error:
                raise CommandError(
                    f"The database fails: {error}. Queued runs continue; run the command again."
                ) from error
        if self.failures:
            for failure in self.failures:
                self.stderr.write(f"failed: {failure}")
            raise CommandError(
                f"{len(self.failures)} failure{'s' if len(self.failures) > 1 else ''}, listed above."
            )

    def _filters(self, names: str) -> dict[str, Filter]:
        """The filters to be run; those that cannot be used are told, and are a failure if all are asked for."""
        found = registry.survey()
        problems = (*found.setting_problems, *found.entry_point_problems)
        if not names:
            self.failures += problems
            return found.filters
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        if not wanted:
            raise CommandError(f"--filters {names!r} names none. There are {', '.join(found.filters)}.")
        if unknown := [name for name in wanted if name not in found.filters]:
            raise CommandError(
                "\n".join(
                    [
                        f"No such filter: {', '.join(unknown)}. There are {', '.join(found.filters)}.",
                        *problems,
                    ]
                )
            )
        return {name: kind for name, kind in found.filters.items() if name in wanted}

    # A folder

    def _convert_folder(
        self, folder: Path, out: Path, filters: Mapping[str, Filter], force: bool, profile: Profile | None
    ) -> None:
        if not folder.is_dir():
            raise CommandError(f"{folder} is not a folder.")
        if folder.resolve() == out.resolve():
            raise CommandError("DIR and --out must be different folders.")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"{out} cannot be created: {error.strerror}") from error
        if profile is None:
            self._convert_found(folder, out, filters, force, keep_dicom=False)
            return
        with self._copies(folder, out, profile) as copies:
            self._convert_found(copies, out, filters, force, keep_dicom=True)

    @contextmanager
    def _copies(self, folder: Path, out: Path, profile: Profile) -> Iterator[Path]:
        """A folder of de-identified copies, which is gone afterwards."""
        with TemporaryDirectory(prefix=".imagetrove-", dir=out) as copies:
            unused = folders.copy_folder(folder, out, Path(copies), profile, Pseudonyms(new_secret()))
            self._tell_unused(folder, unused)
            yield Path(copies)

    def _tell_unused(self, folder: Path, unused: Iterable[folders.Unused]) -> None:
        for file in unused:
            self.stdout.write(f"skipped {file.path.relative_to(folder)}: {file.reason}")
            if file.lost:
                self.failures.append(f"{file.path}: {file.reason}")

    def _convert_found(
        self, folder: Path, out: Path, filters: Mapping[str, Filter], force: bool, keep_dicom: bool
    ) -> None:
        found, unused = folders.find_series(folder, leave_out=out)
        self._tell_unused(folder, unused)
        if not found:
            raise CommandError(f"There are no DICOM files in {folder}.")
        for series in found:
            count = len(series.files)
            self.stdout.write(
                f"{series.directory}: {count} file{'s' if count > 1 else ''}, series {series.series_uid}"
            )
            for made in folders.convert_series(series, filters, out, overwrite=force):
                names = ", ".join(path.name for path in made.files)
                self.stdout.write(f"  {made.filter}: {made.outcome.value}{': ' if names else ''}{names}")
                for words in made.words:
                    self.stdout.write(f"    {words}")
                for note in made.notes:
                    self.stdout.write(f"    note: {note}")
                if made.outcome is folders.Outcome.FAILED:
                    self.failures.append(f"{series.series_uid} {made.filter}: {'; '.join(made.words)}")
                self.stdout.flush()
            if keep_dicom:
                kept = folders.keep_copies(series, out)
                self.stdout.write(f"  copies: {kept.relative_to(out)}")

    # Archived series

    def _convert_archived(
        self,
        archives,  # noqa: ANN001 (a queryset)
        filters: Mapping[str, Filter],
        chosen: bool,
        force: bool,
        no_wait: bool,
    ) -> None:
        try:
            versions = {
                name: again.Current(kind.version, registry.options_of(kind)[0])
                for name, kind in filters.items()
            }
        except PermanentError as error:
            raise CommandError(str(error)) from None
        marked = again.mark(
            archives, versions, list(versions) if chosen else [], force, by="imagetrove_convert"
        )
        for series_id in marked.series:
            states.refresh(series_id)
        for instrument, names in marked.not_listed:
            self.stdout.write(f"Not run, since {instrument} does not list it: {', '.join(names)}")
        self.stdout.write(
            f"{_runs(len(marked.runs))} of {len(marked.series)} series to be done;"
            f" {marked.up_to_date} up to date{' (--force does them again)' if marked.up_to_date else ''}."
        )
        try:
            queue_runs(marked.runs)
            if not no_wait:
                self._wait(marked.runs)
        except ImageTroveError as error:
            raise CommandError(
                f"{error}. The runs are marked and go on by themselves when it is back."
            ) from error
        except KeyboardInterrupt:
            again_by = "the same command, without --force," if force else "the same command"
            raise CommandError(
                f"Stopped waiting; the runs go on. {again_by.capitalize()} waits for the rest.",
                returncode=130,
            ) from None

    def _wait(self, run_ids: Iterable[int]) -> None:
        """Follow runs until all have ended, telling each that is not simply done."""
        last: dict[int, again.Stand] = {}
        pending = set(run_ids)
        progress = _Progress(self.stdout, len(pending))
        count: Counter[str] = Counter()
        moved, told = time.monotonic(), False
        while pending:
            looked = time.monotonic()
            now = {stand.id: stand for stand in again.stands(sorted(pending))}
            if now != last:
                last, moved, told = now, time.monotonic(), False
            for gone in pending - now.keys():
                pending.discard(gone)
                count["deleted"] += 1
                progress.step(f"run {gone}", "deleted, with its series", important=True)
            for stand in now.values():
                what = f"{stand.series_uid} {stand.filter}"
                words = f"{stand.state.value}{': ' if stand.reason else ''}{stand.reason}"
                if stand.ended:
                    pending.discard(stand.id)
                    count[stand.state.value] += 1
                    good = stand.state in (FilterRun.State.DONE, FilterRun.State.SKIPPED)
                    progress.step(what, words, important=not good)
                    if stand.state == FilterRun.State.FAILED:
                        self.failures.append(f"{what}: {stand.reason}")
                elif stand.state == FilterRun.State.WAITING:
                    progress.say_once(f"{what}: {words}")
            if pending:
                if not told and time.monotonic() - moved > settings.STALL_SECONDS:
                    told = True
                    progress.say(
                        f"Nothing has moved for {settings.STALL_SECONDS} s, {_runs(len(pending))} to go: "
                        + ("; ".join(unheard()) or "does a Celery worker run?")
                    )
                time.sleep(max(POLL_SECONDS, 10 * (time.monotonic() - looked)))
        progress.close()
        if count:
            self.stdout.write(", ".join(f"{number} {state}" for state, number in sorted(count.items())))


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


class _Progress:
    """A bar on a terminal, with lines for what is important above it; elsewhere a line for each step."""

    def __init__(self, stream, total: int) -> None:  # noqa: ANN001 (Django's OutputWrapper)
        self._stream, self._total, self._done = stream, total, 0
        self._bar = stream.isatty()
        self._said: set[str] = set()
        self._draw()

    def step(self, what: str, words: str, important: bool) -> None:
        self._done += 1
        if important or not self._bar:
            self.say(f"[{self._done}/{self._total}] {what}: {words}")
        else:
            self._draw(what)

    def say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.say(line)

    def say(self, line: str) -> None:
        self._clear()
        self._stream.write(line)
        self._draw()

    def close(self) -> None:
        self._clear()

    def _draw(self, what: str = "") -> None:
        if self._bar and self._total:
            columns = shutil.get_terminal_size().columns
            full = 30 * self._done // self._total
            line = f"[{'#' * full}{'.' * (30 - full)}] {self._done}/{self._total} {what}"
            self._stream.write("\r\x1b[K" + line[: columns - 1], ending="")
        self._stream.flush()

    def _clear(self) -> None:
        if self._bar:
            self._stream.write("\r\x1b[K", ending="")
