"""Placeholder for the archives; replaced below."""

from __future__ import annotations

from pathlib import Path

from models.errors import DataUnavailable


def build_omniglot(path: Path) -> None:
    raise DataUnavailable(f"{path} is not there; set INNERLOOP_DATA_DIR to the folder that holds omniglot.npz")
