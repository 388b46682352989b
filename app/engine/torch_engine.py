"""The engine on torch: the only file of the service that imports `models`.

One device thread runs every batched inner loop and every batched forward. Loading an initializer has a thread and turning states into
bytes and back has two, so that neither keeps the device, the event loop or the other waiting; bytes are made in batches too. What comes
back by little more than a copy is not worth a thread: the event loop does it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch

import models.errors
from app import errors, telemetry
from app.domain import Ability, Adapted, AdaptJob, Answers, Array, InitializerRef, Phases, StartTrial, StateKey
from app.engine.batcher import Batcher, BatchLimits
from app.engine.interface import HeldOut
from app.engine.lanes import AdaptLane, Bucket, PredictLane, ScoreLane, TrialLane, hand_over, measure, ms_since, now, size_class
from app.engine.resident import ResidentStates
from app.engine.versions import Versions
from models.artifact import load_initializer_bytes
from models.devices import MAX_BATCH_SAMPLES, choose_device, count_torch_threads
from models.installed import Installed, Loaded, install
from models.learner import Learner
from models.resident import Resident
from models.serving import AdaptedLane
from models.support import State
from models.warm_start import encode_params

TRANSLATION: Mapping[type[models.errors.ModelError], type[errors.AppError]] = {
    models.errors.InvalidSupport: errors.InvalidSupport,
    models.errors.InvalidQuery: errors.InvalidQuery,
    models.errors.InvalidOptions: errors.InvalidOptions,
    models.errors.IncompatibleState: errors.StateCorrupt,
    models.errors.CheckpointCorrupt: errors.InitializerRejected,
    models.errors.DataUnavailable: errors.EngineError,
    models.errors.InvalidRecipe: errors.EngineError,
    models.errors.OutOfMemory: errors.AdaptationFailed,
    models.errors.DeviceUnavailable: errors.EngineError,
}
"""What each error of the torch library is called in the service."""

_BYTES_THREADS = 2
"""States that are brought back do not wait behind one another: with twice as many tasks as are resident, 16 callers have a 99th
percentile of 44 ms with two and of 57 to 62 ms with one (two cores of an AMD EPYC, 2026-11-21)."""

_WHOLE_BATCH = 32
"""Lanes that a CPU takes at once before it leaves half of them for the next batch. They cost the same in either, but small batches spend
more of the interpreter: 64 clients over HTTP had 314 to 358 adaptations a second without such a floor, 375 with one of 16, 414 to 430 with
this one and where batches were never halved (two cores of an AMD EPYC, 2026-11-21)."""

MOST_BYTES_RESTORED_HERE = 2**18
"""On a CPU, bringing back a state of a Conv-4 is little more than a copy of its kernels and holds the interpreter: the event loop does it
in less time than a thread can be asked to. Longer ones, and those that have to wait for a GPU, go to a thread."""

T = TypeVar("T")

Load = Callable[[Mapping[str, Any], bytes], Loaded]
"""Verifies a card and its weights. Raises CheckpointCorrupt."""

_Adapt = AdaptLane[Installed]
_Trial = TrialLane[Installed]
_Predict = PredictLane[Installed, Resident]
_Score = ScoreLane[Installed]
_Lane = _Adapt | _Trial | _Score | _Predict
_Outcome = tuple[AdaptedLane, Phases] | StartTrial | HeldOut | Answers


@dataclass(frozen=True)
class _Round:
    """A lane's state as the inner loop left it. Those of one batch are rounded in one go: to a thread and back costs each what it takes."""

    version: Installed
    state: State


class TorchEngine:
    """One device: initializer versions side by side, resident adapted states, and one batcher in front. See `Engine`."""

    def __init__(
        self,
        device: str = "auto",
        torch_threads: int = 0,
        *,
        max_lanes: int = 64,
        max_waiting_lanes: int = 4096,
        resident_bytes: int = 2**30,
        max_batch_samples: int | None = None,
        load: Load = load_initializer_bytes,
    ) -> None:
        with _in_service_words():
            self._device = choose_device(device)
        threads = torch_threads or count_torch_threads()
        self._device_thread = ThreadPoolExecutor(1, "engine-device", torch.set_num_threads, (threads,))
        self._bytes_threads = ThreadPoolExecutor(_BYTES_THREADS, "engine-bytes", torch.set_num_threads, (threads,))
        self._loading_thread = ThreadPoolExecutor(1, "engine-loading", torch.set_num_threads, (threads,))
        self._load = load
        self._max_batch_samples = max_batch_samples or MAX_BATCH_SAMPLES[self._device.type]
        whole = max(threads, _WHOLE_BATCH) if self._device.type == "cpu" else None
        limits = BatchLimits(max_lanes, max_waiting_lanes, self._max_batch_samples, whole)
        self._batcher: Batcher[_Lane, _Outcome] = Batcher(self._run, self._device_thread, limits)
        self._rounding: Batcher[_Round, tuple[bytes, Resident]] = Batcher(
            _round_all, self._bytes_threads, replace(limits, whole_up_to=None)
        )
        self._versions: Versions[Installed] = Versions()
        self._resident: ResidentStates[Resident] = ResidentStates(resident_bytes)
        self._lanes: Counter[telemetry.Work] = Counter()  # that wait for the device or are on it
        telemetry.watch_queues(self._lanes)
        self._installing = asyncio.Lock()
        self._is_closed = False

    @property
    def device(self) -> str:
        """Where the initializers live, as torch names it."""
        return str(self._device)

    @property
    def waiting_lanes(self) -> int:
        """Lanes that wait for the device."""
        return self._batcher.waiting_lanes

    @property
    def resident_bytes(self) -> int:
        """Bytes of the adapted states on the device."""
        return self._resident.n_bytes

    def installed(self) -> frozenset[InitializerRef]:
        return self._versions.refs()

    async def install(self, ref: InitializerRef, card: Mapping[str, Any], weights: bytes) -> None:
        async with self._installing:
            if ref not in self._versions.refs():
                self._versions.add(ref, await self._call_in(self._loading_thread, lambda: self._load_version(card, weights)))

    def abilities(self, ref: InitializerRef) -> frozenset[Ability]:
        with self._versions.use(ref) as version:
            return version.abilities

    async def retire(self, ref: InitializerRef) -> None:
        await self._versions.remove(ref)
        self._resident.drop_initializer(ref)

    async def adapt(self, job: AdaptJob) -> Adapted:
        with self._versions.use(job.key.initializer) as version:
            _check_shape(job.inputs, version.learner, errors.InvalidSupport)
            since = now()
            outcome = await self._submit("adapt", job.key, AdaptLane(version, since, job, version.mixes_steps))
            lane, phases = cast(tuple[AdaptedLane, Phases], outcome)
            phases, started = hand_over(phases, since), now()
            with _in_service_words():
                encoded, resident = await self._rounding.submit(_Round(version, lane.state), job.key.initializer)
            self._resident.put(job.key, resident, resident.n_bytes)
        embedding = None if lane.embedding is None else lane.embedding.numpy()
        return Adapted(encoded, lane.loss, lane.accuracy, replace(phases, encode_ms=ms_since(started)), embedding)

    async def try_start(self, job: AdaptJob, neighbour: bytes, fresh: Array) -> StartTrial:
        with self._versions.use(job.key.initializer) as version:
            return cast(StartTrial, await self._submit("adapt", job.key, TrialLane(version, now(), job, neighbour, fresh)))

    async def score_held_out(self, job: AdaptJob) -> HeldOut:
        with self._versions.use(job.key.initializer) as version:
            _check_shape(job.inputs, version.learner, errors.InvalidSupport)
            return cast(HeldOut, await self._submit("adapt", job.key, ScoreLane(version, now(), job)))

    async def predict(self, key: StateKey, queries: Array, explained: AdaptJob | None = None) -> Answers:
        with self._versions.use(key.initializer) as version, self._resident.pinned(key) as resident:
            _check_shape(queries, version.learner, errors.InvalidQuery)
            try:
                since = now()
                answers = cast(Answers, await self._submit("predict", key, PredictLane(version, since, resident, queries, explained)))
                return Answers(answers.values, hand_over(answers.phases, since), answers.unknown, answers.weights)
            except errors.AdaptationFailed as full:
                raise errors.Overloaded(f"{full.detail}; try again, or with fewer queries") from full

    async def restore(self, key: StateKey, state: bytes) -> None:
        with self._versions.use(key.initializer) as version:
            restored = await self._restore(version, state)
            self._resident.put(key, restored, restored.n_bytes)

    def forget(self, task_id: str) -> None:
        self._resident.drop_task(task_id)

    async def close(self) -> None:
        self._is_closed = True
        await self._batcher.close()
        await self._rounding.close()
        for thread in (self._device_thread, self._bytes_threads, self._loading_thread):
            await asyncio.to_thread(thread.shutdown)

    async def _submit(self, work: telemetry.Work, key: StateKey, lane: _Lane) -> _Outcome:
        bucket = Bucket(work, key.initializer, lane.options, size_class(lane.size))
        self._lanes[work] += 1
        try:
            return await self._batcher.submit(lane, bucket, lane.size)
        except models.errors.ModelError as fault:
            raise translate(fault) from fault
        finally:
            self._lanes[work] -= 1

    async def _restore(self, version: Installed, state: bytes) -> Resident:
        if self._device.type != "cpu" or len(state) > MOST_BYTES_RESTORED_HERE:
            return await self._call_in(self._bytes_threads, lambda: version.restore(state))
        self._check_open()
        with _in_service_words():
            return version.restore(state)

    async def _call_in(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        """The result of `call`, run in `thread`."""
        self._check_open()
        with _in_service_words():
            return await asyncio.get_running_loop().run_in_executor(thread, call)

    def _check_open(self) -> None:
        if self._is_closed:
            raise errors.Draining("the engine is shutting down and takes no more work")

    def _load_version(self, card: Mapping[str, Any], weights: bytes) -> Installed:
        return install(self._load(card, weights), self._device, card.get("confidence"))

    def _run(self, bucket: Hashable, lanes: Sequence[_Lane], taken: float) -> Sequence[_Outcome | Exception]:
        """One batch, in the device thread."""
        telemetry.observe_lanes(cast(Bucket, bucket).work, len(lanes))
        if isinstance(lanes[0], AdaptLane):
            return _run_adaptations(cast(Sequence[_Adapt], lanes), taken)
        if isinstance(lanes[0], TrialLane):
            return [_run_trial(lane, self._max_batch_samples) for lane in cast(Sequence[_Trial], lanes)]
        if isinstance(lanes[0], ScoreLane):
            return [_run_score(lane, self._max_batch_samples) for lane in cast(Sequence[_Score], lanes)]
        return _run_predictions(cast(Sequence[_Predict], lanes), self._max_batch_samples, taken)


def translate(fault: models.errors.ModelError) -> errors.AppError:
    """An error of the torch library in the words of the service."""
    return TRANSLATION[type(fault)](str(fault))


@contextmanager
def _in_service_words() -> Iterator[None]:
    try:
        yield
    except models.errors.ModelError as fault:
        raise translate(fault) from fault


def _round_all(_bucket: Hashable, rounds: Sequence[_Round], _taken: float) -> list[tuple[bytes, Resident] | Exception]:
    """States as bytes, and what those say on the device. Bytes are rounded; so what answers first is what a cache will bring back."""
    version = rounds[0].version  # the bucket's
    return [(written, version.restore(written)) for written in version.encode_all([each.state for each in rounds])]


def _run_adaptations(lanes: Sequence[_Adapt], taken: float) -> list[_Outcome | Exception]:
    started, version = now(), lanes[0].version
    adapted = version.adapt([lane.job for lane in lanes], [lane.job.steps for lane in lanes], lanes[0].job.start)
    ended = now()
    diverged = errors.AdaptationFailed("the inner loop ended in numbers that are not finite; try fewer steps, or smaller inputs")
    return [
        (outcome, measure(lane.since, taken, started, ended, len(lanes))) if outcome.is_finite else diverged
        for lane, outcome in zip(lanes, adapted, strict=True)
    ]


def _run_trial(lane: _Trial, max_samples: int) -> StartTrial:
    trial = lane.version.try_start(lane.job, lane.neighbour, lane.fresh.tolist(), lane.job.steps, max_samples)
    return StartTrial(encode_params(trial.start), trial.cold, trial.warm, trial.n_held_out)


def _run_score(lane: _Score, max_samples: int) -> HeldOut:
    score = lane.version.score_held_out(lane.job, lane.job.steps, max_samples)
    return HeldOut(score.loss, score.accuracy, score.n)


def _run_predictions(lanes: Sequence[_Predict], max_samples: int, taken: float) -> list[_Outcome | Exception]:
    started, version = now(), lanes[0].version
    explained = [lane.explained for lane in lanes if lane.explained is not None]  # of every lane of a bucket, or of none
    answers = version.predict([lane.state for lane in lanes], [lane.queries for lane in lanes], max_samples, explained)
    too_large = errors.InvalidQuery("the answers are not finite numbers; expected queries in the range of the support set")
    ended = now()
    return [
        Answers(answer.values, measure(lane.since, taken, started, ended, len(lanes)), answer.unknown, answer.weights)
        if answer.is_finite
        else too_large
        for lane, answer in zip(lanes, answers, strict=True)
    ]


def _check_shape(inputs: Array, learner: Learner, error: type[errors.AppError]) -> None:
    if len(inputs) == 0 or inputs.shape[1:] != learner.input_shape:
        raise error(f"expected one or more inputs of shape {learner.input_shape}, got an array of shape {inputs.shape}")
