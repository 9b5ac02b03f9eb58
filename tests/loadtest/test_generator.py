"""The open loop on a real socket: times, reuse of connections, every kind of failure."""

import asyncio
import json
import socket
from typing import Any

import numpy as np
import pytest

from loadtest.body import PromptStyle
from loadtest.plan import ChatMessage, Conversation, Segment, Turn
from loadtest.target import Target

DELAYS_S = (0.06, 0.02, 0.05, 0.02)


async def test_measured_times_are_those_at_which_the_server_wrote(tools: Any) -> None:
    """The server notes when it writes; the harness must see the same percentiles."""
    scripts = [(0.02 + 0.004 * (n % 10), 0.01, 0.03 if n % 7 == 0 else 0.015) for n in range(60)]
    async with tools.serving(lambda number, body: tools.answer(scripts[number])) as server:
        records = await tools.load(server, tools.singles([n / 60 for n in range(60)]))
    assert [record.error for record in records] == [""] * 60
    by_number = {tuple(seen.body["prompt"]): seen.wrote for seen in server.seen}
    assert len(by_number) == 60
    start = server.seen[0].arrived - records[0].sent_s
    wrote = np.array([seen.wrote[1:4] for seen in sorted(server.seen, key=lambda s: s.arrived)])
    sent = np.array([record.sent_s for record in records])
    ttft = np.array([record.first_s for record in records]) - sent
    gaps = np.array([record.gaps_s for record in records])
    for percent in (50, 90, 99):
        expected = np.percentile(wrote[:, 0] - start - sent, percent)
        assert np.percentile(ttft, percent) == pytest.approx(expected, abs=0.015)
        for place in (0, 1):
            expected = np.percentile(np.diff(wrote, axis=1)[:, place], percent)
            assert np.percentile(gaps[:, place], percent) == pytest.approx(expected, abs=0.015)
    # A busy server may see two requests in the other order, and give each the other's script.
    scripted = np.array([script[0] for script in scripts])
    assert (np.sort(ttft) >= np.sort(scripted) - 0.002).all()


async def test_a_record_has_everything_of_its_request(tools: Any) -> None:
    reply = tools.answer(DELAYS_S, num_input=8, num_cached=5)
    async with tools.serving(lambda number, body: reply) as server:
        (record,) = await tools.load(server, tools.singles([0.01]))
    assert (record.num_input, record.num_output, record.num_cached) == (8, 4, 5)
    assert (record.status, record.finish_reason) == (200, "length")
    assert record.stages.decode_worker == "decode-0"
    gaps_s = record.gaps_s.astype(float)
    assert record.tpot_s == pytest.approx(gaps_s.sum() / 3)
    assert record.longest_stall_s == gaps_s.max() >= 0.049
    assert record.ttft_s is not None and record.ttft_s >= 0.059
    assert record.e2e_s >= record.ttft_s + gaps_s.sum() - 1e-5
    body = server.seen[0].body
    assert (body["max_tokens"], body["stream"], body["ignore_eos"]) == (4, True, True)
    assert len(body["prompt"]) == 8


async def test_a_stalled_server_does_not_slow_the_sending(tools: Any) -> None:
    """Open loop: nothing is answered until all requests are there."""
    release = asyncio.Event()
    reply = tools.Reply([tools.Write(tools.HEAD, hold=release), *tools.answer([0.0]).writes[1:]])
    starts_s = [n * 0.005 for n in range(40)]

    def script(number: int, body: Any) -> Any:
        if number == 39:
            release.set()
        return reply

    async with tools.serving(script) as server:
        records = await tools.load(server, tools.singles(starts_s))
        assert server.num_connections == 40
    assert [record.error for record in records] == [""] * 40
    arrived = [seen.arrived - server.seen[0].arrived for seen in server.seen]
    assert arrived == pytest.approx(starts_s, abs=0.5)
    assert records[0].e2e_s > 0.15


async def test_connections_are_used_again(tools: Any) -> None:
    async with tools.serving(lambda number, body: tools.answer([0.0])) as server:
        records = await tools.load(server, tools.singles([n * 0.03 for n in range(8)]))
        assert all(record.is_ok for record in records)
        assert server.num_connections < 8


async def test_a_connection_that_the_server_closed_is_replaced(tools: Any) -> None:
    """It says keep-alive and closes: the next request may already be on its way."""
    reply = tools.Reply(tools.answer([0.0]).writes, ends="close")
    async with tools.serving(lambda number, body: reply) as server:
        records = await tools.load(server, tools.singles([n * 0.01 for n in range(20)]))
    assert [record.error for record in records] == [""] * 20
    assert server.num_connections == 20


async def test_nobody_listening_is_counted(tools: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        target = Target("127.0.0.1", probe.getsockname()[1])
        records = await tools.load(target, tools.singles([0.0, 0.01]))
    assert all("cannot connect" in record.error for record in records)
    assert all(record.ttft_s is None and record.status == 0 for record in records)


async def test_every_way_to_fail_ends_in_one_record_that_says_how(tools: Any) -> None:
    word = tools.chunk(tools.text_event("a"))
    busy = tools.whole(429, b'{"error": {"message": "queue is full"}}', b"retry-after: 1\r\n")
    cut = [tools.Write(tools.HEAD), tools.Write(word)]
    replies = {
        0: (tools.Reply([tools.Write(busy)]), "HTTP 429: queue is full"),
        1: (tools.Reply(cut, ends="reset"), "connection"),
        2: (tools.Reply(cut, ends="close"), "closed the connection"),
        3: (tools.Reply([tools.Write(b"SSH-2.0-x\r\n\r\n")], ends="close"), "not HTTP"),
        4: (tools.Reply([*cut, tools.Write(b"0\r\n\r\n")]), "without a finish reason"),
        5: (tools.Reply([], ends="close"), "closed the connection"),
    }
    async with tools.serving(lambda number, body: replies[number][0]) as server:
        records = await tools.load(server, tools.singles([n * 0.05 for n in range(6)]))
    assert [record.index for record in records] == list(range(6))
    for record in records:
        assert replies[record.index][1] in record.error


async def test_a_request_without_end_times_out(tools: Any) -> None:
    never = asyncio.Event()
    reply = tools.Reply([tools.Write(tools.HEAD, hold=never)])
    async with tools.serving(lambda number, body: reply) as server:
        (record,) = await tools.load(server, tools.singles([0.0]), timeout_s=0.1)
        never.set()
    assert record.error == "no end in 0.1 s"
    assert 0.099 <= record.e2e_s < 2.0


async def test_a_turn_waits_for_the_answer_and_carries_it(tools: Any) -> None:
    turns = (
        Turn(3, messages=(ChatMessage("system", "be brief"), ChatMessage("user", "one?"))),
        Turn(3, messages=(ChatMessage("user", "two?"),), think_s=0.1),
        Turn(3, (Segment(7, 3),)),
    )
    reply = {0: "first", 1: "second", 2: "third"}
    script = {n: tools.answer([0.02, 0.02], texts=[text, "!"]) for n, text in reply.items()}
    async with tools.serving(lambda number, body: script[number]) as server:
        records = await tools.load(server, [Conversation(5, 0.0, turns, "talk")], PromptStyle.CHAT)
    assert [record.index for record in records] == [5, 6, 7]
    assert {record.class_name for record in records} == {"talk"}
    assert [record.turn for record in records] == [0, 1, 2]
    assert records[1].intended_s == pytest.approx(records[0].end_s + 0.1)
    assert records[2].intended_s == records[1].end_s
    asked = [[(m["role"], m["content"]) for m in seen.body["messages"]] for seen in server.seen]
    assert asked[0] == [("system", "be brief"), ("user", "one?")]
    assert asked[1] == [*asked[0], ("assistant", "first!"), ("user", "two?")]
    assert asked[2][:-1] == [*asked[1], ("assistant", "second!")]
    assert len(asked[2][-1][1].split()) == 3
    assert {seen.path for seen in server.seen} == {"/v1/chat/completions"}


async def test_a_conversation_ends_with_its_first_failure(tools: Any) -> None:
    refusal = tools.Reply([tools.Write(tools.whole(500, b"{}"))])
    turns = (Turn(1, (Segment(0, 2),)), Turn(1, (Segment(1, 2),)))
    async with tools.serving(lambda number, body: refusal) as server:
        records = await tools.load(server, [Conversation(0, 0.0, turns)], PromptStyle.CHAT)
    assert len(records) == len(server.seen) == 1


@pytest.mark.parametrize("style", [PromptStyle.IDS, PromptStyle.TEXT])
async def test_a_later_prompt_begins_with_the_earlier_one(tools: Any, style: PromptStyle) -> None:
    turns = (Turn(2, (Segment(0, 20),)), Turn(2, (Segment(1, 10),)))
    async with tools.serving(lambda number, body: tools.answer([0.0, 0.0])) as server:
        await tools.load(server, [Conversation(0, 0.0, turns)], style)
    first, second = (seen.body["prompt"] for seen in server.seen)
    assert second[: len(first)] == first
    if style is PromptStyle.IDS:
        assert len(second) == 20 + 2 + 10
    else:
        assert second[len(first) :].startswith(" w0 w1")


async def test_equal_blocks_are_equal_on_the_wire(tools: Any) -> None:
    conversations = [
        Conversation(n, n * 0.01, (Turn(1, (Segment(9, 32), Segment(n, 16))),)) for n in range(4)
    ]
    async with tools.serving(lambda number, body: tools.answer([0.0])) as server:
        await tools.load(server, conversations)
    prompts = [seen.body["prompt"] for seen in server.seen]
    assert len({json.dumps(prompt[:32]) for prompt in prompts}) == 1
    assert len({json.dumps(prompt[32:]) for prompt in prompts}) == 4
