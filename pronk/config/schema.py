"""The sections of an experiment; `pronk.config.experiment` puts them together.

Every field is documented here and in `docs/configuration.md` (generated from these modules). A
field marked `FREE` may change when a run is resumed.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pronk.config.fields import (
    FREE,
    NUMBER,
    Count,
    Flag,
    Frames,
    ModulePath,
    NotNegative,
    Positive,
    Real,
    Seconds,
    Section,
    Share,
    Text,
    Threads,
    Width,
)


class Vectorization(StrEnum):
    """How the slots of an actor are stepped."""

    AUTO = "auto"
    NATIVE = "native"
    SYNC = "sync"
    ASYNC = "async"


class WrapperConfig(Section):
    """A Gymnasium wrapper around every single environment."""

    id: ModulePath
    """`module:Class`, for example `minigrid.wrappers:ImgObsWrapper`."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the wrapper."""


class EnvConfig(Section):
    """The environment."""

    id: Text
    """A Gymnasium id (`CartPole-v1`, `ALE/Pong-v5`, `MinAtar/Breakout-v0`), or `module:function`
    that returns a Gymnasium environment."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the environment."""
    wrappers: Annotated[tuple[WrapperConfig, ...], Field(max_length=32)] = ()
    """Wrappers, innermost first."""
    vectorization: Vectorization = Vectorization.AUTO
    """`auto` takes the environment's own vector implementation where it has one and no wrappers
    are asked for, else `sync` (one after the other in the actor's process). `async` gives every
    slot a process: worth it only where one step takes over a millisecond."""
    max_episode_steps: Annotated[int, Field(ge=1, le=100_000_000), NUMBER] | None = None
    """Truncate episodes after this many decisions; default: the environment's own limit."""
    step_seconds: Annotated[Seconds, FREE] = 60.0
    """An environment that takes longer for a step (the reset that begins an episode is one) is
    taken for one that hangs. It is replaced where `vectorization` is `async`; elsewhere its actor
    ends and is started again."""

    @model_validator(mode="after")
    def _native_takes_no_wrappers(self) -> Self:
        if self.vectorization is Vectorization.NATIVE and self.wrappers:
            raise ValueError("env.vectorization: native environments take no wrappers; use sync")
        return self


class CoreKind(StrEnum):
    """What stands between torso and heads."""

    NONE = "none"
    LSTM = "lstm"


class NetworkConfig(Section):
    """The network of a policy: torso → core → heads."""

    id: Text = "mlp"
    """Torso: `mlp`, `minatar` (one small convolution), `shallow` (two convolutions), `deep`
    (residual, 15 convolutions), or `module:Class` of your own."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the torso, for example `hidden: [64, 64]` of `mlp`."""
    core: CoreKind = CoreKind.NONE
    """Memory: `none` or `lstm`."""
    core_size: Width = 256
    """Width of the core."""
    last_action: Flag = False
    """Feed the last action to the core (or the heads) beside the torso's features."""
    last_reward: Flag = False
    """Feed the last reward, clipped to [-1, 1]."""
    normalise_observations: Flag = False
    """Standardise float observations by running statistics that live inside the policy."""
    separate_value: Flag = False
    """Give the value its own torso instead of sharing the policy's."""

    @property
    def core_floats(self) -> int:
        """Numbers that a slot's memory takes: hidden and cell state of every LSTM."""
        cores = (2 if self.separate_value else 1) if self.core is CoreKind.LSTM else 0
        return 2 * cores * self.core_size


class OptimizerConfig(Section):
    """The optimizer."""

    name: Literal["rmsprop", "adam"] = "rmsprop"
    """`rmsprop` as the IMPALA paper means it (ε inside the root, accumulator starts at 1), or
    `adam`."""
    learning_rate: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False), NUMBER] = 6e-4
    """At the start."""
    decay_frames: Frames | None = None
    """The learning rate falls linearly to 0 at this many learned frames; default: constant."""
    epsilon: Positive = 0.01
    """ε of the optimizer."""
    decay: Share = 0.99
    """RMSProp's decay; Adam's β₂ is 0.999."""
    momentum: Share = 0.0
    """RMSProp's momentum; Adam's β₁ is 0.9."""
    max_gradient_norm: Positive = 40.0
    """Gradients are scaled down to this global norm."""


class RewardConfig(Section):
    """What the loss makes of rewards; reports stay raw."""

    transform: Literal["none", "clip", "soft_asymmetric"] = "none"
    """`clip` to [-1, 1]; `soft_asymmetric`: 0.3·min(tanh r, 0) + 5·max(tanh r, 0)."""
    scale: Positive = 1.0
    """Factor before the transform."""


class AlgorithmConfig(Section):
    """IMPALA: V-trace actor-critic. Losses are sums over time and slots."""

    name: Literal["impala"] = "impala"
    """The algorithm."""
    unroll_length: Annotated[int, Field(ge=1, le=100_000), NUMBER] = 20
    """T: transitions per unroll."""
    batch_size: Count = 32
    """B: slots per update."""
    discount: Share = 0.99
    """γ."""
    lambda_: Annotated[Share, Field(alias="lambda")] = 1.0
    """λ of V-trace's trace coefficients."""
    rho_bar: Positive = 1.0
    """ρ̄: clip of the importance weight in the value target."""
    rho_pg_bar: Positive = 1.0
    """ρ̄ of the policy gradient."""
    c_bar: Positive = 1.0
    """c̄: clip of the trace coefficient."""
    entropy_cost: NotNegative = 0.01
    """Weight of the entropy bonus."""
    value_cost: NotNegative = 0.5
    """Weight of ½(v − V)²."""
    reward: RewardConfig = RewardConfig()
    """Reward transform of the loss."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer."""

    @model_validator(mode="after")
    def _traces_are_not_above_weights(self) -> Self:
        if self.c_bar > self.rho_bar:
            raise ValueError(
                f"algorithm.c_bar: V-trace needs c_bar ≤ rho_bar, found {self.c_bar} > "
                f"{self.rho_bar}"
            )
        return self


class PolicyConfig(Section):
    """One policy of the experiment; what is left out is the experiment's own."""

    share: Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False), NUMBER] = 1.0
    """Its share of every actor's slots, relative to the other policies'."""
    network: NetworkConfig | None = None
    """Keys of the experiment's `network` that are others for this policy."""
    algorithm: AlgorithmConfig | None = None
    """Keys of the experiment's `algorithm` that are others for this policy."""


class ActorConfig(Section):
    """Actors."""

    count: Annotated[int, Field(ge=1, le=10_000), NUMBER, FREE] = 2
    """Actors that `pronk up` starts; elsewhere a Deployment or Compose decides."""
    slots: Annotated[int, Field(ge=1, le=4096), NUMBER] = 32
    """Environments per actor."""
    engine: Literal["onnx", "torch"] = "onnx"
    """`onnx` needs no torch; `torch` (extra `actor-torch`) runs networks that do not export."""
    threads: Annotated[Threads, FREE] = 1
    """Threads of the inference engine."""
    lockstep: Flag = False
    """Act once per version and train once per unroll: with one actor the run repeats exactly."""
    ship_distribution: Flag = False
    """Send the behaviour's distribution parameters with every unroll."""


class BufferConfig(Section):
    """The buffer in Redis: one stream per policy, bounded by its producers."""

    max_entries: Annotated[Count, FREE] = 64
    """Unrolls per policy that may wait."""
    max_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40), NUMBER, FREE] = 256 << 20
    """Bytes per policy that may wait; at most 70 % of Redis' memory cap."""


class LearnerConfig(Section):
    """Learners."""

    publish_every: Annotated[Count, FREE] = 1
    """Updates between two published versions."""
    checkpoint_seconds: Annotated[Seconds, FREE] = 60.0
    """Seconds between two checkpoints."""
    checkpoints_kept: Annotated[Count, FREE] = 3
    """Newest checkpoints that stay."""
    threads: Annotated[Threads, FREE] = 1
    """Torch threads."""
    device: Annotated[Literal["auto", "cpu", "cuda"], FREE] = "auto"
    """`auto`: a GPU where there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: autocast; heads and log-probabilities stay in float32."""


class StopConfig(Section):
    """The run is over when any of these holds."""

    frames: Annotated[Frames | None, FREE] = None
    """Learned environment frames."""
    seconds: Annotated[Positive | None, FREE] = None
    """Training time, resumed parts included."""
    return_mean: Annotated[Real | None, FREE] = None
    """Mean return of the last `return_episodes` episodes reaches it."""
    return_episodes: Annotated[int, Field(ge=1, le=10_000), NUMBER, FREE] = 100
    """Episodes that the mean is taken over."""
