"""Whole simulations: what reaches clients, what is kept, and that equal orders end equally."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_cluster import make_profile, make_spec, make_workload

from loadtest.plan import Conversation, Segment, Turn, Workload
from loadtest.slo import parse_slos
from simulate.report import result_of
from simulate.run import simulate
from simulate.spec import Overheads
from simulate.strategies import STRATEGIES

PROFILE = make_profile()
PREFILL_STEP_S = PROFILE.step_s + PROFILE.prefill_step_s


def only(outcome):
    (record,) = outcome.records
    return record


def test_a_lone_local_request_takes_the_times_of_its_steps():
    record = only(simulate(make_spec("0:1"), make_workload([(1.0, 200, 4)])))
    first = PREFILL_STEP_S + PROFILE.chunk_s(0, 200)
    assert record.ttft_s == pytest.approx(first)
    steps = [PROFILE.decode_s(1, 200 + i) for i in (1, 2, 3)]
    np.testing.assert_allclose(record.gaps_s, steps, rtol=1e-5)
    assert (record.num_output, record.stages.kind) == (4, "degraded")


def test_a_prompt_longer_than_the_budget_is_prefilled_in_chunks():
    spec = make_spec("0:1", decode_batch_tokens=64)
    record = only(simulate(spec, make_workload([(0.0, 160, 1)])))
    parts = [(0, 64), (64, 128), (128, 160)]
    assert record.ttft_s == pytest.approx(sum(PREFILL_STEP_S + PROFILE.chunk_s(*p) for p in parts))


def test_a_remote_request_shows_its_first_token_before_its_kv_has_travelled():
    record = only(simulate(make_spec("1:1"), make_workload([(0.0, 1000, 3)])))
    prefill_s = PREFILL_STEP_S + PROFILE.chunk_s(0, 1000)
    tail_s = PROFILE.kv_transfer_s(1000) / PROFILE.num_layer_groups
    assert record.ttft_s == pytest.approx(prefill_s)
    assert record.stages.exposed_s == pytest.approx(tail_s)  # the layers before went as they came
    assert record.gaps_s[0] == pytest.approx(tail_s + PROFILE.decode_s(1, 1001), rel=1e-5)
    assert record.stages.kind == "remote"


def test_kv_of_earlier_chunks_travels_while_the_rest_is_computed():
    spec = make_spec("1:1", prefill_batch_tokens=128)
    record = only(simulate(spec, make_workload([(0.0, 1024, 3)])))
    tail_s = PROFILE.kv_transfer_s(1024) / PROFILE.num_layer_groups
    assert record.stages.exposed_s == pytest.approx(tail_s)


def test_overheads_stand_before_the_first_token():
    spec = make_spec("0:1", overheads=Overheads(0.1, 0.001, 0.02, 0.03, 0.0))
    record = only(simulate(spec, make_workload([(0.0, 100, 1)])))
    own_s = PREFILL_STEP_S + PROFILE.chunk_s(0, 100)
    assert record.ttft_s == pytest.approx(0.1 + 0.1 + 0.02 + own_s + 0.02 + 0.03)


def test_a_shared_beginning_is_computed_once():
    shared = Segment(7, 320)
    turns = [(Turn(2, (shared, Segment(100 + i, 40))),) for i in range(3)]
    conversations = tuple(Conversation(i, 5.0 * i, turn) for i, turn in enumerate(turns))
    outcome = simulate(make_spec("1:1"), Workload(conversations, 10.0, "shared"))
    assert [r.num_cached for r in sorted(outcome.records, key=lambda r: r.index)] == [0, 320, 320]


def test_a_later_turn_waits_for_the_answer_and_finds_its_conversation_in_the_cache():
    turns = (Turn(8, (Segment(1, 512),)), Turn(8, (Segment(2, 64),), think_s=2.0))
    workload = Workload((Conversation(0, 0.0, turns),), 1.0, "two turns")
    first, second = simulate(make_spec("1:1"), workload).records
    assert second.intended_s == pytest.approx(first.end_s + 2.0)
    assert (second.num_input, second.num_cached) == (512 + 8 + 64, 512)
    assert second.turn == 1


def test_too_little_memory_preempts_and_still_answers_everything():
    profile = make_profile(kv_tokens=16 * 60)
    requests = [(0.001 * i, 100, 300) for i in range(6)]
    outcome = simulate(make_spec("0:1", profile=profile), make_workload(requests))
    assert outcome.num_preemptions > 0
    assert all(record.num_output == 300 for record in outcome.records)


def test_a_request_that_no_worker_could_hold_is_an_error_and_not_a_hang():
    profile = make_profile(kv_tokens=1600)
    workload = make_workload([(0.0, 2000, 10), (0.1, 100, 10)])
    outcome = simulate(make_spec("0:1", profile=profile), workload)
    records = {record.index: record for record in outcome.records}
    assert "2010 tokens" in records[0].error and "1600" in records[0].error
    assert records[1].is_ok


REQUESTS = st.lists(
    st.tuples(st.floats(0, 3), st.integers(1, 800), st.integers(1, 60)), min_size=1, max_size=25
).map(sorted)


@settings(max_examples=40)
@given(
    REQUESTS,
    st.sampled_from(["0:1", "0:3", "1:1", "2:2", "2:0"]),
    st.sampled_from(sorted(STRATEGIES)),
    st.sampled_from([70, 200, 1 << 16]),
    st.integers(0, 3),
)
def test_every_request_ends_once_and_every_block_is_returned(requests, split, name, blocks, seed):
    strategy = STRATEGIES[name]
    spec = make_spec(
        split,
        profile=make_profile(kv_tokens=16 * blocks),
        policy=strategy.policy,
        local_prefill_max_tokens=strategy.local_tokens,
        seed=seed,
    )
    outcome = simulate(spec, make_workload(requests))  # checks every pool at its end
    assert sorted(record.index for record in outcome.records) == list(range(len(requests)))
    for record in outcome.records:
        assert record.is_ok
        assert record.num_output == requests[record.index][2]
        assert (record.gaps_s > 0).all()


def test_the_same_order_gives_the_same_bytes():
    rng = np.random.default_rng(4)
    requests = [
        (0.05 * i, int(n), int(m))
        for i, (n, m) in enumerate(rng.integers((50, 1), (900, 80), (120, 2)))
    ]
    results = []
    for _ in range(2):
        spec, workload = make_spec("2:2", policy="power_of_two"), make_workload(requests)
        outcome = simulate(spec, workload)
        slos = parse_slos(["ttft:300 tpot:20"])
        results.append(msgspec.json.encode(result_of(spec, workload, outcome, slos)))
    assert results[0] == results[1]


def test_another_seed_breaks_ties_another_way():
    workload = make_workload([(0.001 * i, 300, 5) for i in range(40)])
    pairs = set()
    for seed in range(4):
        spec = make_spec("3:3", policy="random", local_prefill_max_tokens=0, seed=seed)
        records = simulate(spec, workload).records
        pairs.add(tuple(r.stages.decode_worker for r in sorted(records, key=lambda r: r.index)))
    assert len(pairs) == 4


@pytest.mark.parametrize("split", ["0:1", "1:1"])
def test_a_later_turn_finds_the_answer_before_it_where_it_was_decoded(split):
    turns = (Turn(101, (Segment(1, 320),)), Turn(4, (Segment(2, 100),), think_s=1.0))
    workload = Workload((Conversation(0, 0.0, turns),), 0.0, "two turns")
    # A pair prefills alone and decodes alone; a prompt short enough stays with the decode worker.
    outcome = simulate(make_spec(split, local_prefill_max_tokens=105), workload)
    first, second = sorted(outcome.records, key=lambda record: record.turn)
    assert first.num_cached == 0
    assert second.num_input == 521
    assert second.num_cached == 416  # of 420 computed tokens: 26 whole blocks of 16


def test_an_answer_that_nobody_asks_for_again_leaves_no_name_in_the_cache():
    outcome = simulate(make_spec("0:1"), make_workload([(0.0, 320, 100), (9.0, 320, 1)]))
    assert [record.num_cached for record in outcome.records] == [0, 0]
