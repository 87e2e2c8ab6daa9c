"""One association from connection to end: handshake, negotiation, then one blocking loop over its messages."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from ..spool import Spool, Stored
from . import dimse, pdu
from .action import MAX_ACTIONS_BYTES, Budget, CommitmentOperation
from .config import ReceiverConfig
from .connection import Connection, ConnectionLost, PeerTimeout, ReceiverStopping, StopSignal
from .dimse import Command
from .negotiation import STORAGE_COMMITMENT, AcceptedContext, negotiate
from .pace import AssociationPace, CpuPace
from .part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from .records import AssociationRecord, Caller, CommitmentRequest, Counters
from .store import OperationFailure, Prefetch, StoreOperation

logger = logging.getLogger("tardis_imagetrove.scp")

#: Longest A-ASSOCIATE-RQ that is read; 128 contexts of all transfer syntaxes have 250 KB.
MAX_ASSOCIATE_BYTES = 512 * 1024
#: Longest P-DATA-TF that is taken from a peer which ignores the length that it was told.
MAX_P_DATA_BYTES = 16 * 1024 * 1024
#: Most fragments of a command set, and most empty fragments of a data set.
MAX_COMMAND_FRAGMENTS = 64
MAX_EMPTY_FRAGMENTS = 16

_CONTROL_PDUS = (pdu.ASSOCIATE_RQ, pdu.ASSOCIATE_AC, pdu.ASSOCIATE_RJ, pdu.RELEASE_RP)


class AssociationRejected(Exception):
    """An association is rejected.

    Args:
        key: short name of the reason, for counting.
        result, source, reason: the values of the A-ASSOCIATE-RJ (PS3.8 table 9-21).
        text: the reason, for the log.
    """

    def __init__(self, key: str, result: int, source: int, reason: int, text: str) -> None:
        super().__init__(key, result, source, reason, text)  # so that it can be pickled
        self.key, self.text = key, text
        self._answer = (result, source, reason)

    def __str__(self) -> str:
        return self.text

    def encode(self) -> bytes:
        """The A-ASSOCIATE-RJ."""
        return pdu.encode_associate_rj(*self._answer)


class Gate(Protocol):
    """Admits associations and keeps account of them; any thread may call it."""

    def enter(self, number: int, caller: Caller) -> AssociationRejected | None:
        """Admit a caller (None), or return the reason against it."""

    def closed(self, number: int, record: AssociationRecord) -> None:
        """Free the place of a connection that has ended."""

    def operation_failed(self, caller: Caller, key: str, text: str) -> None:
        """Log an operation that failed."""

    def commit(self, request: CommitmentRequest) -> None:
        """Accept a storage commitment request for good.

        Raises:
            ImageTroveError: the request is not accepted.
        """


@dataclass
class ServerContext:
    """What all associations of a process share."""

    config: ReceiverConfig
    spool: Spool
    gate: Gate
    stop: StopSignal
    tls: ssl.SSLContext | None = None
    commitment: bool = False
    pace: CpuPace = field(default_factory=CpuPace)
    actions: Budget = field(default_factory=lambda: Budget(MAX_ACTIONS_BYTES))
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


class _EmptyOperation:
    """An operation that does nothing with its data set: a C-ECHO, or one that is refused for its command."""

    def __init__(self, failure: OperationFailure | None = None) -> None:
        self.failure = failure

    def write(self, data: memoryview) -> None:
        pass

    def finish(self) -> OperationFailure | None:
        return self.failure

    def abandon(self) -> None:
        pass


class Association:
    """Serves one connection, on a thread of its own; :meth:`run` returns when it is closed."""

    def __init__(self, number: int, sock: socket.socket, shared: ServerContext) -> None:
        self.number = number
        self._socket = sock
        self._shared = shared
        self._config = shared.config
        self._caller = Caller("", "", "")
        self._record = AssociationRecord(peer="?")
        self._accepted: dict[int, AcceptedContext] = {}
        self._peer_max_pdu = 0
        self._prefetch = Prefetch(shared.spool)
        # The message being received: its command so far, then its operation.
        self._context_id = 0
        self._fragments = 0
        self._command_bytes = bytearray()
        self._command: Command | None = None
        self._operation: StoreOperation | CommitmentOperation | _EmptyOperation | None = None

    def shut(self) -> None:
        """Cut the connection; called from another thread when the peer has had time enough."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Serve the connection to its end; everything that can go wrong ends in the record."""
        started = time.monotonic()
        connection: Connection | None = None
        last_pdu = b""
        record = self._record
        try:
            self._meet()
            pace = AssociationPace(self._shared.pace, self._caller.address)
            connection = Connection(self._secure(started), self._config.timeouts, self._shared.stop, pace)
            self._associate(connection, started)
            record.established = True
            while True:
                self._next_pdu(connection)
        except AssociationRejected as rejected:
            record.rejected, record.ended = rejected.key, f"rejected: {rejected}"
            last_pdu = rejected.encode()
        except _Released:
            record.ended = "released" + self._unfinished()
            last_pdu = pdu.RELEASE_RP_BYTES
        except _PeerAborted as aborted:
            record.ended = f"aborted by the peer ({aborted}){self._unfinished()}"
            record.rejected = "peer-aborted"
        except ReceiverStopping:
            record.ended, record.rejected = "aborted: the receiver stops", "stopping"
            last_pdu = pdu.encode_abort(pdu.ABORT_BY_USER)
        except ConnectionLost as gone:
            record.ended = f"{gone}{self._unfinished()}"
            record.rejected = "gone" if connection is not None and connection.received else "silent"
        except PeerTimeout as slow:
            record.ended, record.rejected = f"aborted: {slow}{self._unfinished()}", "slow"
            # Before an association there is nothing to abort: the connection just closes (PS3.8 ARTIM).
            last_pdu = pdu.encode_abort(pdu.ABORT_BY_USER) if record.established else b""
        except _Abort as abort:
            record.ended, record.rejected = f"aborted: {abort}{self._unfinished()}", "malformed"
            last_pdu = pdu.encode_abort(abort.source_and_reason)
        except ssl.SSLError as error:
            record.ended, record.rejected = f"TLS failed: {error.reason or error}", "tls"
        except OSError as error:
            record.ended, record.rejected = f"connection lost: {error.strerror or error}", "gone"
        except Exception as error:
            logger.exception("association with %s failed in an unforeseen way", record.peer)
            record.ended, record.rejected = f"aborted: {error!r}", "internal"
            last_pdu = pdu.encode_abort(pdu.ABORT_BY_USER)
        finally:
            if self._operation is not None:
                self._operation.abandon()
            self._prefetch.discard()
            record.seconds = time.monotonic() - started
            if record.established:
                record.rejected = ""
            self._count_end()
            self._shared.gate.closed(self.number, record)
            if connection is not None:
                connection.close(last_pdu)
            else:
                self._socket.close()

    def _unfinished(self) -> str:
        if isinstance(self._operation, StoreOperation) and self._command is not None:
            return f" in the middle of {self._command.sop_instance[:64]}"
        return ""

    def _count_end(self) -> None:
        shared = self._shared
        with shared.counting:
            if self._record.established:
                shared.counters.associations += 1
            else:
                shared.counters.rejections[self._record.rejected] += 1

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
        if self._shared.tls is None:
            return self._socket
        # Python counts this time-out over the whole handshake, however many bytes it comes in.
        self._socket.settimeout(self._config.timeouts.associate)
        try:
            self._socket = self._shared.tls.wrap_socket(
                self._socket, server_side=True, suppress_ragged_eofs=True
            )
        except TimeoutError:
            raise PeerTimeout("no TLS handshake in time") from None
        self._record.tls = True
        return self._socket

    # Opening

    def _associate(self, connection: Connection, started: float) -> None:
        connection.limit_to(started + self._config.timeouts.associate)
        kind, length = pdu.HEADER.unpack(connection.read_exactly(pdu.HEADER.size))
        if kind != pdu.ASSOCIATE_RQ:
            hint = " (TLS on a port without TLS?)" if kind == 0x16 else ""
            raise _Abort(
                pdu.ABORT_BY_USER, f"the first PDU has type 0x{kind:02X}, not an association request{hint}"
            )
        if length > MAX_ASSOCIATE_BYTES:
            raise _Abort(pdu.ABORT_INVALID_PARAMETER, f"association request of {length} bytes")
        data = bytearray()
        while len(data) < length:
            data += connection.read_some(length - len(data))
        try:
            request = pdu.decode_associate_rq(bytes(data))
        except pdu.MalformedPDU as error:
            raise _Abort(pdu.ABORT_INVALID_PARAMETER, str(error)) from None
        self._caller = Caller(request.calling_ae, request.called_ae, self._caller.address)
        self._record.calling_ae, self._record.called_ae = request.calling_ae, request.called_ae
        rejected = self._check_request(request) or self._shared.gate.enter(self.number, self._caller)
        if rejected is not None:
            raise rejected
        agreement = negotiate(request, self._shared.commitment)
        self._accepted = agreement.accepted
        self._peer_max_pdu = request.max_pdu
        connection.no_limit()
        connection.send(
            pdu.encode_associate_ac(
                request,
                agreement.results,
                agreement.roles,
                self._config.max_pdu,
                IMPLEMENTATION_CLASS_UID,
                IMPLEMENTATION_VERSION_NAME,
            )
        )

    def _check_request(self, request: pdu.AssociateRequest) -> AssociationRejected | None:
        """The reasons against a request that need no configuration of senders (PS3.8 table 9-21)."""
        if not request.protocol_version & 1:
            return AssociationRejected("protocol-version", 1, 2, 2, "protocol version not supported")
        if request.application_context != pdu.APPLICATION_CONTEXT:
            text = f"application context {request.application_context!r} not supported"
            return AssociationRejected("application-context", 1, 1, 2, text)
        if self._config.require_called_ae and request.called_ae != self._config.ae_title.strip():
            text = f"called AE title {request.called_ae!r} is not {self._config.ae_title.strip()!r}"
            return AssociationRejected("called-ae", 1, 1, 7, text)
        return None

    # Messages

    def _next_pdu(self, connection: Connection) -> None:
        if self._operation is None and not self._command_bytes:
            connection.wait_for_message()
        kind, length = pdu.HEADER.unpack(connection.read_exactly(pdu.HEADER.size))
        if kind == pdu.P_DATA_TF:
            self._p_data(connection, length)
        elif kind in (pdu.RELEASE_RQ, pdu.ABORT):
            if length != 4:
                raise _Abort(pdu.ABORT_INVALID_PARAMETER, f"PDU of type 0x{kind:02X} and {length} bytes")
            rest = bytes(connection.read_exactly(4))
            if kind == pdu.RELEASE_RQ:
                raise _Released
            raise _PeerAborted(f"source {rest[2]}, reason {rest[3]}")
        elif kind in _CONTROL_PDUS:
            raise _Abort(pdu.ABORT_UNEXPECTED_PDU, f"unexpected PDU of type 0x{kind:02X}")
        else:
            raise _Abort(pdu.ABORT_UNRECOGNIZED_PDU, f"unrecognized PDU of type 0x{kind:02X}")

    def _p_data(self, connection: Connection, length: int) -> None:
        if not pdu.PDV_HEADER.size <= length <= MAX_P_DATA_BYTES:
            raise _Abort(pdu.ABORT_INVALID_PARAMETER, f"P-DATA-TF of {length} bytes")
        left = length
        while left:
            if left < pdu.PDV_HEADER.size:
                raise _Abort(pdu.ABORT_INVALID_PARAMETER, "a PDV's header is cut off")
            pdv_length, context_id, control = pdu.PDV_HEADER.unpack(
                connection.read_exactly(pdu.PDV_HEADER.size)
            )
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
                self._command_pdv(connection, context_id, context, size, bool(control & pdu.IS_LAST))
            else:
                self._data_pdv(connection, context_id, size, bool(control & pdu.IS_LAST))

    def _command_pdv(
        self, connection: Connection, context_id: int, context: AcceptedContext, size: int, last: bool
    ) -> None:
        if self._operation is not None:
            raise _Abort(pdu.ABORT_BY_USER, "a new command in the middle of a data set")
        if self._command_bytes and context_id != self._context_id:
            raise _Abort(pdu.ABORT_BY_USER, "a command set in two presentation contexts")
        self._fragments += 1
        if (size == 0 and not last) or self._fragments > MAX_COMMAND_FRAGMENTS:
            raise _Abort(pdu.ABORT_BY_USER, "a command set in empty or too many fragments")
        if len(self._command_bytes) + size > dimse.MAX_COMMAND_BYTES:
            raise _Abort(pdu.ABORT_BY_USER, f"command set of more than {dimse.MAX_COMMAND_BYTES} bytes")
        self._context_id = context_id
        self._command_bytes += connection.read_exactly(size)
        if not last:
            return
        try:
            command = dimse.decode_command(self._command_bytes)
        except dimse.MalformedCommand as error:
            raise _Abort(pdu.ABORT_BY_USER, str(error)) from None
        self._command_bytes.clear()
        self._fragments = 0
        if command.field == dimse.C_CANCEL_RQ and not command.has_data_set:
            return  # for an operation that we do not have; there is no response to it (PS3.7 section 9.3.2.3)
        if command.field & dimse.RESPONSE:
            raise _Abort(pdu.ABORT_BY_USER, f"response 0x{command.field:04X} without a request")
        self._command = command
        self._operation = self._begin(context, command)
        if not command.has_data_set:
            self._finish(connection)

    def _begin(
        self, context: AcceptedContext, command: Command
    ) -> StoreOperation | CommitmentOperation | _EmptyOperation:
        if command.field == dimse.C_STORE_RQ:
            return StoreOperation(self._prefetch, context, command)
        if command.field == dimse.C_ECHO_RQ:
            return _EmptyOperation()
        if command.field == dimse.N_ACTION_RQ and context.abstract_syntax == STORAGE_COMMITMENT:
            shared = self._shared
            return CommitmentOperation(shared.gate.commit, shared.actions, context, command, self._caller)
        return _EmptyOperation(
            OperationFailure(
                dimse.UNRECOGNIZED_OPERATION,
                "unrecognized",
                "This operation is not supported",
                f"operation 0x{command.field:04X} is not supported",
            )
        )

    def _data_pdv(self, connection: Connection, context_id: int, size: int, last: bool) -> None:
        operation = self._operation
        if operation is None:
            raise _Abort(pdu.ABORT_BY_USER, "data set without a command")
        if context_id != self._context_id:
            raise _Abort(pdu.ABORT_BY_USER, "data set in another presentation context than its command")
        if size == 0 and not last:
            self._fragments += 1
            if self._fragments > MAX_EMPTY_FRAGMENTS:
                raise _Abort(
                    pdu.ABORT_BY_USER, f"more than {MAX_EMPTY_FRAGMENTS} empty fragments in a data set"
                )
        while size:
            piece = connection.read_some(size)
            size -= len(piece)
            operation.write(piece)
        if last:
            self._finish(connection)

    def _finish(self, connection: Connection) -> None:
        operation, command = self._operation, self._command
        assert operation is not None and command is not None
        failure = operation.finish()
        if failure is None:
            response = dimse.encode_response(command, dimse.SUCCESS)
        else:
            response = dimse.encode_response(command, failure.status, failure.comment, failure.offending)
        self._account(operation, failure)
        self._operation = self._command = None
        self._fragments = 0
        try:
            connection.send(pdu.encode_p_data(self._context_id, pdu.IS_COMMAND, response, self._peer_max_pdu))
        finally:
            operation.abandon()
        if isinstance(operation, StoreOperation) and failure is None:
            self._prefetch.prepare()

    def _account(self, operation: object, failure: OperationFailure | None) -> None:
        shared, record = self._shared, self._record
        if failure is not None:
            if isinstance(operation, StoreOperation):
                record.refused += 1
            with shared.counting:
                shared.counters.refusals[failure.key] += 1
            shared.gate.operation_failed(self._caller, failure.key, failure.text or failure.comment)
            return
        if not isinstance(operation, StoreOperation):
            if isinstance(operation, _EmptyOperation):
                with shared.counting:
                    shared.counters.echoes += 1
            return
        record.bytes += operation.bytes
        record.stored += operation.outcome is not Stored.IDENTICAL
        record.duplicates += operation.outcome is Stored.IDENTICAL
        record.differing += operation.outcome is Stored.DIFFERENT
        with shared.counting:
            counters = shared.counters
            counters.bytes += operation.bytes
            counters.instances += operation.outcome is not Stored.IDENTICAL
            counters.duplicates += operation.outcome is Stored.IDENTICAL
            counters.differing += operation.outcome is Stored.DIFFERENT
