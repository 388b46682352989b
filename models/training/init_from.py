"""Starting a training from another initializer's weights, also from another method's: what has the same name and shape is taken."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from models.artifact import list_bundled
from models.errors import InvalidOptions, InvalidRecipe
from models.learner import BODY
from models.support import Params


def find_bundled(name: str | None) -> Path | None:
    """The folder of the bundled initializer that a recipe names, if it names one. Raises InvalidRecipe."""
    if name is None:
        return None
    folders = {folder.name: folder for folder in list_bundled()}
    if name not in folders:
        raise InvalidRecipe(f"init_from must be one of the bundled initializers {sorted(folders)}, got {name!r}")
    return folders[name]


def take_params(given: Params, fresh: Params, name: str) -> tuple[Params, set[str]]:
    """`fresh` with the tensors that `given` has too, and the names of those. Raises InvalidOptions when it has none of them."""
    # With the prefix of a body and without it: some methods have nothing but their backbone's tensors.
    known = {key.removeprefix(BODY): tensor for key, tensor in given.items()}
    taken = {key for key, tensor in fresh.items() if _fits(known.get(key.removeprefix(BODY)), tensor)}
    if not taken:
        raise InvalidOptions(f"{name} has other weights than the recipe's learner; expected some of {_shapes(fresh)}, got {_shapes(given)}")
    return {key: known[key.removeprefix(BODY)] if key in taken else tensor for key, tensor in fresh.items()}, taken


def _fits(given: Tensor | None, tensor: Tensor) -> bool:
    return given is not None and given.shape == tensor.shape


def _shapes(params: Params) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(params.items()))
