"""Why linear heads on the sphere stay below prototypes on Omniglot: heads on one body, untrained, on the same validation episodes.

    python -m benchmarks.closed_form_heads --episodes 300

Each head is solved for every task on the features of `omniglot-protonet`. `difference` is to the prototypes, paired by episode, with a
95 % interval. The Gaussian kernel's width is a share of the mean squared distance within the support set.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from models.artifact import list_bundled, load_initializer
from models.episodes import EpisodeShape, open_episodes

Head = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Support features (n, d), query features, class indices (n,) and the number of ways, to scores (n_query, ways)."""

SETTINGS = ((5, 1), (20, 1), (20, 5))


def score_by_prototypes(support: Tensor, queries: Tensor, targets: Tensor, ways: int) -> Tensor:
    """Minus the squared distance to each class mean."""
    return -torch.cdist(queries, _means(support, targets, ways)).square()


def score_on_sphere(penalty: float, centre_weight: float) -> Head:
    """Ridge on unit vectors around the mean of the class means, which is drawn towards zero by `centre_weight` classes."""

    def score(support: Tensor, queries: Tensor, targets: Tensor, ways: int) -> Tensor:
        centre = _means(support, targets, ways).sum(0) / (ways + centre_weight)
        points, asked = (F.normalize(features - centre, dim=1) for features in (support, queries))
        return asked @ points.T @ _solve(points @ points.T, targets, ways, penalty)

    return score


def score_by_gaussian_kernel(penalty: float, width: float) -> Head:
    """Ridge in the space of a Gaussian kernel."""

    def score(support: Tensor, queries: Tensor, targets: Tensor, ways: int) -> Tensor:
        squares = torch.cdist(support, support).square()
        scale = squares[squares > 0].mean() * width
        kernel = torch.exp(-torch.cdist(queries, support).square() / scale)
        return kernel @ _solve(torch.exp(-squares / scale), targets, ways, penalty)

    return score


HEADS: dict[str, Head] = {
    "prototypes": score_by_prototypes,
    **{f"sphere, penalty {p:g}, centre weight {w:g}": score_on_sphere(p, w) for p in (3, 30, 100) for w in (1, 50)},
    **{f"gaussian, penalty {p:g}, width {w:g}": score_by_gaussian_kernel(p, w) for p in (0.1, 1, 10) for w in (0.1, 0.2, 0.5)},
}


def _means(support: Tensor, targets: Tensor, ways: int) -> Tensor:
    members = F.one_hot(targets, ways).to(support.dtype)
    return members.T @ support / members.sum(0).unsqueeze(1)


def _solve(kernel: Tensor, targets: Tensor, ways: int, penalty: float) -> Tensor:
    wanted = F.one_hot(targets, ways).to(kernel.dtype) - 1 / ways
    solved: Tensor = torch.linalg.solve(kernel + penalty * torch.eye(len(kernel), dtype=kernel.dtype), wanted)
    return solved


def measure(n_way: int, k_shot: int, episodes: int) -> list[dict[str, Any]]:
    """Accuracy (percent) of each head, and its difference to the prototypes."""
    folder = next(folder for folder in list_bundled() if folder.name == "omniglot-protonet")
    initializer, source = load_initializer(folder), open_episodes("omniglot", "validation")
    generator, hits = torch.Generator().manual_seed(5), np.zeros((len(HEADS), episodes))
    for episode in range(episodes):
        batch = source.draw(EpisodeShape(n_way, k_shot, 3, 1), generator)
        with torch.no_grad():
            inputs = (batch.support.inputs, batch.query_inputs)
            support, queries = (initializer.learner.embed(initializer.params, each)[0].double() for each in inputs)  # type: ignore[attr-defined]
            for index, head in enumerate(HEADS.values()):
                answers = head(support, queries, batch.support.targets[0], n_way).argmax(1)
                hits[index, episode] = 100 * float((answers == batch.query_targets[0]).double().mean())
    return [_summarise(name, n_way, k_shot, hits[index], hits[0]) for index, name in enumerate(HEADS)]


def _summarise(name: str, n_way: int, k_shot: int, hits: Any, reference: Any) -> dict[str, Any]:
    gap = hits - reference
    ci95 = 1.96 * gap.std() / math.sqrt(len(gap))
    figures = {"accuracy": round(hits.mean(), 2), "difference": round(gap.mean(), 2), "ci95": round(ci95, 2)}
    return {"head": name, "n_way": n_way, "k_shot": k_shot, **figures}


def main(episodes: Annotated[int, typer.Option(help="Validation episodes a setting.")] = 300) -> None:
    """Prints a line for each head and setting, and one JSON object."""
    rows = [row for n_way, k_shot in SETTINGS for row in measure(n_way, k_shot, episodes)]
    for row in rows:
        typer.echo(
            f"{row['n_way']:2}-way {row['k_shot']}-shot {row['accuracy']:.2f} {row['difference']:+.2f} +- {row['ci95']:.2f}  {row['head']}"
        )
    typer.echo(json.dumps({"benchmark": "closed_form_heads", "episodes": episodes, "rows": rows}))


if __name__ == "__main__":
    typer.run(main)
