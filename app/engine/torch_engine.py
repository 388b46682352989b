"""The engine on torch: the only file of the service that imports `models`.

One device thread runs every batched inner loop and every batched forward. Loading an initializer and turning states into
bytes have a thread each, so that neither keeps the device, the event loop or the other waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch

import models.errors
from app import errors, telemetry
from app.domain import Adapted, AdaptJob, Answers, Array, InitializerRef, Phases, StateKey
from app.engine.batcher import Batcher, BatchLimits
from app.engine.resident import ResidentStates
from app.engine.versions import Versions
from models.artifact import load_initializer_bytes
from models.devices import MAX_BATCH_SAMPLES, choose_device, count_torch_threads
from models.learner import Learner
from models.serving import AdaptedLane, adapt_lanes, decode_state, encode_state, make_template, predict_lanes
from models.support import Params, State, Support, make_support

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

T = TypeVar("T")


class LoadedInitializer(Protocol):
    """What a loader returns; `models.artifact.Initializer` is one."""

    @property
    def learner(self) -> Learner: ...

    @property
    def params(self) -> Params: ...


Load = Callable[[Mapping[str, Any], bytes], LoadedInitializer]
"""Verifies a card and its weights. Raises CheckpointCorrupt."""


@dataclass(frozen=True)
class _Version:
    """An initializer on the device; `template` says what its adapted states look like."""

    learner: Learner
    params: Params
    template: State


@dataclass(frozen=True)
class _Bucket:
    """Lanes of equal buckets share a batch. Sizes of one class differ by a factor of four at most, and so does padding."""

    work: telemetry.Work
    initializer: InitializerRef
    steps: int
    size_class: int


@dataclass(frozen=True)
class _AdaptLane:
    version: _Version
    job: AdaptJob
    since: float


@dataclass(frozen=True)
class _PredictLane:
    version: _Version
    state: State
    queries: Array
    since: float


_Lane = _AdaptLane | _PredictLane
_Outcome = tuple[AdaptedLane, Phases] | Answers


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
        self._bytes_thread = ThreadPoolExecutor(1, "engine-bytes", torch.set_num_threads, (threads,))
        self._loading_thread = ThreadPoolExecutor(1, "engine-loading", torch.set_num_threads, (threads,))
        self._load = load
        self._max_batch_samples = max_batch_samples or MAX_BATCH_SAMPLES[self._device.type]
        limits = BatchLimits(max_lanes, max_waiting_lanes, max_size=self._max_batch_samples)
        self._batcher: Batcher[_Lane, _Outcome] = Batcher(self._run, self._device_thread, limits)
        self._versions: Versions[_Version] = Versions()
        self._resident: ResidentStates[State] = ResidentStates(resident_bytes)
        self._lanes: Counter[telemetry.Work] = Counter()
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

    async def retire(self, ref: InitializerRef) -> None:
        await self._versions.remove(ref)
        self._resident.drop_initializer(ref)

    async def adapt(self, job: AdaptJob) -> Adapted:
        with self._versions.use(job.key.initializer) as version:
            _check_shape(job.inputs, version.learner, errors.InvalidSupport)
            outcome = await self._submit("adapt", job.key, _AdaptLane(version, job, _now()), job.steps)
            lane, phases = cast(tuple[AdaptedLane, Phases], outcome)
            self._resident.put(job.key, lane.state, _count_bytes(lane.state))
            started = _now()
            encoded = await self._call_in(self._bytes_thread, lambda: encode_state(lane.host_state))
        return Adapted(encoded, lane.loss, lane.accuracy, replace(phases, encode_ms=_ms_since(started)))

    async def predict(self, key: StateKey, queries: Array) -> Answers:
        with self._versions.use(key.initializer) as version, self._resident.pinned(key) as state:
            _check_shape(queries, version.learner, errors.InvalidQuery)
            try:
                return cast(Answers, await self._submit("predict", key, _PredictLane(version, state, queries, _now())))
            except errors.AdaptationFailed as full:
                raise errors.Overloaded(f"{full.detail}; try again, or with fewer queries") from full

    async def restore(self, key: StateKey, state: bytes) -> None:
        with self._versions.use(key.initializer) as version:
            restored = await self._call_in(self._bytes_thread, lambda: self._to_device(decode_state(state, version.template)))
            self._resident.put(key, restored, _count_bytes(restored))

    def forget(self, task_id: str) -> None:
        self._resident.drop_task(task_id)

    async def close(self) -> None:
        self._is_closed = True
        await self._batcher.close()
        for thread in (self._device_thread, self._bytes_thread, self._loading_thread):
            await asyncio.to_thread(thread.shutdown)

    async def _submit(self, work: telemetry.Work, key: StateKey, lane: _Lane, steps: int = 0) -> _Outcome:
        size = len(lane.job.inputs) if isinstance(lane, _AdaptLane) else len(lane.queries)
        with _in_service_words(), self._counted(work):
            return await self._batcher.submit(lane, _Bucket(work, key.initializer, steps, _size_class(size)), size)

    @contextmanager
    def _counted(self, work: telemetry.Work) -> Iterator[None]:
        """Keeps the gauge of lanes that wait for the device or are on it."""
        self._lanes[work] += 1
        telemetry.set_queue_depth(work, self._lanes[work])
        try:
            yield
        finally:
            self._lanes[work] -= 1
            telemetry.set_queue_depth(work, self._lanes[work])

    async def _call_in(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        """The result of `call`, run in `thread`."""
        if self._is_closed:
            raise errors.Draining("the engine is shutting down and takes no more work")
        with _in_service_words():
            return await asyncio.get_running_loop().run_in_executor(thread, call)

    def _load_version(self, card: Mapping[str, Any], weights: bytes) -> _Version:
        loaded = self._load(card, weights)
        params = self._to_device(loaded.params)
        return _Version(loaded.learner, params, make_template(loaded.learner, params))

    def _to_device(self, tensors: Params) -> Params:
        return {name: tensor.to(self._device) for name, tensor in tensors.items()}

    def _run(self, bucket: Hashable, lanes: Sequence[_Lane]) -> Sequence[_Outcome | Exception]:
        """One batch, in the device thread."""
        telemetry.observe_lanes(cast(_Bucket, bucket).work, len(lanes))
        if isinstance(lanes[0], _AdaptLane):
            return _run_adaptations(cast(Sequence[_AdaptLane], lanes))
        return _run_predictions(cast(Sequence[_PredictLane], lanes), self._max_batch_samples)


def translate(fault: models.errors.ModelError) -> errors.AppError:
    """An error of the torch library in the words of the service."""
    return TRANSLATION[type(fault)](str(fault))


@contextmanager
def _in_service_words() -> Iterator[None]:
    try:
        yield
    except models.errors.ModelError as fault:
        raise translate(fault) from fault


def _run_adaptations(lanes: Sequence[_AdaptLane]) -> list[_Outcome | Exception]:
    started, version = _now(), lanes[0].version
    adapted = adapt_lanes(version.learner, version.params, [_to_support(lane.job) for lane in lanes], lanes[0].job.steps)
    diverged = errors.AdaptationFailed("the inner loop ended in numbers that are not finite; try fewer steps, or smaller inputs")
    return [
        (outcome, _measure(lane.since, started, len(lanes))) if outcome.is_finite else diverged
        for lane, outcome in zip(lanes, adapted, strict=True)
    ]


def _run_predictions(lanes: Sequence[_PredictLane], max_samples: int) -> list[_Outcome | Exception]:
    started, version = _now(), lanes[0].version
    queries = [torch.from_numpy(_own_float32(lane.queries)) for lane in lanes]
    answers = predict_lanes(version.learner, version.params, [lane.state for lane in lanes], queries, max_samples)
    too_large = errors.InvalidQuery("the answers are not finite numbers; expected queries in the range of the support set")
    return [
        Answers(values.numpy(), _measure(lane.since, started, len(lanes))) if bool(values.isfinite().all()) else too_large
        for lane, values in zip(lanes, answers, strict=True)
    ]


def _to_support(job: AdaptJob) -> Support:
    targets = torch.from_numpy(np.array(job.targets, dtype=np.int64 if job.n_way else np.float32))
    return make_support(torch.from_numpy(_own_float32(job.inputs)), targets, job.n_way)


def _own_float32(array: Array) -> Array:
    """A copy: arrays decoded from a request may be read-only, and a tensor over them would not be."""
    return np.array(array, dtype=np.float32, order="C")


def _check_shape(inputs: Array, learner: Learner, error: type[errors.AppError]) -> None:
    if len(inputs) == 0 or inputs.shape[1:] != learner.input_shape:
        raise error(f"expected one or more inputs of shape {learner.input_shape}, got an array of shape {inputs.shape}")


def _size_class(size: int) -> int:
    """0 for 1, 1 up to 4, 2 up to 16, 3 up to 64, ..."""
    return ((size - 1).bit_length() + 1) // 2


def _count_bytes(state: State) -> int:
    return sum(tensor.nbytes for tensor in state.values())


def _measure(since: float, started: float, lanes: int) -> Phases:
    return Phases(queue_ms=(started - since) * 1000, device_ms=_ms_since(started), lanes=lanes)


def _now() -> float:
    return time.perf_counter()


def _ms_since(started: float) -> float:
    return (_now() - started) * 1000
