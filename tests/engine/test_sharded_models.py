"""Shares of a model, one a thread: together they are the model of transformers."""

import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_shapes import EXPERTS, LATENT, PARTIAL, TINY
from torch import Tensor

from engine.config import ModelConfig
from engine.kernels import BatchInput
from engine.layers.shard import Shard, check_divides
from engine.models import Model
from engine.parallel.batch_message import pack, unpack
from engine.parallel.kv_move import KVMove
from engine.parallel.leading_model import LeadingModel
from engine.parallel.rank_kv import of_heads
from engine.weights import load

TIMEOUT_S = 60.0
SHAPE = {**TINY, "vocab_size": 321}  # of which no share is a whole number
DEEPSEEK = {**LATENT, "n_shared_experts": 2}
CONFIGS: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("Llama", {}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral, one key-value head": ("Mistral", {"num_key_value_heads": 1, "sliding_window": 20}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 32, "num_key_value_heads": 4}),
    "qwen3-moe": ("Qwen3Moe", {**EXPERTS, "num_experts_per_tok": 3, "mlp_only_layers": [1]}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "phi3": ("Phi3", {"rope_parameters": PARTIAL, "sliding_window": None}),
    "deepseek-v2": ("DeepseekV2", {**DEEPSEEK, "q_lora_rank": None, "attention_bias": True}),
    "deepseek-v3": ("DeepseekV3", {**DEEPSEEK, "n_group": 4, "topk_group": 2}),
    "gemma3": ("Gemma3Text", {"head_dim": 16, "sliding_window": 24, "num_key_value_heads": 1}),
}


class Threads:
    """What the ranks of one process share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.given: list[Tensor] = [torch.empty(0)] * size


class ThreadGroup:
    """A rank of them, as the engine sees its group."""

    def __init__(self, rank: int, threads: Threads) -> None:
        self.shard = Shard(rank, threads.size)
        self._threads = threads

    def sum(self, x: Tensor) -> Tensor:
        total = torch.stack(self._exchanged(x)).sum(0)
        self._threads.barrier.wait(TIMEOUT_S)
        return x.copy_(total)

    def gather(self, x: Tensor) -> Sequence[Tensor]:
        parts = [part.clone() for part in self._exchanged(x)]
        self._threads.barrier.wait(TIMEOUT_S)
        return parts if self.shard.rank == 0 else []

    def _exchanged(self, x: Tensor) -> list[Tensor]:
        self._threads.given[self.shard.rank] = x
        self._threads.barrier.wait(TIMEOUT_S)
        return list(self._threads.given)


class ThreadFollowers:
    """Ranks above 0 as threads over the cache of rank 0; the messages are those of processes."""

    def __init__(self, models: Sequence[Model], kv: Tensor, size: int) -> None:
        self.errors: list[Exception] = []
        self._inboxes: list[queue.SimpleQueue[bytes]] = []
        self._threads: list[threading.Thread] = []
        for rank, model in enumerate(models, 1):
            own = of_heads(kv, Shard(rank, size).kv_heads(model.config.num_kv_heads))
            inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            thread = threading.Thread(target=self._follow, args=(model, own, inbox), daemon=True)
            thread.start()
            self._inboxes.append(inbox)
            self._threads.append(thread)

    def send(self, message: bytes) -> None:
        for inbox in self._inboxes:
            inbox.put(message)

    def check(self) -> None:
        assert not self.errors

    def end(self) -> None:
        self.send(b"")
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    def _follow(self, model: Model, kv: Tensor, inbox: "queue.SimpleQueue[bytes]") -> None:
        while message := inbox.get():
            try:
                model.forward(unpack(message), kv)
            except Exception as error:
                self.errors.append(error)
                return


class Sharded:
    """A model and its twin in transformers, the former in `size` threads."""

    def __init__(self, directory: Path, size: int, **options: Any) -> None:
        self.config = ModelConfig.from_directory(directory)
        threads = Threads(size)
        models = [
            load(directory, self.config, torch.float32, group=ThreadGroup(rank, threads), **options)
            for rank in range(size)
        ]
        self.kv = torch.full(self.config.kv_shape(32), float("nan"))
        if options:
            self.kv = torch.zeros(self.config.kv_shape(32)).to(torch.float8_e4m3fn)
        self.followers = ThreadFollowers(models[1:], self.kv, size)
        self.model = LeadingModel(models[0], Shard(0, size), self.followers)

    def close(self) -> None:
        self.followers.end()
        assert not self.followers.errors


def batch_of(tokens: Sequence[int], start: int, rows: Sequence[int]) -> BatchInput:
    """Tokens of one sequence in blocks 3, 5, 7 and so on, from position `start` on."""
    positions = torch.arange(start, start + len(tokens))
    end = start + len(tokens)
    blocks = 3 + 2 * torch.arange(-(-end // 16))
    return BatchInput(
        token_ids=torch.tensor(tokens),
        positions=positions,
        slots=blocks[positions // 16] * 16 + positions % 16,
        block_tables=blocks.int().unsqueeze(0),
        query_start=torch.tensor([0, len(tokens)], dtype=torch.int32),
        context_len=torch.tensor([end], dtype=torch.int32),
        logit_rows=torch.tensor(list(rows), dtype=torch.int64),
    )


def prompt_of(length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(3, 320, (length,), generator=generator).tolist()


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Path, transformers.PreTrainedModel]]:
    made: dict[str, tuple[Path, transformers.PreTrainedModel]] = {}

    def make(name: str) -> tuple[Path, transformers.PreTrainedModel]:
        if name not in made:
            torch.manual_seed(7)
            kind, changes = CONFIGS[name]
            config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **changes})
            model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
            for key, weight in model.named_parameters():
                if key.endswith(("norm.weight", ".bias")):
                    torch.nn.init.normal_(weight, mean=float("bias" not in key), std=0.2)
            directory = tmp_path_factory.mktemp("model")
            model.save_pretrained(directory)
            made[name] = directory, model
        return made[name]

    return make


@pytest.fixture
def sharded() -> Iterator[Callable[..., Sharded]]:
    made: list[Sharded] = []

    def make(directory: Path, size: int, **options: Any) -> Sharded:
        made.append(Sharded(directory, size, **options))
        return made[-1]

    yield make
    for model in made:
        model.close()


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_shares_together_give_the_logits_of_transformers(
    name: str, size: int, reference: Callable[..., Any], sharded: Callable[..., Sharded]
) -> None:
    directory, whole = reference(name)
    shares = sharded(directory, size)
    prompt = prompt_of(75)
    parts = [
        shares.model.forward(batch_of(prompt[start:end], start, range(end - start)), shares.kv)
        for start, end in ((0, 33), (33, 74), (74, 75))
    ]
    with torch.inference_mode():
        wanted = whole(torch.tensor([prompt])).logits[0]
    scale = wanted.abs().max().item()
    torch.testing.assert_close(torch.cat(parts), wanted, rtol=1e-3, atol=1e-3 * scale)
    assert torch.equal(torch.cat(parts).argmax(1), wanted.argmax(1))


def test_the_cache_that_shares_fill_is_the_cache_of_one_process(
    reference: Callable[..., Any], sharded: Callable[..., Sharded]
) -> None:
    directory, _ = reference("llama")
    shares = sharded(directory, 2)
    finished: list[int] = []
    prompt = prompt_of(40)
    shares.model.forward(batch_of(prompt, 0, ()), shares.kv, finished.append)
    alone = torch.full(shares.config.kv_shape(32), float("nan"))
    load(directory, shares.config, torch.float32).forward(batch_of(prompt, 0, ()), alone)
    torch.testing.assert_close(shares.kv, alone, equal_nan=True, rtol=1e-4, atol=1e-4)
    assert finished == [1, 2]


def test_a_step_without_logits_ends_when_every_share_is_stored(
    reference: Callable[..., Any], sharded: Callable[..., Sharded]
) -> None:
    directory, _ = reference("qwen3-moe")
    shares = sharded(directory, 4)
    for _ in range(10):
        shares.kv.fill_(float("nan"))
        logits = shares.model.forward(batch_of(prompt_of(48), 0, ()), shares.kv)
        assert logits.shape == (0, 321)
        assert not shares.kv[:, [3, 5, 7]].isnan().any()


def test_a_cache_in_fp8_is_shared_too(
    reference: Callable[..., Any], sharded: Callable[..., Sharded]
) -> None:
    directory, _ = reference("qwen3")
    prompt = prompt_of(40)
    found = []
    for size in (1, 2):
        shares = sharded(directory, size, fp8_kv=True)
        found.append(shares.model.forward(batch_of(prompt, 0, range(40)), shares.kv))
    # A product's last bit may move a key to fp8's next value, in 1 of 8.
    error = (found[0] - found[1]).norm() / found[0].norm()
    assert error < 0.02


def test_a_checkpoint_in_fp8_is_shared_too(
    reference: Callable[..., Any], sharded: Callable[..., Sharded], tmp_path: Path
) -> None:
    directory, _ = reference("llama")
    tensors = load_file(directory / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        scale = tensors[name].abs().max() / 448
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale"] = scale.view(1)
    save_file(tensors, tmp_path / "model.safetensors")
    fields = json.loads((directory / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "static"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    shares, batch = sharded(tmp_path, 2), batch_of(prompt_of(40), 0, range(40))
    found = shares.model.forward(batch, shares.kv)
    alone = load(tmp_path, shares.config, torch.float32)
    wanted = alone.forward(batch, torch.full(shares.config.kv_shape(32), float("nan")))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "size", "complaint"),
    [
        ("llama", 3, "tensor_parallel 3 does not divide the model's 4 attention heads"),
        ("llama", 8, "tensor_parallel 8 does not divide the model's 4 attention heads"),
        ("deepseek-v3", 3, "tensor_parallel 3 does not divide the model's 4 attention heads"),
    ],
)
def test_ranks_that_cannot_share_a_model_are_refused_by_the_number(
    name: str, size: int, complaint: str, reference: Callable[..., Any]
) -> None:
    directory, _ = reference(name)
    with pytest.raises(ValueError, match=complaint):
        check_divides(ModelConfig.from_directory(directory), size)


@settings(deadline=None)
@given(
    num_tokens=st.integers(0, 40),
    num_sequences=st.integers(0, 5),
    width=st.integers(0, 7),
    num_rows=st.integers(0, 6),
    seed=st.integers(0, 9),
)
def test_a_batch_comes_out_of_its_message_as_it_went_in(
    num_tokens: int, num_sequences: int, width: int, num_rows: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def some(dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.randint(-1, 1 << 30, shape, generator=generator, dtype=dtype)

    batch = BatchInput(
        token_ids=some(torch.int64, num_tokens),
        positions=some(torch.int64, num_tokens),
        slots=some(torch.int64, num_tokens),
        block_tables=some(torch.int32, num_sequences, width),
        query_start=some(torch.int32, num_sequences + 1),
        context_len=some(torch.int32, num_sequences),
        logit_rows=some(torch.int64, num_rows),
    )
    message = pack(batch)
    found = unpack(message)
    for name in BatchInput.__slots__:
        assert torch.equal(getattr(found, name), getattr(batch, name)), name
    for wrong in (message[:-1], message + b"\0", message[:31]):
        with pytest.raises(ValueError, match="bytes"):
            unpack(wrong)


@given(
    is_save=st.booleans(),
    block_ids=st.lists(st.integers(0, 1 << 40), max_size=20),
    first_layer=st.integers(0, 100),
    num_layers=st.integers(1, 100),
)
def test_a_move_of_blocks_comes_out_of_its_message_and_is_no_step(
    is_save: bool, block_ids: list[int], first_layer: int, num_layers: int
) -> None:
    move = KVMove(is_save, tuple(block_ids), first_layer, first_layer + num_layers)
    message = move.pack()
    assert KVMove.unpack(message) == move
    with pytest.raises(ValueError, match="bytes"):
        unpack(message)
    for wrong in (message[:-8], message + bytes(8)):
        with pytest.raises(ValueError, match="another number of blocks"):
            KVMove.unpack(wrong)
    assert KVMove.unpack(pack(batch_of([1, 2], 0, [1]))) is None


@settings(deadline=None)
@given(size=st.integers(1, 16), count=st.integers(1, 200))
def test_padded_shares_cover_all_rows_once(size: int, count: int) -> None:
    rows = [row for rank in range(size) for row in Shard(rank, size).padded(count)]
    assert rows == list(range(count))
