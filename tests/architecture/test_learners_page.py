"""docs/learners.md against the methods themselves: which there are, their papers, options and states."""

from __future__ import annotations

import fnmatch
import importlib
import json
import re
from dataclasses import fields

import pytest
import torch

from models.methods import BUILT_IN, build_learner, find_method
from models.methods import KINDS as ALL_KINDS
from models.serving import make_template
from tests.architecture.documents import ROOT
from tests.laws.learners import SPECS

PAGE = (ROOT / "docs" / "learners.md").read_text()
ROWS = {row[0].strip("` "): row for row in (line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| `"))}


def test_the_learner_of_the_page_has_as_many_lines_as_its_heading_says() -> None:
    found = re.search(r"^## A learner in (\d+) lines of code$.*?^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, "the heading says how many lines of code, and the first Python block is the learner"
    assert len([line for line in found[2].splitlines() if line.strip()]) <= int(found[1])


def options_table() -> str:
    """The table of options as the page must have it, made from the classes."""
    rows = ["| method | kind | options |", "|---|---|---|"]
    for name in sorted(BUILT_IN):
        method = find_method(name)
        options = [f"`{f.name} = {json.dumps(f.default)}`" for f in fields(method) if f.name not in ("backbone", "kind")]
        rows.append(f"| {name} | {', '.join(getattr(method, 'KINDS', ALL_KINDS))} | {', '.join(options)} |")
    return "\n".join(rows)


def test_the_page_has_every_option_with_its_default() -> None:
    assert options_table() in PAGE, f"put this table into docs/learners.md:\n{options_table()}"


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_method_has_a_row_with_a_paper_that_its_module_names(name: str) -> None:
    assert name in ROWS, "add a row to the table of methods in docs/learners.md"
    papers = re.findall(r"\[(\d{4}\.\d{5})\]\(https://arxiv.org/abs/\1\)", ROWS[name][1])
    module = importlib.import_module(find_method(name).__module__)
    assert papers
    assert [paper for paper in papers if f"arXiv:{paper}" not in str(module.__doc__)] == []


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_row_names_the_tensors_of_a_state_and_no_others(name: str) -> None:
    tensors = set()
    curves = {"method": name, "kind": "regression", "input_shape": [1], "backbone": {"kind": "mlp", "hidden": [4, 4]}}
    specs = [spec for spec in SPECS.values() if spec["method"] == name]
    for spec in [*specs, curves] if "regression" in getattr(find_method(name), "KINDS", ALL_KINDS) else specs:
        learner = build_learner(spec)
        tensors |= set(make_template(learner, learner.init(torch.Generator().manual_seed(0))))
    patterns = re.findall(r"`([^`]+)`", ROWS[name][3])
    assert {tensor for tensor in tensors if not any(fnmatch.fnmatch(tensor, pattern) for pattern in patterns)} == set()
    assert [pattern for pattern in patterns if not fnmatch.filter(tensors, pattern)] == []
