"""Conv-4 in C for CPUs (`models/native`): features, their gradient, and the gradient of that, under shared or per-lane parameters.

Autograd over torch's convolutions is the reference (`tests/models/backbones/test_conv4_native.py`), and the way on every other device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.native.library import find_team
from models.support import Support

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class BlockPlan:
    """A convolution at `stride` from `c_in` maps of size_in to `c_out` of `size`, normalisation in `groups` (0: none), 2x2 pooling."""

    stride: int
    size_in: tuple[int, int]
    size: tuple[int, int]
    c_in: int
    c_out: int
    groups: int
    pools: bool


@dataclass(frozen=True)
class Network:
    """The blocks of a Conv-4 and the library that runs them. Parameters come as kernel, scale and shift of each block.

    shapes: of a lane's parameters. strides: theirs, where they lie in memory as `conv4.c` reads them.
    """

    library: ctypes.CDLL
    blocks: Array
    shapes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    feature_dim: int

    def features(self, images: Tensor, params: Sequence[Tensor]) -> Tensor:
        """(lanes, n, c, h, w) to (lanes, n, feature_dim); params ([lanes,] ...). Twice differentiable in these. Raises ValueError."""
        laned = [param.dim() > len(shape) for param, shape in zip(params, self.shapes, strict=True)]
        for param, has_lanes, shape in zip(params, laned, self.shapes, strict=True):
            _check(param, images, (len(images), *shape) if has_lanes else shape)
        if torch.is_grad_enabled() and any(param.requires_grad for param in params):
            features, _ = _Features.apply(self, images.contiguous(), *params)  # type: ignore[no-untyped-call]
            return cast(Tensor, features)
        return self._look(images.contiguous(), params, laned)

    def _look(self, images: Tensor, params: Sequence[Tensor], laned: Sequence[bool]) -> Tensor:
        """The features in one call that keeps nothing for a derivative; parameters that were laid out are read where they lie."""
        lanes, n = images.shape[:2]
        laid = [param.stride()[-len(strides) :] == strides for param, strides in zip(params, self.strides, strict=True)]
        rows = [param if is_laid else to_rows(param) for param, is_laid in zip(params, laid, strict=True)]
        features = images.new_empty(lanes, n, self.feature_dim)
        self.call("run", lanes, n, _point(rows, lanes, laned), images, None, features, count_parts(lanes, n))
        return features

    def find_rows(self, params: Sequence[Tensor], images: Tensor) -> list[Tensor]:
        """Parameters without a lane axis, in memory as the C reads them: those themselves that were laid out so. Raises ValueError."""
        for param, shape in zip(params, self.shapes, strict=True):
            _check(param, images, shape)
        return [param if param.stride() == strides else to_rows(param) for param, strides in zip(params, self.strides, strict=True)]

    @cached_property
    def blocks_address(self) -> int:
        """Where the C finds the blocks."""
        return int(self.blocks.ctypes.data)

    def call(self, name: str, lanes: int, n: int, *arguments: Tensor | Array | bytes | int | None) -> None:
        """A function of the library. Raises MemoryError."""
        function, addresses = getattr(self.library, name), [_address(argument) for argument in arguments]
        if function(self.blocks_address, len(self.blocks), lanes, n, *addresses, torch.get_num_threads(), find_team()):
            raise MemoryError(f"no memory for the scratch of {lanes} lanes of {n} examples")


def count_parts(lanes: int, n: int) -> int:
    """Examples that a thread takes at once: all of a lane, unless there are threads without one."""
    return -(-n // -(-torch.get_num_threads() // max(1, lanes))) or 1


def close_gaps(support: Support) -> list[Tensor]:
    """Inputs, targets, mask and mask of classes as the C reads them; `contiguous` would take a microsecond for nothing."""
    read = (support.inputs, support.targets, support.mask, support.class_mask)
    return [tensor if tensor.is_contiguous() else tensor.contiguous() for tensor in read]


def make_network(library: ctypes.CDLL, plans: Sequence[BlockPlan], feature_dim: int) -> Network:
    """The plans as `conv4.c` reads them."""
    rows = [[plan.stride, *plan.size_in, *plan.size, plan.c_in, plan.c_out, plan.groups, int(plan.pools)] for plan in plans]
    shapes = tuple(shape for plan in plans for shape in ((plan.c_out, plan.c_in, 3, 3), (plan.c_out,), (plan.c_out,)))
    kernels = [(1, plan.c_out, 3 * plan.c_in * plan.c_out, plan.c_in * plan.c_out) for plan in plans]
    strides = tuple(each for kernel in kernels for each in (kernel, (1,), (1,)))
    return Network(library, np.array(rows, dtype=np.int32), shapes, strides, feature_dim)


def lay_out(kernel: Tensor) -> Tensor:
    """The same kernel ([lanes,] c_out, c_in, 3, 3), in memory the way it is multiplied with, else every call would copy it."""
    order, back = ((2, 3, 1, 0), (3, 2, 0, 1)) if kernel.dim() == 4 else ((0, 3, 4, 2, 1), (0, 4, 3, 1, 2))
    return kernel.permute(order).contiguous().permute(back)


@dataclass(frozen=True)
class _Push:
    """How a run changes when its parameters move: up to its features, and what the way back needs. kept: by `pull`; tangents: of traces."""

    upstream: Tensor
    kept: Sequence[Tensor]
    directions: Sequence[Tensor]
    tangents: Sequence[Tensor]
    features: Tensor


class _Pass:
    """One run over a batch: what the passes back need of it. It owns the memory that its pointers point to."""

    def __init__(self, network: Network, images: Tensor, params: Sequence[Tensor], *, keep: bool) -> None:
        self.network, self.lanes, self.n = network, images.shape[0], images.shape[1]
        self.shared = [param.dim() == len(shape) for param, shape in zip(params, network.shapes, strict=True)]
        self.rows = [to_rows(param) for param in params]
        self.pointers = _point(self.rows, self.lanes)
        self._traces = self._make_room("trace_size", images) if keep else []
        self.traces = _point_each(self._traces) if keep else None
        self.features = images.new_empty(self.lanes, self.n, network.feature_dim)
        self._call("run", self.pointers, images, self.traces, self.features, count_parts(self.lanes, self.n))
        self.pulls = 0
        self.open: _Push | None = None

    def pull(self, upstream: Tensor, *, keep: bool) -> tuple[list[Tensor], list[Tensor]]:
        """The gradient in each parameter from that in the features; and, to `keep`, those in the maps of each lane."""
        self.pulls += 1
        found, kept = self._like_rows(), self._make_room("kept_size", upstream) if keep else []
        places = _point_each(kept) if keep else None
        self._call("pull", self.pointers, self.traces, upstream.contiguous(), places, _point(found, self.lanes))
        return self._from_rows(found), kept

    def push(self, upstream: Tensor, kept: Sequence[Tensor], directions: Sequence[Tensor]) -> _Push:
        """How the features change when the parameters move along `directions`; how what `pull(upstream)` finds does, `push_back` says."""
        rows, features = [to_rows(direction) for direction in directions], torch.empty_like(self.features)
        tangents = self._make_room("trace_size", upstream)
        self._call("push", self.pointers, _point(rows, self.lanes), self.traces, _point_each(tangents), features)
        return _Push(upstream.detach().contiguous(), kept, rows, tangents, features)

    def push_back(self, push: _Push, upstream_dot: Tensor | None) -> list[Tensor]:
        """How what `pull` finds for the push's upstream changes where that moves itself by `upstream_dot`, if it does."""
        found, directions = self._like_rows(), _point(push.directions, self.lanes)
        read = (self.traces, _point_each(push.tangents), _point_each(push.kept), push.upstream)
        moves = None if upstream_dot is None else upstream_dot.contiguous()
        self._call("push_back", self.pointers, directions, *read, moves, _point(found, self.lanes))
        return self._from_rows(found)

    def _make_room(self, sized_by: str, like: Tensor) -> list[Tensor]:
        """For what the C keeps of each lane; one by one, for a single block for a large batch would be memory fresh from the system in
        every step, and fresh pages cost."""
        size = getattr(self.network.library, sized_by)(self.network.blocks_address, len(self.network.blocks), self.n)
        return [like.new_empty(1, size) for _ in range(self.lanes)]

    def _call(self, name: str, *arguments: Tensor | Array | int | None) -> None:
        self.network.call(name, self.lanes, self.n, *arguments)

    def _like_rows(self) -> list[Tensor]:
        return [rows.new_empty(self.lanes, *rows.shape[1:]) for rows in self.rows]

    def _from_rows(self, found: Sequence[Tensor]) -> list[Tensor]:
        """As the parameters are shaped: a shared one hears of all lanes."""
        shaped = [_from_rows(rows) for rows in found]
        return [tensor.sum(0) if is_shared else tensor for tensor, is_shared in zip(shaped, self.shared, strict=True)]


class _Features(torch.autograd.Function):
    """The features; backward is `_Gradients`, so that it can be differentiated itself.

    Beside them comes an empty tensor that the gradients depend on too. It has a gradient where they were differentiated on this very way
    back and their push is open: what else comes back to the features goes down with it. By itself it would take two more products a layer.
    """

    @staticmethod
    def forward(ctx: Any, network: Network, images: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        ctx.run = _Pass(network, images, [param.detach() for param in params], keep=any(ctx.needs_input_grad))
        ctx.set_materialize_grads(False)
        link = images.new_empty(0)
        ctx.save_for_backward(link, *params)
        return ctx.run.features, link

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, is_open: Tensor | None) -> Any:
        if is_open is not None:
            push, ctx.run.open = ctx.run.open, None
            return None, None, *_Rest.apply(ctx.run, push, upstream, is_open)  # type: ignore[no-untyped-call]
        if upstream is None:
            return (None,) * len(ctx.needs_input_grad)
        return None, None, *_Gradients.apply(ctx.run, torch.is_grad_enabled(), upstream, *ctx.saved_tensors)  # type: ignore[no-untyped-call]


class _Gradients(torch.autograd.Function):
    """The parameters' gradients as a function of the features' and of the parameters."""

    @staticmethod
    def forward(ctx: Any, run: _Pass, keep: bool, upstream: Tensor, link: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        ctx.run, ctx.leaves_open = run, not run.pulls  # a second one would write over what the first has left
        ctx.save_for_backward(upstream)
        gradients, ctx.kept = run.pull(upstream, keep=keep)
        return tuple(gradients)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *directions: Tensor) -> Any:
        push = ctx.run.push(*ctx.saved_tensors, ctx.kept, directions)
        if not ctx.leaves_open:
            return None, None, push.features, None, *ctx.run.push_back(push, None)
        ctx.run.open = push
        return None, None, push.features, push.features.new_empty(0), *[None] * len(directions)


class _Rest(torch.autograd.Function):
    """How these gradients change, and the gradients themselves of what else came back to the features; not differentiable."""

    @staticmethod
    def forward(ctx: Any, run: _Pass, push: _Push, upstream: Tensor | None, _: Tensor) -> tuple[Tensor, ...]:
        return tuple(run.push_back(push, upstream))


def _check(param: Tensor, images: Tensor, shape: tuple[int, ...]) -> None:
    """What the C is handed must be what it takes it for: it would read whatever memory is there. Raises ValueError."""
    if param.shape != shape or param.dtype is not images.dtype or not param.is_cpu:
        found = f"{param.dtype} {tuple(param.shape)} on {param.device}"
        raise ValueError(f"a parameter is {found}, expected {images.dtype} {shape} on cpu")


def to_rows(param: Tensor) -> Tensor:
    """A kernel ([lanes,] c_out, c_in, 3, 3) as (lanes or 1, 9 * c_in, c_out), a scale or shift as (lanes or 1, c_out), each lane whole."""
    laned = param.unsqueeze(0) if param.dim() in (1, 4) else param
    laned = laned[:1] if laned.stride(0) == 0 else laned  # expanded: the same for all lanes
    rows = laned.permute(0, 3, 4, 2, 1).flatten(1, 3) if laned.dim() == 5 else laned
    return rows if rows[0].is_contiguous() else rows.contiguous()


def _from_rows(rows: Tensor) -> Tensor:
    """(lanes, 9 * c_in, c_out) as the view (lanes, c_out, c_in, 3, 3); scales and shifts as they are."""
    if rows.dim() == 2:
        return rows
    lanes, nine_c, c_out = rows.shape
    return rows.view(lanes, 3, 3, nine_c // 9, c_out).permute(0, 4, 3, 1, 2)


def _point(tensors: Sequence[Tensor], lanes: int, laned: Sequence[bool] | None = None) -> Array:
    """For each lane the addresses of its part of each tensor (lanes or 1, ...), or of the whole where that is not `laned`."""
    pointers = np.empty((lanes, len(tensors)), dtype=np.int64)
    pointers[:] = [tensor.data_ptr() for tensor in tensors]
    for place, tensor in enumerate(tensors):
        if lanes > 1 and (laned is None or laned[place]) and tensor.shape[0] > 1:
            pointers[:, place] += np.arange(lanes) * (tensor.stride(0) * tensor.element_size())
    return pointers


def _point_each(tensors: Sequence[Tensor]) -> Array:
    """The addresses of tensors that are a lane's each."""
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)


def _address(argument: Tensor | Array | bytes | int | None) -> bytes | int | None:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return argument.ctypes.data if isinstance(argument, np.ndarray) else argument
