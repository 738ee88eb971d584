"""How a learner does, in numbers: for the journal and for metrics."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from pronk.telemetry import metrics
from pronk_learner.progress import Progress
from pronk_learner.trainer import Update


@dataclass
class Meter:
    """Seconds since the start, and the newest update; read by other threads."""

    busy_seconds: float = 0.0
    waiting_seconds: float = 0.0
    frames: int = 0
    lag: float | None = None
    update: Update | None = None


class Figures:
    """The newest numbers of a learner's progress and meter."""

    def __init__(self, policy: str, progress: Progress, meter: Meter) -> None:
        self._policy = policy
        self._progress = progress
        self._meter = meter

    def tell_returns(self) -> None:
        """Set the metrics of what was reached of late; no episode yet, no metric."""
        mean, spread = self._progress.return_mean(), self._return_spread()
        values = {"0.1": spread[0], "0.9": spread[1]}
        if mean is not None:
            metrics.RETURN_MEAN.labels(self._policy).set(mean)
        for quantile, value in values.items():
            if value is not None:
                metrics.RETURN_QUANTILE.labels(self._policy, quantile).set(value)

    def row(self) -> dict[str, Any]:
        """The newest numbers, for the journal."""
        counters, update = self._progress.counters, self._meter.update
        low, high = self._return_spread()
        row: dict[str, Any] = {
            "time": time.time(),
            "seconds": counters.seconds,
            "frames": counters.frames,
            "steps": counters.steps,
            "updates": counters.updates,
            "episodes": counters.episodes,
            "return_mean": self._progress.return_mean(),
            "return_low": low,
            "return_high": high,
            "steps_per_second": self._progress.steps_per_second,
            "lag": self._meter.lag,
            "learner_busy_seconds": self._meter.busy_seconds,
            "learner_waiting_seconds": self._meter.waiting_seconds,
        }
        if update is not None:
            loss, steps = update.loss, max(1.0, float(update.loss.steps))
            row |= {
                "loss_policy": float(loss.policy) / steps,
                "loss_value": float(loss.value) / steps,
                "entropy": float(loss.entropy) / steps,
                "rho_mean": float(loss.rho_mean),
                "rho_clipped_share": float(loss.rho_clipped_share),
                "gradient_norm": float(update.gradient_norm),
                "learning_rate": update.learning_rate,
            }
            metrics.RHO_MEAN.labels(self._policy).set(row["rho_mean"])
            metrics.RHO_CLIPPED_SHARE.labels(self._policy).set(row["rho_clipped_share"])
        return {key: finite(value) for key, value in row.items()}

    def _return_spread(self) -> tuple[float | None, float | None]:
        returns = self._progress.counters.returns[-100:]
        if not returns:
            return None, None
        low, high = np.quantile(returns, [0.1, 0.9])
        return float(low), float(high)


def finite(value: float | None) -> float | None:
    """What is not finite is not known: neither JSON nor the parameter server takes it."""
    return value if value is not None and math.isfinite(value) else None
