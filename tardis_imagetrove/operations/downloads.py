"""Scans to take away: what was chosen, listed with sizes and checksums, as one TAR that cannot be short."""

from __future__ import annotations

import hashlib
import json
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

from django.contrib.auth.models import User
from django.db.models import F, Prefetch, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from ..conversion import registry
from ..errors import PermanentError
from ..models import Archive, FilterRun, ScanDownload, Series
from ..mytardis import mytardis
from ..mytardis.reading import StoredFile, experiments_of, stored_files
from ..tar import Member, Tar

AS_RECEIVED = "Archive"
"""The kind of a series' own archive."""
MADE = "Made"
"""The kind of a file that was made for a download."""
MOST_SERIES = 5000
MOST_FILES = 50_000
KEPT_DAYS = 30
"""How long the address of a download holds."""
_BATCH = 500
_LONGEST_NAME = 100
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


class AccessEnded(PermanentError):
    """Somebody may not have a file any more."""


def kinds() -> list[str]:
    """Kinds of files that can be chosen."""
    return [AS_RECEIVED, *registry.kinds()]


@dataclass(frozen=True)
class Wanted:
    """A file to download.

    Attributes:
        id, dataset: of the DataFile and its dataset.
        name: its path in the TAR.
        size: bytes.
        sha512: in hexadecimal.
        series: the SeriesInstanceUID that MyTARDIS shows.
    """

    id: int
    dataset: int
    name: str
    size: int
    sha512: str
    kind: str
    series: str


@dataclass(frozen=True)
class LeftOut:
    """A file that is not to be had, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Plan:
    """What a choice comes to.

    Attributes:
        series: number of series.
    """

    files: tuple[Wanted, ...]
    left_out: tuple[LeftOut, ...]
    series: int

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def plan(request: HttpRequest, series: QuerySet[Series], chosen: Iterable[str]) -> Plan:
    """The files of some kinds of series that the visitor may see, in the order of their names.

    A file that the visitor may not know of is not there at all; one that cannot be had is left out with the reason.

    Args:
        series: within what MyTARDIS lets the visitor see.

    Raises:
        PermanentError: there are too many.
    """
    wanted, ids = set(chosen), list(series.order_by("pk").values_list("pk", flat=True)[: MOST_SERIES + 1])
    if len(ids) > MOST_SERIES:
        raise PermanentError(f"more than {MOST_SERIES} series are too many for one download: select fewer")
    files: list[Wanted] = []
    left_out: list[LeftOut] = []
    taken: set[str] = set()
    for start in range(0, len(ids), _BATCH):
        for folder, kind, public_uid, dataset_id, file, may in _offered(
            request, ids[start : start + _BATCH], wanted
        ):
            name = _unique(f"{folder}/{_component(file.filename)}", taken)
            if not may:
                left_out.append(LeftOut(name, "you may see it, but not download it"))
            elif not file.verified:
                left_out.append(LeftOut(name, "MyTARDIS has no verified copy of it"))
            elif len(file.sha512) != 128:
                left_out.append(LeftOut(name, "MyTARDIS keeps no SHA-512 checksum of it"))
            else:
                files.append(Wanted(file.id, dataset_id, name, file.size, file.sha512, kind, public_uid))
        if len(files) > MOST_FILES:
            raise PermanentError(f"more than {MOST_FILES} files are too many for one download: select fewer")
    by_name = sorted(files, key=lambda file: file.name)
    return Plan(tuple(by_name), tuple(sorted(left_out, key=lambda one: one.name)), len(ids))


def _offered(
    request: HttpRequest, ids: list[int], wanted: set[str]
) -> Iterator[tuple[str, str, str, int, StoredFile, bool]]:
    """Folder, kind, UID, dataset and file of each that the visitor may know of, and whether they may have it."""
    archives: dict[int, Archive] = {}
    runs = Prefetch("runs", FilterRun.objects.prefetch_related("outputs"))
    here = Archive.objects.filter(series__in=ids, datafile__dataset=F("series__dataset_key__dataset"))
    for archive in (
        here.select_related("series__dataset_key__dataset").prefetch_related(runs).order_by("version")
    ):
        archives[archive.series_id] = archive
    by_dataset: dict[int, list[tuple[Series, str, int]]] = {}
    for archive in archives.values():
        series = archive.series
        found = by_dataset.setdefault(series.dataset_key.dataset_id, [])
        if AS_RECEIVED in wanted:
            found.append((series, AS_RECEIVED, archive.datafile_id))
        found += [
            (series, output.kind, output.datafile_id)
            for run in archive.runs.all()
            for output in run.outputs.all()
            if output.kind in wanted
        ]
    titles = experiments_of(by_dataset, mytardis().visible_experiments(request.user))
    for dataset_id, found in by_dataset.items():
        ids = [datafile_id for _, _, datafile_id in found]
        viewable = mytardis().viewable_datafiles(request, dataset_id, ids)
        allowed = mytardis().downloadable_datafiles(request, dataset_id, viewable)
        stored = stored_files(viewable)
        experiment = next((one.title for one in titles.get(dataset_id, ())), "")
        for series, kind, datafile_id in found:
            if (file := stored.get(datafile_id)) is not None:
                dataset = series.dataset_key.dataset.description
                folder = "/".join(map(_component, (experiment or "scans", dataset, series.directory)))
                yield folder, kind, series.public_uid, dataset_id, file, datafile_id in allowed


def _component(text: str) -> str:
    """A name that Windows, macOS and Linux all take, and none takes for a path."""
    name = unicodedata.normalize("NFC", text)
    name = re.sub(r'[<>:"/\\|?*]', "_", "".join(c if c.isprintable() else "_" for c in name))
    name = name.strip()[:_LONGEST_NAME].rstrip(". ") or "_"
    return f"_{name}" if _RESERVED.match(name) or name.startswith(("-", "~")) else name


def _unique(name: str, taken: set[str]) -> str:
    """``name``, numbered if another is the same but for case."""
    folder, _, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    found, number = name, 1
    while found.casefold() in taken:
        number += 1
        found = f"{folder}/{stem}_{number}{dot}{ending}"
    taken.add(found.casefold())
    return found


@dataclass(frozen=True)
class Made:
    """Files that were made for a download.

    Attributes:
        files: text by name.
        of: by dataset, the DataFiles that they were made of.
    """

    files: Mapping[str, str]
    of: Mapping[int, Sequence[int]]


def keep(user: User, plan: Plan, made: Made | None = None) -> ScanDownload:
    """Remember what is downloaded, under an address of its own; addresses that are too old are forgotten."""
    ScanDownload.objects.filter(created__lt=timezone.now() - timedelta(days=KEPT_DAYS)).delete()
    return ScanDownload.objects.create(
        user=user,
        files=[list(asdict(file).values()) for file in plan.files],
        left_out=[[one.name, one.why] for one in plan.left_out],
        made=asdict(made) if made else {},
    )


class Packed:
    """A kept download as a TAR.

    Its first members are ``manifest.json`` and ``SHA512SUMS`` (as ``sha512sum --check`` takes it); what was made for it
    and the files follow.

    Attributes:
        listed: every file, as the manifest has it.
        etag: changes with any byte.
        folder: in which all of it unpacks.
        size: bytes of the whole.
    """

    def __init__(self, kept: ScanDownload) -> None:
        self.files = tuple(Wanted(*row) for row in kept.files)
        self.left_out = tuple(LeftOut(*row) for row in kept.left_out)
        made = [(name, text.encode()) for name, text in kept.made.get("files", {}).items()]
        self._made_of = {int(dataset): ids for dataset, ids in kept.made.get("of", {}).items()}
        self.folder = f"{'bids' if made else 'scans'}-{kept.created:%Y%m%d-%H%M%S}"
        listed: list[dict[str, object]] = [
            {"name": name, "size": len(content), "sha512": hashlib.sha512(content).hexdigest(), "kind": MADE}
            for name, content in made
        ]
        listed += [
            {
                "name": file.name,
                "size": file.size,
                "sha512": file.sha512,
                "kind": file.kind,
                "series": file.series,
                "datafile": file.id,
            }
            for file in self.files
        ]
        self.listed = listed
        mtime = int(kept.created.timestamp())
        members = [Member(f"{self.folder}/{one['name']}", int(str(one["size"])), mtime) for one in listed]
        alone = Tar(members)
        manifest = {
            "created": f"{kept.created:%Y-%m-%dT%H:%M:%SZ}",
            # Counted from the first file's header, which the manifest's own length moves.
            "files": [one | {"at": alone.content_at(index)} for index, one in enumerate(listed)],
            "left_out": [asdict(one) for one in self.left_out],
        }
        sums = "".join(f"{one['sha512']}  {one['name']}\n" for one in listed)
        self._first = [
            ("manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode()),
            ("SHA512SUMS", sums.encode()),
        ]
        first = [Member(f"{self.folder}/{name}", len(content), mtime) for name, content in self._first]
        self._tar = Tar([*first, *members])
        self.size = self._tar.size
        self.filename = f"{self.folder}.tar"
        digest = hashlib.sha256(f"{kept.token} {mtime}".encode())
        for _, content in self._first:
            digest.update(content)
        self._first += made
        self.etag = f'"{digest.hexdigest()[:32]}"'

    def problems(self, request: HttpRequest) -> list[str]:
        """Why the visitor cannot have all of it now, file by file."""
        found = []
        by_dataset: dict[int, list[int]] = {}
        for file in self.files:
            by_dataset.setdefault(file.dataset, []).append(file.id)
        allowed: set[int] = set()
        stored: dict[int, StoredFile] = {}
        for dataset_id, ids in self._made_of.items():
            if not set(ids) <= mytardis().downloadable_datafiles(request, dataset_id, ids):
                found.append(f"what was made of scans of dataset {dataset_id} may no longer be downloaded")
        for dataset_id, ids in by_dataset.items():
            allowed |= mytardis().downloadable_datafiles(request, dataset_id, ids)
            for start in range(0, len(ids), _BATCH):
                stored |= stored_files(ids[start : start + _BATCH])
        for file in self.files:
            now = stored.get(file.id)
            if now is None:
                found.append(f"{file.name} has been deleted")
            elif file.id not in allowed:
                found.append(f"{file.name} may no longer be downloaded")
            elif not now.verified:
                found.append(f"{file.name} no longer has a verified copy in MyTARDIS")
            elif (now.size, now.sha512) != (file.size, file.sha512):
                found.append(f"{file.name} has been changed")
        return found

    def read(self, start: int, stop: int, access: Access) -> Iterator[bytes]:
        """Bytes of the TAR.

        Raises:
            PermanentError, RetriableError, ShortContent: the rest cannot be had; what was given until then is right.
        """

        def content(index: int, first: int, last: int) -> Iterator[bytes]:
            if index < len(self._first):
                return iter([self._first[index][1][first:last]])
            return _bytes_of(self.files[index - len(self._first)], first, last, access)

        return self._tar.read(start, stop, content)


class Access:
    """Asks again, while a download lasts, whether its owner may have what comes next.

    Args:
        every: bytes after which it is asked again within a file.
        seconds: an answer about a dataset counts so long for its next file.
    """

    def __init__(self, request: HttpRequest, every: int = 64 * 1024**2, seconds: float = 1.0) -> None:
        self._user_id, self._tokens = request.user.pk, getattr(request.user, "allowed_tokens", [])
        self.every, self._seconds = every, seconds
        self._asked: dict[int, float] = {}

    def demand(self, file: Wanted, at_start: bool) -> None:
        """Raise AccessEnded if they may not."""
        now = time.monotonic()
        if at_start and now - self._asked.get(file.dataset, -self._seconds) < self._seconds:
            return
        # A user who is read anew: MyTARDIS remembers the groups of one that it was asked about.
        user = User.objects.filter(pk=self._user_id, is_active=True).first()
        if user is not None:
            user.allowed_tokens = self._tokens
            request = HttpRequest()
            request.user = user
            if file.id in mytardis().downloadable_datafiles(request, file.dataset, [file.id]):
                self._asked[file.dataset] = now
                return
        raise AccessEnded(f"{file.name} may no longer be downloaded")


def _bytes_of(file: Wanted, first: int, last: int, access: Access) -> Iterator[bytes]:
    """A file's bytes; of one that is read whole the last are held back until its checksum is known to be right."""
    access.demand(file, at_start=True)
    digest = hashlib.sha512() if (first, last) == (0, file.size) else None
    left, since, held = last - first, 0, b""
    for chunk in mytardis().read_from(file.id, first):
        if held:
            yield held
        held = chunk[:left]
        left -= len(held)
        since += len(held)
        if digest:
            digest.update(held)
        if not left:
            break
        if since >= access.every:
            access.demand(file, at_start=False)
            since = 0
    if digest and digest.hexdigest() != file.sha512:
        raise PermanentError(f"{file.name} is not what was stored (checksum differs)")
    yield held


def part_of(asked: str, size: int) -> tuple[int, int] | None:
    """What a ``Range`` header asks for, as two offsets (RFC 9110, section 14.2); ``None`` for the whole.

    Several ranges, and what is malformed, count as the whole.

    Raises:
        ValueError: nothing of it is within ``size`` bytes.
    """
    found = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", asked.strip())
    if found is None or found.groups() == ("", "") or len(asked) > 60:
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= stop:
        raise ValueError(asked)
    return start, stop
