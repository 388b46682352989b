"""The servers that `serve` compares: started together, asked in turn, each client with a task of its own in each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks import server_process
from benchmarks.dialects import Dialect, Images, InnerLoopDialect, LitServeDialect, PlainDialect
from benchmarks.harness import OURS, Disagreement
from benchmarks.load_generator import Message, exchange_all
from benchmarks.server_process import Server

N_WAY, K_SHOT = 5, 1
LABELS = [str(label) for label in np.repeat(np.arange(N_WAY), K_SHOT)]
CALLS_PER_ROUND = 10
"""Messages that a client goes round; in a mixed load one of them adapts and the others predict."""
LARGEST_DIFFERENCE = 1e-3
"""In a probability: the service batches lanes, and with another order of sums come other last digits."""


@dataclass(frozen=True)
class HttpContender:
    """A running server, how to speak to it, and one adapted model for each client."""

    server: Server
    dialect: Dialect
    model_ids: Sequence[str]

    def plan_client(self, workload: str, client: int) -> tuple[Message, ...]:
        """What one client sends, round and round: workload is adapt, predict or mixed."""
        adapts = {"adapt": CALLS_PER_ROUND, "predict": 0, "mixed": 1}[workload]
        supports = [draw_images(N_WAY * K_SHOT, client, turn) for turn in range(adapts)]
        queries = [draw_images(1, client, turn) for turn in range(CALLS_PER_ROUND - adapts)]
        adapting = tuple(self.dialect.adapt(support, LABELS) for support in supports)
        return adapting + tuple(self.dialect.predict(self.model_ids[client], query) for query in queries)


def draw_images(count: int, *seed: int) -> Images:
    """Pictures (count, 1, 28, 28) with a fifth of bright ink, a function of the seed."""
    random = np.random.default_rng(seed)
    shape = (count, 1, 28, 28)
    return np.where(random.random(shape) < 0.2, random.integers(128, 256, shape), 0).astype(np.uint8)


@contextmanager
def running_contenders(folder: Path, initializer: Path, clients: int, threads: int, device: str) -> Iterator[Mapping[str, HttpContender]]:
    """Every contender that can take part, by name, `ours` first. Raises Disagreement when they do not answer alike."""
    options = ["--folder", str(initializer), "--threads", str(threads), "--device", device]
    peers: dict[str, Dialect] = {"benchmarks.plain_endpoint": PlainDialect()}
    if find_spec("litserve"):
        peers["benchmarks.litserve_endpoint"] = LitServeDialect()
    servers = [server_process.start_innerloop(folder, initializer, threads, device)]
    servers += [server_process.start_module(module, folder, *options) for module in peers]
    with server_process.stopping(servers):
        server_process.await_ready(servers[0], InnerLoopDialect.ready_path)
        ours = InnerLoopDialect(initializer.name, server_process.read_first_key(servers[0]))
        dialects: list[Dialect] = [ours, *peers.values()]
        contenders = {dialect.name: _join(server, dialect, clients) for server, dialect in zip(servers, dialects, strict=True)}
        check_agreement(contenders)
        yield contenders


def _join(server: Server, dialect: Dialect, clients: int) -> HttpContender:
    server_process.await_ready(server, dialect.ready_path)
    adapting = [dialect.adapt(draw_images(N_WAY * K_SHOT, client, 0), LABELS).encode(client) for client in range(clients)]
    return HttpContender(server, dialect, [dialect.read_id(reply) for reply in exchange_all(server.port, adapting)])


def check_agreement(contenders: Mapping[str, HttpContender]) -> None:
    """Raises Disagreement unless every server gives the first client's queries the same probabilities."""
    answers = {name: _ask(contender) for name, contender in contenders.items()}
    for name, probabilities in answers.items():
        difference = float(np.abs(probabilities - answers[OURS]).max())
        if not difference <= LARGEST_DIFFERENCE:
            raise Disagreement(f"{name} and {OURS} differ by {difference:.2g} in a probability; at most {LARGEST_DIFFERENCE:g} is expected")


def _ask(contender: HttpContender) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    request = contender.dialect.predict(contender.model_ids[0], draw_images(20, 0, 99)).encode(0)
    rows = contender.dialect.read_answers(exchange_all(contender.server.port, [request])[0])
    return np.array([[row[label] for label in sorted(row)] for row in rows])
