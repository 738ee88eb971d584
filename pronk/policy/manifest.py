"""The manifest of a policy version: what it is, what it takes, and the hashes of its parts."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pronk.config.schema import EnvConfig, NetworkConfig
from pronk.errors import Misconfigured
from pronk.policy.signature import Port
from pronk.wire.spec import EnvironmentSpec

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """One version of a policy. Its JSON is stored beside the blobs that it names."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, ser_json_inf_nan="strings"
    )

    format: Literal["pronk-policy/1"] = "pronk-policy/1"
    """Layout of this manifest and of the policy's folder."""
    policy: str
    """Name of the policy."""
    epoch: int
    """Epoch of the learner that made the version."""
    number: int
    """Number of the version; with the epoch it identifies it."""
    frames: int
    """Environment frames learned so far."""
    engine: Literal["onnx", "torch"]
    """`onnx`: `graph` runs anywhere. `torch`: the network is rebuilt from `network`."""
    environment: EnvironmentSpec
    """What the policy sees and does."""
    env: EnvConfig | None = None
    """How to make that environment, where it is known."""
    network: NetworkConfig
    """The network."""
    core: dict[str, tuple[int, ...]]
    """Shapes of the core state, without slot axis; empty without a core."""
    inputs: tuple[Port, ...]
    """What the step takes, unused inputs pruned."""
    outputs: tuple[Port, ...]
    """What the step gives."""
    graph: Hash | None
    """Hash of the graph; None for engine `torch`."""
    weights: Hash
    """Hash of the weights."""
    probe: Hash
    """Hash of the probe batch: the inputs that the fingerprint is taken on."""
    fingerprint: dict[str, list[list[float]]]
    """Distribution parameters and value on the probe batch, as torch computed them: {output:
    numbers}, as `pronk.policy.fingerprint` condenses them."""

    @property
    def blobs(self) -> tuple[str, ...]:
        """Hashes of every blob that the policy needs."""
        return tuple(blob for blob in (self.graph, self.weights, self.probe) if blob)


def to_json(manifest: Manifest) -> str:
    """The manifest as one line of JSON."""
    return manifest.model_dump_json()


def from_json(text: str | bytes, source: str = "manifest") -> Manifest:
    """The manifest of a JSON text; `source` names it in errors.

    Raises:
        Misconfigured: not a manifest of this format.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise Misconfigured(f"{source}: not a policy manifest ({reason})") from None
