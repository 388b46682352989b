"""How long one client waits over HTTP: an adaptation from submit to ready, and the prediction of one query.

    python -m benchmarks.http_latency --repeats 200

A service of its own on the embedded defaults, one connection, one request at a time, real handwritten digits. The last line is one
JSON object with `rows`. Run it on a quiet machine: the figures are absolute.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from app.client import InnerLoop
from app.demo import Draw, draw_problem, load_pictures, start_service, stopping

WARM_UP = 10
INITIALIZERS = ("omniglot-protonet", "omniglot-maml")


def time_calls(call: Callable[[int], object], repeats: int) -> dict[str, float]:
    """Percentiles in milliseconds of `repeats` calls after a warm-up."""
    spans_ms = []
    for index in range(-WARM_UP, repeats):
        started_s = time.perf_counter()
        call(index)
        spans_ms.append(1e3 * (time.perf_counter() - started_s))
    p50, p95, p99 = np.percentile(spans_ms[WARM_UP:], [50, 95, 99])
    return {"p50_ms": round(float(p50), 2), "p95_ms": round(float(p95), 2), "p99_ms": round(float(p99), 2)}


def measure(client: InnerLoop, initializer: str, drawn: Draw, repeats: int) -> list[dict[str, Any]]:
    """Two rows: adapting to the drawn support set (each time as a new task), and predicting one of its queries."""
    labels = [str(digit) for digit in drawn.support_digits]
    inputs, queries = drawn.support[:, None], drawn.queries[:, None]

    def adapt(index: int) -> None:
        client.adapt(inputs, labels, initializer, name=f"latency {time.time_ns()} {index}")

    task = client.adapt(inputs, labels, initializer, name=f"latency {time.time_ns()}")

    def predict(index: int) -> None:
        task.predict(queries[index % len(queries)][None])

    settings = {"initializer": initializer, "way": 5, "shot": len(labels) // 5, "repeats": repeats}
    return [{"what": what, **settings, **time_calls(call, repeats)} for what, call in (("adapt", adapt), ("predict", predict))]


def main(repeats: Annotated[int, typer.Option(help="Timed calls of each kind.")] = 200) -> None:
    """Measures both image initializers, 5-way 1-shot."""
    pictures, digits = load_pictures()
    drawn = draw_problem(pictures, digits, 1, np.random.default_rng(0))
    rows = []
    with tempfile.TemporaryDirectory() as home:
        service = start_service(Path(home), 0)
        with stopping(service), InnerLoop(service.url, service.key) as client:
            for initializer in INITIALIZERS:
                rows += measure(client, initializer, drawn, repeats)
    for row in rows:
        typer.echo(f"{row['what']:8} {row['initializer']:18} p50 {row['p50_ms']} ms, p95 {row['p95_ms']} ms, p99 {row['p99_ms']} ms")
    settings = {"machine": platform.machine(), "cores": torch.get_num_threads(), "torch": torch.__version__}
    typer.echo(json.dumps({"benchmark": "http_latency", "settings": settings, "rows": rows}))


if __name__ == "__main__":
    typer.run(main)
