"""What the control plane's mode makes of placements, and how gateways follow it."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_cluster import collect, expected, make_request, until

from router.candidates import Candidate, ClusterView
from router.outlook import LinkCosts, Outlook
from router.placement import PlacementKind, place
from router.policies.named import POLICIES
from router.policies.policy import RequestFacts
from router.predictor import StepCosts
from wire.block_hash import BLOCK_SIZE
from wire.cluster import Mode, ServingMode
from wire.messages import Role

COSTS = StepCosts(5e-3, 8e-6, 34e-9, 0.0, 25e-6, 6e-10)
LIMIT = 16
LONG = RequestFacts(num_tokens=4000, num_left_tokens=200, tpot_slo_s=0.012, append_tokens=LIMIT)


def worker(name, seqs=0, group=0, queue_s=0.0):
    role = Role.PREFILL if name.startswith("p") else Role.DECODE
    outlook = Outlook(COSTS, 1.0, seqs, 4000 * seqs, queue_s, 0.0, LinkCosts(1e-5, 5e-4), 0.0)
    waiting = round(queue_s / COSTS.prefill_token_s)
    return Candidate(name, 1, role, group, seqs, waiting, 10_000, 10_000, outlook)


def view_of(workers):
    pools = [tuple(found for found in workers if found.role is role) for role in Role]
    return ClusterView(*pools)


def decide(facts, *workers, policy="predicted", seed=0):
    return place(facts, view_of(workers), POLICIES[policy], Random(seed), LIMIT)


workers_of_both = st.tuples(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1)), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1)), min_size=1, max_size=4),
).map(
    lambda pools: [
        worker(f"{kind}{number}", seqs, group)
        for kind, pool in zip("pd", pools, strict=True)
        for number, (seqs, group) in enumerate(pool)
    ]
)


@given(
    st.sampled_from(sorted(POLICIES)),
    workers_of_both,
    st.integers(1, 6000),
    st.integers(1, 300),
    st.integers(0, 400),
    st.integers(0, 9),
)
def test_no_policy_leaves_the_mode(policy, workers, tokens, left, held, seed):
    blocks = min(held, tokens // BLOCK_SIZE)
    held_blocks = {found.worker_id: blocks for found in workers[::2]} if blocks else {}
    facts = RequestFacts(
        tokens, left, held_blocks=held_blocks, confirmed_blocks=held_blocks, append_tokens=LIMIT
    )
    roles = {found.worker_id: found.role for found in workers}
    whole = decide(replace(facts, mode=Mode.AGGREGATED), *workers, policy=policy, seed=seed)
    assert whole.prefill is None and whole.kind is PlacementKind.LOCAL
    assert whole.explanation.startswith("aggregated: ")
    assert not whole.spares_prefill
    apart = decide(replace(facts, mode=Mode.DISAGGREGATED), *workers, policy=policy, seed=seed)
    assert apart.explanation.startswith("disaggregated: ")
    if apart.kind is PlacementKind.REMOTE:
        assert roles[apart.prefill] is Role.PREFILL and roles[apart.decode] is Role.DECODE
    elif apart.kind is PlacementKind.LOCAL and roles[apart.decode] is Role.DECODE:
        assert facts.surely_uncached_tokens(apart.decode) <= LIMIT
    elif apart.kind is PlacementKind.LOCAL:
        assert left == 1
    else:
        groups = {found.group for found in workers if found.role is Role.PREFILL}
        assert groups.isdisjoint({f.group for f in workers if f.role is Role.DECODE})


def test_the_same_cluster_is_used_in_three_ways():
    crowded = (worker("p0", queue_s=6.0), worker("d0"))
    assert decide(LONG, *crowded).prefill is None, "by the forecast, the decode worker computes it"
    apart = decide(replace(LONG, mode=Mode.DISAGGREGATED), *crowded)
    assert (apart.prefill, apart.decode) == ("p0", "d0")
    assert apart.ranking, "the pair was predicted"
    whole = decide(replace(LONG, mode=Mode.AGGREGATED), worker("p0"), worker("d0", seqs=60))
    assert (whole.prefill, whole.decode) == (None, "p0"), "both roles are one pool"


@pytest.mark.parametrize("mode", Mode)
def test_an_empty_pool_stops_no_mode(mode):
    for alone in ("p0", "d0"):
        assert decide(replace(LONG, mode=mode), worker(alone)).decode == alone


async def test_requests_follow_the_mode_that_is_told(start_cluster):
    cluster = await start_cluster()
    for epoch, (mode, kind) in enumerate(
        [
            (Mode.AGGREGATED, PlacementKind.LOCAL),
            (Mode.DISAGGREGATED, PlacementKind.REMOTE),
            (Mode.AGGREGATED, PlacementKind.LOCAL),
        ],
        start=1,
    ):
        told = ServingMode(mode, epoch)
        cluster.control.tell_mode(told)
        await until(lambda told=told: cluster.router.snapshot().serving == told)
        request = make_request(start=1000 * epoch)
        tokens, last = await collect(cluster, request)
        assert tokens == expected(request)
        assert last.trace.kind == kind


async def test_an_older_mode_is_not_followed_and_a_restarted_control_plane_learns_the_last(
    start_cluster,
):
    cluster = await start_cluster()
    last = ServingMode(Mode.DISAGGREGATED, 7)
    cluster.control.tell_mode(last)
    await until(lambda: cluster.router.snapshot().serving == last)
    await cluster.control.kill()
    await until(lambda: not cluster.router.snapshot().has_control_plane)
    assert cluster.router.snapshot().serving == last
    cluster.control.serving = ServingMode(Mode.AGGREGATED, 3)
    await cluster.control.start()
    await until(lambda: cluster.router.snapshot().has_control_plane)
    assert cluster.control.followed == last
    assert cluster.router.snapshot().serving == last
