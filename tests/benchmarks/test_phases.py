"""Every millisecond has an owner."""

from __future__ import annotations

import json

import pytest

from benchmarks.http_connection import Reply
from benchmarks.load_generator import Sample
from benchmarks.phases import count_lanes, mean_lanes, mean_phases_ms, split_request

TIMINGS = {"decode": 0.5, "queue": 1.0, "batch": 0.25, "device": 2.0, "encode": 0.25, "total": 3.6}
HEAD = b"HTTP/1.1 200 OK\r\nserver-timing: decode;dur=0.50, total;dur=6.00\r\n"
PAGE = b"""# TYPE innerloop_lanes_per_batch histogram
innerloop_lanes_per_batch_bucket{le="1.0",work="adapt"} 1.0
innerloop_lanes_per_batch_count{work="adapt"} %d
innerloop_lanes_per_batch_sum{work="adapt"} %d
"""


def make_sample(latency_ms: float) -> Sample:
    return Sample("predict", latency_ms, 200, 0.0, Reply(200, HEAD, json.dumps({"timings_ms": TIMINGS}).encode()))


def test_the_parts_of_a_request_add_up_to_its_latency() -> None:
    split = split_request(make_sample(7.5))
    assert split == {"decode": 0.5, "queue": 1.0, "batch": 0.25, "device": 2.0, "encode": 0.25, "in_service": 2.0, "outside": 1.5}
    assert sum(split.values()) == pytest.approx(7.5)


def test_what_a_task_does_not_know_of_the_request_that_made_it_stands_in_the_header() -> None:
    timings = {name: ms for name, ms in TIMINGS.items() if name != "decode"}
    split = split_request(Sample("adapt", 7.5, 201, 0.0, Reply(201, HEAD, json.dumps({"timings_ms": timings}).encode())))
    assert split == split_request(make_sample(7.5))


def test_the_means_add_up_to_the_mean_latency() -> None:
    means = mean_phases_ms([make_sample(7.0), make_sample(9.0)])
    assert sum(means.values()) == pytest.approx(8.0)


def test_a_reply_that_was_not_kept_or_has_no_clocks_is_left_out() -> None:
    without_clocks = Sample("predict", 1.0, 200, 0.0, Reply(200, b"HTTP/1.1 200 OK\r\n", b"{}"))
    assert mean_phases_ms([Sample("predict", 1.0, 200, 0.0, None), without_clocks]) == {}


def test_mean_lanes_are_those_between_two_pages() -> None:
    before, after = count_lanes(PAGE % (2, 2)), count_lanes(PAGE % (6, 34))
    assert mean_lanes(before, after) == {"adapt": 8.0}
    assert mean_lanes(after, after) == {}
    assert mean_lanes({}, before) == {"adapt": 1.0}


def test_the_lanes_of_all_processes_of_a_service_are_counted_together() -> None:
    predicted = (PAGE % (3, 6)).replace(b'"adapt"', b'"predict"')
    assert count_lanes(predicted, PAGE % (2, 8), PAGE % (1, 1)) == {"adapt": (9.0, 3.0), "predict": (6.0, 3.0)}
    assert count_lanes() == {}
