"""What waits for the device: lanes, the bucket of those that may share a batch, and the clock of a lane's phases.

Versions and states are opaque here (the engine's tensors), so nothing in this file imports torch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from app.domain import AdaptJob, Array, InitializerRef, Phases
from app.telemetry import Work

V = TypeVar("V")
S = TypeVar("S")


@dataclass(frozen=True)
class _JobLane(Generic[V]):
    """A support set that waits for the device since `since`."""

    version: V
    since: float
    job: AdaptJob

    @property
    def size(self) -> int:
        return len(self.job.inputs)


@dataclass(frozen=True)
class AdaptLane(_JobLane[V]):
    """A support set to adapt to. Lanes share an inner loop when they start from equal weights and take equal steps; where the version mixes
    steps, these may differ by a factor of four, since a batch ends when its last lane does."""

    mixes_steps: bool = False

    @property
    def options(self) -> Hashable:
        steps = size_class(max(1, self.job.steps)) if self.mixes_steps else self.job.steps
        return steps, hashlib.sha256(self.job.start).digest() if self.job.start is not None else None


@dataclass(frozen=True)
class TrialLane(_JobLane[V]):
    """A start to be compared with the usual one. It adapts several times, so it is a batch of its own."""

    neighbour: bytes
    fresh: Array

    @property
    def options(self) -> Hashable:
        return "trial", self.job.key


@dataclass(frozen=True)
class ScoreLane(_JobLane[V]):
    """A support set to be answered for without each of its examples. It adapts several times, so it is a batch of its own."""

    @property
    def options(self) -> Hashable:
        return "score", self.job.key, self.job.steps


@dataclass(frozen=True)
class PredictLane(Generic[V, S]):
    """Queries for one state; with `explained`, the support set that the answers are to be explained by."""

    version: V
    since: float
    state: S
    queries: Array
    explained: AdaptJob | None

    @property
    def size(self) -> int:
        return max(len(self.queries), 0 if self.explained is None else len(self.explained.inputs))

    @property
    def options(self) -> Hashable:
        return self.explained is not None


class Bucket(NamedTuple):
    """Lanes of equal buckets share a batch. Sizes of one class differ by a factor of four at most, and so does padding."""

    work: Work
    initializer: InitializerRef
    options: Hashable
    size_class: int


def size_class(size: int) -> int:
    """0 for 1, 1 up to 4, 2 up to 16, 3 up to 64, ..."""
    return ((size - 1).bit_length() + 1) // 2


def measure(since: float, taken: float, started: float, ended: float, lanes: int) -> Phases:
    """The phases so far of a lane that waited from `since`, whose batch was `taken` from the queue, then on the device."""
    return Phases((taken - since) * 1000, (started - taken) * 1000, (ended - started) * 1000, lanes=lanes)


def hand_over(phases: Phases, since: float) -> Phases:
    """The phases of a lane that waited from `since` and has just come back: `batch_ms` is all that was neither waiting nor the device."""
    batch_ms = ms_since(since) - phases.queue_ms - phases.device_ms
    return Phases(phases.queue_ms, batch_ms, phases.device_ms, phases.encode_ms, phases.lanes)


def now() -> float:
    """Seconds of a clock that only goes forward."""
    return time.perf_counter()


def ms_since(started: float) -> float:
    """Milliseconds from `started` until now."""
    return (now() - started) * 1000
