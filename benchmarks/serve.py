"""End to end over HTTP, in real processes: adapt (submit to ready), predict, and both mixed, of 1 to 128 clients.

    innerloop benchmark serve --json [--only '^predict, 64 clients, closed loop, embedded']

Each client has a task of its own, so nothing can be batched but across tenants. The peers hold the same net and give the same answers:
a plain FastAPI endpoint that runs the loop in the request, and LitServe. Unless `--threads` is given the service has the torch threads
that it takes by itself, and each peer runs twice: with its own default, and with as many as the service. In a closed loop a client asks
again when it is answered, and what counts is requests/s; in an open loop requests come when they are due, and what counts is the 99th
percentile. Clients of an open loop are as many tasks, over which the requests are spread. The service is one process with its embedded
defaults, or, `separated`, an API and a worker with PostgreSQL and Redis between.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import count, groupby
from pathlib import Path
from typing import Any

from benchmarks import server_process
from benchmarks.arrivals import poisson_arrivals_s
from benchmarks.borrowed_postgres import NOT_THERE as NO_POSTGRES
from benchmarks.borrowed_postgres import borrowed_postgres
from benchmarks.borrowed_redis import NOT_THERE as NO_REDIS
from benchmarks.borrowed_redis import borrowed_redis
from benchmarks.harness import OURS, Findings, Plan, Row
from benchmarks.http_connection import encode_request
from benchmarks.http_contenders import CALLS_PER_ROUND, K_SHOT, N_WAY, HttpContender, running_contenders
from benchmarks.latency import percentile, summarise_ms
from benchmarks.limits import find_call_limits
from benchmarks.load_generator import DRAIN_S, GeneratorProcess, Load, Message, Outcome, Sample
from benchmarks.phases import count_lanes, mean_lanes, mean_phases_ms
from benchmarks.rates import Rates, measure_rates
from benchmarks.rounds import join_rounds
from benchmarks.serve_settings import Extent, Setting, choose_extent, list_settings
from benchmarks.server_process import Stores
from models.artifact import BUNDLED
from models.devices import count_torch_threads

INITIALIZER = BUNDLED / "omniglot-maml"
BLOCK = 10_000_000
"""Numbers of one load: more than it can send, so that no two loads share a task's name."""


@dataclass
class Record:
    """What one contender met in one setting, over all rounds."""

    figures: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    lanes: dict[str, float] = field(default_factory=dict)


def run(plan: Plan) -> Findings:
    """The rows of every deployment and workload, closed loop first."""
    extent, rows = choose_extent(quick=plan.quick), list[Row]()
    with tempfile.TemporaryDirectory() as folder, GeneratorProcess() as generator, borrowed_stores() as (stores, absent):
        settings = plan.choose(list_settings(extent, is_separable=stores is not None))
        ceiling_per_s = measure_ceiling(generator, Path(folder), extent)
        rates = measure_rates(plan.device, quick=plan.quick)
        limits = find_call_limits(INITIALIZER, N_WAY, K_SHOT, rates, 1 / CALLS_PER_ROUND)
        limits = {workload: replace(limit, matmul=min(ceiling_per_s, limit.matmul)) for workload, limit in limits.items()}
        for deployment, group in groupby(settings, key=lambda setting: setting.deployment):
            meeting = stores if deployment == "separated" else None
            rows += measure_deployment(plan, generator, extent, list(group), Path(folder) / deployment, meeting, limits)
    missing = {} if find_spec("litserve") else {"litserve": "not installed: make peers"}
    threads = {"ours": plan.service_threads or count_torch_threads(), "peers": [each or plan.threads for each in choose_peer_threads(plan)]}
    common = {"initializer": INITIALIZER.name, "n_way": N_WAY, "k_shot": K_SHOT, "queries_per_request": 1, "window_s": extent.window_s}
    measured = {"generator_ceiling_per_s": round(ceiling_per_s), **rates.describe()}
    return Findings(rows, {**common, "torch_threads": threads, **measured}, {**missing, **absent})


@contextmanager
def borrowed_stores() -> Iterator[tuple[Stores | None, Mapping[str, str]]]:
    """PostgreSQL and Redis for processes that meet there; None, and why, where there is not both."""
    with borrowed_postgres() as database_url, borrowed_redis() as redis_url:
        if database_url and redis_url:
            yield Stores(database_url, redis_url), {}
        else:
            reasons = [NO_POSTGRES] * (database_url is None) + [NO_REDIS] * (redis_url is None)
            yield None, {"the separated deployment": "; ".join(reasons)}


def measure_deployment(
    plan: Plan,
    generator: GeneratorProcess,
    extent: Extent,
    settings: Sequence[Setting],
    folder: Path,
    stores: Stores | None,
    limits: Mapping[str, Rates],
) -> list[Row]:
    """The rows of one deployment; all contenders are started for it, and ended after it."""
    folder.mkdir()
    rows, clients, peer_threads = list[Row](), max(setting.clients for setting in settings), choose_peer_threads(plan)
    with running_contenders(folder, INITIALIZER, clients, plan.service_threads, peer_threads, plan.device, stores) as contenders:
        for setting in settings:
            rows.append(measure(generator, contenders, setting, extent, limits[setting.workload]))
            plan.report(rows[-1])
    return rows


def choose_peer_threads(plan: Plan) -> list[int]:
    """Those that were asked for; else the peers' own default and, since on few cores that may be theirs to lose by, ours as well."""
    if plan.service_threads or plan.quick or count_torch_threads() == plan.threads:
        return [plan.service_threads]
    return [0, count_torch_threads()]


def measure_ceiling(generator: GeneratorProcess, folder: Path, extent: Extent) -> float:
    """Requests/s of the generator against a server that does nothing: where it, not the service, would be the limit."""
    server = server_process.start_module("benchmarks.trivial_endpoint", folder)
    with server_process.stopping([server]):
        server_process.await_ready(server, "/")
        message = Message("trivial", encode_request("POST", "/", {"Content-Type": "application/json"}, b" " * 1500))
        outcome = generator.send(Load(server.port, ((message,),) * 16, extent.window_s, extent.warm_up_s))
    return len(outcome.samples) / outcome.window_s


def measure(generator: GeneratorProcess, contenders: Mapping[str, HttpContender], setting: Setting, extent: Extent, limits: Rates) -> Row:
    """One line: every contender once a round, in turn."""
    records = {name: Record() for name in contenders}
    for round_number in range(extent.rounds):
        for name, contender in contenders.items():
            meet(generator, contender, setting, extent, round_number, records[name])
    is_closed = setting.rate_per_s is None
    rounds = [{name: record.figures[index] for name, record in records.items()} for index in range(extent.rounds)]
    told = {name: describe(record) for name, record in records.items()}
    if not is_closed:
        return join_rounds(setting.describe(), "ms", rounds, contenders=told)
    return join_rounds(setting.describe(), "requests/s", rounds, limit=limits.matmul, peak=limits.peak, contenders=told)


def meet(
    generator: GeneratorProcess, contender: HttpContender, setting: Setting, extent: Extent, round_number: int, record: Record
) -> None:
    """One contender, one round: adds to its record."""
    before = read_lanes(contender)
    outcome = generator.send(make_load(contender, setting, extent, round_number))
    record.lanes = mean_lanes(before, read_lanes(contender))
    record.samples += outcome.samples
    record.figures.append(figure_of(outcome, setting))


_load_numbers = count(1)


def make_load(contender: HttpContender, setting: Setting, extent: Extent, round_number: int) -> Load:
    """The setting as a load; in a round every contender meets the same arrivals."""
    clients = tuple(contender.plan_client(setting.workload, client) for client in range(setting.clients))
    due_s = None
    if setting.rate_per_s is not None:
        due_s = tuple(poisson_arrivals_s(setting.rate_per_s, extent.warm_up_s + extent.window_s, seed=round_number))
    return Load(contender.server.port, clients, extent.window_s, extent.warm_up_s, due_s, first_number=next(_load_numbers) * BLOCK)


def read_lanes(contender: HttpContender) -> dict[str, tuple[float, float]]:
    """Lanes and batches so far, of the server and of the workers behind it; the peers count none."""
    processes = [contender.server, *contender.workers] if contender.dialect.name == OURS else []
    return count_lanes(*(process.get("/metrics") for process in processes))


def is_answered(sample: Sample) -> bool:
    """A 202 is no answer: the adaptation was not ready within the wait."""
    return sample.status in (200, 201)


def figure_of(outcome: Outcome, setting: Setting) -> float:
    """Answered requests/s of a closed loop; p99 in milliseconds of an open one, where what was not answered took the longest there is."""
    if setting.rate_per_s is None:
        answered = sum(map(is_answered, outcome.samples))
        return max(answered, 0.5) / outcome.window_s  # half an answer where there was none: a ratio to nothing would be no number
    return percentile([sample.latency_ms if is_answered(sample) else DRAIN_S * 1e3 for sample in outcome.samples], 0.99)


def describe(record: Record) -> dict[str, Any]:
    """Latencies by kind, what failed, and for the service where the milliseconds went."""
    kinds = sorted({sample.kind for sample in record.samples})
    found: dict[str, Any] = {"unanswered": sum(not is_answered(sample) for sample in record.samples)}
    for kind in kinds:
        samples = [sample for sample in record.samples if sample.kind == kind and is_answered(sample)]
        latencies_ms = [sample.latency_ms for sample in samples]
        phases_ms = mean_phases_ms(samples)
        if latencies_ms:
            found[kind] = {**summarise_ms(latencies_ms), "requests": len(samples), **({"phases_ms": phases_ms} if phases_ms else {})}
    late_ms = percentile([sample.late_ms for sample in record.samples], 0.99) if record.samples else 0.0
    return {**found, "lanes_per_batch": record.lanes, "sent_late_p99_ms": round(late_ms, 3)}
