"""Environments: construction, vectorisation, spaces as named arrays."""

from pronk.envs.failures import Failure
from pronk.envs.make import describe, make, record
from pronk.envs.slots import Observation, Recorder, SlotEnv, StepResult

__all__ = [
    "Failure",
    "Observation",
    "Recorder",
    "SlotEnv",
    "StepResult",
    "describe",
    "make",
    "record",
]
