"""`pronk learner` whose every update takes some tenths of a second."""

import sys
import time
from typing import Any

from pronk_learner.trainer import Trainer, Update

from pronk.cli.main import main

update = Trainer.update


def update_slowly(self: Trainer, *given: Any) -> Update:
    """Update, and rest."""
    time.sleep(0.5)
    return update(self, *given)


if __name__ == "__main__":
    Trainer.update = update_slowly  # type: ignore[method-assign]
    main(["learner", *sys.argv[1:]])
