"""How far eight and twelve bits a kernel's number move logits, beside the error that `models.kernel_bits` foresees for eight.

    python -m benchmarks.kernel_rounding --episodes 4

Of every bundled full fine-tune on Omniglot's test characters, which nothing is chosen by but the width of what is stored: for its own
number of steps, 20 and 50. Those of curves are held to a thousandth by `tests/models/test_state_format.py`. `moved` are the largest changes
of a logit, up to a constant for each query; `largest` is the largest logit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from torch import Tensor

from models import packed_weights, state_format
from models.artifact import Initializer, list_bundled, load_initializer
from models.episodes import EpisodeShape, open_episodes
from models.kernel_bits import MOST_ERROR, foresee_errors
from models.packed_weights import BITS
from models.serving import make_template
from models.state_format import StateFormat, describe_states
from models.support import State

SHAPES = ((5, 1), (5, 5), (20, 1))
STEPS = (None, 20, 50)


def foresee_error(format_: StateFormat, state: State) -> float:
    """What eight bits would do to its kernels, relative to the meta-parameters."""
    largest = [packed_weights.measure(packed_weights.read_lines(state[name], base), base) for name, base in format_.coarse.items()]
    return float(foresee_errors(torch.cat(largest).unsqueeze(0).numpy(), format_.weighed).item())


def read_logits(initializer: Initializer, state: State, queries: Tensor) -> Tensor:
    with torch.no_grad():
        logits = initializer.learner.predict(initializer.params, state, queries)
    return logits - logits.mean(-1, keepdim=True)


def round_state(format_: StateFormat, state: State, bits: int) -> State:
    with patch.object(state_format, "choose_bits", return_value=[bits]):
        return format_.decode(format_.encode(state)).state


def measure(initializer: Initializer, n_way: int, k_shot: int, steps: int | None, episodes: int) -> dict[str, Any]:
    """The worst of some episodes."""
    learner, params = initializer.learner, initializer.params
    format_, source = describe_states(make_template(learner, params), params), open_episodes("omniglot", "test")
    moved, foreseen, largest, few = dict.fromkeys(BITS, 0.0), 0.0, 0.0, 0
    for seed in range(episodes):
        episode = source.draw(EpisodeShape(n_way, k_shot, 1, 1), torch.Generator().manual_seed(seed))
        state = learner.adapt(params, episode.support, steps).state
        exact, error = read_logits(initializer, state, episode.query_inputs), foresee_error(format_, state)
        for bits in BITS:
            found = read_logits(initializer, round_state(format_, state, bits), episode.query_inputs)
            moved[bits] = max(moved[bits], float((found - exact).abs().max()))
        foreseen, largest, few = max(foreseen, error), max(largest, float(exact.abs().max())), few + (error <= MOST_ERROR)
    settings = {"n_way": n_way, "k_shot": k_shot, "steps": steps or learner.default_steps}
    return {**settings, "foreseen": foreseen, "moved": moved, "largest": largest, "share_in_eight_bits": few / episodes}


def list_fine_tunes() -> Iterator[tuple[str, Initializer]]:
    """The bundled initializers of Omniglot whose states have kernels."""
    for folder in list_bundled():
        initializer = load_initializer(folder)
        learner, params = initializer.learner, initializer.params
        if folder.name.startswith("omniglot") and describe_states(make_template(learner, params), params).coarse:
            yield folder.name, initializer


def main(episodes: Annotated[int, typer.Option(help="Episodes a setting.")] = 4) -> None:
    """Prints a line for each initializer and setting, and one JSON object."""
    rows = []
    for name, initializer in list_fine_tunes():
        for n_way, k_shot in SHAPES:
            for steps in STEPS:
                row = {"initializer": name, **measure(initializer, n_way, k_shot, steps, episodes)}
                eight, twelve = row["moved"].values()
                typer.echo(
                    f"{name} {n_way}-way {k_shot}-shot {row['steps']} steps: foreseen {row['foreseen']:.1e}, 8 bits {eight:.1e}, 12 bits "
                    f"{twelve:.1e}, logits up to {row['largest']:.2g}, {row['share_in_eight_bits']:.0%} get 8 bits"
                )
                rows.append(row)
    typer.echo(json.dumps({"benchmark": "kernel_rounding", "episodes": episodes, "most_error": MOST_ERROR, "rows": rows}))


if __name__ == "__main__":
    typer.run(main)
