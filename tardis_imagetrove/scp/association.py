"""One association from connection to end: handshake, negotiation, then one blocking loop over its messages."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from io import BytesIO
from typing import Protocol

import pydicom
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from ..errors import ImageTroveError, RetriableError
from ..spool import Spool, Stored, is_uid
from . import dimse, pdu
from .config import ReceiverConfig
from .dimse import Command
from .negotiation import STORAGE_COMMITMENT, AcceptedContext, negotiate
from .part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from .records import AssociationRecord, Caller, CommitmentReference, CommitmentRequest, Counters
from .store import Prefetch, Refusal, StoreOperation
from .wire import PeerGone, PeerSlow, Stopping, StopSignal, Wire

logger = logging.getLogger("tardis_imagetrove.scp")

#: Longest A-ASSOCIATE-RQ that is read; 128 contexts of all transfer syntaxes have 250 KB.
MAX_ASSOCIATE_BYTES = 1024 * 1024
#: Longest P-DATA-TF that is taken from a peer which ignores the length that it was told.
MAX_P_DATA_BYTES = 16 * 1024 * 1024
#: Longest data set of an N-ACTION: room for 100,000 references.
MAX_ACTION_BYTES = 32 * 1024 * 1024

_CONTROL_PDUS = (pdu.ASSOCIATE_RQ, pdu.ASSOCIATE_AC, pdu.ASSOCIATE_RJ, pdu.RELEASE_RP)


@dataclass(frozen=True)
class Denial:
    """Why the front desk lets nobody in: for the peer, and a key for counting."""

    key: str
    rejection: pdu.Rejection


class FrontDesk(Protocol):
    """What associations ask of whoever holds the receiver together; may be called from any thread."""

    def enter(self, number: int, caller: Caller) -> Denial | None:
        """Whether the caller may have an association now; None says yes."""

    def closed(self, number: int, record: AssociationRecord) -> None:
        """The connection has come to its end."""

    def refused(self, caller: Caller, key: str, words: str) -> None:
        """An operation was refused, or went wrong in a way to be looked at."""

    def commit(self, request: CommitmentRequest) -> None:
        """Take on a storage commitment request for good.

        Raises:
            ImageTroveError: it cannot be taken on.
        """


@dataclass
class Surroundings:
    """What all associations of a process share."""

    config: ReceiverConfig
    spool: Spool
    desk: FrontDesk
    stop: StopSignal
    tls: ssl.SSLContext | None = None
    commitment: bool = False
    counters: Counters = field(default_factory=Counters)
    counting: threading.Lock = field(default_factory=threading.Lock)


class _Abort(Exception):
    """We abort the association: source and reason of the A-ABORT, and words for the log."""

    def __init__(self, source_and_reason: tuple[int, int], words: str) -> None:
        super().__init__(words)
        self.source_and_reason = source_and_reason


class _PeerAborted(Exception):
    """The peer sent an A-ABORT."""


class _Released(Exception):
    """The peer released the association."""


class _Rejected(Exception):
    """We reject the association."""

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.rejection.words)
        self.denial = denial


class _Discard:
    """Reads the data set of an operation that is refused for its command alone."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal

    def write(self, data: memoryview) -> None:
        pass

    def finish(self) -> Refusal:
        return self.refusal

    def abandon(self) -> None:
        pass


class _CommitmentOperation:
    """An N-ACTION of storage commitment (PS3.4 section J.3.2)."""

    def __init__(self, desk: FrontDesk, context: AcceptedContext, command: Command, caller: Caller) -> None:
        self._desk = desk
        self._syntax = context.transfer_syntax
        self._command = command
        self._caller = caller
        self._data = bytearray()
        self._too_long = False

    def write(self, data: memoryview) -> None:
        if len(self._data) + len(data) > MAX_ACTION_BYTES:
            self._too_long = True
            self._data.clear()
        if not self._too_long:
            self._data += data

    def finish(self) -> Refusal | None:
        if self._command.action_type != 1:
            return Refusal(dimse.NO_SUCH_ACTION, "commitment", "Storage commitment has action type 1 only")
        if self._too_long:
            return Refusal(dimse.RESOURCE_LIMITATION, "commitment", "Too many references in one request")
        try:
            request = read_commitment(bytes(self._data), self._syntax, self._caller)
        except ValueError as error:
            return Refusal(dimse.MISTYPED_ARGUMENT, "commitment", str(error))
        try:
            self._desk.commit(request)
        except RetriableError as error:
            return Refusal(
                dimse.RESOURCE_LIMITATION, "commitment", "Not available now, try later", str(error)
            )
        except ImageTroveError as error:
            return Refusal(dimse.PROCESSING_FAILURE, "commitment", str(error))
        return None

    def abandon(self) -> None:
        pass


def read_commitment(data: bytes, transfer_syntax: str, caller: Caller) -> CommitmentRequest:
    """The action information of a storage commitment request (PS3.4 table J.3-1).

    Raises:
        ValueError: unreadable, or without transaction UID or references.
    """
    try:
        dataset = pydicom.filereader.read_dataset(
            BytesIO(data),
            is_implicit_VR=transfer_syntax == ImplicitVRLittleEndian,
            is_little_endian=transfer_syntax != ExplicitVRBigEndian,
        )
        transaction = str(dataset.get("TransactionUID", ""))
        references = tuple(
            CommitmentReference(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in dataset.get("ReferencedSOPSequence", ())
        )
    except Exception as error:  # pydicom raises whatever its parsing stumbles over
        raise ValueError(f"Action information is unreadable ({type(error).__name__})") from error
    if not is_uid(transaction):
        raise ValueError("Transaction UID (0008,1195) is missing or invalid")
    if not references or not all(is_uid(one.sop_instance) for one in references):
        raise ValueError("Referenced SOP Sequence (0008,1199) is empty or has an invalid UID")
    return CommitmentRequest(transaction, references, caller)


class Association:
    """Serves one connection, on a thread of its own; :meth:`run` returns when it is closed."""

    def __init__(self, number: int, sock: socket.socket, around: Surroundings) -> None:
        self.number = number
        self._socket = sock
        self._around = around
        self._config = around.config
        self._caller = Caller("", "", "")
        self._record = AssociationRecord(peer="?")
        self._accepted: dict[int, AcceptedContext] = {}
        self._peer_max_pdu = 0
        self._prefetch = Prefetch(around.spool)
        # The message being received: its command so far, then its operation.
        self._context_id = 0
        self._command_bytes = bytearray()
        self._command: Command | None = None
        self._operation: StoreOperation | _CommitmentOperation | _Discard | None = None

    def shut(self) -> None:
        """Cut the connection; called from another thread when the peer has had time enough."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Serve the connection to its end; everything that can go wrong ends in the record."""
        started = time.monotonic()
        wire: Wire | None = None
        last_words = b""
        record = self._record
        try:
            self._meet()
            wire = Wire(self._secure(started), self._config.timeouts, self._around.stop)
            self._associate(wire, started)
            record.established = True
            while True:
                self._next_pdu(wire)
        except _Rejected as rejected:
            record.rejected, record.ended = rejected.denial.key, f"rejected: {rejected}"
            last_words = rejected.denial.rejection.encode()
        except _Released:
            record.ended = "released" + self._unfinished()
            last_words = pdu.RELEASE_RP_BYTES
        except _PeerAborted as aborted:
            record.ended = f"aborted by the peer ({aborted}){self._unfinished()}"
            record.rejected = "peer-aborted"
        except Stopping:
            record.ended, record.rejected = "aborted: the receiver stops", "stopping"
            last_words = pdu.encode_abort(pdu.ABORT_BY_USER)
        except PeerGone as gone:
            record.ended = f"{gone}{self._unfinished()}"
            record.rejected = "gone" if wire is not None and wire.received else "silent"
        except PeerSlow as slow:
            record.ended, record.rejected = f"aborted: {slow}{self._unfinished()}", "slow"
            # Before an association there is nothing to abort: the connection just closes (PS3.8 ARTIM).
            last_words = pdu.encode_abort(pdu.ABORT_BY_USER) if record.established else b""
        except _Abort as abort:
            record.ended, record.rejected = f"aborted: {abort}{self._unfinished()}", "malformed"
            last_words = pdu.encode_abort(abort.source_and_reason)
        except ssl.SSLError as error:
            record.ended, record.rejected = f"TLS failed: {error.reason or error}", "tls"
        except OSError as error:
            record.ended, record.rejected = f"connection lost: {error.strerror or error}", "gone"
        except Exception as error:
            logger.exception("association with %s failed in an unforeseen way", record.peer)
            record.ended, record.rejected = f"aborted: {error!r}", "internal"
            last_words = pdu.encode_abort(pdu.ABORT_BY_USER)
        finally:
            if self._operation is not None:
                self._operation.abandon()
            self._prefetch.discard()
            record.seconds = time.monotonic() - started
            if record.established:
                record.rejected = ""
            self._count_end()
            self._around.desk.closed(self.number, record)
            if wire is not None:
                wire.farewell(last_words)
            else:
                self._socket.close()

    def _unfinished(self) -> str:
        if isinstance(self._operation, StoreOperation) and self._command is not None:
            return f" in the middle of {self._command.sop_instance[:64]}"
        return ""

    def _count_end(self) -> None:
        around = self._around
        with around.counting:
            if self._record.established:
                around.counters.associations += 1
            else:
                around.counters.rejections[self._record.rejected] += 1

    def _meet(self) -> None:
        address = self._socket.getpeername()
        host = address[0].removeprefix("::ffff:")
        self._record.peer = f"{host}:{address[1]}"
        self._caller = Caller("", "", host)
        sock = self._socket
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Our answers are short: a peer that does not take them is noticed early.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):  # notices a peer that was switched off
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)

    def _secure(self, started: float) -> socket.socket:
        if self._around.tls is None:
            return self._socket
        # Python counts this time-out over the whole handshake, however many bytes it comes in.
        self._socket.settimeout(self._config.timeouts.associate)
        try:
            self._socket = self._around.tls.wrap_socket(
                self._socket, server_side=True, suppress_ragged_eofs=True
            )
        except TimeoutError:
            raise PeerSlow("no TLS handshake in time") from None
        self._record.tls = True
        return self._socket

    # Opening

    def _associate(self, wire: Wire, started: float) -> None:
        wire.limit_to(started + self._config.timeouts.associate)
        kind, length = pdu.HEADER.unpack(wire.take(pdu.HEADER.size))
        if kind != pdu.ASSOCIATE_RQ:
            hint = " (TLS on a port without TLS?)" if kind == 0x16 else ""
            raise _Abort(
                pdu.ABORT_BY_USER, f"the first PDU has type 0x{kind:02X}, not an association request{hint}"
            )
        if length > MAX_ASSOCIATE_BYTES:
            raise _Abort(pdu.ABORT_INVALID_PARAMETER, f"association request of {length} bytes")
        data = bytearray()
        while len(data) < length:
            data += wire.some(length - len(data))
        try:
            request = pdu.decode_associate_rq(bytes(data))
        except pdu.MalformedPDU as error:
            raise _Abort(pdu.ABORT_INVALID_PARAMETER, str(error)) from None
        self._caller = Caller(request.calling_ae, request.called_ae, self._caller.address)
        self._record.calling_ae, self._record.called_ae = request.calling_ae, request.called_ae
        denial = self._check_request(request) or self._around.desk.enter(self.number, self._caller)
        if denial is not None:
            raise _Rejected(denial)
        agreement = negotiate(request, self._around.commitment)
        self._accepted = agreement.accepted
        self._peer_max_pdu = request.max_pdu
        wire.no_limit()
        wire.send(
            pdu.encode_associate_ac(
                request,
                agreement.results,
                agreement.roles,
                self._config.max_pdu,
                IMPLEMENTATION_CLASS_UID,
                IMPLEMENTATION_VERSION_NAME,
            )
        )

    def _check_request(self, request: pdu.AssociateRequest) -> Denial | None:
        """What can be refused without asking anybody (PS3.8 table 9-21)."""
        if not request.protocol_version & 1:
            return Denial("protocol-version", pdu.Rejection(1, 2, 2, "protocol version not supported"))
        if request.application_context != pdu.APPLICATION_CONTEXT:
            words = f"application context {request.application_context!r} not supported"
            return Denial("application-context", pdu.Rejection(1, 1, 2, words))
        if self._config.require_called_ae and request.called_ae != self._config.ae_title.strip():
            words = f"called AE title {request.called_ae!r} is not ours ({self._config.ae_title.strip()!r})"
            return Denial("called-ae", pdu.Rejection(1, 1, 7, words))
        return None

    # Messages

    def _next_pdu(self, wire: Wire) -> None:
        if self._operation is None and not self._command_bytes:
            wire.wait_for_message()
        kind, length = pdu.HEADER.unpack(wire.take(pdu.HEADER.size))
        if kind == pdu.P_DATA_TF:
            self._p_data(wire, length)
        elif kind in (pdu.RELEASE_RQ, pdu.ABORT):
            if length != 4:
                raise _Abort(pdu.ABORT_INVALID_PARAMETER, f"PDU of type 0x{kind:02X} and {length} bytes")
            rest = bytes(wire.take(4))
            if kind == pdu.RELEASE_RQ:
                raise _Released
            raise _PeerAborted(f"source {rest[2]}, reason {rest[3]}")
        elif kind in _CONTROL_PDUS:
            raise _Abort(pdu.ABORT_UNEXPECTED_PDU, f"unexpected PDU of type 0x{kind:02X}")
        else:
            raise _Abort(pdu.ABORT_UNRECOGNIZED_PDU, f"unrecognized PDU of type 0x{kind:02X}")

    def _p_data(self, wire: Wire, length: int) -> None:
        if not pdu.PDV_HEADER.size <= length <= MAX_P_DATA_BYTES:
            raise _Abort(pdu.ABORT_INVALID_PARAMETER, f"P-DATA-TF of {length} bytes")
        left = length
        while left:
            if left < pdu.PDV_HEADER.size:
                raise _Abort(pdu.ABORT_INVALID_PARAMETER, "a PDV's header is cut off")
            pdv_length, context_id, control = pdu.PDV_HEADER.unpack(wire.take(pdu.PDV_HEADER.size))
            size = pdv_length - 2
            left -= pdu.PDV_HEADER.size + size
            if size < 0 or left < 0:
                raise _Abort(pdu.ABORT_INVALID_PARAMETER, f"PDV of {pdv_length} bytes does not fit its PDU")
            context = self._accepted.get(context_id)
            if context is None:
                raise _Abort(
                    pdu.ABORT_INVALID_PARAMETER, f"presentation context {context_id} was not accepted"
                )
            if control & pdu.IS_COMMAND:
                self._command_pdv(wire, context_id, context, size, bool(control & pdu.IS_LAST))
            else:
                self._data_pdv(wire, context_id, size, bool(control & pdu.IS_LAST))

    def _command_pdv(
        self, wire: Wire, context_id: int, context: AcceptedContext, size: int, last: bool
    ) -> None:
        if self._operation is not None:
            raise _Abort(pdu.ABORT_BY_USER, "a new command in the middle of a data set")
        if self._command_bytes and context_id != self._context_id:
            raise _Abort(pdu.ABORT_BY_USER, "a command set in two presentation contexts")
        if len(self._command_bytes) + size > dimse.MAX_COMMAND_BYTES:
            raise _Abort(pdu.ABORT_BY_USER, f"command set of more than {dimse.MAX_COMMAND_BYTES} bytes")
        self._context_id = context_id
        self._command_bytes += wire.take(size)
        if not last:
            return
        try:
            command = dimse.decode_command(self._command_bytes)
        except dimse.MalformedCommand as error:
            raise _Abort(pdu.ABORT_BY_USER, str(error)) from None
        self._command_bytes.clear()
        if command.field == dimse.C_CANCEL_RQ and not command.has_data_set:
            return  # for an operation that we do not have; there is no response to it (PS3.7 section 9.3.2.3)
        if command.field & dimse.RESPONSE:
            raise _Abort(pdu.ABORT_BY_USER, f"response 0x{command.field:04X} to nothing that was asked")
        self._command = command
        self._operation = self._begin(context, command)
        if not command.has_data_set:
            self._finish(wire)

    def _begin(
        self, context: AcceptedContext, command: Command
    ) -> StoreOperation | _CommitmentOperation | _Discard:
        if command.field == dimse.C_STORE_RQ:
            return StoreOperation(self._prefetch, context, command)
        if command.field == dimse.C_ECHO_RQ:
            return _Discard(Refusal(dimse.SUCCESS, "", ""))
        if command.field == dimse.N_ACTION_RQ and context.abstract_syntax == STORAGE_COMMITMENT:
            return _CommitmentOperation(self._around.desk, context, command, self._caller)
        return _Discard(
            Refusal(
                dimse.UNRECOGNIZED_OPERATION,
                "unrecognized",
                "This operation is not supported",
                f"operation 0x{command.field:04X} is not supported",
            )
        )

    def _data_pdv(self, wire: Wire, context_id: int, size: int, last: bool) -> None:
        operation = self._operation
        if operation is None:
            raise _Abort(pdu.ABORT_BY_USER, "data set without a command")
        if context_id != self._context_id:
            raise _Abort(pdu.ABORT_BY_USER, "data set in another presentation context than its command")
        while size:
            piece = wire.some(size)
            size -= len(piece)
            operation.write(piece)
        if last:
            self._finish(wire)

    def _finish(self, wire: Wire) -> None:
        operation, command = self._operation, self._command
        assert operation is not None and command is not None
        refusal = operation.finish()
        if refusal is None:
            response = dimse.encode_response(command, dimse.SUCCESS)
        else:
            response = dimse.encode_response(command, refusal.status, refusal.comment, refusal.offending)
        self._account(operation, refusal)
        self._operation = self._command = None
        wire.send(pdu.encode_p_data(self._context_id, pdu.IS_COMMAND, response, self._peer_max_pdu))
        if isinstance(operation, StoreOperation) and refusal is None:
            self._prefetch.prepare()

    def _account(self, operation: object, refusal: Refusal | None) -> None:
        around, record = self._around, self._record
        if refusal is not None and refusal.status != dimse.SUCCESS:
            if isinstance(operation, StoreOperation):
                record.refused += 1
            with around.counting:
                around.counters.refusals[refusal.key] += 1
            around.desk.refused(self._caller, refusal.key, refusal.words or refusal.comment)
            return
        if not isinstance(operation, StoreOperation):
            if refusal is not None:
                with around.counting:
                    around.counters.echoes += 1
            return
        record.bytes += operation.bytes
        record.stored += operation.outcome is not Stored.IDENTICAL
        record.duplicates += operation.outcome is Stored.IDENTICAL
        record.differing += operation.outcome is Stored.DIFFERENT
        with around.counting:
            counters = around.counters
            counters.bytes += operation.bytes
            counters.instances += operation.outcome is not Stored.IDENTICAL
            counters.duplicates += operation.outcome is Stored.IDENTICAL
            counters.differing += operation.outcome is Stored.DIFFERENT
