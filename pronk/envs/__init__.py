"""Environments: construction, vectorisation, spaces as named arrays."""

from pronk.envs.make import describe, make, record
from pronk.envs.slots import Observation, Recorder, SlotEnv, StepResult

__all__ = ["Observation", "Recorder", "SlotEnv", "StepResult", "describe", "make", "record"]
