"""Support sets as batched tensors: many tasks' labelled examples, padded and masked into lanes.

A *lane* is one task's slot in a batch. Ragged ways and shots are padded; masks make the padding invisible.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.errors import InvalidSupport

Params = dict[str, Tensor]
"""Named tensors without a lane axis: meta-parameters."""

State = dict[str, Tensor]
"""Named tensors with a leading lane axis: adapted states. A name that starts with `class.` has its class axis
second, (lanes, max_way, ...); that axis is padded with zeros, and `class.mask` (lanes, max_way) bool says what is real.
Likewise a name that starts with `example.` has a row for each support example, (lanes, n_support, ...), beside
`example.mask` (lanes, n_support). One that starts with `pair.` has a number for each example and class,
(lanes, n_support, max_way, ...), beside both masks."""

MASKS = ("class.mask", "example.mask")
PADDED_AXES = {"class.": ("class.mask",), "example.": ("example.mask",), "pair.": ("example.mask", "class.mask")}
"""Prefix of a state tensor's name to the masks that say what of its axes after the lane axis is real."""


@dataclass(frozen=True)
class Support:
    """The support sets of a batch of tasks. In a lane the real examples and the real classes come first, then the padding.

    inputs (lanes, n_support, *input_shape) float
    targets (lanes, n_support) int64 class index, or (lanes, n_support, n_out) float for regression
    mask (lanes, n_support) bool: which examples are real
    class_mask (lanes, max_way) bool: which classes are real; max_way is 0 for regression
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    class_mask: Tensor

    @property
    def lanes(self) -> int:
        return self.inputs.shape[0]

    @property
    def max_way(self) -> int:
        return self.class_mask.shape[1]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Support:
        """The same support sets on `device`, floats in `dtype`."""
        targets = self.targets.to(device, dtype) if self.targets.is_floating_point() else self.targets.to(device)
        return replace(
            self,
            inputs=self.inputs.to(device, dtype),
            targets=targets,
            mask=self.mask.to(device),
            class_mask=self.class_mask.to(device),
        )


def make_support(inputs: Tensor, targets: Tensor, n_way: int = 0) -> Support:
    """One task's support set as a batch of one lane.

    inputs (n_support, *input_shape); targets (n_support,) int64 in [0, n_way), or (n_support, n_out) float when n_way is 0.
    Raises InvalidSupport when empty, ragged, or when a class of [0, n_way) has no example.
    """
    if len(inputs) == 0:
        raise InvalidSupport("the support set is empty; at least one example is needed")
    if len(inputs) != len(targets):
        raise InvalidSupport(f"{len(inputs)} inputs but {len(targets)} targets")
    if n_way:
        _check_every_class_present(targets, n_way)
    mask = torch.ones(1, len(inputs), dtype=torch.bool, device=inputs.device)
    class_mask = torch.ones(1, n_way, dtype=torch.bool, device=inputs.device)
    return Support(inputs.unsqueeze(0), targets.unsqueeze(0), mask, class_mask)


def _check_every_class_present(targets: Tensor, n_way: int) -> None:
    present = set(targets.tolist())
    if not present <= set(range(n_way)):
        raise InvalidSupport(f"class indices must be in [0, {n_way}), got {sorted(present - set(range(n_way)))}")
    if len(present) < n_way:
        raise InvalidSupport(f"classes {sorted(set(range(n_way)) - present)} have no example")


def stack_supports(supports: Sequence[Support]) -> Support:
    """Joins batches of lanes into one, padding examples and classes to the longest: behind the real ones, as `Support` says."""
    n_support = max(s.inputs.shape[1] for s in supports)
    max_way = max(s.max_way for s in supports)
    return Support(
        inputs=torch.cat([pad_axis(s.inputs, 1, n_support) for s in supports]),
        targets=torch.cat([pad_axis(s.targets, 1, n_support) for s in supports]),
        mask=torch.cat([pad_axis(s.mask, 1, n_support) for s in supports]),
        class_mask=torch.cat([pad_axis(s.class_mask, 1, max_way) for s in supports]),
    )


def stack_states(states: Sequence[State], names: Iterable[str] | None = None) -> State:
    """Joins adapted states (of them only `names`) into one batch of lanes, padding the axes of classes and of examples to the longest."""

    def join(name: str) -> Tensor:
        parts = [s[name] for s in states]
        for axis, _ in enumerate(padded_axes(name), start=1):
            longest = max(part.shape[axis] for part in parts)
            parts = [pad_axis(part, axis, longest) for part in parts]
        return torch.cat(parts)

    return {name: join(name) for name in (states[0] if names is None else names)}


def split_state(state: State) -> list[State]:
    """One state per lane, each with a lane axis of one, its padded axes cut to its own number of ways and examples: views of `state`."""
    counts = {mask: state[mask].sum(1).tolist() for mask in MASKS if mask in state}
    n_lanes = len(next(iter(state.values())))
    lanes: dict[str, Sequence[Tensor]] = {name: (tensor,) if n_lanes == 1 else torch.split(tensor, 1) for name, tensor in state.items()}
    axes = {name: list(enumerate(padded_axes(name), start=1)) for name in state}

    def take(name: str, lane: int) -> Tensor:
        tensor = lanes[name][lane]
        for axis, mask in axes[name]:
            tensor = tensor if tensor.shape[axis] == counts[mask][lane] else tensor.narrow(axis, 0, counts[mask][lane])
        return tensor

    return [{name: take(name, lane) for name in state} for lane in range(n_lanes)]


def padded_axes(name: str) -> tuple[str, ...]:
    """The masks of a state tensor's padded axes, from the second axis on; none, if it has no such axis."""
    return next((masks for prefix, masks in PADDED_AXES.items() if name.startswith(prefix)), ())


def own_state(state: State, others: Sequence[Tensor]) -> State:
    """A state of which nothing lies in the memory of others; what is fresh already is taken as it is."""
    memory = {tensor.untyped_storage().data_ptr() for tensor in others}

    def is_fresh(tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        return storage.data_ptr() not in memory and storage.nbytes() == tensor.nbytes  # not one for all lanes either

    return {name: tensor if is_fresh(tensor) else tensor.clone() for name, tensor in state.items()}


def is_finite(tensor: Tensor) -> bool:
    """Whether every number of a float tensor is: by the least and the largest, which is 15 times as fast as asking each on a CPU."""
    return not tensor.numel() or all(math.isfinite(edge) for edge in torch.aminmax(tensor))  # either is NaN where any number is


def pad_axis(tensor: Tensor, axis: int, size: int) -> Tensor:
    """`tensor` with zeros (False) appended along `axis` up to `size`."""
    missing = size - tensor.shape[axis]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[axis] = missing
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=axis)
