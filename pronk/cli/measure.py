"""Measures a running cluster: steps consumed, who waits, and what each process costs."""

import platform
import time
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from pronk.cli.failure import Failed
from pronk.cli.session import Cluster
from pronk.cli.vitals import Vitals
from pronk.config import Experiment
from pronk.hardware import processor, usable_cores

_VERSIONS = ("pronk", "torch", "onnxruntime", "gymnasium", "numpy", "grpcio", "redis")


@dataclass(frozen=True)
class Measurement:
    """What was measured between the first and the last report of the learner.

    Attributes:
        steps, frames: consumed by the learner: valid, once each, in an applied update.
        learner_waiting, actor_blocked: shares of the last ten seconds.
        cpu_seconds: used by the processes of a class: actor, learner, param-server, valkey.
    """

    seconds: float
    steps: int
    frames: int
    learner_waiting: float | None
    actor_blocked: float | None
    lag: float | None
    cpu_seconds: dict[str, float]

    def as_json(self, experiment: Experiment) -> dict[str, Any]:
        """Everything that a reader needs to repeat and to judge it."""
        policies = list(experiment.policies)
        algorithm = experiment.algorithm_of(policies[0])
        waiting = self.learner_waiting
        return {
            "steps_per_second": self.steps / self.seconds,
            "frames_per_second": self.frames / self.seconds,
            "actors": experiment.actor.count,
            "slots": experiment.actor.slots,
            "seconds": self.seconds,
            "env": experiment.env.id,
            "network": experiment.network_of(policies[0]).id,
            "frame_skip": round(self.frames / self.steps) if self.steps else None,
            "unroll_length": algorithm.unroll_length,
            "batch_size": algorithm.batch_size,
            "learner_busy_share": None if waiting is None else 1 - waiting,
            "actor_blocked_share": self.actor_blocked,
            "mean_lag": self.lag,
            "cpu_seconds_per_step": {
                name: seconds / self.steps for name, seconds in sorted(self.cpu_seconds.items())
            },
            "hardware": {
                "processor": processor(),
                "cores": usable_cores(),
                "memory_bytes": psutil.virtual_memory().total,
            },
            "versions": {"python": platform.python_version()} | _versions(),
        }


@dataclass(frozen=True)
class _Reading:
    at: float
    steps: int
    frames: int
    cpu: dict[str, float]


class Meter:
    """Looks at a cluster many times a second and keeps the learner's first and last report.

    The learner reports about once a second: counting from report to report, and not from clock to
    clock, keeps that interval out of the rate.
    """

    def __init__(self, running: Cluster) -> None:
        self._running = running
        self._first: _Reading | None = None
        self._last: _Reading | None = None
        self._steps = self._newest().steps
        self._lags: list[float] = []

    def look(self) -> None:
        """Take in what the learner reported since."""
        vitals = self._newest()
        if vitals.steps == self._steps:
            return
        self._steps = vitals.steps
        if vitals.lag is not None:
            self._lags.append(vitals.lag)
        reading = _Reading(time.monotonic(), vitals.steps, vitals.frames, self._cpu())
        self._first = self._first or reading
        self._last = reading

    def result(self) -> Measurement:
        """What was measured.

        Raises:
            Failed: the learner reported less than twice.
        """
        first, last = self._first, self._last
        if first is None or last is None or last.at <= first.at:
            raise Failed("the learner made too little progress to measure: measure for longer")
        vitals = self._newest()
        return Measurement(
            seconds=last.at - first.at,
            steps=last.steps - first.steps,
            frames=last.frames - first.frames,
            learner_waiting=vitals.learner_waiting,
            actor_blocked=vitals.actors_blocked,
            lag=sum(self._lags) / len(self._lags) if self._lags else None,
            cpu_seconds={name: last.cpu[name] - first.cpu.get(name, 0.0) for name in last.cpu},
        )

    def _newest(self) -> Vitals:
        vitals = self._running.poller.newest
        if vitals is None:
            raise Failed("the parameter server does not answer")
        return vitals

    def _cpu(self) -> dict[str, float]:
        used: dict[str, float] = defaultdict(float)
        for child in self._running.supervisor.statuses():
            if child.pid is None:
                raise Failed(f"{child.name} died while it was measured")
            try:
                times = psutil.Process(child.pid).cpu_times()
            except psutil.NoSuchProcess:
                raise Failed(f"{child.name} died while it was measured") from None
            kind = child.name if child.name == "param-server" else child.name.partition("-")[0]
            used[kind] += times.user + times.system + times.children_user + times.children_system
        return dict(used)


def _versions() -> dict[str, str]:
    found = {}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
