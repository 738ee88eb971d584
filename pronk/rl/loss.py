"""IMPALA's loss: policy gradient, value and entropy, summed over time and slots.

Espeholt et al., arXiv 1802.01561, section 4.2. Sums, not means: the papers' learning rates and
gradient norms assume them.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import mse_loss

from pronk.config.schema import AlgorithmConfig
from pronk.rl import rewards, vtrace
from pronk.rl.batch import Batch
from pronk.rl.distributions import Joint, Tensors
from pronk.wire.spec import ActionSpec

# Equal policies give π/μ = 1 but for rounding, which is not clipping.
_CLIPPED = 1.0 + 1e-4


@dataclass(frozen=True)
class Loss:
    """A loss and what to report of it: tensors on the batch's device, so that nothing waits.

    Only `total` carries a gradient. What is a property here is computed when asked for: reports are
    rarer than updates.
    """

    total: Tensor
    """Scalar: policy + value_cost·value − entropy_cost·entropy."""
    policy: Tensor
    """Scalar: −Σ advantage·log π(a)."""
    value: Tensor
    """Scalar: Σ ½(v − V)²."""
    entropy: Tensor
    """Scalar: Σ H(π), nats."""
    rhos: Tensor
    """[T, B] π/μ, not clipped; 0 on invalid rows."""
    rho_bar: float
    """ρ̄."""
    valid: Tensor
    """[T, B] bool: the rows that count."""

    @property
    def steps(self) -> Tensor:
        """Scalar int64: number of valid rows."""
        return self.valid.sum()

    @property
    def rho_mean(self) -> Tensor:
        """Scalar: mean of π/μ over valid rows; 1 where the policy that acted is trained."""
        return self.rhos.sum() / self.steps.clamp(min=1)

    @property
    def rho_clipped_share(self) -> Tensor:
        """Scalar: share of valid rows with π/μ above ρ̄."""
        return (self.rhos > _CLIPPED * self.rho_bar).sum() / self.steps.clamp(min=1)


def impala_loss(
    actions: tuple[ActionSpec, ...],
    config: AlgorithmConfig,
    params: Tensors,
    values: Tensor,
    batch: Batch,
) -> Loss:
    """The loss of a batch, in the dtype of `values`; call it outside autocast.

    Rewards are transformed here. A terminated row is discounted by 0; a truncated one keeps γ and
    bootstraps from the value of its final observation, which is the next row's. That next row is
    not valid: V-trace gives it no weight and its own value as target, so it adds nothing to the
    policy's and the value's part; the entropy leaves it out here.

    Args:
        actions: what the policy chooses.
        config: costs, clips, discount, reward transform.
        params: {name: [T+1, B, P]} distribution parameters of the network on the batch.
        values: [T+1, B] of the network.
        batch: T transitions of B slots.
    """
    policy = Joint(actions, {name: rows[:-1] for name, rows in params.items()})
    log_prob = policy.log_prob(batch.action)
    trace = vtrace.from_log_weights(
        log_prob.detach() - batch.behaviour_log_prob,
        config.discount * (~batch.terminated).to(values.dtype),
        rewards.transform(batch.reward, config.reward),
        values,
        valid=batch.valid,
        rho_bar=config.rho_bar,
        rho_pg_bar=config.rho_pg_bar,
        c_bar=config.c_bar,
        lambda_=config.lambda_,
    )
    policy_loss = -(log_prob * trace.pg_advantages).sum()
    value_loss = 0.5 * mse_loss(values[:-1], trace.vs, reduction="sum")
    entropy = (policy.entropy() * batch.valid).sum()
    total = policy_loss + config.value_cost * value_loss - config.entropy_cost * entropy
    return Loss(
        total,
        policy_loss.detach(),
        value_loss.detach(),
        entropy.detach(),
        trace.rhos,
        config.rho_bar,
        batch.valid,
    )
