"""The experiment schema."""

from pronk.config.load import ConfigError, dump, experiment_hash, load, parse
from pronk.config.schema import Experiment

__all__ = ["ConfigError", "Experiment", "dump", "experiment_hash", "load", "parse"]
