"""Placement and its policies, as pure functions of values."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.candidates import Candidate, ClusterView
from router.placement import PlacementKind, place
from router.policies.named import POLICIES
from router.policies.policy import RequestFacts
from wire.messages import Role


def worker(name, *, group=0, seqs=0, waiting=0, free=1000, epoch=1):
    role = Role.PREFILL if name.startswith("p") else Role.DECODE
    return Candidate(name, epoch, role, group, seqs, waiting, free)


def view(*workers):
    prefill = tuple(found for found in workers if found.role is Role.PREFILL)
    return ClusterView(prefill, tuple(found for found in workers if found.role is Role.DECODE))


def decide(facts, cluster, policy="uncached_tokens", seed=0):
    return place(facts, cluster, POLICIES[policy], Random(seed), 64)


LONG = RequestFacts(num_tokens=1000, num_left_tokens=100)


def test_an_empty_cluster_places_nothing():
    assert decide(LONG, view()) is None


@pytest.mark.parametrize(
    ("facts", "names", "want"),
    [
        (LONG, "p0 d0", ("p0", "d0", PlacementKind.REMOTE)),
        (LONG, "d0", (None, "d0", PlacementKind.DEGRADED)),
        (LONG, "p0", (None, "p0", PlacementKind.DEGRADED)),
        (RequestFacts(64, 100), "p0 d0", (None, "d0", PlacementKind.LOCAL)),
        (RequestFacts(65, 100), "p0 d0", ("p0", "d0", PlacementKind.REMOTE)),
        (RequestFacts(1000, 1), "p0 d0", (None, "p0", PlacementKind.LOCAL)),
        (RequestFacts(1000, 1), "d0", (None, "d0", PlacementKind.DEGRADED)),
        (
            RequestFacts(1000, 9, held_blocks={"d0": 62}, confirmed_blocks={"d0": 62}),
            "p0 d0",
            (None, "d0", PlacementKind.LOCAL),
        ),
        (
            RequestFacts(1000, 9, held_blocks={"d0": 62}, confirmed_blocks={"d0": 40}),
            "p0 d0",
            ("p0", "d0", PlacementKind.REMOTE),
        ),
        (
            RequestFacts(1000, 9, excluded=frozenset({("p0", 1)})),
            "p0 d0",
            (None, "d0", PlacementKind.DEGRADED),
        ),
        (
            RequestFacts(1000, 9, excluded=frozenset({("p0", 2)})),
            "p0 d0",
            ("p0", "d0", PlacementKind.REMOTE),
        ),
    ],
)
def test_the_kind_follows_from_the_pools_and_the_uncached_rest(facts, names, want):
    placed = decide(facts, view(*(worker(name) for name in names.split())))
    assert (placed.prefill, placed.decode, placed.kind) == want
    assert placed.explanation


@pytest.mark.parametrize(
    ("facts", "names", "spares"),
    [
        (LONG, "p0 d0", False),
        (LONG, "d0", False),  # by need: a prefill worker is missed
        (RequestFacts(64, 100), "p0 d0", True),
        (RequestFacts(1000, 1), "p0 d0", False),  # on a prefill worker
    ],
)
def test_a_prompt_spares_the_prefill_pool_where_a_decode_worker_is_chosen_for_it(
    facts, names, spares
):
    placed = decide(facts, view(*(worker(name) for name in names.split())))
    assert placed.spares_prefill == spares


def test_only_equal_fingerprints_pair():
    cluster = view(worker("p0", group=1), worker("d0", group=2), worker("d1", group=1, seqs=50))
    placed = decide(LONG, cluster)
    assert (placed.prefill, placed.decode) == ("p0", "d1")


def test_a_cached_prefix_attracts():
    cached = {"p1": 50, "d1": 50}
    facts = RequestFacts(1000, 100, held_blocks=cached)
    placed = decide(facts, view(*(worker(name) for name in ("p0", "p1", "d0", "d1"))))
    assert (placed.prefill, placed.decode) == ("p1", "d1")


def test_a_hot_worker_loses_its_attraction():
    facts = RequestFacts(1000, 100, held_blocks={"p1": 50, "d1": 50})
    cluster = view(worker("p0"), worker("p1", waiting=2000), worker("d0"), worker("d1", seqs=30))
    placed = decide(facts, cluster)
    assert (placed.prefill, placed.decode) == ("p0", "d0")


def test_a_decode_worker_without_room_comes_last():
    placed = decide(LONG, view(worker("p0"), worker("d0", free=10), worker("d1", seqs=30)))
    assert placed.decode == "d1"


def test_ties_are_broken_at_random_by_the_given_generator():
    cluster = view(worker("p0"), *(worker(f"d{i}") for i in range(4)))
    picks = Counter(decide(LONG, cluster, seed=seed).decode for seed in range(400))
    assert min(picks.values()) > 60
    assert decide(LONG, cluster, seed=5) == decide(LONG, cluster, seed=5)


def test_round_robin_takes_each_in_turn():
    cluster = view(worker("p0"), *(worker(f"d{i}") for i in (2, 0, 1)))
    facts = [RequestFacts(1000, 100, ordinal=i) for i in range(4)]
    picks = [decide(fact, cluster, "round_robin").decode for fact in facts]
    assert picks == ["d0", "d1", "d2", "d0"]


def test_least_load_ignores_caches():
    facts = RequestFacts(1000, 100, held_blocks={"d0": 60})
    cluster = view(
        worker("p0", waiting=9), worker("p1"), worker("d0", seqs=2), worker("d1", seqs=1)
    )
    placed = decide(facts, cluster, "least_load")
    assert (placed.prefill, placed.decode) == ("p1", "d1")


names = st.lists(st.sampled_from(["p0", "p1", "d0", "d1", "d2"]), unique=True)


@given(
    names,
    st.sampled_from(sorted(POLICIES)),
    st.integers(1, 3000),
    st.integers(1, 50),
    st.dictionaries(st.sampled_from(["p0", "p1", "d0", "d1"]), st.integers(0, 200)),
    st.frozensets(st.tuples(st.sampled_from(["p0", "d0"]), st.just(1))),
    st.integers(0, 2),
)
def test_every_placement_uses_only_allowed_workers(
    present, policy, num_tokens, num_left, cached, excluded, group
):
    workers = [worker(name, group=group if name == "d1" else 0) for name in present]
    facts = RequestFacts(num_tokens, num_left, 3, cached, cached, excluded)
    placed = decide(facts, view(*workers), policy)
    allowed = {found.worker_id: found for found in workers if (found.worker_id, 1) not in excluded}
    assert (placed is None) == (not allowed)
    if placed is not None:
        assert placed.decode in allowed
        assert (placed.prefill is not None) == (placed.kind is PlacementKind.REMOTE)
        if placed.prefill is not None:
            assert placed.prefill in allowed
            assert allowed[placed.prefill].group == allowed[placed.decode].group
