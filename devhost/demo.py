"""``make demo``: host, worker and receiver started, three series sent, and what came of them shown.

With ``--once`` everything is checked as a visitor would see it, one JSON object is the last
line, and the exit status says whether all of it was there.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import html
import http.cookiejar
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MANAGE = str(REPOSITORY / "devhost" / "manage.py")

#: A title of each series that is sent, and the kinds of files that its dataset must have.
EXPECTED = {
    "MPRAGE_S2": {"archive", "NIfTI", "Sidecar", "MINC", "Picture"},
    "CBU_DTI_64D_1A": {"archive", "NIfTI", "Sidecar", "Gradients", "MINC", "Picture"},
    "t1_phantom_oblique": {"archive", "NIfTI", "Sidecar", "MINC", "Picture"},
}
PATIENCE_SECONDS = 300


class DemoError(Exception):
    """The demo cannot go on; the text is for whoever started it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=port_number, default=8000)
    parser.add_argument("--scp-port", type=port_number, default=4242)
    parser.add_argument("--once", action="store_true")
    options = parser.parse_args()
    flavour = os.environ.get("DEVHOST_FLAVOUR", "4.7")
    name = ".demo" if flavour == "4.7" else f".demo-{flavour}"
    state = REPOSITORY / (f"{name}-once" if options.once else name)
    if options.port == options.scp_port:
        print("PORT and SCP_PORT must be two ports.", file=sys.stderr)
        return 1
    os.environ.update(
        DEVHOST_STATE=str(state),
        DJANGO_SETTINGS_MODULE="devhost.settings",
        DEVHOST_QUIET_SECONDS="3",
        DEVHOST_FEDERATION=f"http://127.0.0.1:{options.port}",
        PYTHONWARNINGS="ignore",
        PYTHONPATH=os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "devhost")]),
    )
    for name, port in (("PORT", options.port), ("SCP_PORT", options.scp_port)):
        if taken(port):
            print(f"Port {port} is in use; choose another: make demo {name}={port + 1}", file=sys.stderr)
            return 1
    sys.path.insert(0, str(REPOSITORY))
    # Also where a shell has told a command in the background to ignore Ctrl-C, and when its window is closed.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        try:
            claim(state, stack)
            return run(options, state, stack)
        except DemoError as error:
            print(f"\nThe demo stopped: {error}", file=sys.stderr)
            if options.once:
                print(json.dumps({"ok": False, "error": str(error)}))
            return 1
        except KeyboardInterrupt:
            print("\nStopping …")
            return 0


def port_number(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is no port: 1 to 65535")
    return number


def claim(state: Path, stack: contextlib.ExitStack) -> None:
    """Have the demo's folder for ourselves; with ``--once`` it starts empty.

    Raises:
        DemoError: another demo of this checkout runs on it.
    """
    state.mkdir(exist_ok=True)
    lock = stack.enter_context((state / "lock").open("a"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DemoError(f"another one of this checkout is running, on the files in {state}") from None
    if state.name.endswith("-once"):
        for entry in state.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()


def taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def run(options: argparse.Namespace, state: Path, stack: contextlib.ExitStack) -> int:
    started = time.monotonic()
    seconds: dict[str, float] = {}
    say("Preparing the embedded host …")
    prepare()
    seconds["prepare"] = round(time.monotonic() - started, 1)

    logs = state / "logs"
    logs.mkdir(exist_ok=True)
    mark = time.monotonic()
    python = sys.executable
    processes: list[subprocess.Popen] = []
    stack.callback(stop, processes)
    for name, command in {
        "web": [python, MANAGE, "runserver", "--noreload", f"127.0.0.1:{options.port}"],
        "worker": [
            *(python, "-m", "celery", "-A", "tardis.celery.tardis_app", "worker", "--concurrency", "2"),
            *("--without-gossip", "--without-mingle", "--loglevel", "INFO"),
        ],
        "receiver": [
            python,
            MANAGE,
            "imagetrove_scp",
            "--host",
            "127.0.0.1",
            "--port",
            str(options.scp_port),
        ],
    }.items():
        processes.append(start(name, command, logs / f"{name}.log"))
    web, _, receiver = processes
    wait_for_port(options.port, "web", web, logs)
    wait_for_port(options.scp_port, "receiver", receiver, logs)
    seconds["start"] = round(time.monotonic() - mark, 1)

    mark = time.monotonic()
    say("Sending three series by C-STORE: Philips Achieva MPRAGE, Siemens Trio DWI, a generated oblique MR …")
    send_all(state, options.scp_port, processes)
    seconds["send"] = round(time.monotonic() - mark, 1)

    mark = time.monotonic()
    follow(logs)
    seconds["ingest_and_convert"] = round(time.monotonic() - mark, 1)

    base = f"http://127.0.0.1:{options.port}"
    datasets, problems = inspect(base)
    seconds["total"] = round(time.monotonic() - started, 1)
    if not options.once:
        tell(base, options, state, datasets, problems)
        while True:
            time.sleep(3600)
    for problem in problems:
        print(f"missing: {problem}", file=sys.stderr)
    print(json.dumps({"ok": not problems, "datasets": datasets, "seconds": seconds, "missing": problems}))
    return 1 if problems else 0


def say(text: str) -> None:
    print(text, flush=True)


def start(name: str, command: list[str], log: Path) -> subprocess.Popen:
    with log.open("ab") as out:
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=out, start_new_session=True)


def stop(processes: list[subprocess.Popen]) -> None:
    """End all of them, and what a killed one has left; a second Ctrl-C does not cut that short."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_port(port: int, name: str, process: subprocess.Popen, logs: Path) -> None:
    until = time.monotonic() + 60
    log = logs / f"{name}.log"
    while not reachable(port):
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise DemoError(f"the {name} ended at once: {last} (see {log})")
        if time.monotonic() > until:
            raise DemoError(f"the {name} did not start within a minute; see {log}")
        time.sleep(0.2)


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def prepare() -> None:
    """Database, people, and the configuration of three instruments."""
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)

    from django.contrib.auth.models import Group, User
    from tardis.tardis_portal.models import Facility, Instrument

    from devhost.federation.people import PEOPLE
    from tardis_imagetrove.models import InstrumentConfiguration, ProjectMember, Sender

    people = {}
    for name, first, last in (
        ("admin", "Ada", "Administrator"),
        ("facility", "Fay", "Facility"),
        ("researcher", "Rhea", "Researcher"),
        ("stranger", "Sten", "Stranger"),
    ):
        person, _ = User.objects.get_or_create(
            username=name, defaults={"first_name": first, "last_name": last, "email": f"{name}@example.edu"}
        )
        if not person.has_usable_password() or not person.password:
            person.set_password(name)
        person.is_staff = person.is_superuser = name == "admin"
        person.save()
        people[name] = person
    project, _ = Group.objects.get_or_create(name="Project 12345")
    people["researcher"].groups.add(project)
    # Who has not been here yet: she comes through the stand-in for the federation.
    ProjectMember.objects.get_or_create(group=project, mail=PEOPLE["mei"]["mail"])
    managers, _ = Group.objects.get_or_create(name="Facility managers")
    people["facility"].groups.add(managers)
    facility, _ = Facility.objects.get_or_create(
        name="Example Imaging Facility", defaults={"manager_group": managers}
    )
    shared = {
        "owner": people["facility"],
        "default_institution_name": "University of Example",
        "default_institutional_department_name": "Centre for Imaging",
        "default_institutional_address": "1 Example Road",
        "default_operators": ["operator.one@example.edu"],
        "schema_experiment": "http://example.edu/schema/1",
        "schema_dataset": "http://example.edu/schema/2",
        "schema_file": "http://example.edu/schema/3",
    }
    rules = {
        "Philips Achieva": {
            "instrument": [["Manufacturer", "Philips Medical Systems"], ["ManufacturerModelName", "Achieva"]],
            "experiment_title": ["PatientID"],
            "dataset_title": ["SeriesDescription"],
        },
        "Siemens Trio": {
            "instrument": [["Manufacturer", "SIEMENS"], ["ManufacturerModelName", "TrioTim"]],
            "experiment_title": ["StudyDescription"],
            "dataset_title": ["SeriesDescription"],
        },
        "Phantom generator": {
            "instrument": [["ManufacturerModelName", "Phantom generator"]],
            "experiment_title": ["PatientID"],
            "dataset_title": ["SeriesDescription"],
            "project_field": "ReferringPhysicianName",
            "project_pattern": r"\d{5}",
        },
    }
    for name, rule in rules.items():
        instrument, _ = Instrument.objects.get_or_create(name=name, facility=facility)
        if not InstrumentConfiguration.objects.filter(name=name).exists():
            InstrumentConfiguration.objects.create(
                name=name, mytardis_instrument=instrument, **shared, **rule
            )
        # What devhost/send.py calls itself; it sends from this machine only.
        Sender.objects.get_or_create(
            configuration=InstrumentConfiguration.objects.get(name=name),
            ae_title="DEMO",
            address="127.0.0.1",
        )


def send_all(state: Path, port: int, processes: list[subprocess.Popen]) -> None:
    """Send each series from a process of its own, as consoles would; ``processes`` are stopped with the rest."""
    import nibabel

    from tardis_imagetrove.phantom import oblique_mr_series

    carried = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
    phantom = state / "phantom"
    if not phantom.exists():
        oblique_mr_series(
            phantom,
            study_uid="2.25.4242000000000000000000000000000001",
            series_uid="2.25.4242000000000000000000000000000002",
            overrides={"ReferringPhysicianName": "12345^Rhea"},
        )
    series = (
        [carried / "philips_mprage.dcm.gz"],
        [carried / "siemens_dwi_0.dcm.gz", carried / "siemens_dwi_1000.dcm.gz"],
        [phantom],
    )
    senders = [
        subprocess.Popen(
            [sys.executable, str(REPOSITORY / "devhost" / "send.py"), "--port", str(port), *map(str, paths)],
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours
        )
        for paths in series
    ]
    processes += senders
    if any([sender.wait() for sender in senders]):
        raise DemoError("a series was not acknowledged by the receiver")


def follow(logs: Path) -> None:
    """Show how the series stand until all have ended."""
    from django.db import close_old_connections

    from tardis_imagetrove.models import Series

    ended = (Series.State.DONE, Series.State.PARTIAL, Series.State.HELD)
    shown: dict[str, str] = {}
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        close_old_connections()
        series = list(Series.objects.order_by("created"))
        for one in series:
            words = f"{one}: {one.get_state_display().lower()}{': ' + one.reason if one.reason else ''}"
            if shown.get(one.series_uid) != words:
                shown[one.series_uid] = words
                say(f"  {words}")
        if len(series) >= len(EXPECTED) and all(one.state in ended for one in series):
            return
        if time.monotonic() > until:
            raise DemoError(f"not all series were done after {PATIENCE_SECONDS} s; see the logs in {logs}")
        time.sleep(0.3)


class Visitor:
    """Somebody with a browser: signs in, by the form or through the federation, and follows links."""

    def __init__(self, base: str, name: str = "") -> None:
        self.base = base
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        )
        if name:
            _, page = self.get("/local_local")
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.decode())
            if token is None:
                raise DemoError("the sign-in page has no form")
            form = {"username": name, "password": name, "csrfmiddlewaretoken": token[1]}
            action = re.search(r'<form[^>]*action="([^"]+)"', page.decode())
            self.get(action[1] if action else "/login/", urllib.parse.urlencode(form).encode())

    def through_the_federation(self, person: str) -> bytes:
        """Press the sign-in page's button, choose who to be at the stand-in, and send its form to the host."""
        _, page = self.get("/login/")
        button = re.search(r'id="federation-button" href="([^"]+)"', page.decode())
        if button is None:
            raise DemoError("the sign-in page does not offer the federation")
        _, page = self.get(f"{button[1]}?person={person}")
        action = re.search(r'action="([^"]+)"', page.decode())
        assertion = re.search(r'name="assertion" value="([^"]+)"', page.decode())
        if action is None or assertion is None:
            raise DemoError("the stand-in for the federation sends nothing")
        return self.get(action[1], urllib.parse.urlencode({"assertion": assertion[1]}).encode())[1]

    def by_openid_connect(self, person: str) -> bytes:
        """Press the button of the stand-in's OpenID provider, and choose there who to be."""
        _, page = self.get("/login/")
        button = re.search(r'href="([^"]+)" data-provider="stand-in"', page.decode())
        if button is None:
            raise DemoError("the sign-in page does not offer OpenID Connect")
        _, page = self.get(button[1])
        asked = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page.decode())
        if not asked:
            raise DemoError("the stand-in's OpenID provider asks nothing")
        query = urllib.parse.urlencode(
            {**{key: html.unescape(value) for key, value in asked}, "person": person}
        )
        return self.get(f"/stand-in-openid/authorize?{query}")[1]

    def get(self, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        url = urllib.parse.urljoin(self.base, path)
        request = urllib.request.Request(url, data, {"Referer": self.base + "/"})
        try:
            with self._opener.open(request, timeout=60) as answer:
                # A page that leads to the sign-in was not shown.
                return (403 if "/login" in answer.url else answer.status), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


def inspect(base: str) -> tuple[list[dict], list[str]]:
    """Every dataset as its owner sees and downloads it, and what is missing or seen by others."""
    from django.urls import reverse
    from tardis.tardis_portal.models import DatasetParameter

    from tardis_imagetrove.models import FilterOutput, Series

    owner, member, stranger, nobody = (
        Visitor(base, name) for name in ("facility", "researcher", "stranger", "")
    )
    datasets, problems = [], []
    named = Visitor(base)
    named.through_the_federation("mei")
    if b"ID-LINK" not in Visitor(base).through_the_federation("admin"):
        problems.append("who comes with the administrator's address is not refused")
    # The same person by the other protocol, who is recognised by the shared token.
    moved = Visitor(base)
    moved.by_openid_connect("mei")
    if b"ID-LINK" not in Visitor(base).by_openid_connect("admin"):
        problems.append("who comes with the administrator's address by OpenID Connect is not refused")
    for series in Series.objects.select_related("dataset_key").order_by("created"):
        if series.dataset_key is None:
            problems.append(f"{series}: {series.reason}")
            continue
        dataset = series.dataset_key.dataset
        archive = series.archives.first()
        kinds = {archive.datafile: "archive"} | {
            output.datafile: output.kind for output in FilterOutput.objects.filter(run__archive=archive)
        }
        missing = EXPECTED.get(dataset.description, {"archive"}) - set(kinds.values())
        problems += [f"{dataset.description}: no {kind}" for kind in sorted(missing)]
        if series.state not in (Series.State.DONE, Series.State.PARTIAL):
            problems.append(f"{dataset.description}: {series.get_state_display()}: {series.reason}")
        parameters = DatasetParameter.objects.filter(parameterset__dataset=dataset).count()
        if not parameters:
            problems.append(f"{dataset.description}: no metadata")
        page = reverse("tardis_portal.view_dataset", kwargs={"dataset_id": dataset.pk})
        status, body = owner.get(page)
        if status != 200:
            problems.append(f"{dataset.description}: its page answers {status}")
        for datafile in kinds:
            if datafile.filename not in body.decode():
                problems.append(f"{dataset.description}: {datafile.filename} is not on the page")
            if not all(dfo.verified for dfo in datafile.file_objects.all()):
                problems.append(f"{dataset.description}: {datafile.filename} is not verified")
            status, content = owner.get(datafile.download_url)
            if status != 200 or hashlib.sha512(content).hexdigest() != datafile.sha512sum:
                problems.append(f"{dataset.description}: {datafile.filename} downloads with status {status}")
            visitors = {"a stranger": stranger, "an anonymous visitor": nobody}
            for who, visitor in visitors.items():
                for path in (page, datafile.download_url):
                    if visitor.get(path)[0] == 200:
                        problems.append(f"{dataset.description}: {who} can see {path}")
            theirs = series.project == "Project 12345"
            if theirs and member.get(datafile.download_url)[0] != 200:
                problems.append(f"{dataset.description}: a member of its project cannot download")
            for how, visitor in {"Rapid Connect": named, "OpenID Connect": moved}.items():
                if (visitor.get(datafile.download_url)[0] == 200) is not theirs:
                    problems.append(
                        f"{dataset.description}: who was named on the project and came by {how} "
                        f"can{'not' if theirs else ''} download"
                    )
        datasets.append(
            {
                "title": dataset.description,
                "files": sorted(datafile.filename for datafile in kinds),
                "parameters": parameters,
                "state": series.state,
                "reason": series.reason,
                "address": base + page,
            }
        )
    for title in EXPECTED.keys() - {dataset["title"] for dataset in datasets}:
        problems.append(f"there is no dataset {title}")
    return datasets, problems


def tell(
    base: str, options: argparse.Namespace, state: Path, datasets: list[dict], problems: list[str]
) -> None:
    say("\nOpen in a browser:")
    for dataset in datasets:
        say(f"  {dataset['title']:24} {dataset['address']}   ({len(dataset['files'])} files)")
    for problem in problems:
        say(f"  ! {problem}")
    say(
        f"""
  All experiments          {base}/
  Received series          {base}/apps/tardis-imagetrove/
  Administration           {base}/admin/

Sign in (under "Local sign-in", name and password alike) as
  facility     the owner, who sees all three
  researcher   a member of Project 12345, who sees the generated series only
  stranger     who sees nothing
  admin        the administrator
or by one of the stand-in's two buttons on the sign-in page, Rapid Connect and OpenID Connect: 美 王 is named on Project 12345 in
advance, and Somebody Else, who has the administrator's address, is refused. Both buttons lead a person to the same account.

Send your own:   make send DIR=/path/to/dicom{"" if options.scp_port == 4242 else f" SCP_PORT={options.scp_port}"}
Files:           {state / "store"}
Logs:            {state / "logs"}

Ctrl-C stops all of it."""
    )


if __name__ == "__main__":
    sys.exit(main())
