"""The experiment schema."""

from pronk.config.experiment import Experiment
from pronk.config.load import ConfigError, dump, experiment_hash, load, parse

__all__ = ["ConfigError", "Experiment", "dump", "experiment_hash", "load", "parse"]
