"""The same service in LitServe: one worker process that holds the net and the adapted models, one route for both calls.

    python -m benchmarks.litserve_endpoint --port 8002 --folder models/initializers/omniglot-maml

LitServe batches calls of one model; here every call has weights of its own, so it serves them one by one. It reads the annotations of
its hooks at run time, so this file does without `from __future__ import annotations`.
"""

import argparse
import base64
import io
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import torch
from fastapi import Request

from benchmarks.kept_models import KeptModels
from benchmarks.plain_learner import load_plain_learner


class FewShot(litserve.LitAPI):  # type: ignore[misc, unused-ignore]  # untyped, and only in the peers' environment
    """`{"inputs", "labels"}` adapts and answers with an id; `{"id", "inputs"}` predicts with that model."""

    def __init__(self, folder: Path, n_way: int, threads: int) -> None:
        super().__init__()
        self._folder, self._n_way, self._threads = folder, n_way, threads

    def setup(self, device: str) -> None:
        """Called in the worker process."""
        if self._threads:
            torch.set_num_threads(self._threads)
        self._learner, self._device = load_plain_learner(self._folder, self._n_way, device), device
        self._models = KeptModels()

    def decode_request(self, request: Request) -> dict[str, Any]:
        """The body with its images as a tensor. What comes is the body, whatever the annotation says; it makes LitServe read JSON."""
        array = np.load(io.BytesIO(base64.b64decode(request["inputs"])), allow_pickle=False)
        images = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)
        return {**request, "inputs": torch.from_numpy(images).to(self._device)}

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """One call."""
        return self._predict(request) if "id" in request else self._adapt(request)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """The answer is plain values already."""
        return output

    def _adapt(self, request: dict[str, Any]) -> dict[str, Any]:
        classes = sorted(set(request["labels"]))
        labels = torch.tensor([classes.index(label) for label in request["labels"]], device=self._device)
        return {"id": self._models.keep(self._learner.adapt(request["inputs"], labels), classes)}

    def _predict(self, request: dict[str, Any]) -> dict[str, Any]:
        kept = self._models.find(request["id"])
        if kept is None:
            raise ValueError(f"no model {request['id']}")
        adapted, classes = kept
        answers = self._learner.predict(adapted, request["inputs"]).tolist()
        return {"predictions": [dict(zip(classes, row, strict=True)) for row in answers]}


def main() -> None:
    """Serves until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--n-way", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    accelerator = "cpu" if given.device == "cpu" else "cuda"
    server = litserve.LitServer(FewShot(given.folder, given.n_way, given.threads), accelerator=accelerator, devices=1, timeout=120)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
