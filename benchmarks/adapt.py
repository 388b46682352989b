"""Adaptations of many tasks at once, against the same adaptations as others do them, and against what the arithmetic alone would take.

    innerloop benchmark adapt --json [--only 'maml stride 1-shot 16 lanes']

Everybody starts from the same weights, sees the same tasks and walks the same steps; adapted weights must agree to 1e-4, in float64,
before anything is timed. Ours is the public `Learner.adapt` of stacked support sets, which also measures the loss after the last step.
Ours is always timed on all lanes. A peer that takes one task after the other is timed on 16 of them where there are more, and one that
takes many at once on as many: it is charged with as many times as much (`timed_lanes` in the row). So 256 lanes take minutes, not hours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.adapt_peers import PEERS, VMAP_CHUNK, VMAPPED
from benchmarks.contenders import Measure, check_weights, open_checked_peers
from benchmarks.few_shot import Problem, describe_data, make_problem
from benchmarks.flops import count_anil, count_forward, count_maml, count_ridge
from benchmarks.harness import OURS, Findings, Plan, Row, measure_all
from benchmarks.limits import hold_to_limits
from benchmarks.plain_conv4 import stack_weights, to_state
from benchmarks.rates import measure_rates
from benchmarks.timing import time_paired
from models.backbones import Conv4
from models.episodes import EpisodeShape
from models.methods.head_space import TASK_CENTRE
from models.support import Params

N_WAY, STEPS = 5, 5
TOLERANCE = 1e-4
LANES = (1, 4, 16, 64, 256)
REPETITIONS, BUDGET_S = 30, 6.0
LEAST_TIMED = 16
OPTIONS: dict[str, dict[str, Any]] = {
    "maml": {"inner_steps": STEPS, "inner_lr": 0.1, "body_objective": "mean"},
    "anil": {"inner_steps": STEPS, "inner_lr": 0.1},
    "protonet": {},
    "ridge": {},
}


@dataclass(frozen=True)
class Setting:
    """One row's."""

    method: str
    downsample: str
    shot: int
    lanes: int

    def __str__(self) -> str:
        return f"{self.method} {self.downsample} {self.shot}-shot {self.lanes} lanes"

    @property
    def steps(self) -> int:
        return STEPS if "inner_steps" in OPTIONS[self.method] else 0


def list_settings(quick: bool) -> list[Setting]:
    """All of them, or one of each method with two lanes."""
    if quick:
        return [Setting(method, "stride", 1, 2) for method in OPTIONS]
    return [Setting(m, d, s, n) for m in OPTIONS for d in ("stride", "pool") for s in (1, 5) for n in LANES]


def run(plan: Plan) -> Findings:
    """One row for each setting, and all the peers that are here."""
    rows, missing = measure_all(plan, list_settings(plan.quick), measure)
    return Findings(rows, {"data": describe_data(), "way": N_WAY, "tolerance": TOLERANCE}, missing)


def measure(setting: Setting, plan: Plan) -> tuple[Row, dict[str, str]]:
    """The row, and why peers are missing. Raises Disagreement."""
    shape = EpisodeShape(N_WAY, setting.shot, 1, setting.lanes)
    problem = make_problem(setting.method, setting.downsample, shape, setting.steps, plan.device, **OPTIONS[setting.method])
    timed_lanes = {name: count_timed(name, setting.lanes, plan.device) for name in PEERS[setting.method]}
    makers = {name: partial(make_of_first, make, timed_lanes[name]) for name, make in PEERS[setting.method].items()}
    field = open_checked_peers(makers, problem, compare_weights, TOLERANCE)
    ours = our_adaptation(problem)
    rates = measure_rates(plan.device, quick=plan.quick)
    contenders = {OURS: ours, **field.peers}
    # No warm-up: everybody has just run once, to be compared.
    timings = time_paired(
        contenders,
        repetitions=plan.repetitions(REPETITIONS),
        warm_up=0,
        budget_s=BUDGET_S,
        device=plan.device,
        shares={name: timed / setting.lanes for name, timed in timed_lanes.items()},
    )
    settings = {"method": setting.method, "backbone": f"conv4-64 {setting.downsample}", "way": N_WAY, "shot": setting.shot}
    row = hold_to_limits(
        timings,
        settings | {"steps": setting.steps, "lanes": setting.lanes},
        setting.lanes * count_flops(setting, problem.backbone),
        setting.lanes * count_flops(setting, problem.backbone, as_written=True),
        rates,
        adaptations_per_s=setting.lanes / timings.median_s(OURS),
        timed_lanes={name: timed_lanes[name] for name in field.peers},
        differences=field.differences,
        differences_in_float32=field.in_float32,
    )
    return row, field.missing


def count_timed(name: str, lanes: int, device: str) -> int:
    """How many of the lanes a peer is timed on."""
    return min(lanes, VMAP_CHUNK[torch.device(device).type] if name in VMAPPED else LEAST_TIMED)


def make_of_first(make: Callable[[Problem], Any], tasks: int, problem: Problem) -> Any:
    """The contender on the first tasks of the problem."""
    return make(problem.take(tasks))


def compare_weights(problem: Problem, tolerance: float) -> Measure:
    """How far adapted weights of this problem are from ours."""
    expected, model = our_adaptation(problem)(), problem.make_plain()

    def compare(name: str, result: list[Params] | Params) -> float:
        weights = stack_weights(result) if isinstance(result, list) else result
        theirs = to_state(model, weights) if "head.weight" in weights else weights
        tasks = len(next(iter(theirs.values())))
        return check_weights(name, theirs, {tensor: value[:tasks] for tensor, value in expected.items()}, tolerance)

    return compare


def our_adaptation(problem: Problem) -> Callable[[], Params]:
    """The adapted state by the public call, less what is no weight."""

    def adapt() -> Params:
        state = problem.learner.adapt(problem.params, problem.episodes.support, problem.steps or None).state
        return {name: tensor for name, tensor in state.items() if tensor.is_floating_point() and name != TASK_CENTRE}

    return adapt


def count_flops(setting: Setting, backbone: Conv4, *, as_written: bool = False) -> int:
    """FLOPs of one lane."""
    n = N_WAY * setting.shot
    if setting.method == "maml":
        return count_maml(backbone, n, N_WAY, setting.steps, as_written=as_written)
    if setting.method == "anil":
        return count_anil(backbone, n, N_WAY, setting.steps)
    return count_ridge(backbone, n, N_WAY) if setting.method == "ridge" else count_forward(backbone, n)
