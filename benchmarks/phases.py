"""An owner for every millisecond of a request: the service's own clocks, and what is left on either side of them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from benchmarks.http_connection import find_header
from benchmarks.load_generator import Sample

_CLOCK = re.compile(r"([\w-]+);dur=([\d.]+)")
_LANES = re.compile(rb'^innerloop_lanes_per_batch_(sum|count)\{work="(\w+)"\} (\S+)$', re.MULTILINE)


def split_request(sample: Sample) -> dict[str, float] | None:
    """Milliseconds by owner, whose sum is the latency; None when the reply was not kept or has no clocks.

    The phases are those in `timings_ms` of the answer and in Server-Timing, which alone has what an adaptation's request met before there
    was a task. in_service: the rest of the service's own total, that is routing, key, SQL and waiting for the event loop. outside: what the
    server's HTTP, the sockets and the generator add to that.
    """
    if sample.reply is None:
        return None
    clocks = {name: float(ms) for name, ms in _CLOCK.findall(find_header(sample.reply.head, "server-timing"))}
    total_ms = clocks.pop("total", None)
    if total_ms is None:
        return None
    phases = clocks | {name: float(ms) for name, ms in json.loads(sample.reply.body)["timings_ms"].items() if name != "total"}
    return {**phases, "in_service": total_ms - sum(phases.values()), "outside": sample.latency_ms - total_ms}


def mean_phases_ms(samples: Iterable[Sample]) -> dict[str, float]:
    """The mean of each owner's milliseconds; means, unlike percentiles, add up to the mean latency."""
    splits = [split for sample in samples if (split := split_request(sample)) is not None]
    names = list(dict.fromkeys(name for split in splits for name in split))
    return {name: round(sum(split.get(name, 0.0) for split in splits) / len(splits), 3) for name in names}


def count_lanes(*metrics_pages: bytes) -> dict[str, tuple[float, float]]:
    """Lanes and batches so far, by work, from the metrics pages of the service's processes."""
    found = defaultdict[tuple[str, str], float](float)
    for part, work, value in _LANES.findall(b"\n".join(metrics_pages)):
        found[work.decode(), part.decode()] += float(value)
    return {work: (found[work, "sum"], found[work, "count"]) for work in sorted({work for work, _ in found})}


def mean_lanes(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Mean lanes per batch between two pages, of the work that was done at all."""
    means = {}
    for work, (lanes, batches) in after.items():
        lanes_before, batches_before = before.get(work, (0.0, 0.0))
        if batches > batches_before:
            means[work] = round((lanes - lanes_before) / (batches - batches_before), 2)
    return means
