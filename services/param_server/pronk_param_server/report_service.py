"""The report service: what each policy's run came to, one file per policy on disk."""

# ruff: noqa: N802 - gRPC names the methods.

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from pronk.telemetry import logs, metrics
from pronk.wire.v1 import reports_pb2
from pronk.wire.v1.reports_pb2_grpc import ReportServiceServicer
from pronk_param_server import report_files
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
        await self._writer.run(report_files.write, self._folder / report.policy, report)
        return reports_pb2.LeaveReportResponse()

    @streamed
    async def ListReports(
        self, request: reports_pb2.ListReportsRequest, context: Context
    ) -> AsyncIterator[reports_pb2.ListReportsResponse]:
        """The newest report of each policy that has one that is whole."""
        check_size(request)
        for policy in self._state.policies:
            report = await asyncio.to_thread(_read, self._folder / policy)
            if report is not None:
                yield reports_pb2.ListReportsResponse(report=report)


def _read(path: Path) -> reports_pb2.Report | None:
    """A report that is whole; damage is told and counted."""
    try:
        return report_files.read(path)
    except report_files.DamagedError as error:
        metrics.REPORTS_DAMAGED.inc()
        logs.get().error("report_damaged", policy=path.name, why=str(error))
        return None
