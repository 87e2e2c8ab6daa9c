"""The N-ACTION of storage commitment (PS3.4 section J.3.2), read within bounds."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from ..errors import ImageTroveError, RetriableError
from ..uids import is_uid
from . import dimse
from .dimse import Command
from .head import ITEM, ITEM_END, ITEM_GROUP, SEQUENCE_END, SHORT_VRS, UNDEFINED
from .negotiation import AcceptedContext
from .records import Caller, CommitmentReference, CommitmentRequest
from .store import OperationFailure

#: Longest data set of an N-ACTION: room for 100,000 references.
MAX_ACTION_BYTES = 16 * 1024 * 1024
#: Most bytes of all N-ACTIONs that a process holds at once.
MAX_ACTIONS_BYTES = 64 * 1024 * 1024
#: Most elements, items and delimiters of one N-ACTION, and deepest nesting.
MAX_ELEMENTS = 600_000
MAX_DEPTH = 16

_TRANSACTION_UID = (0x0008, 0x1195)
_REFERENCED_SOP_SEQUENCE = (0x0008, 0x1199)
_REFERENCED_SOP_CLASS = (0x0008, 0x1150)
_REFERENCED_SOP_INSTANCE = (0x0008, 0x1155)


class Budget:
    """Bytes that all associations of a process may hold together."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take ``size`` bytes; False if there are not so many."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        """Return bytes that were taken."""
        with self._lock:
            self._left += size


class CommitmentOperation:
    """Receives a request for storage commitment, and passes it on.

    Args:
        commit: accepts the request for good, or raises an ImageTroveError.
        budget: of the process, for requests that are being received.
    """

    def __init__(
        self,
        commit: Callable[[CommitmentRequest], None],
        budget: Budget,
        context: AcceptedContext,
        command: Command,
        caller: Caller,
    ) -> None:
        self._commit = commit
        self._budget = budget
        self._syntax = context.transfer_syntax
        self._command = command
        self._caller = caller
        self._data = bytearray()
        self._failure: OperationFailure | None = None

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the action information."""
        if self._failure is not None:
            return
        if len(self._data) + len(data) > MAX_ACTION_BYTES:
            self._refuse("Too many references in one request")
        elif self._budget.take(len(data)):
            self._data += data
        else:
            self._refuse("Not available now, try later")

    def _refuse(self, comment: str) -> None:
        self.abandon()
        self._failure = OperationFailure(dimse.RESOURCE_LIMITATION, "commitment", comment)

    def finish(self) -> OperationFailure | None:
        """Pass the request on; None means that it is accepted."""
        if self._command.action_type != 1:
            return OperationFailure(
                dimse.NO_SUCH_ACTION, "commitment", "Storage commitment has action type 1 only"
            )
        if self._failure is not None:
            return self._failure
        try:
            request = read_commitment(self._data, self._syntax, self._caller)
        except ValueError as error:
            return OperationFailure(dimse.MISTYPED_ARGUMENT, "commitment", str(error))
        try:
            self._commit(request)
        except RetriableError as error:
            return OperationFailure(
                dimse.RESOURCE_LIMITATION, "commitment", "Not available now, try later", str(error)
            )
        except ImageTroveError as error:
            return OperationFailure(dimse.PROCESSING_FAILURE, "commitment", str(error))
        return None

    def abandon(self) -> None:
        """Free the memory."""
        self._budget.give_back(len(self._data))
        self._data = bytearray()


def read_commitment(data: bytes | bytearray, transfer_syntax: str, caller: Caller) -> CommitmentRequest:
    """The action information of a storage commitment request (PS3.4 table J.3-1).

    A reader of its own, since pydicom needs minutes and gigabytes for 16 MiB of empty items.

    Raises:
        ValueError: unreadable, or without transaction UID or references.
    """
    reader = _Reader(data, transfer_syntax)
    reader.read()
    references = tuple(
        CommitmentReference(one.get(_REFERENCED_SOP_CLASS, ""), one.get(_REFERENCED_SOP_INSTANCE, ""))
        for one in reader.references
    )
    if not is_uid(reader.transaction):
        raise ValueError("Transaction UID (0008,1195) is missing or invalid")
    if not references or not all(is_uid(one.sop_instance) and is_uid(one.sop_class) for one in references):
        raise ValueError("Referenced SOP Sequence (0008,1199) is empty or has an invalid UID")
    return CommitmentRequest(reader.transaction, references, caller)


class _Reader:
    """Reads transaction UID and references; other elements are skipped."""

    def __init__(self, data: bytes | bytearray, transfer_syntax: str) -> None:
        self._data = data
        self._implicit = transfer_syntax == ImplicitVRLittleEndian
        order = ">" if transfer_syntax == ExplicitVRBigEndian else "<"
        self._tag = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "I")
        self.transaction = ""
        self.references: list[dict[tuple[int, int], str]] = []
        # Of each open sequence or item: whether it is an item, where it ends (None: undefined), the sequence's tag.
        self._open: list[tuple[bool, int | None, tuple[int, int]]] = []

    def read(self) -> None:
        """Read all of it.

        Raises:
            ValueError: it is cut off, too large, or nested too deep.
        """
        at = count = 0
        try:
            while at < len(self._data):
                count += 1
                if count > MAX_ELEMENTS:
                    raise ValueError("Action information has too many elements")
                at = self._element(at)
                while self._open and self._open[-1][1] is not None and at >= self._open[-1][1]:
                    self._open.pop()
        except struct.error:
            raise ValueError("Action information is cut off") from None
        if any(end is None for _, end, _ in self._open):
            raise ValueError("Action information is cut off")

    def _push(self, is_item: bool, start: int, length: int, tag: tuple[int, int]) -> int:
        if len(self._open) >= MAX_DEPTH:
            raise ValueError("Action information is nested too deep")
        if length != UNDEFINED and length > self._limit() - start:
            raise ValueError("Action information is cut off")
        self._open.append((is_item, None if length == UNDEFINED else start + length, tag))
        if is_item and len(self._open) == 2 and tag == _REFERENCED_SOP_SEQUENCE:
            self.references.append({})
        return start

    def _limit(self) -> int:
        return next((end for _, end, _ in reversed(self._open) if end is not None), len(self._data))

    def _element(self, at: int) -> int:
        """Handle the element, item or delimiter at ``at``; returns where the next one begins."""
        data = self._data
        tag = self._tag.unpack_from(data, at)
        if tag[0] == ITEM_GROUP:
            length = self._long.unpack_from(data, at + 4)[0]
            if tag[1] == ITEM and self._open and not self._open[-1][0]:
                return self._push(True, at + 8, length, self._open[-1][2])
            if (
                tag[1] in (ITEM_END, SEQUENCE_END)
                and self._open
                and self._open[-1][0] == (tag[1] == ITEM_END)
            ):
                self._open.pop()
                return at + 8
            raise ValueError("Action information has a delimiter out of place")
        if self._open and not self._open[-1][0]:
            raise ValueError("Action information has an element where an item belongs")
        vr = bytes(data[at + 4 : at + 6])
        if self._implicit:
            start, length = at + 8, self._long.unpack_from(data, at + 4)[0]
        elif vr in SHORT_VRS:
            start, length = at + 8, self._short.unpack_from(data, at + 6)[0]
        elif vr.isalpha() and vr.isupper():
            start, length = at + 12, self._long.unpack_from(data, at + 8)[0]
        else:
            raise ValueError("Action information has an element without VR")
        if length == UNDEFINED or vr == b"SQ" or tag == _REFERENCED_SOP_SEQUENCE:
            return self._push(False, start, length, tag)
        if length > self._limit() - start:
            raise ValueError("Action information is cut off")
        self._keep(tag, start, length)
        return int(start + length)

    def _keep(self, tag: tuple[int, int], start: int, length: int) -> None:
        depth = len(self._open)
        if depth == 0 and tag == _TRANSACTION_UID:
            self.transaction = self._text(start, length)
        elif (
            depth == 2
            and self._open[0][2] == _REFERENCED_SOP_SEQUENCE
            and tag in (_REFERENCED_SOP_CLASS, _REFERENCED_SOP_INSTANCE)
        ):
            self.references[-1][tag] = self._text(start, length)

    def _text(self, start: int, length: int) -> str:
        return bytes(self._data[start : start + min(length, 128)]).decode("latin-1").rstrip("\0 ")
