"""An initializer on disk: a folder with `initializer.safetensors` and `card.json`.

Saving is atomic. Loading verifies the digest, the schema against the learner, that every number is finite, and the
golden episode; whatever does not hold is CheckpointCorrupt, saying what was expected.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as decode_tensors
from safetensors.torch import save as encode_tensors

from models.card import Card, InputSpec, Limits, parse_card
from models.errors import CheckpointCorrupt, InvalidOptions
from models.golden import check_golden, record_golden
from models.learner import Learner
from models.methods import build_learner
from models.support import Params

__all__ = [
    "Card",
    "Initializer",
    "InputSpec",
    "Limits",
    "list_bundled",
    "load_initializer",
    "load_initializer_bytes",
    "parse_card",
    "read_card",
    "save_initializer",
]

CARD_FILE = "card.json"
WEIGHTS_FILE = "initializer.safetensors"
BUNDLED = Path(__file__).parent / "initializers"


@dataclass(frozen=True)
class Initializer:
    """A meta-trained learner: its card, the learner the card describes, and the meta-parameters on the CPU."""

    card: Card
    learner: Learner
    params: Params


def list_bundled() -> list[Path]:
    """Folders of the initializers that come with the package, by name."""
    return sorted(path.parent for path in BUNDLED.glob(f"*/{CARD_FILE}"))


def read_card(folder: Path) -> Card:
    """The card in `folder`; the weights are not read."""
    return parse_card(_read_card_json(folder))


def save_initializer(folder: Path, card: Card, params: Params) -> Card:
    """Writes the folder, all of it or nothing, and returns the card with its digest and golden episode filled in.

    A folder that is already there is moved aside and deleted after the new one stands in its place.
    """
    params = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in params.items()}
    learner = build_learner(card.learner)
    _check_schema(learner, params)
    weights = encode_tensors(params)
    golden = record_golden(learner, params, card.limits.max_way)
    card = replace(card, golden=golden, sha256=hashlib.sha256(weights).hexdigest())
    text = json.dumps(card.to_json(), indent=2, allow_nan=False) + "\n"
    _replace_folder(folder, {WEIGHTS_FILE: weights, CARD_FILE: text.encode()})
    return card


def load_initializer(folder: Path) -> Initializer:
    """The verified initializer in `folder`."""
    try:
        weights = (folder / WEIGHTS_FILE).read_bytes()
    except OSError as fault:
        raise CheckpointCorrupt(f"{folder} must hold {CARD_FILE} and {WEIGHTS_FILE}: {fault.strerror}") from fault
    return load_initializer_bytes(_read_card_json(folder), weights)


def load_initializer_bytes(card: Mapping[str, Any], weights: bytes) -> Initializer:
    """The verified initializer of a card and the bytes of its weights file."""
    parsed = parse_card(card)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != parsed.sha256:
        raise CheckpointCorrupt(f"{parsed.name}: the weights have sha256 {digest}; the card expects {parsed.sha256}")
    try:
        learner = build_learner(parsed.learner)
        params = decode_tensors(weights)
    except InvalidOptions as fault:
        raise CheckpointCorrupt(f"{parsed.name}: card.learner describes no learner of this version: {fault}") from fault
    except SafetensorError as fault:
        raise CheckpointCorrupt(f"{parsed.name}: the weights are not safetensors: {fault}") from fault
    _check_schema(learner, params)
    check_golden(learner, params, parsed.golden)
    return Initializer(parsed, learner, params)


def _read_card_json(folder: Path) -> Mapping[str, Any]:
    try:
        card: Mapping[str, Any] = json.loads((folder / CARD_FILE).read_bytes())
    except OSError as fault:
        raise CheckpointCorrupt(f"{folder} must hold {CARD_FILE} and {WEIGHTS_FILE}: {fault.strerror}") from fault
    except ValueError as fault:
        raise CheckpointCorrupt(f"{folder / CARD_FILE} is not JSON: {fault}") from fault
    return card


def _check_schema(learner: Learner, params: Params) -> None:
    """Raises CheckpointCorrupt unless `params` has the names, shapes and types of `learner.init`, all finite."""
    expected = learner.init(torch.Generator().manual_seed(0))
    if set(params) != set(expected):
        missing, unknown = sorted(set(expected) - set(params)), sorted(set(params) - set(expected))
        raise CheckpointCorrupt(f"the weights lack {missing} and have unknown tensors {unknown}")
    for name, tensor in params.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            found = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise CheckpointCorrupt(f"tensor {name} must be {wanted.dtype} {tuple(wanted.shape)}, got {found}")
        if not torch.isfinite(tensor).all():
            raise CheckpointCorrupt(f"tensor {name} must be finite; it holds NaN or infinity")


def _replace_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in contents.items():
            write_durably(fresh / name, content)
        fresh.chmod(0o755)
        _swap_in(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swap_in(fresh: Path, folder: Path) -> None:
    """Renames `fresh` to `folder`. A full folder cannot be renamed over, so the old one steps aside for two renames."""
    if not folder.exists():
        fresh.replace(folder)
        return
    aside = fresh.with_name(fresh.name + ".old")
    folder.replace(aside)
    try:
        fresh.replace(folder)
    except OSError:
        aside.replace(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
