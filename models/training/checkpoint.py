"""Checkpoints: one safetensors file with every tensor of a training, and the rest as JSON in its header.

Tensors are named `params.*`, `exp_avg.*`, `exp_avg_sq.*` (Adam), `ema.*`, `best.*` and `generator`. A training that stops
after any step and resumes from its checkpoint ends with the same bits as one that never stopped.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encode_tensors
from torch import Tensor

from models.artifact import write_durably
from models.errors import CheckpointCorrupt
from models.support import Params

FILE = "checkpoint.safetensors"
FORMAT_VERSION = 1
GROUPS = ("params", "exp_avg", "exp_avg_sq", "ema", "best")


@dataclass(frozen=True)
class Progress:
    """Where a training stands. `log_bytes` is how much of the log belongs to it; `window` holds
    the (loss, accuracy) of the steps not yet logged; `git_revision` is that of the code that began it."""

    step: int
    seconds: float
    recipe: dict[str, Any]
    trained_with: str
    log_bytes: int = 0
    best_score: float | None = None
    best_step: int = 0
    window: list[list[float]] = field(default_factory=list)
    git_revision: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A training at rest. `tensors` holds one group of named tensors for each of GROUPS (empty: not used)."""

    progress: Progress
    tensors: dict[str, Params]
    generator: Tensor


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes the checkpoint over the one before, atomically."""
    flat = {f"{group}.{name}": t.detach().cpu().contiguous() for group, named in checkpoint.tensors.items() for name, t in named.items()}
    flat["generator"] = checkpoint.generator
    header = {"format_version": str(FORMAT_VERSION), "progress": json.dumps(asdict(checkpoint.progress))}
    path = folder / FILE
    fresh = path.with_suffix(".partial")
    write_durably(fresh, encode_tensors(flat, metadata=header))
    fresh.replace(path)
    return path


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`. Raises CheckpointCorrupt."""
    path = folder / FILE
    if not path.exists():
        raise CheckpointCorrupt(f"{folder} has no {FILE}; there is nothing to resume")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            flat: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if header.get("format_version") != str(FORMAT_VERSION):
            raise CheckpointCorrupt(f"{path} has format {header.get('format_version')!r}; this version reads {FORMAT_VERSION}")
        progress = Progress(**json.loads(header["progress"]))
        generator = flat.pop("generator")
    except (SafetensorError, KeyError, TypeError, ValueError) as fault:
        raise CheckpointCorrupt(f"{path} is not a checkpoint of this program: {fault!r}") from fault
    return Checkpoint(progress, _group_tensors(flat), generator)


def _group_tensors(flat: dict[str, Tensor]) -> dict[str, Params]:
    groups: dict[str, Params] = {group: {} for group in GROUPS}
    for name, tensor in flat.items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise CheckpointCorrupt(f"the checkpoint has an unknown tensor {name}")
        groups[group][rest] = tensor
    return groups
