"""The receiver's counts for Prometheus: as text (pure), and over HTTP on a port of their own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .records import Counters

logger = logging.getLogger("tardis_imagetrove.scp")

_PREFIX = "imagetrove_"


@dataclass(frozen=True)
class Metric:
    """One metric with its samples.

    Attributes:
        name: without prefix; a counter's ends in ``_total``.
        samples: value by label value; the one key of a metric without label is the empty string.
    """

    name: str
    help: str
    samples: Mapping[str, float]
    label: str = ""
    samples_are: str = "counter"


def gauge(name: str, help_text: str, value: float) -> Metric:
    """A metric that goes up and down."""
    return Metric(name, help_text, {"": value}, samples_are="gauge")


def receiver_metrics(counters: Counters, open_associations: int) -> list[Metric]:
    """A receiver's counts as metrics."""
    return [
        Metric("instances_total", "Instances stored.", {"": counters.instances}),
        Metric("duplicates_total", "Instances sent again with the same bytes.", {"": counters.duplicates}),
        Metric(
            "differing_total", "Instances stored beside other bytes of their UID.", {"": counters.differing}
        ),
        Metric(
            "received_bytes_total", "Bytes of the data sets that were acknowledged.", {"": counters.bytes}
        ),
        Metric("echoes_total", "C-ECHO requests answered.", {"": counters.echoes}),
        Metric("associations_total", "Associations that have ended.", {"": counters.associations}),
        Metric("refusals_total", "Operations refused, by reason.", dict(counters.refusals), "reason"),
        Metric(
            "rejections_total",
            "Connections without an association, by reason.",
            dict(counters.rejections),
            "reason",
        ),
        gauge("open_associations", "Associations that are open now.", open_associations),
    ]


def render(metrics: Iterable[Metric]) -> str:
    """Metrics in the Prometheus text format, version 0.0.4."""
    lines = []
    for metric in metrics:
        name = _PREFIX + metric.name
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.samples_are}"]
        for value, number in sorted(metric.samples.items()):
            escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
            label = f'{{{metric.label}="{escaped}"}}' if metric.label else ""
            lines.append(f"{name}{label} {number:.15g}")
    return "\n".join(lines) + "\n"


class MetricsServer:
    """Serves ``/metrics`` on a port of its own.

    Args:
        read: called for each request; an exception is logged and answered with 500.

    Raises:
        OSError: the port cannot be listened on.
    """

    def __init__(self, host: str, port: int, read: Callable[[], Iterable[Metric]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:  # noqa: N802 (the name that http.server looks for)
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                try:
                    body = render(read()).encode()
                except Exception:
                    logger.exception("cannot read the metrics")
                    self.send_error(500)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Scrapes are not worth a line."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot serve metrics on {host} port {port}: {error.strerror}"
            ) from error
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
