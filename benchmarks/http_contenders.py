"""The servers that `serve` compares: started together, asked in turn, each client with a task of its own in each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks import server_process
from benchmarks.dialects import Dialect, Images, InnerLoopDialect, LitServeDialect, PlainDialect
from benchmarks.harness import OURS, Disagreement
from benchmarks.load_generator import Message, exchange_all
from benchmarks.server_process import Server, Stores

N_WAY, K_SHOT = 5, 1
LABELS = [str(label) for label in np.repeat(np.arange(N_WAY), K_SHOT)]
CALLS_PER_ROUND = 10
"""Messages that a client goes round; in a mixed load one of them adapts and the others predict."""
LARGEST_DIFFERENCE = 1e-3
"""In a probability: the service batches lanes, and with another order of sums come other last digits."""


@dataclass(frozen=True)
class HttpContender:
    """A running server, how to speak to it, and one adapted model for each client; workers: processes behind it, which have metrics too."""

    server: Server
    dialect: Dialect
    model_ids: Sequence[str]
    workers: Sequence[Server] = ()

    def plan_client(self, workload: str, client: int) -> tuple[Message, ...]:
        """What one client sends, round and round: workload is adapt, predict or mixed."""
        adapts = {"adapt": CALLS_PER_ROUND, "predict": 0, "mixed": 1}[workload]
        supports = [draw_images(N_WAY * K_SHOT, client, turn) for turn in range(adapts)]
        queries = [draw_images(1, client, turn) for turn in range(CALLS_PER_ROUND - adapts)]
        adapting = tuple(self.dialect.adapt(support, LABELS) for support in supports)
        return adapting + tuple(self.dialect.predict(self.model_ids[client], query) for query in queries)


@dataclass(frozen=True)
class Peer:
    """A peer's module and how to speak to it; threads of torch, 0 for its own choice, which is one for each core."""

    module: str
    dialect: Dialect
    threads: int

    @property
    def name(self) -> str:
        """As rows have it."""
        return f"{self.dialect.name}, {self.threads} torch threads" if self.threads else self.dialect.name


def draw_images(count: int, *seed: int) -> Images:
    """Pictures (count, 1, 28, 28) with a fifth of bright ink, a function of the seed."""
    random = np.random.default_rng(seed)
    shape = (count, 1, 28, 28)
    return np.where(random.random(shape) < 0.2, random.integers(128, 256, shape), 0).astype(np.uint8)


@contextmanager
def running_contenders(
    folder: Path, initializer: Path, clients: int, threads: int, peer_threads: Sequence[int], device: str, stores: Stores | None = None
) -> Iterator[Mapping[str, HttpContender]]:
    """Every contender that can take part, by name, `ours` first; each peer once for every number of threads it is to be tried with.

    threads, peer_threads: 0 is a server's own default. With `stores` the service is an API and a worker that meet there. Raises
    Disagreement when they do not answer alike."""
    options = ["--folder", str(initializer), "--device", device]
    peers = list_peers(peer_threads)
    ours, *workers = server_process.start_innerloop(folder, initializer, threads, device, stores)
    theirs = [server_process.start_module(peer.module, folder, *options, "--threads", str(peer.threads)) for peer in peers]
    with server_process.stopping([ours, *workers, *theirs]):
        server_process.await_ready(ours, InnerLoopDialect.ready_path)
        dialect = InnerLoopDialect(initializer.name, server_process.read_first_key(ours))
        contenders = {OURS: replace(_join(ours, dialect, clients), workers=workers)}
        contenders |= {peer.name: _join(server, peer.dialect, clients) for server, peer in zip(theirs, peers, strict=True)}
        check_agreement(contenders)
        yield contenders


def list_peers(threads: Sequence[int]) -> list[Peer]:
    """The peers that are installed, with each of these numbers of threads."""
    modules: dict[str, Dialect] = {"benchmarks.plain_endpoint": PlainDialect()}
    if find_spec("litserve"):
        modules["benchmarks.litserve_endpoint"] = LitServeDialect()
    return [Peer(module, dialect, each) for module, dialect in modules.items() for each in threads]


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
