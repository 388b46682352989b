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
from models.backbones.conv4_native import count_parts
from models.native.library import ClosedTask, find_team, list_addresses
from models.support import Params, Support

NO_MEMORY = 1
"""What `solve` of conv4.c says then. Where it finds no head for another reason, torch has words for it, or finds one."""


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
class Solved:
    """rows (lanes, max_way, d) of each head, features (lanes, n_support, d), zeros for padding; loss and accuracy (lanes, 1).
    centres (lanes, d), for a head on the sphere; else empty."""

    rows: Tensor
    centres: Tensor
    features: Tensor
    loss: Tensor
    accuracy: Tensor


def solve_natively(backbone: Backbone, params: Params, support: Support, *, prefix: str, ridge: SphereRidge | None = None) -> Solved | None:
    """Each lane's ridge regression, or its prototypes; None where that is not for C to find, or no C is there.
    prefix: of the backbone's names in `params`. Raises MemoryError, ValueError."""
    inputs, (lanes, n), width = support.inputs, support.mask.shape, backbone.feature_dim
    if not runs_in_c(backbone) or not lanes or not n or (network := backbone.find_native(inputs)) is None:
        return None
    read = [inputs, support.targets, support.mask, support.class_mask]
    images, targets, mask, class_mask = (tensor if tensor.is_contiguous() else tensor.contiguous() for tensor in read)
    rows = network.find_rows([params[prefix + name] for name in backbone.parameter_names], images)
    addresses = list_addresses(rows)
    found = Solved(
        images.new_empty(lanes, support.max_way, width),
        images.new_empty(lanes, width if ridge else 0),
        images.new_empty(lanes, n, width),
        images.new_empty(lanes, 1),
        images.new_empty(lanes, 1),
    )
    middle = ridge.middle.to(images).contiguous() if ridge else None
    task = ClosedTask(
        *(network.blocks_address, len(network.blocks), lanes, n, support.max_way, ridge is not None),
        *((ridge.middle_weight, ridge.penalty, ridge.sharpness) if ridge else (0.0, 0.0, 1.0)),
        *(images.data_ptr(), targets.data_ptr(), mask.data_ptr(), class_mask.data_ptr()),
        *(ctypes.addressof(addresses), middle.data_ptr() if middle is not None else None),
        *(tensor.data_ptr() for tensor in (found.features, found.rows, found.centres, found.loss, found.accuracy)),
    )
    failure = network.library.solve(ctypes.byref(task), count_parts(lanes, n), torch.get_num_threads(), find_team())
    if failure == NO_MEMORY:
        raise MemoryError(f"no memory for the heads of {lanes} lanes")
    return None if failure else found
