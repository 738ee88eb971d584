"""The memory between torso and heads."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pronk.nets.initialise import orthogonal


class State(NamedTuple):
    """An LSTM's state, [N, H] each."""

    h: Tensor
    c: Tensor


class LSTM(nn.Module):
    """An LSTM cell built from linear layers, so that it exports and can be reset inside an unroll.

    i, f, g, o = W x + U h + b; c' = σ(f)·c + σ(i)·tanh(g); h' = σ(o)·tanh(c').

    The state is set to zero where an episode begins, before that row's input is seen. It stays in
    float32 whatever the layers compute in: errors add up over an unroll otherwise.
    """

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.input = orthogonal(nn.Linear(input_size, 4 * size), 1.0)
        self.recurrent = nn.Linear(size, 4 * size, bias=False)
        with torch.no_grad():
            for gate in self.recurrent.weight.chunk(4):
                nn.init.orthogonal_(gate)
            # Remember by default: the forget gates start open.
            self.input.bias[size : 2 * size] = 1.0

    def step(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """One row: x [N, F], reset [N] bool → output [N, H] and the next state."""
        state = self._advance(self.input(x), state, reset)
        return state.h, state

    def unroll(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """Rows in turn: x [T, B, F], reset [T, B] bool → outputs [T, B, H] and the last state."""
        projected = self.input(x)  # all rows in one product
        outputs = []
        for row, begins in zip(projected.unbind(0), reset.unbind(0), strict=True):
            state = self._advance(row, state, begins)
            outputs.append(state.h)
        return torch.stack(outputs), state

    def _advance(self, projected: Tensor, state: State, reset: Tensor) -> State:
        begins = reset.unsqueeze(1)
        h, c = state.h.masked_fill(begins, 0.0), state.c.masked_fill(begins, 0.0)
        i, f, g, o = (projected + self.recurrent(h)).float().chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return State(torch.sigmoid(o) * torch.tanh(c), c)
