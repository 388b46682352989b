"""A golden episode: a small, fixed support set and the outputs that an initializer gave for it when it was saved.

Weights whose digest holds can still be served wrongly: by a changed learner, an operator with other semantics, a
device with coarse arithmetic. Replaying the episode at load time tells.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.errors import CheckpointCorrupt
from models.learner import Learner
from models.support import Params, Support, make_support

TOLERANCE = 1e-3
SEED = 20170303  # the day MAML was posted; any number would do
K_SHOT, N_QUERY, MAX_WAY = 2, 3, 5


def record_golden(learner: Learner, params: Params, max_way: int) -> dict[str, Any]:
    """The golden episode of an initializer, as it goes into the card."""
    golden: dict[str, Any] = {
        "seed": SEED,
        "n_way": min(MAX_WAY, max_way) if learner.kind == "classification" else 0,
        "k_shot": K_SHOT,
        "n_query": N_QUERY,
        "steps": learner.default_steps,
    }
    golden["outputs"] = replay_golden(learner, params, golden).tolist()
    return golden


def replay_golden(learner: Learner, params: Params, golden: dict[str, Any]) -> Tensor:
    """Outputs (n_query, max_way or n_out) of the golden episode, on the device of `params`, returned on the CPU."""
    device = next(iter(params.values())).device
    support, queries = _make_episode(learner, golden)
    support, queries = support.to(device), queries.to(device)
    adaptation = learner.adapt(params, support, golden["steps"])
    with torch.no_grad():
        return learner.predict(params, adaptation.state, queries)[0].cpu()


def check_golden(learner: Learner, params: Params, golden: dict[str, Any]) -> None:
    """Raises CheckpointCorrupt unless the outputs are the recorded ones within 1e-3, absolute or relative."""
    try:
        expected = torch.tensor(golden["outputs"], dtype=torch.float32)
        outputs = replay_golden(learner, params, golden)
    except (KeyError, TypeError, ValueError) as fault:
        raise CheckpointCorrupt(f"card.golden must hold seed, n_way, k_shot, n_query, steps and outputs: {fault!r}") from fault
    if outputs.shape != expected.shape:
        raise CheckpointCorrupt(f"the golden episode gives outputs {tuple(outputs.shape)}; the card records {tuple(expected.shape)}")
    if not torch.allclose(outputs, expected, rtol=TOLERANCE, atol=TOLERANCE):
        worst = (outputs - expected).abs().max().item()
        raise CheckpointCorrupt(f"the golden episode is off by {worst:.2e}; at most {TOLERANCE:.0e} was expected")


def _make_episode(learner: Learner, golden: dict[str, Any]) -> tuple[Support, Tensor]:
    generator = torch.Generator().manual_seed(golden["seed"])
    n_way, k_shot, n_query = golden["n_way"], golden["k_shot"], golden["n_query"]
    if learner.kind == "regression":
        inputs = torch.rand(5 * k_shot + n_query, *learner.input_shape, generator=generator) * 2 - 1
        n_out = _count_outputs(learner)
        targets = torch.sin(3 * inputs.flatten(1).sum(1, keepdim=True)).expand(-1, n_out)
        return make_support(inputs[n_query:], targets[n_query:].contiguous()), inputs[:n_query].unsqueeze(0)
    patterns = torch.rand(n_way, *learner.input_shape, generator=generator) > 0.5
    targets = torch.arange(n_way).repeat_interleave(k_shot)
    wanted = torch.arange(n_query) % n_way
    noise = torch.rand(len(targets) + n_query, *learner.input_shape, generator=generator)
    inputs = 0.7 * patterns[torch.cat([targets, wanted])] + 0.3 * noise
    return make_support(inputs[: len(targets)], targets, n_way), inputs[len(targets) :].unsqueeze(0)


def _count_outputs(learner: Learner) -> int:
    return int(getattr(learner, "n_out", 1))
