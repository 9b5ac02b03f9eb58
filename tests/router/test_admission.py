"""Admission: slots, classes, refusals with a time to come back, and the breaker."""

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.admission import Admission, Prospects
from router.breaker import CircuitBreaker
from router.candidates import Candidate, ClusterView
from router.config import RouterConfig
from router.outlook import LinkCosts, Outlook
from router.placer import Placer
from router.policies.policy import Forecast
from router.predictor import StepCosts
from router.prefix_map import PrefixMap
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.errors import BatonError, ErrorCode
from wire.messages import BlockSnapshot, GenerateRequest, Role, SamplingParams


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s


def admission(max_under_way=1, max_queued=2, clock=None):
    return Admission(max_under_way, max_queued, clock or ManualClock(), Metrics(GATEWAY_METRICS))


async def waiting(pool, *priorities):
    """One task a priority, each waiting in the queue or refused."""
    tasks = [asyncio.ensure_future(pool.enter(priority)) for priority in priorities]
    await asyncio.sleep(0)
    return tasks


async def test_a_free_slot_is_taken_at_once_and_given_back():
    pool = admission()
    await pool.enter(0)
    assert pool.num_under_way == 1
    pool.leave()
    assert pool.num_under_way == 0
    pool.check_integrity()


async def test_higher_classes_go_first_and_equals_in_turn():
    pool = admission(max_queued=4)
    await pool.enter(0)
    tasks = await waiting(pool, 0, 5, 0, 5)
    order = []
    for index, task in enumerate(tasks):
        task.add_done_callback(lambda _, index=index: order.append(index))
    for _ in range(5):
        pool.leave()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order == [1, 3, 0, 2]
    assert pool.num_under_way == 0


async def test_a_full_queue_rejects_with_the_time_in_which_it_drains():
    clock = ManualClock()
    pool = admission(max_queued=2, clock=clock)
    for at_s in range(0, 200, 4):
        clock.now_s = at_s
        await pool.enter(0)
        pool.leave()
    await pool.enter(0)
    tasks = await waiting(pool, 0, 0)
    with pytest.raises(BatonError) as refusal:
        await pool.enter(0)
    assert refusal.value.code is ErrorCode.OVERLOADED
    assert refusal.value.message.startswith("rejected")
    assert refusal.value.retry_after_s == pytest.approx(12, rel=0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    pool.leave()
    assert pool.num_under_way == 0


async def test_a_higher_class_evicts_the_last_of_the_lowest():
    pool = admission(max_queued=2)
    await pool.enter(0)
    low, high = await waiting(pool, -1, 3)
    (newcomer,) = await waiting(pool, 1)
    with pytest.raises(BatonError, match="evicted"):
        await low
    assert not high.done() and not newcomer.done()
    pool.leave()
    await high
    pool.leave()
    await newcomer
    pool.leave()
    pool.check_integrity()


async def test_who_is_cancelled_as_its_slot_comes_gives_it_back():
    pool = admission()
    await pool.enter(0)
    (task,) = await waiting(pool, 0)
    pool.leave()  # hands the slot over
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert pool.num_under_way == 0


@given(st.lists(st.sampled_from(["enter", "leave", "cancel"]), max_size=60), st.integers(0, 99))
def test_no_order_of_events_loses_a_slot(events, seed):
    async def run():
        rng, pool = Random(seed), admission(max_under_way=3, max_queued=4)
        tasks, held = [], 0
        for event in events:
            if event == "enter":
                tasks += await waiting(pool, rng.randint(-2, 2))
            elif event == "cancel" and tasks:
                rng.choice(tasks).cancel()
            elif event == "leave" and held:
                pool.leave()
                held -= 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            done = [task for task in tasks if task.done()]
            held += sum(not task.cancelled() and task.exception() is None for task in done)
            tasks = [task for task in tasks if not task.done()]
            pool.check_integrity()
            assert pool.num_under_way == held
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(held):
            pool.leave()
        assert pool.num_under_way == pool.num_queued == 0

    asyncio.run(run())


LATE = Forecast(ttft_s=10.0, queue_s=9.0, tpot_s=0.01)


def test_a_forecast_far_beyond_its_objective_is_refused_until_the_queue_has_drained():
    refusal = Prospects(3.0).refusal(LATE, 2.0, 0.05, 0)
    assert refusal is not None
    assert refusal.code is ErrorCode.OVERLOADED
    assert refusal.retry_after_s == pytest.approx(4.0)
    assert Prospects(3.0).refusal(Forecast(ttft_s=5.9, queue_s=5, tpot_s=0.1), 2.0, 0.05, 0) is None
    assert Prospects(3.0).refusal(Forecast(tpot_s=0.2), 2.0, 0.05, 0) is not None


def test_low_classes_are_shed_first_and_no_ratio_sheds_nobody():
    verdicts = [Prospects(3.0).refusal(LATE, 2.0, 0.05, priority) for priority in (-1, 0, 1)]
    assert [verdict is not None for verdict in verdicts] == [True, True, False]
    mild = Forecast(ttft_s=4.0, queue_s=3.0, tpot_s=0.01)
    verdicts = [Prospects(3.0).refusal(mild, 2.0, 0.05, priority) for priority in (-1, 0, 1)]
    assert [verdict is not None for verdict in verdicts] == [True, False, False]
    assert Prospects(0.0).refusal(LATE, 2.0, 0.05, 0) is None


def test_a_prompt_that_is_long_in_itself_is_not_refused_for_a_queue_that_is_empty():
    assert Prospects(1.0).refusal(Forecast(ttft_s=60.0), 2.0, 0.05, 0) is None


class View:
    def __init__(self, queue_s):
        costs = StepCosts(5e-3, 8e-6, 34e-9, 0.0, 25e-6, 6e-10)
        outlook = Outlook(costs, 1.0, 0, 0, queue_s, 0.5, LinkCosts(1e-5, 5e-4), 0.0)
        waiting_tokens = round(queue_s / 25e-6)
        self._view = ClusterView(
            (Candidate("p", 1, Role.PREFILL, 0, 0, waiting_tokens, 9999, 9999, outlook),),
            (Candidate("d", 1, Role.DECODE, 0, 0, waiting_tokens, 9999, 9999, outlook),),
        )

    def view(self):
        return self._view


def placer_over(pools, breaker=None):
    config = RouterConfig("", "test", policy="predicted")
    prefix_map = PrefixMap(100)
    for worker_id in "pd":
        prefix_map.add_worker(worker_id)
        prefix_map.load_snapshot(worker_id, BlockSnapshot(0))
    return Placer(
        config, pools, prefix_map, ManualClock(), Random(0), breaker, Prospects(config.reject_ratio)
    )


REQUEST = GenerateRequest("r", tuple(range(100)), SamplingParams(max_tokens=20), (1, 2, 3))


def test_a_hopeless_request_is_refused_before_anything_is_spent_on_it():
    with pytest.raises(BatonError) as refusal:
        placer_over(View(queue_s=30.0)).place(REQUEST, 0, frozenset())
    assert refusal.value.code is ErrorCode.OVERLOADED
    assert placer_over(View(queue_s=0.5)).place(REQUEST, 0, frozenset()) is not None


def test_an_answer_that_has_begun_is_never_refused():
    assert placer_over(View(queue_s=30.0)).place(REQUEST, 5, frozenset()) is not None


def test_a_worker_behind_an_open_breaker_gets_no_legs():
    breaker = CircuitBreaker(max_failures=1)
    breaker.failed("p", 1, 0.0)
    placed = placer_over(View(queue_s=0.0), breaker).place(REQUEST, 0, frozenset())
    assert placed is not None
    assert (placed[0].prefill, placed[0].decode) == (None, "d")


class BreakerMachine(RuleBasedStateMachine):
    """Against the rule in words: open for 30 s after the fifth failure within 30 s."""

    @initialize()
    def begin(self):
        self.breaker, self.now_s, self.recent, self.open_until_s = CircuitBreaker(), 0.0, [], None

    @rule(seconds=st.floats(0.1, 20))
    def wait(self, seconds):
        self.now_s += seconds

    @precondition(lambda self: self.open_until_s is None or self.now_s >= self.open_until_s)
    @rule()
    def fail(self):
        if self.open_until_s is not None and self.now_s >= self.open_until_s + 30:
            self.open_until_s, self.recent = None, []
        self.recent = [at for at in self.recent if self.now_s - at <= 30] + [self.now_s]
        self.breaker.open_workers(self.now_s)
        self.breaker.failed("w", 1, self.now_s)
        if len(self.recent) == 5 or self.open_until_s is not None:
            self.open_until_s, self.recent = self.now_s + 30, []

    @invariant()
    def it_is_open_when_the_rule_says_so(self):
        if not hasattr(self, "breaker"):
            return
        is_open = self.open_until_s is not None and self.now_s < self.open_until_s
        assert (("w", 1) in self.breaker.open_workers(self.now_s)) == is_open


TestBreaker = BreakerMachine.TestCase
