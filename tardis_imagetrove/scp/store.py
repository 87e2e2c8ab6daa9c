"""One C-STORE (PS3.4 annex B): from its command, over the passing bytes of its data set, to its status."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

from ..spool import Incoming, Spool, SpoolError, SpoolFull, Stored
from ..uids import is_uid
from . import dimse
from .dimse import Command
from .head import SERIES, SOP_CLASS, SOP_INSTANCE, HeadScanner, UnreadableDataSet
from .negotiation import AcceptedContext, is_storage
from .part10 import file_beginning

logger = logging.getLogger("tardis_imagetrove.scp")


@dataclass(frozen=True)
class OperationFailure:
    """Why an operation failed.

    Attributes:
        status: of the response (PS3.7 annex C).
        key: short name of the reason, for counting.
        comment: for the peer, at most 64 characters.
        text: for the log; empty if it is the comment.
        offending: tag of the element at fault.
    """

    status: int
    key: str
    comment: str
    text: str = ""
    offending: tuple[int, int] | None = None


class Prefetch:
    """Keeps one temporary file ready for the next instance of an association.

    Making a file right after a sync waits for the disk's journal (0.3 ms of the 1.5 that an MR
    takes); done between two instances, while the sender prepares its next one, that costs nothing.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._ready: Incoming | None = None

    def prepare(self) -> None:
        """Make the next file now; trouble is left to :meth:`take`, which can answer for it."""
        if self._ready is None:
            with contextlib.suppress(SpoolError):
                self._ready = self._spool.incoming()

    def take(self) -> Incoming:
        """The file that is ready, or a new one.

        Raises:
            SpoolError: there is none to be had.
        """
        ready, self._ready = self._ready, None
        return ready or self._spool.incoming()

    def discard(self) -> None:
        """Remove the file that is ready."""
        if self._ready is not None:
            discard(self._ready)
            self._ready = None


def discard(incoming: Incoming) -> None:
    """Remove a temporary file."""
    with contextlib.suppress(SpoolError):
        incoming.__exit__(None, None, None)


class StoreOperation:
    """Receives one instance into the spool.

    A failure does not end the association: what is left of the data set is read and thrown away,
    and then the response says why.
    """

    def __init__(self, prefetch: Prefetch, context: AcceptedContext, command: Command) -> None:
        self._command = command
        self._incoming: Incoming | None = None
        self._scanner = HeadScanner(context.transfer_syntax)
        self.failure = self._check_command(context)
        self.outcome: Stored | None = None
        self.bytes = 0
        if self.failure is None:
            try:
                self._incoming = prefetch.take()
                self._incoming.write(
                    file_beginning(command.sop_class, command.sop_instance, context.transfer_syntax)
                )
            except Exception as error:
                self._fail(error)

    def _check_command(self, context: AcceptedContext) -> OperationFailure | None:
        command = self._command
        if not is_storage(context.abstract_syntax):
            return OperationFailure(
                dimse.SOP_CLASS_NOT_SUPPORTED,
                "not-storage",
                "C-STORE on a presentation context of another service",
            )
        if not is_uid(command.sop_instance):
            return OperationFailure(
                dimse.INVALID_SOP_INSTANCE,
                "bad-uid",
                "Affected SOP Instance UID is not a valid UID",
                f"Affected SOP Instance UID {command.sop_instance[:80]!r} is not a valid UID",
                (0x0000, 0x1000),
            )
        if not is_uid(command.sop_class):
            return OperationFailure(
                dimse.CANNOT_UNDERSTAND,
                "bad-uid",
                "Affected SOP Class UID is not a valid UID",
                f"Affected SOP Class UID {command.sop_class[:80]!r} is not a valid UID",
                (0x0000, 0x0002),
            )
        if not command.has_data_set:
            return OperationFailure(dimse.CANNOT_UNDERSTAND, "no-data-set", "C-STORE-RQ without a data set")
        return None

    def _fail(self, error: Exception) -> None:
        """Turn whatever went wrong into the failure of this operation, and drop the file."""
        match error:
            case UnreadableDataSet():
                failure = OperationFailure(
                    dimse.CANNOT_UNDERSTAND, "unreadable", f"Data set: {error}", f"data set: {error}"
                )
            case SpoolFull():
                failure = OperationFailure(
                    dimse.OUT_OF_RESOURCES, "disk-full", "Out of disk space", str(error)
                )
            case SpoolError():
                failure = OperationFailure(
                    dimse.OUT_OF_RESOURCES_DISK_TROUBLE, "spool", "Storage is not available", str(error)
                )
            case _:
                logger.error(
                    "C-STORE of %s failed in an unforeseen way", self._command.sop_instance, exc_info=error
                )
                failure = OperationFailure(
                    dimse.PROCESSING_FAILURE, "internal", "Internal error", repr(error)
                )
        self.failure = failure
        self.abandon()

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the data set."""
        self.bytes += len(data)
        if self._incoming is None:
            return
        try:
            if not self._scanner.done:
                self._scanner.feed(data)
            self._incoming.write(data)
        except Exception as error:
            self._fail(error)

    def finish(self) -> OperationFailure | None:
        """Make the instance durable; None means that it may be acknowledged, and :meth:`abandon` called after that."""
        if self._incoming is not None:
            self.failure = self._check_data_set()
            if self.failure is None:
                try:
                    self.outcome = self._incoming.commit(
                        self._scanner.found[SERIES], self._command.sop_instance
                    )
                except Exception as error:
                    self._fail(error)
        if self.failure is not None:
            self.abandon()
        return self.failure

    def _check_data_set(self) -> OperationFailure | None:
        found = self._scanner.found
        for tag, name, sent in (
            (SOP_CLASS, "SOPClassUID", self._command.sop_class),
            (SOP_INSTANCE, "SOPInstanceUID", self._command.sop_instance),
            (SERIES, "SeriesInstanceUID", None),
        ):
            value = found.get(tag, "")
            if not is_uid(value):
                how = f"is not a valid UID: {value[:80]!r}" if value else "is missing"
                return OperationFailure(
                    dimse.CANNOT_UNDERSTAND,
                    "bad-uid",
                    f"{name} of the data set {how}"[:64],
                    f"{name} {how}",
                    tag,
                )
            if sent is not None and value != sent:
                return OperationFailure(
                    dimse.DATA_SET_DOES_NOT_MATCH,
                    "uid-mismatch",
                    f"{name} differs between command and data set",
                    f"{name} is {sent} in the command and {value} in the data set",
                    tag,
                )
        return None

    def abandon(self) -> None:
        """Remove the temporary file, whether the instance was stored or not."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            discard(incoming)
