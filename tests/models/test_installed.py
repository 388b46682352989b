from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from models.errors import IncompatibleState, InvalidSupport
from models.installed import Installed, install
from models.learner import Learner
from models.methods import build_learner
from models.support import Params

SPEC = {"method": "maml", "kind": "classification", "input_shape": [6], "backbone": {"kind": "mlp", "hidden": [16, 8]}}


@dataclass(frozen=True)
class Task:
    """Labelled arrays, as a server decodes them."""

    inputs: npt.NDArray[np.float32]
    targets: npt.NDArray[np.int64]
    n_way: int


@dataclass(frozen=True)
class Loaded:
    learner: Learner
    params: Params


def make_task(seed: int, n_way: int = 3, shots: int = 2) -> Task:
    inputs = np.random.default_rng(seed).random((n_way * shots, 6), dtype=np.float32)
    return Task(inputs, np.repeat(np.arange(n_way), shots), n_way)


@pytest.fixture
def installed() -> Installed:
    learner = build_learner(SPEC)
    return install(Loaded(learner, learner.init(torch.Generator().manual_seed(0))), torch.device("cpu"))


def test_arrays_go_in_and_each_task_answers_for_its_own_classes(installed: Installed) -> None:
    lanes = installed.adapt([make_task(1), make_task(2, n_way=5)], 2)
    queries = [make_task(1).inputs, make_task(2).inputs[:1]]
    answers = installed.predict([installed.hold(lane.state) for lane in lanes], queries, 100)
    assert [tuple(lane.values.shape) for lane in answers] == [(6, 3), (1, 5)]
    assert all(lane.is_finite for lane in answers)


def test_adapting_leaves_the_arrays_of_the_caller_alone_also_read_only_ones(installed: Installed) -> None:
    task = make_task(1)
    before = task.inputs.copy()
    task.inputs.flags.writeable = False
    task.targets.flags.writeable = False
    installed.adapt([task], 2)
    np.testing.assert_array_equal(task.inputs, before)


def test_a_restored_state_answers_as_the_one_it_was_made_from(installed: Installed) -> None:
    [lane] = installed.adapt([make_task(1)], 2)
    restored = installed.restore(installed.encode(lane.state))
    exact = installed.hold(lane.state)
    first, second = (installed.predict([resident], [make_task(9).inputs], 100)[0].values for resident in (exact, restored))
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-4)  # the bytes are rounded
    assert all(torch.equal(exact.state[name], tensor) for name, tensor in lane.state.items())


def test_what_does_not_fit_is_refused(installed: Installed) -> None:
    with pytest.raises(InvalidSupport, match=r"\[3\]"):
        installed.adapt([replace(make_task(1), n_way=4)], 2)
    with pytest.raises(IncompatibleState):
        installed.restore(b"not a state")


def test_a_start_is_compared_in_batches_of_the_size_told_to_the_same_losses(installed: Installed) -> None:
    [other] = installed.adapt([make_task(2)], 2)
    state, fresh = installed.encode(other.state), [True] * 6
    whole, parts = (installed.try_start(make_task(1), state, fresh, 2, most) for most in (1000, 6))
    assert whole.n_held_out == parts.n_held_out == 6
    assert (parts.cold, parts.warm) == pytest.approx((whole.cold, whole.warm), rel=1e-5)
