"""How pages and lists behave with very many series: queries and median times on PostgreSQL with generated rows.

    make bench-flat SERIES=1000000

It starts a PostgreSQL of its own in a temporary folder (as user ``postgres`` if it is run by root), fills it by SQL and
asks each page through Django's test client. It prints a table and, with ``--json``, writes one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pwd
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def postgresql() -> Iterator[None]:
    """A PostgreSQL of our own, named by the usual variables while it runs."""
    programs = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    if not programs and not shutil.which("initdb"):
        sys.exit("PostgreSQL (initdb, pg_ctl) is not installed.")
    bin_ = Path(programs[-1] if programs else Path(str(shutil.which("initdb"))).parent)
    folder = Path(tempfile.mkdtemp(prefix="flat-"))
    as_user: dict[str, object] = {}
    if os.getuid() == 0:
        postgres = pwd.getpwnam("postgres")
        os.chown(folder, postgres.pw_uid, postgres.pw_gid)
        as_user = {"user": postgres.pw_uid, "group": postgres.pw_gid, "extra_groups": []}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run(
            [str(bin_ / command[0]), *command[1:]], check=True, stdout=subprocess.DEVNULL, cwd="/", **as_user
        )

    try:
        run("initdb", "-D", str(folder / "data"), "-U", "devhost", "-A", "trust")
        options = f"-p {port} -k {folder} -c fsync=off -c shared_buffers=512MB -c max_wal_size=8GB"
        run("pg_ctl", "-D", str(folder / "data"), "-o", options, "-l", str(folder / "log"), "-w", "start")
        os.environ |= {
            "DEVHOST_DB": "postgresql",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": "devhost",
            "PGDATABASE": "devhost",
        }
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "devhost", "devhost")
        yield
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def insert(model, count: int, **columns: str) -> None:  # noqa: ANN001 (a model class)
    """``count`` rows by one statement; ``i`` counts from 1, and a column that is not given has what its type is without one."""
    from django.db import connection

    empty = {
        "JSONField": "'[]'",
        "BooleanField": "false",
        "DateTimeField": "now()",
        "CharField": "''",
        "TextField": "''",
    }
    for field in model._meta.local_concrete_fields:
        if field.column not in columns:
            kind = field.get_internal_type()
            columns[field.column] = (
                "NULL" if field.null else "i" if field.primary_key else empty.get(kind, "0")
            )
    names = ", ".join(f'"{name}"' for name in columns)
    values = ", ".join(columns.values())
    with connection.cursor() as cursor:
        cursor.execute(
            f'INSERT INTO "{model._meta.db_table}" ({names}) SELECT {values} FROM generate_series(1, {count}) i'
        )


def fill(count: int) -> None:
    """``count`` series of 50 a project, 10 a dataset and 100 an experiment, each with archive, run, output and events."""
    from django.contrib.auth.models import Group, User
    from django.contrib.contenttypes.models import ContentType
    from django.db import connection
    from tardis.tardis_portal import models as portal

    from tardis_imagetrove import models as ours

    owner = User.objects.create_user("owner")
    User.objects.create_superuser("staff")
    member = User.objects.create_user("member")
    group = Group.objects.create(name="Project 00001")
    member.groups.add(group)
    box = portal.StorageBox.create_local_box(tempfile.gettempdir())
    instruments = [
        ours.InstrumentConfiguration.objects.create(
            name=f"Scanner {number}",
            instrument=[["Manufacturer", str(number)]],
            experiment_title=["PatientID"],
            dataset_title=["StudyDescription"],
            schema_experiment="http://example.edu/1",
            schema_dataset="http://example.edu/2",
            schema_file="http://example.edu/3",
            owner=owner,
        )
        for number in range(10)
    ]
    first = instruments[0].pk
    sets, experiments = max(1, count // 10), max(1, count // 100)
    insert(
        portal.Experiment,
        experiments,
        title="'Participant ' || i",
        created_by_id=str(owner.pk),
        public_access="1",
    )
    insert(portal.Dataset, sets, description="'Study ' || i")
    insert(
        portal.Dataset.experiments.through,
        sets,
        dataset_id="i",
        experiment_id=f"1 + (i - 1) * {experiments} / {sets}",
    )
    kind = ContentType.objects.get_for_model(portal.Experiment).pk
    for plugin, entity, every in (("django_user", owner.pk, 1), ("django_group", group.pk, 100)):
        insert(
            portal.ObjectACL,
            experiments // every,
            id="(SELECT coalesce(max(id), 0) FROM tardis_portal_objectacl) + i",
            canRead="true",
            isOwner="true" if plugin == "django_user" else "false",
            aclOwnershipType="1",
            pluginId=f"'{plugin}'",
            entityId=f"'{entity}'",
            content_type_id=str(kind),
            object_id=f"i * {every}",
        )
    insert(ours.ExperimentKey, experiments, key="md5(i::text)", experiment_id="i")
    insert(
        ours.DatasetKey,
        sets,
        key="md5(i::text)",
        experiment_key_id=f"1 + (i - 1) * {experiments} / {sets}",
        dataset_id="i",
    )
    insert(
        ours.Series,
        count,
        series_uid="'1.2.826.0.1.' || i",
        study_uid="'1.2.826.0.2.' || i / 10",
        description="(ARRAY['t1_mprage', 't2_tse', 'bold_rest', 'dti_64', 'localizer'])[1 + i % 5] || ' ' || i % 997",
        modality="(ARRAY['MR', 'CT', 'PT'])[1 + i % 3]",
        configuration_id=f"{first} + i % 10",
        state="CASE WHEN i % 5000 = 0 THEN 'held' WHEN i % 20 = 0 THEN 'partial' ELSE 'done' END",
        reason_code="CASE WHEN i % 5000 = 0 THEN 'no-instrument' ELSE '' END",
        project="'Project ' || lpad((1 + i / 5000)::text, 5, '0')",
        dataset_key_id="1 + (i - 1) / 10",
        placed_by="'{}'",
        assigned="'{}'",
        deidentification="'{}'",
        directory="lpad((i % 10)::text, 4, '0') || '_series'",
        created="now() - i * interval '90 seconds'",
        modified="now() - i * interval '90 seconds'",
    )
    for number, name in ((0, "zip"), (1, "png")):
        insert(
            portal.DataFile,
            count,
            id=f"i + {number * count}",
            dataset_id="1 + (i - 1) / 10",
            filename=f"i || '.{name}'",
            directory="lpad((i % 10)::text, 4, '0') || '_series'",
            size="1000",
            mimetype="'application/octet-stream'",
            version="1",
        )
        insert(
            portal.DataFileObject,
            count,
            id=f"i + {number * count}",
            datafile_id=f"i + {number * count}",
            storage_box_id=str(box.pk),
            uri="i::text",
            verified="true",
        )
    insert(ours.Archive, count, series_id="i", version="1", datafile_id="i", instance_count="10")
    insert(ours.FilterRun, count, archive_id="i", filter="'picture'", state="'done'", options="'{}'")
    insert(ours.FilterOutput, count, run_id="i", datafile_id=f"i + {count}", kind="'Picture'")
    insert(ours.Event, count, series_id="i", kind="'done'", at="now() - i * interval '90 seconds'")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def ask(rounds: int) -> list[dict[str, object]]:
    """Queries and milliseconds of each page, and its slowest statement."""
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    clients = {}
    for name in ("staff", "member"):
        clients[name] = Client()
        clients[name].force_login(
            User.objects.get(username=name), "django.contrib.auth.backends.ModelBackend"
        )

    def page(who: str, path: str) -> Callable[[], None]:
        def get() -> None:
            answer = clients[who].get(path)
            assert answer.status_code == 200, (path, answer.status_code)

        return get

    board = "/apps/tardis-imagetrove/"
    pages = {
        "board": page("staff", board),
        "board, held": page("staff", f"{board}?state=held"),
        "board, archived, page 100": page("staff", f"{board}?state=done&page=100"),
        "board, by words": page("staff", f"{board}?q=mprage+12"),
        "board, by UID": page("staff", f"{board}?q=1.2.826.0.1.777"),
        "board, by instrument": page("staff", f"{board}?instrument=3"),
        "one series": page("staff", f"{board}series/777/"),
        "admin's list": page("staff", "/admin/tardis_imagetrove/series/"),
        "API's list": page("staff", "/api/v1/tardis-imagetrove_series/?format=json"),
        "API's list, member": page("member", "/api/v1/tardis-imagetrove_series/?format=json"),
        "imagetrove_status": lambda: call_command("imagetrove_status", stdout=io.StringIO()),
        "mine, member": page("member", f"{board}mine/"),
        "scans, member": page("member", f"{board}scans/"),
        "scans, staff": page("staff", f"{board}scans/"),
        "scans by words, staff": page("staff", f"{board}scans/?q=mprage+777"),
        "scans by modality, staff": page("staff", f"{board}scans/?modality=CT"),
        "scans of an experiment, staff": page("staff", f"{board}scans/?experiment=77"),
    }
    found = []
    for name, do in pages.items():
        with contextlib.suppress(SystemExit):
            do()
        times, slowest, queries = [], ("", 0.0), 0
        for _ in range(rounds):
            with CaptureQueriesContext(connection) as caught:
                begun = time.perf_counter()
                with contextlib.suppress(SystemExit):
                    do()
                times.append((time.perf_counter() - begun) * 1000)
            queries = len(caught)
            slowest = max(((one["sql"], float(one["time"])) for one in caught), key=lambda one: one[1])
        row = {
            "page": name,
            "queries": queries,
            "median_ms": round(statistics.median(times)),
            "slowest_ms": round(slowest[1] * 1000),
            "slowest": slowest[0],
        }
        found.append(row)
        print(
            f"{name:32} {queries:3} queries {row['median_ms']:7} ms   slowest statement {row['slowest_ms']:6} ms",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--slowest", action="store_true", help="print each page's slowest statement")
    options = parser.parse_args()
    with postgresql(), tempfile.TemporaryDirectory() as state:
        os.environ |= {"DEVHOST_STATE": state, "DJANGO_SETTINGS_MODULE": "devhost.settings"}
        sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "devhost")]
        import django
        from django.core.management import call_command
        from django.test.utils import setup_test_environment

        django.setup()
        setup_test_environment()
        call_command("migrate", verbosity=0)
        begun = time.monotonic()
        fill(options.series)
        print(f"{options.series:,} series, filled in {time.monotonic() - begun:.0f} s\n", flush=True)
        found = ask(options.rounds)
        if options.slowest:
            for row in found:
                print(f"\n{row['page']}: {row['slowest_ms']} ms\n{str(row['slowest'])[:3000]}")
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
