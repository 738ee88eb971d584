"""What can be told to be wrong before anything starts.

The environment, and networks of the user's own, are built in a process of its own: they may print,
hang or crash, and their libraries stay out of the supervisor.
"""

import sys
import threading
import time
from pathlib import Path

from pronk import config
from pronk.cli.process import Process, Program, describe_exit
from pronk.cli.scratch import scratch
from pronk.config import Experiment
from pronk.config.experiment import unrolls_needed
from pronk.errors import Misconfigured
from pronk.nets import builtin
from pronk.wire.entries import groups, slot_bytes
from pronk.wire.spec import EnvironmentSpec
from pronk.words import plural

_DEADLINE_SECONDS = 60.0


def check(experiment: Experiment, stop: threading.Event) -> None:
    """See that the experiment can run on this machine; returns early once `stop` is set.

    Raises:
        Misconfigured: the environment or a network cannot be built, a network does not export, a
            batch does not fit into the buffer, or there is no such device.
    """
    with scratch("pronk-") as folder:
        path = folder / "experiment.yaml"
        path.write_text(config.dump(experiment), encoding="utf-8")
        command = (sys.executable, "-P", "-m", __name__, str(path))
        process = Process(Program("preflight", command, log=folder / "preflight.log"))
        try:
            status = _wait(process, stop)
            line = process.last_line()
        finally:
            process.kill()
    if status is None and not stop.is_set():
        raise Misconfigured(
            f"env.id: {experiment.env.id} was not ready within {_DEADLINE_SECONDS:g} s"
        )
    if status:
        raise Misconfigured(line or f"env.id: {experiment.env.id} {describe_exit(status)}")


def check_buffer(experiment: Experiment, spec: EnvironmentSpec) -> None:
    """See that the buffer can hold a batch of every policy.

    Raises:
        Misconfigured: it can not, so that the learner would wait for ever.
    """
    for policy in experiment.policies:
        algorithm, slots = experiment.algorithm_of(policy), experiment.slots_of(policy)
        one = slot_bytes(
            spec,
            algorithm.unroll_length,
            core_floats=experiment.network_of(policy).core_floats,
            distribution=experiment.actor.ship_distribution,
        )
        sizes = {group.stop - group.start for group in groups(slots, one)}
        entries = unrolls_needed(algorithm.batch_size, min(sizes), max(sizes))
        batch = plural(algorithm.batch_size, "slot")
        if entries > experiment.buffer.max_entries:
            raise Misconfigured(
                f"algorithm.batch_size: a batch of {batch} needs room for "
                f"{entries} unrolls of {plural(min(sizes), 'slot')}, and the buffer holds "
                f"{experiment.buffer.max_entries}; set buffer.max_entries to {2 * entries}"
            )
        needed = entries * max(sizes) * one
        if needed > experiment.buffer.max_bytes:
            raise Misconfigured(
                f"algorithm.batch_size: a batch of {batch} needs room for "
                f"{needed} bytes, and the buffer holds {experiment.buffer.max_bytes}; "
                f"set buffer.max_bytes to {2 * needed}"
            )


def check_device(experiment: Experiment) -> None:
    """See that the GPU that is asked for is there; nothing else is worth importing torch for.

    Raises:
        Misconfigured: it is not.
    """
    if experiment.learner.device == "cuda":
        from pronk.rl.device import choose_device

        choose_device(experiment.learner.device)


def check_networks(experiment: Experiment, spec: EnvironmentSpec) -> None:
    """See that the networks can be built, and that those of the user's own become policies.

    Of a built-in one that takes no torch, and the seconds of its import are spared.

    Raises:
        Misconfigured: one can not; for a network that does not export, it names the operator.
    """
    networks = {name: experiment.network_of(name) for name in experiment.policies}
    own = {name: network for name, network in networks.items() if ":" in network.id}
    for name in networks.keys() - own.keys():
        builtin.arguments(spec.observation, networks[name])
    if not own:
        return
    from pronk.nets.network import build
    from pronk.policy.export import Exporter

    for policy, network in own.items():
        Exporter(build(spec, network), policy, engine=experiment.actor.engine)


def _wait(process: Process, stop: threading.Event) -> int | None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < deadline and not stop.wait(0.02):
        status = process.poll()
        if status is not None:
            return status
    return None


def main(path: Path) -> None:
    """Check the experiment in `path`, in this process."""
    from pronk.envs import describe

    experiment = config.load(path)
    spec = describe(experiment.env)
    check_buffer(experiment, spec)
    check_device(experiment)
    check_networks(experiment, spec)


if __name__ == "__main__":
    from pronk.cli.verbs import ending_well, see_working_directory
    from pronk.startup import limit_threads, tune_allocator

    limit_threads()
    tune_allocator()
    with ending_well():
        see_working_directory()
        main(Path(sys.argv[1]))
