"""Heads in closed form in C, where the network is: prototypes, and ridge regression on the sphere (`models/native/closed.h`).

One call finds features, head and support loss of all lanes. In torch the head of one lane took a dozen small operators, longer than
the convolutions under it. Torch stays the reference, and the way where gradients are wanted, on other devices and for other kernels.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from models.backbones import Backbone, runs_in_c
from models.backbones.conv4_native import close_gaps, count_parts
from models.native.library import ClosedTask, find_team, list_addresses
from models.support import Params, Support

NO_MEMORY = 1
"""What `solve` of conv4.c says then. Where it finds no head for another reason, torch has words for it, or finds one."""


MOST_BY_GAUSSIAN = 1024
"""Examples of a lane that a Gaussian kernel compares in C. With 1,000 a lane takes 44 to 51 ms in place of 67 to 71 (two cores of an AMD
EPYC, 2026-11-21); of more the equations outgrow every cache, and torch solves them in blocks."""


@dataclass(frozen=True)
class SphereRidge:
    """Ridge regression around each task's centre, as `models.methods.head_space.Sphere` poses it.

    middle: (d,) what centres are drawn towards, by the weight of so many classes
    """

    middle: Tensor
    middle_weight: float
    penalty: float
    sharpness: float


@dataclass(frozen=True)
class GaussianRidge:
    """The same by a Gaussian kernel, as `Gaussian` poses it. spread: the share of the mean squared distance that is one."""

    spread: float
    penalty: float
    sharpness: float


ClosedHead = SphereRidge | GaussianRidge | None
"""None: prototypes."""


@dataclass(frozen=True)
class Solved:
    """features (lanes, n_support, d), zeros for padding; loss and accuracy (lanes, 1); and the heads.

    rows: (lanes, max_way, d), or of a Gaussian kernel its examples, (lanes, n_support, d), and their `duals` (lanes, n_support, max_way)
    frame: (lanes, d), the centres on the sphere, or (lanes, 1), the units of a Gaussian kernel
    """

    rows: Tensor
    frame: Tensor
    duals: Tensor
    features: Tensor
    loss: Tensor
    accuracy: Tensor


def solve_natively(backbone: Backbone, params: Params, support: Support, *, prefix: str, head: ClosedHead = None) -> Solved | None:
    """Each lane's head; None where that is not for C to find, or no C is there.
    prefix: of the backbone's names in `params`. Raises MemoryError, ValueError."""
    inputs, (lanes, n), width = support.inputs, support.mask.shape, backbone.feature_dim
    if not runs_in_c(backbone) or not lanes or not n or (network := backbone.find_native(inputs)) is None:
        return None
    if isinstance(head, GaussianRidge) and n > MOST_BY_GAUSSIAN:
        return None
    images, targets, mask, class_mask = close_gaps(support)
    rows = network.find_rows([params[prefix + name] for name in backbone.parameter_names], images)
    addresses, found = list_addresses(rows), _make_room(support, width, head)
    middle = head.middle.to(images).contiguous() if isinstance(head, SphereRidge) else None
    task = ClosedTask(
        *(network.blocks_address, len(network.blocks), lanes, n, support.max_way, _HEADS[type(head)]),
        *_list_figures(head),
        *(images.data_ptr(), targets.data_ptr(), mask.data_ptr(), class_mask.data_ptr()),
        *(ctypes.addressof(addresses), None if middle is None else middle.data_ptr()),
        *(tensor.data_ptr() for tensor in (found.features, found.rows, found.frame, found.duals, found.loss, found.accuracy)),
    )
    failure = network.library.solve(ctypes.byref(task), count_parts(lanes, n), torch.get_num_threads(), find_team())
    if failure == NO_MEMORY:
        raise MemoryError(f"no memory for the heads of {lanes} lanes")
    return None if failure else found


_HEADS = {type(None): 0, SphereRidge: 1, GaussianRidge: 2}


def _list_figures(head: ClosedHead) -> tuple[float, float, float, float]:
    """The weight of the middle, the share of the spread, the penalty, the sharpness."""
    if isinstance(head, SphereRidge):
        return head.middle_weight, 0.0, head.penalty, head.sharpness
    return (0.0, head.spread, head.penalty, head.sharpness) if head else (0.0, 0.0, 0.0, 1.0)


def _make_room(support: Support, width: int, head: ClosedHead) -> Solved:
    (lanes, n), ways, new_empty = support.mask.shape, support.max_way, support.inputs.new_empty
    by_example = isinstance(head, GaussianRidge)
    return Solved(
        rows=new_empty(lanes, n if by_example else ways, width),
        frame=new_empty(lanes, 1 if by_example else width if head else 0),
        duals=new_empty(lanes, n if by_example else 0, ways),
        features=new_empty(lanes, n, width),
        loss=new_empty(lanes, 1),
        accuracy=new_empty(lanes, 1),
    )
