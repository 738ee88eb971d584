"""What the parameter server keeps on disk, as values."""

from dataclasses import dataclass, field

from pronk.wire.v1 import registry_pb2 as pb


@dataclass(frozen=True)
class RunRecord:
    """The run.

    Attributes:
        run: its id.
        experiment_hash: of the experiment that it is a run of.
        state: `RUN_STATE_…`.
        reason: why it is in that state.
        spec: the environment's spec as its message's bytes; None before the first actor.
    """

    run: str
    experiment_hash: str
    state: pb.RunState.ValueType = pb.RUN_STATE_RUNNING
    reason: str = ""
    spec: bytes | None = None


@dataclass(frozen=True)
class PolicyRecord:
    """One policy's epoch.

    Attributes:
        epoch: newest granted; 0 before the first.
        holder: member that it was granted to; empty once that member left.
        floor: versions of this epoch are numbered above it.
        reserved: no number above it was ever published; raised, in blocks, before one is.
        finished: its learner met the stop condition.
    """

    policy: str
    epoch: int = 0
    holder: str = ""
    floor: int = 0
    reserved: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Change:
    """What one decision writes, in one transaction.

    `event` and `detail` are its line in the audit log; without an event it has none.
    """

    event: str
    detail: dict[str, str | int]
    run: RunRecord | None = None
    policies: tuple[PolicyRecord, ...] = ()
    release: pb.Release | None = None


@dataclass(frozen=True)
class Saved:
    """Everything on disk.

    Attributes:
        lost: hashes of releases' blobs that are missing or damaged.
    """

    run: RunRecord
    policies: dict[str, PolicyRecord] = field(default_factory=dict)
    releases: dict[str, pb.Release] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()

    @property
    def blobs(self) -> frozenset[str]:
        """Hashes of every release's blobs."""
        return frozenset(name for r in self.releases.values() for name in r.manifest.blobs)
