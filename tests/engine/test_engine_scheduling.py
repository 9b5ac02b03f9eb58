"""Who runs in a step, with how many tokens, and what the engine says about its load."""

from dataclasses import replace

import pytest

from wire.errors import BatonError, ErrorCode
from wire.messages import FinishReason


def chunks_of(driver) -> list[tuple[int, int, int]]:
    """Schedules and executes one step; (sequence, start, end) of each chunk."""
    plan = driver.engine.schedule()
    driver.engine.check_integrity()
    for output in driver.engine.execute(plan).outputs:
        driver._record(output)
    return [(c.seq_id, c.start, c.end) for c in plan.chunks]


def test_decodes_run_in_every_step_of_a_long_prefill(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, max_batch_tokens=34)
    for i in (0, 1):
        driver.engine.add(make_request(i, make_prompt(8 + i), 50))
    assert chunks_of(driver) == [(0, 0, 8), (1, 0, 9)]
    driver.engine.add(make_request(2, make_prompt(200), 4))
    for step in range(6):
        known = 8 + step
        assert chunks_of(driver) == [
            (0, known, known + 1),
            (1, known + 1, known + 2),
            (2, 32 * step, 32 * step + 32),
        ]
    assert chunks_of(driver)[2] == (2, 192, 200)


def test_a_chunk_ends_at_a_block_s_edge_unless_the_prompt_ends(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, max_batch_tokens=45)
    driver.engine.add(make_request(0, make_prompt(70), 1))
    driver.engine.add(make_request(1, make_prompt(30), 1))
    assert chunks_of(driver) == [(0, 0, 32), (1, 0, 13)]
    assert chunks_of(driver) == [(0, 32, 70), (1, 13, 16)]
    assert chunks_of(driver) == [(1, 16, 30)]


def test_first_come_is_first_served_within_a_priority(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, max_num_seqs=1)
    for i, priority in enumerate((1, 0, 1, 0, -1)):
        driver.engine.add(make_request(i, make_prompt(5 + i), 2, priority=priority))
    order = []
    while driver.engine.has_work:
        order += [seq_id for seq_id, start, _ in chunks_of(driver) if start == 0]
    assert order == [4, 1, 3, 0, 2]


def test_no_more_sequences_run_than_allowed(oracle, drive, make_request, make_prompt) -> None:
    driver = drive(oracle.model, max_num_seqs=3)
    for i in range(7):
        driver.engine.add(make_request(i, make_prompt(5 + i), 6))
    while driver.engine.has_work:
        assert len(chunks_of(driver)) <= 3
    assert len(driver.streams) == 7


def test_the_latest_sequence_gives_its_blocks_to_the_earlier_one(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=4)
    driver.engine.add(make_request(0, make_prompt(30), 30))
    driver.engine.add(make_request(1, make_prompt(15), 30))
    emitted = []
    while driver.engine.has_work:
        before = {i: len(s.tokens) for i, s in driver.streams.items()}
        driver.step()
        emitted.append({i for i, s in driver.streams.items() if len(s.tokens) > before.get(i, 0)})
    # The first one is never held up; the second waits for the first one's end.
    assert all(0 in step for step in emitted[:30])
    assert driver.engine.load().num_preemptions > 0
    assert driver.streams[1].tokens == oracle.answer(make_prompt(15), 30)


def test_a_prefill_only_sequence_is_never_preempted(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=6, max_batch_tokens=17)
    driver.engine.add(make_request(0, make_prompt(16), 40))
    chunks_of(driver)
    driver.engine.add(make_request(1, make_prompt(33), 40, prefill_only=True))
    while driver.streams.get(1) is None:
        driver.step()
    assert driver.streams[1].finish is FinishReason.PREFILLED
    while driver.step():
        pass
    assert driver.engine.load().num_running == 1 and driver.streams[0].finish is None
    driver.engine.release(1)
    assert driver.run()[0] == oracle.answer(make_prompt(16), 40)


def test_the_first_chunk_names_the_blocks_of_the_whole_prompt(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, max_batch_tokens=16)
    driver.engine.add(make_request(0, make_prompt(50), 2, prefill_only=True))
    seen = []
    for _ in range(4):
        (chunk,) = (plan := driver.engine.schedule()).chunks
        seen.append((chunk.is_first, chunk.is_prefill, len(chunk.block_ids)))
        driver.engine.execute(plan)
    assert seen == [(True, True, 4)] + [(False, True, 0)] * 3
    driver.engine.release(0)


def test_every_layer_is_reported_during_a_step(oracle, drive, make_request, make_prompt) -> None:
    driver = drive(oracle.model)
    driver.engine.add(make_request(0, make_prompt(5), 2))
    finished: list[int] = []
    driver.engine.execute(driver.engine.schedule(), finished.append)
    assert finished == list(range(1, oracle.model.config.num_layers + 1))


def test_the_load_counts_what_waits_and_what_runs(oracle, drive, make_request, make_prompt) -> None:
    driver = drive(oracle.model, max_batch_tokens=32, max_num_seqs=2, num_blocks=64)
    engine = driver.engine
    shared = make_prompt(32)
    engine.add(make_request(0, shared + make_prompt(1), 2))
    driver.run()
    for i in (1, 2, 3):
        engine.add(make_request(i, shared + make_prompt(40 + i), 2))
    assert engine.load().num_waiting == 3
    assert engine.load().waiting_tokens == 41 + 42 + 43
    engine.execute(engine.schedule())
    load = engine.load()
    assert (load.num_running, load.num_waiting) == (1, 2)
    assert load.waiting_tokens == 41 + 42 + 43 - 32
    assert load.context_tokens == 64
    assert load.num_blocks - load.num_free_blocks == 5
    driver.close()
    assert engine.load().waiting_tokens == 0


def test_times_are_told_with_the_first_and_the_last_token(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, max_batch_tokens=16)
    engine, clock = driver.engine, driver.clock
    engine.add(make_request(0, make_prompt(20), 3))
    clock.advance(2.0)
    times = []
    for _ in range(4):
        plan = engine.schedule()
        clock.advance(0.5)
        times += [output.times for output in engine.execute(plan).outputs]
    assert times[1] is None
    assert times[0] == times[2]
    assert (times[0].queue_s, times[0].prefill_s) == (2.0, 1.0)


@pytest.mark.parametrize("state", ["waiting", "running", "decoding", "reserved", "ready", "held"])
def test_a_cancelled_sequence_gives_its_blocks_back_at_once(
    oracle, drive, make_request, make_prompt, state: str
) -> None:
    driver = drive(oracle.model, max_batch_tokens=32, max_num_seqs=1)
    engine = driver.engine
    if state in ("reserved", "ready"):
        engine.reserve(make_request(0, make_prompt(50), 9))
    else:
        engine.add(make_request(0, make_prompt(50), 9, prefill_only=state == "held"))
    if state == "ready":
        engine.activate(0, 0)
    for _ in range({"running": 1, "decoding": 4, "held": 2}.get(state, 0)):
        driver.step()
    assert (engine.load().num_free_blocks < 256) == (state != "waiting")
    engine.release(0) if state != "held" else None
    engine.cancel(0)
    engine.cancel(0)
    assert engine.load().num_free_blocks == 256
    assert not engine.has_work and engine.schedule() is None
    engine.check_integrity()


def test_a_sequence_cancelled_between_schedule_and_execute_is_left_out(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model)
    for i in (0, 1):
        driver.engine.add(make_request(i, make_prompt(20 + i), 4))
    plan = driver.engine.schedule()
    driver.engine.cancel(0)
    assert [o.seq_id for o in driver.engine.execute(plan).outputs] == [1]
    driver.engine.cancel(1)
    assert driver.engine.execute(plan).outputs == ()


@pytest.mark.parametrize(
    ("length", "max_tokens", "outputs", "code", "numbers"),
    [
        (0, 4, (), ErrorCode.INVALID_REQUEST, ()),
        (5, 4, (1, 2, 3, 4), ErrorCode.INVALID_REQUEST, (4, 4)),
        (5, 4, (320,), ErrorCode.INVALID_REQUEST, (320, 320)),
        (5, 4, (-1,), ErrorCode.INVALID_REQUEST, (-1, 320)),
        (90, 11, (), ErrorCode.CONTEXT_LENGTH_EXCEEDED, (101, 100)),
        (60, 22, (), ErrorCode.OVERLOADED, (6, 5)),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_with_both_numbers(
    oracle, drive, make_request, make_prompt, length, max_tokens, outputs, code, numbers
) -> None:
    driver = drive(oracle.model, num_blocks=5, max_model_len=100)
    request = make_request(0, make_prompt(length), max_tokens, outputs=outputs)
    for call in (driver.engine.add, driver.engine.reserve):
        with pytest.raises(BatonError) as caught:
            call(request)
        assert caught.value.code is code
        assert all(str(number) in caught.value.message for number in numbers)
    assert not driver.engine.has_work


def test_a_request_that_just_fits_the_pool_is_answered(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=5, max_model_len=100)
    driver.engine.add(make_request(0, make_prompt(60), 21))
    assert driver.run()[0] == oracle.answer(make_prompt(60), 21)


def test_prefixes_of_different_salts_are_never_shared(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model)
    prompt = make_prompt(64)
    driver.engine.add(make_request(0, prompt, 2, salt="one"))
    driver.run()
    assert driver.engine.add(make_request(1, prompt, 2, salt="two")) == 0
    assert driver.engine.add(make_request(2, prompt, 2, salt="one")) == 48


def test_block_events_follow_the_cache_and_agree_with_the_snapshot(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=8)
    known: set[int] = set()
    for i in range(6):
        request = make_request(i, make_prompt(40, seed=i), 12)
        driver.engine.add(request)
        driver.run()
        event = driver.engine.take_block_event()
        assert event.sequence_number == i + 1
        known = (known - set(event.removed)) | set(event.stored)
        assert set(request.block_hashes) <= known
        snapshot = driver.engine.block_snapshot()
        assert (snapshot.sequence_number, set(snapshot.stored)) == (i + 1, known)
    assert driver.engine.take_block_event() is None


def test_a_sequence_with_a_broken_cache_fails_alone(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model)
    for i in (0, 1):
        driver.engine.add(make_request(i, make_prompt(20 + i), 6))
    block_ids = driver.engine.schedule().chunks[1].block_ids
    driver.step()
    driver.kv[:, block_ids[0]] = float("nan")
    result = driver.engine.execute(driver.engine.schedule())
    assert result.failed == (1,)
    assert [output.seq_id for output in result.outputs] == [0]
    driver.engine.check_integrity()
    assert driver.engine.load().num_running == 1


def test_broken_blocks_leave_the_prefix_cache(oracle, drive, make_request, make_prompt) -> None:
    driver = drive(oracle.model)
    prompt = make_prompt(40)
    driver.engine.add(make_request(0, prompt, 3))
    driver.run()
    driver.kv[:, :2] = float("nan")
    assert driver.engine.add(make_request(1, prompt, 3)) == 32
    assert driver.engine.execute(driver.engine.schedule()).failed == (1,)
    assert driver.engine.add(make_request(2, prompt, 3)) == 0
    assert driver.run()[2] == oracle.answer(prompt, 3)


def test_admission_leaves_a_block_for_each_running_sequence(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=5)
    driver.engine.add(make_request(0, make_prompt(16), 17))
    chunks_of(driver)
    driver.engine.add(make_request(1, make_prompt(50), 4))
    driver.run()
    assert driver.engine.load().num_preemptions == 0
    assert driver.streams[1].tokens == oracle.answer(make_prompt(50), 4)


def test_a_sequences_queue_begins_when_it_came_and_not_when_a_step_had_ended(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, max_batch_tokens=16)
    engine, clock = driver.engine, driver.clock
    clock.advance(5.0)
    engine.add(replace(make_request(0, make_prompt(8), 1), came_s=clock.now() - 3.0))
    clock.advance(2.0)
    outputs = engine.execute(engine.schedule()).outputs
    assert outputs[0].times.queue_s == 5.0
