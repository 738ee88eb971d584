"""A stored policy and the environment that it plays."""

from pathlib import Path

import numpy as np

from pronk.config.schema import EnvConfig
from pronk.envs import SlotEnv
from pronk.errors import Misconfigured
from pronk.policy.bundle import MANIFEST, Bundle
from pronk.policy.engine import open_engine
from pronk.policy.folders import released
from pronk_actor.agent import Agent, ReadyPolicy


def find(path: Path) -> Path:
    """The policy's folder that `path` means: itself, or the newest one of a run.

    Raises:
        Misconfigured: there is none, or there are several policies to choose from.
    """
    if (path / MANIFEST).is_file():
        return path
    if not path.exists():
        raise Misconfigured(f"{path}: no such folder; give a run's folder or a policy's")
    newest = {folder.name.rpartition("-")[0]: folder for folder in released(path)}
    if not newest:
        raise Misconfigured(
            f"{path} holds no policy yet; give the folder of a run that has cut a release, or a "
            f"policy's folder with its {MANIFEST}"
        )
    if len(newest) > 1:
        raise Misconfigured(f"{path} holds {len(newest)} policies: give one, {_listed(newest)}")
    return newest.popitem()[1]


class StoredPolicy:
    """A policy's folder, ready to play.

    Attributes:
        bundle: what the folder holds.
        env: how to make the environment that it was trained in.
    """

    def __init__(self, folder: Path) -> None:
        """Read it and check its fingerprint.

        Raises:
            Misconfigured: a damaged folder, or a policy that cannot be run here.
        """
        self.bundle = Bundle.load(folder)
        manifest = self.bundle.manifest
        self.env = manifest.env or EnvConfig(id=manifest.environment.environment)
        self._ready = ReadyPolicy(open_engine(self.bundle), manifest)

    def agent(self, env: SlotEnv, seed: int, *, greedy: bool) -> Agent:
        """An agent for all slots of `env`.

        Raises:
            Misconfigured: the environment is not the one that the policy was trained in.
        """
        manifest = self.bundle.manifest
        if env.spec != manifest.environment:
            raise Misconfigured(
                f"{self.env.id} here does not show or take what policy {manifest.policy!r} was "
                "trained with: another version of the package, or of your own code?"
            )
        rng = np.random.default_rng([seed, 1])
        return Agent(env.spec, env.slots, self._ready, rng, greedy=greedy)


def _listed(newest: dict[str, Path]) -> str:
    return " or ".join(str(folder) for _, folder in sorted(newest.items()))
