"""What the documents promise is what the code has."""

from __future__ import annotations

import ast
import json
import re

from app import errors
from app.api import problems
from benchmarks.readme_tables import RESULTS, write_results
from models.artifact import list_bundled, read_card
from tests.architecture.documents import README, ROOT, read_blocks, settings_table


def test_the_readme_has_every_setting_with_its_default_and_meaning() -> None:
    assert settings_table() in README.read_text(), f"put this table into README.md, Configuration:\n{settings_table()}"


def test_the_readme_has_every_error_code_and_no_other() -> None:
    section = README.read_text().partition("### Errors")[2].partition("## The Python client")[0]
    documented = {code for row in section.splitlines() if row.startswith("|") for code in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert documented == _codes_of_the_service()


def _codes_of_the_service() -> set[str]:
    """Codes of error classes, and those given where an error is raised."""
    classes = {value.code for module in (errors, problems) for value in vars(module).values() if _is_error(value)}
    sources = [path for path in (ROOT / "app").rglob("*.py") if "client" not in path.parts]
    keywords = [node for path in sources for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.keyword)]
    given = [node.value.value for node in keywords if node.arg == "code" and isinstance(node.value, ast.Constant)]
    return classes | {code for code in given if isinstance(code, str)}


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, errors.AppError)


def test_every_command_block_of_the_readme_says_how_it_is_checked() -> None:
    commands = [block for block in read_blocks() if block.language in {"sh", "python"}]
    assert {block.how for block in commands} <= {"make", "run", "options", "compose", "python"}
    assert len(commands) >= 8


def test_every_decision_says_context_decision_cost_and_what_enforces_it() -> None:
    entries = (ROOT / "DECISIONS.md").read_text().split("\n## ")[1:]
    assert len(entries) >= 4
    for entry in entries:
        title = entry.splitlines()[0]
        for part in ("**Context.**", "**Decision.**", "**Cost accepted.**", "**Enforced by.**"):
            assert part in entry, f"{title} lacks {part}"
        assert 10 <= len(entry.splitlines()) <= 40, title


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert "## [Unreleased]" in text
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_results_in_the_readme_are_those_of_the_comparisons() -> None:
    assert write_results() in README.read_text(), "run python -m benchmarks.readme_tables"


def test_the_comparisons_are_of_the_bundled_weights_and_leave_none_out() -> None:
    rows = [row for path in RESULTS.glob("*.json") for row in json.loads(path.read_text())["rows"]]
    cards = {card.name: card for card in map(read_card, list_bundled())}
    assert {row["initializer"] for row in rows} == set(cards), "run innerloop compare for what is missing"
    assert all(row["sha256"] == cards[row["initializer"]].sha256 for row in rows), "run innerloop compare again"
    assert all(row["episodes"] >= 1000 for row in rows)
