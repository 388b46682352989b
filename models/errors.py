"""Errors of the torch library. Nothing here knows HTTP.

* ModelError
  + InvalidSupport        the caller's fault: says which example or class, and what was expected
  + InvalidQuery          the caller's fault: the query does not fit the initializer
  + InvalidOptions        the caller's fault: an option the learner does not have, or out of range
  + IncompatibleState     an adapted state that this learner did not make
  + CheckpointCorrupt     a file whose digest, schema or golden episode does not hold
  + DataUnavailable       a data set that is neither here nor to be had
  + InvalidRecipe         a recipe with a fault, and where it is
  + OutOfMemory           the device has no room for the batch
  + DeviceUnavailable     a device that is not on this machine
"""


class ModelError(Exception):
    """Base of every error that `models/` raises on purpose."""


class InvalidSupport(ModelError):
    """A support set that cannot be adapted to."""


class InvalidQuery(ModelError):
    """A query that does not fit the initializer."""


class InvalidOptions(ModelError):
    """An option the learner does not know, or a value out of its range."""


class IncompatibleState(ModelError):
    """An adapted state of another learner, version or shape."""


class CheckpointCorrupt(ModelError):
    """An initializer or checkpoint whose digest, schema or golden episode does not hold."""


class DataUnavailable(ModelError):
    """A data set that is not on this machine and could not be downloaded."""


class InvalidRecipe(ModelError):
    """A recipe with a fault; the message names the key."""


class OutOfMemory(ModelError):
    """The device has no room for a batch of this size."""


class DeviceUnavailable(ModelError):
    """A device that was asked for by name and is not on this machine."""
