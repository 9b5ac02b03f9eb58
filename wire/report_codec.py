"""Between what a worker reports of itself and protobuf."""

from wire.gen import worker_pb2
from wire.messages import NO_HOST, HostLoad, Role, StepTotals, WorkerReport


def encode_report(report: WorkerReport) -> worker_pb2.WorkerReport:
    totals = report.totals
    return worker_pb2.WorkerReport(
        role=report.role.value,
        num_steps=report.num_steps,
        has_work=report.has_work,
        draining=report.draining,
        num_running=report.num_running,
        num_waiting=report.num_waiting,
        waiting_tokens=report.waiting_tokens,
        num_blocks=report.num_blocks,
        num_free_blocks=report.num_free_blocks,
        context_tokens=report.context_tokens,
        num_exports=report.num_exports,
        num_imports=report.num_imports,
        step_s=report.step_s,
        progress=report.progress,
        role_epoch=report.role_epoch,
        flipping=report.flipping,
        host=None if report.host == NO_HOST else _encode_host(report.host),
        totals=worker_pb2.StepTotals(
            num_steps=totals.num_steps,
            num_prefill_steps=totals.num_prefill_steps,
            step_s=totals.step_s,
            num_decode_tokens=totals.num_decode_tokens,
            num_context_tokens=totals.num_context_tokens,
            num_prefill_tokens=totals.num_prefill_tokens,
            num_prefill_pairs=totals.num_prefill_pairs,
        ),
    )


def decode_report(message: worker_pb2.WorkerReport) -> WorkerReport:
    totals = message.totals
    return WorkerReport(
        role=Role(message.role),
        num_steps=message.num_steps,
        has_work=message.has_work,
        draining=message.draining,
        num_running=message.num_running,
        num_waiting=message.num_waiting,
        waiting_tokens=message.waiting_tokens,
        num_blocks=message.num_blocks,
        num_free_blocks=message.num_free_blocks,
        context_tokens=message.context_tokens,
        num_exports=message.num_exports,
        num_imports=message.num_imports,
        step_s=message.step_s,
        progress=message.progress,
        role_epoch=message.role_epoch,
        flipping=message.flipping,
        host=_decode_host(message.host) if message.HasField("host") else NO_HOST,
        totals=StepTotals(
            num_steps=totals.num_steps,
            num_prefill_steps=totals.num_prefill_steps,
            step_s=totals.step_s,
            num_decode_tokens=totals.num_decode_tokens,
            num_context_tokens=totals.num_context_tokens,
            num_prefill_tokens=totals.num_prefill_tokens,
            num_prefill_pairs=totals.num_prefill_pairs,
        ),
    )


def _encode_host(host: HostLoad) -> worker_pb2.HostLoad:
    return worker_pb2.HostLoad(
        num_blocks=host.num_blocks,
        num_used_blocks=host.num_used_blocks,
        block_s=host.block_s,
        num_restored_tokens=host.num_restored_tokens,
        num_device_hits=host.num_device_hits,
        num_host_hits=host.num_host_hits,
    )


def _decode_host(message: worker_pb2.HostLoad) -> HostLoad:
    return HostLoad(
        num_blocks=message.num_blocks,
        num_used_blocks=message.num_used_blocks,
        block_s=message.block_s,
        num_restored_tokens=message.num_restored_tokens,
        num_device_hits=message.num_device_hits,
        num_host_hits=message.num_host_hits,
    )
