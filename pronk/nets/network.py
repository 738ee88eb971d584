"""The policy network: observations → torso → core → heads, as one step or as an unroll."""

from typing import NamedTuple

from torch import Tensor, nn

from pronk.config.schema import NetworkConfig
from pronk.wire.spec import EnvironmentSpec

Tensors = dict[str, Tensor]


class Step(NamedTuple):
    """What a network computes from one row of N slots, or from an unroll (then with [T+1, B])."""

    params: Tensors
    """{action: [N, P]} float32, masked choices at -1e9."""
    value: Tensor
    """[N] float32, unnormalised."""
    core_state: Tensors
    """{name: [N, …]} float32 after the row (of an unroll: after the last row, [B, …])."""


class PolicyNetwork(nn.Module):
    """Policy and value of one experiment.

    Attributes:
        spec: the environment's.
        config: the network's.
        core_shapes: {name: shape} of the core state without slot axis; empty without a core.
    """

    spec: EnvironmentSpec
    config: NetworkConfig
    core_shapes: dict[str, tuple[int, ...]]

    def step(
        self,
        obs: Tensors,
        core_state: Tensors,
        last_action: Tensors,
        last_reward: Tensor,
        reset: Tensor,
        task: Tensor,
        action_mask: Tensor | None = None,
    ) -> Step:
        """One row.

        Args:
            obs: {name: [N, …]} in the spec's dtypes.
            core_state: {name: [N, …]} float32; set to zero here where `reset`.
            last_action: {name: [N, …]}, zero where `reset` (by the caller).
            last_reward: [N] float32, raw; zero where `reset` (by the caller).
            reset: [N] bool: the row's observation is the first of an episode.
            task: [N] integer.
            action_mask: [N, A] bool, True where allowed; None where the environment has none.
        """
        raise NotImplementedError

    def unroll(
        self,
        obs: Tensors,
        core_state: Tensors,
        last_action: Tensors,
        last_reward: Tensor,
        reset: Tensor,
        task: Tensor,
        action_mask: Tensor | None = None,
    ) -> Step:
        """T+1 rows of B slots: the numbers that `step` gives row by row.

        Arguments as of `step`, with leading [T+1, B] — save `core_state` {name: [B, …]}, the state
        before row 0.

        Returns:
            params {action: [T+1, B, P]}, value [T+1, B], and the core state after the last row.
        """
        raise NotImplementedError

    def update_normaliser(self, obs: Tensors, valid: Tensor) -> None:
        """Take observations into the running statistics; nothing happens without a normaliser.

        Call it after the gradient step, so that the statistics change together with the weights.

        Args:
            obs: {name: [T+1, B, …]}; row T is left out (it is row 0 of the next unroll).
            valid: [T, B] bool: rows that count.
        """
        raise NotImplementedError


def build(spec: EnvironmentSpec, config: NetworkConfig) -> PolicyNetwork:
    """The network of an experiment; initial weights come from torch's global generator.

    Raises:
        Misconfigured: unknown network, bad arguments, or observations that it cannot take.
    """
    raise NotImplementedError
