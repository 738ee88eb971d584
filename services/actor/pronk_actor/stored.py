"""A stored policy and the environment that it plays."""

from contextlib import closing
from pathlib import Path

import grpc
import numpy as np

from pronk.config.schema import EnvConfig
from pronk.envs import SlotEnv
from pronk.errors import Misconfigured
from pronk.policy.bundle import MANIFEST, Bundle
from pronk.policy.engine import open_engine
from pronk.policy.folders import released
from pronk.transport import settings as environment
from pronk.transport.channels import connect
from pronk.transport.cluster import list_releases
from pronk.transport.policies import fetch_bundle
from pronk.transport.retry import details_of
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


def fetch_newest() -> Bundle:
    """The newest release of the cluster that `PRONK_SERVER` names.

    Raises:
        Misconfigured: it has none, or of several policies; it does not answer, or refuses.
    """
    settings = environment.load()
    with closing(connect(settings)) as channel:
        try:
            newest = {r.manifest.version.policy: r.manifest for r in list_releases(channel)}
            if len(newest) != 1:
                raise Misconfigured(
                    f"{settings.server} has released {len(newest)} policies: "
                    "give a run's folder or a policy's; `pronk fetch` makes one of what is there"
                )
            return fetch_bundle(channel, newest.popitem()[1])
        except grpc.RpcError as error:
            raise Misconfigured(
                f"{settings.server}: {details_of(error)}; give a run's folder or a policy's, or "
                "set PRONK_SERVER, PRONK_TOKEN_FILE and PRONK_TLS_CA"
            ) from None


class StoredPolicy:
    """A policy that is kept somewhere, ready to play.

    Attributes:
        bundle: the policy.
        env: how to make the environment that it was trained in.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Check its fingerprint.

        Raises:
            Misconfigured: a policy that cannot be run here.
        """
        self.bundle = bundle
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
