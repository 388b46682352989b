"""`innerloop compare` and `innerloop calibrate`: what initializers are worth, measured without training any."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from app.training_commands import errors_in_one_line, find_initializer


def register(cli: typer.Typer) -> None:
    """Adds both commands to `cli`."""
    cli.command()(compare)
    cli.command()(calibrate)


def compare(
    names: Annotated[list[str] | None, typer.Argument(help="Bundled names or folders (all bundled ones that read this data).")] = None,
    data: Annotated[str, typer.Option(help="Whose test classes: omniglot, sinusoid, digits, ...")] = "omniglot",
    episodes: Annotated[int, typer.Option(help="Episodes a setting.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the episodes, the same for all.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes, one thread each.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for DATA.json, DATA.md and DATA.png.")] = Path("docs/results"),
) -> None:
    """Evaluate initializers side by side on the same test episodes, one query at a time; write JSON, a table and a plot.

    Rows that the card or DATA.json have already, of the same weights and episodes, are not measured again.
    """
    console = Console(stderr=True)
    with errors_in_one_line(console):
        from models.artifact import list_bundled, read_card
        from models.evaluation import comparison
        from models.evaluation.comparison_report import read_rows, tabulate, write_comparison

        folders = [find_initializer(name) for name in names] if names else comparison.choose_folders(list_bundled(), data)
        command = shlex.join(["innerloop", *sys.argv[1:]])
        planned = comparison.plan_jobs(folders, data, episodes=episodes, seed=seed)
        known = [row for folder in folders for row in comparison.rows_of_card(read_card(folder), data)] + read_rows(out, data)
        rows = comparison.pick_rows(planned, known)
        missing = [job for job in planned if not comparison.is_measured(job, known)]
        with Progress(console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task(data, total=len(missing))
            for row in comparison.measure_jobs(missing, jobs):
                rows.append(row)
                write_comparison(out, data, rows, command)
                progress.update(bar, advance=1, description=f"{row['initializer']} {row['way']}-way {row['shot']}-shot")
        path = write_comparison(out, data, rows, command)
    typer.echo(tabulate(rows))
    typer.echo(path)


def calibrate(folder: Annotated[Path, typer.Argument(help="An initializer's folder; its card is rewritten.")]) -> None:
    """Fit an initializer's confidence on validation classes, measure it on test classes, and write both into its card."""
    console = Console(stderr=True)
    with errors_in_one_line(console):
        from models.artifact import load_initializer, save_initializer
        from models.evaluation.calibration import certify_confidence

        initializer = load_initializer(folder)
        card = initializer.card
        confidence = certify_confidence(initializer.learner, initializer.params, card.data, card.limits.max_way)
        save_initializer(folder, replace(card, confidence=confidence), initializer.params)
    console.print_json(data=confidence)
