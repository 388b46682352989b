"""Which adaptation of a task answers, or why none does."""

from __future__ import annotations

from app.domain import Adaptation, Status, Task
from app.errors import Conflict


def require_serving(task: Task) -> Adaptation:
    """The adaptation that serves. Raises Conflict task_not_ready (retry_after_s set), or adaptation_failed when none ever will."""
    if task.serving is not None:
        return task.serving
    latest = task.latest
    if latest.status is Status.FAILED:
        raise Conflict(f"The adaptation failed ({latest.error_code}): {latest.error_detail}", code="adaptation_failed")
    raise Conflict(f"The task is {latest.status}; no revision is ready yet.", code="task_not_ready", retry_after_s=1)
