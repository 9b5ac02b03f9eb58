"""Decode steps that replay graphs leave their states to an EAGLE-3 head."""

from pathlib import Path

import pytest
import torch
from eagle_heads import ReferenceHead, Shape
from eagle_runs import check_guesses, guessing
from torch import Tensor

from engine import decode_graphs
from engine.decode_graphs import GraphedModel
from engine.engine import Engine
from engine.kernels import BatchInput
from engine.models import Model
from engine.options import EngineConfig
from engine.speculation.speculator import Speculator
from runtime.clock import VirtualClock


class HostGraph:
    """What a CUDA graph does on replay: computes what its buffers hold, into its buffers."""

    def __init__(self, model: Model, kv: Tensor, batch: BatchInput) -> None:
        assert model.taps is not None
        size, hidden = batch.num_sequences, model.config.hidden_size
        self.logits = torch.full((size, model.config.vocab_size), float("nan"))
        self.states = torch.full((size, len(model.taps.layers) * hidden), float("nan"))
        self._model, self._kv, self._batch = model, kv, batch

    def replay(self) -> None:
        batch, count = self._batch, int((self._batch.slots >= 0).sum())
        full = BatchInput(
            batch.token_ids[:count],
            batch.positions[:count],
            batch.slots[:count],
            batch.block_tables[:count],
            batch.query_start[: count + 1],
            batch.context_len[:count],
            batch.logit_rows[:count],
        )
        self.logits[:count] = self._model.forward(full, self._kv)
        self.states[:count] = self._model.taps.take()


def test_steps_that_replay_a_graph_leave_their_states_to_the_head(
    deep_oracle, make_request, make_prompt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capture(model: Model, kv: Tensor, batch: BatchInput, pool: object) -> object:
        graph = HostGraph(model, kv, batch)
        graph.pool = lambda: None
        return decode_graphs._Captured(graph, batch, graph.logits, graph.states)

    monkeypatch.setattr(decode_graphs, "_capture", capture)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    reference, clock = ReferenceHead(Shape()), VirtualClock()
    model, drafter = guessing(deep_oracle.model, reference.save(tmp_path / "head"), 64)
    kv = torch.full(model.config.kv_shape(64), float("nan"))
    config = EngineConfig(num_blocks=64, max_model_len=128)
    graphed = GraphedModel(model, kv, (1, 4), config.max_table_blocks)
    engine = Engine(graphed, kv, config, clock, speculator=Speculator(drafter, 2, clock))
    prompts = [make_prompt(9 + i, seed=i) for i in range(3)]
    for i, prompt in enumerate(prompts):
        engine.add(make_request(i, prompt, 12 + 12 * i))
    answers: dict[int, list[int]] = {}
    while (plan := engine.schedule()) is not None:
        for output in engine.execute(plan).outputs:
            answers.setdefault(output.seq_id, []).append(output.token)
    wanted = [deep_oracle.answer(p, 12 + 12 * i) for i, p in enumerate(prompts)]
    assert [answers[i] for i in range(3)] == wanted
    assert check_guesses(deep_oracle, reference, drafter) > 20
