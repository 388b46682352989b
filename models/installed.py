"""An initializer on its device, arrays in and arrays out: what a server holds of each version, and the work it does with it.

Nothing here knows a service; `models.serving` has the batches underneath. Everything blocks; call it from the thread that owns the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from models.answers import PLAIN, AnsweredLane, answer_lanes
from models.answers_native import NativeAnswers, make_native_answers
from models.backbones import lay_out
from models.confidence import Confidence, parse_confidence
from models.holdout import HeldOutScore, score_support_set
from models.learner import BODY, Embeds, Explains, Learner, Restarts, take_body
from models.resident import Resident
from models.serving import AdaptedLane, adapt_lanes, guard_memory, make_template, mixes_steps
from models.state_format import StateFormat, describe_states
from models.support import Params, State, Support, make_support
from models.warm_start import StartTrial, decode_params, try_start

Array = npt.NDArray[Any]
Ability = Literal["embed", "explain", "restart"]
ABILITIES: dict[Ability, type[Any]] = {"embed": Embeds, "explain": Explains, "restart": Restarts}


class Loaded(Protocol):
    """A verified initializer with its tensors on the CPU; `models.artifact.Initializer` is one."""

    @property
    def learner(self) -> Learner: ...

    @property
    def params(self) -> Params: ...


class Examples(Protocol):
    """One task's labelled examples as arrays.

    inputs (n_support, *input_shape); targets (n_support,) class index, or (n_support, n_out) for regression, where n_way is 0.
    """

    @property
    def inputs(self) -> Array: ...

    @property
    def targets(self) -> Array: ...

    @property
    def n_way(self) -> int: ...


@dataclass(frozen=True)
class Installed:
    """A learner and its meta-parameters on a device; `format` says how its adapted states are written.

    mixes_steps: whether tasks of one batch may take different numbers of inner steps.
    native: what answers on a CPU, where C can; else torch does, as everywhere.
    """

    learner: Learner
    params: Params
    format: StateFormat
    confidence: Confidence = PLAIN
    mixes_steps: bool = False
    native: NativeAnswers | None = None

    @property
    def abilities(self) -> frozenset[Ability]:
        """What the learner can do besides adapting and predicting."""
        return frozenset(name for name, protocol in ABILITIES.items() if isinstance(self.learner, protocol))

    def adapt(self, tasks: Sequence[Examples], steps: int | Sequence[int], start: bytes | None = None) -> list[AdaptedLane]:
        """Every task's adapted state, in one batched inner loop, from the weights in `start` (see `try_start`) or the usual ones.
        steps: of all tasks, or of each where `mixes_steps`.

        Raises InvalidSupport, InvalidOptions, IncompatibleState, OutOfMemory.
        """
        weights = None if start is None else decode_params(start, self.params)
        return adapt_lanes(self.learner, self.params, [to_support(task) for task in tasks], steps, weights)

    def try_start(self, task: Examples, state: bytes, fresh: Sequence[bool], steps: int, max_samples: int) -> StartTrial:
        """The usual start beside that from another task's state, see `models.warm_start`.

        Raises IncompatibleState, InvalidOptions, OutOfMemory.
        """
        device = next(iter(self.params.values())).device
        support, restored = to_support(task).to(device), self.restore(state).state

        def run() -> StartTrial:
            return try_start(self.learner, self.params, restored, support, fresh, steps, self.confidence, max_samples)

        return guard_memory(run, device, 1)

    def score_held_out(self, task: Examples, steps: int, max_samples: int) -> HeldOutScore:
        """How well a task is adapted to, by what it answers for the examples left out, see `models.holdout`. Raises OutOfMemory."""
        device = next(iter(self.params.values())).device
        support = to_support(task).to(device)

        def run() -> HeldOutScore:
            return score_support_set(self.learner, self.params, support, steps, self.confidence, max_samples)

        return guard_memory(run, device, 1)

    def predict(
        self, residents: Sequence[Resident], queries: Sequence[Array], max_samples: int, explained: Sequence[Examples] = ()
    ) -> list[AnsweredLane]:
        """Every task's answers by its own state, in batched forwards of about `max_samples` at most; with `explained`, every task's
        support set, also how its examples drove them. Raises InvalidQuery, OutOfMemory, InvalidOptions when the learner cannot explain."""
        if self.native is not None and not explained:
            return self.native.answer(residents, queries)
        states, supports = [resident.state for resident in residents], [to_support(task) for task in explained]
        return answer_lanes(self.learner, self.params, states, queries, max_samples, self.confidence, supports)

    def encode(self, state: State) -> bytes:
        """An adapted lane's state as bytes, which `restore` makes the one to answer by: the numbers are rounded."""
        return self.format.encode(state)

    def encode_all(self, states: Sequence[State]) -> list[bytes]:
        """The same of many lanes: each as `encode` writes it."""
        return self.format.encode_all(states)

    def restore(self, encoded: bytes) -> Resident:
        """A state on the device from its bytes, always the same, ready to answer by. Raises IncompatibleState."""
        return self._make_ready(self.format.decode(encoded))

    def hold(self, state: State) -> Resident:
        """The same of an adapted lane's state as it is, not rounded: who would serve it could not bring it back."""
        return self._make_ready(self.format.hold(state))

    def _make_ready(self, resident: Resident) -> Resident:
        if self.native is not None:
            return Resident(resident.memory, resident.arrangement, self.native.make_row(resident.memory, resident.arrangement))
        return replace(resident, memory=resident.memory.to(next(iter(self.params.values())).device))


def install(loaded: Loaded, device: torch.device, confidence: Mapping[str, Any] | None = None) -> Installed:
    """The initializer on `device`, warmed up by small adaptations; confidence: the section of its card. Raises CheckpointCorrupt."""
    params = lay_out_body(loaded.learner, _to_device(loaded.params, device))
    template = lay_out_body(loaded.learner, make_template(loaded.learner, params))
    states, figures = describe_states(template, loaded.params), parse_confidence(confidence or {})
    native = make_native_answers(loaded.learner, params, template, figures, states.coarse)
    states = replace(states, keeps=frozenset(native.bases if native else ()))
    return Installed(loaded.learner, params, states, figures, mixes_steps(loaded.learner, params), native)


def lay_out_body(learner: Learner, tensors: Params) -> Params:
    """The backbone's among them in the order of memory it reads them fastest in: once, instead of in every batch."""
    backbone, body = getattr(learner, "backbone", None), take_body(tensors)
    if backbone is None:
        return tensors
    laid = {BODY + name: tensor for name, tensor in lay_out(backbone, body).items()}
    return tensors | (laid or lay_out(backbone, tensors))  # a learner that is nothing but its backbone has no prefix


def to_support(task: Examples) -> Support:
    """One lane, of copies: arrays decoded from a request may be read-only, and a tensor over them would not be. Raises InvalidSupport."""
    targets = torch.from_numpy(np.array(task.targets, dtype=np.int64 if task.n_way else np.float32))
    return make_support(torch.from_numpy(_own_float32(task.inputs)), targets, task.n_way)


def _own_float32(array: Array) -> Array:
    return np.array(array, dtype=np.float32, order="C")


def _to_device(tensors: Params, device: torch.device) -> Params:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
