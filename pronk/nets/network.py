"""The policy network: observations → torso → core → heads, as one step or as an unroll."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pronk.config.schema import NetworkConfig
from pronk.errors import Misconfigured
from pronk.nets.heads import PolicyHeads, ValueHead
from pronk.nets.normaliser import Normaliser
from pronk.nets.trunk import Trunk
from pronk.wire.spec import ContinuousSpec, EnvironmentSpec

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

    Raises:
        Misconfigured: unknown network, bad arguments, or observations that it cannot take.
    """

    def __init__(self, spec: EnvironmentSpec, config: NetworkConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.normaliser = Normaliser(spec.observation) if config.normalise_observations else None
        self.trunk = Trunk(spec, config, prefix="")
        self.core_shapes = dict(self.trunk.core_shapes)
        self.value_trunk = Trunk(spec, config, prefix="value_") if config.separate_value else None
        if self.value_trunk is not None:
            self.core_shapes |= self.value_trunk.core_shapes
        self.policy_heads = PolicyHeads(self.trunk.output_size, spec.action)
        self.value_head = ValueHead(self.trunk.output_size, len(spec.tasks))

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
        if self.normaliser is not None:
            obs = self.normaliser(obs)
        features, core = self.trunk(obs, core_state, last_action, last_reward, reset)
        value_features = features
        if self.value_trunk is not None:
            value_features, value_core = self.value_trunk(
                obs, core_state, last_action, last_reward, reset
            )
            core |= value_core
        params = self.policy_heads(features, action_mask)
        return Step(params, self.value_head(value_features, task), core)

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
        # The rows are independent but for the core, which finds its time axis in `reset`.
        step = self.step(
            {name: array.flatten(0, 1) for name, array in obs.items()},
            core_state,
            {name: array.flatten(0, 1) for name, array in last_action.items()},
            last_reward.flatten(),
            reset,
            task.flatten(),
            None if action_mask is None else action_mask.flatten(0, 1),
        )
        params = {name: x.reshape(*reset.shape, -1) for name, x in step.params.items()}
        return Step(params, step.value.reshape(reset.shape), step.core_state)

    def statistics_with(self, obs: Tensors, valid: Tensor) -> Tensors:
        """The running statistics as these observations make them; none without a normaliser.

        Args:
            obs: {name: [T+1, B, …]}; row T is left out (it is row 0 of the next unroll).
            valid: [T, B] bool: rows that count.
        """
        if self.normaliser is None:
            return {}
        rows = {name: array[: len(valid)].flatten(0, 1) for name, array in obs.items()}
        return self.normaliser.merged(rows, valid.flatten())

    def keep_statistics(self, statistics: Tensors) -> None:
        """Make them the running ones; after a gradient step, so that both change together."""
        if self.normaliser is not None:
            self.normaliser.load_state_dict(statistics)


def build(spec: EnvironmentSpec, config: NetworkConfig) -> PolicyNetwork:
    """The network of an experiment; initial weights come from torch's global generator.

    Raises:
        Misconfigured: unknown network, bad arguments, or observations that it cannot take.
    """
    network = PolicyNetwork(spec, config)
    try:
        _try_out(network)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise Misconfigured(
            f"network.id: {config.id} does not work on this environment's observations: "
            f"{type(error).__name__}: {reason}"
        ) from error
    return network


@torch.no_grad()
def _try_out(network: PolicyNetwork) -> None:
    """One step on zeros: a torso of the user's may fail on its first call only."""
    spec, slots = network.spec, 2

    def zeros(dtype: str, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(slots, *shape, dtype=getattr(torch, dtype))

    network.step(
        {a.name: zeros(a.dtype, a.shape) for a in spec.observation},
        {name: zeros("float32", shape) for name, shape in network.core_shapes.items()},
        {
            a.name: zeros("float32" if isinstance(a, ContinuousSpec) else "int64", a.shape)
            for a in spec.action
        },
        zeros("float32", ()),
        zeros("bool", ()),
        zeros("int32", ()),
        zeros("bool", (spec.mask_size,)) if spec.action_mask else None,
    )
