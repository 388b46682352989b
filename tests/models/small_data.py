"""A data folder of a few small synthetic classes in Omniglot's layout, and recipes that train on it in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

CLASSES_BY_SPLIT = (12, 6, 8)


def write_small_omniglot(folder: Path) -> Path:
    """`omniglot.npz` with 26 classes: each a random coarse pattern, its examples the pattern with noise."""
    generator = np.random.default_rng(0)
    n_classes = sum(CLASSES_BY_SPLIT)
    coarse = generator.integers(0, 2, (n_classes, 1, 7, 7)) * 200
    patterns = coarse.repeat(4, axis=2).repeat(4, axis=3)
    images = (patterns + generator.integers(0, 56, (n_classes, 20, 28, 28))).astype(np.uint8)
    splits = np.repeat(np.arange(3, dtype=np.uint8), CLASSES_BY_SPLIT)
    path = folder / "omniglot.npz"
    np.savez(path, images=images, vinyals_split=splits, alphabet=(np.arange(n_classes) // 4).astype(np.uint8))
    return path


def write_small_icons(folder: Path) -> list[int]:
    """`icons28.npz` with ten classes in turn of each split; every pixel tells the class, from 1. How many examples each has."""
    counts = [4, 5, 6, 7, 4, 5, 6, 7, 4, 5]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10, dtype=np.uint16), counts))
    images = np.broadcast_to((labels + 1).astype(np.uint8)[:, None, None], (len(labels), 28, 28))
    np.savez(folder / "icons28.npz", images=images, labels=labels, class_split=(np.arange(10) % 3).astype(np.uint8))
    return counts


def write_small_emoji(folder: Path) -> None:
    """`emoji_styles32.npz` with 18 classes in turn of each split, up to four styles each; red tells the class, from 1."""
    mask = np.ones((18, 4), np.bool_)
    mask[::2, 1] = False
    images = np.zeros((18, 4, 32, 32, 3), np.uint8)
    images[..., 0] = (np.arange(18, dtype=np.uint8) + 1)[:, None, None, None]
    images[~mask] = 255
    group = np.repeat(np.array([0, 1, 2], np.uint8), [9, 3, 6])
    names, splits = np.array(["Animals", "Other", "Symbols"]), (np.arange(18) % 3).astype(np.uint8)
    np.savez(folder / "emoji_styles32.npz", images=images, mask=mask, group=group, group_names=names, class_split=splits)


def sinusoid_recipe(**outer: Any) -> dict[str, Any]:
    """Parsed TOML of a very small sinusoid training."""
    return {
        "name": "small-sinusoid",
        "seed": 3,
        "learner": {
            "method": "maml",
            "kind": "regression",
            "input_shape": [1],
            "inner_steps": 2,
            "inner_lr": 0.01,
            "backbone": {"kind": "mlp", "hidden": [8]},
        },
        "data": {"source": "sinusoid"},
        "episodes": {"k_shot": 5, "n_query": 5, "tasks": 4},
        "outer": {"meta_steps": 12, "learning_rate": 1e-3, "warmup": 2, "ema_decay": 0.9, **outer},
        "validation": {"every": 5, "episodes": 4, "k_shot": 5},
        "limits": {"min_way": 0, "max_way": 0, "max_support": 100, "max_steps": 10},
        "evaluation": [{"k_shot": 5, "episodes": 10}],
    }


def omniglot_recipe(**outer: Any) -> dict[str, Any]:
    """Parsed TOML of a very small training on images, with two shapes of episodes, augmentation and the best weights kept."""
    return {
        "name": "small-omniglot",
        "seed": 3,
        "learner": {
            "method": "protonet",
            "kind": "classification",
            "input_shape": [1, 28, 28],
            "backbone": {"kind": "conv4", "filters": 8, "groups": 2},
        },
        "data": {"source": "omniglot", "augment": {"shift": 1.0}},
        "episodes": [
            {"n_way": 4, "k_shot": 1, "n_query": 2, "tasks": 2},
            {"n_way": 3, "k_shot": 2, "n_query": 2, "tasks": 2, "weight": 0.5},
        ],
        "outer": {"meta_steps": 12, "learning_rate": 1e-3, "ema_decay": 0.9, **outer},
        "validation": {"every": 4, "episodes": 4, "n_way": 3, "k_shot": 1, "n_query": 1, "keep": "best"},
        "limits": {"min_way": 2, "max_way": 20, "max_support": 100, "max_steps": 0},
        "evaluation": [{"n_way": 3, "k_shot": 1, "n_query": 2, "episodes": 10}],
    }


def write_toml(path: Path, recipe: dict[str, Any]) -> Path:
    """`recipe` as TOML; enough of the format for recipes."""
    path.write_text("\n".join(_toml_lines(recipe, "")), encoding="utf-8")
    return path


def _toml_lines(table: dict[str, Any], where: str) -> list[str]:
    plain = [f"{key} = {_toml_value(value)}" for key, value in table.items() if not _is_table(value)]
    lines = plain
    for key, value in table.items():
        name = f"{where}.{key}" if where else key
        if isinstance(value, dict):
            lines += [f"[{name}]", *_toml_lines(value, name)]
        elif _is_table(value):
            for row in value:
                lines += [f"[[{name}]]", *_toml_lines(row, name)]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)
