"""One update: batch → loss → gradient → new weights."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from pronk.config.schema import AlgorithmConfig, LearnerConfig
from pronk.nets.network import PolicyNetwork
from pronk.rl import optim
from pronk.rl.batch import Batch
from pronk.rl.device import choose_device
from pronk.rl.loss import Loss, impala_loss
from pronk.wire.spec import EnvironmentSpec


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        applied: False when the gradient, or statistics of observations, would not have been finite:
            nothing has changed.
        loss: the loss and its parts, as tensors on the trainer's device.
        gradient_norm: before clipping, scalar.
        learning_rate: that was used.
    """

    applied: bool
    loss: Loss
    gradient_norm: torch.Tensor
    learning_rate: float


def are_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Every element of all of them is."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


class Trainer:
    """A network and its optimizer."""

    def __init__(
        self,
        network: PolicyNetwork,
        spec: EnvironmentSpec,
        algorithm: AlgorithmConfig,
        learner: LearnerConfig,
    ) -> None:
        self.device = choose_device(learner.device)
        self.network = network.to(self.device)
        self._spec = spec
        self._config = algorithm
        self._autocast = learner.precision == "bfloat16"
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = optim.build(self._parameters, algorithm.optimizer)

    def loss(self, batch: Batch) -> Loss:
        """The loss of a batch on the trainer's device, with its graph."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            rows = self.network.unroll(
                batch.obs,
                batch.core_state,
                batch.last_action,
                batch.last_reward,
                batch.reset,
                batch.task,
                batch.action_mask,
            )
        return impala_loss(self._spec.action, self._config, rows.params, rows.value, batch)

    def update(self, batch: Batch, frames: int) -> Update:
        """Train on a batch; `frames` are those learned before it (they set the learning rate)."""
        batch = batch.to(self.device)
        rate = optim.learning_rate(self._config.optimizer, frames)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(
            self._parameters, self._config.optimizer.max_gradient_norm
        )
        statistics = self.network.statistics_with(batch.obs, batch.valid)
        applied = are_finite([norm, *statistics.values()])
        if applied:
            self.optimizer.step()
            # After the step, so that a version acts and is trained with the same statistics.
            self.network.keep_statistics(statistics)
        return Update(applied, loss, norm, rate)

    def weights(self) -> dict[str, torch.Tensor]:
        """A snapshot of every parameter and buffer on the CPU."""
        return {k: v.detach().to("cpu", copy=True) for k, v in self.network.state_dict().items()}

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """The optimizer's tensors by `parameter index/name`; scalars become 0-d tensors."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{index}/{key}": torch.as_tensor(value).detach().to("cpu", copy=True)
            for index, entry in state.items()
            for key, value in entry.items()
        }

    def restore(self, weights: dict[str, torch.Tensor], optimizer: dict[str, torch.Tensor]) -> None:
        """Go back to saved weights and optimizer state."""
        self.network.load_state_dict(weights)
        state: dict[int, dict[str, Any]] = {}
        for name, value in optimizer.items():
            index, _, key = name.partition("/")
            if value.dim():
                # Fused optimizers walk memory: moments must lie there as their parameter does.
                value = torch.empty_like(self._parameters[int(index)]).copy_(value)
            state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
