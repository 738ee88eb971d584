"""Who is compared: variants, and what differs and cannot be removed."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS = "ours"


@dataclass(frozen=True)
class Peer:
    """One system in a folder of its own, with `run.py` and `requirements.txt`.

    Attributes:
        folder: beside this file; also the name of its virtual environment.
        variants: documented first; each exists for every workload.
        packages: whose versions belong to its numbers.
        differences: by workload, what it does otherwise than all; "" is said of every workload.
    """

    folder: str
    title: str
    variants: tuple[str, ...]
    packages: tuple[str, ...]
    differences: dict[str, str]


_SINGLE = "single environments one after the other: it takes none that resets on the next step"
_DOCUMENTED = "the documented variant keeps the unroll length and batch of its documentation"
PEERS = (
    Peer(
        OURS,
        "pronk",
        ("documented",),
        ("torch", "onnxruntime", "gymnasium", "numpy", "ale-py", "minatar"),
        {
            "": "one variant only: the experiment in configs/, without its end",
            "cartpole": "Gymnasium's own vector implementation",
            "cartpole-sync": "plain SyncVectorEnv",
            "minatar": "single environments in its own loop; booleans on the wire",
            "pong": "ale_py's vector environment, one thread in each actor",
        },
    ),
    Peer(
        "sample_factory",
        "Sample Factory APPO",
        ("documented", "tuned-vtrace", "tuned-serial"),
        ("sample-factory", "torch", "gymnasium", "numpy", "ale-py", "minatar"),
        {
            "": f"old Gymnasium and NumPy, as it asks for; {_DOCUMENTED}; "
            "standardises observations by running statistics except in tuned variants with images",
            "cartpole": "single environments in its own loop; tuned-serial: Gymnasium's own vector "
            "implementation",
            "cartpole-sync": "plain SyncVectorEnv in tuned-serial, else single environments in its "
            "own loop, which does less than SyncVectorEnv",
            "minatar": "single environments in its own loop, planes of float32",
            "pong": "Gymnasium's AtariPreprocessing around single emulators: the ale_py that it "
            "asks for has no vector environment",
        },
    ),
    Peer(
        "rllib",
        "RLlib IMPALA",
        ("documented", "tuned-wide", "tuned-local"),
        ("ray", "torch", "gymnasium", "numpy", "ale-py", "minatar"),
        {
            "": f"{_DOCUMENTED}; losses are means",
            "cartpole": "plain SyncVectorEnv in the documented variant, else Gymnasium's own "
            "vector implementation",
            "cartpole-sync": "plain SyncVectorEnv",
            "minatar": "plain SyncVectorEnv, planes of float32",
            "pong": "Gymnasium's AtariPreprocessing in the documented variant, else ale_py's "
            "vector environment",
        },
    ),
    Peer(
        "stable_baselines3",
        "Stable-Baselines3 PPO/A2C",
        ("documented", "tuned-ppo", "tuned-a2c"),
        ("stable-baselines3", "torch", "gymnasium", "numpy", "ale-py", "minatar"),
        {
            "": f"one process that acts and learns in turn; {_DOCUMENTED}",
            "cartpole": _SINGLE,
            "cartpole-sync": "plain SyncVectorEnv that resets in the step that ends an episode",
            "minatar": "single environments one after the other, planes of float32",
            "pong": "Gymnasium's AtariPreprocessing in the documented variant, else ale_py's "
            "vector environment, reset in the step that ends an episode",
        },
    ),
)
