"""Builds the C of `models/native` into the wheel, where there is a compiler; without one the wheel is pure Python and slower."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuildHook(BuildHookInterface[Any]):
    """Called by hatchling before it packs a wheel, or installs the tree in place."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Writes `models/native/built`. A compiler that fails is told of and is no reason to fail."""
        build = runpy.run_path(str(Path(self.root) / "models" / "native" / "build.py"))
        try:
            made = build["build_libraries"]()
        except (OSError, subprocess.CalledProcessError) as fault:
            self.app.display_warning(f"the C of models/native was not built, inner loops on a CPU will be slower: {fault}")
            return
        if made:
            build_data["pure_python"], build_data["infer_tag"] = False, True
            build_data["artifacts"] += [str(path.relative_to(self.root)) for path in made]
