"""Simulated clients get tokens together where the live router's mailbox hands them on together."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_cluster import make_profile, make_spec, make_workload

from router.event_pause import event_pause_s
from router.mailbox import Mailbox
from simulate.coalescing import Pauses, event_times
from simulate.event_loop import EventLoop
from simulate.run import simulate
from simulate.spec import Overheads

PAUSE_S = 0.005


def mailbox_times(times_s, pauses):
    """When a reader of the live mailbox gets what is put in at times_s, the last with the end."""
    loop, told = EventLoop(), []

    async def read():
        mailbox = Mailbox(lambda: pauses.at(loop.now()), lambda item: item != "end")

        def put(*items):
            for item in items:
                mailbox.put(item)

        for at_s in times_s[:-1]:
            loop.at(at_s, put, at_s)
        loop.at(times_s[-1], put, times_s[-1], "end")
        while not told or "end" not in told[-1][1]:
            told.append((None, await mailbox.take()))
            told[-1] = (loop.now(), told[-1][1])

    loop.create_task(read())
    loop.run(lambda: None)
    return [at_s for at_s, items in told]


@settings(max_examples=60)
@given(
    st.lists(st.floats(1e-4, 0.012), min_size=1, max_size=60),
    st.lists(st.tuples(st.floats(0, 0.1), st.floats(1e-4, 0.02)), max_size=6),
)
def test_tokens_reach_the_client_when_the_live_mailbox_hands_them_on(gaps_s, changes):
    times_s, pauses, now_s = np.cumsum(gaps_s), Pauses(PAUSE_S), 0.0
    for passed_s, pause_s in changes:
        now_s += passed_s
        pauses.note(now_s, pause_s)
    expected_s = mailbox_times(times_s.tolist(), pauses)
    np.testing.assert_allclose(event_times(times_s, pauses), expected_s)


def test_a_pause_counts_from_the_time_on_from_which_it_was_noted():
    pauses = Pauses(1.0)
    for now_s, pause_s in ((2.0, 3.0), (4.0, 3.0), (5.0, 2.0)):
        pauses.note(now_s, pause_s)
    assert [pauses.at(at_s) for at_s in (0.0, 1.9, 2.0, 4.5, 5.0, 9.0)] == [1, 1, 3, 3, 2, 2]


def test_fast_tokens_share_events_and_keep_their_mean():
    profile = make_profile(step_s=0.002, sequence_s=0.0)
    load = make_workload([(0.0, 100, 60)])
    apart, together = (
        simulate(
            make_spec("0:1", profile=profile, overheads=Overheads(0, 0, 0, 0, 0, pause_s)), load
        )
        for pause_s in (0.0, PAUSE_S)
    )
    (one,), (other,) = apart.records, together.records
    assert one.num_output == other.num_output == 60
    assert len(one.gaps_s) == 59 and len(other.gaps_s) == 26  # 125 ms in pauses of 5, and the end
    assert abs(other.tpot_s - one.tpot_s) < 1e-6
    assert other.gaps_s[:-1].min() >= PAUSE_S - 1e-6


def test_the_more_answers_run_the_longer_the_pauses_of_each():
    profile = make_profile(step_s=0.004, sequence_s=0.0, decode_batch_tokens=4096)
    load = make_workload([(0.0, 16, 100)] * 60)
    spec = make_spec("0:1", profile=profile, overheads=Overheads(0, 0, 0, 0, 0, PAUSE_S))
    pause_s = event_pause_s(PAUSE_S, 60)
    assert pause_s == 0.012
    for record in simulate(spec, load).records:
        gaps_s = record.gaps_s[5:-1]  # those before were of fewer answers
        assert gaps_s.min() >= pause_s - 1e-6 and gaps_s.max() < pause_s + 0.012
