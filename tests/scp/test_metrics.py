"""The metrics page says what happened."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from tardis_imagetrove.scp.metrics import Metric, MetricsServer, gauge, receiver_metrics

from .peer import RawPeer, mr_dataset
from .test_limits import until


def page(port: int, path: str = "/metrics") -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_received_can_be_read(receive, workers):
    receiver = receive(workers=workers)

    def read():
        return [
            *receiver_metrics(receiver.counters(), receiver.open_associations),
            gauge("spool_series", "Waiting.", 1),
        ]

    server = MetricsServer("127.0.0.1", 0, read)
    with RawPeer(receiver.port) as peer:
        peer.associate()
        assert page(server.port)["imagetrove_open_associations"] == 1
        peer.store("1.2.3", mr_dataset("1.2.3"))
        peer.store("1.2.3", mr_dataset("1.2.3"))
        peer.store("1.2.4", b"nothing")
        peer.release()
    until(lambda: page(server.port)["imagetrove_associations_total"] == 1)
    seen = page(server.port)
    assert seen["imagetrove_instances_total"] == seen["imagetrove_duplicates_total"] == 1
    assert seen["imagetrove_received_bytes_total"] == 2 * len(mr_dataset("1.2.3"))
    assert seen['imagetrove_refusals_total{reason="bad-uid"}'] == 1
    assert seen["imagetrove_open_associations"] == 0
    assert seen["imagetrove_spool_series"] == 1
    server.stop()


def test_label_values_are_escaped():
    server = MetricsServer("127.0.0.1", 0, lambda: [Metric("x_total", "X.", {'a"b\\c\n': 2}, "reason")])
    assert page(server.port)['imagetrove_x_total{reason="a\\"b\\\\c\\n"}'] == 2
    server.stop()


def test_trouble_is_an_error_and_a_port_in_use_is_named():
    def read():
        raise RuntimeError("away")

    server = MetricsServer("127.0.0.1", 0, read)
    with pytest.raises(urllib.error.HTTPError) as error:
        page(server.port)
    assert error.value.code == 500
    with pytest.raises(OSError, match="cannot serve metrics on 127.0.0.1 port"):
        MetricsServer("127.0.0.1", server.port, read)
    server.stop()
