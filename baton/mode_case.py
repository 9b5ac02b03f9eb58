"""What the modes are simulated from, and the process that simulates them."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from control_plane.planner.demand import WorkerModel, decode_demand, prefill_demand
from control_plane.planner.needs import WorkerModels
from control_plane.planner.types import Objectives, Observation, Traffic
from runtime.log import get_logger
from wire.cluster import Mode
from wire.messages import Role

_MAX_STRETCHES = 10
_TIMEOUT_S = 120.0
_log = get_logger("control_plane")


@dataclass(frozen=True, slots=True)
class ModeCase:
    """The traffic of consecutive stretches of seconds, and the workers that were there."""

    stretches: tuple[tuple[float, Traffic], ...]
    model: WorkerModel
    num_prefill: int
    num_decode: int
    objectives: Objectives


class SimulatedModes:
    """A ModeSimulator of the autopilot. Its process is killed with the call, or after a bound."""

    async def scores(
        self, history: tuple[Observation, ...], objectives: Objectives
    ) -> tuple[tuple[Mode, float], ...]:
        """Empty while too little was seen."""
        case = case_of(history, objectives)
        if case is None:
            return ()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "baton.mode_simulator",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer, _ = await process.communicate(msgspec.json.encode(case))
        except TimeoutError:
            _log.warning("the modes' simulation took too long", limit_s=_TIMEOUT_S)
            return ()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            _log.warning("the modes' simulation failed", exit_code=process.returncode)
            return ()
        return msgspec.json.decode(answer, type=tuple[tuple[Mode, float], ...])


def case_of(history: Sequence[Observation], objectives: Objectives) -> ModeCase | None:
    """None without a request, workers of known costs, or at least two ticks."""
    seen = [observation for observation in history if observation.traffic is not None]
    if len(seen) < 2:
        return None
    last = seen[-1]
    model = WorkerModels({}).typical(last.workers)
    group = max(1, len(seen) // _MAX_STRETCHES)
    edges = seen[::group] if seen[::group][-1] is last else [*seen[::group], last]
    stretches = [
        (end.at_s - begin.at_s, end.traffic) for begin, end in pairwise(edges) if end.traffic
    ]
    busy = [(seconds, t) for seconds, t in stretches if t.requests_per_s * t.uncached_tokens > 0]
    if model is None or not busy:
        return None
    sizes = (len(last.of(Role.PREFILL)), len(last.of(Role.DECODE)))
    if sum(sizes) > 1 and not all(sizes):
        sizes = _parted(sum(sizes), busy[-1][1], model, objectives)
    return ModeCase(tuple(busy), model, *sizes, objectives)


def _parted(
    total: int, traffic: Traffic, model: WorkerModel, objectives: Objectives
) -> tuple[int, int]:
    """Two pools of what is one, by either phase's work: what the other modes would begin with."""
    prompts = prefill_demand(traffic, model, objectives).load
    answers = decode_demand(traffic, model, objectives)
    share = prompts / (prompts + answers.concurrency / answers.batch)
    prefill = min(total - 1, max(1, round(total * share)))
    return prefill, total - prefill
