"""The README as data: its tables and its command blocks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>check|answer): (?P<how>\w+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the word of the comment above it that says how it is checked."""

    language: str
    text: str
    how: str


def read_blocks() -> list[Block]:
    """The README's fenced blocks, in order."""
    return [Block(found["language"], found["text"], found["how"] or "") for found in _BLOCK.finditer(README.read_text())]


def settings_table() -> str:
    """The configuration table as the README must have it, made from Settings."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for name, setting in Settings.model_fields.items():
        default = json.dumps(setting.default, default=str) if setting.default not in ("", None) else ""
        rows.append(f"| `INNERLOOP_{name.upper()}` | {f'`{default}`' if default else ''} | {setting.description} |")
    return "\n".join(rows)
