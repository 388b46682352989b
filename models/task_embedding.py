"""A task as one vector: the mean and the standard deviation of its support set's features, blind to the labels.

The Euclidean distance of two such vectors is the 2-Wasserstein distance of the two normal distributions with these means and diagonal
covariances (Dowson & Landau 1982; Peyre & Cuturi 2019, arXiv:1803.00567, remark 2.31). Like Task2Vec (Achille et al. 2019,
arXiv:1902.03545) it does not depend on which classes there are nor on their order, and it costs one forward instead of a Fisher matrix.
For regression the labels are what tasks differ in, so the mean of feature times target is a third part; with it the distance is
Euclidean and no longer Wasserstein's alone.
"""

from __future__ import annotations

import math
from ctypes import CDLL

import numpy as np
import torch
from torch import Tensor

from models.learner import Embeds, Learner
from models.native.library import find_any_library
from models.support import Params, Support


def embed_tasks(learner: Learner, params: Params, support: Support) -> Tensor | None:
    """(lanes, n_parts * d): centre, spread, and for regression feature x target per output; None when the learner embeds nothing.

    Every number is divided by sqrt(d), the width of the features: so a distance is a root mean square over features, and those of
    initializers of different width are of the same order. Padding changes nothing. One forward; no graph is kept.
    """
    if not isinstance(learner, Embeds):
        return None
    with torch.no_grad():
        return describe_features(learner.embed(params, support.inputs), support)


def describe_features(features: Tensor, support: Support) -> Tensor:
    """(lanes, n_parts * d) of features (lanes, n_support, d), over the real examples of each lane."""
    library = _find_library(features, support)
    return (
        _describe(features, support) if library is None else _describe_natively(library, features.contiguous(), support.mask.contiguous())
    )


def _find_library(features: Tensor, support: Support) -> CDLL | None:
    """What describes them in one call: of one lane torch takes 22 us for a dozen, beside a cold cache twice that; None where torch does."""
    if not features.is_cpu or features.requires_grad or not support.max_way:
        return None
    return find_any_library(features.dtype)


def _describe_natively(library: CDLL, features: Tensor, mask: Tensor) -> Tensor:
    lanes, n, width = features.shape
    described = features.new_empty(lanes, 2 * width)
    library.describe(features.data_ptr(), mask.data_ptr(), lanes, n, width, described.data_ptr())
    return described


def _describe(features: Tensor, support: Support) -> Tensor:
    """The same in torch, which is the reference."""
    mask = support.mask.to(features.dtype)
    weights = (mask / mask.sum(1, keepdim=True)).unsqueeze(1)  # (lanes, 1, n_support)
    features = features.where(support.mask.unsqueeze(2), 0)
    centre = torch.bmm(weights, features)
    spread = _find_roots(torch.bmm(weights, (features - centre).square()))
    parts = [centre.squeeze(1), spread.squeeze(1)]
    if support.max_way == 0:
        targets = support.targets.to(features.dtype).where(support.mask.unsqueeze(2), 0)
        parts.append(torch.bmm((weights.mT * targets).mT, features).flatten(1))
    return torch.cat(parts, 1) / math.sqrt(features.shape[2])


def _find_roots(squares: Tensor) -> Tensor:
    """On a CPU numpy's: torch's are MKL's, which wait for all threads even for 256 numbers, up to 8 ms where others have a core."""
    return torch.from_numpy(np.sqrt(squares.numpy())) if squares.is_cpu and not squares.requires_grad else squares.sqrt()
