"""What Prometheus reads; one registry per application."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.loops import Loop
from service.queue.record import Outcome

CalibrationAlert = tuple[str, str, bool]  # classifier, source, and whether its latest full block alarmed


class Metrics:
    def __init__(
        self,
        queue_depth: Callable[[], int],
        mismatches: Callable[[], dict[str, int]],
        alerts: Callable[[], Iterable[CalibrationAlert]],
        loops: Callable[[], Iterable[Loop]],
    ) -> None:
        self.registry = CollectorRegistry()
        self.audits = Counter(
            "triggerscope_audits", "Finished audits", ["classifier", "outcome"], registry=self.registry
        )
        self.stages = Histogram(
            "triggerscope_stage_seconds", "Time of each stage of an audit", ["stage"], registry=self.registry
        )
        self.refusals = Counter(
            "triggerscope_problems", "Requests answered with a problem", ["code"], registry=self.registry
        )
        self.requests = Histogram(
            "triggerscope_request_seconds", "Time of HTTP requests", ["route", "status"], registry=self.registry
        )
        self.registry.register(_QueueDepth(queue_depth))
        self.registry.register(_Mismatches(mismatches))
        self.registry.register(_CalibrationAlerts(alerts))
        self.registry.register(_Loops(loops))

    def count(self, outcome: Outcome) -> None:
        self.audits.labels(outcome.classifier_name, outcome.verdict or outcome.error_code or "unknown").inc()
        for stage, milliseconds in (outcome.timings_ms or {}).items():
            self.stages.labels(stage).observe(milliseconds / 1000.0)


class _QueueDepth(Collector):
    """Asks the database when it is read."""

    def __init__(self, depth: Callable[[], int]) -> None:
        self._depth = depth

    def describe(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("triggerscope_queue_depth", "Films waiting for a worker")

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("triggerscope_queue_depth", "Films waiting for a worker", value=float(self._depth()))


class _Mismatches(Collector):
    """Asks the database when it is read, so that a worker in another process counts too."""

    def __init__(self, counts: Callable[[], dict[str, int]]) -> None:
        self._counts = counts

    def describe(self) -> Iterator[Metric]:
        yield self._family({})

    def collect(self) -> Iterator[Metric]:
        yield self._family(self._counts())

    def _family(self, counts: dict[str, int]) -> GaugeMetricFamily:
        text = "Films on which the deployed classifier answered otherwise than the audited file"
        family = GaugeMetricFamily("triggerscope_probability_mismatches", text, labels=["classifier"])
        for classifier, count in counts.items():
            family.add_metric([classifier], float(count))
        return family


class _CalibrationAlerts(Collector):
    """Whether the policy in force still fits the films of each source; asks the database when it is read."""

    def __init__(self, alerts: Callable[[], Iterable[CalibrationAlert]]) -> None:
        self._alerts = alerts

    def describe(self) -> Iterator[Metric]:
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for classifier, source, is_alarming in self._alerts():
            family.add_metric([classifier, source], float(is_alarming))
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        words = "1 where the policy in force no longer fits a source's films"
        return GaugeMetricFamily("triggerscope_calibration_alert", words, labels=["classifier", "source"])


class _Loops(Collector):
    """How the loops of this process fare."""

    def __init__(self, loops: Callable[[], Iterable[Loop]]) -> None:
        self._loops = loops

    def describe(self) -> Iterator[Metric]:
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        healthy, failures = self._families()
        for loop in self._loops():
            healthy.add_metric([loop.name], float(loop.fault is None))
            failures.add_metric([loop.name], float(loop.failures))
        yield from (healthy, failures)

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, CounterMetricFamily]:
        return (
            GaugeMetricFamily(
                "triggerscope_loop_healthy", "0 where a loop fails, is stuck or has ended", labels=["loop"]
            ),
            CounterMetricFamily("triggerscope_loop_failures", "Turns of a loop that raised", labels=["loop"]),
        )
