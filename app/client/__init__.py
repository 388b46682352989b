"""The Python client: sync and async, typed, and free of the service's own code.

from app.client import InnerLoop
"""

from app.client.aio import AsyncAdaptedTask, AsyncInnerLoop
from app.client.answers import Evidence, Initializer, Neighbourhood, Predictions, SimilarTask, TaskInfo, WarmStart
from app.client.encoding import Examples
from app.client.errors import (
    AdaptationFailed,
    Busy,
    Conflict,
    Forbidden,
    InnerLoopError,
    InvalidInput,
    Issue,
    NotFound,
    NotReadyInTime,
    ServerError,
    Unauthenticated,
    Unreachable,
)
from app.client.flow import Retries
from app.client.sync import AdaptedTask, InnerLoop

__all__ = [
    "AdaptationFailed",
    "AdaptedTask",
    "AsyncAdaptedTask",
    "AsyncInnerLoop",
    "Busy",
    "Conflict",
    "Evidence",
    "Examples",
    "Forbidden",
    "Initializer",
    "InnerLoop",
    "InnerLoopError",
    "InvalidInput",
    "Issue",
    "Neighbourhood",
    "NotFound",
    "NotReadyInTime",
    "Predictions",
    "Retries",
    "ServerError",
    "SimilarTask",
    "TaskInfo",
    "Unauthenticated",
    "Unreachable",
    "WarmStart",
]
