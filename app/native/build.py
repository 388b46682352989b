"""Compiles the C beside this file, once for every CPU of an architecture: `models.native.build` knows how.

Called while the package is installed (`hatch_build.py`), so it needs nothing but Python. To build again: `python -m app.native.build`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from app.native import FOLDER, JSON_NUMBERS
from models.native.build import PLAIN, Library, compile_libraries

BUILT = JSON_NUMBERS.parent
LIBRARIES = {"json_numbers": Library("json_numbers.c")}


def build_libraries() -> list[Path]:
    """All of them, made anew; none without a compiler. Raises CalledProcessError where it fails."""
    return compile_libraries(FOLDER, BUILT, LIBRARIES, [PLAIN])


if __name__ == "__main__":
    made = build_libraries()
    sys.stdout.write("\n".join(map(str, made)) + "\n" if made else "no C compiler was found: nothing was built\n")
