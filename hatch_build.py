"""Builds the C of `models/native` and `app/native` into the wheel, where there is a compiler; without one it is pure Python and slower."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuildHook(BuildHookInterface[Any]):
    """Called by hatchling before it packs a wheel, or installs the tree in place."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Writes their `built`. A compiler that fails is told of and is no reason to fail."""
        try:
            made = [path for package in ("models", "app") for path in self._build(package)]
        except (OSError, subprocess.CalledProcessError) as fault:
            self.app.display_warning(f"the C was not built, inner loops on a CPU and JSON with many numbers will be slower: {fault}")
            return
        if made:
            build_data["pure_python"], build_data["infer_tag"] = False, True
            build_data["artifacts"] += [str(path.relative_to(self.root)) for path in made]

    def _build(self, package: str) -> list[Path]:
        # Both are modules of the tree, which is not installed yet; neither they nor the packages they stand in import anything else.
        sys.path.insert(0, self.root)
        try:
            build = importlib.import_module(f"{package}.native.build")
        finally:
            sys.path.remove(self.root)
        made: list[Path] = build.build_libraries()
        return made
