"""Torso and core: everything between the inputs and the heads."""

import torch
from torch import Tensor, nn

from pronk.config.schema import CoreKind, NetworkConfig
from pronk.nets.core import LSTM, State
from pronk.nets.registry import build_torso
from pronk.wire.spec import ActionSpec, DiscreteSpec, EnvironmentSpec


class LastAction(nn.Module):
    """The last action as features: discrete choices one-hot, continuous ones as they are."""

    def __init__(self, actions: tuple[ActionSpec, ...]) -> None:
        super().__init__()
        self.actions = actions
        self.output_size = sum(
            action.parameters if isinstance(action, DiscreteSpec) else action.size
            for action in actions
        )

    def forward(self, last_action: dict[str, Tensor]) -> Tensor:
        """{name: [M, …]} → [M, output_size] float32."""
        parts = []
        for action in self.actions:
            values = last_action[action.name]
            values = values.flatten(1) if action.shape else values.unsqueeze(1)
            if isinstance(action, DiscreteSpec):
                for column, count in enumerate(action.choices):
                    alternatives = torch.arange(count, device=values.device)
                    parts.append((values[:, column : column + 1] == alternatives).float())
            else:
                parts.append(values.float())
        return torch.cat(parts, 1)


class Trunk(nn.Module):
    """Torso, the last action and reward beside its features, and the core.

    The core sees features ++ reward clipped to [-1, 1] ++ one-hot action (arXiv 1802.01561,
    appendix); without a core the heads see them.

    Attributes:
        output_size: width of what the heads get.
        core_shapes: {name: shape} of the core state, without slot axis.
    """

    def __init__(self, spec: EnvironmentSpec, config: NetworkConfig, prefix: str) -> None:
        """`prefix` of the names of its core state: two trunks of one network keep theirs apart."""
        super().__init__()
        self.torso, size = build_torso(spec.observation, config)
        self.last_action = LastAction(spec.action) if config.last_action else None
        self.last_reward = config.last_reward
        if self.last_action is not None:
            size += self.last_action.output_size
        size += config.last_reward
        self.core: LSTM | None = None
        self.core_shapes: dict[str, tuple[int, ...]] = {}
        if config.core is CoreKind.LSTM:
            self.core = LSTM(size, config.core_size)
            size = config.core_size
            self.core_shapes = {prefix + name: (size,) for name in State._fields}
        self.output_size = size

    def forward(
        self,
        obs: dict[str, Tensor],
        core_state: dict[str, Tensor],
        last_action: dict[str, Tensor],
        last_reward: Tensor,
        reset: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One row of N slots (reset [N], M = N), or rows in turn (reset [T, B], M = T·B).

        Args:
            obs: {name: [M, …]}.
            core_state: {name: [N, …]} or {name: [B, …]}, before the first row.
            last_action: {name: [M, …]}.
            last_reward: [M].
            reset: [N] or [T, B] bool.

        Returns:
            Features [M, output_size], and the core state after the last row.
        """
        parts = [self.torso(obs)]
        if self.last_reward:
            parts.append(last_reward.clamp(-1.0, 1.0).unsqueeze(1))
        if self.last_action is not None:
            parts.append(self.last_action(last_action))
        features = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        if self.core is None:
            return features, {}
        state = State(*(core_state[name] for name in self.core_shapes))
        if reset.dim() == 1:
            features, state = self.core.step(features, state, reset)
        else:
            rows, state = self.core.unroll(features.unflatten(0, reset.shape), state, reset)
            features = rows.flatten(0, 1)
        return features, dict(zip(self.core_shapes, state, strict=True))
