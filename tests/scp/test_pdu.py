"""PDUs both ways, held to pynetdicom's own encoding and decoding."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, P_DATA_TF
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    UserIdentityNegotiation,
)

from tardis_imagetrove.scp import pdu
from tardis_imagetrove.scp.negotiation import negotiate

from .peer import MR, associate_rq

uids = st.from_regex(r"[1-9][0-9]{0,5}(\.[1-9][0-9]{0,5}){1,6}", fullmatch=True)
contexts = st.lists(
    st.tuples(uids, st.lists(uids, min_size=1, max_size=5, unique=True)), min_size=1, max_size=20
)
titles = st.from_regex(r"[A-Z0-9][A-Z0-9_ -]{0,14}[A-Z0-9]", fullmatch=True)


@settings(max_examples=20)
@given(contexts, titles, titles, st.integers(0, 2**32 - 1))
def test_requests_are_read_as_pynetdicom_wrote_them(proposed, called, calling, max_pdu):
    request = pdu.decode_associate_rq(associate_rq(proposed, called, calling, max_pdu)[6:])
    assert (request.called_ae, request.calling_ae, request.max_pdu) == (called, calling, max_pdu)
    assert request.application_context == pdu.APPLICATION_CONTEXT
    assert [(one.abstract_syntax, list(one.transfer_syntaxes)) for one in request.contexts] == proposed
    assert [one.context_id for one in request.contexts] == list(range(1, 2 * len(proposed), 2))


@settings(max_examples=20)
@given(contexts, st.booleans())
def test_answers_are_read_by_pynetdicom_as_they_were_meant(proposed, role):
    items = []
    if role:
        selection = SCP_SCU_RoleSelectionNegotiation()
        selection.sop_class_uid, selection.scu_role, selection.scp_role = proposed[0][0], True, True
        items.append(selection)
    request = pdu.decode_associate_rq(associate_rq(proposed, user_items=items)[6:])
    agreement = negotiate(request)
    encoded = pdu.encode_associate_ac(request, agreement.results, agreement.roles, 16384, "1.2.3", "NAME")
    answer = A_ASSOCIATE_AC()
    answer.decode(encoded)
    assert len(answer) == len(encoded)
    primitive = answer.to_primitive()
    assert primitive.maximum_length_received == 16384
    assert primitive.implementation_class_uid == "1.2.3"
    results = primitive.presentation_context_definition_results_list
    assert [(one.context_id, one.result, one.transfer_syntax[0]) for one in results] == [
        (one.context_id, one.result, one.transfer_syntax) for one in agreement.results
    ]
    roles = answer.user_information.role_selection
    assert {uid: (item.scu, item.scp) for uid, item in roles.items()} == (
        {proposed[0][0]: (1, 0)} if role else {}
    )


def test_extended_negotiation_and_unknown_items_are_passed_over():
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field = 1, b"somebody"
    data = associate_rq([(MR, ["1.2.840.10008.1.2"])], user_items=[window, identity])
    unknown = struct.pack(">BxH", 0x7A, 4) + b"\1\2\3\4"
    request = pdu.decode_associate_rq(data[6:] + unknown)
    assert [one.abstract_syntax for one in request.contexts] == [MR]


def test_titles_padded_with_nul_and_of_other_alphabets_are_read():
    data = bytearray(associate_rq([(MR, ["1.2.840.10008.1.2"])])[6:])
    data[4:20] = b"IMAGETROVE\0\0\0\0\0\0"
    data[20:36] = "MRÄ\n".encode("latin-1").ljust(16)
    request = pdu.decode_associate_rq(bytes(data))
    assert (request.called_ae, request.calling_ae) == ("IMAGETROVE", "MR??")


@pytest.mark.parametrize("context_ids", [b"\1\1", b"\1\2"])
def test_repeated_and_even_context_ids_are_malformed(context_ids):
    data = bytearray(associate_rq([(MR, ["1.2.840.10008.1.2"]), (MR, ["1.2.840.10008.1.2.1"])])[6:])
    first = data.index(b"\x20\x00", 68)  # behind the AE titles and their padding
    second = data.index(b"\x20\x00", first + 1)
    data[first + 4], data[second + 4] = context_ids
    with pytest.raises(pdu.MalformedPDU, match="even or repeated"):
        pdu.decode_associate_rq(bytes(data))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_malformed(data):
    for candidate in (data, associate_rq([(MR, ["1.2.840.10008.1.2"])])[6:80] + data):
        try:
            pdu.decode_associate_rq(candidate)
        except pdu.MalformedPDU as error:
            assert str(error)


@given(st.binary(min_size=1, max_size=400), st.integers(0, 100))
def test_long_messages_are_cut_to_what_the_peer_takes(data, max_pdu):
    encoded = pdu.encode_p_data(3, pdu.IS_COMMAND, data, max_pdu)
    joined, controls, offset = b"", [], 0
    while offset < len(encoded):
        _kind, length = pdu.HEADER.unpack_from(encoded, offset)
        assert max_pdu == 0 or length <= max(max_pdu, 8)
        one = P_DATA_TF()
        one.decode(encoded[offset : offset + 6 + length])
        (value,) = one.presentation_data_value_items
        assert value.context_id == 3
        controls.append(value.presentation_data_value[0])
        joined += value.presentation_data_value[1:]
        offset += 6 + length
    assert joined == data
    assert controls == [1] * (len(controls) - 1) + [3]


def test_rejections_and_aborts_are_read_by_pynetdicom():
    rejected = A_ASSOCIATE_RJ()
    rejected.decode(pdu.encode_associate_rj(2, 3, 2))
    assert (rejected.result, rejected.source, rejected.reason_diagnostic) == (2, 3, 2)
    aborted = A_ABORT_RQ()
    aborted.decode(pdu.encode_abort(pdu.ABORT_INVALID_PARAMETER))
    assert (aborted.source, aborted.reason_diagnostic) == (2, 6)
