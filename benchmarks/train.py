"""Meta-training steps: the second-order gradient of a batch of tasks, against the same gradient as others take it, and against what the
arithmetic alone would take.

    innerloop benchmark train --json

A step is the meta-gradient of 16 tasks, 5-way 1-shot, five inner steps, one query a class. What comes after it (clipping, Adam, the
moving average) is the same few tensors for everybody, so it is left out. Gradients must agree to a relative 1e-3, in float64, before any is
timed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.adapt import N_WAY, OPTIONS, STEPS
from benchmarks.contenders import Measure, check_gradients, open_checked_peers
from benchmarks.few_shot import Problem, describe_data, make_problem
from benchmarks.flops import count_meta_gradient
from benchmarks.harness import OURS, Findings, Plan, Row, measure_all
from benchmarks.limits import hold_to_limits
from benchmarks.rates import measure_rates
from benchmarks.timing import time_paired
from benchmarks.train_peers import PEERS
from models.backbones import Conv4
from models.episodes import EpisodeShape
from models.support import Params
from models.training.outer_loop import meta_loss

TASKS, QUICK_TASKS = 16, 2
TOLERANCE = 1e-3
BUDGET_S = 120.0


def run(plan: Plan) -> Findings:
    """A row for each form of the network."""
    rows, missing = measure_all(plan, ["stride"] if plan.quick else ["stride", "pool"], measure)
    return Findings(rows, {"data": describe_data(), "tolerance": TOLERANCE, "second_order": True}, missing)


def measure(downsample: str, plan: Plan) -> tuple[Row, dict[str, str]]:
    """The row, and why peers are missing. Raises Disagreement."""
    tasks = QUICK_TASKS if plan.quick else TASKS
    problem = make_problem("maml", downsample, EpisodeShape(N_WAY, 1, 1, tasks), STEPS, plan.device, **OPTIONS["maml"])
    field = open_checked_peers(PEERS, problem, compare_gradients, TOLERANCE)
    ours = our_gradient(problem)
    rates = measure_rates(plan.device, quick=plan.quick)
    contenders = {OURS: ours, **field.peers}
    # No warm-up: everybody has just run once, to be compared.
    timings = time_paired(contenders, repetitions=plan.repetitions(30), warm_up=0, budget_s=BUDGET_S, device=plan.device)
    settings = {"method": "maml", "backbone": f"conv4-64 {downsample}", "way": N_WAY, "shot": 1, "steps": STEPS, "tasks": tasks}
    row = hold_to_limits(
        timings,
        settings,
        tasks * count_flops(problem.backbone),
        tasks * count_flops(problem.backbone, as_written=True),
        rates,
        steps_per_s=1 / timings.median_s(OURS),
        differences=field.differences,
        differences_in_float32=field.in_float32,
    )
    return row, field.missing


def compare_gradients(problem: Problem, tolerance: float) -> Measure:
    """How far meta-gradients of this problem are from ours."""
    expected = our_gradient(problem)()
    return lambda name, theirs: check_gradients(name, theirs, expected, tolerance)


def our_gradient(problem: Problem) -> Callable[[], Params]:
    """The meta-gradient as the outer loop takes it."""
    params = {name: tensor.detach().clone().requires_grad_() for name, tensor in problem.params.items()}

    def differentiate() -> Params:
        loss, _ = meta_loss(problem.learner, params, problem.episodes)
        return dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))

    return differentiate


def count_flops(backbone: Conv4, *, as_written: bool = False) -> int:
    """FLOPs of one task."""
    return count_meta_gradient(backbone, N_WAY, N_WAY, N_WAY, STEPS, as_written=as_written)  # one example of a class, and one query
