"""Every learner of the project in a small form, for the laws to run through. A learner that is not here is not lawful."""

from __future__ import annotations

from typing import Any

CONV4 = {"kind": "conv4", "filters": 8, "groups": 4}
IMAGE = [1, 16, 16]

SPECS: dict[str, dict[str, Any]] = {
    "maml": {"method": "maml", "kind": "classification", "input_shape": IMAGE, "inner_steps": 3, "backbone": CONV4},
    "maml-pooled": {"method": "maml", "kind": "classification", "input_shape": IMAGE, "backbone": {**CONV4, "downsample": "pool"}},
    "maml-layer-norm": {"method": "maml", "kind": "classification", "input_shape": IMAGE, "backbone": {**CONV4, "norm": "layer"}},
    "fomaml": {"method": "maml", "kind": "classification", "input_shape": IMAGE, "first_order": True, "backbone": CONV4},
    "maml-mlp": {"method": "maml", "kind": "classification", "input_shape": [6], "backbone": {"kind": "mlp", "hidden": [16, 8]}},
    "maml-regression": {
        "method": "maml",
        "kind": "regression",
        "input_shape": [1],
        "inner_steps": 4,
        "inner_lr": 0.05,
        "backbone": {"kind": "mlp", "hidden": [16, 16]},
    },
    "protonet": {"method": "protonet", "kind": "classification", "input_shape": IMAGE, "backbone": CONV4},
    "protonet-pooled": {"method": "protonet", "kind": "classification", "input_shape": IMAGE, "backbone": {**CONV4, "downsample": "pool"}},
    "protonet-mlp": {"method": "protonet", "kind": "classification", "input_shape": [6], "backbone": {"kind": "mlp", "hidden": [16, 8]}},
}
