"""CART: a hard decision tree (Breiman et al. 1984), fitted to one task by scikit-learn and kept as tensors, so that many are asked at once.

What a tree may ask about an example x, by `asks`:

- `margin`: how much nearer x is to the mean of class c than to the nearest other mean, (d' - d) / (d' + d) of the squared distances,
  and no more than a little: beyond `WIDEST_MARGIN` all margins are alike
- `distance`: the squared distance of x to the mean of class c
- `feature`: a number of the embedding

The first two are one question for each class of the task at hand; with the third a tree has to find what tells the classes apart in an
embedding that spreads it over all its numbers.

Which of two equally good splits wins depends on the order in which scikit-learn sees rows and columns. So they come in an order that no
caller chooses: by what examples and classes look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor

from models.methods.objectives import class_balanced_weights
from models.methods.protonet import class_means, squared_distances
from models.support import State, Support

Asks = Literal["margin", "distance", "feature"]

CLASS_MEAN, CLASS_MASK = "class.mean", "class.mask"
EXAMPLE_TARGET, EXAMPLE_SHARE, EXAMPLE_LEAF, EXAMPLE_MASK = "example.target", "example.share", "example.leaf", "example.mask"
NODE_ASKED, NODE_THRESHOLD, NODE_LOW, NODE_HIGH = "example.node_asked", "example.node_threshold", "example.node_low", "example.node_high"
WIDEST_MARGIN = 0.1
"""Every split that parts whole classes is as good as every other in the eyes of CART, also the one in the narrow gap between two others'
margins. Where those are all alike, the wide gap around zero is the only one left. With the bundled prototypes' embedding 20-way 2-shot is
9.2 % on validation classes without a limit, 97.7 % with one of 0.4, and 97.8 % with one of 0.1."""

NODES_PER_EXAMPLE = 2
"""A tree of n examples has at most n leaves, hence 2n - 1 nodes: two columns in the row of each example have room for all of them."""


@dataclass(frozen=True)
class Growth:
    """How far a tree may grow: at most `depth` questions in a row, and no leaf of fewer than `min_leaf` examples."""

    depth: int
    min_leaf: int


def grow_trees(asks: Asks, features: Tensor, support: Support, growths: Sequence[Growth]) -> State:
    """A tree for each lane, fitted to its features (lanes, n_support, d) as far as its `Growth` lets it; about 1 ms a lane, on the CPU.

    Classes weigh alike, whatever their shots. The state holds for each node what it asks and which node comes next (itself, for a leaf),
    and for each example the leaf that it fell into: what a leaf answers is read off its examples.
    """
    shares, means = class_balanced_weights(support, features.dtype), class_means(features, support)
    answers = _ask(asks, features, means, support.class_mask)
    sheets = [_Sheet.of_lane(lane, answers, _look(features), _look(means), shares, support) for lane in range(support.lanes)]
    room = support.inputs.shape[1]
    lanes = [_fit(sheet, growth, room, sort_columns=asks != "feature") for sheet, growth in zip(sheets, growths, strict=True)]
    fitted = {name: torch.from_numpy(np.stack([lane[name] for lane in lanes])).to(features.device) for name in lanes[0]}
    told = {EXAMPLE_TARGET: support.targets, EXAMPLE_MASK: support.mask, CLASS_MASK: support.class_mask}
    examples = {EXAMPLE_SHARE: shares, **{name: tensor.clone() for name, tensor in told.items()}}
    return {**fitted, **examples, **({} if asks == "feature" else {CLASS_MEAN: means})}


def find_leaves(asks: Asks, state: State, features: Tensor) -> Tensor:
    """The leaf that each query falls into, (lanes, n): one gather for each question on the longest way down."""
    answers = _ask(asks, features, state.get(CLASS_MEAN), state[CLASS_MASK])
    asked, threshold, low, high = (state[name].flatten(1) for name in (NODE_ASKED, NODE_THRESHOLD, NODE_LOW, NODE_HIGH))
    node = torch.zeros(features.shape[:2], dtype=torch.int64, device=features.device)
    while True:
        answer = answers.gather(2, asked.gather(1, node).unsqueeze(2)).squeeze(2)
        following = torch.where(answer <= threshold.gather(1, node), low.gather(1, node), high.gather(1, node))
        if torch.equal(following, node):
            return node
        node = following


def meet(state: State, leaves: Tensor) -> Tensor:
    """The class-balanced weight of each support example that a query meets in its leaf, else zero: (lanes, n, n_support)."""
    is_met = (leaves.unsqueeze(2) == state[EXAMPLE_LEAF].unsqueeze(1)) & state[EXAMPLE_MASK].unsqueeze(1)
    return state[EXAMPLE_SHARE].unsqueeze(1) * is_met


def leaf_frequencies(state: State, leaves: Tensor, smoothing: Tensor) -> Tensor:
    """Class frequencies in the leaf of each query, (lanes, n, max_way), after `smoothing` examples that are spread over all classes."""
    met = meet(state, leaves)
    real = state[CLASS_MASK].to(met.dtype).unsqueeze(1)
    members = met @ F.one_hot(state[EXAMPLE_TARGET], real.shape[2]).to(met.dtype)
    return (members + smoothing * real / real.sum(2, keepdim=True)) / (met.sum(2, keepdim=True) + smoothing)


def _ask(asks: Asks, features: Tensor, means: Tensor | None, class_mask: Tensor) -> Tensor:
    """What examples say to every question, (lanes, n, max_way) or, of their features, (lanes, n, d)."""
    if asks == "feature" or means is None:
        return features
    distances = squared_distances(features, means)
    return distances if asks == "distance" else _margins(distances, class_mask).clamp(-WIDEST_MARGIN, WIDEST_MARGIN)


def _margins(distances: Tensor, class_mask: Tensor) -> Tensor:
    """From squared distances to all class means (lanes, n, max_way), numbers in [-1, 1], above zero for the nearest class alone."""
    real = distances.masked_fill(~class_mask.unsqueeze(1), torch.inf)
    nearest = F.pad(real, (0, 1), value=torch.inf).topk(2, dim=-1, largest=False)
    is_nearest = F.one_hot(nearest.indices[..., 0], distances.shape[2] + 1)[..., :-1].bool()
    other = torch.where(is_nearest, nearest.values[..., 1:], nearest.values[..., :1])
    margins = (other - distances) / (other + distances).clamp(min=torch.finfo(distances.dtype).tiny)
    return torch.where(other.isinf(), torch.ones_like(margins), margins)  # a class that is alone is nearest


def _look(features: Tensor) -> Tensor:
    """A number that tells features (..., d) apart, the same for equal ones: their place along a direction of no meaning."""
    direction = torch.arange(1, features.shape[-1] + 1, device=features.device, dtype=torch.float64).cos()
    return (features.detach().double() * direction).sum(-1)


@dataclass(frozen=True)
class _Sheet:
    """One task as scikit-learn reads it: answers (n, columns), class of each row, weights, and what to order rows and classes by."""

    answers: NDArray[Any]
    targets: NDArray[Any]
    shares: NDArray[Any]
    looks: NDArray[Any]
    class_looks: NDArray[Any]

    @classmethod
    def of_lane(cls, lane: int, answers: Tensor, looks: Tensor, class_looks: Tensor, shares: Tensor, support: Support) -> _Sheet:
        """The real examples of a lane, which come before its padding. Answers have columns for padded classes too."""
        n, ways = int(support.mask[lane].sum()), int(support.class_mask[lane].sum())
        parts = answers[lane, :n], support.targets[lane, :n], shares[lane, :n], looks[lane, :n], class_looks[lane, :ways]
        return cls(*(part.detach().cpu().numpy() for part in parts))


def _fit(sheet: _Sheet, growth: Growth, room: int, *, sort_columns: bool) -> dict[str, NDArray[Any]]:
    """The fitted tree by the names of the state, with rows for as many examples as there is `room`."""
    classes = np.argsort(sheet.class_looks, kind="stable")
    rank = np.empty_like(classes)
    rank[classes] = np.arange(len(classes))
    rows = np.lexsort((sheet.looks, rank[sheet.targets]))
    columns = classes if sort_columns else np.arange(sheet.answers.shape[1])
    ordered = np.ascontiguousarray(sheet.answers[rows][:, columns], dtype=np.float32)
    # The variance of membership, summed over classes, is the Gini impurity; so this is the classification tree. Asked for that by name,
    # scikit-learn warns of few examples a class, which few-shot tasks always have, and Python cannot silence one thread alone.
    members = np.eye(len(classes))[rank[sheet.targets][rows]]
    tree = DecisionTreeRegressor(max_depth=growth.depth, min_samples_leaf=growth.min_leaf, random_state=0)
    tree.fit(ordered, members, sample_weight=sheet.shares[rows].astype(np.float64), check_input=False)
    leaves = np.zeros(room, dtype=np.int64)
    leaves[rows] = tree.apply(ordered, check_input=False)
    return {EXAMPLE_LEAF: leaves, **_encode(tree.tree_, columns, room)}


def _encode(tree: Any, columns: NDArray[Any], room: int) -> dict[str, NDArray[Any]]:
    """The nodes of a scikit-learn tree, as (room, 2); columns are named as the caller's classes are. A leaf is followed by itself."""
    is_leaf, own = tree.children_left < 0, np.arange(tree.node_count)
    nodes = {
        NODE_ASKED: np.where(is_leaf, 0, columns[np.where(is_leaf, 0, tree.feature)]),
        NODE_THRESHOLD: np.where(is_leaf, 0.0, tree.threshold),
        NODE_LOW: np.where(is_leaf, own, tree.children_left),
        NODE_HIGH: np.where(is_leaf, own, tree.children_right),
    }
    unused = room * NODES_PER_EXAMPLE - tree.node_count
    return {name: np.pad(values, (0, unused)).reshape(room, NODES_PER_EXAMPLE) for name, values in nodes.items()}
