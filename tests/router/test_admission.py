"""Admission: slots, classes, refusals with a time to come back, and the breaker."""

import asyncio
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.admission import Admission, Door
from router.breaker import CircuitBreaker
from router.candidates import Candidate, ClusterView
from router.config import RouterConfig
from router.fair_queue import Ticket
from router.outlook import LinkCosts, Outlook
from router.placer import Placer
from router.policies.policy import Forecast
from router.predictor import StepCosts
from router.prefix_map import PrefixMap
from router.prospects import Crowded, Prospects
from router.saturation import Saturation, saturation
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.errors import BatonError, ErrorCode
from wire.messages import BlockSnapshot, GenerateRequest, RequestTerms, Role, SamplingParams


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s


def admission(max_under_way=1, max_queued=2, clock=None, **settings):
    metrics = Metrics(GATEWAY_METRICS)
    return Admission(max_under_way, max_queued, clock or ManualClock(), metrics, **settings)


def ticket(pool, priority=0, tenant="", ttft_slo_s=2.0):
    terms = RequestTerms(tenant=tenant)
    return pool.ticket(replace(REQUEST, priority=priority, terms=terms), ttft_slo_s)


async def enter(pool, *args, **kwargs):
    """Enters and gives the ticket to leave with."""
    entering = ticket(pool, *args, **kwargs)
    await pool.enter(entering)
    return entering


async def waiting(pool, *priorities):
    """One task a priority, each waiting in the queue or refused."""
    tasks = [asyncio.ensure_future(enter(pool, priority)) for priority in priorities]
    await asyncio.sleep(0)
    return tasks


def leave(pool, entered):
    pool.leave(entered, 100, 20)


async def test_a_free_slot_is_taken_at_once_and_given_back():
    pool = admission()
    entered = await enter(pool)
    assert pool.num_under_way == 1
    leave(pool, entered)
    assert pool.num_under_way == 0
    pool.check_integrity()


async def test_lower_numbers_go_first_and_equals_in_turn():
    pool = admission(max_queued=4)
    entered = await enter(pool)
    tasks = await waiting(pool, 0, -5, 0, -5)
    order = []
    for index, task in enumerate(tasks):
        task.add_done_callback(lambda _, index=index: order.append(index))
    for _ in range(4):
        leave(pool, entered)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        entered = tasks[order[-1]].result()
    assert order == [1, 3, 0, 2]
    leave(pool, entered)
    assert pool.num_under_way == 0


async def test_within_a_class_the_earliest_deadline_that_can_be_met_goes_first():
    clock = ManualClock()
    pool = admission(max_queued=4, clock=clock)
    entered = await enter(pool)
    slos_s = {"late": 1.0, "patient": 30.0, "urgent": 5.0}
    tasks = {
        name: asyncio.ensure_future(enter(pool, ttft_slo_s=slo_s)) for name, slo_s in slos_s.items()
    }
    order = []
    for name, task in tasks.items():
        task.add_done_callback(lambda _, name=name: order.append(name))
    await asyncio.sleep(0)
    clock.now_s = 2.0
    for _ in tasks:
        leave(pool, entered)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        entered = tasks[order[-1]].result()
    assert order == ["urgent", "patient", "late"]
    leave(pool, entered)


async def test_a_full_queue_rejects_with_the_time_in_which_it_drains():
    clock = ManualClock()
    pool = admission(max_queued=2, clock=clock)
    for at_s in range(0, 200, 4):
        clock.now_s = at_s
        leave(pool, await enter(pool))
    entered = await enter(pool)
    tasks = await waiting(pool, 0, 0)
    with pytest.raises(BatonError) as refusal:
        await enter(pool)
    assert refusal.value.code is ErrorCode.OVERLOADED
    assert refusal.value.message.startswith("rejected")
    assert refusal.value.retry_after_s == pytest.approx(12, rel=0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    leave(pool, entered)
    assert pool.num_under_way == 0


async def test_a_higher_class_evicts_the_last_of_the_lowest():
    pool = admission(max_queued=2)
    entered = await enter(pool)
    low, high = await waiting(pool, 0, -3)
    (newcomer,) = await waiting(pool, -1)
    with pytest.raises(BatonError, match="evicted"):
        await low
    assert not high.done() and not newcomer.done()
    leave(pool, entered)
    leave(pool, await high)
    leave(pool, await newcomer)
    pool.check_integrity()


async def test_a_flooding_tenant_cannot_keep_another_out_of_the_queue():
    pool = admission(max_queued=3)
    entered = await enter(pool, tenant="flood")
    flood = [asyncio.ensure_future(enter(pool, tenant="flood")) for _ in range(3)]
    await asyncio.sleep(0)
    quiet = asyncio.ensure_future(enter(pool, tenant="quiet"))
    with pytest.raises(BatonError, match="a smaller tenant"):
        await flood[2]
    with pytest.raises(BatonError, match="rejected"):
        await enter(pool, tenant="flood")
    leave(pool, entered)
    for entering in asyncio.as_completed([quiet, *flood[:2]]):
        leave(pool, await entering)
    assert pool.num_under_way == 0


async def test_who_is_cancelled_as_its_slot_comes_gives_it_back():
    pool = admission()
    entered = await enter(pool)
    (task,) = await waiting(pool, 0)
    leave(pool, entered)  # hands the slot over
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert pool.num_under_way == 0
    pool.check_integrity()


async def test_a_full_cluster_keeps_requests_at_the_door_until_it_has_room():
    full = [Saturation(1.2, is_full=True)]
    pool = admission(max_under_way=8, max_queued=8, look=lambda: full[0])
    entered = await enter(pool)  # somebody is always let in
    (task,) = await waiting(pool, 0)
    assert not task.done()
    full[0] = Saturation(0.5)
    leave(pool, await asyncio.wait_for(task, 30))  # nobody has left: the door looked again
    leave(pool, entered)
    pool.check_integrity()


async def test_who_waits_too_long_is_told_to_come_back():
    clock = ManualClock()
    pool = admission(clock=clock, max_wait_s=60.0)
    entered = await enter(pool)
    (task,) = await waiting(pool, 0)
    clock.now_s = 61.0
    with pytest.raises(BatonError, match="no room came within 60 s"):
        await asyncio.wait_for(task, 30)
    leave(pool, entered)
    assert pool.num_queued == pool.num_under_way == 0


@given(st.lists(st.sampled_from(["enter", "leave", "cancel"]), max_size=60), st.integers(0, 99))
def test_no_order_of_events_loses_a_slot(events, seed):
    async def run():
        rng, pool = Random(seed), admission(max_under_way=3, max_queued=4)
        tasks, held = [], []
        for event in events:
            if event == "enter":
                tasks += await waiting(pool, rng.randint(-3, 1))
            elif event == "cancel" and tasks:
                rng.choice(tasks).cancel()
            elif event == "leave" and held:
                leave(pool, held.pop())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            done = [task for task in tasks if task.done()]
            held += [
                task.result() for task in done if not task.cancelled() and not task.exception()
            ]
            tasks = [task for task in tasks if not task.done()]
            pool.check_integrity()
            assert pool.num_under_way == len(held)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for entered in held:
            leave(pool, entered)
        assert pool.num_under_way == pool.num_queued == 0

    asyncio.run(run())


def test_low_classes_are_shed_evenly_and_ever_more_from_80_percent_on():
    shares = {}
    for priority in (0, 1, 2):
        for level in (0.79, 0.85, 0.9, 0.95, 1.0):
            door = Door(10_000, 0)
            tickets = [Ticket(index, priority) for index in range(1000)]
            refused = [bool(door.offer(one, Saturation(level)).refused) for one in tickets]
            shares[priority, level] = sum(refused) / 1000
            gaps = [len(run) for run in "".join("01"[x] for x in refused).split("1")[1:-1]]
            assert not gaps or max(gaps) - min(gaps) <= 1, "the share is not taken evenly"
    assert [shares[0, level] for level in (0.79, 0.9, 1.0)] == [0, 0, 0]
    curve = [shares[1, level] for level in (0.79, 0.85, 0.9, 0.95, 1.0)]
    assert curve == pytest.approx([0, 0.25, 0.5, 0.75, 1.0], abs=0.002)
    assert [shares[2, level] for level in (0.79, 0.85, 0.9)] == pytest.approx(
        [0, 0.5, 1], abs=0.002
    )


def test_the_slots_count_as_saturation_too():
    door = Door(10, 10)
    for index in range(9):
        assert door.offer(Ticket(index), Saturation()).entered
    assert [bool(door.offer(Ticket(i, 2), Saturation()).refused) for i in (10, 11)] == [True, True]


LATE = Forecast(ttft_s=10.0, queue_s=9.0, tpot_s=0.01)


def test_a_forecast_far_beyond_its_objective_is_refused_until_the_queue_has_drained():
    refusal = Prospects(3.0).refusal(LATE, 2.0, 0.05, 0)
    assert refusal is not None
    assert refusal.code is ErrorCode.OVERLOADED
    assert refusal.retry_after_s == pytest.approx(4.0)
    assert Prospects(3.0).refusal(Forecast(ttft_s=5.9, queue_s=5, tpot_s=0.1), 2.0, 0.05, 0) is None
    assert Prospects(3.0).refusal(Forecast(tpot_s=0.2), 2.0, 0.05, 0) is not None


def test_low_classes_are_shed_first_and_no_ratio_sheds_nobody():
    verdicts = [Prospects(3.0).refusal(LATE, 2.0, 0.05, priority) for priority in (1, 0, -1)]
    assert [verdict is not None for verdict in verdicts] == [True, True, False]
    mild = Forecast(ttft_s=4.0, queue_s=3.0, tpot_s=0.01)
    verdicts = [Prospects(3.0).refusal(mild, 2.0, 0.05, priority) for priority in (1, 0, -1)]
    assert [verdict is not None for verdict in verdicts] == [True, False, False]
    assert Prospects(0.0).refusal(LATE, 2.0, 0.05, 0) is None


def outlook(num_seqs, **changes):
    costs = StepCosts(5e-3, 1e-3, 34e-9, 0.0, 25e-6, 6e-10)
    values = {
        "queue_s": 0.0,
        "prefill_share": 0.0,
        "link": LinkCosts(),
        "backlog_s": 0.0,
        **changes,
    }
    tpot_s = costs.itl_s(num_seqs, 0)
    return Outlook(costs, 1.0, num_seqs, 0, tpot_s=values.pop("tpot_s", tpot_s), **values)


def test_a_batch_that_is_too_slow_is_waited_for_until_enough_answers_have_ended():
    refusal = Prospects(1.0).refusal(Forecast(0.1, 0.106), 20.0, 0.08, 0, outlook(100))
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(5.9, rel=0.05)  # 200 tokens * ln(106 / 80)


def test_what_slowed_other_answers_is_not_expected_of_an_empty_worker():
    tardy = outlook(0, pace_margin=2.0)
    assert Prospects(1.0).refusal(Forecast(0.1, 0.0062), 2.0, 0.008, 0, tardy) is None
    busy = outlook(1, pace_margin=2.0)
    assert Prospects(1.0).refusal(Forecast(0.1, 0.0075), 2.0, 0.008, 0, busy) is not None


def test_a_request_whose_prompt_can_wait_may_wait_for_room_in_a_batch():
    refusal = Prospects(1.0).refusal(Forecast(0.1, 0.106), 2.0, 0.08, 0, outlook(100), 0.4)
    assert isinstance(refusal, Crowded)
    assert refusal.slack_s == pytest.approx(1.5)
    late = Prospects(1.0).refusal(Forecast(2.1, 0.106, queue_s=2.0), 2.0, 0.08, 0, outlook(100))
    assert late is not None and not isinstance(late, Crowded)


def test_answers_that_were_slower_than_forecast_make_admission_cautious():
    forecast, swift, tardy = Forecast(0.1, 0.07), outlook(50), outlook(50, pace_margin=1.2)
    assert Prospects(1.0).refusal(forecast, 2.0, 0.08, 0, swift) is None
    assert Prospects(1.0).refusal(forecast, 2.0, 0.08, 0, tardy) is not None


def test_no_margin_of_decode_steps_applies_to_the_exposed_transfer():
    forecast, tardy = Forecast(0.1, 0.065), outlook(20, pace_margin=1.5)
    assert Prospects(1.0).refusal(forecast, 2.0, 0.08, 0, tardy) is not None
    assert Prospects(1.0).refusal(forecast, 2.0, 0.08, 0, tardy, spread_s=0.045) is None


def test_the_time_since_its_arrival_is_of_a_requests_objective():
    forecast = Forecast(ttft_s=1.0, queue_s=0.5)
    assert Prospects(1.0).refusal(forecast, 2.0, 0.08, 0, waited_s=0.9) is None
    assert Prospects(1.0).refusal(forecast, 2.0, 0.08, 0, waited_s=1.1) is not None


def test_stated_objectives_are_kept_and_defaults_may_be_missed_threefold():
    forecast = Forecast(ttft_s=3.0, queue_s=2.5)
    assert Prospects().refusal(forecast, 2.0, 0.05, 0) is None
    assert Prospects().refusal(forecast, 2.0, 0.05, 0, is_stated=True) is not None
    assert Prospects().refusal(LATE, 2.0, 0.05, 0) is not None


def test_slow_hardware_is_no_overload():
    alone = outlook(0)
    forecast = Forecast(ttft_s=0.1, tpot_s=0.006)
    assert Prospects(1.0).refusal(forecast, 2.0, 0.001, 0, alone) is None
    assert Prospects(1.0).refusal(forecast, 2.0, 0.001, 0, outlook(5)) is None
    assert Prospects(1.0).refusal(Forecast(0.1, 0.019), 2.0, 0.001, 0, outlook(5)) is not None


def candidate(role, free=1000, **changes):
    return Candidate(role[0], 1, Role(role), 0, 0, 0, free, 1000, outlook(**changes))


def test_saturation_is_the_fullest_of_what_the_least_loaded_worker_has():
    def of(prefill, decode):
        return saturation(ClusterView(prefill, decode), 2.0, 0.055, 0.5)

    idle, queued = candidate("prefill", num_seqs=0), candidate("prefill", num_seqs=0, queue_s=1.0)
    empty, half = candidate("decode", num_seqs=0), candidate("decode", num_seqs=25)
    packed = candidate("decode", num_seqs=0, free=100)
    assert of((idle,), (empty,)).level == pytest.approx(0, abs=0.01)
    assert of((queued,), (empty,)).level == pytest.approx(0.5)
    assert of((idle, queued), (empty,)).level == pytest.approx(0, abs=0.01)
    assert of((idle,), (half,)).level == pytest.approx(0.49, abs=0.01)
    assert of((idle,), (packed,)).level == pytest.approx(0.9)
    assert not of((queued,), (empty,)).is_full  # a decode worker has time for prompts
    busy = candidate("decode", num_seqs=48)
    assert of((queued,), (busy,)).is_full and not of((idle, queued), (busy,)).is_full
    assert of((), ()) == Saturation()


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
