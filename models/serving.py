"""Many tasks in one call: ragged support sets or queries in, one result per task out, as a server needs them.

The learner sees one padded, masked batch; the caller sees lanes. Everything here blocks; call it from the thread that owns the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.errors import IncompatibleState, OutOfMemory
from models.learner import Learner
from models.support import CLASS_PREFIX, Params, State, Support, make_support, pad_axis, split_state, stack_states, stack_supports

T = TypeVar("T")


@dataclass(frozen=True)
class AdaptedLane:
    """One task's outcome: its state (a lane axis of one) on the device and on the host, and its curve over the inner steps.

    accuracy is empty for regression. is_finite is False when the inner loop diverged: the state is of no use then.
    """

    state: State
    host_state: State
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    is_finite: bool


def adapt_lanes(learner: Learner, params: Params, supports: Sequence[Support], steps: int) -> list[AdaptedLane]:
    """Adapts every support set (one lane each, on any device) in one batched inner loop on the device of `params`.

    Raises OutOfMemory, InvalidOptions.
    """
    device = _device_of(params)

    def run() -> list[AdaptedLane]:
        with torch.no_grad():  # a learner turns gradients on for its own inner steps
            adaptation = learner.adapt(params, stack_supports(supports).to(device), steps)
        loss, accuracy = adaptation.loss.cpu(), adaptation.accuracy.cpu()
        states = split_state(adaptation.state)
        host_states = states if device.type == "cpu" else split_state({name: tensor.cpu() for name, tensor in adaptation.state.items()})
        return [_make_lane(*lane, learner.kind == "classification") for lane in zip(states, host_states, loss, accuracy, strict=True)]

    return _guard_memory(run, device, len(supports))


def predict_lanes(learner: Learner, params: Params, states: Sequence[State], queries: Sequence[Tensor], max_samples: int) -> list[Tensor]:
    """Answers every task's queries (n_query, *input_shape) by its own state, in batched forwards of about `max_samples` at most.

    Returns per task, on the CPU, probabilities (n_query, n_way) over its own classes, or values (n_query, n_out). Raises OutOfMemory.
    """
    device = _device_of(params)
    longest = max(len(lane) for lane in queries)

    def run() -> list[Tensor]:
        state = states[0] if len(states) == 1 else stack_states(states)
        padded = torch.stack([pad_axis(lane, 0, longest) for lane in queries])
        with torch.no_grad():
            columns = torch.split(padded, max(1, max_samples // len(queries)), dim=1)
            outputs = torch.cat([learner.predict(params, state, column.to(device)) for column in columns], dim=1)
            answers = (outputs.softmax(-1) if learner.kind == "classification" else outputs).cpu()
        return [_take_answers(answers[lane], len(queries[lane]), states[lane]) for lane in range(len(queries))]

    return _guard_memory(run, device, len(queries))


def make_template(learner: Learner, params: Params) -> State:
    """The adapted state of a blank task of two examples: the names, types and shapes that every other state has.

    It costs one small adaptation, and warms the device up.
    """
    device = _device_of(params)
    inputs = torch.zeros(2, *learner.input_shape)
    is_classification = learner.kind == "classification"
    support = make_support(inputs, torch.arange(2), 2) if is_classification else make_support(inputs, torch.zeros(2, 1))
    with torch.no_grad():
        return learner.adapt(params, support.to(device)).state


def encode_state(state: State) -> bytes:
    """One lane's state on the host as safetensors bytes; the same state gives the same bytes."""
    return save({name: tensor.contiguous() for name, tensor in state.items()})


def decode_state(encoded: bytes, template: State) -> State:
    """One lane's state on the CPU from safetensors bytes. Raises IncompatibleState when it is not of the template's learner."""
    try:
        state = load(encoded)
    except SafetensorError as fault:
        raise IncompatibleState(f"the bytes are not safetensors: {fault}") from fault
    if state.keys() != template.keys():
        raise IncompatibleState(f"the tensors are {sorted(state)}, expected {sorted(template)}")
    ways = state["class.mask"].shape[1:2] if "class.mask" in state else ()
    for name, tensor in state.items():
        _check_tensor(name, tensor, template[name], ways)
    return state


def _check_tensor(name: str, tensor: Tensor, model: Tensor, ways: tuple[int, ...]) -> None:
    shape = (1, *ways, *model.shape[2:]) if name.startswith(CLASS_PREFIX) else (1, *model.shape[1:])
    if tensor.dtype != model.dtype or tensor.shape != shape:
        found, expected = f"{tensor.dtype} {tuple(tensor.shape)}", f"{model.dtype} {shape}"
        raise IncompatibleState(f"{name} is {found}, expected {expected}")
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise IncompatibleState(f"{name} holds numbers that are not finite")


def _make_lane(state: State, host_state: State, loss: Tensor, accuracy: Tensor, is_classification: bool) -> AdaptedLane:
    tensors = [loss, *(tensor for tensor in host_state.values() if tensor.is_floating_point())]
    is_finite = all(bool(tensor.isfinite().all()) for tensor in tensors)
    return AdaptedLane(state, host_state, tuple(loss.tolist()), tuple(accuracy.tolist()) if is_classification else (), is_finite)


def _take_answers(answers: Tensor, n_query: int, state: State) -> Tensor:
    mine = answers[:n_query, : state["class.mask"].shape[1]] if "class.mask" in state else answers[:n_query]
    return mine.clone()  # not a view: it would keep the whole batch's answers alive


def _guard_memory(run: Callable[[], T], device: torch.device, lanes: int) -> T:
    try:
        return run()
    except torch.OutOfMemoryError:
        pass  # raised below: inside this block the traceback would still hold the tensors of the failed batch
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise OutOfMemory(f"{device} has no room for a batch of {lanes} lanes")


def _device_of(params: Params) -> torch.device:
    return next(iter(params.values())).device
