"""What the services ask of the engine. The only implementation with torch is `torch_engine`; tests may bring five lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.domain import Ability, Adapted, AdaptJob, Answers, Array, InitializerInfo, InitializerRef, InputSpec, Limits, StartTrial, StateKey


@dataclass(frozen=True)
class HeldOut:
    """Mean loss and accuracy on examples left out of a support set, as `models.holdout` has them; NaN when n is 0."""

    loss: float
    accuracy: float
    n: int


class Engine(Protocol):
    """One device, the initializer versions on it, and the adapted states resident beside them."""

    async def install(self, ref: InitializerRef, card: Mapping[str, Any], weights: bytes) -> None:
        """Verifies and loads a version beside those already there; the same ref twice is a no-op.

        Raises InitializerRejected when digest, schema or golden episode do not hold: nothing has changed then.
        """
        ...

    def installed(self) -> frozenset[InitializerRef]:
        """The versions on the device."""
        ...

    def abilities(self, ref: InitializerRef) -> frozenset[Ability]:
        """What an installed version's learner can do besides. Raises InitializerNotInstalled."""
        ...

    async def retire(self, ref: InitializerRef) -> None:
        """Forgets a version once the batches that use it have ended, and the resident states made by it."""
        ...

    async def adapt(self, job: AdaptJob) -> Adapted:
        """Adapts one lane; concurrent calls share one batched inner loop. The state stays resident under `job.key`.

        Raises InitializerNotInstalled, Overloaded, AdaptationFailed.
        """
        ...

    async def try_start(self, job: AdaptJob, neighbour: bytes, fresh: Array) -> StartTrial:
        """Compares the usual start with that from another task's state, on the examples that are `fresh` (n_support,) bool.

        Only for a version with the ability `restart`. Raises StateCorrupt, InitializerNotInstalled, Overloaded, AdaptationFailed.
        """
        ...

    async def score_held_out(self, job: AdaptJob) -> HeldOut:
        """How well `job` answers examples of its own support set that it is not shown. Keeps no state; costs several adaptations.

        A function of the job's examples as a set. Raises InitializerNotInstalled, Overloaded, AdaptationFailed.
        """
        ...

    async def predict(self, key: StateKey, queries: Array, explained: AdaptJob | None = None) -> Answers:
        """Answers queries (n_query, *input shape) float32; concurrent calls share one batched forward.

        With `explained`, the job that made the state, the answers carry the weights of its support examples: only for a version with
        the ability `explain`. Raises StateNotResident when the state must be restored first, InitializerNotInstalled, Overloaded.
        """
        ...

    async def restore(self, key: StateKey, state: bytes) -> None:
        """Makes a cached state resident again. Raises StateCorrupt when the bytes do not fit the initializer."""
        ...

    def forget(self, task_id: str) -> None:
        """Drops the resident states of a task."""
        ...

    async def close(self) -> None:
        """Stops admitting, finishes the running batch, fails what is still waiting with `Draining`."""
        ...


def inspect(card: Mapping[str, Any], ref: InitializerRef) -> InitializerInfo:
    """An initializer's card as the service reads it, without torch. Raises KeyError, TypeError, ValueError where it cannot be read."""
    _check_validation(card.get("confidence", {}))
    return InitializerInfo(
        ref=ref,
        kind=card["learner"]["kind"],
        input=InputSpec(kind=card["input"]["kind"], shape=tuple(card["input"]["shape"])),
        limits=Limits(**{name: int(card["limits"][name]) for name in ("min_way", "max_way", "max_support", "max_steps")}),
        default_steps=int(card["default_steps"]),
        sha256=card["sha256"],
        card=card,
    )


def _check_validation(confidence: Mapping[str, Any]) -> None:
    """`auto` divides by the logarithms of these numbers whenever it compares initializers, so they are read here once."""
    for row in confidence.get("validation", []):
        n_way, k_shot, loss = (row[name] for name in ("n_way", "k_shot", "loss"))
        are_numbers = all(isinstance(number, int | float) for number in (n_way, k_shot, loss))
        if not are_numbers or not (1 < n_way < math.inf and 0 < k_shot < math.inf and 0 <= loss < math.inf):
            raise ValueError(f"confidence.validation: expected n_way > 1, k_shot > 0 and loss >= 0, got {n_way!r}, {k_shot!r}, {loss!r}")
