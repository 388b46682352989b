"""Metrics: every name the service exports. Labels are few and bounded; no label is a task, a key or a URL.

| metric                               | type      | labels               | what it says                                            |
|--------------------------------------|-----------|----------------------|---------------------------------------------------------|
| `innerloop_tasks_created_total`      | counter   | initializer          | tasks made; an equal request to a live task makes none  |
| `innerloop_adaptations_total`        | counter   | outcome              | ready, failed, released (given back), superseded        |
| `innerloop_adaptation_phase_seconds` | histogram | phase                | queue_wait, choose, queue, batch, device, encode, ... store |
| `innerloop_lanes_per_batch`          | histogram | work                 | lanes joined in one device batch: adapt or predict      |
| `innerloop_queue_depth`              | gauge     | queue                | lanes waiting: adapt, predict; `rows`: unfinished rows  |
| `innerloop_states_total`             | counter   | tier, event          | tier device or cache; event hit, miss, evict            |
| `innerloop_predictions_total`        | counter   | initializer          | queries answered                                        |
| `innerloop_prediction_phase_seconds` | histogram | phase                | decode, queue, batch, device, encode, total             |
| `innerloop_reloads_total`            | counter   | initializer, outcome | changed, unchanged, rejected                            |
| `innerloop_initializer_version`      | gauge     | initializer          | the current version, as this process knows it           |
| `innerloop_event_loop_lag_seconds`   | histogram | none                 | how late the event loop is, looked at ten times a second |
| `http_server_active_requests`        | gauge     | method, scheme       | requests in flight                                      |

`http_server_request_duration_seconds`, a histogram of requests by method, status, route, protocol and scheme, and the gauge are named as
OpenTelemetry names them.
docket reports to OpenTelemetry, and FastAPI does where tracing is set up; `bridge_opentelemetry` brings metrics of theirs into the same
page. FastAPI's own for each request are off: three instruments of that SDK cost 0.1 ms of the event loop, ours a few microseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache, partial
from time import perf_counter
from typing import Literal, get_args

from opentelemetry import _logs as logs
from opentelemetry import metrics as otel
from opentelemetry import trace
from opentelemetry._logs._internal import ProxyLoggerProvider
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Outcome = Literal["ready", "failed", "released", "superseded"]
Work = Literal["adapt", "predict"]

# From a prototype forward on a GPU (0.3 ms) to a job that waited through a redelivery (30 s and more).
_SECONDS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_REQUEST_LABELS = ("http_request_method", "http_response_status_code", "http_route", "network_protocol_version", "url_scheme")
_LANES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _Metrics:
    """The process's own registry, made at first use: nothing is built at import.

    Each metric is a function from its labels to what is counted, which finds a set of labels that it has met at once.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.tasks = cache(Counter("innerloop_tasks_created", "Tasks made.", ["initializer"], registry=r).labels)
        self.adaptations = cache(Counter("innerloop_adaptations", "Adaptations by how they ended.", ["outcome"], registry=r).labels)
        self.adapt_phase = cache(
            Histogram("innerloop_adaptation_phase_seconds", "Where adaptations spend time.", ["phase"], buckets=_SECONDS, registry=r).labels
        )
        self.lanes = cache(
            Histogram("innerloop_lanes_per_batch", "Lanes joined in one device batch.", ["work"], buckets=_LANES, registry=r).labels
        )
        self.depth = cache(Gauge("innerloop_queue_depth", "What waits.", ["queue"], registry=r).labels)
        self.states = cache(Counter("innerloop_states", "Adapted states looked for, by tier.", ["tier", "event"], registry=r).labels)
        self.predictions = cache(Counter("innerloop_predictions", "Queries answered.", ["initializer"], registry=r).labels)
        self.predict_phase = cache(
            Histogram("innerloop_prediction_phase_seconds", "Where predictions spend time.", ["phase"], buckets=_SECONDS, registry=r).labels
        )
        self.reloads = cache(Counter("innerloop_reloads", "Reloads by outcome.", ["initializer", "outcome"], registry=r).labels)
        self.version = cache(Gauge("innerloop_initializer_version", "The current version.", ["initializer"], registry=r).labels)
        name, text = "http_server_request_duration_seconds", "Duration of HTTP server requests."
        self.requests = cache(Histogram(name, text, _REQUEST_LABELS, buckets=_REQUEST_SECONDS, registry=r).labels)
        name, text = "http_server_active_requests", "Number of active HTTP server requests."
        self.active = cache(Gauge(name, text, ["http_request_method", "url_scheme"], registry=r).labels)
        self.loop_lag = Histogram("innerloop_event_loop_lag_seconds", "How late the event loop is.", buckets=_SECONDS, registry=r)


@cache
def _metrics() -> _Metrics:
    return _Metrics()


def count_task(initializer: str) -> None:
    """One task was accepted."""
    _metrics().tasks(initializer).inc()


def count_adaptation(outcome: Outcome, timings_ms: dict[str, float] | None = None) -> None:
    """One adaptation ended; its phases in milliseconds go to the histogram in seconds."""
    _metrics().adaptations(outcome).inc()
    for phase, ms in (timings_ms or {}).items():
        _metrics().adapt_phase(phase).observe(ms / 1000)


def observe_lanes(work: Work, lanes: int) -> None:
    """One batch went to the device."""
    _metrics().lanes(work).observe(lanes)


def watch_queues(lanes: Mapping[Work, int]) -> None:
    """Whoever reads the page is told how many lanes of each kind wait for the device just then."""
    for work in get_args(Work):
        _metrics().depth(work).set_function(partial(lanes.__getitem__, work))


def set_unfinished_rows(waiting: int) -> None:
    """How many rows are unfinished."""
    _metrics().depth("rows").set(waiting)


def count_state(tier: Literal["device", "cache"], event: Literal["hit", "miss", "evict"]) -> None:
    """An adapted state was found, was not found, or had to go."""
    _metrics().states(tier, event).inc()


def count_predictions(initializer: str, n_query: int, timings_ms: Mapping[str, float]) -> None:
    """One request is answered."""
    _metrics().predictions(initializer).inc(n_query)
    for phase, ms in timings_ms.items():
        _metrics().predict_phase(phase).observe(ms / 1000)


def count_reload(initializer: str, outcome: Literal["changed", "unchanged", "rejected"]) -> None:
    """One reload ended."""
    _metrics().reloads(initializer, outcome).inc()


def set_current_version(initializer: str, version: int) -> None:
    """This process now creates tasks with this version."""
    _metrics().version(initializer).set(version)


def count_active(change: Literal[1, -1], method: str, scheme: str) -> None:
    """A request came (1), or is answered (-1)."""
    _metrics().active(_known(method), scheme).inc(change)


def observe_request(seconds: float, method: str, status: int, route: str, protocol: str, scheme: str) -> None:
    """A request was answered; status 0: it was not; route is the path as a pattern, or empty."""
    _metrics().requests(_known(method), status or "", route, protocol, scheme).observe(seconds)


def _known(method: str) -> str:
    return method if method in _METHODS else "_OTHER"


@asynccontextmanager
async def event_loop_watched() -> AsyncIterator[None]:
    """Watches the event loop while the block runs."""
    watching = asyncio.create_task(watch_event_loop(), name="event loop lag")
    try:
        yield
    finally:
        watching.cancel()


async def watch_event_loop(interval_s: float = 0.1) -> None:
    """Observes, for as long as it runs, how much later than it was due the event loop woke it: what every request waits at least once."""
    while True:
        due_s = perf_counter() + interval_s
        await asyncio.sleep(interval_s)
        _metrics().loop_lag.observe(max(0.0, perf_counter() - due_s))


@cache
def bridge_opentelemetry() -> None:
    """Gives FastAPI's and docket's instruments a provider whose metrics land on our page; once per process, called by the roots."""
    otel.set_meter_provider(MeterProvider(metric_readers=[PrometheusMetricReader()]))


@cache
def settle_opentelemetry() -> None:
    """What is not configured by now stays off. Called once FastAPI has had its turn.

    Undecided, OpenTelemetry looks into the environment for a tracer and for a logger several times a request: 5 % of the event loop.
    """
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(trace.NoOpTracerProvider())
    if isinstance(logs.get_logger_provider(), ProxyLoggerProvider):
        logs.set_logger_provider(logs.NoOpLoggerProvider())


def is_traced() -> bool:
    """Whether somebody set up OpenTelemetry's traces or logs, which FastAPI makes of requests; until that is settled, perhaps."""
    tracer, logger = trace.get_tracer_provider(), logs.get_logger_provider()
    return not (isinstance(tracer, trace.NoOpTracerProvider) and isinstance(logger, logs.NoOpLoggerProvider))


def render_metrics() -> bytes:
    """The Prometheus page: our metrics, then those of the process, FastAPI and docket."""
    return generate_latest(_metrics().registry) + generate_latest(REGISTRY)
