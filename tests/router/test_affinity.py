"""Sessions stay where they ran, unless that is clearly worse; models bind to their workers."""

from dataclasses import replace
from random import Random

import pytest
from scripted_cluster import FINGERPRINT, collect, expected, make_request

from router.affinity import ModelViews, SessionHomes, at_home
from router.candidates import Candidate, ClusterView
from router.placement import Placement, PlacementKind, place
from router.policies.named import policy_named
from router.policies.policy import Forecast, Pair, RequestFacts
from wire.errors import BatonError, ErrorCode
from wire.messages import RequestTerms, Role


def decode(name, num_seqs=0, waiting_tokens=0, model=""):
    return Candidate(name, 1, Role.DECODE, 0, num_seqs, waiting_tokens, 1000, 1000, None, model)


def view(*workers):
    return ClusterView((Candidate("p", 1, Role.PREFILL, 0, 0, 0, 1000),), workers)


def placement(worker="d0", ranking=()):
    return Placement("p", worker, PlacementKind.REMOTE, "because", ranking)


FACTS = RequestFacts(200, 20)


def test_a_session_comes_home_while_home_is_about_as_good():
    found = at_home(placement(), FACTS, view(decode("d0", 4), decode("d1", 5)), "d1")
    assert (found.prefill, found.decode) == ("p", "d1")


@pytest.mark.parametrize(
    "home",
    [decode("d1", 40), decode("d1", 4, waiting_tokens=5000), decode("d9")],
    ids=["hot", "queued", "gone"],
)
def test_stickiness_breaks_when_home_is_hot_or_gone(home):
    workers = view(decode("d0", 4), home)
    assert at_home(placement(), FACTS, workers, "d1").decode == "d0"


def test_blocks_elsewhere_and_exclusion_go_before_home():
    workers = view(decode("d0"), decode("d1"))
    facts = replace(FACTS, held_blocks={"d0": 10, "d1": 3})
    assert at_home(placement(), facts, workers, "d1").decode == "d0"
    facts = replace(FACTS, excluded=frozenset({("d1", 1)}))
    assert at_home(placement(), facts, workers, "d1").decode == "d0"


@pytest.mark.parametrize(("on_host", "decoder"), [(11, "d0"), (13, "d1")])
def test_home_is_where_its_host_holds_the_blocks_by_the_weight_of_that_tier(on_host, decoder):
    workers = view(decode("d0"), decode("d1"))
    facts = replace(FACTS, held_blocks={"d0": 10, "d1": 0}, host_blocks={"d1": on_host})
    assert at_home(placement(), facts, workers, "d1").decode == decoder


@pytest.mark.parametrize(("cost", "decoder"), [(1.05, "d1"), (1.2, "d0")])
def test_among_predicted_pairs_home_may_cost_10_percent_more(cost, decoder):
    ranking = tuple(
        Pair(None, decode(name), Forecast(cost=c)) for name, c in (("d0", 1.0), ("d1", cost))
    )
    found = at_home(placement(ranking=ranking), FACTS, view(decode("d0"), decode("d1")), "d1")
    assert found.decode == decoder
    assert found.ranking[0].decode.worker_id == decoder and len(found.ranking) == 2


def test_homes_are_forgotten_after_their_time():
    homes = SessionHomes(ttl_s=10.0)
    homes.ran("a", "d0", 0.0)
    homes.ran("b", "d1", 5.0)
    assert (homes.home("a", 9.0), homes.home("a", 11.0), homes.home("c", 0.0)) == ("d0", "", "")
    homes.ran("b", "d1", 12.0)
    assert len(homes) == 1


def test_a_model_is_placed_on_its_workers_alone_and_the_view_is_worked_out_once():
    cluster = ClusterView((), (decode("d0", model="a"), decode("d1", model="b"), decode("d2")))
    views = ModelViews()
    found = views.of(cluster, "b")
    assert [worker.worker_id for worker in found.decode] == ["d1", "d2"]
    assert views.of(cluster, "b") is found and views.of(cluster, "") is cluster
    uniform = ClusterView((), (decode("d0", model="a"),))
    assert views.of(uniform, "a") is uniform
    policy = policy_named("uncached_tokens")
    assert place(FACTS, views.of(uniform, "b"), policy, Random(0), 16) is None


async def test_two_models_in_one_cluster_serve_their_own_requests(start_cluster):
    cluster = await start_cluster(0, 0, worker_wait_s=0.05)
    for name in ("small", "large"):
        fingerprint = replace(FINGERPRINT, model=name)
        await cluster.add(f"{name}-p", Role.PREFILL, fingerprint=fingerprint)
        await cluster.add(f"{name}-d", Role.DECODE, fingerprint=fingerprint)
    await cluster.all_live()
    for number, name in enumerate(("small", "large", "large", "small")):
        request = replace(make_request(start=1 + 300 * number), terms=RequestTerms(model=name))
        tokens, last = await collect(cluster, request)
        assert tokens == expected(request)
        assert (last.trace.prefill_worker, last.trace.decode_worker) == (f"{name}-p", f"{name}-d")
    with pytest.raises(BatonError) as refusal:
        await collect(cluster, replace(make_request(), terms=RequestTerms(model="huge")))
    assert refusal.value.code is ErrorCode.UNAVAILABLE
    await cluster.idle()


async def test_the_turns_of_a_session_run_on_one_worker(start_cluster):
    cluster = await start_cluster(1, 3)
    homes = {}
    for number in range(24):
        session = f"s{number % 3}"
        request = make_request(num_tokens=12, start=1 + 50 * number)  # no full block tells home
        request = replace(request, terms=RequestTerms(session=session))
        _, last = await collect(cluster, request)
        homes.setdefault(session, set()).add(last.trace.decode_worker)
    assert all(len(workers) == 1 for workers in homes.values())
    await cluster.idle()
