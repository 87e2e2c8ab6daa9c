"""DIMSE command sets (PS3.7): reading requests and writing responses, without any network (pure)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

C_STORE_RQ = 0x0001
N_ACTION_RQ = 0x0130
C_ECHO_RQ = 0x0030
C_CANCEL_RQ = 0x0FFF
RESPONSE = 0x8000

NO_DATA_SET = 0x0101

#: Longest command set that is read, in bytes; real ones have a few hundred.
MAX_COMMAND_BYTES = 8 * 1024

# Statuses (PS3.7 annex C; PS3.4 table B.2-1 for C-STORE).
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
INVALID_SOP_INSTANCE = 0x0117
SOP_CLASS_NOT_SUPPORTED = 0x0122
NO_SUCH_ACTION = 0x0123
UNRECOGNIZED_OPERATION = 0x0211
MISTYPED_ARGUMENT = 0x0212
RESOURCE_LIMITATION = 0x0213
OUT_OF_RESOURCES = 0xA700
OUT_OF_RESOURCES_DISK_TROUBLE = 0xA701
DATA_SET_DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

_ELEMENT = struct.Struct("<HHI")

_GROUP_LENGTH = 0x0000
_AFFECTED_SOP_CLASS = 0x0002
_REQUESTED_SOP_CLASS = 0x0003
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_RESPONDED_TO = 0x0120
_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_OFFENDING_ELEMENT = 0x0901
_ERROR_COMMENT = 0x0902
_AFFECTED_SOP_INSTANCE = 0x1000
_REQUESTED_SOP_INSTANCE = 0x1001
_ACTION_TYPE_ID = 0x1008


class MalformedCommand(Exception):
    """The peer's command set cannot be read; the association is aborted, as no response could be addressed."""


@dataclass(frozen=True)
class Command:
    """A request's command set (PS3.7 section 6.3), with the elements that this receiver looks at.

    ``sop_class`` and ``sop_instance`` are the affected or the requested ones, without padding and
    otherwise as sent: nothing here vouches for them.
    """

    field: int
    message_id: int
    has_data_set: bool
    sop_class: str = ""
    sop_instance: str = ""
    action_type: int | None = None


def _uid(value: bytes) -> str:
    return value.decode("latin-1").rstrip("\0 ")


def _number(value: bytes, element: int) -> int:
    if len(value) != 2:
        raise MalformedCommand(f"(0000,{element:04X}) has {len(value)} bytes instead of 2")
    return value[0] | value[1] << 8


def decode_command(data: bytes | bytearray) -> Command:
    """Read a command set: Implicit VR Little Endian, group 0000 (PS3.7 section 6.3.1).

    Raises:
        MalformedCommand: cut off, of another group, or without command field or message ID.
    """
    values: dict[int, bytes] = {}
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < 8:
            raise MalformedCommand("the command set is cut off")
        group, element, length = _ELEMENT.unpack_from(data, offset)
        offset += 8
        if group or length > end - offset:
            raise MalformedCommand(
                f"({group:04X},{element:04X}) of {length} bytes does not fit a command set"
            )
        values[element] = bytes(data[offset : offset + length])
        offset += length
    try:
        field = _number(values[_COMMAND_FIELD], _COMMAND_FIELD)
        # A C-CANCEL has only the ID that it responds to (PS3.7 section 9.3.2.3).
        message_id = _number(values.get(_MESSAGE_ID) or values[_MESSAGE_ID_RESPONDED_TO], _MESSAGE_ID)
        data_set = _number(values[_DATA_SET_TYPE], _DATA_SET_TYPE)
    except KeyError as missing:
        raise MalformedCommand(f"the command set has no (0000,{missing.args[0]:04X})") from None
    action = values.get(_ACTION_TYPE_ID)
    return Command(
        field=field,
        message_id=message_id,
        has_data_set=data_set != NO_DATA_SET,
        sop_class=_uid(values.get(_AFFECTED_SOP_CLASS) or values.get(_REQUESTED_SOP_CLASS, b"")),
        sop_instance=_uid(values.get(_AFFECTED_SOP_INSTANCE) or values.get(_REQUESTED_SOP_INSTANCE, b"")),
        action_type=None if action is None else _number(action, _ACTION_TYPE_ID),
    )


def _us(element: int, value: int) -> bytes:
    return struct.pack("<HHIH", 0, element, 2, value)


def _text(element: int, value: str, pad: bytes) -> bytes:
    raw = value.encode("latin-1", "replace")
    if len(raw) % 2:
        raw += pad
    return _ELEMENT.pack(0, element, len(raw)) + raw


def encode_response(
    command: Command, status: int, comment: str = "", offending: tuple[int, int] | None = None
) -> bytes:
    """The command set of the response to ``command`` (PS3.7 sections 9.3 and 10.3), without a data set.

    Args:
        comment: what went wrong; cut to the 64 characters that (0000,0902) holds.
        offending: tag of the element that was wrong, for (0000,0901).
    """
    parts = []
    if 0 < len(command.sop_class) <= 64:
        parts.append(_text(_AFFECTED_SOP_CLASS, command.sop_class, b"\0"))
    parts.append(_us(_COMMAND_FIELD, command.field | RESPONSE))
    parts.append(_us(_MESSAGE_ID_RESPONDED_TO, command.message_id))
    parts.append(_us(_DATA_SET_TYPE, NO_DATA_SET))
    parts.append(_us(_STATUS, status))
    if offending is not None:
        parts.append(struct.pack("<HHIHH", 0, _OFFENDING_ELEMENT, 4, *offending))
    if comment:
        parts.append(_text(_ERROR_COMMENT, comment[:64], b" "))
    if 0 < len(command.sop_instance) <= 64:
        parts.append(_text(_AFFECTED_SOP_INSTANCE, command.sop_instance, b"\0"))
    if command.action_type is not None:
        parts.append(_us(_ACTION_TYPE_ID, command.action_type))
    body = b"".join(parts)
    return struct.pack("<HHII", 0, _GROUP_LENGTH, 4, len(body)) + body
