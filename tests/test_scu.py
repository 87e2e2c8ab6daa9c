"""Sending as an instrument does: what is acknowledged, refused, or finds nobody."""

from __future__ import annotations

import gzip
import re
import socket
import time
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.sop_class import Verification

from tardis_imagetrove import scu
from tardis_imagetrove.formats.dicom.files import UnreadableFile
from tardis_imagetrove.scp import ReceiverConfig, running_receiver
from tardis_imagetrove.spool import Spool, item_uid

from .conftest import phantom


@pytest.fixture
def peer(spool):
    with running_receiver(ReceiverConfig(host="127.0.0.1", port=0), spool, grace_seconds=2) as receiver:
        yield scu.Peer("127.0.0.1", receiver.port, seconds=10)


def waiting(spool: Spool) -> set[str]:
    return {item_uid(file) for uid in spool.series_uids() for file in spool.files(uid)}


def test_what_is_acknowledged_is_in_the_spool(peer, spool, tmp_path):
    scu.echo(peer)
    ((datasets, problems),) = scu.read_all(phantom(tmp_path / "in", slices=3))
    assert problems == []
    sent = scu.send(datasets, peer)
    assert (sent.refused, list(sent.acknowledged)) == ((), [dataset.SOPInstanceUID for dataset in datasets])
    assert waiting(spool) == set(sent.acknowledged)


def test_an_answer_that_pynetdicoms_own_thread_takes_first_is_not_lost(peer):
    association = scu._associate(peer, [(Verification, None)])
    request = C_ECHO()
    request.MessageID, request.AffectedSOPClassUID = 7, Verification
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    time.sleep(0.5)  # long enough for that thread to have taken it
    _context, answer = association.dimse.get_msg(block=True)
    association.release()
    assert answer.MessageIDBeingRespondedTo == 7


def test_more_kinds_than_an_association_has_room_for_are_all_sent(peer, spool, tmp_path, monkeypatch):
    monkeypatch.setattr(scu, "MAX_CONTEXTS", 2)
    datasets = [scu.read(path) for path in phantom(tmp_path / "in", slices=5)]
    for dataset, number in zip(datasets, "12345", strict=True):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
            f"1.2.840.10008.5.1.4.1.1.88.{number}{number}"
        )
    sent = scu.send(datasets, peer)
    assert (sent.refused, list(sent.acknowledged)) == ((), [dataset.SOPInstanceUID for dataset in datasets])
    assert waiting(spool) == set(sent.acknowledged)


def test_one_instance_that_is_refused_does_not_stop_the_next(peer, spool, tmp_path):
    first, second, third = (scu.read(path) for path in phantom(tmp_path / "in", slices=3))
    second.SOPClassUID = second.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.2.2.1"  # a query
    sent = scu.send([first, second, third], peer)
    assert sent.acknowledged == (first.SOPInstanceUID, third.SOPInstanceUID)
    assert [refusal.sop_instance_uid for refusal in sent.refused] == [second.SOPInstanceUID]
    assert waiting(spool) == set(sent.acknowledged)


def test_a_receiver_that_goes_away_amid_sending_leaves_the_answer_of_what_it_took(
    peer, tmp_path, monkeypatch
):
    monkeypatch.setattr(scu, "MAX_CONTEXTS", 1)
    first, second = (scu.read(path) for path in phantom(tmp_path / "in", slices=2))
    second.SOPClassUID = second.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    associate, calls = scu._associate, []

    def once(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise scu.CannotSend("gone")
        return associate(*arguments)

    monkeypatch.setattr(scu, "_associate", once)
    sent = scu.send([first, second], peer)
    assert sent.acknowledged == (first.SOPInstanceUID,)
    assert sent.refused == (scu.Refusal(second.SOPInstanceUID, "gone"),)


def test_a_receiver_that_is_not_there_or_does_not_want_us_is_told(peer, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = scu.Peer("127.0.0.1", probe.getsockname()[1], seconds=5)
        with pytest.raises(
            scu.CannotSend, match=re.escape(f"IMAGETROVE at {nobody.host}:{nobody.port} does not answer")
        ):
            scu.echo(nobody)
    other = scu.Peer(peer.host, peer.port, called="SOMEBODY", seconds=5)
    with pytest.raises(scu.CannotSend, match="refuses the association: Called AE title not recognised"):
        scu.send([scu.read(phantom(tmp_path, slices=1)[0])], other)


def test_what_is_no_dicom_is_told_and_what_is_gzipped_is_read(tmp_path):
    (path,) = phantom(tmp_path / "in", slices=1)
    (tmp_path / "in" / "a.dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "in" / "b.gz").write_bytes(b"\x1f\x8b\x08\x00 cut off")
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    ((datasets, problems),) = scu.read_all([tmp_path / "in", tmp_path / "gone"])
    assert len(datasets) == 2
    assert [re.search(r"(b\.gz|notes\.txt|gone)", problem)[1] for problem in problems] == [
        "b.gz",
        "notes.txt",
        "gone",
    ]
    with pytest.raises(UnreadableFile):
        scu.read(tmp_path)


def test_every_file_of_a_folder_of_odd_ones_is_sent_or_named(peer, spool):
    """Files that pydicom is tested with: DICOMDIRs, no meta information, no UIDs, private syntaxes."""
    folder = Path(get_testdata_file("MR_small.dcm")).parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    sent, words = [], []
    for datasets, problems in scu.read_all([folder], batch_bytes=2_000_000):
        answer = scu.send(datasets, peer)
        sent += answer.acknowledged
        words += problems + [refusal.words for refusal in answer.refused]
    assert len(sent) + len(words) == len(files)
    assert all(words)
    assert any("DICOMDIR, not an instance" in word for word in words)
    assert waiting(spool) == set(sent)


def test_a_large_folder_is_read_a_piece_at_a_time(tmp_path):
    paths = phantom(tmp_path / "in" / "with a space and 头", slices=5)
    pieces = list(scu.read_all([tmp_path / "in"], batch_bytes=2 * paths[0].stat().st_size))
    assert [len(datasets) for datasets, _ in pieces] == [2, 2, 1]
