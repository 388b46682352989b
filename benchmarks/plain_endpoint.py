"""The service that everybody writes in an afternoon: one FastAPI file that runs the inner loop inside the request.

    python -m benchmarks.plain_endpoint --port 8001 --folder models/initializers/omniglot-maml

Sync endpoints, so FastAPI runs them in its threadpool; the newest adapted models stand in the process. No database, no keys, no
queue, no limits: what it does not do is in its favour here.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from torch import Tensor

from benchmarks.kept_models import KeptModels
from benchmarks.plain_learner import load_plain_learner


class Support(BaseModel):
    """inputs: base64 of a .npy file of images (n, 1, 28, 28); labels: a class name for each."""

    inputs: str
    labels: list[str]


class Queries(BaseModel):
    """inputs: base64 of a .npy file of images (n, 1, 28, 28)."""

    inputs: str


def decode_images(text: str) -> Tensor:
    """Float images of a base64 .npy file; uint8 is scaled to [0, 1]."""
    array = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
    return torch.from_numpy(array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32))


def create_app(folder: Path, n_way: int, device: str = "cpu") -> FastAPI:
    """The whole service."""
    app = FastAPI()
    learner = load_plain_learner(folder, n_way, device)
    models = KeptModels()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/adapt")
    def adapt(support: Support) -> dict[str, str]:
        classes = sorted(set(support.labels))
        labels = torch.tensor([classes.index(label) for label in support.labels], device=device)
        images = decode_images(support.inputs).to(device)
        return {"id": models.keep(learner.adapt(images, labels), classes)}

    @app.post("/predict/{model_id}")
    def predict(model_id: str, queries: Queries) -> dict[str, list[dict[str, float]]]:
        kept = models.find(model_id)
        if kept is None:
            raise HTTPException(404, "no such model")
        adapted, classes = kept
        answers = learner.predict(adapted, decode_images(queries.inputs).to(device)).tolist()
        return {"predictions": [dict(zip(classes, row, strict=True)) for row in answers]}

    return app


def main(
    port: Annotated[int, typer.Option(help="Port to bind.")],
    folder: Annotated[Path, typer.Option(help="Folder of the initializer.")],
    n_way: Annotated[int, typer.Option(help="Classes of every task.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Intra-op threads of torch; 0 leaves torch's own choice.")] = 0,
) -> None:
    """Serves until a signal."""
    if threads:
        torch.set_num_threads(threads)
    uvicorn.run(create_app(folder, n_way, device), port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    typer.run(main)
