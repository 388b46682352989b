"""Answers in one call of C are those of torch, and the same to the last bit in every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import state_format
from models.answers import AnsweredLane
from models.answers_native import MOST_PER_PART, NativeAnswers, make_native_answers
from models.confidence import Confidence, calibrate
from models.errors import InvalidQuery
from models.installed import lay_out_body
from models.learner import Learner
from models.methods import build_learner
from models.native.build import find_compiler
from models.packed_weights import BITS
from models.resident import Resident
from models.state_format import StateFormat, describe_states
from models.support import Params, make_support
from tests.laws.learners import SPECS

Array = npt.NDArray[Any]

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="SKIPPED-COMPILER: no C compiler")

CONV4 = {"kind": "conv4", "filters": 16, "groups": 4}
REGRESSION = {"method": "maml", "kind": "regression", "input_shape": [1, 16, 16], "n_out": 3, "inner_lr": 0.01, "backbone": CONV4}
FIGURES = Confidence(1.3, 0.4, (0.2, -0.5, 0.3, 0.1, -0.6))


@dataclass(frozen=True)
class World:
    """A learner in float64, states of it that are ready, and what answers by them."""

    learner: Learner
    params: Params
    format: StateFormat
    native: NativeAnswers

    def adapt(self, seed: int, n_way: int, dtype: torch.dtype = torch.float64) -> Resident:
        inputs = torch.rand(2 * n_way, *self.learner.input_shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        is_regression = self.learner.kind == "regression"
        support = (
            make_support(inputs, inputs.flatten(1)[:, :3])
            if is_regression
            else make_support(inputs, torch.arange(2 * n_way) % n_way, n_way)
        )
        return self.make_ready(self.format.hold(self.learner.adapt(self.params, support, 2).state))

    def bring_back(self, resident: Resident, bits: int) -> Resident:
        """The same state from its bytes, with kernels that stay packed, in so many bits a number."""
        with patch.object(state_format, "choose_bits", return_value=[bits]):
            return self.make_ready(self.format.decode(self.format.encode(resident.state)))

    def make_ready(self, resident: Resident) -> Resident:
        return replace(resident, row=self.native.make_row(resident.memory, resident.arrangement))

    def answer_by_torch(self, resident: Resident, queries: Array, confidence: Confidence) -> AnsweredLane:
        with torch.no_grad():
            outputs = self.learner.predict(self.params, resident.state, torch.from_numpy(queries).unsqueeze(0))
        values, unknown = calibrate(outputs, confidence) if self.learner.kind == "classification" else (outputs, None)
        return AnsweredLane(values[0].numpy(), None if unknown is None else unknown[0].numpy())


def find_native(spec: dict[str, Any], confidence: Confidence = FIGURES, dtype: torch.dtype = torch.float64) -> World | None:
    learner = build_learner(spec)
    params = {name: tensor.to(dtype) for name, tensor in learner.init(torch.Generator().manual_seed(0)).items()}
    params = lay_out_body(learner, params)
    shown = torch.zeros(2, *learner.input_shape, dtype=dtype)
    support = make_support(shown, shown.flatten(1)[:, :3]) if learner.kind == "regression" else make_support(shown, torch.arange(2), 2)
    template = lay_out_body(learner, learner.adapt(params, support).state)
    states = describe_states(template, params)
    native = make_native_answers(learner, params, template, confidence, states.coarse)
    return None if native is None else World(learner, params, replace(states, keeps=frozenset(native.bases)), native)


def make_world(spec: dict[str, Any], confidence: Confidence = FIGURES, dtype: torch.dtype = torch.float64) -> World:
    world = find_native(spec, confidence, dtype)
    assert world is not None
    return world


def draw_queries(counts: Sequence[int], shape: Sequence[int], dtype: type[np.floating[Any]] = np.float64) -> list[Array]:
    random = np.random.default_rng(sum(counts))
    return [random.random((count, *shape)).astype(dtype) for count in counts]


def assert_close(found: AnsweredLane, wanted: AnsweredLane, tolerance: float) -> None:
    np.testing.assert_allclose(found.values, wanted.values, rtol=tolerance, atol=tolerance)
    assert (found.unknown is None) == (wanted.unknown is None)
    if found.unknown is not None and wanted.unknown is not None:
        np.testing.assert_allclose(found.unknown, wanted.unknown, rtol=tolerance, atol=tolerance)


def widen(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "backbone": {**spec["backbone"], "filters": 16, "groups": 4}}


@pytest.mark.parametrize("name", ["maml", "anil", "boil", "reptile", "protonet", "protonet-pooled", "maml-layer-norm", "ridge", "svm"])
def test_every_lane_is_answered_as_torch_answers_it(name: str) -> None:
    world = make_world(widen(SPECS[name]))
    residents = [world.adapt(seed, n_way) for seed, n_way in enumerate((3, 5, 2, 7))]
    queries = draw_queries((4, 1, 2 * MOST_PER_PART + 3, 2), world.learner.input_shape)
    for found, resident, mine in zip(world.native.answer(residents, queries), residents, queries, strict=True):
        assert_close(found, world.answer_by_torch(resident, mine, FIGURES), 1e-9)


def test_values_are_answered_as_torch_answers_them() -> None:
    world = make_world(REGRESSION)
    resident, [queries] = world.adapt(0, 3), draw_queries((5,), (1, 16, 16))
    [found] = world.native.answer([resident], [queries])
    assert found.unknown is None
    assert_close(found, world.answer_by_torch(resident, queries, FIGURES), 1e-9)


SMALL = make_world(widen(SPECS["maml"]), dtype=torch.float32) if find_native(widen(SPECS["maml"])) else None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 9), st.integers(1, 20)), min_size=1, max_size=6), st.sampled_from([1, 2, 3]))
def test_an_answer_is_the_same_to_the_last_bit_in_every_batch_and_near_to_torch(lanes: list[tuple[int, int]], threads: int) -> None:
    assert SMALL is not None
    residents = [SMALL.adapt(seed, n_way, torch.float32) for seed, (n_way, _) in enumerate(lanes)]
    queries = draw_queries([count for _, count in lanes], (1, 16, 16), np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = SMALL.native.answer(residents, queries)
    finally:
        torch.set_num_threads(before)
    for found, resident, mine in zip(together, residents, queries, strict=True):
        alone = [SMALL.native.answer([resident], [mine[place : place + 1]])[0] for place in range(len(mine))]
        np.testing.assert_array_equal(found.values, np.concatenate([each.values for each in alone]))
        np.testing.assert_array_equal(found.unknown, np.concatenate([each.unknown for each in alone if each.unknown is not None]))
        assert_close(found, SMALL.answer_by_torch(resident, mine, FIGURES), 1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([16, 32, 48, 64, 80]),
    st.lists(st.tuples(st.integers(1, 20), st.sampled_from(BITS)), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([1, 2, 3]),
)
def test_packed_kernels_answer_as_their_numbers_do_to_the_last_bit(
    filters: int, lanes: list[tuple[int, int]], pools: bool, threads: int
) -> None:
    """In a batch of states whose kernels have eight bits, twelve, or are not packed."""
    backbone = {"kind": "conv4", "filters": filters, "groups": 4, "downsample": "pool" if pools else "stride"}
    world = make_world({**SPECS["maml"], "backbone": backbone}, dtype=torch.float32)
    residents, counts = [], [count for count, _ in lanes]
    for seed, (_, bits) in enumerate(lanes):
        residents.append(world.bring_back(world.adapt(seed, 3, torch.float32), bits))
    plain = [world.make_ready(world.format.hold(resident.state)) for resident in residents]
    assert all(resident.n_bytes < 0.7 * held.n_bytes for resident, held in zip(residents, plain, strict=True))
    queries = draw_queries(counts, (1, 16, 16), np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        both = world.native.answer([*residents, *plain], [*queries, *queries])
    finally:
        torch.set_num_threads(before)
    for found, wanted in zip(both[: len(counts)], both[len(counts) :], strict=True):
        np.testing.assert_array_equal(found.values, wanted.values)
    assert_close(both[0], world.answer_by_torch(residents[0], queries[0], FIGURES), 1e-5)


def test_queries_that_are_no_numbers_are_marked_and_the_others_are_not() -> None:
    world = make_world(widen(SPECS["maml"]))
    residents, queries = [world.adapt(0, 3), world.adapt(1, 3)], draw_queries((2, 3), (1, 16, 16))
    queries[1][1, 0, 3] = np.inf
    assert [lane.is_finite for lane in world.native.answer(residents, queries)] == [True, False]


def test_queries_of_another_shape_are_refused_and_of_another_type_or_order_are_copied() -> None:
    world = make_world(widen(SPECS["maml"]))
    resident, [queries] = world.adapt(0, 3), draw_queries((2,), (1, 16, 16))
    [wanted] = world.native.answer([resident], [queries])
    [turned] = world.native.answer([resident], [np.asfortranarray(queries)])
    np.testing.assert_array_equal(turned.values, wanted.values)
    [rounded] = world.native.answer([resident], [queries.astype(np.float32)])
    assert_close(rounded, wanted, 1e-5)
    with pytest.raises(InvalidQuery, match="expected queries of shape"):
        world.native.answer([resident], [queries[:, :, 1:]])


@pytest.mark.parametrize("name", ["maml-attention", "maml-shaped", "maml-mlp", "matchingnet", "ridge-gaussian", "protonet-gated"])
def test_a_learner_that_does_more_than_the_c_can_is_left_to_torch(name: str) -> None:
    assert find_native(SPECS[name]) is None
