"""The bytes of the DICOM upper layer's protocol data units (PS3.8 section 9.3), both ways, without any network.

Our own, although pynetdicom has classes for these: reading an A-ASSOCIATE-RQ of 128 contexts takes
them 16 ms, they end at the first item type they do not know (PS3.8 section 9.3.1 says to skip it),
and they log a traceback for every odd byte of a hostile peer. The tests hold this module to theirs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

ASSOCIATE_RQ = 0x01
ASSOCIATE_AC = 0x02
ASSOCIATE_RJ = 0x03
P_DATA_TF = 0x04
RELEASE_RQ = 0x05
RELEASE_RP = 0x06
ABORT = 0x07

#: Type, reserved, length of what follows: what every PDU begins with.
HEADER = struct.Struct(">BxI")
#: Length (counted from the context ID), context ID, message control header.
PDV_HEADER = struct.Struct(">IBB")
#: Message control header bits (PS3.8 annex E.2).
IS_COMMAND = 0x01
IS_LAST = 0x02

RELEASE_RP_BYTES = HEADER.pack(RELEASE_RP, 4) + bytes(4)

#: The one application context of DICOM (PS3.7 annex A.2.1).
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

_ITEM = struct.Struct(">BxH")
_FIXED = struct.Struct(">H2x16s16s32x")  # after the PDU header: version, called, calling, reserved
_APPLICATION_CONTEXT = 0x10
_CONTEXT_RQ = 0x20
_CONTEXT_AC = 0x21
_ABSTRACT_SYNTAX = 0x30
_TRANSFER_SYNTAX = 0x40
_USER_INFORMATION = 0x50
_MAXIMUM_LENGTH = 0x51
_IMPLEMENTATION_CLASS = 0x52
_ROLE_SELECTION = 0x54
_IMPLEMENTATION_VERSION = 0x55

#: Longest UID or name that is read, in bytes; a UID has at most 64 (PS3.8 annex F).
_MAX_TEXT = 256
#: Most items of each level. A request may hold 128 contexts (PS3.8 section 9.3.2.2) and a few other items.
_MAX_ITEMS = 256
_MAX_SYNTAXES = 512
_MAX_USER_ITEMS = 2048


class MalformedPDU(Exception):
    """The peer's bytes are no valid PDU; answered with an A-ABORT, reason "invalid PDU parameter"."""


@dataclass(frozen=True)
class ProposedContext:
    """A presentation context as the requestor proposes it (PS3.8 section 9.3.2.2)."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True)
class ContextResult:
    """Our answer to a proposed context; ``result`` as in PS3.8 table 9-18 (0 accepted, 3, 4)."""

    context_id: int
    result: int
    transfer_syntax: str


@dataclass(frozen=True)
class Role:
    """SCP/SCU role selection for one SOP class (PS3.7 annex D.3.3.4)."""

    sop_class: str
    scu: bool
    scp: bool


@dataclass(frozen=True)
class AssociateRequest:
    """What an A-ASSOCIATE-RQ asks for.

    Attributes:
        max_pdu: most bytes, after its header, that the peer takes in one P-DATA-TF; 0 is no limit.
        raw_titles: the 32 bytes of both AE titles, which the answer repeats.
    """

    protocol_version: int
    called_ae: str
    calling_ae: str
    raw_titles: bytes
    application_context: str
    contexts: tuple[ProposedContext, ...]
    roles: tuple[Role, ...] = ()
    max_pdu: int = 0
    implementation_class: str = ""
    implementation_version: str = ""


def _items(data: bytes, where: str, limit: int) -> Iterator[tuple[int, bytes]]:
    """The items of ``data``: type and value of each; more than ``limit`` are an error."""
    offset = 0
    while offset < len(data):
        limit -= 1
        if limit < 0:
            raise MalformedPDU(f"{where}: too many items")
        if len(data) - offset < _ITEM.size:
            raise MalformedPDU(f"{where}: an item's header is cut off")
        kind, length = _ITEM.unpack_from(data, offset)
        offset += _ITEM.size
        if length > len(data) - offset:
            raise MalformedPDU(f"{where}: item 0x{kind:02X} of {length} bytes is cut off")
        yield kind, data[offset : offset + length]
        offset += length


def _text(value: bytes, what: str) -> str:
    """ASCII without padding; instruments pad with spaces and with NUL."""
    if len(value) > _MAX_TEXT:
        raise MalformedPDU(f"{what} has {len(value)} bytes: {value[:70]!r}...")
    text = value.decode("latin-1").strip(" \0")
    if not text.isascii() or not text.isprintable():
        raise MalformedPDU(f"{what} is not printable ASCII: {value[:70]!r}")
    return text


def _title(value: bytes) -> str:
    """An AE title for comparing and for the log: what is not printable ASCII becomes a question mark."""
    text = value.decode("latin-1").strip(" \0")
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)


def _context(data: bytes) -> ProposedContext:
    if len(data) < 4:
        raise MalformedPDU("a presentation context is cut off")
    abstract, syntaxes = "", []
    for kind, value in _items(data[4:], "presentation context", _MAX_SYNTAXES):
        if kind == _ABSTRACT_SYNTAX:
            abstract = _text(value, "an abstract syntax")
        elif kind == _TRANSFER_SYNTAX:
            syntaxes.append(_text(value, "a transfer syntax"))
    return ProposedContext(data[0], abstract, tuple(syntaxes))


def decode_associate_rq(data: bytes) -> AssociateRequest:
    """Read an A-ASSOCIATE-RQ (PS3.8 section 9.3.2), without its 6-byte header; unknown items are skipped.

    Raises:
        MalformedPDU: cut off, or against the rules in a way that leaves no meaning.
    """
    if len(data) < _FIXED.size:
        raise MalformedPDU(f"A-ASSOCIATE-RQ of {len(data)} bytes is cut off")
    version, called, calling = _FIXED.unpack_from(data)
    application_context, contexts, user = "", [], b""
    for kind, value in _items(data[_FIXED.size :], "A-ASSOCIATE-RQ", _MAX_ITEMS):
        if kind == _CONTEXT_RQ:
            contexts.append(_context(value))
        elif kind == _APPLICATION_CONTEXT:
            application_context = _text(value, "the application context")
        elif kind == _USER_INFORMATION:
            user = value
    seen: set[int] = set()
    for context in contexts:
        if context.context_id % 2 == 0 or context.context_id in seen:
            raise MalformedPDU(f"presentation context ID {context.context_id} is even or repeated")
        seen.add(context.context_id)
    max_pdu, implementation, implementation_version, roles = 0, "", "", []
    for kind, value in _items(user, "user information", _MAX_USER_ITEMS):
        if kind == _MAXIMUM_LENGTH and len(value) == 4:
            max_pdu = int.from_bytes(value, "big")
        elif kind == _IMPLEMENTATION_CLASS:
            implementation = _text(value, "the implementation class UID")
        elif kind == _IMPLEMENTATION_VERSION:
            implementation_version = _text(value, "the implementation version name")
        elif kind == _ROLE_SELECTION and len(value) >= 4:
            length = int.from_bytes(value[:2], "big")
            if len(value) < length + 4:
                raise MalformedPDU("a role selection item is cut off")
            roles.append(
                Role(
                    _text(value[2 : 2 + length], "a SOP class"),
                    value[2 + length] == 1,
                    value[3 + length] == 1,
                )
            )
    return AssociateRequest(
        protocol_version=version,
        called_ae=_title(called),
        calling_ae=_title(calling),
        raw_titles=called + calling,
        application_context=application_context,
        contexts=tuple(contexts),
        roles=tuple(roles),
        max_pdu=max_pdu,
        implementation_class=implementation,
        implementation_version=implementation_version,
    )


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def encode_associate_ac(
    request: AssociateRequest,
    results: tuple[ContextResult, ...],
    roles: tuple[Role, ...],
    max_pdu: int,
    implementation_class: str,
    implementation_version: str,
) -> bytes:
    """The A-ASSOCIATE-AC that answers ``request`` (PS3.8 section 9.3.3)."""
    items = [_item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode())]
    for result in results:
        syntax = _item(_TRANSFER_SYNTAX, result.transfer_syntax.encode())
        items.append(_item(_CONTEXT_AC, bytes((result.context_id, 0, result.result, 0)) + syntax))
    user = [
        _item(_MAXIMUM_LENGTH, max_pdu.to_bytes(4, "big")),
        _item(_IMPLEMENTATION_CLASS, implementation_class.encode()),
    ]
    for role in roles:
        uid = role.sop_class.encode()
        user.append(_item(_ROLE_SELECTION, len(uid).to_bytes(2, "big") + uid + bytes((role.scu, role.scp))))
    user.append(_item(_IMPLEMENTATION_VERSION, implementation_version.encode()))
    items.append(_item(_USER_INFORMATION, b"".join(user)))
    body = struct.pack(">HH", 1, 0) + request.raw_titles + bytes(32) + b"".join(items)
    return HEADER.pack(ASSOCIATE_AC, len(body)) + body


def encode_associate_rj(result: int, source: int, reason: int) -> bytes:
    """The A-ASSOCIATE-RJ (PS3.8 section 9.3.4); the values are those of PS3.8 table 9-21."""
    return HEADER.pack(ASSOCIATE_RJ, 4) + bytes((0, result, source, reason))


#: A-ABORT sources and reasons (PS3.8 table 9-26).
ABORT_BY_USER = (0, 0)
ABORT_UNRECOGNIZED_PDU = (2, 1)
ABORT_UNEXPECTED_PDU = (2, 2)
ABORT_INVALID_PARAMETER = (2, 6)


def encode_abort(source_and_reason: tuple[int, int]) -> bytes:
    """An A-ABORT (PS3.8 section 9.3.8)."""
    return HEADER.pack(ABORT, 4) + bytes((0, 0, *source_and_reason))


def encode_p_data(context_id: int, control: int, data: bytes, max_pdu: int) -> bytes:
    """``data`` as P-DATA-TF PDUs of one PDV each, none longer than ``max_pdu`` (0: no limit).

    ``control`` is :data:`IS_COMMAND` or 0; the last fragment is marked as such.
    """
    # Fragments have an even length (PS3.8 annex E.1); a peer that allows less than one gets one.
    room = len(data) if max_pdu == 0 else max(2, (max_pdu - PDV_HEADER.size) & ~1)
    pieces = []
    for start in range(0, len(data), max(room, 1)):
        part = data[start : start + room]
        last = IS_LAST if start + room >= len(data) else 0
        pieces.append(HEADER.pack(P_DATA_TF, len(part) + 6))
        pieces.append(PDV_HEADER.pack(len(part) + 2, context_id, control | last))
        pieces.append(part)
    return b"".join(pieces)
