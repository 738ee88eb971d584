"""`pronk learner`: one policy's learner, as its container runs it."""

import threading
from pathlib import Path
from typing import Annotated

import typer

from pronk.config import load
from pronk.startup import limit_threads, run_service


def learner(
    config: Annotated[Path, typer.Option(help="The experiment, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="The policy to train; default: the experiment's only one.")
    ] = None,
) -> None:
    """Train a policy on the unrolls of the buffer and publish its versions.

    Example: PRONK_RUN_DIR=runs/cartpole pronk learner --config configs/cartpole.yaml
    """

    def main(stop: threading.Event) -> None:
        experiment = load(config, overrides or ())
        limit_threads(experiment.learner.threads)
        # torch reads the number of threads when it is imported.
        from pronk_learner.service import serve

        serve(experiment, policy, stop)

    run_service(main)
