"""`pronk learner` at a tenth of its speed: after every update it rests nine times as long.

As long as the processor worked on it: what else the machine has to do slows it anyway.
"""

import sys
import time
from typing import Any

from pronk_learner.learner import Learner

from pronk.cli.main import main

_REST = 9.0

_train = Learner._train


def train_and_rest(self: Learner, draw: Any) -> None:
    """Train on the batch, and rest."""
    started = time.thread_time()
    _train(self, draw)
    time.sleep(_REST * (time.thread_time() - started))


if __name__ == "__main__":
    Learner._train = train_and_rest  # type: ignore[method-assign]
    main(["learner", *sys.argv[1:]])
