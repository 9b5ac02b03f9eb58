"""A router in a process of its own, so that it can live in a network namespace: JSON lines in, the
tokens of greedy answers out."""

import asyncio
import json
import sys

from router.config import RouterConfig
from router.router import Router
from runtime.clock import SystemClock
from runtime.log import configure
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.block_hash import block_hashes
from wire.messages import GenerateRequest, SamplingParams


def say(**answer: object) -> None:
    print(json.dumps(answer), flush=True)


def request(number: int, prompt: list[int], max_tokens: int) -> GenerateRequest:
    return GenerateRequest(
        request_id=f"r{number}",
        prompt_tokens=tuple(prompt),
        sampling=SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
        block_hashes=tuple(block_hashes(prompt)),
    )


async def answer(router: Router, number: int, prompt: list[int], max_tokens: int) -> None:
    """Says `first` with the first token, which comes before the transfer has ended, then all."""
    tokens: list[int] = []
    trace = None
    async for delta in router.generate(request(number, prompt, max_tokens)):
        if delta.tokens and not tokens:
            say(first=number)
        tokens += delta.tokens
        trace = delta.trace or trace
    assert trace is not None
    say(
        tokens=tokens,
        kind=trace.kind,
        attempts=trace.attempts,
        transfer_s=trace.transfer_s,
        failure=trace.transfer_failure,
    )


async def main() -> None:
    """Arguments: the control plane's address, its token, and how many workers to wait for."""
    configure("client")
    address, token, num_workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config = RouterConfig(
        control_address=address,
        cluster_token=token,
        client_id="stream-client",
        policy="uncached_tokens",
        heartbeat_timeout_s=8.0,
        step_timeout_s=8.0,
    )
    router = Router(config, SystemClock(), Metrics(GATEWAY_METRICS))
    await router.start()
    while sum(worker.state == "live" for worker in router.snapshot().workers) < num_workers:
        await asyncio.sleep(0.05)
    say(ready=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        await answer(router, **json.loads(line))
    await router.stop()


if __name__ == "__main__":
    asyncio.run(main())
