"""Each peer's published rule, on clusters small enough to work it out by hand."""

from collections import Counter
from random import Random

import pytest

from router.candidates import Candidate
from router.policies.named import POLICIES, policy_named
from router.policies.policy import RequestFacts
from wire.messages import Role


def worker(name, *, seqs=0, waiting=0, used=0, blocks=1000):
    return Candidate(name, 1, Role.DECODE, 0, seqs, waiting, blocks - used, blocks)


def chosen(policy, facts, *workers, phase=Role.DECODE, seed=0):
    return policy_named(policy)(facts, phase, workers, Random(seed)).worker_id


def asks(num_tokens=1600, **held):
    return RequestFacts(num_tokens, 100, held_blocks=held, confirmed_blocks=held)


@pytest.mark.parametrize(
    ("policy", "facts", "workers", "want"),
    [
        # 50 uncached and 60 active blocks against 100 uncached: 110 > 100.
        ("dynamo", asks(a=50), [worker("a", used=60), worker("b")], "b"),
        ("dynamo", asks(a=50), [worker("a", used=40), worker("b")], "a"),
        ("dynamo:overlap_weight=2", asks(a=50), [worker("a", used=60), worker("b")], "a"),
        ("dynamo", asks(a=50), [worker("a", waiting=1600), worker("b")], "b"),
        # The gate opens at a match of 0.80.
        ("llm_d", asks(a=80), [worker("a", used=500), worker("b")], "a"),
        ("llm_d", asks(a=79), [worker("a", used=500), worker("b")], "b"),
        ("llm_d:match=0.7", asks(a=79), [worker("a", used=500), worker("b")], "a"),
        # 600,000 tokens ahead are 20 s, over the penalty of 18 s.
        ("llm_d", asks(a=80), [worker("a", waiting=600_000), worker("b")], "b"),
        ("llm_d:penalty_s=30", asks(a=80), [worker("a", waiting=600_000), worker("b")], "a"),
        # Balanced unless the difference is over 64 and the ratio over 1.5.
        ("sglang", asks(a=31), [worker("a", seqs=60), worker("b")], "a"),
        ("sglang", asks(a=30), [worker("a", seqs=60), worker("b")], "b"),
        ("sglang", asks(a=90), [worker("a", seqs=70), worker("b", seqs=2)], "b"),
        ("sglang", asks(a=90), [worker("a", seqs=300), worker("b", seqs=220)], "a"),
        ("ppd", asks(a=50), [worker("a", seqs=9), worker("b")], "a"),
        ("ppd", asks(a=49), [worker("a", seqs=9), worker("b")], "b"),
        ("mooncake", asks(a=50), [worker("a", seqs=9), worker("b", seqs=1)], "b"),
        ("mooncake", asks(), [worker("a", used=950), worker("b", seqs=5)], "b"),
    ],
)
def test_a_rule_chooses_as_its_source_says(policy, facts, workers, want):
    assert chosen(policy, facts, *workers) == want


def test_mooncake_prefills_where_queue_and_own_computation_end_first():
    facts = asks(16_000, a=900)
    queue = [worker("a", waiting=9000), worker("b")]
    assert chosen("mooncake", facts, *queue, phase=Role.PREFILL) == "a"
    queue = [worker("a", waiting=30_000), worker("b")]
    assert chosen("mooncake", facts, *queue, phase=Role.PREFILL) == "b"


def test_a_session_stays_where_it_is_when_a_worker_leaves_or_joins():
    workers = [worker(f"w{i}") for i in range(8)]
    sessions = [RequestFacts(64, 10, block_hashes=(1, 1000 + i)) for i in range(200)]
    before = [chosen("session_hash", facts, *workers) for facts in sessions]
    after = [chosen("session_hash", facts, *workers[:-1]) for facts in sessions]
    assert len(set(before)) == 8
    assert all(a == b for a, b in zip(after, before, strict=True) if b != "w7")


def test_a_session_is_known_by_its_second_block_since_all_may_share_the_first():
    workers = [worker(f"w{i}") for i in range(8)]
    one = RequestFacts(96, 10, block_hashes=(1, 77, 5))
    other = RequestFacts(96, 10, block_hashes=(1, 77, 6))
    assert chosen("session_hash", one, *workers) == chosen("session_hash", other, *workers)


def test_two_random_choices_rarely_meet_the_most_loaded_worker():
    workers = [worker("busy", seqs=50), *(worker(f"w{i}") for i in range(3))]
    rng, counts = Random(1), Counter()
    for _ in range(400):
        counts[POLICIES["power_of_two"](asks(), Role.DECODE, workers, rng).worker_id] += 1
    assert counts["busy"] == 0 and min(counts[f"w{i}"] for i in range(3)) > 80


def test_a_temperature_draws_also_what_costs_more_and_less_often():
    rng, counts = Random(2), Counter()
    policy = policy_named("dynamo:temperature=0.5")
    for _ in range(400):
        drawn = policy(asks(), Role.DECODE, [worker("a"), worker("b", used=100)], rng)
        counts[drawn.worker_id] += 1
    assert counts["a"] > 1.5 * counts["b"] > 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dynamoo", "no policy 'dynamoo'"),
        ("dynamo:weight=2", "has no setting 'weight'"),
        ("round_robin:match=1", "has no setting 'match'"),
        ("llm_d:match=high", "'match=high' is not a setting"),
    ],
)
def test_a_name_that_is_wrong_is_named(text, reason):
    with pytest.raises(ValueError, match=reason):
        policy_named(text)


def test_whole_numbers_stay_whole():
    assert policy_named("session_hash:depth=3").depth == 3
    assert policy_named("power_of_two:num_choices=3").num_choices == 3
