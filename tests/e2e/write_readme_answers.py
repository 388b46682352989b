"""Writes the real answers of the bundled initializers into the README: `python -m tests.e2e.write_readme_answers`.

Run it when the bundled weights change; test_readme.py then compares them with a live service.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.architecture.documents import README, ROOT, read_blocks
from tests.e2e.processes import make_key, serving

SHOWN = {
    "adapt": ("id", "status", "initializer", "revision", "support", "accuracy", "timings_ms"),
    "predict": ("predictions", "initializer", "revision", "timings_ms"),
}


def main() -> None:
    """Runs the first two curls and puts what they answer below them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = asyncio.run(make_key(folder, "user", "admin", settings={}))
        with serving(folder, settings={}) as process:
            for how in SHOWN:
                _replace_answer(how, _answer_to(how, process.url, key))


def _answer_to(how: str, url: str, key: str) -> dict[str, Any]:
    blocks = read_blocks()
    asked = blocks[next(index for index, block in enumerate(blocks) if block.how == how) - 1]
    environment = {"PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}", "INNERLOOP_KEY": key}
    # Twice: the answer that is shown is that of a service that has run before.
    for _ in range(2):
        text = asked.text.replace("http://127.0.0.1:8000", url).replace("curl -s", "curl -sS --fail-with-body")
        output = subprocess.run(["bash", "-euc", text], cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    answer: dict[str, Any] = json.loads(output)
    return {name: _rounded(answer[name]) for name in SHOWN[how]}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value


def _replace_answer(how: str, answer: dict[str, Any]) -> None:
    """Puts the answer below its curl, and its task id into every later command."""
    lines = [f"{'{' if index == 0 else ' '}{json.dumps(name)}: {json.dumps(value)}" for index, (name, value) in enumerate(answer.items())]
    body = ",\n".join(lines)
    block = f"<!-- answer: {how} -->\n```json\n{body}}}\n```"
    text = re.sub(rf"<!-- answer: {how} -->\n```json\n.*?\n```", lambda _: block, README.read_text(), flags=re.DOTALL)
    if "id" in answer:
        text = re.sub(r"\btask_0[0-9a-z]+", answer["id"], text)
    README.write_text(text)


if __name__ == "__main__":
    main()
