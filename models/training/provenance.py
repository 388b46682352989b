"""Where an initializer comes from: the code's revision, the machine, the command. For its card."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import torch

from models.training.recipe import list_recipes


def read_git_revision() -> str | None:
    """The commit of this source tree, with `-dirty` when tracked files of `models/` differ from it; None outside a checkout."""
    folder = Path(__file__).parent.parent
    revision = _ask_git(folder, "rev-parse", "HEAD")
    if not revision:
        return None
    return f"{revision}-dirty" if _ask_git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".") else revision


def _ask_git(folder: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, "-C", str(folder), *arguments], capture_output=True, text=True, check=False)  # noqa: S603 (fixed words)
    return done.stdout.strip() if done.returncode == 0 else None


def describe_hardware(device: str) -> str:
    """The GPU's name, or the processor's with the number of threads in use."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_name_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _name_processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def name_recipe(recipe: str | Path) -> str:
    """The recipe as one would type it again: a bundled name, or the path."""
    return str(recipe) if str(recipe) in list_recipes() else Path(recipe).as_posix()


def describe_command(recipe: str | Path, *, steps: int | None, seed: int | None, init_from: str | None, threads: int | None) -> str:
    """The command that makes this initializer anew; folders are left out, for they say nothing to others."""
    path = Path(recipe)
    name = str(recipe) if str(recipe) in list_recipes() else path.name if path.is_absolute() else path.as_posix()
    options = {"--steps": steps, "--seed": seed, "--init-from": init_from, "--threads": threads}
    return " ".join(["innerloop train", name, *(f"{option} {value}" for option, value in options.items() if value is not None)])
