"""The simulated worker schedules as the real engine does: the same requests, the same times."""

from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelled_config import model_config
from toy_cluster import make_profile, make_spec, make_workload

from engine.engine import Engine
from engine.kv_cache import allocate_kv, kv_layout
from engine.modelled.model import ModelledModel
from engine.options import EngineConfig
from engine.sequence import EngineRequest
from profiles.scatter import Scatter
from runtime.clock import VirtualClock
from simulate.run import simulate
from wire.block_hash import block_hashes
from wire.messages import SamplingParams

PROFILE = make_profile(kv_tokens=1 << 16, max_num_seqs=6, decode_batch_tokens=200)
# One level for good, so that it does not matter how many steps of a run were drawn in vain.
UNEVEN = replace(PROFILE, scatter=Scatter((0.5, 0.8, 1.7), (0.6, 1.4), kept=1.0, lasts_s=1e9))


def engine_times(requests, profile):
    """First and last token's time of each request on the real engine over the modelled model."""
    clock, config = VirtualClock(), model_config()
    model = ModelledModel(
        config, profile, clock, clock.advance, Random("steps-0-decode-0-1"), max_credit_s=0.0
    )
    num_blocks = profile.kv_tokens // 16
    options = EngineConfig(num_blocks, profile.kv_tokens, (), 16, 200, 6)
    kv = allocate_kv(kv_layout(config, torch.bfloat16, num_blocks))
    engine = Engine(model, kv, options, clock)
    times, pending = {}, list(enumerate(requests))
    while pending or engine.has_work:
        if not engine.has_work and pending[0][1][0] > clock.now():
            clock.advance(pending[0][1][0] - clock.now())
        while pending and pending[0][1][0] <= clock.now() + 1e-12:
            index, (_, num_input, num_output) = pending.pop(0)
            prompt = tuple(1 + (index * 7919 + i) % 1000 for i in range(num_input))
            sampling = SamplingParams(temperature=0, max_tokens=num_output, ignore_eos=True)
            hashes = tuple(block_hashes(prompt))
            engine.add(EngineRequest(index, prompt, sampling, hashes))
        plan = engine.schedule()
        if plan is None:
            continue
        for output in engine.execute(plan).outputs:
            first, _ = times.get(output.seq_id, (clock.now(), 0.0))
            times[output.seq_id] = (first, clock.now())
        engine.check_integrity()
    return times


def simulated_times(requests, profile):
    spec = make_spec("0:1", profile=profile)
    records = simulate(spec, make_workload(requests)).records
    return {record.index: (record.first_s, record.end_s) for record in records}


# Arrivals on odd fractions of a second, so that none meets a step's end to the bit.
ARRIVALS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(1, 700), st.integers(1, 40)),
    min_size=1,
    max_size=14,
)


@settings(max_examples=30)
@given(ARRIVALS, st.sampled_from([PROFILE, UNEVEN]))
def test_a_worker_gives_tokens_when_the_engine_does(drawn, profile):
    requests = sorted((0.003777 * at + 1e-5 * i, n, m) for i, (at, n, m) in enumerate(drawn))
    expected = engine_times(requests, profile)
    found = simulated_times(requests, profile)
    assert found.keys() == expected.keys()
    for index, times in expected.items():
        assert found[index] == pytest.approx(times, abs=1e-6), index
