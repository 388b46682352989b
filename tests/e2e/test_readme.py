"""Every command block of the README, against a live service: curls and programs are run, the rest is checked for what it names."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.architecture.documents import ROOT, Block, read_blocks
from tests.e2e.processes import make_key, serving

README_URL = "http://127.0.0.1:8000"
TASK_ID = re.compile(r"\btask_0[0-9a-z]+")


@dataclass(frozen=True)
class Live:
    """A running service, and what a shell needs to use it."""

    url: str
    environment: dict[str, str]
    task_id: str = ""

    def localise(self, text: str) -> str:
        """The README's text with this service's address and task instead of those shown."""
        text = text.replace(README_URL, self.url)
        return TASK_ID.sub(self.task_id, text) if self.task_id else text


@pytest.fixture
async def live(tmp_path: Path, sqlite_url: str) -> AsyncIterator[Live]:
    """`innerloop serve` with the bundled initializers, and a key as a user has it."""
    settings = {"INNERLOOP_DATABASE_URL": sqlite_url}
    key = await make_key(tmp_path, "user", "admin", settings=settings)
    path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
    with serving(tmp_path, settings=settings) as process:
        yield Live(process.url, {"PATH": path, "HOME": str(tmp_path), "INNERLOOP_KEY": key, **settings})


def test_every_block_that_can_be_run_is_run_and_answers_as_shown(live: Live) -> None:
    blocks = read_blocks()
    for index, block in enumerate(blocks):
        if block.how == "run":
            output = run_in_shell(live, block.text)
            following = blocks[index + 1] if index + 1 < len(blocks) else Block("", "", "")
            if following.how == "adapt":
                live = replace(live, task_id=json.loads(output)["id"])
            if following.language == "json":
                assert_same_form(json.loads(live.localise(following.text)), json.loads(output), following.how)
        if block.how == "python":
            assert "bar" in run([sys.executable, "-c", live.localise(block.text)], live)


def run_in_shell(live: Live, text: str) -> str:
    """The output of a block; an HTTP error ends it, as it would not for a person who reads the answer."""
    output = run(["bash", "-euo", "pipefail", "-c", live.localise(text).replace("curl -s", "curl -sS --fail-with-body")], live)
    return output


def run(command: list[str], live: Live) -> str:
    outcome = subprocess.run(command, cwd=ROOT, env=live.environment, capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 0, f"{command[-1]}\n{outcome.stdout}\n{outcome.stderr}"
    return outcome.stdout


def assert_same_form(shown: Any, answered: Any, at: str) -> None:
    """Every key that is shown is answered with the same type; words and whole numbers are the same, measured numbers may differ."""
    if isinstance(shown, dict):
        assert set(shown) <= set(answered), f"{at}: the README shows {sorted(set(shown) - set(answered))}, which is not answered"
        for key, value in shown.items():
            assert_same_form(value, answered[key], f"{at}.{key}")
    elif isinstance(shown, list):
        assert len(shown) == len(answered), at
        for index, value in enumerate(shown):
            assert_same_form(value, answered[index], f"{at}[{index}]")
    elif isinstance(shown, float):
        assert isinstance(answered, float), at
        if ".probabilities" in at:
            assert answered == pytest.approx(shown, abs=0.02), f"{at}: the README shows another answer"
    else:
        assert type(shown) is type(answered), at
        assert shown == answered or at.endswith("_at"), f"{at}: the README shows {shown!r}, the service answers {answered!r}"


def _commands(how: str) -> list[str]:
    return [line.partition("   #")[0].strip() for block in read_blocks() if block.how == how for line in block.text.splitlines() if line]


@pytest.mark.parametrize("line", _commands("options"))
def test_a_command_too_long_to_run_has_the_options_shown(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "innerloop"
    command = [sys.executable, "-m", "app.cli", words[0], "--help"]
    help_text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"}).stdout
    for option in [word for word in words if word.startswith("--")]:
        assert re.search(rf"{option}\b", help_text), f"innerloop {words[0]} has no {option}"
    if words[0] == "train":
        assert (ROOT / "models" / "training" / "recipes" / f"{words[1]}.toml").exists()


@pytest.mark.parametrize("line", _commands("compose"))
def test_a_compose_command_names_services_that_exist(line: str) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    words = shlex.split(line)
    assert words[:2] == ["docker", "compose"]
    named = [word.partition("=")[0] for before, word in pairwise(words) if before in {"--scale", "exec"}]
    assert named
    assert set(named) <= set(services)
    if "exec" in words:
        command = [sys.executable, "-m", "app.cli", *words[words.index("innerloop") + 1 :][:2], "--help"]
        assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
