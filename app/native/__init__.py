"""C of the doors: built when the package is installed, where there is a compiler; nothing needs it to be right."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
JSON_NUMBERS = FOLDER / "built" / "json_numbers-plain.so"
"""Where it lies, if it was built."""
