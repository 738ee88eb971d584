"""What status and metrics say about the whole cluster."""

import contextlib
from collections.abc import Mapping

from pronk.telemetry import metrics
from pronk.wire.v1 import registry_pb2 as pb
from pronk_param_server.demand import actor_demand
from pronk_param_server.members import KIND_NAMES
from pronk_param_server.state import State


def demands(state: State, shares: Mapping[str, float]) -> dict[str, float]:
    """Actors that each policy's learner could keep up with; without those that cannot be told.

    Args:
        state: the cluster.
        shares: share of an actor's slots that play each policy.
    """
    if state.run.state in (pb.RUN_STATE_FINISHED, pb.RUN_STATE_FAILED):
        return dict.fromkeys(shares, 0.0)
    actors = [member.recent_work() for member in state.members.of_kind(pb.MEMBER_KIND_TRAIN)]
    result: dict[str, float] = {}
    for policy, share in shares.items():
        holder = state.policies[policy].holder
        if holder not in state.members:
            continue
        demand = actor_demand(state.members.get(holder).recent_work(), actors, share)
        if demand is not None:
            result[policy] = demand
    return result


def tell_metrics(state: State, shares: Mapping[str, float]) -> None:
    """Set the gauges; a demand that cannot be told is absent, never NaN."""
    metrics.RUN_RUNNING.set(state.run.state == pb.RUN_STATE_RUNNING)
    known = demands(state, shares)
    for policy in shares:
        metrics.POLICY_FINISHED.labels(policy).set(state.policies[policy].finished)
        if policy in known:
            metrics.ACTOR_DEMAND.labels(policy).set(known[policy])
        else:
            with contextlib.suppress(KeyError):
                metrics.ACTOR_DEMAND.remove(policy)
    for kind, name in KIND_NAMES.items():
        metrics.MEMBERS.labels(name).set(len(state.members.of_kind(kind)))
