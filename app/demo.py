"""The demo: the bundled initializers learn five handwritten digits over HTTP, and recognise 200 they have not seen.

The digits are scikit-learn's (UCI Optical Recognition of Handwritten Digits: 1,797 real ones, 8 x 8, 0 to 16, bright ink). The
initializers have seen Omniglot's alphabets and no digit. Every row draws its classes, its examples and its held-out digits
anew, `draws` times; the interval is 95 % over those draws.
"""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.client import InnerLoop

HOME_DIR = Path(".innerloop/demo")
INITIALIZERS = ("omniglot-protonet", "omniglot-maml")
N_WAY, SHOTS, N_HELD_OUT = 5, (1, 5), 200
START_TIMEOUT_S = 120.0

# These digits fill their frame; Omniglot's characters leave a margin: their box has a mean side of 16.1 of 28 pixels. Two empty pixels
# on each side of 8 bring that to 16.5 (one: 19.7, three: 13.5). Chosen by this measure, which needs no label, before any score.
MARGIN, SIDE = 2, 28


@dataclass(frozen=True)
class Row:
    """One line of the table: percent for accuracy and its 95 % interval, medians in milliseconds as the client sees them."""

    initializer: str
    way: int
    shot: int
    accuracy: float
    ci95: float
    adapt_ms: float
    predict_ms: float


@dataclass(frozen=True)
class Draw:
    """One few-shot problem: pictures (n, 28, 28) uint8 and their digits."""

    support: npt.NDArray[np.uint8]
    support_digits: npt.NDArray[np.int64]
    queries: npt.NDArray[np.uint8]
    query_digits: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """What one draw gave."""

    accuracy: float
    adapt_ms: float
    predict_ms: float


def run(*, once: bool, as_json: bool, draws: int, port: int, home_dir: Path) -> int:
    """Starts a service, measures, prints; exit status. Leaves the service up until Ctrl-C unless `once`."""
    console = Console(stderr=as_json)
    with console.status("starting the service"):
        service = start_service(home_dir, port)
    with stopping(service):
        rows = _measure_all(console, service, draws)
        console.print(_table(rows, draws))
        if not once:
            console.print(f"The service stays up: [link]{service.url}/?key={service.key}[/link]   (Ctrl-C ends it)", soft_wrap=True)
        if as_json:
            print(json.dumps({"rows": [asdict(row) for row in rows]}), flush=True)
        return 0 if once else _wait(service)


@dataclass(frozen=True)
class Service:
    """A running `innerloop serve`, and an admin key of it."""

    process: subprocess.Popen[bytes]
    url: str
    key: str
    log: Path


def start_service(home_dir: Path, port: int) -> Service:
    """The service with its embedded defaults in a process of its own, once it is ready. Raises SystemExit with the log's end."""
    home_dir.mkdir(parents=True, exist_ok=True)
    log, port = home_dir / "service.log", free_port(port)
    command = [sys.executable, "-m", "app.cli"]
    # Embedded whatever the shell has configured: the demo must not write into somebody's database.
    stores = ["--home-dir", str(home_dir), "--database-url", "", "--redis-url", ""]
    made = [*command, "keys", "create", f"demo {secrets.token_hex(3)}", "--scope", "user", "--scope", "admin", *stores[:4]]
    key = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
    serve = [*command, "serve", "--host", "127.0.0.1", "--port", str(port), *stores]
    with log.open("wb") as sink:
        # A session of its own: Ctrl-C reaches the demo, which then ends the service in order.
        process = subprocess.Popen(serve, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603
    service = Service(process, f"http://127.0.0.1:{port}", key, log)
    _await_ready(service)
    return service


def free_port(wanted: int) -> int:
    """`wanted` when nothing listens there, else any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_ready(service: Service) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while service.process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{service.url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    service.process.kill()
    raise SystemExit(f"the service did not become ready; the end of {service.log}:\n{service.log.read_text()[-2000:]}")


@contextmanager
def stopping(service: Service) -> Iterator[None]:
    """Ends the service in an orderly way when the block ends, however it does."""
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGTERM)
        try:
            service.process.wait(30)
        except subprocess.TimeoutExpired:
            service.process.kill()


def _wait(service: Service) -> int:
    try:
        return service.process.wait()
    except KeyboardInterrupt:
        return 0


def _measure_all(console: Console, service: Service, draws: int) -> list[Row]:
    pictures, digits = load_pictures()
    rows = []
    with InnerLoop(service.url, service.key) as client, Progress(console=console, transient=True) as progress:
        bar = progress.add_task("learning digits", total=len(INITIALIZERS) * len(SHOTS) * (draws + 1))
        for initializer in INITIALIZERS:
            for shot in SHOTS:
                scores = []
                # The draw before the first is a warm-up and is not counted: torch compiles and allocates on first use.
                for seed in range(-1, draws):
                    drawn = draw_problem(pictures, digits, shot, np.random.default_rng([shot, seed + 1]))
                    scores.append(score(client, initializer, drawn))
                    progress.advance(bar)
                rows.append(_summarise(initializer, shot, scores[1:]))
    return rows


def load_pictures() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Every digit as a picture (28, 28) with bright ink, and which digit it is."""
    from sklearn.datasets import load_digits  # imported late: a second that `innerloop serve` need not wait

    found = load_digits()
    return np.stack([enlarge(image) for image in found.images]), found.target.astype(np.int64)


def enlarge(digit: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """An 8 x 8 digit of 0 to 16 as a 28 x 28 picture of 0 to 255 with a margin."""
    framed = np.pad(np.rint(digit * (255 / 16)).astype(np.uint8), MARGIN)
    return np.asarray(Image.fromarray(framed).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def draw_problem(pictures: npt.NDArray[np.uint8], digits: npt.NDArray[np.int64], shot: int, random: np.random.Generator) -> Draw:
    """Five digits, `shot` examples of each, and 200 others of the same five to recognise."""
    chosen = random.choice(10, N_WAY, replace=False)
    shuffled = [random.permutation(np.flatnonzero(digits == digit)) for digit in chosen]
    support = np.concatenate([members[:shot] for members in shuffled])
    others = random.permutation(np.concatenate([members[shot:] for members in shuffled]))[:N_HELD_OUT]
    return Draw(pictures[support], digits[support], pictures[others], digits[others])


def score(client: InnerLoop, initializer: str, draw: Draw) -> Score:
    """Adapts, predicts, and deletes the task. Its name makes it a new one, so nothing is answered from an earlier run."""
    name = f"demo {secrets.token_hex(8)}"
    started_s = time.perf_counter()
    task = client.adapt(draw.support[:, None], [str(digit) for digit in draw.support_digits], initializer, name=name)
    adapted_s = time.perf_counter()
    labels = task.predict(draw.queries[:, None]).labels
    ended_s = time.perf_counter()
    task.delete()
    hits = np.array(labels) == draw.query_digits.astype(str)
    return Score(100 * float(hits.mean()), 1e3 * (adapted_s - started_s), 1e3 * (ended_s - adapted_s))


def _summarise(initializer: str, shot: int, scores: list[Score]) -> Row:
    from scipy.stats import t as student_t  # imported late, like scikit-learn

    accuracies = np.array([one.accuracy for one in scores])
    quantile = float(student_t.ppf(0.975, len(scores) - 1))  # 2.26 for ten draws, where 1.96 would promise too much
    ci95 = quantile * float(accuracies.std(ddof=1)) / len(scores) ** 0.5
    adapt_ms, predict_ms = median(one.adapt_ms for one in scores), median(one.predict_ms for one in scores)
    return Row(initializer, N_WAY, shot, round(float(accuracies.mean()), 2), round(ci95, 2), round(adapt_ms, 2), round(predict_ms, 2))


def _table(rows: list[Row], draws: int) -> Table:
    table = Table(
        title=f"Handwritten digits, {N_HELD_OUT} held out, mean of {draws} draws", caption="times: medians, as the client sees them"
    )
    for name in ("initializer", "way", "shot", "accuracy %", "adapt ms", "predict ms"):
        table.add_column(name, justify="left" if name == "initializer" else "right", no_wrap=True)
    for row in rows:
        measured = (f"{row.accuracy:.1f} ± {row.ci95:.1f}", f"{row.adapt_ms:.1f}", f"{row.predict_ms:.1f}")
        table.add_row(row.initializer, str(row.way), str(row.shot), *measured)
    return table
