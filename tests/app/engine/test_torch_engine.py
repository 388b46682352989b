from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

import models.errors
import models.installed
from app import errors
from app.domain import AdaptJob, Answers, Array, InitializerRef, StateKey
from app.engine import torch_engine
from app.engine.interface import Engine
from app.engine.torch_engine import TRANSLATION, TorchEngine, translate
from models.learner import Adaptation, Learner
from models.methods import build_learner
from models.resident import Resident
from models.state_head import HEAD_BYTES
from models.support import Params, State, Support

CONV4 = {"kind": "conv4", "filters": 8, "groups": 4}
SPECS: dict[str, dict[str, Any]] = {
    "protonet": {"method": "protonet", "kind": "classification", "input_shape": [1, 16, 16], "backbone": CONV4},
    "maml": {"method": "maml", "kind": "classification", "input_shape": [1, 16, 16], "inner_steps": 2, "backbone": CONV4},
    "sinusoid": {
        "method": "maml",
        "kind": "regression",
        "input_shape": [1],
        "inner_lr": 0.002,
        "backbone": {"kind": "mlp", "hidden": [16]},
    },
}
IMAGE = (1, 16, 16)


@dataclass(frozen=True)
class Loaded:
    """An initializer without a file."""

    learner: Learner
    params: Params


def load_spec(card: Mapping[str, Any], weights: bytes) -> models.installed.Loaded:
    """A loader that makes the learner of `card` with parameters seeded by `weights`."""
    if weights == b"corrupt":
        raise models.errors.CheckpointCorrupt("digest does not match")
    learner = build_learner({key: value for key, value in card.items() if key != "confidence"})
    return Loaded(learner, learner.init(torch.Generator().manual_seed(len(weights))))


@dataclass
class Trouble:
    """A learner with faults on order around a real one, which also counts the lanes of its batches."""

    inner: Learner
    room: int = 1000
    poison: float | None = None
    lanes: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    row_head: None = None  # or C would answer, and `predict` never be called

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        self._count(support.lanes)
        adaptation = self.inner.adapt(params, support, steps, differentiable=differentiable)
        if self.poison is None:
            return adaptation
        is_poisoned = (support.inputs == self.poison).flatten(1).any(1)
        state = {name: tensor.clone() for name, tensor in adaptation.state.items()}
        state["class.prototypes"][is_poisoned] = torch.nan
        return replace(adaptation, state=state)

    def predict(self, params: Params, state: State, queries: torch.Tensor) -> torch.Tensor:
        self._count(len(queries))
        self.samples.append(queries.shape[0] * queries.shape[1])
        return self.inner.predict(params, state, queries)

    def _count(self, lanes: int) -> None:
        self.lanes.append(lanes)
        if lanes > self.room:
            raise torch.OutOfMemoryError(f"CUDA out of memory, {lanes} lanes")


def random_images(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).random((count, *IMAGE), dtype=np.float32)


def make_job(name: str, seed: int, n_way: int = 3, shots: int = 2, steps: int = 2) -> AdaptJob:
    """A classification job of its own task `t{seed}`."""
    targets = np.repeat(np.arange(n_way), shots)
    return AdaptJob(StateKey(f"t{seed}", 1, InitializerRef(name, 1)), random_images(n_way * shots, seed), targets, n_way, steps)


def make_sine_job(seed: int, points: int = 7) -> AdaptJob:
    inputs = np.random.default_rng(seed).uniform(-5, 5, (points, 1)).astype(np.float32)
    return AdaptJob(StateKey(f"s{seed}", 1, InitializerRef("sinusoid", 1)), inputs, np.sin(inputs), 0, 3)


@pytest.fixture
async def engine() -> AsyncIterator[TorchEngine]:
    engine = TorchEngine("cpu", 1, max_batch_samples=1000, load=load_spec)
    _: Engine = engine
    for name, spec in SPECS.items():
        await engine.install(InitializerRef(name, 1), spec, b"")
    yield engine
    await engine.close()


@pytest.fixture
async def troubled() -> AsyncIterator[tuple[TorchEngine, Trouble]]:
    """An engine with one initializer, `protonet`, whose learner can be told to fail."""
    trouble = Trouble(build_learner(SPECS["protonet"]))
    loaded = Loaded(trouble, trouble.init(torch.Generator().manual_seed(0)))
    engine = TorchEngine("cpu", 1, max_batch_samples=1000, load=lambda card, weights: loaded)
    await engine.install(InitializerRef("protonet", 1), {}, b"")
    trouble.lanes.clear()
    yield engine, trouble
    await engine.close()


@pytest.fixture(params=["protonet", "maml"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_job_adapted_alone_and_among_others_gives_the_same_state(engine: TorchEngine, name: str) -> None:
    job = make_job(name, 1)
    alone = await engine.adapt(job)
    others = [make_job(name, seed, n_way=2 + seed % 4, shots=1 + seed % 3) for seed in range(2, 18)]
    together = (await asyncio.gather(engine.adapt(replace(job)), *(engine.adapt(other) for other in others)))[0]
    assert together.phases.lanes > 4
    with engine._versions.use(job.key.initializer) as version:
        expected, found = (version.restore(each.state).state for each in (alone, together))
    for tensor_name, tensor in expected.items():
        torch.testing.assert_close(found[tensor_name], tensor, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(together.loss, alone.loss, atol=1e-5)


async def test_jobs_of_about_as_many_steps_share_a_batch_and_their_bytes_are_those_they_have_alone(engine: TorchEngine) -> None:
    steps = [2, 4, 3, 2, 50]
    jobs = [make_job("maml", seed, steps=count) for seed, count in enumerate(steps)]
    alone = [await engine.adapt(job) for job in jobs]
    busy = asyncio.ensure_future(
        engine.adapt(make_job("maml", 9, n_way=20, shots=3, steps=60))
    )  # whoever comes now waits, and is then one batch
    await asyncio.sleep(0)
    together = await asyncio.gather(*(engine.adapt(replace(job)) for job in jobs))
    await busy
    assert [lane.phases.lanes for lane in together] == [4, 4, 4, 4, 1]
    assert [lane.state for lane in together] == [lane.state for lane in alone]
    assert [len(lane.loss) for lane in together] == [count + 1 for count in steps]


async def test_jobs_of_other_steps_wait_for_their_turn_where_lanes_stay_to_the_end(engine: TorchEngine) -> None:
    jobs = [replace(make_sine_job(seed), steps=1 + seed % 2) for seed in range(6)]
    together = await asyncio.gather(*(engine.adapt(job) for job in jobs))
    assert max(lane.phases.lanes for lane in together) <= 3
    assert [len(lane.loss) for lane in together] == [2 + seed % 2 for seed in range(6)]


async def test_equal_jobs_give_equal_bytes(engine: TorchEngine, name: str) -> None:
    first = await engine.adapt(make_job(name, 1))
    assert (await engine.adapt(make_job(name, 1))).state == first.state


async def test_one_query_is_answered_as_in_a_batch_and_beside_other_tasks(engine: TorchEngine, name: str) -> None:
    jobs = [make_job(name, seed, n_way=2 + seed % 3) for seed in range(12)]
    await asyncio.gather(*(engine.adapt(job) for job in jobs))
    queries = [random_images(1 + 3 * (seed % 4), 100 + seed) for seed in range(12)]
    together = await asyncio.gather(*(engine.predict(job.key, mine) for job, mine in zip(jobs, queries, strict=True)))
    assert max(answers.phases.lanes for answers in together) > 1
    for job, mine, answers in zip(jobs, queries, together, strict=True):
        assert answers.values.shape == (len(mine), job.n_way)
        np.testing.assert_allclose(answers.values.sum(1), 1, atol=1e-5)
        one_by_one = [(await engine.predict(job.key, mine[i : i + 1])).values[0] for i in range(len(mine))]
        np.testing.assert_allclose(answers.values, one_by_one, atol=1e-5)


async def test_the_curve_ends_where_predictions_begin(engine: TorchEngine, name: str) -> None:
    job = make_job(name, 3, n_way=4, shots=3, steps=5)
    adapted = await engine.adapt(job)
    answers = await engine.predict(job.key, job.inputs)
    assert adapted.accuracy[-1] == pytest.approx((answers.values.argmax(1) == job.targets).mean())
    assert name == "protonet" or adapted.loss[-1] < adapted.loss[0]
    assert len(adapted.loss) == len(adapted.accuracy) == (6 if name == "maml" else 1)


async def test_regression_answers_with_values_and_has_no_accuracy(engine: TorchEngine) -> None:
    jobs = [make_sine_job(seed, points=4 + seed) for seed in range(4)]
    adapted = await asyncio.gather(*(engine.adapt(job) for job in jobs))
    assert all(lane.accuracy == () and lane.loss[-1] < lane.loss[0] for lane in adapted)
    answers = await engine.predict(jobs[0].key, np.zeros((3, 1), np.float32))
    assert answers.values.shape == (3, 1)


async def test_a_task_is_embedded_as_it_adapts_the_same_alone_and_among_others(engine: TorchEngine, name: str) -> None:
    assert "embed" in engine.abilities(InitializerRef(name, 1))
    job = make_job(name, 1)
    alone = (await engine.adapt(job)).embedding
    others = [make_job(name, seed, n_way=2 + seed % 4) for seed in range(2, 8)]
    together = (await asyncio.gather(engine.adapt(replace(job)), *(engine.adapt(other) for other in others)))[0].embedding
    assert alone is not None
    assert together is not None
    assert alone.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-6)


async def test_explained_answers_are_the_same_answers_and_name_each_tasks_own_examples(engine: TorchEngine, name: str) -> None:
    assert "explain" in engine.abilities(InitializerRef(name, 1))
    jobs = [make_job(name, seed, n_way=2 + seed % 3) for seed in range(6)]
    await asyncio.gather(*(engine.adapt(job) for job in jobs))
    queries = random_images(3, 50)
    plain = await engine.predict(jobs[0].key, queries)
    explained = await asyncio.gather(*(engine.predict(job.key, queries, job) for job in jobs))
    assert plain.weights is None
    assert max(answers.phases.lanes for answers in explained) > 1
    np.testing.assert_allclose(explained[0].values, plain.values, atol=1e-5)
    for job, answers in zip(jobs, explained, strict=True):
        assert answers.weights is not None
        assert answers.weights.shape == (3, len(job.inputs))
        np.testing.assert_allclose(np.abs(answers.weights).sum(1), 1, atol=1e-4)


async def test_the_figures_of_the_card_calibrate_answers_and_score_the_unknown(engine: TorchEngine) -> None:
    figures = {"scale": 2.0, "power": 0.0, "unknown": [0.0, 0.0, 0.0, 0.0, -1.0]}
    ref = InitializerRef("sure", 1)
    await engine.install(ref, {**SPECS["protonet"], "confidence": figures}, b"")
    plain = make_job("protonet", 1)
    sure = replace(plain, key=plain.key._replace(initializer=ref))
    queries = random_images(4, 3)
    for job in (plain, sure):
        await engine.adapt(job)
    before, after = await engine.predict(plain.key, queries), await engine.predict(sure.key, queries)
    assert before.unknown is None
    softened = np.sqrt(before.values)  # twice the temperature
    np.testing.assert_allclose(after.values, softened / softened.sum(1, keepdims=True), atol=1e-5)
    assert after.unknown is not None
    np.testing.assert_allclose(after.unknown, np.full(4, 1 / (1 + np.e)), atol=1e-6)


async def test_the_phases_of_a_lane_add_up_to_its_time(engine: TorchEngine) -> None:
    job = make_job("maml", 1)
    for call in (lambda: engine.adapt(job), lambda: engine.predict(job.key, random_images(4, 3))):
        started = time.perf_counter()
        phases = (await call()).phases
        elapsed_ms = (time.perf_counter() - started) * 1000
        parts_ms = (phases.queue_ms, phases.batch_ms, phases.device_ms, phases.encode_ms)
        assert min(phases.queue_ms, phases.batch_ms, phases.device_ms) > 0
        assert 0.5 * elapsed_ms <= sum(parts_ms) <= elapsed_ms


async def test_a_state_that_left_the_device_is_restored_from_its_bytes(engine: TorchEngine, name: str) -> None:
    job, queries = make_job(name, 1), random_images(5, 9)
    state = (await engine.adapt(job)).state
    before = await engine.predict(job.key, queries)
    engine.forget("t1")
    with pytest.raises(errors.StateNotResident):
        await engine.predict(job.key, queries)
    await engine.restore(job.key, state)
    np.testing.assert_array_equal((await engine.predict(job.key, queries)).values, before.values)


async def test_states_that_are_long_come_back_by_a_thread_as_short_ones_by_the_event_loop(
    engine: TorchEngine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, queries, threads = make_job(name, 1), random_images(5, 9), list[str]()
    state = (await engine.adapt(job)).state
    restore = models.installed.Installed.restore

    def note_thread(version: models.installed.Installed, encoded: bytes) -> Resident:
        threads.append(threading.current_thread().name)
        return restore(version, encoded)

    monkeypatch.setattr(models.installed.Installed, "restore", note_thread)
    answers = []
    for most_bytes in (len(state), len(state) - 1):
        monkeypatch.setattr(torch_engine, "MOST_BYTES_RESTORED_HERE", most_bytes)
        await engine.restore(job.key, state)
        answers.append((await engine.predict(job.key, queries)).values)
    assert [thread.startswith("engine-bytes") for thread in threads] == [False, True]
    np.testing.assert_array_equal(answers[0], answers[1])


async def test_what_answers_first_is_bit_for_bit_what_the_bytes_bring_back(engine: TorchEngine, name: str) -> None:
    """Law 5: the bytes are rounded, so the state that is resident after an adaptation must be so too."""
    job = make_job(name, 1)
    state = (await engine.adapt(job)).state
    with engine._resident.pinned(job.key) as resident:
        first = {tensor_name: tensor.clone() for tensor_name, tensor in resident.state.items()}
    engine.forget("t1")
    await engine.restore(job.key, state)
    with engine._resident.pinned(job.key) as restored:
        assert restored.state.keys() == first.keys()
        assert all(torch.equal(restored.state[tensor_name], tensor) for tensor_name, tensor in first.items())


def _of_the_first_format(_state: bytes) -> bytes:
    return save({"class.weight": torch.zeros(1, 3, 8), "class.mask": torch.ones(1, 3, dtype=torch.bool)})


def _not_finite(state: bytes) -> bytes:
    return state[:HEAD_BYTES] + b"\xff" * (len(state) - HEAD_BYTES)


@pytest.mark.parametrize("spoil", [lambda state: b"no state", lambda state: state[:-1], _of_the_first_format, _not_finite])
async def test_bytes_that_do_not_fit_are_refused(engine: TorchEngine, spoil: Callable[[bytes], bytes]) -> None:
    job = make_job("maml", 1)
    spoilt = spoil((await engine.adapt(job)).state)
    engine.forget("t1")
    with pytest.raises(errors.StateCorrupt):
        await engine.restore(job.key, spoilt)
    with pytest.raises(errors.StateNotResident):
        await engine.predict(job.key, random_images(1, 1))


async def test_a_lane_that_diverges_fails_alone(troubled: tuple[TorchEngine, Trouble]) -> None:
    engine, trouble = troubled
    trouble.poison = 7.0
    jobs = [make_job("protonet", seed) for seed in range(6)]
    jobs[2] = replace(jobs[2], inputs=np.full_like(jobs[2].inputs, 7.0))
    results = await asyncio.gather(*(engine.adapt(job) for job in jobs), return_exceptions=True)
    assert isinstance(results[2], errors.AdaptationFailed)
    assert sum(isinstance(result, BaseException) for result in results) == 1
    assert 2 not in [i for i, job in enumerate(jobs) if job.key in engine._resident]
    assert sum(trouble.lanes) == 6, "a diverged lane needs no second run of its batch"


async def test_a_device_out_of_memory_serves_smaller_batches(troubled: tuple[TorchEngine, Trouble]) -> None:
    engine, trouble = troubled
    trouble.room = 2
    jobs = [make_job("protonet", seed) for seed in range(8)]
    assert len(await asyncio.gather(*(engine.adapt(job) for job in jobs))) == 8
    answers = await asyncio.gather(*(engine.predict(job.key, random_images(3, 1)) for job in jobs))
    assert max(trouble.lanes) > 2
    assert max(lane.phases.lanes for lane in answers) <= 2


async def test_a_job_too_large_for_the_device_fails_and_a_prediction_is_put_off(troubled: tuple[TorchEngine, Trouble]) -> None:
    engine, trouble = troubled
    job = make_job("protonet", 1)
    await engine.adapt(job)
    trouble.room = 0
    with pytest.raises(errors.AdaptationFailed, match="no room"):
        await engine.adapt(make_job("protonet", 2))
    with pytest.raises(errors.Overloaded, match="no room"):
        await engine.predict(job.key, random_images(1, 1))


async def test_many_queries_are_answered_in_batches_of_bounded_size() -> None:
    trouble = Trouble(build_learner(SPECS["protonet"]))
    loaded = Loaded(trouble, trouble.init(torch.Generator().manual_seed(0)))
    engine = TorchEngine("cpu", 1, max_batch_samples=16, load=lambda card, weights: loaded)
    await engine.install(InitializerRef("protonet", 1), {}, b"")
    jobs = [make_job("protonet", seed, n_way=2, shots=1) for seed in range(3)]
    await asyncio.gather(*(engine.adapt(job) for job in jobs))
    answers = await asyncio.gather(*(engine.predict(job.key, random_images(50, 1)) for job in jobs))
    assert [lane.values.shape for lane in answers] == [(50, 2)] * 3
    assert max(trouble.samples) <= 16
    await engine.close()


async def test_an_invalid_job_fails_alone_and_says_what_was_expected(engine: TorchEngine) -> None:
    good, empty_class = make_job("protonet", 1), replace(make_job("protonet", 2), n_way=4)
    results = await asyncio.gather(engine.adapt(good), engine.adapt(empty_class), return_exceptions=True)
    assert not isinstance(results[0], BaseException)
    assert isinstance(results[1], errors.InvalidSupport)
    assert "[3]" in str(results[1])


async def test_inputs_of_another_shape_are_refused_before_any_batch(engine: TorchEngine) -> None:
    job = make_job("protonet", 1)
    await engine.adapt(job)
    with pytest.raises(errors.InvalidQuery, match=r"\(1, 16, 16\)"):
        await engine.predict(job.key, np.zeros((2, 1, 8, 8), np.float32))
    with pytest.raises(errors.InvalidQuery):
        await engine.predict(job.key, np.zeros((0, 1, 16, 16), np.float32))
    with pytest.raises(errors.InvalidSupport, match=r"\(6, 3, 16, 16\)"):
        await engine.adapt(replace(job, inputs=np.zeros((6, 3, 16, 16), np.float32)))


async def test_read_only_arrays_are_fine(engine: TorchEngine) -> None:
    job = make_job("protonet", 1)
    job.inputs.flags.writeable = False
    job.targets.flags.writeable = False
    assert (await engine.adapt(job)).state


async def test_adapting_leaves_the_initializer_bit_identical(engine: TorchEngine, name: str) -> None:
    with engine._versions.use(InitializerRef(name, 1)) as version:
        before = {tensor_name: tensor.clone() for tensor_name, tensor in version.params.items()}
        await asyncio.gather(*(engine.adapt(make_job(name, seed)) for seed in range(5)))
        assert all(torch.equal(version.params[tensor_name], tensor) for tensor_name, tensor in before.items())


async def test_an_initializer_that_does_not_hold_is_rejected_and_changes_nothing(engine: TorchEngine) -> None:
    before = engine.installed()
    with pytest.raises(errors.InitializerRejected, match="digest"):
        await engine.install(InitializerRef("maml", 2), SPECS["maml"], b"corrupt")
    assert engine.installed() == before
    assert (await engine.adapt(make_job("maml", 1))).state


async def test_installing_twice_at_once_loads_once() -> None:
    calls: list[bytes] = []

    def load_counted(card: Mapping[str, Any], weights: bytes) -> models.installed.Loaded:
        calls.append(weights)
        return load_spec(card, weights)

    engine = TorchEngine("cpu", 1, load=load_counted)
    ref = InitializerRef("maml", 1)
    await asyncio.gather(*(engine.install(ref, SPECS["maml"], b"") for _ in range(3)))
    assert calls == [b""]
    await engine.close()


async def test_traffic_flows_while_a_version_loads() -> None:
    may_load = threading.Event()

    def load_slowly(card: Mapping[str, Any], weights: bytes) -> models.installed.Loaded:
        assert not weights or may_load.wait(10)
        return load_spec(card, weights)

    engine = TorchEngine("cpu", 1, load=load_slowly)
    await engine.install(InitializerRef("maml", 1), SPECS["maml"], b"")
    loading = asyncio.create_task(engine.install(InitializerRef("maml", 2), SPECS["maml"], b"slow"))
    await asyncio.sleep(0.01)
    job = make_job("maml", 1)
    state = (await asyncio.wait_for(engine.adapt(job), 5)).state
    await asyncio.wait_for(engine.restore(job.key, state), 5)
    await asyncio.wait_for(engine.predict(job.key, random_images(2, 1)), 5)
    assert not loading.done()
    may_load.set()
    await loading
    assert InitializerRef("maml", 2) in engine.installed()
    await engine.close()


async def test_two_versions_answer_side_by_side_each_with_its_own_weights(engine: TorchEngine) -> None:
    await engine.install(InitializerRef("protonet", 2), SPECS["protonet"], b"another seed")
    job = make_job("protonet", 1)
    newer = replace(job, key=job.key._replace(initializer=InitializerRef("protonet", 2)))
    old, new = await asyncio.gather(engine.adapt(job), engine.adapt(newer))
    assert old.phases.lanes == new.phases.lanes == 1
    assert old.state != new.state
    queries = random_images(4, 5)
    answers = await asyncio.gather(engine.predict(job.key, queries), engine.predict(newer.key, queries))
    assert not np.allclose(answers[0].values, answers[1].values)


async def test_retiring_waits_for_the_traffic_and_then_forgets_the_states(engine: TorchEngine) -> None:
    jobs = [make_job("maml", seed) for seed in range(8)]
    adapting = [asyncio.create_task(engine.adapt(job)) for job in jobs]
    await asyncio.sleep(0)
    await engine.retire(InitializerRef("maml", 1))
    assert all(task.done() and task.result().state for task in adapting)
    assert engine.resident_bytes == 0
    with pytest.raises(errors.InitializerNotInstalled):
        await engine.adapt(jobs[0])
    with pytest.raises(errors.InitializerNotInstalled):
        await engine.restore(jobs[0].key, b"")


async def test_the_oldest_states_leave_the_device_when_its_budget_is_full() -> None:
    engine = TorchEngine("cpu", 1, resident_bytes=1, load=load_spec)
    await engine.install(InitializerRef("protonet", 1), SPECS["protonet"], b"")
    first, second = make_job("protonet", 1), make_job("protonet", 2)
    await engine.adapt(first)
    await engine.adapt(second)
    with pytest.raises(errors.StateNotResident):
        await engine.predict(first.key, random_images(1, 1))
    assert isinstance(await engine.predict(second.key, random_images(1, 1)), Answers)
    await engine.close()


async def test_closing_ends_what_runs_and_refuses_the_rest(engine: TorchEngine) -> None:
    running = asyncio.create_task(engine.adapt(make_job("maml", 1)))
    await asyncio.sleep(0.001)
    await engine.close()
    [outcome] = await asyncio.gather(running, return_exceptions=True)
    assert isinstance(outcome, errors.Draining) or not isinstance(outcome, BaseException)
    with pytest.raises(errors.Draining):
        await engine.adapt(make_job("maml", 2))
    with pytest.raises(errors.Draining):
        await engine.restore(make_job("maml", 1).key, b"")
    with pytest.raises(errors.Draining):
        await engine.install(InitializerRef("maml", 9), SPECS["maml"], b"")


def _all_model_errors(error: type[models.errors.ModelError] = models.errors.ModelError) -> Iterator[type[models.errors.ModelError]]:
    for child in error.__subclasses__():
        yield child
        yield from _all_model_errors(child)


def test_every_error_of_the_torch_library_has_a_name_in_the_service() -> None:
    assert set(_all_model_errors()) == set(TRANSLATION)
    translated = translate(models.errors.InvalidSupport("class 3 has no example"))
    assert isinstance(translated, errors.InvalidSupport)
    assert translated.detail == "class 3 has no example"


def test_a_device_that_is_not_there_is_refused_with_what_there_is() -> None:
    with pytest.raises(errors.EngineError, match="torch sees"):
        TorchEngine(f"cuda:{torch.cuda.device_count()}")
