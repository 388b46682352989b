"""One process of the service with a fake engine and a list for a queue; two of them over one database are two processes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import update

from app.cache.signals import LocalSignals, Signals
from app.cache.states import LruStateCache, StateCache
from app.db.session import Database
from app.db.tables import TaskRow
from app.domain import (
    Ability,
    Adapted,
    AdaptJob,
    Answers,
    Array,
    Caller,
    InitializerRef,
    Phases,
    PredictionSet,
    StartTrial,
    StateKey,
    SupportSet,
)
from app.engine.interface import HeldOut
from app.errors import InitializerNotInstalled, InitializerRejected, StateCorrupt, StateNotResident, Unavailable
from app.services.adaptations import AdaptationService
from app.services.direct_start import DirectStart
from app.services.initializers import InitializerService
from app.services.keys import KeyService
from app.services.predictions import PredictionService
from app.services.readaptation import Readaptation
from app.services.requests import NewTask
from app.services.serving import ServingMemory
from app.services.similarity import SimilarityService
from app.services.tasks import TaskService
from app.settings import Settings

ANN = Caller("key_ann", frozenset({"user"}))
BOB = Caller("key_bob", frozenset({"user"}))
PHASES = Phases(queue_ms=1.0, batch_ms=0.5, device_ms=2.0, encode_ms=3.0)


class FakeEngine:
    """Prototypes in numpy, and the version's `gain` on every number, so that answers tell which version made them."""

    def __init__(self) -> None:
        self.gains: dict[InitializerRef, float] = {}
        self.states: dict[StateKey, Array] = {}
        self.adapted: list[StateKey] = []
        self.restored: list[StateKey] = []
        self.installs = 0
        self.trial = (1.0, 0.5)
        self.tried: list[tuple[StateKey, bytes, list[bool]]] = []
        self.trial_fault: Exception | None = None
        self.scored: list[tuple[str, int]] = []
        self.held_out: dict[tuple[str, int], float | Exception] = {}
        self.score_s = 0.0
        self.score_ms: dict[str, float] = {}  # by name, on a clock that a test moves itself
        self.clock_ms = 0.0
        self.fails: dict[str, Exception] = {}
        self.unknown: Array | None = None
        self.able: frozenset[Ability] = frozenset({"embed", "explain", "restart"})
        self.fault: Exception | None = None
        self.gate = asyncio.Event()  # closed by `gate.clear()`: adaptations then stand still on the device
        self.gate.set()
        self.asked = asyncio.Event()

    async def install(self, ref: InitializerRef, card: Mapping[str, Any], weights: bytes) -> None:
        self.installs += 1
        await asyncio.sleep(0)
        if hashlib.sha256(weights).hexdigest() != card["sha256"]:
            raise InitializerRejected("wrong digest")
        self.gains[ref] = float(weights)

    def installed(self) -> frozenset[InitializerRef]:
        return frozenset(self.gains)

    def abilities(self, ref: InitializerRef) -> frozenset[Ability]:
        if ref not in self.gains:
            raise InitializerNotInstalled(str(ref))
        return self.able

    async def retire(self, ref: InitializerRef) -> None:
        self.gains.pop(ref, None)
        self.states = {key: state for key, state in self.states.items() if key.initializer != ref}

    async def adapt(self, job: AdaptJob) -> Adapted:
        self.asked.set()
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        if job.key.initializer.name in self.fails:
            raise self.fails[job.key.initializer.name]
        gain = self._gain(job.key)
        self.adapted.append(job.key)
        if job.start is not None:
            gain *= float(job.start)
        groups = [job.inputs[job.targets == i] for i in range(job.n_way)] or [job.targets]
        self.states[job.key] = gain * np.stack([group.reshape(len(group), -1).mean(axis=0) for group in groups])
        embedding = _embed(job) if "embed" in self.able else None
        return Adapted(_encode(self.states[job.key]), (1.0, 0.5), (0.5, 1.0), PHASES, embedding)

    async def try_start(self, job: AdaptJob, neighbour: bytes, fresh: Array) -> StartTrial:
        """Weights that double every number; `trial` says which losses they have."""
        self.tried.append((job.key, neighbour, fresh.tolist()))
        if self.trial_fault is not None:
            raise self.trial_fault
        cold, warm = self.trial
        return StartTrial(b"2.0", cold, warm, int(fresh.sum()))

    async def score_held_out(self, job: AdaptJob) -> HeldOut:
        """`held_out` says the losses, by name and by steps; what it does not name loses 1."""
        self._gain(job.key)
        self.scored.append((job.key.initializer.name, job.steps))
        outcome = self.held_out.get((job.key.initializer.name, job.steps), 1.0)
        await asyncio.sleep(self.score_s)
        self.clock_ms += self.score_ms.get(job.key.initializer.name, 0.0)
        if isinstance(outcome, Exception):
            raise outcome
        return HeldOut(outcome, 0.5, len(job.inputs))

    async def predict(self, key: StateKey, queries: Array, explained: AdaptJob | None = None) -> Answers:
        await asyncio.sleep(0)  # a device takes its time: whoever asks in a loop lets the others have their turn
        gain = self._gain(key)
        if key not in self.states:
            raise StateNotResident(str(key))
        state = self.states[key]
        evidence = _explain(explained, queries) if explained is not None else None
        if len(state) == 1:
            return Answers(np.repeat(state, len(queries), axis=0), PHASES, weights=evidence)
        distances = np.square(gain * queries.reshape(len(queries), 1, -1) - state[None]).sum(axis=2)
        weights = np.exp(-distances)
        return Answers(weights / weights.sum(axis=1, keepdims=True), PHASES, self.unknown, evidence)

    async def restore(self, key: StateKey, state: bytes) -> None:
        self._gain(key)
        try:
            self.states[key] = np.load(io.BytesIO(state))
        except ValueError as error:
            raise StateCorrupt(str(error)) from error
        self.restored.append(key)

    def forget(self, task_id: str) -> None:
        self.states = {key: state for key, state in self.states.items() if key.task_id != task_id}

    async def close(self) -> None:
        return None

    def _gain(self, key: StateKey) -> float:
        if key.initializer not in self.gains:
            raise InitializerNotInstalled(str(key.initializer))
        return self.gains[key.initializer]


@dataclass
class ListQueue:
    """A queue that remembers; `is_down` makes it behave as if Redis were away."""

    waiting: dict[tuple[str, int], None] = field(default_factory=dict)
    is_down: bool = False

    async def enqueue_adaptation(self, task_id: str, revision: int) -> None:
        await self.ping()
        self.waiting[task_id, revision] = None

    async def ping(self) -> None:
        if self.is_down:
            raise Unavailable("down", code="redis_unavailable")


@dataclass
class World:
    """The services of one process, and what they stand on."""

    database: Database
    engine: FakeEngine
    cache: StateCache
    signals: Signals
    queue: ListQueue
    settings: Settings
    folder: Path
    initializers: InitializerService
    tasks: TaskService
    direct: DirectStart
    adaptations: AdaptationService
    predictions: PredictionService
    keys: KeyService
    similarity: SimilarityService

    async def work(self) -> None:
        """Runs every job in the queue, all at once."""
        jobs, self.queue.waiting = list(self.queue.waiting), {}
        await asyncio.gather(*(self.adaptations.run(*job) for job in jobs))

    async def expire(self, after_s: float = 0.0) -> None:
        """Lets every task end so long from now, in place of whole seconds after it was made."""
        async with self.database.write() as session:
            await session.execute(update(TaskRow).values(expires_at=datetime.now(UTC) + timedelta(seconds=after_s)))

    async def predict(self, caller: Caller, task_id: str, queries: Array, **options: bool) -> PredictionSet:
        """As one request does it: what serves is read once, then the queries are answered."""
        return await self.predictions.predict(await self.predictions.find_serving(caller, task_id), queries, **options)


def build_world(
    database: Database, folder: Path, *, cache: StateCache | None = None, signals: Signals | None = None, **knobs: Any
) -> World:
    """A process over a database; give the same cache or signals to two of them to share it."""
    settings = Settings(**knobs)
    engine, queue, signals = FakeEngine(), ListQueue(), signals or LocalSignals()
    cache, memory = cache or LruStateCache(10**6, 60), ServingMemory(signals)
    initializers = InitializerService(database, engine, signals, queue, folder)
    parts = (database, cache, signals, engine, queue, initializers)
    adaptations = AdaptationService(*parts, settings)
    direct = DirectStart(adaptations, Readaptation(database, queue), settings.worker_concurrency)
    return World(
        *(database, engine, cache, signals, queue, settings, folder, initializers),
        TaskService(*parts, memory, settings, direct),
        direct,
        adaptations,
        PredictionService(database, cache, engine, queue, initializers, memory, settings),
        KeyService(database),
        SimilarityService(database, initializers),
    )


def write_initializer(folder: Path, name: str = "protonet", *, gain: float = 1.0, **changes: Any) -> None:
    """An initializer folder whose weights are one number."""
    weights = str(gain).encode()
    card = {
        "learner": {"kind": "regression" if name.startswith("sine") else "classification"},
        "input": {"kind": "vector", "shape": [2]},
        "limits": {"min_way": 2, "max_way": 5, "max_support": 20, "max_steps": 10},
        "default_steps": 1,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "initializer.safetensors").write_bytes(weights)
    (folder / name / "card.json").write_text(json.dumps(card | changes))


def support(*, cats: int = 1, dogs: int = 1, at: float = 1.0) -> SupportSet:
    """Cats around (at, 0), dogs around (0, at)."""
    inputs = np.array([[at, 0.0]] * cats + [[0.0, at]] * dogs, dtype=np.float32)
    return SupportSet(inputs, ("cat",) * cats + ("dog",) * dogs)


def new_task(**changes: Any) -> NewTask:
    """A two-class task for the initializer `protonet`."""
    return replace(NewTask("protonet", support()), **changes)


CATS = np.array([[1.0, 0.1]], dtype=np.float32)


def _explain(job: AdaptJob, queries: Array) -> Array:
    """The inner products with each query, by absolute value a share of one."""
    products = queries.reshape(len(queries), -1) @ job.inputs.reshape(len(job.inputs), -1).T
    shares: Array = products / np.abs(products).sum(axis=1, keepdims=True)
    return shares


def _embed(job: AdaptJob) -> Array:
    """Mean and standard deviation of the inputs themselves; for regression the mean of input x target too."""
    parts = [job.inputs.mean(axis=0), job.inputs.std(axis=0)]
    return np.concatenate([*parts, (job.inputs * job.targets).mean(axis=0)] if job.n_way == 0 else parts)


def _encode(state: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, state)
    return buffer.getvalue()
