"""The load as the last report plus what happened since, and when a worker counts as lost."""

from hypothesis import given
from hypothesis import strategies as st

from router.liveness import Liveness
from router.load import WorkerLoad
from wire.messages import Role, WorkerReport


def report(**values):
    return WorkerReport(Role.DECODE, num_blocks=100, **values)


def test_a_leg_counts_from_its_reservation_until_a_report_counts_it():
    load = WorkerLoad()
    load.reported(report(num_running=2, waiting_tokens=30, num_free_blocks=50))
    load.reserve(1, compute_tokens=100, new_tokens=100)
    assert (load.num_seqs, load.waiting_tokens, load.num_free_blocks) == (3, 130, 43)
    load.reported(report(num_running=2, waiting_tokens=20, num_free_blocks=50))
    assert (load.num_seqs, load.waiting_tokens) == (3, 120)
    load.accepted(1, num_tokens=100, num_cached_tokens=64)
    assert load.waiting_tokens == 56
    load.reported(report(num_running=2, num_waiting=1, waiting_tokens=56, num_free_blocks=43))
    assert (load.num_seqs, load.waiting_tokens, load.num_free_blocks) == (3, 56, 43)
    load.computed(1)
    assert load.waiting_tokens == 20
    load.ended(1)
    assert (load.num_seqs, load.num_free_blocks) == (2, 50)
    load.check_integrity()


def test_a_leg_that_only_reads_kv_adds_no_tokens_to_compute():
    load = WorkerLoad()
    load.reserve(1, compute_tokens=0, new_tokens=100)
    load.accepted(1, num_tokens=100, num_cached_tokens=0)
    assert (load.num_seqs, load.waiting_tokens) == (1, 0)


actions = st.lists(
    st.tuples(st.sampled_from(["reserve", "accept", "compute", "end", "report"]), st.integers(0, 5))
)


@given(actions)
def test_without_legs_the_load_is_the_report_whatever_happened_before(steps):
    load = WorkerLoad()
    reserved = set()
    for action, leg in steps:
        if action == "reserve" and leg not in reserved:
            load.reserve(leg, compute_tokens=10, new_tokens=10)
            reserved.add(leg)
        elif action == "accept":
            load.accepted(leg, num_tokens=10, num_cached_tokens=4)
        elif action == "compute":
            load.computed(leg)
        elif action == "end":
            load.ended(leg)
            reserved.discard(leg)
        elif action == "report":
            load.reported(report(num_running=7, num_free_blocks=9))
        assert load.num_seqs >= 0
        load.check_integrity()
    for leg in reserved:
        load.ended(leg)
    load.reported(report(num_running=3, waiting_tokens=5, num_free_blocks=9))
    assert (load.num_seqs, load.waiting_tokens, load.num_free_blocks) == (3, 5, 9)


def test_the_queue_of_prompts_costs_what_each_prompt_costs_not_their_mean():
    load = WorkerLoad()
    load.reported(report())
    load.reserve(1, compute_tokens=1000, new_tokens=1000)
    load.reserve(2, compute_tokens=3000, new_tokens=3000)
    assert load.waiting_pairs == 1000**2 + 3000**2
    load.accepted(2, num_tokens=5000, num_cached_tokens=2000)
    assert load.waiting_pairs == 1000**2 + 5000**2 - 2000**2
    load.accepted(1, num_tokens=1000, num_cached_tokens=0)
    load.reported(report(waiting_tokens=3400))  # 600 of the first are done
    assert load.waiting_pairs == 1000**2 - 600**2 + 5000**2 - 2000**2
    load.computed(1)
    load.ended(2)
    assert load.num_computing == 0


def test_silence_is_a_complaint_and_a_frame_ends_it():
    live = Liveness(2.5, 4.5, 0.0)
    assert live.complaint(2.5) is None
    assert "no frame" in live.complaint(2.6)
    live.frame_came(2.6)
    assert live.complaint(5.0) is None


def test_work_without_steps_is_a_complaint_and_lasts_over_a_reconnection():
    live = Liveness(100.0, 4.5, 0.0)
    for at_s in (0.0, 1.0, 4.0):
        live.report_came(at_s, report(num_steps=5, has_work=True))
    assert live.complaint(4.4) is None
    assert "no step" in live.complaint(4.6)
    live.opened(5.0)
    live.report_came(5.1, report(num_steps=5, has_work=True))
    assert live.is_stuck
    live.report_came(5.2, report(num_steps=6, has_work=True))
    assert not live.is_stuck
    assert live.complaint(9.0) is None


def test_an_idle_worker_may_rest_and_then_gets_the_whole_bound():
    live = Liveness(100.0, 4.5, 0.0)
    live.report_came(0.0, report(num_steps=5))
    live.report_came(50.0, report(num_steps=5, has_work=True))
    assert live.complaint(54.0) is None
    assert live.complaint(54.6) is not None


def test_a_router_that_stood_still_does_not_blame_its_workers():
    live = Liveness(2.5, 4.5, 0.0)
    live.forgive(10.0)
    assert live.complaint(11.0) is None
