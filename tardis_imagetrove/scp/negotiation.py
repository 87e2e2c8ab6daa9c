"""What an association may carry: the answer to its proposed presentation contexts (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    UID_dictionary,
)

from .pdu import AssociateRequest, ContextResult, ProposedContext, Role

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"


def _is_other_service(name: str) -> bool:
    if not name:  # a retired UID that PS3.6 lists without a name
        return False
    return "Storage" not in name or "Commitment" in name or name.startswith("Media Storage Directory")


#: The SOP classes of PS3.6 that store nothing: print, query, worklist, commitment and so on.
OTHER_SERVICES = frozenset(
    uid
    for uid, entry in UID_dictionary.items()
    if entry[1] in ("SOP Class", "Meta SOP Class") and _is_other_service(entry[0])
)

#: JPIP (PS3.5 annex A.6 and on): the pixels stay at the sender behind a URL, so that an archive
#: would acknowledge an image that it does not have.
_BY_REFERENCE = frozenset(
    uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax" and "JPIP" in entry[0]
)

_UNCOMPRESSED = frozenset((ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian))

_ACCEPTED = 0
_NO_SUCH_ABSTRACT_SYNTAX = 3
_NO_SUCH_TRANSFER_SYNTAX = 4


def is_storage(abstract_syntax: str) -> bool:
    """Whether instances of this SOP class are stored: all classes but those known to be something else.

    That takes in private classes, and the classes of future editions of the standard.
    """
    return bool(abstract_syntax) and abstract_syntax not in OTHER_SERVICES


def choose_transfer_syntax(proposed: tuple[str, ...]) -> str | None:
    """Explicit VR Little Endian if it is offered, else the requestor's first choice that can be kept.

    Explicit first, since Implicit loses the VR of private elements.
    """
    if ExplicitVRLittleEndian in proposed:
        return str(ExplicitVRLittleEndian)
    return next((uid for uid in proposed if uid and uid not in _BY_REFERENCE), None)


@dataclass(frozen=True)
class AcceptedContext:
    """A context that was agreed on."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True)
class Agreement:
    """The outcome of a negotiation: what is answered, and what may follow."""

    results: tuple[ContextResult, ...]
    roles: tuple[Role, ...]
    accepted: dict[int, AcceptedContext]


def negotiate(request: AssociateRequest, commitment: bool = False) -> Agreement:
    """Answer every proposed context (PS3.8 section 9.3.3.2) and every role (PS3.7 annex D.3.3.4).

    Args:
        commitment: whether storage commitment is served.
    """
    results = [_answer(context, commitment) for context in request.contexts]
    accepted = {
        result.context_id: AcceptedContext(context.abstract_syntax, result.transfer_syntax)
        for context, result in zip(request.contexts, results, strict=True)
        if result.result == _ACCEPTED
    }
    classes = {context.abstract_syntax for context in accepted.values()}
    # This receiver is SCP only: a proposal to be SCP as well is declined, the SCU role stays as proposed.
    roles = {
        role.sop_class: Role(role.sop_class, scu=role.scu, scp=False)
        for role in request.roles
        if role.sop_class in classes
    }
    return Agreement(tuple(results), tuple(roles.values()), accepted)


def _answer(context: ProposedContext, commitment: bool) -> ContextResult:
    abstract = context.abstract_syntax
    served = (
        is_storage(abstract) or abstract == VERIFICATION or (commitment and abstract == STORAGE_COMMITMENT)
    )
    first = context.transfer_syntaxes[0] if context.transfer_syntaxes else str(ExplicitVRLittleEndian)
    if not served:
        return ContextResult(context.context_id, _NO_SUCH_ABSTRACT_SYNTAX, first)
    proposed = context.transfer_syntaxes
    if abstract == STORAGE_COMMITMENT:
        proposed = tuple(uid for uid in proposed if uid in _UNCOMPRESSED)
    chosen = choose_transfer_syntax(proposed)
    if chosen is None:
        return ContextResult(context.context_id, _NO_SUCH_TRANSFER_SYNTAX, first)
    return ContextResult(context.context_id, _ACCEPTED, chosen)
