"""The report service: what each policy's run came to, one file per policy on disk."""

# ruff: noqa: N802 - gRPC names the methods.

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from pronk import files
from pronk.wire.v1 import reports_pb2
from pronk.wire.v1.reports_pb2_grpc import ReportServiceServicer
from pronk_param_server.calls import LARGE_BYTES, Context, answered, check_size, streamed
from pronk_param_server.refusal import PRECONDITION, Refusal
from pronk_param_server.state import State
from pronk_param_server.writer import Writer


class ReportService(ReportServiceServicer):
    """Keeps the newest report of each policy in `folder`, written on the writer thread."""

    def __init__(self, state: State, writer: Writer, folder: Path) -> None:
        self._state = state
        self._writer = writer
        self._folder = folder

    @answered
    async def LeaveReport(
        self, request: reports_pb2.LeaveReportRequest, context: Context
    ) -> reports_pb2.LeaveReportResponse:
        """Replace a policy's report."""
        check_size(request, LARGE_BYTES)
        report = request.report
        record = self._state.policies.get(report.policy)
        if record is None or not request.member or record.holder != request.member:
            raise Refusal(
                PRECONDITION,
                f"member {request.member!r} does not hold the epoch of policy {report.policy!r}",
            )
        await self._writer.run(_write, self._folder / report.policy, report.SerializeToString())
        return reports_pb2.LeaveReportResponse()

    @streamed
    async def ListReports(
        self, request: reports_pb2.ListReportsRequest, context: Context
    ) -> AsyncIterator[reports_pb2.ListReportsResponse]:
        """The newest report of each policy that has one."""
        check_size(request)
        for policy in self._state.policies:
            content = await asyncio.to_thread(_read, self._folder / policy)
            if content is not None:
                report = reports_pb2.Report.FromString(content)
                yield reports_pb2.ListReportsResponse(report=report)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    files.replace(path, content)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
