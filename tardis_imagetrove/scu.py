"""Sends DICOM by C-STORE, as an instrument's console does, for trying a receiver out; knows no Django."""

from __future__ import annotations

import gzip
import io
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, MediaStorageDirectoryStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.sop_class import Verification

from .errors import RetriableError
from .formats.dicom.files import UnreadableFile

#: As many presentation contexts as an association has room for (PS3.8 section 9.3.2.2: odd numbers of a byte).
MAX_CONTEXTS = 128

#: Bytes of files that are sent on one association, and in memory at once.
BATCH_BYTES = 256 * 1024 * 1024

_SUCCESS = 0x0000
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")


class CannotSend(RetriableError):
    """Nobody listens there, or the receiver does not take the association; the text says which."""


class NotAdmitted(CannotSend):
    """The receiver is there, and does not know how we call ourselves (PS3.8 table 9-21: source 1, reason 3)."""


@dataclass(frozen=True)
class Peer:
    """A receiver, and how we call it and ourselves.

    Attributes:
        seconds: that any one answer may take.
    """

    host: str
    port: int
    called: str = "IMAGETROVE"
    calling: str = "IMAGETROVE_SCU"
    seconds: float = 30.0

    def __str__(self) -> str:
        return f"{self.called} at {self.host}:{self.port}"


@dataclass(frozen=True)
class Refusal:
    """An instance that was not acknowledged, and what the receiver said."""

    sop_instance_uid: str
    words: str


ATTEMPTS = 3
"""How often an instance is sent that gets no answer: pynetdicom may miss one that comes too quickly."""


@dataclass(frozen=True)
class Sent:
    """What became of each instance, by SOPInstanceUID, in the order of sending."""

    acknowledged: tuple[str, ...]
    refused: tuple[Refusal, ...]


def read(path: Path) -> Dataset:
    """A DICOM file, gzipped (``.gz``) or not, that can be sent.

    Raises:
        UnreadableFile: it is something else, cannot be read, or lacks what C-STORE needs of it.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        with warnings.catch_warnings():  # what an instance does not quite keep to is no matter of its sender
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(content))
            missing = [name for name in _NEEDED if not dataset.get(name)]
    except InvalidDicomError:
        raise UnreadableFile(f"{path}: not a DICOM file (it has no file meta information)") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFile(f"{path}: {error}") from error
    except Exception as error:  # pydicom raises whatever its parsing stumbles over
        raise UnreadableFile(f"{path}: damaged ({type(error).__name__}: {error})") from error
    if dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise UnreadableFile(f"{path}: a DICOMDIR, not an instance")
    if not dataset.file_meta.get("TransferSyntaxUID"):
        missing.append("TransferSyntaxUID")
    if missing:
        raise UnreadableFile(f"{path}: has no {' and no '.join(missing)}")
    return dataset


def echo(peer: Peer) -> None:
    """Ask whether the receiver is there (C-ECHO, PS3.4 annex A).

    Raises:
        CannotSend: it is not, or says no.
    """
    for _ in range(ATTEMPTS):
        association = _associate(peer, [(Verification, None)])
        try:
            status = association.send_c_echo()
        finally:
            association.release()
        if status:
            break
    if not status or status.Status != _SUCCESS:
        raise CannotSend(f"{peer} answers C-ECHO with {_words(status)}")


def send(datasets: Iterable[Dataset], peer: Peer) -> Sent:
    """Send instances one after another; on one association, unless they are of very many kinds.

    Args:
        datasets: as :func:`read` reads them, with their file meta information.

    Raises:
        CannotSend: the receiver takes no association. What happens once it has ends up in the answer.
    """
    acknowledged: list[str] = []
    refused: list[Refusal] = []
    for group in _by_room(datasets):
        pending = [(dataset, "") for dataset in group]
        for _ in range(ATTEMPTS):
            try:
                association = _associate(peer, dict.fromkeys(_kind(dataset) for dataset, _ in pending))
            except CannotSend as error:
                if not acknowledged and not refused:
                    raise
                pending = [(dataset, str(error)) for dataset, _ in pending]
                break
            unanswered = []
            try:
                for dataset, _ in pending:
                    uid = str(dataset.SOPInstanceUID)
                    try:
                        words = _store(association, dataset)
                    except _Unanswered as error:
                        unanswered.append((dataset, str(error)))
                        continue
                    if words:
                        refused.append(Refusal(uid, words))
                    else:
                        acknowledged.append(uid)
            finally:
                association.release()
            pending = unanswered
            if not pending:
                break
        refused += [Refusal(str(dataset.SOPInstanceUID), words) for dataset, words in pending]
    return Sent(tuple(acknowledged), tuple(refused))


def _kind(dataset: Dataset) -> tuple[UID, UID]:
    return dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID


def _by_room(datasets: Iterable[Dataset]) -> list[list[Dataset]]:
    """Groups that each need no more presentation contexts than an association can have, in the order given."""
    numbers: dict[tuple[UID, UID], int] = {}
    groups: dict[int, list[Dataset]] = {}
    for dataset in datasets:
        number = numbers.setdefault(_kind(dataset), len(numbers))
        groups.setdefault(number // MAX_CONTEXTS, []).append(dataset)
    return list(groups.values())


def _associate(peer: Peer, kinds: Iterable[tuple[UID, UID | None]]) -> Association:
    entity = AE(ae_title=peer.calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = peer.seconds
    entity.connection_timeout = peer.seconds
    for sop_class, syntax in kinds:
        entity.add_requested_context(sop_class, syntax)
    # Seen here, since pynetdicom forgets a rejection when the connection is closed right behind it.
    rejections: list[A_ASSOCIATE_RJ] = []

    def note(event: evt.Event) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    association = entity.associate(
        peer.host, peer.port, ae_title=peer.called, evt_handlers=[(evt.EVT_PDU_RECV, note)]
    )
    if association.is_established:
        # pynetdicom's own thread can still be about to look for requests when an instance is sent, and takes
        # the answer from whoever waits for it: about once in 3000, and then 30 seconds are lost.
        association._serve_request = lambda message, context: association.dimse.msg_queue.put(
            (context, message)
        )
        return association
    if rejections:
        known = (rejections[0].source, rejections[0].reason_diagnostic) != (1, 3)
        raise (CannotSend if known else NotAdmitted)(
            f"{peer} refuses the association: {rejections[0].reason_str}"
        )
    raise CannotSend(f"{peer} does not answer")


class _Unanswered(Exception):
    """Nothing is known of what became of an instance; sending it again is no harm."""


def _store(association: Association, dataset: Dataset) -> str:
    """Send one instance; returns why it was refused, or nothing.

    Raises:
        _Unanswered: the receiver said neither.
    """
    if not association.is_established:
        raise _Unanswered("the association had ended")
    try:
        status = association.send_c_store(dataset)
    except RuntimeError as error:
        raise _Unanswered(str(error)) from error
    except (ValueError, AttributeError) as error:  # of pynetdicom, before or amid sending
        return str(error)
    if not status:
        raise _Unanswered("no answer")
    return "" if status.Status == _SUCCESS else _words(status)


def _words(status: Dataset) -> str:
    return f"0x{status.Status:04X} {status.get('ErrorComment', '')}".strip() if status else "no answer"


def read_all(
    paths: Sequence[Path], batch_bytes: int = BATCH_BYTES
) -> Iterator[tuple[list[Dataset], list[str]]]:
    """What is DICOM under files and folders, and words on what is not; a piece at a time.

    Args:
        batch_bytes: of files in one piece, or one file; so much is in memory at once.
    """
    found, problems, size = [], [], 0
    for file in _files(paths):
        try:
            found.append(read(file))
        except UnreadableFile as error:
            problems.append(str(error))
            continue
        size += file.stat().st_size
        if size >= batch_bytes:
            yield found, problems
            found, problems, size = [], [], 0
    if found or problems:
        yield found, problems


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders.sort()
                yield from (Path(folder, name) for name in sorted(names) if Path(folder, name).is_file())
        else:
            yield path
