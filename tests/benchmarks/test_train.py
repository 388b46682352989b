from __future__ import annotations

import pytest
import torch

from benchmarks import train
from benchmarks.adapt import OPTIONS
from benchmarks.contenders import check_gradients
from benchmarks.few_shot import make_problem
from benchmarks.flops import count_meta_gradient
from benchmarks.harness import Plan
from benchmarks.rates import Rates
from benchmarks.train import our_gradient
from benchmarks.train_peers import plain_loop, vmapped
from models.backbones import Conv4
from models.episodes import EpisodeShape
from models.methods.inner_loop import LOG_SHARPNESS


def test_the_plain_loops_and_we_take_the_same_second_order_gradient() -> None:
    problem = make_problem("maml", "stride", EpisodeShape(5, 1, 1, 2), 3, **OPTIONS["maml"] | {"inner_steps": 3})
    ours = our_gradient(problem)()
    assert set(ours) == set(problem.params)
    for name, make in (("plain loop", plain_loop), ("torch.func.vmap", vmapped)):
        assert check_gradients(name, make(problem)(), ours, 1e-3) <= 1e-3


def test_the_gradient_is_not_that_of_the_first_order() -> None:
    """Or agreeing would say nothing about second derivatives."""
    shape = EpisodeShape(5, 1, 1, 1)
    second = our_gradient(make_problem("maml", "stride", shape, 3, **OPTIONS["maml"]))()
    first = our_gradient(make_problem("maml", "stride", shape, 3, **OPTIONS["maml"], first_order=True))()
    assert (second["body.conv4.weight"] - first["body.conv4.weight"]).norm() > 0.01 * second["body.conv4.weight"].norm()
    assert torch.isfinite(second[LOG_SHARPNESS])


def test_a_row_is_held_to_the_arithmetic_of_all_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "PEERS", {})
    monkeypatch.setattr(train, "measure_rates", lambda device, *, quick: Rates(1e11, None))
    row, _ = train.measure("stride", Plan(quick=True))
    needed, written = (count_meta_gradient(Conv4((1, 28, 28)), 5, 5, 5, 5, as_written=as_written) for as_written in (False, True))
    assert (row.details["gflop"], row.details["gflop_as_written"]) == (2 * needed / 1e9, 2 * written / 1e9)
    assert row.limit_fraction == pytest.approx(row.details["gflop"] / 100 / (row.ours / 1e3))
    assert row.peak_fraction is None
