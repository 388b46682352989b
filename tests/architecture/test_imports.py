"""The arrows of the design, and what a process does not load."""

from __future__ import annotations

import subprocess
import sys

from tests.architecture.documents import ROOT


def test_every_import_contract_holds() -> None:
    outcome = subprocess.run([f"{sys.prefix}/bin/lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout


def test_importing_the_service_does_not_load_torch() -> None:
    program = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name); assert 'torch' not in sys.modules, name"
    modules = ["client", "cli", "training_commands", "admin_commands", "demo", "admin", "worker", "composition", "main"]
    command = [sys.executable, "-c", program, *(f"app.{module}" for module in modules)]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


def test_the_command_line_loads_no_database_and_no_server_before_a_command_needs_them() -> None:
    program = "import sys, app.cli; print({'sqlalchemy', 'alembic', 'uvicorn', 'fastapi', 'httpx', 'numpy', 'torch'} & set(sys.modules))"
    outcome = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "set()"


def test_the_client_loads_nothing_of_the_service() -> None:
    program = "import sys, app.client; print([name for name in sys.modules if name.startswith('app.') and 'app.client' not in name])"
    outcome = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"
