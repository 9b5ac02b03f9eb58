"""The whole engine under random calls, over a model whose answers prove every key right."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from engine.engine import Engine
from engine.host_memory import PlainHostMemory
from engine.models import BatchInput
from engine.options import EngineConfig
from engine.results import SeqOutput
from engine.sequence import EngineRequest
from engine.speculation.drafter import Wish
from engine.speculation.speculator import Speculator
from runtime.clock import VirtualClock
from wire.block_hash import block_hashes
from wire.messages import FinishReason, SamplingParams

VOCAB = 50
MAX_LEN = 160
MODULUS = 100_003


def next_token(history: list[int]) -> int:
    """What the checksum model answers: a function of every token and its position."""
    return sum((i + 1) * (token + 7) for i, token in enumerate(history)) % MODULUS % VOCAB


class ChecksumModel:
    """Stores each token in the cache and answers from all that the block table leads to."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(
            vocab_size=VOCAB, kv_shape=lambda blocks, size: (1, blocks, 2, 1, size, 1)
        )
        self.device = torch.device("cpu")

    def forward(
        self, batch: BatchInput, kv: torch.Tensor, on_layers: object = None
    ) -> torch.Tensor:
        size = kv.shape[4]
        kv[0, batch.slots // size, 0, 0, batch.slots % size, 0] = batch.token_ids.float()
        kv[0, batch.slots // size, 1, 0, batch.slots % size, 0] = batch.positions.float()
        logits = torch.zeros(len(batch.logit_rows), VOCAB)
        for i, row in enumerate(batch.logit_rows.tolist()):
            sequence = int(torch.searchsorted(batch.query_start, row, right=True)) - 1
            context = int(batch.context_len[sequence])
            behind = int(batch.query_start[sequence + 1]) - 1 - row
            assert int(batch.positions[row]) == context - 1 - behind
            table = batch.block_tables[sequence, : -(-context // size)].long()
            assert (table >= 0).all() and len(set(table.tolist())) == len(table)
            tokens = kv[0, table, 0].flatten()[:context].tolist()
            assert kv[0, table, 1].flatten()[:context].tolist() == list(range(context))
            known = [int(token) for token in tokens[: context - behind]]
            logits[i, next_token(known)] = 1.0
        return logits


class HalfRight:
    """Guesses as the checksum model answers, but for some positions."""

    def propose(self, wishes: Sequence[Wish], tables: object) -> list[tuple[int, ...]]:
        return [self._guess(wish) for wish in wishes]

    def _guess(self, wish: Wish) -> tuple[int, ...]:
        history = wish.seq.tokens.tolist()
        for _ in range(wish.count):
            history.append((next_token(history) + (len(history) % 7 == 3)) % VOCAB)
        return tuple(history[wish.seq.num_tokens :])


@dataclass
class Expected:
    """What one sequence must emit."""

    request: EngineRequest
    answer: list[int]
    emitted: list[int] = field(default_factory=list)
    num_known: int = 0  # outputs that the engine must not emit
    block_ids: tuple[int, ...] = ()  # while reserved
    num_cached: int = 0
    is_reserved: bool = False
    finish: FinishReason | None = None


def answer_of(prompt: tuple[int, ...], num_tokens: int) -> list[int]:
    history = list(prompt)
    for _ in range(num_tokens):
        history.append(next_token(history))
    return history[len(prompt) :]


# Few distinct prompts, so that prefixes meet in the cache.
LENGTHS = st.one_of(st.integers(1, 90), st.sampled_from([15, 16, 17, 32, 48, 64]))
PROMPTS = st.tuples(st.sampled_from([0, 1, 2]), LENGTHS).map(
    lambda pair: tuple((pair[0] * 13 + i * i) % VOCAB for i in range(pair[1]))
)


class EngineMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(8, 20),
        budget=st.sampled_from([3, 17, 40, 400]),
        max_seqs=st.integers(1, 6),
        max_drafts=st.sampled_from([0, 1, 4, 20]),
        num_slots=st.sampled_from([0, 3, 12, 60]),
    )
    def start(
        self,
        num_blocks: int,
        budget: int,
        max_seqs: int,
        max_drafts: int = 4,
        num_slots: int = 0,
    ) -> None:
        config = EngineConfig(
            num_blocks=num_blocks,
            max_model_len=MAX_LEN,
            max_batch_tokens=budget,
            max_num_seqs=max_seqs,
        )
        self.kv = torch.full((1, num_blocks, 2, 1, 16, 1), float("nan"))
        clock = VirtualClock()
        speculator = Speculator(HalfRight(), max_drafts, clock) if max_drafts else None
        host = PlainHostMemory(self.kv, num_slots, clock) if num_slots else None
        self.engine = Engine(
            ChecksumModel(), self.kv, config, clock, speculator=speculator, host=host
        )
        self.config = config
        self.alive: dict[int, Expected] = {}
        self.next_id = 0

    def make(
        self, prompt: tuple[int, ...], max_tokens: int, known: int, **fields: object
    ) -> EngineRequest | None:
        """A request that can fit the pool, else None."""
        max_tokens = min(max_tokens, MAX_LEN - len(prompt))
        if -(-(len(prompt) + max_tokens) // 16) > self.config.num_blocks:
            return None
        known = min(known, max_tokens - 1)
        answer = answer_of(prompt, max_tokens)
        salt = str(fields.get("cache_salt", ""))
        self.next_id += 1
        request = EngineRequest(
            seq_id=self.next_id,
            prompt_tokens=prompt,
            sampling=SamplingParams(temperature=0.0, max_tokens=max_tokens),
            block_hashes=tuple(block_hashes(prompt, salt)),
            output_tokens=tuple(answer[:known]),
            **fields,
        )
        self.alive[request.seq_id] = Expected(request, answer, num_known=known)
        return request

    @rule(
        prompt=PROMPTS,
        max_tokens=st.integers(1, 60),
        known=st.sampled_from([0, 0, 1, 20]),
        prefill_only=st.booleans(),
        salt=st.sampled_from(["", "", "tenant"]),
        priority=st.sampled_from([0, 0, 1]),
    )
    def add(
        self,
        prompt: tuple[int, ...],
        max_tokens: int,
        known: int,
        prefill_only: bool,
        salt: str,
        priority: int,
    ) -> None:
        request = self.make(
            prompt,
            max_tokens,
            known,
            prefill_only=prefill_only,
            cache_salt=salt,
            priority=priority,
        )
        if request is not None:
            num_cached = self.engine.add(request)
            assert num_cached % 16 == 0
            assert num_cached < len(request.prompt_tokens) + len(request.output_tokens)

    @rule(
        prompt=PROMPTS,
        max_tokens=st.integers(2, 60),
        known=st.sampled_from([0, 0, 18]),
        prefill_only=st.sampled_from([False, False, False, True]),
    )
    def reserve(
        self, prompt: tuple[int, ...], max_tokens: int, known: int, prefill_only: bool = False
    ) -> None:
        request = self.make(prompt, max_tokens, known, prefill_only=prefill_only)
        if request is None:
            return
        reservation = self.engine.reserve(request)
        if reservation is None:
            del self.alive[request.seq_id]
            return
        expected = self.alive[request.seq_id]
        expected.is_reserved = True
        expected.block_ids = reservation.block_ids
        expected.num_cached = reservation.num_cached_tokens
        known_tokens = len(prompt) + expected.num_known
        assert len(reservation.block_ids) == -(-known_tokens // 16)

    @precondition(lambda self: any(e.is_reserved for e in self.alive.values()))
    @rule(
        data=st.data(),
        share=st.one_of(st.floats(0, 1), st.just(1)),
        num_learned=st.sampled_from([0, 1, 2, 40]),
    )
    def activate(self, data: st.DataObject, share: float, num_learned: int) -> None:
        expected = data.draw(st.sampled_from([e for e in self.alive.values() if e.is_reserved]))
        request = expected.request
        tokens = (*request.prompt_tokens, *request.output_tokens)
        num_ready = round(share * len(tokens))
        for position in range(expected.num_cached, num_ready):
            block, offset = expected.block_ids[position // 16], position % 16
            self.kv[0, block, 0, 0, offset] = tokens[position]
            self.kv[0, block, 1, 0, offset] = position
        num_left = len(expected.answer) - expected.num_known
        learned = tuple(expected.answer[expected.num_known :][: min(num_learned, num_left - 1)])
        expected.num_known += len(learned)
        expected.is_reserved = False
        self.engine.activate(request.seq_id, num_ready, learned)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        seq_id = data.draw(st.sampled_from(sorted(self.alive)))
        del self.alive[seq_id]
        self.engine.cancel(seq_id)
        self.engine.cancel(seq_id)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        seq_id = data.draw(st.sampled_from(sorted(self.alive)))
        self.engine.release(seq_id)
        if self.alive[seq_id].finish is not None:
            del self.alive[seq_id]

    @rule(data=st.data(), num_steps=st.integers(1, 12), cancels=st.booleans())
    def step(self, data: st.DataObject, num_steps: int, cancels: bool) -> None:
        for _ in range(num_steps):
            plan = self.engine.schedule()
            if plan is None:
                assert not self.engine.has_work
                return
            assert plan.num_tokens <= self.config.max_batch_tokens
            assert len(plan.chunks) <= self.config.max_num_seqs
            if cancels:
                chunk = data.draw(st.sampled_from(plan.chunks))
                del self.alive[chunk.seq_id]
                self.engine.cancel(chunk.seq_id)
                cancels = False
            for output in self.engine.execute(plan).outputs:
                self.check(output)
            self.engine.check_integrity()

    def check(self, output: SeqOutput) -> None:
        expected = self.alive[output.seq_id]
        assert expected.finish is None
        assert output.index == expected.num_known + len(expected.emitted)
        assert output.token == expected.answer[output.index]
        expected.emitted.append(output.token)
        is_last = output.index + 1 == len(expected.answer)
        if is_last:
            assert output.finish is FinishReason.LENGTH
        elif expected.request.prefill_only:
            assert output.finish is FinishReason.PREFILLED
        else:
            assert output.finish is None
        expected.finish = output.finish
        if output.finish is not None and not expected.request.prefill_only:
            del self.alive[output.seq_id]

    @invariant()
    def is_whole(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check_integrity()

    def teardown(self) -> None:
        """Whatever happened before, every request is answered and every block comes back."""
        if not hasattr(self, "engine"):
            return
        for seq_id, expected in list(self.alive.items()):
            if expected.is_reserved:
                expected.is_reserved = False
                self.engine.activate(seq_id, expected.num_cached)
        for _ in range(5000):
            plan = self.engine.schedule()
            for output in self.engine.execute(plan).outputs if plan is not None else ():
                self.check(output)
            held = [i for i, e in self.alive.items() if e.finish is not None]
            for seq_id in held:
                self.engine.release(seq_id)
                del self.alive[seq_id]
            if plan is None and not held:
                break
        assert not self.alive, "requests without an end"
        self.engine.check_integrity()
        load = self.engine.load()
        assert load.num_free_blocks == load.num_blocks
        assert (load.num_running, load.num_waiting, load.context_tokens) == (0, 0, 0)
        assert load.waiting_tokens == 0


EngineMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30)
TestEngineMachine = EngineMachine.TestCase


def test_a_sequence_that_cannot_grow_hands_its_row_to_one_that_has_its_blocks() -> None:
    machine = EngineMachine()
    machine.start(num_blocks=11, budget=3, max_seqs=1)
    for length in (49, 81):
        machine.reserve(
            prompt=tuple(range(2, 2 + 40)) + (1,) * (length - 40), max_tokens=2, known=0
        )
    machine.add((5,) * 16, 2, 0, prefill_only=False, salt="", priority=0)
    for _ in range(6):
        plan = machine.engine.schedule()
        for output in machine.engine.execute(plan).outputs:
            machine.check(output)
    assert machine.engine.schedule() is None
    machine.teardown()
