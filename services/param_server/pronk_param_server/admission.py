"""Whether a process may become a member. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.errors import WireError
from pronk.wire.spec_check import check_spec
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1 import spec_pb2
from pronk_param_server.members import KIND_NAMES
from pronk_param_server.records import Change, RunRecord
from pronk_param_server.refusal import INVALID, PRECONDITION, Refusal


def check(request: pb.RegisterRequest, run: RunRecord, policies: Sequence[str]) -> Change | None:
    """Check a registration; the first actor's spec is a change of the run.

    Args:
        request: what the process says about itself.
        run: the run it wants to take part in.
        policies: the experiment's policies.

    Raises:
        Refusal: FAILED_PRECONDITION with what differs, INVALID_ARGUMENT with what is wrong.
    """
    if request.kind not in KIND_NAMES:
        raise Refusal(INVALID, "a member registers with its kind")
    incarnation = request.incarnation
    if len(incarnation) < 16 or not (incarnation.isascii() and incarnation.isalnum()):
        raise Refusal(INVALID, "an incarnation is at least 16 letters and digits")
    if len(request.host) > 255 or not request.host.isprintable():
        raise Refusal(INVALID, "a host's name is at most 255 printable characters")
    if request.contract_version != CONTRACT_VERSION:
        raise Refusal(
            PRECONDITION,
            f"contract version {request.contract_version} does not fit the server's "
            f"{CONTRACT_VERSION}: run the same version of pronk everywhere",
        )
    if request.experiment_hash != run.experiment_hash:
        raise Refusal(
            PRECONDITION,
            f"the experiment differs: run {run.run} has hash {run.experiment_hash}, this member's "
            f"is {request.experiment_hash}; start it with the run's config.yaml",
        )
    _check_policies(request, policies)
    return None if request.kind == pb.MEMBER_KIND_LEARNER else _check_spec(request.spec, run)


def _check_policies(request: pb.RegisterRequest, policies: Sequence[str]) -> None:
    unknown = sorted(set(request.policies) - set(policies))
    if unknown:
        raise Refusal(INVALID, f"no policy {', '.join(unknown)}; the run has {', '.join(policies)}")
    if not request.policies:
        raise Refusal(INVALID, "a member registers with its policies")
    if request.kind == pb.MEMBER_KIND_LEARNER and len(request.policies) != 1:
        raise Refusal(INVALID, "a learner trains one policy")


def _check_spec(spec: spec_pb2.EnvironmentSpec, run: RunRecord) -> Change | None:
    try:
        check_spec(spec)  # whoever reads it later can only end: it is kept for good
    except WireError as error:
        raise Refusal(INVALID, f"an actor registers with the environment's spec: {error}") from None
    if run.spec is None:
        content = spec.SerializeToString(deterministic=True)
        return Change(
            "spec_registered", {"environment": spec.environment}, run=replace(run, spec=content)
        )
    registered = spec_pb2.EnvironmentSpec.FromString(run.spec)
    differences = [
        f"{field.name} is {_show(spec, field.name)}, registered was {_show(registered, field.name)}"
        for field in spec.DESCRIPTOR.fields
        if getattr(spec, field.name) != getattr(registered, field.name)
    ]
    if differences:
        raise Refusal(PRECONDITION, f"the environment differs: {'; '.join(differences)}")
    return None


def _show(spec: spec_pb2.EnvironmentSpec, name: str) -> str:
    # Long specs stay one readable line; gRPC cuts long status messages off anyway.
    text = " ".join(str(getattr(spec, name)).split())
    return text if len(text) <= 200 else f"{text[:200]}…"
