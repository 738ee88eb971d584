"""Which episodes ended, and what they returned."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pronk.wire.unroll import Episode
from pronk_actor.agent import PolicyVersion


class Ended(NamedTuple):
    """An episode that ended, and the version that it began with."""

    episode: Episode
    version: PolicyVersion


class EpisodeTracker:
    """Adds up N slots, unroll by unroll; an episode may span many of them.

    Returns are sums of raw rewards in float64. A dead row that does not follow an end is a failure
    of the environment: what was open there is lost, and the next episode begins.

    Attributes:
        lost: (slot, number) of the episodes lost in the newest rows.
    """

    def __init__(self, slots: NDArray[np.int32], frames_per_step: int, number: int = 0) -> None:
        """Begin an episode in every slot.

        Args:
            slots: [N] the member's numbers of these slots.
            frames_per_step: environment frames per decision.
            number: of the episodes that begin.
        """
        self._slots = slots
        self._frames = frames_per_step
        self._return = np.zeros(len(slots))
        self._steps = np.zeros(len(slots), np.int64)
        self._numbers = [number] * len(slots)
        self._versions: list[PolicyVersion] = []
        self._over = np.zeros(len(slots), np.bool_)
        self.lost: list[tuple[int, int]] = []

    def advance(
        self,
        reward: NDArray[np.float32],
        valid: NDArray[np.bool_],
        ended: NDArray[np.bool_],
        version: PolicyVersion,
        task: NDArray[np.int32],
    ) -> list[Ended]:
        """Add T rows, all [T, N]; return the episodes that ended in them.

        Args:
            reward: raw.
            valid: False on reset transitions and where an environment failed.
            ended: terminated or truncated.
            version: the one that acted.
            task: [N]
        """
        if not self._versions:
            self._versions = [version] * len(self._slots)
        returns = reward.cumsum(0, np.float64) + self._return
        steps = valid.cumsum(0) + self._steps
        self._return, self._steps = returns[-1].copy(), steps[-1].copy()
        # What each slot's earlier episodes contributed to its running sums.
        past_return = np.zeros(len(self._slots))
        past_steps = np.zeros(len(self._slots), np.int64)
        lost = ~valid & ~np.concatenate([self._over[None], ended[:-1]])
        self._over = ended[-1].copy()
        self.lost = []
        finished = []
        for slot, row in zip(*np.nonzero((ended | lost).T), strict=True):
            length = int(steps[row, slot] - past_steps[slot])
            episode = Episode(
                episode_return=float(returns[row, slot] - past_return[slot]),
                steps=length,
                frames=length * self._frames,
                task=int(task[slot]),
                slot=int(self._slots[slot]),
                number=self._numbers[slot],
            )
            if lost[row, slot]:
                self.lost.append((episode.slot, episode.number))
            else:
                finished.append(Ended(episode, self._versions[slot]))
            past_return[slot], past_steps[slot] = returns[row, slot], steps[row, slot]
            self._numbers[slot] += 1
            self._versions[slot] = version
        self._return -= past_return
        self._steps -= past_steps
        return finished
