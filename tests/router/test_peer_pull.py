"""A prompt whose beginning a peer's cache holds: when it is pulled, and what a failure means."""

import itertools
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from router.attempt import Attempt
from router.candidates import Candidate, ClusterView
from router.outlook import LinkCosts, Outlook
from router.pairs import PairLink
from router.peer_pull import PeerIsLate
from router.placement import Placement, place
from router.policies.named import policy_named
from router.policies.policy import RequestFacts
from router.predictor import StepCosts
from router.stitcher import Stitcher
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.errors import ErrorCode
from wire.kv import FabricAddress, KVHandle
from wire.messages import (
    CancelLeg,
    GenerateRequest,
    LegFailed,
    LegPublished,
    LegTransferred,
    Role,
    SamplingParams,
    StartLeg,
)

COSTS = StepCosts(5e-3, 8e-6, 34e-9, 0.0, 25e-6, 6e-10)
LINK = LinkCosts(1e-5, 5e-4, token_bytes=131_072)
HELD = {"d0": 1200}
FACTS = RequestFacts(20_000, 200, held_blocks=HELD, confirmed_blocks=HELD, tpot_slo_s=0.012)
WAYS = {("d0", "p0"): PairLink(1e-4, 1.25e10, "rdma")}
HANDLE = KVHandle(b"h" * 16, "d0", 1, FabricAddress("127.0.0.1", 1), 19_200, 30.0)
PREFILL_LEG, DECODE_LEG, SHARE_LEG = 1, 2, 3  # in the order in which an attempt takes its ids


def worker(name: str, num_seqs: int = 0) -> Candidate:
    role = Role.PREFILL if name.startswith("p") else Role.DECODE
    link = LinkCosts() if role is Role.PREFILL else LINK  # nothing was pulled into it so far
    outlook = Outlook(COSTS, 1.0, num_seqs, 4000 * num_seqs, 0.0, 0.0, link, 0.0, tpot_s=6e-3)
    return Candidate(name, 1, role, 0, num_seqs, 0, 50_000, 50_000, outlook)


def placed(facts: RequestFacts) -> Placement:
    """The holder's batch is so large that no prompt should be computed beside it."""
    view = ClusterView((worker("p0"),), (worker("d0", 40), worker("d1", 2)))
    placement = place(facts, view, policy_named("predicted"), Random(1), 16)
    assert placement is not None
    return placement


def test_what_a_busy_peer_holds_is_pulled_where_that_is_sooner_than_to_compute_it() -> None:
    placement = placed(replace(FACTS, links=WAYS))
    assert (placement.prefill, placement.decode) == ("p0", "d1")
    assert (placement.pull_from, placement.pull_tokens) == ("d0", 19_200)
    assert "19200 tokens from d0" in placement.explanation
    forecast = placement.ranking[0].forecast
    assert forecast.pull_s == pytest.approx(19_200 * 131_072 / 1.25e10, abs=0.01)
    assert forecast.prefill_s < 0.1


@pytest.mark.parametrize("ways", [{}, {("d0", "p0"): PairLink(1e-4, 1e8, "tcp")}])
def test_over_a_way_that_is_slow_or_was_not_measured_nothing_is_pulled(ways: Any) -> None:
    placement = placed(replace(FACTS, links=ways))
    assert (placement.prefill, placement.pull_from) == ("p0", "")


class Worker:
    """A session that records what it is sent."""

    def __init__(self, worker_id: str) -> None:
        self.info = SimpleNamespace(worker_id=worker_id, epoch=1)
        self.sent: list[Any] = []
        self.settled: set[int] = set()
        self.to_compute = 0

    def reserve_leg(self, leg_id: int, *, compute_tokens: int, **load: int) -> None:
        self.to_compute += compute_tokens

    def start_leg(self, leg: StartLeg, sink: Any) -> None:
        self.sent.append(leg)

    def settle_leg(self, leg_id: int) -> None:
        self.settled.add(leg_id)

    def cancel_leg(self, leg_id: int) -> None:
        self.sent.append(CancelLeg(leg_id))


class Scene:
    """An attempt on p0 and d1, or on d1 alone, that pulls from d0."""

    def __init__(self, has_prefill: bool) -> None:
        self.peer, self.decode = Worker("d0"), Worker("d1")
        self.prefill = Worker("p0") if has_prefill else None
        self.maker = self.prefill or self.decode
        self.metrics = Metrics(GATEWAY_METRICS)
        request = GenerateRequest("r", (5,) * 20_000, SamplingParams(max_tokens=9), ())
        workers: Any = (self.prefill, self.decode)
        peer: Any = self.peer
        ids = itertools.count(1).__next__
        placement = placed(replace(FACTS, links=WAYS))
        self.attempt = Attempt(
            request, placement, FACTS, workers, peer, Stitcher(), ids, self.metrics, 1.0, None,
            lambda source, num_tokens, only_to_room: None,
        )  # fmt: skip
        self.attempt.start()

    def outcomes(self) -> dict[str, float]:
        lines = self.metrics.exposition().decode().splitlines()
        found = [line for line in lines if line.startswith("baton_peer_pulls_total{")]
        counts = {line.split('"')[1]: float(line.split()[-1]) for line in found}
        return {outcome: count for outcome, count in counts.items() if count}


@pytest.mark.parametrize("has_prefill", [True, False])
async def test_the_leg_that_computes_the_rest_starts_with_the_peers_handle(
    has_prefill: bool,
) -> None:
    scene = Scene(has_prefill)
    [share] = scene.peer.sent
    assert share.share and scene.maker.sent == []
    assert scene.maker.to_compute == 800
    scene.attempt.handle(LegPublished(SHARE_LEG, HANDLE))
    [leg] = scene.maker.sent
    assert (leg.handle, leg.prefill_only, leg.share) == (HANDLE, has_prefill, False)
    scene.attempt.handle(LegTransferred(leg.leg_id, 1, 0.2, 0.2, "shm"))
    assert scene.peer.settled == {SHARE_LEG}
    assert scene.outcomes() == {"pulled": 1}
    scene.attempt.close()


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (LegFailed(SHARE_LEG, ErrorCode.TRANSFER_FAILED, "nothing is held"), "refused"),
        (LegFailed(SHARE_LEG, ErrorCode.WORKER_LOST, "d0 was lost"), "refused"),
        (PeerIsLate(), "late"),
    ],
)
async def test_a_peer_that_does_not_publish_leaves_the_prompt_to_be_computed(
    event: Any, outcome: str
) -> None:
    scene = Scene(has_prefill=True)
    scene.attempt.handle(event)
    [leg] = scene.maker.sent
    assert leg.handle is None and leg.prefill_only
    assert CancelLeg(SHARE_LEG) in scene.peer.sent
    scene.attempt.handle(LegPublished(SHARE_LEG, HANDLE))
    assert len(scene.maker.sent) == 1, "what comes later starts nothing"
    assert scene.outcomes() == {outcome: 1}
    assert not scene.attempt.is_over
    scene.attempt.close()


async def test_a_pull_that_fails_on_its_way_is_the_computing_workers_to_repair() -> None:
    scene = Scene(has_prefill=True)
    scene.attempt.handle(LegPublished(SHARE_LEG, HANDLE))
    scene.attempt.handle(LegTransferred(PREFILL_LEG, 0, 0.0, 0.0, "tcp", "peer_lost"))
    assert CancelLeg(SHARE_LEG) in scene.peer.sent
    assert scene.outcomes() == {"failed": 1}
    assert not scene.attempt.is_over
    scene.attempt.close()


async def test_closing_ends_the_peers_leg_too() -> None:
    scene = Scene(has_prefill=True)
    scene.attempt.close()
    assert CancelLeg(SHARE_LEG) in scene.peer.sent
    assert CancelLeg(DECODE_LEG) in scene.decode.sent
