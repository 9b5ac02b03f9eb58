"""Prefill on one engine, KV copied by blocks, decode on another: the same answer."""

import pytest

from wire.messages import FinishReason

NUM_TOKENS = 12


def copy_blocks(source, target, from_ids, to_ids, num_tokens, skip_tokens=0) -> None:
    """What a transfer does: whole blocks, the last perhaps in part valid."""
    first, last = skip_tokens // 16, -(-num_tokens // 16)
    for a, b in zip(from_ids[first:last], to_ids[first:last], strict=True):
        target.kv[:, b] = source.kv[:, a]


def prefill(driver, request) -> tuple[tuple[int, ...], int]:
    """Runs a prefill_only request; its blocks and its token."""
    driver.engine.add(request)
    block_ids: tuple[int, ...] = ()
    while request.seq_id not in driver.streams:
        plan = driver.engine.schedule()
        for chunk in plan.chunks:
            if chunk.is_first:
                block_ids = chunk.block_ids
        for output in driver.engine.execute(plan).outputs:
            driver._record(output)
        driver.engine.check_integrity()
    return block_ids, driver.streams[request.seq_id].tokens[0]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 64, 130])
def test_a_transferred_prompt_decodes_as_on_one_engine(
    each_oracle, drive, make_request, make_prompt, length: int
) -> None:
    source, target = drive(each_oracle.model, max_batch_tokens=48), drive(each_oracle.model)
    prompt = make_prompt(length)
    reservation = target.engine.reserve(make_request(5, prompt, NUM_TOKENS))
    block_ids, token = prefill(source, make_request(0, prompt, NUM_TOKENS, prefill_only=True))
    assert len(block_ids) == len(reservation.block_ids) == -(-length // 16)
    copy_blocks(source, target, block_ids, reservation.block_ids, length)
    source.engine.release(0)
    target.engine.activate(5, length, (token,))
    tokens = target.run()[5]
    assert target.streams[5].first_index == 1
    assert [token, *tokens] == each_oracle.answer(prompt, NUM_TOKENS)


@pytest.mark.parametrize("ready", [0, 1, 16, 40, 63, 64])
@pytest.mark.parametrize("knows_token", [False, True])
def test_what_a_transfer_did_not_bring_is_computed(
    oracle, drive, make_request, make_prompt, ready: int, knows_token: bool
) -> None:
    source, target = drive(oracle.model), drive(oracle.model)
    prompt = make_prompt(64)
    block_ids, token = prefill(source, make_request(0, prompt, NUM_TOKENS, prefill_only=True))
    reservation = target.engine.reserve(make_request(0, prompt, NUM_TOKENS))
    copy_blocks(source, target, block_ids, reservation.block_ids, ready)
    if ready % 16:
        target.kv[:, reservation.block_ids[ready // 16], :, :, ready % 16 :] = float("nan")
    target.engine.activate(0, ready, (token,) if knows_token else ())
    given = [token] if knows_token else []
    assert given + target.run()[0] == oracle.answer(prompt, NUM_TOKENS)


def test_a_reservation_skips_what_the_cache_holds(oracle, drive, make_request, make_prompt) -> None:
    source, target = drive(oracle.model), drive(oracle.model)
    shared = make_prompt(80)
    prompt = shared + make_prompt(30, seed=4)
    target.engine.add(make_request(0, shared, 2))
    target.run()
    reservation = target.engine.reserve(make_request(1, prompt, NUM_TOKENS))
    assert reservation.num_cached_tokens == 80
    block_ids, token = prefill(source, make_request(0, prompt, NUM_TOKENS, prefill_only=True))
    copy_blocks(source, target, block_ids, reservation.block_ids, len(prompt), skip_tokens=80)
    target.engine.activate(1, len(prompt), (token,))
    assert [token, *target.run()[1]] == oracle.answer(prompt, NUM_TOKENS)


def test_transferred_blocks_enter_the_prefix_cache(
    oracle, drive, make_request, make_prompt
) -> None:
    source, target = drive(oracle.model), drive(oracle.model)
    prompt = make_prompt(70)
    request = make_request(0, prompt, NUM_TOKENS)
    block_ids, token = prefill(source, make_request(0, prompt, NUM_TOKENS, prefill_only=True))
    reservation = target.engine.reserve(request)
    assert target.engine.take_block_event() is None
    copy_blocks(source, target, block_ids, reservation.block_ids, len(prompt))
    target.engine.activate(0, len(prompt), (token,))
    assert target.engine.take_block_event().stored == request.block_hashes
    assert target.engine.add(make_request(1, prompt, NUM_TOKENS)) == 64
    tokens = target.run()
    assert [token, *tokens[0]] == tokens[1] == oracle.answer(prompt, NUM_TOKENS)


def test_an_answer_in_progress_moves_with_its_generated_tokens(
    oracle, drive, make_request, make_prompt
) -> None:
    """A decode worker was lost: prefill covers prompt and outputs, decode goes on behind them."""
    source, target = drive(oracle.model), drive(oracle.model)
    prompt = make_prompt(40)
    answer = oracle.answer(prompt, 40)
    known = tuple(answer[:20])
    request = make_request(0, prompt, 40, outputs=known, prefill_only=True)
    block_ids, token = prefill(source, request)
    assert source.streams[0].first_index == 20
    reservation = target.engine.reserve(make_request(0, prompt, 40, outputs=known))
    copy_blocks(source, target, block_ids, reservation.block_ids, 60)
    target.engine.activate(0, 60, (token,))
    assert [token, *target.run()[0]] == answer[20:]


def test_many_transfers_share_a_small_pool_with_local_requests(
    oracle, drive, make_request, make_prompt
) -> None:
    source = drive(oracle.model)
    target = drive(oracle.model, num_blocks=14, max_batch_tokens=64)
    prompts = {i: make_prompt(18 + 3 * i, seed=6) for i in range(8)}
    pending = []
    for i, prompt in prompts.items():
        if i % 2:
            target.engine.add(make_request(i, prompt, 40))
        else:
            pending.append(make_request(i, prompt, 40))
    first: dict[int, int] = {}
    while pending or target.engine.has_work:
        if pending and (reservation := target.engine.reserve(pending[0])) is not None:
            request = pending.pop(0)
            i, prompt = request.seq_id, request.prompt_tokens
            block_ids, first[i] = prefill(source, make_request(i, prompt, 40, prefill_only=True))
            copy_blocks(source, target, block_ids, reservation.block_ids, len(prompt))
            target.engine.activate(i, len(prompt), (first[i],))
        target.step()
    for i, prompt in prompts.items():
        given = [first[i]] if i in first else []
        assert given + target.streams[i].tokens == oracle.answer(prompt, 40), i


def test_a_held_sequence_keeps_its_blocks_until_released(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=4)
    prompt = make_prompt(50)
    block_ids, _ = prefill(driver, make_request(0, prompt, prefill_only=True))
    assert driver.streams[0].finish is FinishReason.PREFILLED
    assert driver.engine.load().num_free_blocks == 0
    kept = driver.kv[:, list(block_ids)].clone()
    driver.engine.add(make_request(1, make_prompt(20), 3))
    assert driver.engine.has_work and driver.engine.schedule() is None
    assert not driver.engine.has_work
    assert driver.kv[:, list(block_ids)].equal(kept) or kept.isnan().any()
    driver.engine.release(0)
    driver.engine.release(0)
    assert driver.engine.has_work
    assert driver.run()[1] == oracle.answer(make_prompt(20), 3)


@pytest.mark.parametrize(
    ("max_tokens", "stops", "finish"),
    [(1, False, FinishReason.LENGTH), (5, True, FinishReason.STOP)],
)
def test_a_prefill_whose_token_ends_the_answer_says_so_and_is_held(
    oracle, drive, make_request, make_prompt, max_tokens: int, stops: bool, finish: FinishReason
) -> None:
    driver = drive(oracle.model)
    prompt = make_prompt(20)
    stop_ids = tuple(oracle.answer(prompt, 1)) if stops else ()
    prefill(driver, make_request(0, prompt, max_tokens, prefill_only=True, stop_token_ids=stop_ids))
    assert driver.streams[0].finish is finish
    load = driver.engine.load()
    assert load.num_blocks - load.num_free_blocks == 2
    assert load.num_running == 0
    driver.engine.release(0)
    assert driver.engine.load().num_free_blocks == load.num_blocks


def test_a_reservation_waits_for_room_and_leaves_room_for_those_before_it(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=8)
    first = driver.engine.reserve(make_request(0, make_prompt(90), 4))
    assert first is not None and len(first.block_ids) == 6
    assert driver.engine.reserve(make_request(1, make_prompt(40), 4)) is None
    driver.engine.add(make_request(2, make_prompt(33), 4))
    assert driver.engine.schedule() is None
    assert driver.engine.reserve(make_request(3, make_prompt(5), 4)) is None
    driver.engine.cancel(0)
    assert driver.engine.reserve(make_request(3, make_prompt(5), 4)) is not None
    assert driver.engine.schedule() is not None
