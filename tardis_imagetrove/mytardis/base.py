"""What every MyTARDIS has in common: experiments, datasets and files, found, made and read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from django.contrib.auth.models import User
from django.core.files import File
from django.core.files.storage import FileSystemStorage
from django.db import DatabaseError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from ..disk import sync_file, sync_folder
from ..errors import PermanentError, RetriableError

_BLOCK = 1024 * 1024
#: The app's folder in a storage box.
_FOLDER = "imagetrove"


@dataclass(frozen=True)
class FileRecord:
    """A file to keep in a dataset.

    Attributes:
        directory: its directory in the dataset; never empty, since MyTARDIS's uniqueness of
            (dataset, directory, filename, version) does not hold for none.
        take: counts up while the file is made again, so that each has a place of its own in the
            storage box and the former stays until the new one is recorded.
    """

    dataset_id: int
    directory: str
    filename: str
    version: int
    mimetype: str
    take: int = 1

    @property
    def uri(self) -> str:
        """Its name in the storage box.

        MyTARDIS would make it from the dataset's title, which may be longer than a file system
        allows, and without the version, so that one version overwrites another on S3.
        """
        version = f"{self.version}" if self.take == 1 else f"{self.version}.{self.take}"
        return f"{_FOLDER}/{self.dataset_id}/{self.directory}/{version}/{self.filename}"


@dataclass(frozen=True)
class Sums:
    """Size in bytes and checksums, in hexadecimal, of a stream of bytes."""

    size: int
    md5: str
    sha512: str


class Summing(io.RawIOBase):
    """A readable stream over chunks of bytes, which sums what it hands out.

    Storages read it by :meth:`read` (S3) or :meth:`chunks` (file systems); it goes forward only.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")
        self._md5, self._sha512, self._size = hashlib.md5(usedforsecurity=False), hashlib.sha512(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # Storages rewind before they read; a stream that has not begun is rewound already.
        if (offset, whence, self._size) != (0, io.SEEK_SET, 0):
            raise io.UnsupportedOperation("goes forward only")
        return 0

    def tell(self) -> int:
        return self._size

    def readinto(self, buffer) -> int:  # noqa: ANN001 (any writable buffer)
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        count = min(len(buffer), len(self._left))
        taken, self._left = self._left[:count], self._left[count:]
        buffer[:count] = taken
        self._md5.update(taken)
        self._sha512.update(taken)
        self._size += count
        return count

    def read(self, size: int = -1) -> bytes:
        """``size`` bytes, fewer only at the end: S3 clients take a short read for the end."""
        if size is None or size < 0:
            return self.readall()
        parts = []
        while size > 0 and (part := super().read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def chunks(self, chunk_size: int = _BLOCK) -> Iterator[bytes]:
        while chunk := self.read(chunk_size):
            yield chunk

    def multiple_chunks(self, chunk_size: int = _BLOCK) -> bool:
        return True

    def sums(self) -> Sums:
        """Of all that was read so far."""
        return Sums(self._size, self._md5.hexdigest(), self._sha512.hexdigest())


def file_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """A file's bytes, a block at a time."""
    while block := file.read(_BLOCK):
        yield block


def drain(stream: Summing) -> Sums:
    """Read a stream to its end for its sums alone."""
    for _ in stream.chunks():
        pass
    return stream.sums()


def _storage_of(box):  # noqa: ANN001, ANN202 (a StorageBox and its Django storage)
    storage = box.get_initialised_storage_instance()
    if hasattr(storage, "max_memory_size"):
        # django-storages holds a whole S3 object in memory while it is read, unless it has a limit.
        storage.max_memory_size = 16 * _BLOCK
    return storage


def _demand_folder(storage, box) -> None:  # noqa: ANN001 (a Django storage and its StorageBox)
    """Django would make it anew: on another disk, where it is out of sight once the box's own is mounted.

    Raises:
        RetriableError: the folder of a box on a file system, which has files already, is not there.
    """
    if not isinstance(storage, FileSystemStorage) or Path(storage.location).exists():
        return
    if box.file_objects.exists():
        raise RetriableError(
            f"storage box {box}: its folder {storage.location} does not exist any more: is its disk mounted?"
        )


def _make_durable(storage, name: str) -> None:  # noqa: ANN001 (a Django storage)
    """Have what was written survive a power cut, as far as it is on a disk of ours."""
    try:
        path = Path(storage.path(name))
    except NotImplementedError:  # S3 keeps what it acknowledges
        return
    sync_file(path)
    for folder in path.parents[: len(Path(name).parts)]:
        sync_folder(folder)


class MyTardis(ABC):
    """One flavour of MyTARDIS; subclasses say who may see what, which is where flavours differ."""

    # Access

    @abstractmethod
    def grant_experiment(self, experiment_id: int, owner_id: int, group_id: int | None) -> None:
        """Make ``owner_id`` the owner and let the group's members see and download; again is no harm."""

    def inherit_dataset_access(self, experiment_id: int, dataset_id: int) -> None:
        """Give a new dataset its experiment's access, where the flavour keeps access per dataset."""

    def inherit_datafile_access(self, datafile_id: int) -> None:
        """Give a new file its dataset's access, where the flavour keeps access per file."""

    def join_project(self, experiment_id: int, owner_id: int, group_id: int, ours: QuerySet) -> None:
        """Join the experiment to MyTARDIS's project of the group's name, where the flavour has projects.

        A project that does not exist is made, the owner's. Call it in a transaction.

        Args:
            ours: ids of the experiments that came of instruments: a project that holds one of the group's is the right one.

        Raises:
            PermanentError: the project of that name was made by somebody who may not see the experiment.
        """

    def remove_projects_of(self, username: str) -> None:
        """Remove the projects that a user made, where the flavour has projects."""

    @abstractmethod
    def visible_experiments(self, user: User) -> QuerySet:
        """All experiments whose page, and so whose title, MyTARDIS shows the user; for use within another query."""

    @abstractmethod
    def visible_datasets(self, user: User) -> QuerySet:
        """All datasets that :meth:`may_view_dataset` lets the user see, in one query for use within another.

        MyTARDIS itself can only be asked about one at a time, and its ``safe`` managers answer
        otherwise than its pages do, on 5.0 with more than these show.
        """

    @staticmethod
    @abstractmethod
    def may_view_dataset(request: HttpRequest, dataset_id: int) -> bool:
        """What MyTARDIS's dataset page asks: whether ``request.user`` may see the dataset."""

    @staticmethod
    @abstractmethod
    def may_download_datafile(request: HttpRequest, datafile_id: int) -> bool:
        """What MyTARDIS asks before it hands out a file's bytes."""

    @abstractmethod
    def viewable_datafiles(
        self, request: HttpRequest, dataset_id: int, datafile_ids: Iterable[int]
    ) -> frozenset[int]:
        """Those files of a dataset that ``request.user``, who may see the dataset, may know of."""

    @abstractmethod
    def downloadable_datafiles(
        self, request: HttpRequest, dataset_id: int, datafile_ids: Iterable[int]
    ) -> frozenset[int]:
        """Those files of a dataset for which :meth:`may_download_datafile` holds, in few queries."""

    @staticmethod
    def may_see_sensitive(request: HttpRequest, dataset_id: int) -> bool:
        """Whether the user may see parameters that are marked as sensitive, where the flavour marks them."""
        return True

    @abstractmethod
    def group_admins(self, group_id: int) -> list[str]:
        """Names of the users who are no staff and may manage the group, as whoever makes one in MyTARDIS may."""

    @staticmethod
    def missing_setting() -> str:
        """Why MyTARDIS could not make any account as it is set up; empty if it can."""
        return ""

    @staticmethod
    def site_problems() -> list[tuple[str, str]]:
        """What in the site's settings makes MyTARDIS's own pages fail, each with what to do about it."""
        return []

    @staticmethod
    def database_problems() -> list[tuple[str, str]]:
        """The same of the database's content."""
        return []

    # Experiments and datasets

    @staticmethod
    def make_experiment(title: str, owner_id: int, institution_name: str) -> int:
        """Id of a new experiment, which nobody can see until access is granted."""
        from tardis.tardis_portal.models import Experiment

        room = Experiment._meta.get_field("institution_name").max_length
        fields = {"institution_name": institution_name[:room]} if institution_name else {}
        return Experiment.objects.create(title=title, created_by_id=owner_id, **fields).pk

    @staticmethod
    def make_dataset(experiment_id: int, title: str, instrument_id: int | None) -> int:
        """Id of a new dataset of the experiment."""
        from tardis.tardis_portal.models import Dataset

        dataset = Dataset.objects.create(description=title, instrument_id=instrument_id)
        dataset.experiments.add(experiment_id)
        return dataset.pk

    # Files

    @staticmethod
    def box_for(dataset_id: int, box_id: int | None) -> int:
        """Id of the storage box for a file of the dataset: ``box_id``, or what MyTARDIS chooses if it is None.

        To be asked once for each file: MyTARDIS's choice may change while the file is written.

        Raises:
            RetriableError: MyTARDIS cannot tell, or its default box's folder is not there.
        """
        from tardis.tardis_portal.models import DataFile

        if box_id is not None:
            return box_id
        try:
            return DataFile(dataset_id=dataset_id).get_default_storage_box().pk
        except DatabaseError:
            raise
        except Exception as error:  # among others, two boxes are marked as the default one
            raise RetriableError(
                f"MyTARDIS's default storage box cannot be used: {type(error).__name__}: {error}"
            ) from error

    def store(self, record: FileRecord, chunks: Iterable[bytes], box_id: int) -> Sums:
        """Stream bytes into the storage box, synced, and prove, by reading them back, that they are there.

        Nothing is written to the database: see :meth:`register`. What a killed attempt left
        under the same name is replaced; what fails is removed again.

        Raises:
            RetriableError: the box refuses, fails, or gives other bytes back.
        """
        storage, box = self._storage(box_id)
        with self._box_errors(box, record.uri):
            _demand_folder(storage, box)
            self._remove_orphan(storage, box, record.uri)
            try:
                return self._save(storage, box, record, Summing(chunks))
            except BaseException:
                # Half a file on a full disk keeps what would still fit from getting there.
                self.discard(record, box_id)
                raise

    @staticmethod
    def _save(storage, box, record: FileRecord, stream: Summing) -> Sums:  # noqa: ANN001
        name = storage.save(record.uri, File(stream, name=record.filename))
        if name != record.uri:
            storage.delete(name)
            raise RetriableError(f"storage box {box}: {record.uri} exists already and is another file")
        written = stream.sums()
        _make_durable(storage, record.uri)
        with storage.open(record.uri, "rb") as file:
            kept = drain(Summing(file_chunks(file)))
        if kept != written:
            raise RetriableError(
                f"storage box {box}: {record.uri} came back changed"
                f" (written {written.size} bytes, sha512 {written.sha512[:16]}…; read {kept.size} bytes, {kept.sha512[:16]}…)"
            )
        return written

    def register(self, record: FileRecord, sums: Sums, box_id: int) -> int:
        """Id of the new, verified DataFile of what :meth:`store` stored; call it in a transaction."""
        from tardis.tardis_portal.models import DataFile, DataFileObject

        _, box = self._storage(box_id)
        datafile = DataFile.objects.create(
            dataset_id=record.dataset_id,
            directory=record.directory,
            filename=record.filename,
            version=record.version,
            mimetype=record.mimetype,
            size=sums.size,
            md5sum=sums.md5,
            sha512sum=sums.sha512,
        )
        # Not by save(), which would wait for the broker inside the transaction to have verified
        # what store() has just read back.
        DataFileObject.objects.bulk_create(
            [
                DataFileObject(
                    datafile=datafile,
                    storage_box=box,
                    uri=record.uri,
                    verified=True,
                    last_verified_time=timezone.now(),
                )
            ]
        )
        self.inherit_datafile_access(datafile.pk)
        return datafile.pk

    def fetch(self, datafile_id: int, path: Path, pace: Callable[[int], None] | None = None) -> Sums:
        """Copy a file out of its storage box to ``path``, checked against its size and checksum.

        Args:
            pace: called with the number of bytes of each block; may wait.

        Raises:
            PermanentError: there is no such file any more.
            RetriableError: the box fails, or gives other bytes than were stored.
        """
        datafile, dfo = self._copy_of(datafile_id)
        with (
            self._box_errors(dfo.storage_box, dfo.uri),
            _storage_of(dfo.storage_box).open(dfo.uri, "rb") as source,
            path.open("wb") as out,
        ):
            stream = Summing(file_chunks(source))
            for chunk in stream.chunks():
                out.write(chunk)
                if pace is not None:
                    pace(len(chunk))
        sums = stream.sums()
        if sums.size != datafile.size or (datafile.sha512sum and sums.sha512 != datafile.sha512sum):
            raise RetriableError(
                f"storage box {dfo.storage_box}: {dfo.uri} is not what was stored (checksum differs)"
            )
        return sums

    @contextlib.contextmanager
    def opened(self, datafile_id: int) -> Iterator[IO[bytes]]:
        """A file in its storage box, to look into; whether it is what was stored is not checked.

        Raises:
            PermanentError, RetriableError: as :meth:`fetch`.
        """
        _, dfo = self._copy_of(datafile_id)
        with self._box_errors(dfo.storage_box, dfo.uri):
            source = _storage_of(dfo.storage_box).open(dfo.uri, "rb")
        with source:
            yield source

    def opener(self, datafile_ids: Iterable[int]) -> Callable[[int], AbstractContextManager[IO[bytes]]]:
        """:meth:`opened` for many files, whose places are looked up in one query."""
        from tardis.tardis_portal.models import DataFileObject

        copies: dict[int, list[tuple[int, str]]] = {}
        found = DataFileObject.objects.filter(datafile__in=list(datafile_ids), verified=True)
        for datafile_id, box_id, uri in found.values_list("datafile_id", "storage_box_id", "uri"):
            copies.setdefault(datafile_id, []).append((box_id, uri))
        storages: dict[int, tuple] = {}

        @contextlib.contextmanager
        def opened(datafile_id: int) -> Iterator[IO[bytes]]:
            places = copies.get(datafile_id, [])
            if len(places) != 1:  # MyTARDIS says which of several is preferred
                with self.opened(datafile_id) as source:
                    yield source
                return
            box_id, uri = places[0]
            if box_id not in storages:
                storages[box_id] = self._storage(box_id)
            storage, box = storages[box_id]
            with self._box_errors(box, uri):
                source = storage.open(uri, "rb")
            with source:
                yield source

        return opened

    def read_from(self, datafile_id: int, start: int) -> Iterator[bytes]:
        """A file's bytes from an offset to its end, a block at a time; what is before them is not read.

        Whether it is what was stored is not checked.

        Raises:
            PermanentError, RetriableError: as :meth:`fetch`, before or between blocks.
        """
        _, dfo = self._copy_of(datafile_id)
        with (
            self._box_errors(dfo.storage_box, dfo.uri),
            _storage_of(dfo.storage_box).open(dfo.uri, "rb") as source,
        ):
            if (s3 := getattr(source, "obj", None)) is not None:
                # django-storages would fetch the whole object to a temporary file first.
                yield from s3.get(Range=f"bytes={start}-")["Body"].iter_chunks(_BLOCK)
                return
            source.seek(start)
            yield from file_chunks(source)

    @staticmethod
    def _copy_of(datafile_id: int):  # noqa: ANN205 (a DataFile and its DataFileObject)
        from tardis.tardis_portal.models import DataFile

        try:
            datafile = DataFile.objects.get(pk=datafile_id)
        except DataFile.DoesNotExist:
            raise PermanentError(f"DataFile {datafile_id} has been deleted") from None
        dfo = datafile.get_preferred_dfo()
        if dfo is None:
            raise RetriableError(f"{datafile.filename} (DataFile {datafile_id}) has no verified copy")
        return datafile, dfo

    def checksum(self, datafile_id: int, pace: Callable[[int], None] | None = None) -> str:
        """SHA-512 of a file's bytes as they are in its storage box now.

        Raises:
            PermanentError, RetriableError: as :meth:`fetch`.
        """
        return self.fetch(datafile_id, Path(os.devnull), pace).sha512

    def is_kept(self, datafile_id: int) -> bool:
        """Whether a verified copy of a file is in its storage box, as large as it was stored.

        Raises:
            RetriableError: a box cannot be asked.
        """
        from tardis.tardis_portal.models import DataFileObject

        copies = DataFileObject.objects.filter(datafile=datafile_id, verified=True)
        for dfo in copies.select_related("datafile", "storage_box"):
            with self._box_errors(dfo.storage_box, dfo.uri):
                storage = _storage_of(dfo.storage_box)
                if storage.exists(dfo.uri) and storage.size(dfo.uri) == int(dfo.datafile.size):
                    return True
        return False

    @staticmethod
    def boxes_with_files() -> list[int]:
        """Ids of the storage boxes that hold the app's files."""
        from tardis.tardis_portal.models import DataFileObject

        ours = DataFileObject.objects.filter(uri__startswith=f"{_FOLDER}/")
        return list(ours.order_by("storage_box").values_list("storage_box", flat=True).distinct())

    def orphans(self, box_id: int, before: datetime) -> Iterator[str]:
        """Files in the app's folder of a storage box that no DataFile names, by their names there.

        Args:
            before: younger ones may be about to be registered, and are left out.

        Raises:
            RetriableError: the box fails.
        """
        from tardis.tardis_portal.models import DataFileObject

        storage, box = self._storage(box_id)
        folders = [_FOLDER]
        while folders:
            folder = folders.pop()
            with self._box_errors(box, folder):
                try:
                    inner, names = storage.listdir(folder)
                except FileNotFoundError:
                    continue
            folders += [f"{folder}/{name}" for name in inner if name]
            found = [f"{folder}/{name}" for name in names if name]
            known = set(
                DataFileObject.objects.filter(storage_box=box, uri__in=found).values_list("uri", flat=True)
            )
            for name in sorted(set(found) - known):
                with self._box_errors(box, name):
                    try:
                        settled = storage.get_modified_time(name) < before
                    except FileNotFoundError:  # removed meanwhile
                        continue
                if settled:
                    yield name

    @staticmethod
    def unrecorded(known: Iterable[QuerySet]) -> Iterator[tuple[int, str]]:
        """Id and name of each DataFile in the app's folders that is in none of ``known``, querysets of ids."""
        from tardis.tardis_portal.models import DataFileObject

        found = DataFileObject.objects.filter(uri__startswith=f"{_FOLDER}/")
        for ids in known:
            found = found.exclude(datafile__in=ids)
        yield from found.order_by("datafile").values_list("datafile_id", "uri")

    @staticmethod
    def versions(dataset_id: int, stem: str) -> dict[int, int]:
        """Version of each file of a dataset whose name begins with ``stem``, superseded ones included, by id."""
        from tardis.tardis_portal.models import DataFile

        found = DataFile.objects.filter(dataset_id=dataset_id, filename__startswith=stem)
        return dict(found.values_list("pk", "version"))

    @staticmethod
    def supersede(datafile_ids: Iterable[int]) -> None:
        """Move files of an older version out of their directory's first sight, into ``superseded/``.

        Their names say so too (``0003_t1.v1.png``): MyTARDIS's own page shows pictures by name, and
        of one name the oldest first.
        """
        from tardis.tardis_portal.models import DataFile

        for datafile in DataFile.objects.filter(pk__in=list(datafile_ids)):
            if "/superseded/" not in f"/{datafile.directory}/":
                datafile.directory = f"{datafile.directory}/superseded/v{datafile.version}"
                suffix = (
                    ".nii.gz" if datafile.filename.endswith(".nii.gz") else Path(datafile.filename).suffix
                )
                stem = datafile.filename.removesuffix(suffix)
                datafile.filename = f"{stem}.v{datafile.version}{suffix}"
                datafile.save()

    @staticmethod
    def set_aside(datafile_ids: Iterable[int]) -> None:
        """Make room for files of the same names, in one transaction with them; remove these after it."""
        from tardis.tardis_portal.models import DataFile

        for pk, directory in DataFile.objects.filter(pk__in=list(datafile_ids)).values_list(
            "pk", "directory"
        ):
            DataFile.objects.filter(pk=pk).update(directory=f"{directory}/replaced/{pk}")

    @staticmethod
    def remove_datafiles(datafile_ids: Iterable[int]) -> None:
        """Delete files, with what is in their storage boxes; not in a transaction, which bytes do not follow.

        Raises:
            RetriableError: a storage box fails.
        """
        from tardis.tardis_portal.models import DataFile

        try:
            DataFile.objects.filter(pk__in=list(datafile_ids)).delete()
        except DatabaseError:
            raise
        except Exception as error:  # storages raise what they like
            raise RetriableError(
                f"former files cannot be removed: {type(error).__name__}: {error}"
            ) from error

    def discard(self, record: FileRecord, box_id: int) -> None:
        """Remove what :meth:`store` stored and nothing registered; failing to is no harm."""
        with contextlib.suppress(Exception):
            storage, box = self._storage(box_id)
            self._remove_orphan(storage, box, record.uri)

    @staticmethod
    def box_id(name: str) -> int | None:
        """Id of the storage box of that name, if there is one."""
        from tardis.tardis_portal.models import StorageBox

        return StorageBox.objects.filter(name=name).values_list("pk", flat=True).first()

    @staticmethod
    def dataset_exists(dataset_id: int) -> bool:
        from tardis.tardis_portal.models import Dataset

        return Dataset.objects.filter(pk=dataset_id).exists()

    @staticmethod
    def is_in_experiment(dataset_id: int, experiment_id: int) -> bool:
        from tardis.tardis_portal.models import Dataset

        return Dataset.objects.filter(pk=dataset_id, experiments=experiment_id).exists()

    @staticmethod
    def _storage(box_id: int):  # noqa: ANN205 (a Django storage and a StorageBox)
        from tardis.tardis_portal.models import StorageBox

        try:
            box = StorageBox.objects.get(pk=box_id)
        except StorageBox.DoesNotExist:
            raise RetriableError(f"storage box {box_id} has been deleted") from None
        try:
            return _storage_of(box), box
        except DatabaseError:
            raise
        except Exception as error:  # its class is not installed, or does not take its options
            raise RetriableError(
                f"storage box {box} cannot be used: {type(error).__name__}: {error}"
            ) from error

    @staticmethod
    def _remove_orphan(storage, box, uri: str) -> None:  # noqa: ANN001
        """Remove a file that nobody has registered.

        Raises:
            RetriableError: it is registered, by a worker that was quicker.
        """
        from tardis.tardis_portal.models import DataFileObject

        if DataFileObject.objects.filter(storage_box=box, uri=uri).exists():
            raise RetriableError(f"storage box {box}: {uri} exists already")
        if storage.exists(uri):
            storage.delete(uri)

    @staticmethod
    @contextlib.contextmanager
    def _box_errors(box, uri: str) -> Iterator[None]:  # noqa: ANN001
        """Storages raise what they like; whatever it is, the data waits and the box is named."""
        try:
            yield
        except (RetriableError, PermanentError):
            raise
        except Exception as error:
            raise RetriableError(f"storage box {box}: {uri}: {type(error).__name__}: {error}") from error
