"""Placement rules on a running cluster: latencies, goodput, and how far predictions were off.

    baton up --profile llama-3.1-8b@h200 --prefill 2 --decode 2
    BATON_CLUSTER_TOKEN=... python -m baton.bench.live --control-address 127.0.0.1:PORT

Each policy gets a router of its own and requests at the same times and of the same lengths, one
policy after the other; tokens differ, so that none finds what another one left in the caches.
Requests come at random times, whatever becomes of those before them. Half of them begin with one
of eight prefixes. One JSON line a policy.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import mean, median, quantiles

from router.candidates import WorkerState
from router.config import RouterConfig
from router.output import RequestTrace
from router.router import Router
from runtime.clock import SystemClock
from runtime.metrics import GATEWAY_METRICS, Metrics
from runtime.settings import environment
from wire.block_hash import block_hashes
from wire.errors import BatonError
from wire.messages import GenerateRequest, RequestTerms, SamplingParams

_SIGMA = 0.7  # of both lengths' logarithms
_SPREAD = 4.0  # lengths are within this factor of their median
_NUM_PREFIXES = 8
_FIRST_TOKEN, _NUM_TOKENS = 5, 4000  # of the ids that prompts are made of
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Workload:
    """rate: requests a second. prompt_tokens, answer_tokens: medians. judged_from: the number of
    the request from which on predictions are judged. ttft_s, tpot_s: the objectives."""

    rate: float = 4.0
    num_requests: int = 300
    judged_from: int = 200
    prompt_tokens: int = 2000
    answer_tokens: int = 150
    ttft_s: float = 0.5
    tpot_s: float = 0.012
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Figures:
    """One policy's; times in milliseconds, goodput in requests a second that met both objectives.

    The errors are medians of |predicted / actual - 1|, the biases of predicted / actual - 1; None
    for a policy that does not predict.
    step_error: the step predictors' own, of the worker where it is largest.
    """

    policy: str
    num_answered: int
    ttft_mean_ms: float
    ttft_p99_ms: float
    tpot_mean_ms: float
    tpot_p99_ms: float
    goodput: float
    num_judged: int
    step_error: float | None
    ttft_error: float | None
    tpot_error: float | None
    ttft_bias: float | None
    tpot_bias: float | None


def plan(workload: Workload, salt: str) -> list[tuple[float, GenerateRequest]]:
    """When each request comes, from the start on. salt: makes other tokens of equal lengths."""
    lengths, ids = Random(workload.seed), Random(f"{workload.seed} {salt}")
    prefixes = [_tokens(ids, workload.prompt_tokens // 2) for _ in range(_NUM_PREFIXES)]
    terms = RequestTerms(ttft_slo_s=workload.ttft_s, tpot_slo_s=workload.tpot_s)
    at_s, planned = 0.0, []
    for number in range(workload.num_requests):
        at_s += lengths.expovariate(workload.rate)
        num_prompt = _length(lengths, workload.prompt_tokens)
        num_answer = max(2, _length(lengths, workload.answer_tokens))
        prefix = lengths.randrange(2 * _NUM_PREFIXES)
        start = prefixes[prefix][: num_prompt - 1] if prefix < _NUM_PREFIXES else ()
        prompt = (*start, *_tokens(ids, num_prompt - len(start)))
        sampling = SamplingParams(temperature=0.0, max_tokens=num_answer, ignore_eos=True)
        hashes = tuple(block_hashes(prompt))
        request = GenerateRequest(f"{salt}-{number}", prompt, sampling, hashes, terms=terms)
        planned.append((at_s, request))
    return planned


async def measure(config: RouterConfig, workload: Workload, num_workers: int) -> Figures:
    """Plays the workload through a router of this configuration on its cluster."""
    router = Router(config, SystemClock(), Metrics(GATEWAY_METRICS))
    await router.start()
    try:
        async with asyncio.timeout(_START_S):
            while _num_live(router) < num_workers:
                await asyncio.sleep(0.05)
        planned = plan(workload, config.client_id)
        traces = await _play(router, planned)
        steps = [session.forecast.steps for session in router._sessions.all()]
    finally:
        await router.stop()
    warm = [one.error for one in steps if one.knows_decode and one.knows_prefill]
    lasts_s = planned[-1][0]
    return _figures(config.policy, workload, traces, lasts_s, max(warm, default=None))


async def _play(
    router: Router, planned: Sequence[tuple[float, GenerateRequest]]
) -> list[RequestTrace | None]:
    """Each request's trace; None for those that were refused or failed."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()

    async def ask(at_s: float, request: GenerateRequest) -> RequestTrace | None:
        await asyncio.sleep(start_s + at_s - loop.time())
        trace = None
        try:
            async for delta in router.generate(request):
                trace = delta.trace or trace
        except BatonError:
            return None
        return trace

    return await asyncio.gather(*(ask(at_s, request) for at_s, request in planned))


def _figures(
    policy: str,
    workload: Workload,
    traces: Sequence[RequestTrace | None],
    lasts_s: float,
    step_error: float | None,
) -> Figures:
    answered = [trace for trace in traces if trace is not None]
    ttfts_ms = [1e3 * trace.ttft_s for trace in answered]
    tpots_ms = [1e3 * trace.tpot_s for trace in answered]
    good = [t for t in answered if t.ttft_s <= workload.ttft_s and t.tpot_s <= workload.tpot_s]
    judged = [t for t in traces[workload.judged_from :] if t is not None and t.attempts == 1]
    first = [(t.predicted.ttft_s, t.ttft_s - t.placed_s) for t in judged if t.predicted]
    token = [(t.predicted.tpot_s, t.tpot_s) for t in judged if t.predicted]
    return Figures(
        policy,
        len(answered),
        mean(ttfts_ms),
        quantiles(ttfts_ms, n=100)[98],
        mean(tpots_ms),
        quantiles(tpots_ms, n=100)[98],
        len(good) / lasts_s,
        len(judged),
        step_error,
        _error(first),
        _error(token),
        _bias(first),
        _bias(token),
    )


def _error(pairs: Sequence[tuple[float, float]]) -> float | None:
    """pairs: predicted, actual."""
    return median(abs(predicted / actual - 1) for predicted, actual in pairs) if pairs else None


def _bias(pairs: Sequence[tuple[float, float]]) -> float | None:
    return median(predicted / actual - 1 for predicted, actual in pairs) if pairs else None


def _length(rng: Random, middle: int) -> int:
    return round(middle * min(_SPREAD, max(1 / _SPREAD, rng.lognormvariate(0.0, _SIGMA))))


def _tokens(rng: Random, count: int) -> tuple[int, ...]:
    return tuple(_FIRST_TOKEN + rng.randrange(_NUM_TOKENS) for _ in range(count))


def _num_live(router: Router) -> int:
    return sum(worker.state is WorkerState.LIVE for worker in router.snapshot().workers)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--control-address", required=True)
    parser.add_argument("--policies", default="predicted,uncached_tokens,dynamo")
    parser.add_argument("--workers", type=int, default=4)
    for name, value in asdict(Workload()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser.parse_args()


def main() -> None:
    """Print a line of JSON for each policy."""
    given = vars(_arguments())
    workload = Workload(**{name: given[name] for name in asdict(Workload())})
    for number, policy in enumerate(given["policies"].split(",")):
        config = RouterConfig(
            given["control_address"],
            f"live-{number}",
            policy=policy,
            cluster_token=environment("CLUSTER_TOKEN"),
        )
        figures = asyncio.run(measure(config, workload, given["workers"]))
        print(json.dumps(asdict(figures)), flush=True)


if __name__ == "__main__":
    main()
