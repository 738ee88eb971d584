"""A process for every slot, by Gymnasium's AsyncVectorEnv.

What fails inside an environment is mended in its own process (`worker.py`). When a process dies or
hangs, all of them are killed and started anew: AsyncVectorEnv cannot go on without one.
"""

import multiprocessing
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv
from numpy.typing import NDArray

from pronk.envs.failures import ERRORS, Failure, Unusable
from pronk.envs.single import Env
from pronk.envs.vector import VectorSlots
from pronk.envs.worker import FAILED, Worker

_RESET_FACTOR = 10
"""How much longer than a step a first observation may take."""
_CLOSING_SECONDS = 5.0


class ProcessSlots(VectorSlots):
    """N environments in N processes."""

    _in_this_process = False
    _env: AsyncVectorEnv

    def close(self) -> None:
        """Close the environments; kill those that do not close."""
        closing = threading.Thread(target=self._close_well, daemon=True)
        closing.start()
        closing.join(_CLOSING_SECONDS)
        self._abandon()

    def _act(self, batch: Any) -> tuple[Any, ...]:
        return self._within(
            self._step_seconds,
            lambda: self._env.step_async(batch),
            self._env.step_wait,
        )

    def _look(self, seeds: NDArray[np.int64] | None) -> tuple[Any, ...]:
        seed = None if seeds is None else self._as_seed(seeds)
        return self._within(
            _RESET_FACTOR * self._step_seconds,
            lambda: self._env.reset_async(seed),
            self._env.reset_wait,
        )

    def _within(
        self,
        seconds: float,
        ask: Callable[[], None],
        answers: Callable[[float], tuple[Any, ...]],
    ) -> tuple[Any, ...]:
        try:
            ask()
            return answers(seconds)
        except multiprocessing.TimeoutError:
            late = [slot for slot, pipe in enumerate(self._env.parent_pipes) if not pipe.poll()]
            said = f"no answer for {seconds:g} s (env.step_seconds)"
            raise Unusable("hang", f"{_listed(late)}: {said}") from None
        except (EOFError, OSError):
            raise Unusable("crash", self._deaths()) from None

    def _deaths(self) -> str:
        processes = self._env.processes
        ending = wait([process.sentinel for process in processes], 1.0)
        for process in processes:
            if process.sentinel in ending:  # a moment before it has ended
                process.join(1.0)
        dead = [slot for slot, process in enumerate(processes) if not process.is_alive()]
        status = processes[dead[0]].exitcode if dead else None
        return f"{_listed(dead)}: the process died (status {status})"

    def _abandon(self) -> None:
        """Kill all processes. Its own `close` would wait for those that are gone."""
        for process in self._env.processes:
            process.kill()
        for process in self._env.processes:
            process.join()
        for pipe in self._env.parent_pipes:
            if pipe is not None:
                pipe.close()
        self._env.closed = True

    def _close_well(self) -> None:
        with suppress(*ERRORS):
            self._env.close()

    def _failed(self, info: dict[str, Any]) -> NDArray[np.bool_] | None:
        failed: NDArray[np.bool_] | None = info.get(f"_{FAILED}")
        return failed

    def _note(self, info: dict[str, Any]) -> None:
        for slot, told in enumerate(info.get(FAILED, ())):
            for reason, said in told or ():
                self._failures.add(Failure(slot, reason, said))


def processes(
    build: Callable[[], Env],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    seeds: Iterable[int],
) -> AsyncVectorEnv:
    """A process for every seed, each of which makes its environment by `build`."""
    made = [partial(Worker, build, observation_space, action_space, seed) for seed in seeds]
    # Spawned, not forked: this process has threads. Copies are the caller's to make.
    return AsyncVectorEnv(made, copy=False, context="spawn")


def _listed(slots: Iterable[int]) -> str:
    return "slot " + ", ".join(map(str, slots))
