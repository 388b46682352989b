"""Inner loops over Conv-4 and a linear class head, whole, in one call into C (`models/native/descent.h`): no step comes back to Python.

The steps of `models.methods.inner_loop` are the reference, and the way of every method, backbone and device that is not served here.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.backbones.conv4_native import Network, close_gaps, to_rows
from models.native.library import DescentTask, find_team, list_addresses
from models.support import Params, Support

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class StepRates:
    """How far each step moves each tensor: the network's in its own order, and behind them the head's weight and bias.

    by_step: (steps, tensors), zero where the step does not move the tensor. factors: (tensors,) of each number's rate, shaped as the tensor
    (as one row of the head's weight; never for its bias), where a tensor has such
    """

    by_step: Array
    factors: Sequence[Tensor | None]


@dataclass(frozen=True)
class Descended:
    """Where inner loops ended. body: (lanes, ...) of each name that may move. features: of the support set by the body they began with.
    loss, accuracy: (lanes, most steps + 1); what follows a lane's last one is that one."""

    body: Params
    weight: Tensor
    bias: Tensor
    features: Tensor
    loss: Tensor
    accuracy: Tensor


@dataclass(frozen=True)
class Descent:
    """A network, and the names of its parameters in its own order."""

    network: Network
    names: Sequence[str]

    def run(
        self,
        body: Sequence[Tensor],
        head: tuple[Tensor, Tensor] | None,
        support: Support,
        steps: Sequence[int],
        rates: StepRates,
        *,
        moving: Sequence[str],
        feature_scale: float,
        divides_body: bool,
    ) -> Descended:
        """Every lane after its own number of steps on the class-balanced cross entropy of its support set, without a gradient.

        body: in the order of `names`, shared by all lanes; of it `moving` may move. head: where weight (lanes, max_way, d) and bias
        (lanes, max_way) start; None for the classifier by prototypes. divides_body: its gradient by the ways. Raises MemoryError, and
        ValueError where a tensor is not what it should be.
        """
        (lanes, n), columns = support.mask.shape, max(steps, default=0) + 1
        read = close_gaps(support)
        images, width, new_empty = read[0], self.network.feature_dim, support.inputs.new_empty
        features, loss, accuracy = new_empty(lanes, n, width), new_empty(lanes, columns), new_empty(lanes, columns)
        rows = self.network.find_rows(body, images)
        places = {name: self._make_place(images, at) for at, name in enumerate(self.names) if name in moving}
        weight, bias = _start_head(head, images, (lanes, support.max_way, width))
        factors = [None if each is None else to_rows(each) for each in rates.factors]
        counts, by_step = (ctypes.c_int * lanes)(*steps), np.ascontiguousarray(rates.by_step, np.float64)
        tables = [list_addresses(tensors) for tensors in (factors, rows, [places.get(name) for name in self.names])]
        task = DescentTask(
            *(self.network.blocks_address, len(self.network.blocks)),
            *(lanes, n, support.max_way, columns - 1, divides_body, head is None, feature_scale),
            *(tensor.data_ptr() for tensor in read),
            *(ctypes.addressof(counts), by_step.ctypes.data),
            *map(ctypes.addressof, tables),
            *(tensor.data_ptr() for tensor in (weight, bias, features, loss, accuracy)),
        )
        _check(self.network.library.descend(ctypes.byref(task), torch.get_num_threads(), find_team()), lanes)
        return Descended(places, weight, bias, features, loss, accuracy)

    def _make_place(self, images: Tensor, at: int) -> Tensor:
        """Room for a parameter of each lane, in memory as the C writes it."""
        shape, strides = self.network.shapes[at], self.network.strides[at]
        return images.new_empty_strided((len(images), *shape), (math.prod(shape), *strides))


def _start_head(head: tuple[Tensor, Tensor] | None, images: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Weight and bias to be written to: copies of where the head starts, or room for it. Raises ValueError."""
    if head is None:
        return images.new_zeros(shape), images.new_zeros(shape[:2])
    if head[0].shape != shape or head[1].shape != shape[:2] or any(tensor.dtype is not images.dtype for tensor in head):
        found = [(tensor.dtype, tuple(tensor.shape)) for tensor in head]
        raise ValueError(f"the head starts from {found}, expected {images.dtype} {shape} and {shape[:2]}")
    weight, bias = (tensor.clone(memory_format=torch.contiguous_format) for tensor in head)
    return weight, bias


def _check(failure: int, lanes: int) -> None:
    if failure == 1:
        raise MemoryError(f"no memory for the inner loops of {lanes} lanes")
    if failure:
        raise ValueError("a support set's real examples and classes must come first, and every example be of a class that is there")
