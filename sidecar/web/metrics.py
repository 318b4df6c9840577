"""Prometheus metrics, computed from the decision and the ledger at the moment of the scrape.

Invariant: the only module that imports `prometheus_client`. A gauge never implies that a licence is valid: the state
gauge alone says whether queries are served, and it shows the same decision as every page.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from sidecar import __version__
from sidecar.admission import EndpointStanding
from sidecar.gate import State
from sidecar.states import WORDS
from sidecar.web.services import Services


class ServiceCollector:
    """Gathers all metrics of one scrape.

    Args:
        one: The services.
    """

    def __init__(self, one: Services) -> None:
        self._one = one

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        standing = self._one.admission.standing
        state = GaugeMetricFamily(
            "tollgate_state", "1 for the state the service is in, 0 for all others", labels=["state"]
        )
        for one in State:
            state.add_metric([one.value], 1.0 if one is standing.verdict.state else 0.0)
        yield state
        yield GaugeMetricFamily(
            "tollgate_serving", "Whether queries are admitted (1) or refused (0)", value=float(standing.verdict.serves)
        )
        yield InfoMetricFamily("tollgate_build", "Version", value={"version": __version__})
        if standing.license is not None:
            yield GaugeMetricFamily(
                "license_expiration_timestamp_seconds",
                "End of the licence's paid term, seconds since the epoch; says nothing about validity",
                value=standing.license.expires_at.timestamp(),
            )
            yield GaugeMetricFamily(
                "tollgate_license_evaluation",
                "Whether the licence is an evaluation licence",
                value=float(standing.evaluation),
            )
        yield GaugeMetricFamily(
            "tollgate_clock_quarantined",
            "Whether the wall clock is ahead of what is believed",
            value=float(standing.quarantined),
        )
        yield GaugeMetricFamily(
            "tollgate_operations_unfinished", "Operations that wait or run", value=self._one.reader.waiting_operations
        )
        yield GaugeMetricFamily("tollgate_core_up", "Whether the core answers", value=float(standing.core is not None))
        if standing.endpoint is not None:
            yield from _endpoint(standing.endpoint)
        if standing.ledger is not None:
            yield GaugeMetricFamily(
                "tollgate_metering_failed_cycles",
                "Consecutive failed metering cycles",
                value=standing.ledger.failed_cycles,
            )
            yield GaugeMetricFamily(
                "tollgate_records_pending_files",
                "Record files not on the output mount yet",
                value=standing.ledger.pending_files,
            )
            yield CounterMetricFamily("tollgate_ledger_entries", "Entries in the ledger", value=standing.ledger.size)
            used = CounterMetricFamily("tollgate_usage", "Units counted, of all time", labels=["meter"])
            for meter, quantity in self._one.ledger.totals():
                used.add_metric([meter], quantity)
            yield used


def _endpoint(endpoint: EndpointStanding) -> Iterator[Metric]:
    """Connected mode: how the billing endpoint stands."""
    status = GaugeMetricFamily(
        "tollgate_endpoint_status", "1 for the billing endpoint's status word, 0 for all others", labels=["status"]
    )
    for word in WORDS:
        status.add_metric([word], float(word == endpoint.word))
    yield status
    yield GaugeMetricFamily(
        "tollgate_reports_pending", "Sealed windows that the billing endpoint has not taken", endpoint.pending_reports
    )
    if endpoint.contact_at is not None:
        yield GaugeMetricFamily(
            "tollgate_endpoint_contact_timestamp_seconds",
            "When the billing endpoint last took usage or gave a licence, seconds since the epoch (effective time)",
            value=endpoint.contact_at.timestamp(),
        )


def render_metrics(one: Services) -> tuple[bytes, int, dict[str, str]]:
    """Body, status and headers of a scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServiceCollector(one))
    return generate_latest(registry), 200, {"Content-Type": CONTENT_TYPE_LATEST}
