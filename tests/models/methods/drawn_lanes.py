"""Learners and ragged lanes for what C does to be held against torch with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import strategies as st

from models.backbones import Conv4
from models.support import Params, Support, make_support

Shots = tuple[int, ...]
"""How many examples of each class."""

backbones = st.fixed_dictionaries(
    {
        "downsample": st.sampled_from(["stride", "pool"]),
        "norm": st.sampled_from(["group", "layer", "none"]),
        "widths": st.sampled_from([[], [8, 16, 24, 8]]),
    }
)


def draw_params(learner: Any, seed: int, dtype: torch.dtype = torch.float64) -> Params:
    """Nothing is where it was initialised, rates least of all."""
    generator = torch.Generator().manual_seed(seed)
    return {name: (t + 0.05 * torch.randn(t.shape, generator=generator)).to(dtype) for name, t in learner.init(generator).items()}


def draw_tasks(
    tasks: Sequence[Shots], seed: int, shape: tuple[int, ...] = (1, 16, 16), dtype: torch.dtype = torch.float64
) -> list[Support]:
    """A lane each, the examples in no order."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shots: Shots) -> Support:
        targets = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
        targets = targets[torch.randperm(len(targets), generator=generator)]
        return make_support(torch.rand(len(targets), *shape, generator=generator, dtype=torch.float64).to(dtype), targets, len(shots))

    return [draw(shots) for shots in tasks]


def by_torch(call: Callable[[], Any]) -> Any:
    with patch.object(Conv4, "find_native", lambda self, inputs: None):
        return call()


def on_threads(threads: int, call: Callable[[], Any]) -> Any:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        return call()
    finally:
        torch.set_num_threads(before)
