"""Where a measurement was taken: what a reader needs to repeat it, or to know why theirs differs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.catalogue import ROOT


def describe_environment(threads: int, device: str, command: str) -> dict[str, Any]:
    """Machine, versions, date, command and git revision of this run."""
    return {
        "cpu": read_cpu_name(),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "threads": threads,
        "device": device if device == "cpu" else f"{device} {torch.cuda.get_device_name(device)}",
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "platform": platform.platform(),
        "environment": Path(sys.prefix).name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "git_revision": read_revision(),
    }


def read_cpu_name() -> str:
    """The model name of Linux, or what Python knows elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def read_revision() -> str | None:
    """The commit, with `+changes` when files differ from it; None outside a git checkout."""
    try:
        commit = _ask_git("rev-parse", "HEAD")
        return f"{commit}+changes" if _ask_git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _ask_git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
