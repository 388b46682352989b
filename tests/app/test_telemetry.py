from __future__ import annotations

import asyncio
import re
import time

from app import telemetry


def test_every_metric_of_the_table_is_on_the_page_and_none_is_missing_from_the_table() -> None:
    telemetry.count_task("maml")
    telemetry.count_adaptation("ready", {"device": 2.0})
    telemetry.observe_lanes("adapt", 3)
    telemetry.set_unfinished_rows(4)
    telemetry.count_state("device", "hit")
    telemetry.count_predictions("maml", 5, {"total": 1.0})
    telemetry.count_reload("maml", "changed")
    telemetry.set_current_version("maml", 6)
    shown = set(re.findall(r"^# TYPE (innerloop_\w+) ", telemetry.render_metrics().decode(), re.MULTILINE))
    shown = {name for name in shown if not name.endswith("_created") or name == "innerloop_tasks_created"}
    assert shown == set(re.findall(r"`(innerloop_\w+)`", telemetry.__doc__ or ""))


def test_phases_are_shown_in_seconds() -> None:
    telemetry.count_adaptation("ready", {"seconds_test": 2500.0})
    assert 'innerloop_adaptation_phase_seconds_sum{phase="seconds_test"} 2.5' in telemetry.render_metrics().decode()


def test_bridging_twice_keeps_one_page() -> None:
    telemetry.bridge_opentelemetry()
    telemetry.bridge_opentelemetry()
    assert telemetry.render_metrics()


async def test_an_event_loop_that_was_held_up_is_late() -> None:
    watching = asyncio.create_task(telemetry.watch_event_loop(interval_s=0.001))
    await asyncio.sleep(0)
    before_s = loop_lag_s()
    time.sleep(0.05)  # noqa: ASYNC251 (the point of the test)
    await asyncio.sleep(0.01)
    watching.cancel()
    assert loop_lag_s() - before_s >= 0.04


def loop_lag_s() -> float:
    found = re.search(r"^innerloop_event_loop_lag_seconds_sum (\S+)$", telemetry.render_metrics().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0
