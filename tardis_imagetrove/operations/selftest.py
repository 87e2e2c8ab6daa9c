"""The self-test: a generated series goes the whole way through a running site, and is removed again.

It knows no more than its token: everything it makes is named by it, so that what a killed
self-test has left can be removed by another run.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel
from django.conf import settings as django_settings
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, close_old_connections
from django.http import HttpRequest
from django.test import Client
from django.urls import NoReverseMatch, get_script_prefix, reverse
from PIL import Image
from pydicom.uid import generate_uid

from .. import scu
from ..archive import unpack
from ..checks import check_broker
from ..conf import settings
from ..conversion import registry
from ..errors import ImageTroveError
from ..filters import minc, nifti, picture
from ..ingest import states
from ..models import Archive, FilterOutput, FilterRun, InstrumentConfiguration, Sender, Series
from ..mytardis import mytardis, trial
from ..mytardis.accounts import LOCAL_BACKEND
from ..phantom import oblique_mr_series
from ..reasons import Reason
from ..sandbox.scratch import scratch_folder
from ..tasks import open_spool, unheard, worker_names

SLICES, ROWS, COLUMNS = 8, 48, 40

_POLL_SECONDS = 0.5
#: Seconds within which a receiver should have seen a new sender; it looks every two.
_ADMISSION_SECONDS = 20
_RECEIVER_HINT = "is `manage.py imagetrove_scp` running on this host and port, and does no firewall block it?"
WORKER = "`DJANGO_SETTINGS_MODULE=tardis.settings celery -A tardis.celery.tardis_app worker`"


class StepFailed(Exception):
    """A step did not go as it should.

    Args:
        look_at: what an operator should look at.
    """

    def __init__(self, text: str, look_at: str) -> None:
        super().__init__(text)
        self.look_at = look_at


@dataclass(frozen=True)
class Outcome:
    """How a step went: what there is to say, and, where it failed, what to look at."""

    step: str
    ok: bool
    text: str
    look_at: str = ""


def new_token() -> str:
    """A name for one self-test."""
    return secrets.token_hex(6)


def calling_ae(token: str) -> str:
    """What a self-test calls itself on the network."""
    return f"TEST{token.upper()}"[:16]


class SelfTest:
    """One self-test of a site.

    Args:
        peer: the running receiver.
        seconds: that archiving, and then converting, may take.
        box_id: the storage box to use; None is MyTARDIS's default.
        report: is told each step's outcome as it comes.
    """

    def __init__(
        self,
        token: str,
        peer: scu.Peer,
        seconds: float,
        box_id: int | None,
        report: Callable[[Outcome], None],
    ) -> None:
        self.names = trial.Names(token)
        self.peer, self.seconds, self.box_id = peer, seconds, box_id
        self._report = report
        self._acknowledged = self._promiscuous = False
        self.failures = 0

    @cached_property
    def series_uid(self) -> str:
        return str(generate_uid(entropy_srcs=[trial.PREFIX, self.names.token]))

    def run(self) -> bool:
        """All steps, and the removal whatever happens; returns whether everything was well."""
        try:
            with scratch_folder(settings.scratch_path) as folder:
                self._steps(folder)
        finally:
            self.remove()
        return not self.failures

    def remove(self) -> bool:
        """Remove what this self-test, or a killed one of the same token, has made."""
        return self._step("removal", self._remove)

    # Steps

    def _step(self, name: str, do: Callable[..., str], *arguments: object) -> bool:
        try:
            outcome = Outcome(name, True, do(*arguments))
        except StepFailed as error:
            outcome = Outcome(name, False, str(error), error.look_at)
        except (ImageTroveError, DatabaseError, ImproperlyConfigured, OSError) as error:
            outcome = Outcome(name, False, f"{error}", "the error message")
        except Exception as error:  # the self-test says what is wrong, whatever it is
            outcome = Outcome(name, False, f"{type(error).__name__}: {error}", "the logs of MyTARDIS")
        self.failures += not outcome.ok
        self._report(outcome)
        return outcome.ok

    def _steps(self, folder: Path) -> None:
        """From the receiver to the download; each stands on the one before, but for the outputs."""
        ready = (
            self._step("receiver", self._receiver)
            and self._step("broker", self._broker)
            and self._step("configuration", self._configuration)
            and self._step("admission", self._admission)
            and self._step("sending", self._sending, folder)
            and self._step("archive", self._archived, folder)
        )
        if not ready:
            return
        for name in registry.survey().filters:
            self._step(f"filter {name}", self._filtered, name, folder)
        self._step("permission", self._permission)
        self._step("download", self._download)

    def _receiver(self) -> str:
        try:
            scu.echo(self.peer)
        except scu.NotAdmitted:
            return f"{self.peer} answers and rejects unknown senders"
        except scu.CannotSend as error:
            raise StepFailed(str(error), _RECEIVER_HINT) from error
        self._promiscuous = True
        return f"{self.peer} answers C-ECHO, but is PROMISCUOUS: it accepts every sender"

    def _broker(self) -> str:
        for message in check_broker():
            if message.is_serious():
                raise StepFailed(message.msg, "the broker itself, and MyTARDIS's setting of its URL")
            raise StepFailed(message.msg, f"is a worker running ({WORKER}), with the same broker?")
        return "reachable"

    def _configuration(self) -> str:
        people = trial.make_people(self.names)
        schemas = {
            f"schema_{level}": f"{self.names.namespace}{level}" for level in ("experiment", "dataset", "file")
        }
        configuration = InstrumentConfiguration.objects.create(
            name=self.names.group,
            instrument=[["ManufacturerModelName", self.names.group]],
            experiment_title=["PatientID"],
            dataset_title=["SeriesDescription"],
            owner=people.owner,
            storage_box_id=self.box_id,
            project_field="ReferringPhysicianName",
            project_pattern="[0-9a-f]{12}",
            project_group=f"{trial.PREFIX}-{{}}",
            quiet_seconds=2,
            **schemas,
        )
        # From where it sees us coming, only the receiver knows; the title is this test's own secret.
        for everywhere in ("0.0.0.0/0", "::/0"):
            Sender.objects.create(configuration=configuration, ae_title=self.peer.calling, address=everywhere)
        return f"temporary instrument, sender, group and accounts named {self.names.group}"

    def _admission(self) -> str:
        """The receiver learns of the sender by looking at the configuration now and then."""
        if self._promiscuous:
            return "nothing to try"

        def admitted() -> bool:
            try:
                scu.echo(self.peer)
            except scu.NotAdmitted:
                return False
            return True

        try:
            self._wait_for(admitted, _ADMISSION_SECONDS)
        except TimeoutError:
            raise StepFailed(
                f"the receiver does not accept the sender that was configured {_ADMISSION_SECONDS} s ago",
                "its log: it cannot reach the database, or has the settings of another site",
            ) from None
        except scu.CannotSend as error:
            raise StepFailed(str(error), _RECEIVER_HINT) from error
        return f"{self.peer.calling} is accepted as configured"

    def _sending(self, folder: Path) -> str:
        paths = oblique_mr_series(
            folder / "sent",
            slices=SLICES,
            rows=ROWS,
            columns=COLUMNS,
            series_uid=self.series_uid,
            series_description="ImageTrove self-test",
            patient_name="Selftest^ImageTrove",
            patient_id=f"SELFTEST-{self.names.token}",
            overrides={
                "ManufacturerModelName": self.names.group,
                "ReferringPhysicianName": f"Project {self.names.token}",
            },
        )
        try:
            sent = scu.send([scu.read(path) for path in paths], self.peer)
        except scu.CannotSend as error:
            raise StepFailed(str(error), _RECEIVER_HINT) from error
        self._acknowledged = bool(sent.acknowledged)
        if sent.refused:
            raise StepFailed(
                f"{len(sent.refused)} of {SLICES} instances were refused: {sent.refused[0].words}",
                "the receiver's log; out of resources (0xA700) means that the spool's disk is full",
            )
        return f"{SLICES} instances acknowledged, series {self.series_uid}"

    def _archived(self, folder: Path) -> str:
        def archive() -> Archive | None:
            series = self._series()
            if series is not None and series.state == Series.State.HELD:
                raise StepFailed(
                    f"the series is held: {series.reason}", "the instrument's configuration in admin"
                )
            return series.archives.first() if series is not None else None

        try:
            found = self._wait_for(archive)
        except TimeoutError:
            raise self._why_not_archived() from None
        path = folder / "archive.zip"
        mytardis().fetch(found.datafile_id, path)
        (folder / "kept").mkdir()
        kept = {_data_set(member) for member in unpack(path, folder / "kept")}
        if kept != {_data_set(member) for member in (folder / "sent").iterdir()}:
            raise StepFailed(
                "the archive differs from what was sent", "the storage box, and this app's issue list"
            )
        return f"{found.datafile.filename}, {found.datafile.size} bytes, contains everything that was sent"

    def _why_not_archived(self) -> StepFailed:
        """What kept a series from its archive for so long."""
        within = f"not archived within {self.seconds:g} s"
        series = self._series()
        if series is None:
            return StepFailed(
                f"{within}: the files were acknowledged, but the series is not in the database",
                "the receiver's log: its watcher cannot reach this database, or has the settings of another site",
            )
        if series.state == Series.State.WAITING:
            broker = "broker" in series.reason
            return StepFailed(
                f"{within}, waits: {series.reason}",
                "the broker, and the receiver's setting of its URL" if broker else "what the reason names",
            )
        if series.state == Series.State.INGESTING:
            return StepFailed(
                f"{within}: a worker is still processing it", "the worker's log, or use a longer --timeout"
            )
        return StepFailed(f"{within}: no worker has picked it up", self._worker_hint())

    @staticmethod
    def _worker_hint() -> str:
        answering = worker_names()
        if answering and (words := unheard()):
            return "; ".join(words)
        if answering:
            return (
                f"the worker's log: {', '.join(answering)} answers, but may be busy (use a longer --timeout)"
                " or lacks tardis_imagetrove"
            )
        return f"is a worker running ({WORKER}), with the same broker? None answers"

    def _filtered(self, name: str, folder: Path) -> str:
        """Wait for one filter and look at what it made."""

        def ended() -> FilterRun | None:
            run = self._run(name)
            if run is None:
                raise StepFailed(
                    "the worker does not have this filter",
                    "IMAGETROVE['FILTERS'] of the worker and of this process; a worker reads it when it starts",
                )
            return None if run.state in FilterRun.UNFINISHED else run

        try:
            run = self._wait_for(ended)
        except TimeoutError:
            run = self._run(name)
            raise StepFailed(
                f"{run.get_state_display().lower()} after {self.seconds:g} s. {run.reason}".strip(),
                "what the reason names" if run.reason else self._worker_hint(),
            ) from None
        if run.state != FilterRun.State.DONE:
            raise StepFailed(
                f"{run.get_state_display().lower()}: {run.reason}",
                "where the worker runs: what `manage.py check --tag imagetrove` says of converters, and the log",
            )
        said = []
        outputs = FilterOutput.objects.filter(run=run).select_related("datafile")
        for output in outputs:
            path = folder / output.datafile.filename
            mytardis().fetch(output.datafile_id, path)
            if output.kind in _LOOK_INTO:
                _LOOK_INTO[output.kind](path)
            said.append(f"{output.kind} ({output.datafile.size} bytes)")
        conversion = registry.survey().filters.get(name)
        wanted = {makes.kind for makes in conversion.makes if makes.expected} if conversion else set()
        missing = wanted - {output.kind for output in outputs}
        if missing:
            raise StepFailed(f"made no {' and no '.join(sorted(missing))}", "the worker's log")
        if name == "metadata":
            said.append(self._metadata())
        return ", ".join([*said, run.converter] if run.converter else said) or "done"

    def _metadata(self) -> str:
        found = trial.dataset_parameters(self._dataset_id(), f"{self.names.namespace}dataset")
        if found.get("Modality") != "MR" or found.get("Rows") != ROWS:
            raise StepFailed("the dataset's parameters differ from the series'", "the worker's log")
        return f"{len(found)} parameters of the dataset"

    def _permission(self) -> str:
        """MyTARDIS's own answers, and its pages, for a member of the project, a stranger and nobody."""
        dataset_id, archive_id = self._dataset_id(), self._archive().datafile_id
        for who, user, allowed in self._visitors():
            request = HttpRequest()
            request.user = user
            for what, answer in (
                ("see the dataset", mytardis().may_view_dataset(request, dataset_id)),
                ("download the archive", mytardis().may_download_datafile(request, archive_id)),
            ):
                if bool(answer) is not allowed:
                    raise StepFailed(
                        f"{who} may {'not ' if allowed else ''}{what}",
                        "MyTARDIS's access rights, its AUTHENTICATION_BACKENDS and, for a stranger, its groups",
                    )
            with _visit(user) as client:
                code = _get(client, "tardis_portal.view_dataset", dataset_id=dataset_id).status_code
            if (code == 200) is not allowed:
                raise StepFailed(
                    f"{who} gets {code} for the dataset's page",
                    "MyTARDIS's log" if code >= 500 else "MyTARDIS's access rights and ALLOWED_HOSTS",
                )
        return "a project member may see and download; a stranger and an anonymous visitor may not"

    def _download(self) -> str:
        """Every file over MyTARDIS's own address, as a browser gets it."""
        archive = self._archive()
        outputs = FilterOutput.objects.filter(run__archive=archive).select_related("datafile")
        files = [archive.datafile, *(output.datafile for output in outputs)]
        for who, user, allowed in self._visitors():
            with _visit(user) as client:
                for file in files:
                    answer = _get(
                        client, "api_download_file", api_name="v1", resource_name="dataset_file", pk=file.pk
                    )
                    if not allowed and answer.status_code == 200:
                        raise StepFailed(f"{who} can download {file.filename}", "MyTARDIS's access rights")
                    if allowed and (answer.status_code != 200 or _sha512(answer) != file.sha512sum):
                        raise StepFailed(
                            f"{who} gets {answer.status_code} for {file.filename}, or other bytes than were stored",
                            "the storage box, as the web server's user sees it",
                        )
        return f"{len(files)} files match their checksums; nobody else gets them"

    # What it looks at

    def _visitors(self) -> Iterator[tuple[str, User | AnonymousUser, bool]]:
        yield "a member of the project", User.objects.get(username=self.names.member), True
        yield "a stranger", User.objects.get(username=self.names.stranger), False
        yield "an anonymous visitor", AnonymousUser(), False

    def _series(self) -> Series | None:
        return Series.objects.filter(series_uid=self.series_uid).first()

    def _archive(self) -> Archive:
        return Archive.objects.select_related("datafile").get(series__series_uid=self.series_uid)

    def _dataset_id(self) -> int:
        return self._archive().datafile.dataset_id

    def _run(self, name: str) -> FilterRun | None:
        return FilterRun.objects.filter(archive__series__series_uid=self.series_uid, filter=name).first()

    def _wait_for(self, look: Callable[[], object], seconds: float | None = None) -> object:
        """What ``look`` finds, as soon as it finds something.

        Raises:
            TimeoutError: it did not in time.
        """
        until = time.monotonic() + (seconds or self.seconds)
        while True:
            close_old_connections()
            if found := look():
                return found
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(_POLL_SECONDS)

    # Removal

    def _remove(self) -> str:
        by_hand = f"run again with --remove {self.names.token}, or remove it by hand"
        try:
            left = self._remove_from_spool() + self._stop_filters()
            self._remove_records()
            left += trial.remove(self.names)
            # The watcher may just have been about to note the series as waiting.
            time.sleep(2 * _POLL_SECONDS)
            self._remove_records()
        except (ImageTroveError, DatabaseError, OSError) as error:
            raise StepFailed(f"removal incomplete: {error}", by_hand) from error
        if left:
            raise StepFailed("; ".join(left), by_hand)
        return "everything removed"

    def _remove_records(self) -> None:
        Series.objects.filter(series_uid=self.series_uid).delete()
        InstrumentConfiguration.objects.filter(name=self.names.group).delete()

    def _stop_filters(self) -> list[str]:
        """Let none begin, and wait for those at work, whose files nobody would remove."""
        runs = FilterRun.objects.filter(archive__series__series_uid=self.series_uid)
        states.skip(runs, Reason("self-test", "the self-test is over"))
        until = time.monotonic() + self.seconds
        while runs.filter(state=FilterRun.State.RUNNING).exists():
            if time.monotonic() > until:
                return ["a filter is still running and may leave a file in the storage box"]
            time.sleep(_POLL_SECONDS)
        return []

    def _remove_from_spool(self) -> list[str]:
        """Remove what still waits to be archived, once no worker is at it."""
        try:
            spool = open_spool()
        except ImproperlyConfigured as error:
            return [f"the spool cannot be cleared: {error}"]
        found = False
        until = time.monotonic() + self.seconds
        while files := spool.files(self.series_uid):
            found = True
            with spool.lock(self.series_uid) as mine:
                if mine:
                    spool.discard(self.series_uid, files)
                    continue
            if time.monotonic() > until:
                return [
                    f"{len(files)} files stay in {spool.series_root / self.series_uid}: a worker is at them"
                ]
            time.sleep(_POLL_SECONDS)
        if self._acknowledged and not found and not Archive.objects.filter(series=self._series()).exists():
            return [
                f"the received files are not in {spool.root} but in another spool: remove series/{self.series_uid} there"
            ]
        return []


# Looking into outputs


def _look_into_volume(path: Path) -> None:
    image = nibabel.load(path)
    if sorted(image.shape) != sorted((SLICES, ROWS, COLUMNS)):
        raise StepFailed(f"{path.name} is {image.shape} voxels large", "the converter's version")
    image.get_fdata()


def _look_into_picture(path: Path) -> None:
    with Image.open(path) as picture:
        picture.verify()


_LOOK_INTO = {
    nifti.IMAGE.kind: _look_into_volume,
    minc.IMAGE.kind: _look_into_volume,
    picture.PICTURE.kind: _look_into_picture,
}


def _data_set(path: Path) -> bytes:
    """What follows preamble, magic and file meta group (PS3.10 section 7.1), which the receiver writes itself."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


# Visiting MyTARDIS


@contextlib.contextmanager
def _visit(user: User | AnonymousUser) -> Iterator[Client]:
    """A visitor of the site's own pages, within this process, signed in unless anonymous."""
    client = Client(SERVER_NAME=_host(), raise_request_exception=False)
    if not user.is_anonymous:
        client.force_login(user, backend=LOCAL_BACKEND)
    log = logging.getLogger("django.request")
    level = log.level
    log.setLevel(logging.ERROR)  # refusals are what is wanted here
    try:
        yield client
    finally:
        log.setLevel(level)
        client.logout()  # removes the session


def _host() -> str:
    """A name that the site answers to."""
    for name in django_settings.ALLOWED_HOSTS:
        if name != "*":
            return name.lstrip(".")
    return "localhost"


def _get(client: Client, name: str, **arguments: object):  # noqa: ANN202 (a response, streaming or not)
    """The site's answer at a named address."""
    try:
        path = reverse(name, kwargs=arguments)
    except NoReverseMatch as error:
        raise StepFailed(f"MyTARDIS has no URL named {name}", "MyTARDIS's ROOT_URLCONF") from error
    # Secure, or a site that insists on it would send us there; without the folder that the site is served under.
    return client.get(path.removeprefix(get_script_prefix().rstrip("/")), secure=True)


def _sha512(answer) -> str:  # noqa: ANN001 (a response, streaming or not)
    digest = hashlib.sha512()
    for chunk in answer.streaming_content if answer.streaming else [answer.content]:
        digest.update(chunk)
    return digest.hexdigest()
