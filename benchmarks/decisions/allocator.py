"""What `pronk.startup.tune_allocator` gains and costs: the table of `docs/decisions/allocator.md`.

Every operation runs in processes of its own, half of them with glibc's defaults and half tuned.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from statistics import median
from typing import NamedTuple

import grpc
import numpy as np
import psutil
from _report import interleaved, options, publish, seconds_per_call, table, versions_of

from pronk.startup import limit_threads, tune_allocator
from pronk.wire.spec import ArraySpec, DiscreteSpec, EnvironmentSpec
from pronk.wire.unroll import Unroll, UnrollHeader
from pronk.wire.v1 import blobs_pb2 as pb

ROUNDS = 3
ALLOCATORS = ("default", "tuned")
PACKAGES = ("protobuf", "grpcio", "numpy", "torch")
SPEC = EnvironmentSpec(
    "frames",
    (ArraySpec("default", "uint8", (84, 84, 4), 0, 255),),
    (DiscreteSpec("default", (6,)),),
)
LENGTH, SLOTS, UNROLLS = 20, 2, 16  # an entry of the buffer holds about a megabyte

Call = Callable[[], object]


class Found(NamedTuple):
    """What a process measured."""

    seconds: float
    """Of one call."""
    memory: int
    """Resident bytes of the process after the last one."""
    peak: int
    """The most that it had."""


def message(size: int) -> Call:
    """Build a message that holds `size` bytes, and serialise it."""
    chunk = bytes(size)
    return lambda: pb.GetResponse(size=size, chunk=chunk).SerializeToString()


def call_server() -> Call:
    """A unary call with a message of 1 MB to a server in the same process."""
    handler = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: pb.PutResponse(stored=True),
        request_deserializer=pb.PutRequest.FromString,
        response_serializer=pb.PutResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("pronk.Bench", {"Put": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    put = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary(
        "/pronk.Bench/Put",
        request_serializer=pb.PutRequest.SerializeToString,
        response_deserializer=pb.PutResponse.FromString,
    )
    chunk = bytes(10**6)

    def call(_server: grpc.Server = server) -> object:  # which lives as long as whoever calls it
        return put(pb.PutRequest(size=len(chunk), chunk=chunk), timeout=10)

    return call


def learner_step() -> Call:
    """What a learner does with a batch of 32 slots: put it together and train on it."""
    from pronk_learner.trainer import Trainer

    from pronk.config.schema import AlgorithmConfig, LearnerConfig, NetworkConfig
    from pronk.nets.network import build
    from pronk.rl.batch import SlotGroup, assemble

    network = build(SPEC, NetworkConfig(id="shallow"))
    trainer = Trainer(network, SPEC, AlgorithmConfig(), LearnerConfig(device="cpu"))
    groups = [SlotGroup(made_up_unroll(), 0, SLOTS) for _ in range(UNROLLS)]
    return lambda: trainer.update(assemble(groups), frames=0)


def inference() -> Call:
    """A step of 128 slots in torch."""
    from pronk.config.schema import NetworkConfig
    from pronk.nets.network import build
    from pronk.policy import probe
    from pronk.policy.torch_engine import call_numpy

    network = build(SPEC, NetworkConfig(id="shallow")).eval()
    return partial(call_numpy, network, probe.make(SPEC, {}, rows=128))


def made_up_unroll() -> Unroll:
    """Random frames, one episode that goes on."""
    rng = np.random.default_rng(0)
    below, above = (LENGTH, SLOTS), (LENGTH + 1, SLOTS)
    return Unroll(
        header=UnrollHeader("", "", "", "", 0),
        obs={"default": rng.integers(0, 255, (*above, 84, 84, 4), np.uint8)},
        action={"default": rng.integers(0, 6, below)},
        behaviour_log_prob=np.full(below, -np.log(6), np.float32),
        reward=np.zeros(below, np.float32),
        terminated=np.zeros(below, bool),
        truncated=np.zeros(below, bool),
        valid=np.ones(below, bool),
        task=np.zeros(above, np.int32),
        behaviour_version=np.zeros(below, np.int64),
        core_state={},
        last_action={"default": np.zeros(SLOTS, np.int64)},
        last_reward=np.zeros(SLOTS, np.float32),
        reset=np.zeros(SLOTS, bool),
        slot=np.arange(SLOTS, dtype=np.int32),
    )


CALLS = "gRPC unary calls of 1 MB"
OPERATIONS: dict[str, Callable[[], Call]] = {
    "build and serialise a protobuf of 1 MB": partial(message, 10**6),
    "build and serialise a protobuf of 10 MB": partial(message, 10**7),
    CALLS: call_server,
    "learner step, shallow network, T=20, B=32": learner_step,
    "torch inference, shallow network, batch 128": inference,
}


def measure(operation: str, allocator: str) -> Found:
    """Measure in this process, which has done nothing else yet."""
    limit_threads()
    if allocator == "tuned":
        tune_allocator()
    clock = time.perf_counter if operation == CALLS else time.process_time
    seconds = seconds_per_call(OPERATIONS[operation](), clock=clock)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Found(seconds, psutil.Process().memory_info().rss, peak)


def measure_in_a_child(operation: str, allocator: str) -> Found:
    """Measure in a process of its own: what an allocator keeps stays with its process."""
    command = [sys.executable, __file__, "--child", operation, allocator]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    return Found(*json.loads(answer))


def main() -> None:
    """Measure every operation with both allocators, taking turns."""
    parser = options(__doc__, "allocator.py")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(*given.child)))
        return
    cases = {case: partial(measure_in_a_child, *case) for case in product(OPERATIONS, ALLOCATORS)}
    found = {case: _median(tries) for case, tries in interleaved(cases, ROUNDS).items()}
    columns = ("operation", *ALLOCATORS, "speed", "memory", "", "peak", "")
    rows = [_row(name, *(found[name, a] for a in ALLOCATORS)) for name in OPERATIONS]
    publish(
        [table(columns, rows)],
        {name: {a: found[name, a]._asdict() for a in ALLOCATORS} for name in OPERATIONS},
        versions_of(PACKAGES),
        given.json,
    )


def _median(tries: list[Found]) -> Found:
    seconds, memory, peak = (median(column) for column in zip(*tries, strict=True))
    return Found(seconds, int(memory), int(peak))


def _row(operation: str, default: Found, tuned: Found) -> tuple[str, ...]:
    shown = _per_second if operation == CALLS else _milliseconds
    return (
        operation,
        shown(default.seconds),
        shown(tuned.seconds),
        f"× {default.seconds / tuned.seconds:.1f}",
        *_compared(default.memory, tuned.memory),
        *_compared(default.peak, tuned.peak),
    )


def _compared(default: int, tuned: int) -> tuple[str, str]:
    return f"{default / 1e6:.0f} → {tuned / 1e6:.0f} MB", f"{tuned / default - 1:+.0%}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2g} ms" if seconds < 0.01 else f"{1e3 * seconds:.0f} ms"


def _per_second(seconds: float) -> str:
    return f"{1 / seconds:.0f} /s"


if __name__ == "__main__":
    main()
