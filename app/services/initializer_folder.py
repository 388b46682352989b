"""An initializer folder as bytes: card and weights, read without torch. The engine judges them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app.domain import InitializerInfo, InitializerRef
from app.engine.interface import inspect
from app.errors import InitializerRejected, NotFound
from app.services.selection import AUTO

CARD_FILE, WEIGHTS_FILE = "card.json", "initializer.safetensors"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


@dataclass(frozen=True)
class InitializerBytes:
    """What a folder holds. `sha256` is of card and weights together: a changed limit is a new version too."""

    card: dict[str, Any]
    weights: bytes
    sha256: str


def list_initializer_folders(folder: Path) -> list[Path]:
    """The initializer folders in a folder, by name."""
    return sorted(card.parent for card in folder.glob(f"*/{CARD_FILE}") if _NAME.fullmatch(card.parent.name))


def read_initializer_folder(folder: Path, name: str) -> InitializerBytes:
    """Blocking. Raises NotFound for a name that is none, InitializerRejected when a file is missing or the card cannot be read."""
    if not _NAME.fullmatch(name):
        raise initializer_not_found(name)
    if name == AUTO:
        raise InitializerRejected(f"An initializer cannot be named {AUTO!r}: tasks that name it leave the choice to the service.")
    try:
        card_bytes, weights = (folder / name / CARD_FILE).read_bytes(), (folder / name / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise InitializerRejected(f"The files of initializer {name!r} cannot be read: {error.strerror}.") from error
    card = _parse(card_bytes, name)
    canonical = orjson.dumps(card, option=orjson.OPT_SORT_KEYS)
    return InitializerBytes(card, weights, hashlib.sha256(canonical + b"\0" + weights).hexdigest())


def describe(card: Any, ref: InitializerRef) -> InitializerInfo:
    """The card as the service reads it. Raises InitializerRejected naming what is missing."""
    try:
        return inspect(card, ref)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InitializerRejected(f"The card of initializer {ref.name!r} lacks or garbles {error}.") from error


def initializer_not_found(name: str) -> NotFound:
    """The one wording for an unknown initializer."""
    return NotFound(f"There is no initializer {name[:100]!r}.", code="initializer_not_found")


def _parse(card_bytes: bytes, name: str) -> dict[str, Any]:
    try:
        card = orjson.loads(card_bytes)
    except ValueError as error:
        raise InitializerRejected(f"The card of initializer {name!r} is not JSON: {error}.") from error
    describe(card, InitializerRef(name, 0))
    return dict(card)
