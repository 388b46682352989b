"""`innerloop train`, `evaluate` and `fix-architecture`. torch is imported when one of them runs, not before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from models.artifact import Initializer
    from models.evaluation import EvaluationRow

EXIT_STATUS_BY_STOP = {"SIGINT received": 130, "SIGTERM received": 143}


def register(cli: typer.Typer) -> None:
    """Adds the three commands to `cli`."""
    cli.command()(train)
    cli.command()(evaluate)
    cli.command(name="fix-architecture")(fix_architecture)


def train(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name, or a TOML file.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run (runs/NAME).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")] = False,
    init_from: Annotated[str | None, typer.Option(help="Start from the weights of an initializer: a bundled name or a folder.")] = None,
    steps: Annotated[int | None, typer.Option(help="Meta-steps, instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the recipe's.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads torch may use (all cores).")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    max_seconds: Annotated[float | None, typer.Option(help="Stop after this long, resumably.")] = None,
) -> None:
    """Meta-train an initializer from a recipe. Ctrl-C stops it after the current step; --resume goes on exactly there."""
    console = Console(stderr=True)
    with errors_in_one_line(console):
        from models.training import train as run_training

        outcome = run_training(
            recipe,
            out=out or Path("runs") / Path(recipe).stem,
            resume=resume,
            init_from=find_initializer(init_from) if init_from else None,
            steps=steps,
            seed=seed,
            threads=threads,
            device=device,
            max_seconds=max_seconds,
            console=console,
        )
    if outcome.card is None:
        console.print(f"Stopped after step {outcome.step} of {outcome.meta_steps}: {outcome.stopped_by}. Go on with:", highlight=False)
        typer.echo(outcome.resume_command)
        raise typer.Exit(EXIT_STATUS_BY_STOP.get(outcome.stopped_by or "", 0))
    console.print(_table_of(outcome.card.name, outcome.card.accuracy))
    typer.echo(outcome.initializer)


def evaluate(
    name: Annotated[str, typer.Argument(help="A bundled initializer's name, or a folder.")],
    way: Annotated[int, typer.Option(help="Classes in an episode (ignored for regression).")] = 5,
    shot: Annotated[int | None, typer.Option(help="Examples per class (1; 10 for regression).")] = None,
    episodes: Annotated[int, typer.Option(help="Episodes to average over.")] = 1000,
    query: Annotated[int | None, typer.Option(help="Queries per class (5; 100 for regression).")] = None,
    steps: Annotated[int | None, typer.Option(help="Inner steps (the learner's own).")] = None,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Whose classes.")] = "test",
    seed: Annotated[int, typer.Option(help="Seed of the episodes.")] = 0,
    batch: Annotated[int, typer.Option(help="Episodes per forward; changes the time only.")] = 25,
    data: Annotated[
        str | None, typer.Option(help="Another source than its own: digits, emoji, icons or omniglot; inputs must have its shape.")
    ] = None,
    rotations: Annotated[bool, typer.Option(help="Classes turned by 90 degrees are more classes, as in the published figures.")] = True,
    threads: Annotated[int | None, typer.Option(help="Threads torch may use (all cores).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure an initializer on new classes, one query at a time and, beside it, all queries at once."""
    console = Console(stderr=True)
    with errors_in_one_line(console):
        initializer, is_class = _load(name, threads)
        plan: dict[str, Any] = {
            "n_way": way if is_class else 0,
            "k_shot": _or_default(shot, 1 if is_class else 10),
            "n_query": _or_default(query, 5 if is_class else 100),
            "episodes": episodes,
            "steps": steps,
            "split": split,
            "seed": seed,
            "batch": batch,
            "rotations": rotations,
            "data": data,
        }
        row = _evaluate_with_progress(initializer, plan, console)
    if as_json:
        typer.echo(json.dumps(_describe(initializer, row, data)))
    else:
        Console().print(_table_of(initializer.card.name, [row.to_json()]))


def fix_architecture(
    name: Annotated[str, typer.Argument(help="The folder of a run or an initializer whose backbone has gates (gated-conv4).")],
    out: Annotated[Path | None, typer.Option(help="Folder of the new initializer (runs/NAME/fixed).")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads torch may use (all cores).")] = None,
) -> None:
    """Write the initializer without the parts that its gates have closed, and measure it: a plain, smaller network."""
    console = Console(stderr=True)
    with errors_in_one_line(console):
        from models.training.fixing import fix_initializer

        initializer, _ = _load(name, threads)
        folder = out or Path("runs") / initializer.card.name / "fixed"
        with console.status("fixing and measuring"):
            fixed = fix_initializer(initializer, folder)
    backbone = fixed.learner["backbone"]
    console.print(f"Channels of the blocks: {backbone['widths']}; with a residual convolution: {backbone['extra']}", highlight=False)
    console.print(_table_of(fixed.name, fixed.accuracy))
    typer.echo(folder)


def _or_default(given: int | None, default: int) -> int:
    return default if given is None else given


def _load(name: str, threads: int | None) -> tuple[Initializer, bool]:
    """The initializer, and whether it classifies."""
    import torch

    from models.artifact import load_initializer

    if threads:
        torch.set_num_threads(threads)
    initializer = load_initializer(find_initializer(name))
    return initializer, initializer.learner.kind == "classification"


def find_initializer(name: str) -> Path:
    """The folder of a bundled name, of a path, or of the `initializer` folder in a run's folder."""
    from models.artifact import CARD_FILE, list_bundled
    from models.errors import DataUnavailable

    bundled = {folder.name: folder for folder in list_bundled()}
    for folder in (bundled.get(name), Path(name), Path(name) / "initializer"):
        if folder is not None and (folder / CARD_FILE).is_file():
            return folder
    raise DataUnavailable(
        f"{name} is neither a bundled initializer ({', '.join(bundled) or 'there are none'}) nor a folder with a {CARD_FILE}"
    )


def _evaluate_with_progress(initializer: Initializer, plan: dict[str, Any], console: Console) -> EvaluationRow:
    from models.evaluation import evaluate as run_evaluation

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(initializer.card.name, total=plan["episodes"])
        return run_evaluation(initializer, **plan, report=lambda done: progress.update(bar, completed=done))


def _describe(initializer: Initializer, row: EvaluationRow, data: str | None) -> dict[str, Any]:
    """The one JSON object: the row in the words of the command line, and what was measured with what."""
    figures = row.to_json()
    renamed = {"n_way": "way", "k_shot": "shot", "n_query": "query"}
    card = initializer.card
    return {
        "name": card.name,
        "data": data or card.data,
        **{renamed.get(key, key): value for key, value in figures.items()},
        "sha256": card.sha256,
        "git_revision": card.git_revision,
        "innerloop_version": version("innerloop"),
        "torch_version": _torch_version(),
    }


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _table_of(name: str, rows: list[dict[str, Any]]) -> Table:
    """Rows of an accuracy table for people."""
    table = Table(title=name)
    for heading in ("way", "shot", "steps", "episodes", "one query at a time", "all at once"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(str(row["n_way"] or "-"), str(row["k_shot"]), str(row["steps"]), str(row["episodes"]), *_figures_of(row))
    return table


def _figures_of(row: dict[str, Any]) -> tuple[str, str]:
    if "diverged_episodes" in row:
        return f"diverged in {row['diverged_episodes']}", "-"
    alone, together = ("accuracy", "accuracy_transductive") if "accuracy" in row else ("mse", "mse_transductive")
    digits, unit = (2, " %") if alone == "accuracy" else (3, " MSE")
    return f"{row[alone]:.{digits}f} ± {row['ci95']:.{digits}f}{unit}", f"{row[together]:.{digits}f}{unit}"


@contextmanager
def errors_in_one_line(console: Console) -> Iterator[None]:
    """What the torch library refuses ends the program with one line and exit status 1."""
    from models.errors import ModelError

    try:
        yield
    except ModelError as fault:
        console.print(f"{type(fault).__name__}: {fault}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
