"""Optimizers and the learning rate's schedule."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from pronk.config.schema import OptimizerConfig


def _without_the_compiler() -> None:
    """Let optimizers work without importing torch's compiler, which takes several seconds.

    torch wraps methods of `Optimizer` so that its compiler leaves them alone, and imports the
    compiler to say so at the first call. Nothing is compiled here: the wrapped functions are named
    as what the wrappers were going to fetch.
    """
    for method in vars(torch.optim.Optimizer).values():
        if wrapped := getattr(method, "__wrapped__", None):
            wrapped.__dynamo_disable = wrapped


_without_the_compiler()


class RMSProp(torch.optim.Optimizer):
    """RMSProp as TensorFlow 1 and the IMPALA paper mean it.

        s ← decay·s + (1 − decay)·g²,  starting at 1
        m ← momentum·m + lr·g / √(s + ε)
        θ ← θ − m

    `torch.optim.RMSprop` starts s at 0 and adds ε outside the root, so its ε and learning rates are
    not interchangeable with the papers'; nor is its momentum, which the learning rate scales late.

    Args:
        params: dense parameters; one without a gradient is left alone.
        lr: learning rate.
        decay: of the squared gradients' average.
        epsilon: ε, inside the root.
        momentum: 0 keeps no momentum buffers.
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float,
        decay: float = 0.99,
        epsilon: float = 0.01,
        momentum: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "decay": decay, "epsilon": epsilon, "momentum": momentum}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update; a closure is refused.

        Raises:
            ValueError: a closure was given.
        """
        if closure is not None:
            raise ValueError("RMSProp takes no closure")
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:  # torch's foreach functions refuse empty lists
                self._update(params, group)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [param.grad for param in params if param.grad is not None]
        squares = [self._slot(param, "square_average", torch.ones_like) for param in params]
        torch._foreach_mul_(squares, group["decay"])
        torch._foreach_addcmul_(squares, grads, grads, 1.0 - group["decay"])
        roots = torch._foreach_add(squares, group["epsilon"])
        torch._foreach_sqrt_(roots)
        if group["momentum"] == 0.0:
            torch._foreach_addcdiv_(params, grads, roots, -group["lr"])
            return
        moments = [self._slot(param, "momentum", torch.zeros_like) for param in params]
        torch._foreach_mul_(moments, group["momentum"])
        torch._foreach_addcdiv_(moments, grads, roots, group["lr"])
        torch._foreach_sub_(params, moments)

    def _slot(self, param: Tensor, name: str, initial: Callable[[Tensor], Tensor]) -> Tensor:
        state = self.state[param]
        if name not in state:
            state[name] = initial(param)
        slot: Tensor = state[name]
        return slot


class Adam(torch.optim.Adam):
    """torch's Adam, whose `step` would import torch's compiler to stay out of its way."""

    step = torch.no_grad()(torch.optim.Adam.step.__wrapped__)  # type: ignore[attr-defined]


def build(params: Iterable[Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of an experiment. Clipping gradients to a norm is the caller's."""
    if config.name == "rmsprop":
        return RMSProp(params, config.learning_rate, config.decay, config.epsilon, config.momentum)
    return Adam(params, config.learning_rate, eps=config.epsilon, fused=True)


def learning_rate(config: OptimizerConfig, frames: int) -> float:
    """The rate after `frames` learned environment frames: constant, or linear down to 0."""
    if config.decay_frames is None:
        return config.learning_rate
    return config.learning_rate * max(0.0, 1.0 - frames / config.decay_frames)
