"""The receiver's counts for Prometheus, over HTTP on a port of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from .records import Counters

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


class _Collector(Collector):
    """Asks for the counts at each scrape."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def describe(self) -> list[Family]:
        return []  # or it would be asked for the counts before anything runs

    def collect(self) -> Iterator[Family]:
        for metric in self._read():
            make = GaugeMetricFamily if metric.samples_are == "gauge" else CounterMetricFamily
            family = make(_PREFIX + metric.name, metric.help, labels=[metric.label] if metric.label else [])
            for value, number in sorted(metric.samples.items()):
                family.add_metric([value] if metric.label else [], number)
            yield family


class MetricsServer:
    """Serves the metrics on a port of its own.

    Args:
        read: called for each request; an exception is answered with 500, and its traceback goes to stderr.

    Raises:
        OSError: the port cannot be listened on.
    """

    def __init__(self, host: str, port: int, read: Callable[[], Iterable[Metric]]) -> None:
        registry = CollectorRegistry()
        registry.register(_Collector(read))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot serve metrics on {host} port {port}: {error.strerror}"
            ) from error
        self.port = self._server.server_port

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
