"""Command sets, held to pynetdicom's own encoding and decoding."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dsutils import decode

from tardis_imagetrove.scp import dimse

from .peer import MR, echo_command, store_command


@given(st.integers(0, 65535), st.from_regex(r"[1-9][0-9]{0,9}(\.[1-9][0-9]{0,9}){0,4}", fullmatch=True))
def test_store_requests_are_read_as_pynetdicom_wrote_them(message_id, uid):
    command = dimse.decode_command(store_command(MR, uid, message_id))
    assert command == dimse.Command(dimse.C_STORE_RQ, message_id, True, MR, uid)


def test_an_echo_request_has_no_data_set():
    command = dimse.decode_command(echo_command(7))
    assert (command.field, command.message_id, command.has_data_set) == (dimse.C_ECHO_RQ, 7, False)


@given(
    st.sampled_from([dimse.SUCCESS, dimse.OUT_OF_RESOURCES, dimse.CANNOT_UNDERSTAND]),
    st.text(max_size=100),
    st.sampled_from([None, (0x0008, 0x0018)]),
    st.sampled_from(["", "1.2.3", "1.2.34", "9" * 65]),
)
def test_responses_are_read_by_pynetdicom_as_they_were_meant(status, comment, offending, instance):
    command = dimse.Command(dimse.C_STORE_RQ, 5, True, MR, instance)
    encoded = dimse.encode_response(command, status, comment, offending)
    response = decode(io.BytesIO(encoded), True, True)
    assert response.CommandGroupLength == len(encoded) - 12
    assert (response.CommandField, response.MessageIDBeingRespondedTo, response.Status) == (0x8001, 5, status)
    assert (response.CommandDataSetType, response.AffectedSOPClassUID) == (0x0101, MR)
    assert response.get("AffectedSOPInstanceUID") == (instance if 0 < len(instance) <= 64 else None)
    assert len(str(response.get("ErrorComment", ""))) <= 64
    assert len(encoded) % 2 == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "has no"),
        (b"\0\0\0\1", "cut off"),
        (store_command(MR, "1.2.3")[:-1], "does not fit"),
        (b"\x08\0\x16\0\2\0\0\0ab", "does not fit a command set"),
        (b"\0\0\0\1\4\0\0\0\1\0\0\0", "4 bytes instead of 2"),
    ],
)
def test_what_is_no_command_set_says_why(data, words):
    with pytest.raises(dimse.MalformedCommand, match=words):
        dimse.decode_command(data)


@given(st.binary(max_size=200), st.integers(0, 120))
def test_any_bytes_are_a_command_or_malformed(data, at):
    whole = store_command(MR, "1.2.3")
    for candidate in (data, whole[:at] + data + whole[at:]):
        try:
            dimse.encode_response(dimse.decode_command(candidate), dimse.SUCCESS)
        except dimse.MalformedCommand as error:
            assert str(error)
