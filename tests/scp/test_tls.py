"""TLS with certificates on both sides."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from pynetdicom import AE, evt

from tardis_imagetrove.scp import (
    CommitmentReference,
    Receiver,
    ReceiverConfig,
    ReceiverConfigError,
    Timeouts,
    TLSFiles,
)
from tardis_imagetrove.scp.commitment import CommitmentReport, ReportNotDelivered, ReportTarget, send_report

from .conftest import TIMEOUTS
from .peer import Ended, RawPeer, mr_dataset, sample_files

pytestmark = pytest.mark.peer


@dataclass(frozen=True)
class Authority:
    """A CA of the test's own, made by the openssl program."""

    folder: Path

    def run(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    def make(self) -> None:
        self.run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", "/CN=Test CA",
                 "-keyout", self.folder / "ca.key", "-out", self.folder / "ca.pem")  # fmt: skip

    def issue(self, name: str) -> tuple[Path, Path]:
        key, request, certificate = (self.folder / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
        self.run(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request
        )
        self.run("x509", "-req", "-in", request, "-days", 2, "-CA", self.folder / "ca.pem",
                 "-CAkey", self.folder / "ca.key", "-CAcreateserial", "-out", certificate)  # fmt: skip
        return certificate, key


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    authority = Authority(tmp_path_factory.mktemp("ca"))
    authority.make()
    authority.issue("server")
    authority.issue("scanner")
    return authority


@pytest.fixture
def tls(authority) -> TLSFiles:
    return TLSFiles(
        authority.folder / "server.pem", authority.folder / "server.key", authority.folder / "ca.pem"
    )


def secured(peer: RawPeer, authority: Authority, certificate: str | None = "scanner") -> RawPeer:
    context = ssl.create_default_context(cafile=authority.folder / "ca.pem")
    context.check_hostname = False
    if certificate:
        context.load_cert_chain(
            authority.folder / f"{certificate}.pem", authority.folder / f"{certificate}.key"
        )
    peer.socket = context.wrap_socket(peer.socket)
    return peer


@pytest.mark.parametrize("workers", [1, 2])
def test_storescu_delivers_over_tls(receive, stored, authority, tls, workers):
    if shutil.which("storescu") is None:
        pytest.skip("storescu is not installed")
    receiver = receive(tls=tls, workers=workers)
    sample = next(one for one in sample_files() if one.path.name == "MR_small.dcm")
    done = subprocess.run(
        ["storescu", "+tls", authority.folder / "scanner.key", authority.folder / "scanner.pem",
         "+cf", authority.folder / "ca.pem", "-ic", "-aec", "IMAGETROVE", "127.0.0.1", str(receiver.port), sample.path],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in stored()] == [f"{sample.sop_instance}.dcm"]


def test_large_instances_arrive_whole_over_tls(receive, stored, authority, tls):
    data = mr_dataset("1.2.3", pixels=bytes(range(256)) * 20_000)
    with secured(RawPeer(receive(tls=tls).port), authority) as peer:
        peer.associate()
        assert peer.store("1.2.3", data).status == 0
        assert peer.store("1.2.4", mr_dataset("1.2.4")).status == 0
        peer.release()
    assert stored()[0].read_bytes().endswith(data)


def test_a_peer_without_a_certificate_gets_no_association(receive, authority, tls, caplog):
    receiver = receive(tls=tls)
    with pytest.raises((ssl.SSLError, OSError)), secured(RawPeer(receiver.port), authority, None) as peer:
        peer.associate()
    receiver.stop(1)
    assert receiver.counters().rejections == {"tls": 1}
    assert "TLS failed" in caplog.text


def test_a_peer_of_another_authority_gets_no_association(receive, authority, tls, tmp_path):
    stranger = Authority(tmp_path)
    stranger.make()
    certificate, key = stranger.issue("stranger")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    receiver = receive(tls=tls)
    with pytest.raises((ssl.SSLError, OSError)), RawPeer(receiver.port) as peer:
        peer.socket = context.wrap_socket(peer.socket)
        peer.associate()
    receiver.stop(1)
    assert receiver.counters().associations == 0


def test_plain_dicom_on_a_tls_port_is_closed(receive, authority, tls):
    with RawPeer(receive(tls=tls).port) as peer, pytest.raises((Ended, OSError)):
        peer.associate()


def test_tls_on_a_plain_port_is_named_in_the_log(receive, authority, caplog):
    receiver = receive()
    with pytest.raises((ssl.SSLError, OSError)):
        secured(RawPeer(receiver.port), authority)
    receiver.stop(1)
    assert "TLS on a port without TLS?" in caplog.text


def test_silence_and_trickling_in_the_handshake_hold_nobody_up(receive, authority, tls):
    quick = Timeouts(associate=3.0, close=0.2)
    receiver = receive(tls=tls, timeouts=quick)
    silent = [RawPeer(receiver.port) for _ in range(20)]
    with secured(RawPeer(receiver.port), authority) as peer:
        peer.associate()
        assert peer.echo().status == 0
    started = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() - started < 60:
            for one in silent:
                one.socket.sendall(b"\x16")
            time.sleep(0.1)
    for one in silent:
        one.socket.close()


def test_stopping_wakes_idle_tls_associations(receive, authority, tls):
    receiver = receive(tls=tls, timeouts=TIMEOUTS)
    with secured(RawPeer(receiver.port), authority) as peer:
        peer.associate()
        receiver.stop(1)
        assert peer.ended() == (7, bytes(4))


@pytest.mark.parametrize("broken", ["certificate", "key", "ca"])
@pytest.mark.parametrize("how", ["missing", "garbage"])
def test_files_that_cannot_be_used_are_named(spool, tls, tmp_path, broken, how):
    file = tmp_path / "broken.pem"
    if how == "garbage":
        file.write_text("nothing")
    files = TLSFiles(**{**{name: getattr(tls, name) for name in ("certificate", "key", "ca")}, broken: file})
    with pytest.raises(ReceiverConfigError, match="broken.pem"):
        Receiver(ReceiverConfig(host="127.0.0.1", port=0, tls=files), spool).start()


def test_the_handshake_needs_tls_1_2(receive, authority, tls):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    port = receive(tls=tls).port
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(plain)


def test_a_report_of_storage_commitment_goes_over_tls_to_a_peer_of_the_authority(authority, tls, tmp_path):
    scanner = TLSFiles(
        authority.folder / "scanner.pem", authority.folder / "scanner.key", authority.folder / "ca.pem"
    )
    got = []

    def handle(event):
        got.append(event.event_information.TransactionUID)
        return 0x0000, None

    modality = AE("SCANNER")
    modality.add_supported_context("1.2.840.10008.1.20.1", scu_role=True, scp_role=True)
    server = modality.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, handle)],
        ssl_context=scanner.context(),
    )
    report = CommitmentReport("2.25.1", (CommitmentReference("1.2", "1.2.3"),))
    target = ReportTarget("127.0.0.1", server.server_address[1], "SCANNER", "IMAGETROVE")
    try:
        send_report(report, target, tls.client_context())
        assert got == ["2.25.1"]
        stranger = Authority(tmp_path)
        stranger.make()
        certificate, key = stranger.issue("stranger")
        other = TLSFiles(certificate, key, tmp_path / "ca.pem")
        with pytest.raises(ReportNotDelivered):
            send_report(report, target, other.client_context(), seconds=5)
        with pytest.raises(ReportNotDelivered):
            send_report(report, target, None, seconds=5)
        assert got == ["2.25.1"]
    finally:
        server.shutdown()
