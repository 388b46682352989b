"""The arrows of the design, and what a process does not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.documents import ROOT


def test_every_import_contract_holds() -> None:
    outcome = subprocess.run([f"{sys.prefix}/bin/lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    "module", ["app.main", "app.cli", "app.admin", "app.client", "app.demo", "app.worker", "app.composition", "app.training_commands"]
)
def test_importing_the_service_does_not_load_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0, f"{module} loads torch"


def test_the_client_loads_nothing_of_the_service() -> None:
    program = "import sys, app.client; print([name for name in sys.modules if name.startswith('app.') and 'app.client' not in name])"
    outcome = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"
