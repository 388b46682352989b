"""Which benchmarks there are, and in which Python they find their peers. Loads no torch: the command asks here first."""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
RUN = re.compile(r"^def run\(plan\b", re.MULTILINE)


class Refused(Exception):
    """A benchmark that cannot be run as asked. The message is for the one who asked."""


def list_benchmarks() -> list[str]:
    """Names of the modules beside this one that keep the contract of `benchmarks.harness`, without importing them."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if RUN.search(path.read_text()))


def check_name(name: str) -> None:
    """Raises Refused for a name that is no benchmark."""
    if name not in list_benchmarks():
        raise Refused(f"there is no benchmark {name!r}; there are: {', '.join(list_benchmarks())}")


def find_peer_python() -> Path | None:
    """The Python that `make peers` made, unless there is none, or it is this one."""
    environment = ROOT / ".venv-peers"
    python = environment / "bin" / "python"
    return python if python.exists() and Path(sys.prefix).resolve() != environment.resolve() else None
