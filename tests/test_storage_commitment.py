"""Storage commitment as a console has it: it sends, asks, and is told on an association of our own."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE, evt

from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.scu import Peer as ScuPeer
from tardis_imagetrove.scu import read_all, send

from .conftest import configure, phantom, series_uid
from .site import Site, eventually, free_port

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

COMMITMENT, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"


@pytest.fixture
def site(owner, tmp_path):
    site = Site(tmp_path)
    yield site
    site.stop()


@pytest.fixture
def modality():
    """A listener of reports: its port and what it got; started and stopped by ``up`` and ``down``."""

    class Modality:
        port, got = free_port(), []
        server = None

        def up(self) -> None:
            entity = AE("MODALITY")
            entity.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
            handlers = [(evt.EVT_N_EVENT_REPORT, self.handle)]
            self.server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

        def handle(self, event):
            self.got.append((event.assoc.requestor.ae_title, event.event_type, event.event_information))
            return 0x0000, None

        def down(self) -> None:
            if self.server:
                self.server.shutdown()
                self.server = None

    modality = Modality()
    yield modality
    modality.down()


def ask(port: int, transaction: str, references, calling="MODALITY") -> int:
    """Ask for commitment; the status of the N-ACTION."""
    entity = AE(calling)
    entity.add_requested_context(COMMITMENT)
    association = entity.associate("127.0.0.1", port, ae_title="IMAGETROVE")
    assert association.is_established
    information = Dataset()
    information.TransactionUID = transaction
    items = []
    for sop_class, uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    information.ReferencedSOPSequence = Sequence(items)
    try:
        return association.send_n_action(information, 1, COMMITMENT, INSTANCE)[0].Status
    finally:
        association.release()


def test_a_console_is_told_when_its_series_is_archived_across_restarts(
    site, owner, box, modality, scratch, tmp_path
):
    configuration = configure(owner, storage_box=box)
    configuration.senders.create(ae_title="MODALITY", address="127.0.0.1", report_port=modality.port)
    configuration.senders.create(ae_title="DEMO", address="127.0.0.1")
    site.start_receiver("--workers", "2", closed=True)
    paths = phantom(tmp_path / "in", slices=2)
    ((datasets, _),) = read_all(paths)
    kinds = [(one.SOPClassUID, one.SOPInstanceUID) for one in datasets]
    sent = send(datasets, ScuPeer("127.0.0.1", site.port, calling="MODALITY"))
    assert not sent.refused
    assert ask(site.port, "2.25.1", kinds) == 0
    # Who has no port for reports is told at once, and nothing is kept of it.
    assert ask(site.port, "2.25.2", kinds, calling="DEMO") == 0x0110
    site.kill("receiver")
    site.start_receiver(closed=True)
    ingest_series(site.spool, series_uid(paths[0]), (), scratch)
    eventually(lambda: "storage commitment" in site.log.read_text(), 60, "it cannot be delivered")
    modality.up()
    eventually(lambda: modality.got, 60, "the report comes")
    ((who, event, information),) = modality.got
    assert (who, event, information.TransactionUID) == ("IMAGETROVE", 1, "2.25.1")
    told = [
        (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for item in information.ReferencedSOPSequence
    ]
    assert told == kinds
    eventually(lambda: not list((site.spool.root / "commitments").iterdir()), 30, "it is done with")
    assert len(modality.got) == 1


def test_a_request_is_taken_on_with_the_database_away(site, owner, modality, tmp_path):
    configure(owner).senders.create(ae_title="MODALITY", address="127.0.0.1", report_port=modality.port)
    site.start_receiver(closed=True)
    site.kill("receiver")
    database = site.env["IMAGETROVE_TEST_DATABASE"]
    site.env["IMAGETROVE_TEST_DATABASE"] = "/nowhere/database"
    site.start_receiver(closed=True)
    assert ask(site.port, "2.25.1", [("1.2.840.10008.5.1.4.1.1.4", "1.2.3")]) == 0
    site.kill("receiver")
    site.env["IMAGETROVE_TEST_DATABASE"] = database
    modality.up()
    site.start_receiver(closed=True)
    eventually(lambda: modality.got, 60, "the report comes")
    ((_, event, information),) = modality.got
    (item,) = information.FailedSOPSequence
    assert (event, item.ReferencedSOPInstanceUID, item.FailureReason) == (2, "1.2.3", 0x0112)


# Orthanc as the modality


class Orthanc:
    """An Orthanc that knows us as a modality."""

    def __init__(self, folder, site) -> None:
        self.dicom, self.http = free_port(), free_port()
        settings = {
            "Name": "modality",
            "StorageDirectory": str(folder / "orthanc"),
            "IndexDirectory": str(folder / "orthanc"),
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom,
            "HttpPort": self.http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [],
            "DicomModalities": {"imagetrove": ["IMAGETROVE", "127.0.0.1", site.port]},
        }
        file = folder / "orthanc.json"
        file.write_text(json.dumps(settings))
        log = (folder / "orthanc.log").open("wb")
        self.process = subprocess.Popen(["Orthanc", str(file)], stdout=log, stderr=log)
        eventually(self.answers, 60, "Orthanc answers")

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.call("/system"))
        return False

    def call(self, path: str, data: bytes | dict | None = None):
        if isinstance(data, dict):
            data = json.dumps(data).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def orthanc(site, tmp_path):
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is not installed")
    orthanc = Orthanc(tmp_path, site)
    yield orthanc
    orthanc.stop()


@pytest.mark.peer
def test_orthanc_sends_asks_and_is_told(site, orthanc, owner, box, scratch, tmp_path):
    configure(owner, storage_box=box).senders.create(
        ae_title="ORTHANC", address="127.0.0.1", report_port=orthanc.dicom
    )
    site.start_receiver(closed=True)
    paths = phantom(tmp_path / "in", slices=3)
    ids = [orthanc.call("/instances", path.read_bytes())["ID"] for path in paths]
    stored = orthanc.call("/modalities/imagetrove/store", {"Resources": ids, "Synchronous": True})
    assert stored["FailedInstancesCount"] == 0

    def asked(references) -> dict:
        answer = orthanc.call("/modalities/imagetrove/storage-commitment", {"DicomInstances": references})
        path = f"/storage-commitment/{answer['ID']}"
        until = time.monotonic() + 60
        while (report := orthanc.call(path))["Status"] == "Pending" and time.monotonic() < until:
            ingest_series(site.spool, series_uid(paths[0]), (), scratch)
            time.sleep(0.3)
        return report

    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    references = [[str(one.SOPClassUID), str(one.SOPInstanceUID)] for one in headers]
    report = asked(references)
    assert report["Status"] == "Success", (report, site.log.read_text()[-2000:])
    assert {one["SOPInstanceUID"] for one in report["Success"]} == {uid for _, uid in references}
    assert report["RemoteAET"] == "IMAGETROVE"

    wrong = asked(
        [references[0], [references[0][0], "1.2.3"], ["1.2.840.10008.5.1.4.1.1.2", references[1][1]]]
    )
    assert wrong["Status"] == "Failure"
    assert {one["SOPInstanceUID"] for one in wrong["Success"]} == {references[0][1]}
    assert {(one["SOPInstanceUID"], one["FailureReason"]) for one in wrong["Failures"]} == {
        ("1.2.3", 0x0112),
        (references[1][1], 0x0119),
    }
