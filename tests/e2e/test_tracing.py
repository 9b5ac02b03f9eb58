"""Spans of one request, from all the processes that it ran in, at a collector of OTLP."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from baton.local_cluster import LocalCluster
from baton.up_config import UpConfig
from runtime.clock import SystemClock
from runtime.lifecycle import free_port

CLIENT_SPAN = "00f067aa0ba902b7"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: dict[str, Any] = {}
        self.services: dict[str, str] = {}

    def Export(self, request: Any, context: Any) -> Any:
        for of_process in request.resource_spans:
            resource = {a.key: a.value.string_value for a in of_process.resource.attributes}
            for scope in of_process.scope_spans:
                for span in scope.spans:
                    if span.trace_id.hex() == TRACE:
                        self.spans[span.name] = span
                        self.services[span.name] = resource["service.name"]
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_gateway_router_and_both_workers_give_one_trace(tmp_path: Path) -> None:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    config = UpConfig(
        port=free_port(), grpc_port=-1, control_port=0, http_port=-1, dashboard_port=-1,
        kv_memory="32MiB", otlp_endpoint=f"http://127.0.0.1:{port}",
    )  # fmt: skip
    cluster = LocalCluster(config, SystemClock(), log_dir=tmp_path)
    try:
        await cluster.start()
        await cluster.wait_ready()
        # Long enough that the prompt is worth another worker.
        body = {"model": "baton-demo", "prompt": "the relay baton " * 200, "max_tokens": 4}
        headers = {"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01"}
        async with httpx.AsyncClient(timeout=60) as client:
            url = f"http://127.0.0.1:{config.port}/v1/completions"
            await until_pairs(client, url)
            reply = await client.post(url, json=body, headers=headers)
            assert reply.status_code == 200, reply.text
        wanted = {"text_completion", "route", "prefill", "transfer", "decode"}
        async with asyncio.timeout(30):
            while not wanted <= collector.spans.keys():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"only {sorted(collector.spans)} came")
    finally:
        await cluster.stop()
        server.stop(None).wait()
    spans = collector.spans
    assert spans["text_completion"].parent_span_id.hex() == CLIENT_SPAN
    assert spans["route"].parent_span_id == spans["text_completion"].span_id
    for name in ("prefill", "transfer", "decode"):
        assert spans[name].parent_span_id == spans["route"].span_id
    assert collector.services["route"] == collector.services["text_completion"] == "baton-gateway"
    assert collector.services["prefill"] == "baton-prefill"
    assert collector.services["transfer"] == collector.services["decode"] == "baton-decode"
    shown = {attribute.key: attribute.value for attribute in spans["text_completion"].attributes}
    assert shown["gen_ai.operation.name"].string_value == "text_completion"
    assert shown["gen_ai.request.model"].string_value == "baton-demo"
    assert shown["gen_ai.usage.output_tokens"].int_value == 4
    assert spans["prefill"].start_time_unix_nano >= spans["route"].start_time_unix_nano
    assert spans["decode"].end_time_unix_nano >= spans["transfer"].end_time_unix_nano


async def until_pairs(client: httpx.AsyncClient, url: str) -> None:
    """The gateway knows both workers: an answer of one comes from the other's prefill."""
    async with asyncio.timeout(30):
        for number in itertools.count():
            body = {"model": "baton-demo", "prompt": f"{number} baton " * 20, "max_tokens": 2}
            headers = (await client.post(url, json=body)).headers
            if headers["x-baton-prefill-worker"] != headers["x-baton-decode-worker"]:
                return


def test_an_endpoint_without_the_sdk_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from runtime.tracing import open_tracer

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(ValueError, match=r"baton-serve\[tracing\]"):
        open_tracer("http://127.0.0.1:4317", "baton-gateway", "0")
    assert open_tracer("", "baton-gateway", "0") is None
