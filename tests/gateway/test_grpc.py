"""The gRPC services over a real socket: answers, errors of the one table, health, reflection."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.gate import Gate
from router.output import OutputDelta
from runtime.clock import SystemClock
from wire.errors import BatonError, ErrorCode
from wire.gen import generate_pb2, generate_pb2_grpc, open_inference_pb2_grpc
from wire.gen import open_inference_pb2 as pb
from wire.messages import FinishReason, GrammarKind, TokenLogprobs

PROTO = Path(__file__).parents[2] / "proto"
CLIENT = """
import sys
import grpc
import open_inference_pb2 as pb, open_inference_pb2_grpc, generate_pb2, generate_pb2_grpc

channel = grpc.insecure_channel(sys.argv[1])
kserve = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
assert kserve.ServerLive(pb.ServerLiveRequest()).live
assert kserve.ModelReady(pb.ModelReadyRequest(name="tiny")).ready
request = pb.ModelInferRequest(model_name="tiny", id="7")
tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
tensor.contents.bytes_contents.append(b"x")
request.parameters["max_tokens"].int64_param = 4
whole = kserve.ModelInfer(request)
pieces = [m.infer_response for m in kserve.ModelStreamInfer(iter([request]))]
text = b"".join(p.outputs[0].contents.bytes_contents[0] for p in pieces)
assert whole.id == pieces[0].id == "7"
assert whole.outputs[0].contents.bytes_contents[0] == text, (whole, text)
call = generate_pb2.CompletionCall(model="tiny", text="x", max_tokens=4)
events = list(generate_pb2_grpc.GenerateStub(channel).Generate(call))
print("".join(piece.text for event in events for piece in event.pieces))
"""


@pytest.fixture
def generate(start_gateway: Callable[..., Any]) -> Callable[..., Any]:
    """generate(script, call, metadata) gives the events of one call to baton.v1.Generate."""

    async def run(
        script: Any, call: generate_pb2.CompletionCall, metadata: Any = (), **options: Any
    ) -> list[generate_pb2.CompletionEvent]:
        async with start_gateway(script, **options) as gateway, gateway.grpc_channel() as channel:
            stub = generate_pb2_grpc.GenerateStub(channel)
            try:
                return [event async for event in stub.Generate(call, metadata=metadata)]
            finally:
                await gateway.until_idle()

    return run


def completion(**fields: Any) -> generate_pb2.CompletionCall:
    return generate_pb2.CompletionCall(**{"model": "tiny", "text": "x", **fields})


async def test_clients_generated_from_the_protos_alone_get_the_same_text_from_both_services(
    start_gateway: Callable[..., Any], answer_of: Callable[..., Any], tmp_path: Path
) -> None:
    options = [f"-I{PROTO}", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    files = [str(PROTO / name) for name in ("open_inference.proto", "generate.proto")]
    compiled = [sys.executable, "-m", "grpc_tools.protoc", *options, *files]
    await asyncio.to_thread(subprocess.run, compiled, check=True)
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    async with (
        start_gateway(lambda _: answer_of([70, 71, 72, 73])) as gateway,
        gateway.grpc_server() as port,
    ):
        ran = await asyncio.create_subprocess_exec(
            sys.executable, str(script), f"127.0.0.1:{port}", cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        output, errors = await ran.communicate()
        assert ran.returncode == 0, errors.decode()
        expected = gateway.services.model.tokenizer.decode([70, 71, 72, 73])
        assert output.decode().strip() == expected.strip()


async def test_the_last_event_has_usage_and_stages(
    generate: Callable[..., Any], answer_of: Callable[..., Any]
) -> None:
    answer = answer_of([70, 71, 72], num_cached_tokens=1)
    events = await generate(lambda _: answer, completion(max_tokens=3, return_token_ids=True))
    assert [list(p.token_ids) for e in events for p in e.pieces][-1][-1] == 72
    assert events[-1].pieces[-1].finish_reason == "length"
    assert events[-1].usage.completion_tokens == 3
    assert events[-1].usage.cached_tokens == 1
    assert events[-1].stages.decode_worker == "decode-0"
    assert not any(event.HasField("usage") for event in events[:-1])


async def test_every_field_of_a_call_reaches_the_router(
    start_gateway: Callable[..., Any], answer_of: Callable[..., Any]
) -> None:
    call = completion(
        token_ids=generate_pb2.TokenIds(ids=[5, 6]), max_tokens=2, min_tokens=1, temperature=0.0,
        top_p=0.5, top_k=7, min_p=0.25, seed=9, presence_penalty=1.0, frequency_penalty=0.5,
        repetition_penalty=1.5, stop_token_ids=[8], ignore_eos=True,
        logit_bias={"70": 2.0}, logprobs=2, priority=3, cache_salt="s",
    )  # fmt: skip
    async with (
        start_gateway(lambda _: answer_of([70, 71])) as gateway,
        gateway.grpc_channel() as channel,
    ):
        async for _ in generate_pb2_grpc.GenerateStub(channel).Generate(call):
            pass
        request, sampling = gateway.router.requests[0], gateway.router.requests[0].sampling
    assert request.prompt_tokens == (5, 6)
    assert (request.priority, sampling.max_tokens, sampling.min_tokens) == (3, 2, 1)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 0.5, 7)
    assert (sampling.min_p, sampling.seed, sampling.repetition_penalty) == (0.25, 9, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1.0, 0.5)
    assert (sampling.ignore_eos, sampling.stop_token_ids) == (True, (8,))
    assert (sampling.logit_bias, sampling.top_logprobs) == (((70, 2.0),), 2)
    assert request.cache_salt


@pytest.mark.parametrize(
    ("grammar", "kind"),
    [
        ({"json_schema": '{"type": "object"}'}, GrammarKind.JSON_SCHEMA),
        ({"regex": "a+"}, GrammarKind.REGEX),
        ({"lark": 'start: "a"'}, GrammarKind.LARK),
        ({"choice": generate_pb2.Choices(texts=["a", "b"])}, None),
    ],
)
async def test_grammars_are_taken(
    start_gateway: Callable[..., Any],
    answer_of: Callable[..., Any],
    grammar: dict[str, Any],
    kind: GrammarKind | None,
) -> None:
    async with (
        start_gateway(lambda _: answer_of([70])) as gateway,
        gateway.grpc_channel() as channel,
    ):
        async for _ in generate_pb2_grpc.GenerateStub(channel).Generate(completion(**grammar)):
            pass
        taken = gateway.router.requests[0].sampling.grammar
    assert taken is not None
    assert kind is None or taken.kind is kind


async def test_logprobs_come_with_their_tokens(generate: Callable[..., Any]) -> None:
    found = (TokenLogprobs(-0.5, ((70, -0.5), (71, -1.5))),)
    script = [OutputDelta((70,), FinishReason.LENGTH, logprobs=found)]
    [event] = await generate(lambda _: script, completion(logprobs=2))
    [logprob] = event.pieces[0].logprobs
    assert (logprob.token_id, logprob.logprob) == (70, -0.5)
    assert list(logprob.top_tokens) == [70, 71]
    assert list(logprob.top_logprobs) == [-0.5, -1.5]


async def test_a_stop_string_ends_the_answer_and_is_named(
    generate: Callable[..., Any], encode: Callable[[str], list[int]], answer_of: Callable[..., Any]
) -> None:
    tokens = encode("relay and pool")
    events = await generate(lambda _: answer_of(tokens), completion(stop=[" pool"]))
    pieces = [piece for event in events for piece in event.pieces]
    assert "".join(piece.text for piece in pieces) == "relay and"
    assert (pieces[-1].finish_reason, pieces[-1].stop_string) == ("stop", " pool")


@pytest.mark.parametrize(
    ("call", "status", "param"),
    [
        (completion(temperature=9.0), "INVALID_ARGUMENT", "temperature"),
        (completion(model="other"), "NOT_FOUND", "model"),
        (generate_pb2.CompletionCall(model="tiny"), "INVALID_ARGUMENT", "prompt"),
        (completion(max_tokens=100_000), "INVALID_ARGUMENT", "prompt"),
        (
            completion(token_ids=generate_pb2.TokenIds(ids=[4_000_000])),
            "INVALID_ARGUMENT",
            "prompt",
        ),
    ],
)
async def test_what_http_refuses_is_refused_with_the_field(
    generate: Callable[..., Any], call: generate_pb2.CompletionCall, status: str, param: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(lambda _: [], call)
    trailer = dict(caught.value.trailing_metadata())  # type: ignore[call-overload]
    assert caught.value.code().name == status
    assert trailer["baton-param"] in (param, "max_tokens")


async def test_overload_below_becomes_resource_exhausted_with_the_time_to_come_back(
    generate: Callable[..., Any],
) -> None:
    refusal = BatonError(ErrorCode.OVERLOADED, "full", retry_after_s=2.0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(lambda _: [refusal], completion())
    trailer = dict(caught.value.trailing_metadata())  # type: ignore[call-overload]
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (trailer["baton-code"], trailer["retry-after"]) == ("overloaded", "2")


async def test_keys_limits_and_tenants_are_those_of_http(
    start_gateway: Callable[..., Any], answer_of: Callable[..., Any], tmp_path: Path
) -> None:
    import hashlib

    digest = hashlib.sha256(b"secret").hexdigest()
    file = tmp_path / "tenants.toml"
    file.write_text(
        f'[[tenants]]\nname = "acme"\nkey_sha256 = ["{digest}"]\nrequests_per_minute = 1\n'
    )
    gate = Gate(file, SystemClock())
    key = (("authorization", "Bearer secret"),)
    async with (
        start_gateway(lambda _: answer_of([70]), gate=gate) as gateway,
        gateway.grpc_channel() as channel,
    ):
        stub = generate_pb2_grpc.GenerateStub(channel)
        assert await status_of(stub.Generate(completion())) is grpc.StatusCode.UNAUTHENTICATED
        assert await status_of(stub.Generate(completion(), metadata=key)) is grpc.StatusCode.OK
        spent = await status_of(stub.Generate(completion(), metadata=key))
        assert spent is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert gateway.router.requests[0].terms.tenant == "acme"
        kserve = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="API key"):
            await kserve.ModelMetadata(pb.ModelMetadataRequest(name="tiny"))


async def status_of(call: Any) -> grpc.StatusCode:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError:
        pass
    code: grpc.StatusCode = await call.code()
    return code


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_cancelled_or_late_call_ends_its_request(
    start_gateway: Callable[..., Any], how: str
) -> None:
    forever = asyncio.Event()
    async with (
        start_gateway(lambda _: [OutputDelta((70,)), forever]) as gateway,
        gateway.grpc_channel() as channel,
    ):
        stub = generate_pb2_grpc.GenerateStub(channel)
        call = stub.Generate(completion(), timeout=2.0 if how == "deadline" else None)
        await call.read()
        if how == "cancel":
            call.cancel()
        await gateway.router.until(lambda: not gateway.router.running)
        await gateway.until_idle()
        assert len(gateway.router.closed_early) == 1


async def test_a_failing_request_of_a_stream_is_told_and_the_next_one_runs(
    start_gateway: Callable[..., Any], answer_of: Callable[..., Any]
) -> None:
    async with (
        start_gateway(lambda _: answer_of([70, 71])) as gateway,
        gateway.grpc_channel() as channel,
    ):
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        requests = [infer("x", nonsense=1), infer("x", max_tokens=2)]
        found = [message async for message in stub.ModelStreamInfer(iter(requests))]
        assert "nonsense" in found[0].error_message
        assert found[0].infer_response.parameters["error_code"].string_param == "unknown_field"
        last = found[-1].infer_response.parameters
        assert last["triton_final_response"].bool_param
        assert last["finish_reason"].string_param == "length"
        assert last["completion_tokens"].int64_param == 2


async def test_tensors_may_be_raw_and_ids_may_go_in(
    start_gateway: Callable[..., Any], answer_of: Callable[..., Any]
) -> None:
    ids = pb.ModelInferRequest(model_name="tiny")
    ids.inputs.add(name="input_ids", datatype="INT32", shape=[2])
    ids.raw_input_contents.append(b"\x05\x00\x00\x00\x06\x00\x00\x00")
    text = pb.ModelInferRequest(model_name="tiny")
    text.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    text.raw_input_contents.append(b"\x05\x00\x00\x00relay")
    text.parameters["stop_token_ids"].string_param = "[9]"
    broken = pb.ModelInferRequest(model_name="tiny")
    broken.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    broken.raw_input_contents.append(b"\x09\x00\x00\x00relay")
    async with (
        start_gateway(lambda _: answer_of([70])) as gateway,
        gateway.grpc_channel() as channel,
    ):
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        await stub.ModelInfer(ids)
        await stub.ModelInfer(text)
        with pytest.raises(grpc.aio.AioRpcError, match="one string"):
            await stub.ModelInfer(broken)
        first, second = gateway.router.requests
        assert first.prompt_tokens == (5, 6)
        assert gateway.services.model.tokenizer.decode(list(second.prompt_tokens)) == "relay"
        assert second.sampling.stop_token_ids == (9,)


def infer(text: str, **parameters: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="tiny")
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text.encode())
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    return request


async def test_health_follows_the_workers_and_reflection_names_the_services(
    start_gateway: Callable[..., Any],
) -> None:
    async with start_gateway(lambda _: []) as gateway, gateway.grpc_channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="baton.v1.Generate")
        )
        states = health_pb2.HealthCheckResponse
        while (await watch.read()).status != states.SERVING:
            pass
        gateway.router.is_ready = False
        while (await watch.read()).status != states.NOT_SERVING:
            pass
        watch.cancel()
        kserve = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert not (await kserve.ServerReady(pb.ServerReadyRequest())).ready
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        [reply] = [reply async for reply in stub.ServerReflectionInfo(iter([asked]))]
        names = {service.name for service in reply.list_services_response.service}
        assert {"baton.v1.Generate", "inference.GRPCInferenceService"} <= names


async def test_a_client_that_does_not_read_is_bounded_and_cut_off(
    start_gateway: Callable[..., Any],
) -> None:
    script = [OutputDelta((70,) * 4000) for _ in range(200)]
    script.append(OutputDelta((70,), FinishReason.LENGTH))
    async with (
        start_gateway(lambda _: script, stall_timeout_s=0.5) as gateway,
        gateway.grpc_channel() as channel,
    ):
        call = generate_pb2_grpc.GenerateStub(channel).Generate(completion())
        await gateway.router.until(lambda: bool(gateway.router.requests))
        await gateway.until_idle()
        assert gateway.value("baton_requests_total", endpoint="grpc_generate", outcome="stalled")
        call.cancel()
