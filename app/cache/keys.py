"""Every Redis key the services own. The queue's keys are docket's and start with the docket's name.

| key                          | type    | holds                                                     | TTL                            |
|------------------------------|---------|-----------------------------------------------------------|--------------------------------|
| `innerloop:states:{task_id}` | hash    | field `r{revision}:{name}@{version}` -> a state as bytes  | INNERLOOP_STATE_TTL_S, sliding |
| `innerloop:signal:{topic}`   | channel | empty messages; topics below                              | none                           |

Topics: `adaptation:{task_id}:{revision}` (ready or failed), `deleted:{task_id}`, `initializer:{name}` (reloaded).
"""

from __future__ import annotations

from app.domain import StateKey

NAMESPACE = "innerloop"
ADAPTATION_TOPICS, DELETED_TOPICS = "adaptation:", "deleted:"


def states_key(namespace: str, task_id: str) -> str:
    """The hash of all adapted states of a task: one DEL forgets the task."""
    return f"{namespace}:states:{task_id}"


def state_field(key: StateKey) -> str:
    """The field of one adapted state in its task's hash."""
    return f"r{key.revision}:{key.initializer}"


def signal_channel(namespace: str, topic: str) -> str:
    """The pub/sub channel of a topic."""
    return f"{namespace}:signal:{topic}"


def adaptation_topic(task_id: str, revision: int) -> str:
    """Told when an adaptation became ready or failed."""
    return f"{ADAPTATION_TOPICS}{task_id}:{revision}"


def deleted_topic(task_id: str) -> str:
    """Told when a task was deleted."""
    return f"{DELETED_TOPICS}{task_id}"


def initializer_topic(name: str) -> str:
    """Told when an initializer got a new current version."""
    return f"initializer:{name}"
