"""The router alone, over real gRPC: decisions that count as load, and whole answers."""

import asyncio
import contextlib

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from scripted_cluster import expected, make_request, until

from router.server import RouterServer
from router.server_config import RouterServerConfig
from runtime.clock import SystemClock
from runtime.lifecycle import new_id
from wire.errors import BatonError, ErrorCode
from wire.messages import RequestTerms
from wire.router_messages import PlaceCall
from wire.router_rpc import SERVICE, RouterClient
from wire.rpc import open_channel


@pytest.fixture
async def start_service(start_cluster):
    """`await start_service(num_prefill, num_decode)`: (cluster, server, client)."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(num_prefill=1, num_decode=2, **settings):
            cluster = await start_cluster(num_prefill, num_decode)
            address = f"127.0.0.1:{cluster.control.port}"
            config = RouterServerConfig(port=0, control_address=address, drain_s=2.0, **settings)
            server = RouterServer(config, SystemClock(), new_id)
            await server.start()
            stack.push_async_callback(server.stop)
            channel = open_channel(f"127.0.0.1:{server.port}")
            stack.push_async_callback(channel.close)
            num_workers = num_prefill + num_decode
            await until(lambda: _num_live(server) == num_workers)
            return cluster, server, RouterClient(channel)

        yield start


def _num_live(server):
    return sum(view.state.value == "live" for view in server.router.snapshot().workers)


def _loads(server):
    return {view.worker_id: view.num_seqs for view in server.router.snapshot().workers}


async def test_generate_streams_the_answer_and_tells_its_workers(start_service):
    cluster, _, client = await start_service()
    request = make_request(max_tokens=6)
    deltas = [delta async for delta in client.generate(request)]
    assert [token for delta in deltas for token in delta.tokens] == expected(request)
    last = deltas[-1]
    assert (last.finish_reason.value, last.kind, last.prefill_worker) == ("length", "remote", "p0")
    assert last.decode_worker in ("d0", "d1")
    await cluster.idle()


async def test_a_call_that_is_given_up_ends_the_request_on_all_workers(start_service):
    cluster, _, client = await start_service()
    deltas = client.generate(make_request(max_tokens=500))
    await anext(deltas)
    await deltas.aclose()
    await cluster.idle()


async def test_place_decides_counts_until_release_and_spreads(start_service):
    _, server, client = await start_service()
    prompt = tuple(range(1, 201))
    first = await client.place(PlaceCall("a", prompt))
    second = await client.place(PlaceCall("b", tuple(range(900, 1100))))
    assert (first.kind, first.prefill.worker_id) == ("remote", "p0")
    assert {first.decode.worker_id, second.decode.worker_id} == {"d0", "d1"}
    assert first.decode.address.startswith("127.0.0.1:") and first.explanation and first.ttl_s > 0
    assert _loads(server) == {"p0": 2, "d0": 1, "d1": 1}
    await client.started("a")
    await until(lambda: _loads(server) == {"p0": 1, "d0": 0, "d1": 1} or _loads(server)["d1"] == 0)
    await client.release("a")
    await client.release("b")
    await client.release("never placed")
    await until(lambda: set(_loads(server).values()) == {0})
    assert len(server.router.outside) == 0


async def test_the_answer_has_the_forecasts_of_the_pairs_that_were_weighed(start_service):
    _, _, client = await start_service(router_profile="llama-3.1-8b@h200")
    reply = await client.place(PlaceCall("f", num_tokens=500))
    assert len(reply.candidates) > 1
    best = reply.candidates[0]
    assert best.decode_worker == reply.decode.worker_id
    assert best.ttft_s >= best.prefill_s > 0 and best.tpot_s > 0
    await client.release("f")


async def test_hashes_without_text_place_as_tokens_do(start_service):
    cluster, server, client = await start_service()
    request = make_request(num_tokens=320)
    cluster.workers["d1"].store(request.block_hashes)
    await until(lambda: _prefix_blocks(server, "d1") == len(request.block_hashes))
    call = PlaceCall("x", block_hashes=request.block_hashes, num_tokens=320)
    reply = await client.place(call)
    assert (reply.kind, reply.decode.worker_id) == ("local", "d1")
    await client.release("x")


def _prefix_blocks(server, worker_id):
    views = {view.worker_id: view for view in server.router.snapshot().workers}
    return views[worker_id].num_prefix_blocks


async def test_a_worker_that_failed_the_request_is_left_out(start_service):
    _, _, client = await start_service()
    for number in range(4):
        reply = await client.place(PlaceCall(f"{number}", num_tokens=100, excluded=("d0",)))
        assert reply.decode.worker_id == "d1"


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (PlaceCall("", num_tokens=5), "place_id is empty"),
        (PlaceCall("used", num_tokens=5), "in use"),
        (PlaceCall("n"), "prompt_tokens"),
        (PlaceCall("n", block_hashes=(1, 2), num_tokens=20), "fill 1 blocks"),
        (PlaceCall("n", num_tokens=5000), "the context has 4096"),
    ],
)
async def test_a_bad_call_is_refused_in_words(start_service, call, reason):
    _, _, client = await start_service()
    await client.place(PlaceCall("used", num_tokens=5))
    with pytest.raises(BatonError, match=reason) as refusal:
        await client.place(call)
    expected_codes = (ErrorCode.INVALID_REQUEST, ErrorCode.CONTEXT_LENGTH_EXCEEDED)
    assert refusal.value.code in expected_codes


async def test_without_a_worker_of_the_model_the_call_is_unavailable_and_says_when_to_retry(
    start_service,
):
    _, _, client = await start_service()
    with pytest.raises(BatonError) as refusal:
        await client.place(PlaceCall("m", num_tokens=5, terms=RequestTerms(model="another")))
    assert refusal.value.code is ErrorCode.UNAVAILABLE
    assert refusal.value.retry_after_s == 1.0


async def test_health_follows_the_workers_and_reflection_names_the_service(start_service):
    cluster, server, _ = await start_service(0, 1)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def health():
            return (await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))).status

        async with asyncio.timeout(60):
            while await health() != health_pb2.HealthCheckResponse.SERVING:
                await asyncio.sleep(0.01)
            await cluster.workers["d0"].kill()
            while await health() != health_pb2.HealthCheckResponse.NOT_SERVING:
                await asyncio.sleep(0.01)
    assert SERVICE in await asyncio.to_thread(_services, server.port)


def _services(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return ProtoReflectionDescriptorDatabase(channel).get_services()


async def test_stop_lets_running_answers_end(start_service):
    _, server, client = await start_service()
    request = make_request(max_tokens=40)
    deltas = client.generate(request)
    tokens = list((await anext(deltas)).tokens)
    stopping = asyncio.ensure_future(server.stop())
    async for delta in deltas:
        tokens += delta.tokens
    assert tokens == expected(request)
    await stopping
