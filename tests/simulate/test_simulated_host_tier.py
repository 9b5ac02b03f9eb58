"""The second tier of a simulated worker's cache: the engine's, event by event."""

from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelled_config import model_config
from toy_cluster import NO_TIME, make_profile, make_spec

from baton.up_config import DEMO_MODEL
from engine.engine import Engine
from engine.kv_cache import allocate_kv, kv_layout
from engine.modelled.host_memory import ModelledHostMemory
from engine.modelled.model import ModelledModel
from engine.options import EngineConfig
from engine.sequence import EngineRequest
from loadtest.faults import parse_fault
from loadtest.plan import Conversation, Segment, Turn, Workload
from profiles.catalog import dump
from runtime.clock import VirtualClock
from simulate.batch import WorkerLimits
from simulate.event_loop import EventLoop
from simulate.leg import Leg
from simulate.links import Links
from simulate.run import simulate
from simulate.worker import ModelledWorker
from wire.block_hash import block_hashes
from wire.messages import (
    GenerateRequest,
    LegFinished,
    LegTokens,
    Role,
    SamplingParams,
    StartLeg,
)
from worker.build import build
from worker.commands import Join, Start
from worker.config import WorkerConfig

# Ten blocks on the device and eight on the host; a block comes back in 0.4 ms, and takes 1.6 ms to
# be computed.
PROFILE = make_profile(
    kv_tokens=160, host_kv_tokens=128, host_bytes_per_s=4e7, decode_batch_tokens=48, max_num_seqs=4
)
# What a prompt begins with: a path of blocks, equal ones for equal numbers, or an earlier request
# and its answer. Its last block is its own, so that no two answers are the same.
ORDERS = st.lists(
    st.tuples(
        st.one_of(st.lists(st.integers(0, 1), max_size=5), st.integers(0, 9)), st.integers(1, 30)
    ),
    min_size=1,
    max_size=12,
)


class Prompts:
    """Of the orders in turn, once their predecessors are answered."""

    def __init__(self):
        self.served = []

    def next(self, beginning):
        number = len(self.served)
        if isinstance(beginning, int):
            before = self.served[beginning % number] if number else ()
        else:
            before = tuple(1 + 16 * choice + i for choice in beginning for i in range(16))
        return (*before[: min(len(before) // 16, 6) * 16], *(40 + number,) * 16)

    def answered(self, prompt, tokens):
        self.served.append((*prompt, *tokens))


class Tiers:
    """Where each block is, from what a worker tells of its cache."""

    def __init__(self):
        self.device, self.host = set(), set()

    def apply(self, event):
        if event is not None:
            assert self.device >= set(event.removed) and self.host >= set(event.host_removed)
            self.device -= set(event.removed)
            self.host -= set(event.host_removed) | set(event.stored)
            self.device |= set(event.stored)
            self.host |= set(event.host_stored)

    @property
    def state(self):
        return sorted(self.device), sorted(self.host)


def on_the_engine(orders, profile):
    """Each prompt, its answer, the times of the first and last token, where blocks are by then."""
    clock, config = VirtualClock(), model_config()
    model = ModelledModel(config, profile, clock, clock.advance, Random(0), max_credit_s=0.0)
    num_blocks = profile.kv_tokens // 16
    options = EngineConfig(num_blocks, profile.kv_tokens, (), 16, 48, 4)
    kv = allocate_kv(kv_layout(config, torch.bfloat16, num_blocks))
    host = ModelledHostMemory(profile, model, clock)
    engine, tiers, prompts = Engine(model, kv, options, clock, host=host), Tiers(), Prompts()
    for number, (beginning, num_output) in enumerate(orders):
        prompt = prompts.next(beginning)
        sampling = SamplingParams(temperature=0, max_tokens=num_output, ignore_eos=True)
        engine.add(EngineRequest(number, prompt, sampling, tuple(block_hashes(prompt))))
        begun_s, tokens, times = clock.now(), [], []
        while (plan := engine.schedule()) is not None:
            for output in engine.execute(plan).outputs:
                tokens.append(output.token)
                times.append(clock.now() - begun_s)
            engine.check_integrity()
            tiers.apply(engine.take_block_event())
        prompts.answered(prompt, tokens)
        yield prompt, tokens, (times[0], times[-1]), tiers.state, engine.load().host


class Listener:
    def __init__(self):
        self.tiers, self.snapshots = Tiers(), []

    def accepted(self, leg):
        """Nothing is asked of it."""

    published = transferred = accepted

    def tokens_came(self, leg, is_last):
        """Its times are in the leg."""

    def blocks_changed(self, event):
        self.tiers.apply(event)


class SimulatedWorker:
    """One that takes a request at a time."""

    def __init__(self, profile):
        self.loop, self.listener = EventLoop(), Listener()
        self.worker = ModelledWorker(
            "w", Role.DECODE, profile, WorkerLimits(48, 4, 16), self.loop, self.listener,
            Links(()), Random(0),
        )  # fmt: skip
        self.num_legs = 0

    def serve(self, prompt, tokens):
        """The times of the answer's first and last token, where blocks are, and the tier's load."""
        self.num_legs += 1
        keys = tuple(block_hashes((*prompt, *tokens)))
        leg = Leg(self.num_legs, str(self.num_legs), len(prompt), len(tokens), keys)
        begun_s = self.loop.now()
        self.worker.start(leg)
        self.loop.run()
        self.worker.check_integrity()
        snapshot = self.worker.snapshot()
        assert (sorted(snapshot.stored), sorted(snapshot.host_stored)) == self.listener.tiers.state
        times = leg.known_times() - begun_s
        return times[0], times[-1], self.listener.tiers.state, self.worker.report().host


@settings(max_examples=40)
@given(ORDERS)
def test_a_worker_keeps_evicts_and_brings_back_what_the_engine_does_when_it_does(orders):
    simulated = SimulatedWorker(PROFILE)
    for prompt, tokens, times, state, host in on_the_engine(orders, PROFILE):
        found = simulated.serve(prompt, tokens)
        assert found[:2] == pytest.approx(times, abs=1e-6)
        assert found[2:] == (state, host)


# --- a worker process's parts, whose time is real -------------------------------------------------


def on_a_live_worker(orders, tmp_path):
    """As on_the_engine, with the worker's report in the place of times."""
    path = tmp_path / "quick.toml"
    path.write_text(dump(replace(PROFILE, step_s=1e-4, prefill_token_s=1e-4, max_model_len=160)))
    config = WorkerConfig(str(DEMO_MODEL), profile=str(path), host_kv_memory="128kB", threads=1)
    tiers, prompts = Tiers(), Prompts()
    with build(config) as parts:
        core = parts.core
        core.apply(Join(1))
        for number, (beginning, num_output) in enumerate(orders):
            prompt = prompts.next(beginning)
            sampling = SamplingParams(temperature=0, max_tokens=num_output, ignore_eos=True)
            request = GenerateRequest(str(number), prompt, sampling, tuple(block_hashes(prompt)))
            core.apply(Start(1, StartLeg(number, request)))
            events = []
            while not any(isinstance(event, LegFinished) for event in events):
                core.run_step(core.begin_step())
                outbox = core.take_outbox()
                events += outbox.events.get(1, ())
                tiers.apply(outbox.block_event)
            tokens = [t for event in events if isinstance(event, LegTokens) for t in event.tokens]
            prompts.answered(prompt, tokens)
            core.check_integrity()
            yield prompt, tokens, tiers.state, core.report()


def test_a_live_modelled_worker_tells_of_the_same_blocks_as_a_simulated_one(tmp_path):
    beginnings = ([0, 1, 0], [1, 1], 0, [0, 1, 0], 1, 2, [1, 1, 0, 0], 0, 3)
    orders = [(beginning, 5 + 3 * number) for number, beginning in enumerate(beginnings)]
    simulated = None
    for prompt, tokens, state, report in on_a_live_worker(orders, tmp_path):
        if simulated is None:  # some blocks of a live one are its fabric's
            profile = replace(PROFILE, kv_tokens=16 * report.num_blocks)
            simulated = SimulatedWorker(profile)
        assert simulated.serve(prompt, tokens)[2:] == (state, report.host)
    assert report.host.num_restored_tokens > 50


# --- whole simulations ----------------------------------------------------------------------------


def conversations(num=12, num_turns=4):
    """They take turns, so that each one's KV is gone when it goes on; the answers are asked for."""
    made = []
    for index in range(num):
        segments = (Segment(10 * index, 640),)
        turns = []
        for number in range(num_turns):
            turns.append(Turn(40, segments, think_s=6.0 if number else 0.0))
            segments = (Segment(10 * index + number + 1, 200),)
        made.append(Conversation(num_turns * index, 0.41 * index, tuple(turns)))
    return Workload(tuple(made), 5.0, "by hand")


SMALL = make_profile(kv_tokens=4096, host_bytes_per_s=1e8)
TIERED = replace(SMALL, host_kv_tokens=1 << 16)


def outcome_of(profile, **spec):
    cluster = make_spec("1:1", profile=profile, policy="predicted", overheads=NO_TIME, **spec)
    return simulate(cluster, conversations())


@pytest.mark.parametrize("unit_tokens", [16, 128])
def test_what_comes_back_from_the_host_is_not_computed_again(unit_tokens):
    plain, tiered = (outcome_of(one, unit_tokens=unit_tokens) for one in (SMALL, TIERED))
    for outcome in (plain, tiered):
        assert all(record.is_ok for record in outcome.records)
    cached = [sum(record.num_cached for record in one.records) for one in (plain, tiered)]
    busy = [sum(one.busy.values()) * one.end_s for one in (plain, tiered)]
    assert cached[1] > 1.5 * cached[0] and busy[1] < busy[0]
    later = [[r.ttft_s for r in one.records if r.turn] for one in (plain, tiered)]
    assert sum(later[1]) < 0.8 * sum(later[0])
    assert outcome_of(TIERED, unit_tokens=unit_tokens) == tiered  # to the bit


def test_without_host_memory_a_fast_host_changes_nothing():
    assert outcome_of(SMALL) == outcome_of(replace(SMALL, host_bytes_per_s=0.0))


def test_legs_that_die_or_are_cut_off_leave_no_slot_pinned():
    faults = tuple(
        parse_fault(kind, text)
        for kind, text in (("kill", "decode@4s"), ("freeze", "prefill@8s+3s"), ("cut", "any@14s"))
    )
    outcome = outcome_of(replace(TIERED, host_kv_tokens=2048), faults=faults)
    assert len(outcome.faults) == 3 and len(outcome.records) == 48
