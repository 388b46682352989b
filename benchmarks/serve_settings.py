"""What `serve` is measured in: how many clients ask, in which loop, and of which deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

CLIENTS = (1, 4, 16, 64, 128)
WORKLOADS = ("predict", "adapt", "mixed")
RATES_PER_S: Mapping[str, Sequence[float]] = {"predict": (50, 200, 400), "adapt": (10, 30, 60), "mixed": (50, 150, 300)}
OPEN_CLIENTS = 64
OTHER_OPEN_CLIENTS = (1, 16, 128)
Deployment = Literal["embedded", "separated"]


@dataclass(frozen=True)
class Extent:
    """How much is measured. open_clients: of every rate; other_open_clients: of the middle one, which shows what their number does."""

    clients: Sequence[int]
    rates_per_s: Mapping[str, Sequence[float]]
    open_clients: int
    other_open_clients: Sequence[int]
    window_s: float
    warm_up_s: float
    rounds: int


@dataclass(frozen=True)
class Setting:
    """One line of the table: clients of a closed loop, or a rate of an open one, and how the service is deployed."""

    workload: str
    clients: int
    rate_per_s: float | None = None
    deployment: Deployment = "embedded"

    def __str__(self) -> str:
        loop = "closed loop" if self.rate_per_s is None else f"open loop at {self.rate_per_s:g}/s"
        return f"{self.workload}, {self.clients} clients, {loop}, {self.deployment}"

    def describe(self) -> dict[str, Any]:
        """As the row's settings."""
        loop = {"loop": "closed"} if self.rate_per_s is None else {"loop": "open", "rate_per_s": self.rate_per_s}
        return {"deployment": self.deployment, "workload": self.workload, "clients": self.clients, **loop}


def choose_extent(*, quick: bool) -> Extent:
    """Everything, or for a smoke run a moment of each kind."""
    if quick:
        return Extent((4,), {"predict": (40,)}, 4, (), window_s=0.2, warm_up_s=0.1, rounds=1)
    return Extent(CLIENTS, RATES_PER_S, OPEN_CLIENTS, OTHER_OPEN_CLIENTS, window_s=4.0, warm_up_s=1.0, rounds=3)


def list_settings(extent: Extent, *, is_separable: bool) -> list[Setting]:
    """Every line of the tables, one deployment after the other; other numbers of open clients are for the embedded one."""
    embedded = [*_list_loops(extent, "embedded"), *_list_other_clients(extent)]
    return [*embedded, *_list_loops(extent, "separated")] if is_separable else embedded


def _list_loops(extent: Extent, deployment: Deployment) -> list[Setting]:
    closed = [Setting(workload, clients, None, deployment) for workload in WORKLOADS for clients in extent.clients]
    rates = [(workload, rate) for workload, rates_per_s in extent.rates_per_s.items() for rate in rates_per_s]
    return closed + [Setting(workload, extent.open_clients, rate, deployment) for workload, rate in rates]


def _list_other_clients(extent: Extent) -> list[Setting]:
    middle = {workload: sorted(rates_per_s)[len(rates_per_s) // 2] for workload, rates_per_s in extent.rates_per_s.items()}
    return [Setting(workload, clients, rate) for workload, rate in middle.items() for clients in extent.other_open_clients]
