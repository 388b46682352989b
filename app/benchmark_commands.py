"""`innerloop benchmark`: our speed beside that of others, in one run. The benchmarks are part of a checkout, not of the package."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from benchmarks.harness import Row


def register(cli: typer.Typer) -> None:
    """Adds the command to `cli`."""
    cli.command()(benchmark)


def benchmark(
    name: Annotated[str, typer.Argument(help="A module of benchmarks/, such as adapt or train; an unknown name lists them.")],
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object on one line; the rest goes to stderr.")] = False,
    out: Annotated[Path | None, typer.Option(help="Keep the JSON object in this file, from the first row on.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run of seconds; its figures mean little.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch (all cores; a server its own default).")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    only: Annotated[str, typer.Option(help="Only settings whose name matches this expression, such as 'maml .* 16 lanes'.")] = "",
) -> None:
    """Measure one part of the service or the library against others, on the same work in the same run."""
    try:
        from benchmarks import catalogue
    except ModuleNotFoundError:
        _refuse("the benchmarks are not in the installed package; run this in a checkout of the repository")
    if out is not None and not out.parent.is_dir():
        _refuse(f"--out: expected a file in a folder that exists, got {out}")
    try:
        catalogue.check_name(name)
        if python := catalogue.find_peer_python():
            os.execv(python, [str(python), "-m", "app.cli", *sys.argv[1:]])  # noqa: S606 (the peers' own environment, same arguments)
        _run(name, as_json, out, quick, threads, device, only)
    except catalogue.Refused as fault:
        _refuse(str(fault))


def _run(name: str, as_json: bool, out: Path | None, quick: bool, threads: int | None, device: str, only: str) -> None:
    import torch

    from benchmarks import harness, reports

    def report(row: Row) -> None:
        typer.echo(harness.to_sentence(row), err=as_json)

    def keep(findings: Mapping[str, Any]) -> None:
        if out is not None:
            reports.write_report(out, findings)

    plan = harness.Plan(quick, threads or torch.get_num_threads(), device, only, threads or 0, report)
    findings = harness.run_benchmark(name, plan, shlex.join(["innerloop", *sys.argv[1:]]), keep)
    for peer, reason in findings["missing_peers"].items():
        typer.echo(f"not compared with {peer} ({reason}); `make peers` installs the peers", err=True)
    if as_json:
        typer.echo(harness.to_line(findings))


def _refuse(message: str) -> None:
    typer.secho(message, err=True, fg="red")
    raise typer.Exit(1)
