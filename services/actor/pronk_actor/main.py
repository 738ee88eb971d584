"""`pronk actor`: plays environments, as its container runs it."""

import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pronk.config import load
from pronk.errors import Misconfigured
from pronk.startup import limit_threads, run_service


class Role(StrEnum):
    """What an actor plays for."""

    TRAIN = "train"
    EVALUATE = "evaluate"


def actor(
    config: Annotated[Path, typer.Option(help="The experiment, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key.")
    ] = None,
    role: Annotated[
        Role,
        typer.Option(
            help="`train` gathers data for the learner; `evaluate` plays whole episodes, "
            "taking the most likely actions, and only reports them."
        ),
    ] = Role.TRAIN,
    sample: Annotated[
        bool, typer.Option("--sample", help="Role `evaluate`: draw actions instead.")
    ] = False,
) -> None:
    """Play environments with the newest policy and send what happened.

    Example: pronk actor --config configs/cartpole.yaml
    """

    def main(stop: threading.Event) -> None:
        if sample and role is not Role.EVALUATE:
            raise Misconfigured("--sample belongs to --role evaluate: training always samples")
        experiment = load(config, overrides or ())
        limit_threads(experiment.actor.threads)
        # numpy reads the number of threads when it is imported.
        from pronk_actor import service

        if role is Role.EVALUATE:
            service.evaluate(experiment, stop, sample=sample)
        else:
            service.train(experiment, stop)

    run_service(main)
