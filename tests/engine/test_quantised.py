"""Quantised checkpoints: answers as transformers gives them with the weights that are meant, near
those of the weights that were quantised; and what is said about broken ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import engine.weights
from engine.errors import ModelError
from engine.json_fields import JsonFields
from engine.kernels.fp8_linear import Fp8Linear
from engine.kernels.int4_linear import Int4Linear
from engine.models import BatchInput, Model, ModelConfig
from engine.quant_config import Packing, QuantConfig, read_quantisation
from engine.quantised import DequantisedTensors
from engine.weights import load

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 32}
LATENT = {
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
}
AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)  # the output that each four bits of a word hold
Stored = dict[str, Tensor]  # a weight's tensors, by what follows its module's name
Quantised = tuple[Stored, Tensor]  # and the weight that they stand for


def to_fp8(weight: Tensor, scales: Tensor, name: str, stored_scales: Tensor) -> Quantised:
    values = (weight / scales).to(torch.float8_e4m3fn)
    return {"weight": values, name: stored_scales}, values.float() * scales


def fp8_by_channel(weight: Tensor) -> Quantised:
    scales = weight.abs().amax(1, keepdim=True) / 448
    return to_fp8(weight, scales, "weight_scale", scales)


def fp8_by_tensor(weight: Tensor) -> Quantised:
    scale = weight.abs().max() / 448
    return to_fp8(weight, scale, "weight_scale", scale.view(1))


def fp8_by_block(weight: Tensor) -> Quantised:
    """Blocks of 128 x 128, the last of a row or column perhaps in part."""
    rows, columns = weight.shape
    scales = torch.zeros(-(-rows // 128), -(-columns // 128))
    spread = torch.zeros_like(weight)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            part = (slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128))
            scales[i, j] = spread[part] = weight[part].abs().max() / 448
    return to_fp8(weight, spread, "weight_scale_inv", scales)


def int4(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values and, of each group of inputs, scales and zero points, each [.., out_features]."""
    grouped = weight.T.reshape(-1, group, weight.shape[0])
    low, high = grouped.amin(1), grouped.amax(1)
    scales = ((high - low) / 15).half().float()
    zeros = (-low / scales).round().clamp(0, 15)
    values = (grouped / scales[:, None] + zeros[:, None]).round().clamp(0, 15)
    return values.flatten(0, 1).int(), scales, zeros.int()


def pack(values: Tensor, columns: tuple[int, ...]) -> Tensor:
    """Eight neighbours of the last dimension in a word, the first of `columns` in its low bits."""
    words = torch.zeros(*values.shape[:-1], values.shape[-1] // 8, dtype=torch.int64)
    for place, column in enumerate(columns):
        words |= values[..., column::8].long() << (4 * place)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def awq(weight: Tensor) -> Quantised:
    values, scales, zeros = int4(weight, 64)
    exact = (values - zeros.repeat_interleave(64, 0)) * scales.repeat_interleave(64, 0)
    stored = {
        "qweight": pack(values, AWQ_COLUMNS),
        "qzeros": pack(zeros, AWQ_COLUMNS),
        "scales": scales.half(),
    }
    return stored, exact.T.contiguous()


def gptq(weight: Tensor, offset: int = 1, reorder: bool = False) -> Quantised:
    """Inputs, with `reorder`, belong to groups in another order than they come in."""
    group_of = torch.arange(weight.shape[1]) // 64
    if reorder:
        group_of = group_of[torch.randperm(len(group_of))]
    sorted_inputs = group_of.argsort(stable=True)
    ordered, scales, zeros = int4(weight[:, sorted_inputs], 64)
    values = torch.empty_like(ordered)
    values[sorted_inputs] = ordered
    stored = {
        "qweight": pack(values.T.contiguous(), tuple(range(8))).T.contiguous(),
        "qzeros": pack((zeros - offset) & 15, tuple(range(8))),
        "scales": scales.half(),
        "g_idx": group_of.int(),
    }
    return stored, ((values - zeros[group_of]) * scales[group_of]).T.contiguous()


def compressed(**weights: Any) -> dict[str, Any]:
    group = {"weights": {"type": "float", "num_bits": 8, **weights}, "targets": ["Linear"]}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


FORMATS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Quantised]]] = {
    "fp8-channel": (compressed(strategy="channel"), fp8_by_channel),
    "fp8-tensor": ({"quant_method": "fp8", "activation_scheme": "static"}, fp8_by_tensor),
    "fp8-block": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, fp8_by_block),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}, awq),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 64}, gptq),
    "gptq-v2-order": (
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 64,
            "desc_act": True,
            "checkpoint_format": "gptq_v2",
        },
        lambda weight: gptq(weight, offset=0, reorder=True),
    ),
}
CASES = [(form, "Llama") for form in FORMATS] + [
    ("fp8-block", "DeepseekV3"),
    ("fp8-channel", "Qwen3Moe"),
    ("awq", "Qwen2"),
]


class Made:
    """A model, the weights that its quantised checkpoint stands for, and that checkpoint."""

    def __init__(self, form: str, kind: str, directory: Path) -> None:
        torch.manual_seed(3)
        extra = {"Qwen3Moe": EXPERTS, "DeepseekV3": LATENT}.get(kind, {})
        config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **extra})
        self.reference = transformers.AutoModelForCausalLM.from_config(config).eval()
        self.plain, self.quantised = directory / "plain", directory / "quantised"
        self.exact_path = directory / "exact"
        self.reference.save_pretrained(self.plain)
        tensors = load_file(self.plain / "model.safetensors")
        settings, quantise = FORMATS[form]
        exact, stored = dict(tensors), dict(tensors)
        for name, tensor in tensors.items():
            module, _, kind_of = name.rpartition(".")
            is_linear = tensor.dim() == 2 and "embed" not in name and "lm_head" not in name
            if is_linear and kind_of == "weight" and not module.endswith("mlp.gate"):
                parts, exact[name] = quantise(tensor)
                del stored[name]
                stored |= {f"{module}.{part}": value for part, value in parts.items()}
        for path, kept in ((self.quantised, stored), (self.exact_path, exact)):
            path.mkdir()
            save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
            fields = json.loads((self.plain / "config.json").read_text())
            if path is self.quantised:
                fields["quantization_config"] = settings
            (path / "config.json").write_text(json.dumps(fields))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(*request.param, tmp_path_factory.mktemp("made"))


def logits_of(model: Model, tokens: list[int]) -> Tensor:
    rows = torch.arange(len(tokens))
    batch = BatchInput(
        token_ids=torch.tensor(tokens),
        positions=rows,
        slots=rows,
        block_tables=torch.arange(8, dtype=torch.int32).unsqueeze(0),
        query_start=torch.tensor([0, len(tokens)], dtype=torch.int32),
        context_len=torch.tensor([len(tokens)], dtype=torch.int32),
        logit_rows=rows,
    )
    return model.forward(batch, torch.zeros(model.config.kv_shape(8), dtype=model.dtype))


def read(directory: Path, dtype: torch.dtype = torch.float32) -> Model:
    return load(directory, ModelConfig.from_directory(directory), dtype)


PROMPT = torch.randint(3, 320, (90,), generator=torch.Generator().manual_seed(1)).tolist()


def test_answers_are_those_of_transformers_with_the_weights_that_are_meant(made: Made) -> None:
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        made.exact_path, dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        expected = reference(torch.tensor([PROMPT])).logits[0]
    found = logits_of(read(made.quantised), PROMPT)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert found.argmax(-1).tolist() == expected.argmax(-1).tolist()


def test_logits_stay_near_those_of_the_weights_that_were_quantised(made: Made) -> None:
    exact = logits_of(read(made.plain), PROMPT).double()

    def error(found: Tensor) -> float:
        return float(((found.double() - exact) / exact.std()).square().mean().sqrt())

    narrow = error(logits_of(read(made.quantised, torch.bfloat16), PROMPT))
    bf16 = error(logits_of(read(made.plain, torch.bfloat16), PROMPT))
    method = read(made.quantised).config.quantisation
    assert method is not None
    assert bf16 < narrow < (0.2 if method.bits == 8 else 0.5)


@pytest.mark.parametrize("form", ["fp8-channel", "fp8-block"])
def test_a_device_that_multiplies_fp8_keeps_such_weights(
    made_once: dict[str, Made], form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exact = logits_of(read(made_once[form].plain), PROMPT)
    for file in made_once[form].quantised.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    left_alone = torch.randn(128, 192, generator=torch.Generator().manual_seed(4)) * 0.1
    monkeypatch.setattr(engine.weights, "multiplies_fp8", lambda device: True)
    kept = load(tmp_path, ModelConfig.from_directory(tmp_path), torch.bfloat16, kernels="reference")
    error = (logits_of(kept, PROMPT) - exact) / exact.std()
    assert float(error.square().mean().sqrt()) < 0.3
    assert isinstance(kept.layers[0].mlp.down, Fp8Linear)
    scale = next(iter({"weight_scale", "weight_scale_inv"} & kinds_of(tmp_path, DOWN)))
    change(tmp_path, {f"{DOWN}.{scale}": None, f"{DOWN}.weight": left_alone})
    mixed = load(tmp_path, kept.config, torch.bfloat16, kernels="reference")
    assert not isinstance(mixed.layers[0].mlp.down, Fp8Linear)
    assert isinstance(mixed.layers[1].mlp.down, Fp8Linear)
    layers = kept.config.num_parameters - 2 * 320 * 128
    assert kept.config.weights_bytes(torch.bfloat16, bits=8) == layers + 4 * 320 * 128


@pytest.mark.parametrize("made", [("awq", "Qwen2"), ("gptq-v2-order", "Llama")], indirect=True)
def test_a_device_that_reads_int4_keeps_such_weights(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = logits_of(read(made.quantised), PROMPT)
    monkeypatch.setattr(engine.weights, "keeps_int4", lambda device: True)
    kept = read(made.quantised)
    assert isinstance(kept.layers[0].mlp.down, Int4Linear)
    assert torch.allclose(logits_of(kept, PROMPT), plain, rtol=1e-3, atol=1e-3)
    scaled = load(made.quantised, kept.config, torch.float32, fp8_kv=True)
    assert not isinstance(scaled.layers[0].mlp.down, Int4Linear)  # heads are scaled in plain ones
    assert torch.allclose(logits_of(scaled, PROMPT), plain, rtol=1e-3, atol=1e-3)


DOWN = "model.layers.0.mlp.down_proj"


def kinds_of(directory: Path, module: str) -> set[str]:
    names = load_file(directory / "model.safetensors")
    return {name.rpartition(".")[2] for name in names if name.startswith(module)}


@pytest.fixture
def directory(made_once: dict[str, Made], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a quantised Llama that a test may break."""
    for file in made_once[request.param].quantised.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    forms = ("fp8-channel", "fp8-block", "awq", "gptq")
    return {form: Made(form, "Llama", tmp_path_factory.mktemp(form)) for form in forms}


def change(directory: Path, tensors: dict[str, Tensor | None]) -> None:
    path = directory / "model.safetensors"
    held = load_file(path) | tensors
    save_file({name: tensor for name, tensor in held.items() if tensor is not None}, path)


UP, OUT = "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.o_proj"


@pytest.mark.parametrize(
    ("directory", "tensors", "message"),
    [
        ("fp8-block", {f"{UP}.weight_scale_inv": torch.ones(1, 1)}, "not .2, 1. for blocks of"),
        ("fp8-block", {f"{UP}.weight_scale_inv": None}, r"weight' has dtype .*e4m3fn, not a plain"),
        ("fp8-channel", {f"{UP}.weight_scale": torch.ones(5, 1)}, "has 5 scales for 192 outputs"),
        (
            "fp8-channel",
            {f"{UP}.weight": torch.ones(192, 128)},
            "has dtype torch.float32, not torch.float8_e4m3fn",
        ),
        (
            "awq",
            {f"{OUT}.scales": torch.ones(3, 128)},
            r"scales' has shape \(3, 128\), not \(2, 128",
        ),
        (
            "awq",
            {f"{OUT}.qzeros": torch.ones(2, 16)},
            "qzeros' has dtype torch.float32, not torch.int",
        ),
        ("awq", {f"{OUT}.qzeros": None}, "qzeros' is missing"),
        (
            "gptq",
            {f"{OUT}.qweight": torch.ones(8, 128).int()},
            r"has shape \(8, 128\), not \(16, 128",
        ),
        ("gptq", {f"{OUT}.g_idx": torch.full((128,), 2).int()}, r"names groups outside 0\.\.1"),
    ],
    indirect=["directory"],
)
def test_parts_that_do_not_fit_are_named(
    directory: Path, tensors: dict[str, Tensor | None], message: str
) -> None:
    change(directory, tensors)
    with pytest.raises(ModelError, match=message) as raised:
        read(directory)
    assert raised.value.path == directory / "model.safetensors"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes' is not supported .known: fp8, fbgemm"),
        ({"quant_method": "awq", "bits": 3}, r"integers of 3 bits are not supported .known: .4"),
        ({"quant_method": "awq", "bits": 4, "version": "marlin"}, "version 'marlin' is not"),
        ({"quant_method": "gptq", "bits": 2}, "integers of 2 bits are not supported"),
        ({"quant_method": "gptq"}, "'w_bit' is missing"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "format 'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "must be a positive integer"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "must be two positive integers"),
        (compressed() | {"config_groups": {}}, "0 config_groups are not supported"),
        (compressed(type="int"), "compressed-tensors weights of 8-bit ints"),
        ({"bits": 4}, "'quant_method' is missing"),
    ],
)
def test_a_quantisation_that_is_not_read_is_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    transformers.LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": settings}))
    with pytest.raises(ModelError, match=message):
        ModelConfig.from_directory(tmp_path)


def test_one_group_may_be_all_inputs() -> None:
    settings = {"quant_method": "gptq", "bits": 8, "group_size": -1}
    found = read_quantisation(JsonFields(Path("config.json"), {"quantization_config": settings}))
    assert found == QuantConfig(Packing.GPTQ, bits=8, group_size=0, zero_offset=1)
    values = torch.randint(0, 256, (64, 16), generator=torch.Generator().manual_seed(2))
    words = sum(values[byte::4] << (8 * byte) for byte in range(4))
    stored = Memory(
        {
            "up.qweight": torch.where(words >= 1 << 31, words - (1 << 32), words).int(),
            "up.qzeros": torch.full((1, 4), 0x7F7F7F7F, dtype=torch.int32),
            "up.scales": torch.full((1, 16), 0.5),
        }
    )
    weight = DequantisedTensors(found, stored, torch.float32).tensor("up.weight", (16, 64))
    assert torch.equal(weight, (values - 128).T * 0.5)


@pytest.mark.parametrize(
    ("scales", "step"),
    [
        ({"weight_scale": torch.tensor([0.3])}, 0.3),
        ({"weight_scale": torch.full((16, 1), 0.3)}, 0.0),
        ({"weight_scale_inv": torch.tensor([[0.5, 2.0], [1.0, 0.25]])}, 1.0),
        ({"weight_scale_inv": torch.tensor([[0.5, 2.0], [1.0, 0.3]])}, 0.0),
        ({}, None),
    ],
)
def test_what_scales_are_powers_of_two_of_is_told(
    scales: dict[str, Tensor], step: float | None
) -> None:
    stored = Memory({f"up.{kind}": tensor for kind, tensor in scales.items()})
    config = QuantConfig(Packing.FP8, block=(8, 8))
    found = DequantisedTensors(config, stored, torch.float32).fp8_step("up")
    assert found == (step if step is None else pytest.approx(step))
    integers = DequantisedTensors(QuantConfig(Packing.AWQ), stored, torch.float32)
    assert integers.fp8_step("up") is None


class Memory:
    """Tensors under their names."""

    index = Path("memory")

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def stored(self, name: str) -> Tensor:
        return self._tensors[name]

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._tensors[name].view(shape)
