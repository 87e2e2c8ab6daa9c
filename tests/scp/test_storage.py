"""C-STORE over real associations: what is kept, byte for byte, and what is refused with which status."""

from __future__ import annotations

import struct
from collections import Counter

import pydicom
import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config

from .peer import (
    MISLABELLED,
    MR,
    SERIES_UID,
    RawPeer,
    data_set_bytes,
    element,
    mr_dataset,
    sample_files,
    uid_element,
)


def test_every_transfer_syntax_is_kept_byte_for_byte(receive, spool, stored):
    port = receive().port
    samples = sample_files()
    kinds = Counter(UID(one.transfer_syntax).name for one in samples)
    assert len(samples) > 50
    assert len(kinds) >= 10, kinds  # RLE, JPEG, JPEG-LS, JPEG 2000, big endian, deflated, implicit, …
    contexts = sorted({(one.sop_class, one.transfer_syntax) for one in samples})
    with RawPeer(port) as peer:
        peer.associate([(abstract, (syntax,)) for abstract, syntax in contexts])
        for one in samples:
            context_id = 2 * contexts.index((one.sop_class, one.transfer_syntax)) + 1
            assert peer.results[context_id] == (0, one.transfer_syntax)
            answer = peer.store(one.sop_instance, one.data, one.sop_class, context_id)
            assert answer.status == 0, (one.path.name, answer.comment)
        peer.release()
    kept = {
        (data_set_bytes(path), str(pydicom.dcmread(path).file_meta.TransferSyntaxUID)) for path in stored()
    }
    assert kept == {(one.data, one.transfer_syntax) for one in samples}


def test_an_instance_encoded_otherwise_than_agreed_is_refused(receive, stored):
    sample = next(one for one in sample_files(without=()) if one.path.name == MISLABELLED)
    with RawPeer(receive().port) as peer:
        peer.associate([(sample.sop_class, (sample.transfer_syntax,))])
        answer = peer.store(sample.sop_instance, sample.data, sample.sop_class)
    assert (answer.status, answer.comment) == (0xC000, "Data set: (0008,0008) at byte 0 has no VR")
    assert stored() == []


def test_files_sent_by_pynetdicom_arrive_whole(receive, stored, monkeypatch):
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    port = receive().port
    sample = next(one for one in sample_files() if one.path.name == "MR_small.dcm")
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(sample.sop_class, [sample.transfer_syntax])
    association = ae.associate("127.0.0.1", port, ae_title="IMAGETROVE")
    assert association.is_established
    assert association.send_c_store(sample.path).Status == 0
    association.release()
    assert [data_set_bytes(path) for path in stored()] == [sample.data]
    assert stored()[0].parent.name == sample.series


def test_the_file_is_a_valid_part_10_file(receive, stored):
    port = receive().port
    data = mr_dataset("1.2.3")
    with RawPeer(port) as peer:
        peer.associate()
        assert peer.store("1.2.3", data).status == 0
    header = pydicom.dcmread(stored()[0])
    assert header.file_meta.MediaStorageSOPClassUID == MR
    assert header.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert header.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert header.file_meta.ImplementationVersionName == "IMAGETROVE"
    pydicom.filewriter.validate_file_meta(header.file_meta)
    assert data_set_bytes(stored()[0]) == data


def test_the_same_instance_again_is_acknowledged_and_kept_once(receive, stored):
    receiver = receive()
    for calling in ("SCANNER", "OTHER"):
        with RawPeer(receiver.port) as peer:
            peer.associate(calling=calling)
            assert peer.store("1.2.3", mr_dataset("1.2.3")).status == 0
            peer.release()
    assert len(stored()) == 1
    assert (receiver.counters().instances, receiver.counters().duplicates) == (1, 1)


def test_another_instance_under_the_same_uid_is_kept_beside_it(receive, stored):
    receiver = receive()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        for pixels in (b"\1\2", b"\3\4"):
            assert peer.store("1.2.3", mr_dataset("1.2.3", pixels=pixels)).status == 0
    assert {data_set_bytes(path)[-2:] for path in stored()} == {b"\1\2", b"\3\4"}
    assert receiver.counters().differing == 1


@pytest.mark.parametrize(
    ("sent", "data", "status", "words"),
    [
        ("../../etc/passwd", mr_dataset("1.2.3"), 0x0117, "not a valid UID"),
        ("1." + "2" * 63, mr_dataset("1.2.3"), 0x0117, "not a valid UID"),
        ("..", mr_dataset(".."), 0x0117, "not a valid UID"),
        ("1.2.4", mr_dataset("1.2.3"), 0xA900, "SOPInstanceUID differs"),
        ("1.2.3", mr_dataset("1.2.3", sop_class="1.2.840.10008.5.1.4.1.1.2"), 0xA900, "SOPClassUID differs"),
        ("1.2.3", mr_dataset("1.2.3", series=None), 0xC000, "SeriesInstanceUID of the data set is missing"),
        (
            "1.2.3",
            mr_dataset("1.2.3", series="../../x"),
            0xC000,
            "SeriesInstanceUID of the data set is not a valid",
        ),
        (
            "1.2.3",
            mr_dataset("1.2.3", series="1." + "2" * 63),
            0xC000,
            "SeriesInstanceUID of the data set is not",
        ),
        ("1.2.3", b"GET / HTTP/1.1\r\n\r\n", 0xC000, "has no VR"),
        ("1.2.3", b"", 0xC000, "SOPClassUID of the data set is missing"),
        ("1.2.3", mr_dataset("1.2.3")[:20], 0xC000, "is missing"),
    ],
)
def test_a_bad_instance_is_refused_and_the_next_one_is_stored(
    receive, spool, stored, sent, data, status, words
):
    receiver = receive()
    with RawPeer(receiver.port) as peer:
        peer.associate()
        # pynetdicom would not encode some of these UIDs: put them in by hand.
        value = sent.encode() + b"\0" * (len(sent) % 2)
        command = any_store_command(value)
        peer.socket.sendall(command)
        for start in range(0, max(len(data), 1), 100):
            chunk = data[start : start + 100]
            last = 2 if start + 100 >= len(data) else 0
            peer.socket.sendall(struct.pack(">BxIIBB", 4, len(chunk) + 6, len(chunk) + 2, 1, last) + chunk)
        answer = peer.response()
        assert answer.status == status
        assert words in answer.comment
        assert stored() == []
        assert peer.store("9.8.7", mr_dataset("9.8.7")).status == 0
        peer.release()
    assert [path.name for path in stored()] == ["9.8.7.dcm"]
    assert not list(spool.root.glob("incoming/*/*"))
    assert receiver.counters().refusals.total() == 1


def any_store_command(instance: bytes) -> bytes:
    """A C-STORE-RQ whose Affected SOP Instance UID may be anything."""

    def implicit(number, value):
        return struct.pack("<HHI", 0, number, len(value)) + value

    body = implicit(0x0002, MR.encode() + b"\0")
    body += implicit(0x0100, b"\1\0") + implicit(0x0110, b"\1\0") + implicit(0x0700, b"\0\0")
    body += implicit(0x0800, b"\0\0") + implicit(0x1000, instance)
    body = implicit(0x0000, struct.pack("<I", len(body))) + body
    return struct.pack(">BxIIBB", 4, len(body) + 6, len(body) + 2, 1, 3) + body


def test_uids_with_leading_zeros_are_kept_as_sent(receive, stored):
    with RawPeer(receive().port) as peer:
        peer.associate()
        assert peer.store("1.02.003", mr_dataset("1.02.003")).status == 0
    assert [path.name for path in stored()] == ["1.02.003.dcm"]


def test_odd_lengths_group_lengths_and_character_sets_stay_as_they_are(receive, stored):
    data = (
        struct.pack("<HH2sHI", 8, 0, b"UL", 4, 1234)  # a group length, and a wrong one
        + element(8, 0x05, b"CS", b"ISO_IR 192")
        + uid_element(8, 0x16, MR)
        + element(8, 0x18, b"UI", b"1.2.3")  # odd length, against PS3.5
        + element(0x10, 0x10, b"PN", "Müller^Jürgen".encode())
        + element(0x20, 0x0E, b"UI", SERIES_UID.encode() + b" ")  # padded by a space, against PS3.5
    )
    with RawPeer(receive().port) as peer:
        peer.associate()
        assert peer.store("1.2.3", data).status == 0
    assert data_set_bytes(stored()[0]) == data
    assert stored()[0].parent.name == SERIES_UID


def test_a_large_element_before_the_series_uid_does_not_matter(receive, stored):
    private = struct.pack("<HH2sHI", 9, 0x1010, b"OB", 0, 5_000_001) + bytes(5_000_001)
    data = (
        uid_element(8, 0x16, MR)
        + uid_element(8, 0x18, "1.2.3")
        + private
        + uid_element(0x20, 0x0E, SERIES_UID)
    )
    with RawPeer(receive().port) as peer:
        peer.associate()
        assert peer.store("1.2.3", data, piece=100_001).status == 0
    assert data_set_bytes(stored()[0]) == data


def test_private_and_unknown_storage_classes_are_accepted_and_other_services_are_not(receive):
    philips, future = "1.3.46.670589.11.0.0.12.1", "1.2.840.10008.5.1.4.1.1.999.1"
    query, commitment = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.1.20.1"
    with RawPeer(receive().port) as peer:
        peer.associate([(uid, (ImplicitVRLittleEndian,)) for uid in (philips, future, query, commitment)])
        assert [peer.results[number][0] for number in (1, 3, 5, 7)] == [0, 0, 3, 3]
        data = b"".join(
            struct.pack("<HHI", group, number, len(uid)) + uid
            for group, number, uid in (
                (8, 0x16, philips.encode() + b"\0"),
                (8, 0x18, b"1.2.3\0"),
                (0x20, 0x0E, SERIES_UID.encode() + b"\0"),
            )
        )
        assert peer.store("1.2.3", data, philips, 1).status == 0


def test_explicit_little_endian_is_preferred_whatever_the_order(receive):
    jpeg, explicit, implicit = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
    with RawPeer(receive().port) as peer:
        peer.associate([(MR, (implicit, explicit)), (MR, (jpeg, implicit)), (MR, (implicit, jpeg))])
        assert [peer.results[number][1] for number in (1, 3, 5)] == [explicit, jpeg, implicit]


def test_pixels_by_reference_are_not_accepted_as_stored(receive):
    with RawPeer(receive().port) as peer:
        peer.associate([(MR, ("1.2.840.10008.1.2.4.94",))])
        assert peer.results[1][0] == 4


def test_an_echo_is_answered(receive):
    receiver = receive()
    with RawPeer(receiver.port) as peer:
        peer.associate([("1.2.840.10008.1.1", (ImplicitVRLittleEndian,))])
        assert (peer.echo().field, peer.echo().status) == (0x8030, 0)
        peer.release()
    assert receiver.counters().echoes == 2


def test_the_class_of_an_instance_need_not_be_that_of_its_context(receive):
    ct = "1.2.840.10008.5.1.4.1.1.2"
    with RawPeer(receive().port) as peer:
        peer.associate()  # for MR
        assert peer.store("1.2.3", mr_dataset("1.2.3", sop_class=ct), ct).status == 0
