"""A peer for tests: an honest SCU with pynetdicom's encoders, and a socket to misbehave on."""

from __future__ import annotations

import io
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.dsutils import decode as decode_dataset
from pynetdicom.dsutils import encode as encode_dataset
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)

MR = "1.2.840.10008.5.1.4.1.1.4"
VERIFICATION = "1.2.840.10008.1.1"
SERIES_UID = "1.2.3.4.5"


def associate_rq(contexts, called="IMAGETROVE", calling="SCANNER", max_pdu=16384, user_items=()) -> bytes:
    """An A-ASSOCIATE-RQ by pynetdicom; ``contexts`` are pairs of abstract syntax and transfer syntaxes."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    proposed = []
    for number, (abstract, syntaxes) in enumerate(contexts):
        context = build_context(abstract, list(syntaxes))
        context.context_id = 2 * number + 1
        proposed.append(context)
    primitive.presentation_context_definition_list = proposed
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.826.0.1.3680043.9.3811.3.0.4"
    primitive.user_information = [length, implementation, *user_items]
    return A_ASSOCIATE_RQ(primitive).encode()


def p_data(context_id: int, control: int, data: bytes) -> bytes:
    """One P-DATA-TF with one PDV."""
    return struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, context_id, control) + data


def command_bytes(primitive, message) -> bytes:
    """pynetdicom's encoding of a request's command set."""
    message.primitive_to_message(primitive)
    return encode_dataset(message.command_set, True, True)


def store_command(sop_class: str, sop_instance: str, message_id: int = 1) -> bytes:
    request = C_STORE()
    request.MessageID = message_id
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = sop_instance
    request.Priority = 2
    request.DataSet = io.BytesIO(b"\0\0")
    return command_bytes(request, C_STORE_RQ())


def echo_command(message_id: int = 1) -> bytes:
    request = C_ECHO()
    request.MessageID = message_id
    request.AffectedSOPClassUID = VERIFICATION
    return command_bytes(request, C_ECHO_RQ())


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """An element in Explicit VR Little Endian, with the short form of length."""
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def uid_element(group: int, number: int, uid: str) -> bytes:
    value = uid.encode()
    return element(group, number, b"UI", value + b"\0" * (len(value) % 2))


def mr_dataset(
    sop_instance: str, series: str | None = SERIES_UID, sop_class: str = MR, pixels: bytes = b"\1\2"
) -> bytes:
    """A small data set in Explicit VR Little Endian, by hand so that it may be wrong."""
    parts = [uid_element(8, 0x16, sop_class), uid_element(8, 0x18, sop_instance)]
    if series is not None:
        parts.append(uid_element(0x20, 0x0E, series))
    parts.append(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(pixels)) + pixels)
    return b"".join(parts)


@dataclass(frozen=True)
class Response:
    field: int
    status: int
    comment: str
    dataset: pydicom.Dataset


class Ended(Exception):
    """The receiver ended the association: type of its last PDU (0 none), and that PDU's four bytes."""

    def __init__(self, kind: int, body: bytes) -> None:
        super().__init__(f"PDU type {kind}, {body!r}")
        self.kind, self.body = kind, body


class RawPeer:
    """A connection to the receiver with a few honest moves and a socket for the others."""

    def __init__(self, port: int, seconds: float = 10.0, address: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), seconds, (address, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.results: dict[int, tuple[int, str]] = {}

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *exception) -> None:
        self.socket.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = self.socket.recv(size - len(data))
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Ended(0, data)
            data += piece
        return data

    def read_pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def associate(self, contexts=((MR, (ExplicitVRLittleEndian,)),), **options) -> A_ASSOCIATE_AC:
        """Open an association; Ended tells a rejection."""
        self.socket.sendall(associate_rq(contexts, **options))
        kind, body = self.read_pdu()
        if kind != 2:
            raise Ended(kind, body)
        answer = A_ASSOCIATE_AC()
        answer.decode(struct.pack(">BxI", kind, len(body)) + body)
        for item in answer.presentation_context:
            self.results[item.context_id] = (item.result, item.transfer_syntax)
        return answer

    def response(self) -> Response:
        data = b""
        while True:
            kind, body = self.read_pdu()
            if kind != 4:
                raise Ended(kind, body)
            offset = 0
            while offset < len(body):
                length, _context, control = struct.unpack_from(">IBB", body, offset)
                assert control & 1
                data += body[offset + 6 : offset + 4 + length]
                offset += 4 + length
                if control & 2:
                    command = decode_dataset(io.BytesIO(data), True, True)
                    return Response(
                        command.CommandField, command.Status, str(command.get("ErrorComment", "")), command
                    )

    def echo(self, context_id: int = 1) -> Response:
        self.socket.sendall(p_data(context_id, 3, echo_command()))
        return self.response()

    def store(
        self, sop_instance: str, data: bytes, sop_class: str = MR, context_id: int = 1, piece: int = 16378
    ) -> Response:
        """A C-STORE of these very bytes."""
        self.socket.sendall(p_data(context_id, 3, store_command(sop_class, sop_instance)))
        for start in range(0, max(len(data), 1), piece):
            last = 2 if start + piece >= len(data) else 0
            self.socket.sendall(p_data(context_id, last, data[start : start + piece]))
        return self.response()

    def release(self) -> None:
        self.socket.sendall(struct.pack(">BxI4x", 5, 4))
        kind, _body = self.read_pdu()
        assert kind == 6

    def ended(self) -> tuple[int, bytes]:
        """Read to the end: the receiver's last PDU, or type 0 if it just closed."""
        last = (0, b"")
        while True:
            try:
                last = self.read_pdu()
            except Ended as end:
                return last if not end.body else (0, end.body)


@dataclass(frozen=True)
class SampleFile:
    """A DICOM file as it is sent: its data set's bytes and what its meta information says."""

    path: Path
    sop_class: str
    sop_instance: str
    series: str
    transfer_syntax: str
    data: bytes


def data_set_bytes(path: Path) -> bytes:
    """The data set of a Part 10 file, byte for byte."""
    raw = path.read_bytes()
    meta = read_file_meta_info(path)
    # The group length counts what follows its own 12 bytes after preamble and prefix.
    return raw[132 + 12 + meta.FileMetaInformationGroupLength :]


#: Says JPEG, which means explicit VR, but its data set is implicit.
MISLABELLED = "SC_rgb_jpeg.dcm"


def sample_files(without: tuple[str, ...] = (MISLABELLED,)) -> list[SampleFile]:
    """pydicom's test files that hold an instance."""
    samples = []
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    for path in sorted(folder.glob("**/*.dcm")):
        if path.name in without:
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            uids = [str(header.file_meta.TransferSyntaxUID), str(header.file_meta.MediaStorageSOPInstanceUID)]
            uids += [
                str(header[name].value) for name in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
            ]
        except (pydicom.errors.InvalidDicomError, AttributeError, KeyError):
            continue
        if uids[1] == uids[3] and header.file_meta.get("FileMetaInformationGroupLength"):
            samples.append(SampleFile(path, uids[2], uids[3], uids[4], uids[0], data_set_bytes(path)))
    return samples
