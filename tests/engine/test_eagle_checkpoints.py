"""Which EAGLE-3 checkpoints are read, in which of their forms, and which are refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from eagle_heads import ReferenceHead, Shape
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.eagle_config import EagleConfig, read_eagle
from engine.errors import ModelError
from engine.kernels import BatchInput
from engine.models.eagle import EagleHead
from engine.speculation.eagle_weights import has_table, load_eagle

Change = Callable[[dict[str, Tensor]], object]


def head_of(directory: Path) -> EagleConfig:
    found = read_eagle(directory)
    assert found is not None
    return found


def changed(directory: Path, change: Change) -> Path:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return directory


def states_of(head: EagleHead, states: Tensor, tokens: list[int]) -> Tensor:
    """g behind each position, computed as one prompt over one block of cache."""
    rows = torch.arange(len(tokens))
    batch = BatchInput(
        token_ids=torch.tensor(tokens),
        positions=rows,
        slots=rows,
        block_tables=torch.tensor([[0]], dtype=torch.int32),
        query_start=torch.tensor([0, len(tokens)], dtype=torch.int32),
        context_len=torch.tensor([len(tokens)], dtype=torch.int32),
        logit_rows=rows[-1:],
    )
    kv = torch.full(head.config.layer.kv_shape(1), float("nan"))
    return head.forward(head.fused(states), batch, torch.tensor([0]), kv)


def specforge(directory: Path) -> Path:
    return directory


def authors(directory: Path) -> Path:
    """A plain Llama by name, with a vocabulary of its own."""
    fields = json.loads((directory / "config.json").read_text())
    fields["architectures"] = ["LlamaForCausalLM"]
    (directory / "config.json").write_text(json.dumps(fields))
    return directory


def speculators(directory: Path) -> Path:
    """The layer's fields in an object of their own; the layer is called layers.0."""
    fields = json.loads((directory / "config.json").read_text())
    outer = {
        "architectures": ["Eagle3Speculator"],
        "draft_vocab_size": fields.pop("draft_vocab_size"),
        "norm_before_residual": fields.pop("norm_before_residual", False),
    }
    outer["transformer_layer_config"] = {**fields, "architectures": ["LlamaModel"]}
    (directory / "config.json").write_text(json.dumps(outer))

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace("midlayer.", "layers.0.")] = tensors.pop(name)

    return changed(directory, rename)


@pytest.mark.parametrize("form", [specforge, authors, speculators])
@pytest.mark.parametrize("normed", [False, True])
def test_each_form_of_a_checkpoint_gives_the_descriptions_logits(
    deep_oracle, tmp_path: Path, form: Callable[[Path], Path], normed: bool
) -> None:
    shape = Shape(config={"norm_before_residual": True} if normed else {})
    reference = ReferenceHead(shape, seed=3)
    directory = form(reference.save(tmp_path / "head"))
    head = load_eagle(directory, head_of(directory), deep_oracle.model, 64)
    tokens = [5, 9, 200, 31, 77]
    states = reference.states(deep_oracle.reference, tokens)
    g = states_of(head, states, [9, 200, 31, 77, 8])
    wanted = reference.layer(
        states @ reference.weights["fc.weight"].T, torch.tensor([9, 200, 31, 77, 8])
    )[-1:]
    assert torch.allclose(g, wanted, atol=1e-4)
    logits = head.logits(g)
    assert logits.shape == (1, 320)
    assert torch.allclose(logits[:, reference.targets], reference.own_logits(wanted), atol=2e-4)


def test_a_head_may_be_narrower_than_its_model_and_know_every_token(
    deep_oracle, tmp_path: Path
) -> None:
    reference = ReferenceHead(Shape(hidden=48, draft_vocab=320))
    directory = reference.save(tmp_path / "head")
    changed(directory, lambda tensors: tensors.pop("d2t"))
    config = head_of(directory)
    assert config.target_hidden_size == 64 and config.layer.hidden_size == 48
    head = load_eagle(directory, config, deep_oracle.model, 64)
    states = reference.states(deep_oracle.reference, [5, 9])
    g = states_of(head, states, [9, 8])
    wanted = reference.layer(states @ reference.weights["fc.weight"].T, torch.tensor([9, 8]))[-1:]
    assert torch.allclose(head.logits(g), reference.own_logits(wanted), atol=2e-4)


def test_a_head_without_a_token_table_takes_the_models(deep_oracle, tmp_path: Path) -> None:
    reference = ReferenceHead(Shape())
    directory = reference.save(tmp_path / "head")
    assert has_table(directory)
    changed(directory, lambda tensors: tensors.pop("embed_tokens.weight"))
    assert not has_table(directory)
    head = load_eagle(directory, head_of(directory), deep_oracle.model, 64)
    assert head.embedding.weight.data_ptr() == deep_oracle.model.embedding.weight.data_ptr()


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        ({}, (2, 4, 5)),  # in front of: the third, the middle, the last but two
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 3, 6]}}, (1, 4, 7)),  # behind
        ({"eagle_aux_hidden_state_layer_ids": [0, 3, 6]}, (0, 3, 6)),
    ],
)
def test_the_layers_that_a_head_reads_are_the_published_ones_or_named(
    deep_oracle, tmp_path: Path, fields: dict[str, object], layers: tuple[int, ...]
) -> None:
    directory = ReferenceHead(Shape()).save(tmp_path / "head", **fields)
    assert head_of(directory).layers_of(deep_oracle.model.config) == layers


def test_a_model_of_another_kind_is_no_head(deep_oracle, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    assert read_eagle(tmp_path) is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_hidden_layers": 2}, "has one layer, not 2"),
        ({"fc_norm": True}, "with fc_norm is not served"),
        ({"norm_before_fc": True}, "with norm_before_fc is not served"),
        ({"eagle_config": {"use_aux_hidden_state": False}}, "with use_aux_hidden_state"),
        ({"eagle_aux_hidden_state_layer_ids": [1, 2]}, "names 2 layers, not 3"),
        ({"draft_vocab_size": 400}, "draft_vocab_size 400 is beyond vocab_size 320"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised EAGLE-3 heads"),
    ],
)
def test_a_variant_that_its_config_names_is_refused(
    tmp_path: Path, fields: dict[str, object], named: str
) -> None:
    directory = ReferenceHead(Shape()).save(tmp_path / "head", **fields)
    with pytest.raises(ModelError, match=named):
        read_eagle(directory)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"target_hidden_size": 96}, "hidden_size 96; this one has 64"),
        ({"vocab_size": 400}, "vocab_size 400; this one has 320"),
        ({"eagle_aux_hidden_state_layer_ids": [2, 4, 8]}, r"layers \(2, 4, 8\); the model has 8"),
    ],
)
def test_a_head_of_another_model_is_refused(
    deep_oracle, tmp_path: Path, fields: dict[str, object], named: str
) -> None:
    directory = ReferenceHead(Shape()).save(tmp_path / "head", **fields)
    with pytest.raises(ModelError, match=named):
        head_of(directory).check_fits(deep_oracle.model.config, directory)


def test_a_head_needs_a_model_whose_states_are_there(deep_oracle, tmp_path: Path) -> None:
    directory = ReferenceHead(Shape()).save(tmp_path / "head")
    foreign = replace(deep_oracle.model.config, architecture="GPT2LMHeadModel", is_foreign=True)
    with pytest.raises(ModelError, match="GPT2LMHeadModel, whose layers are transformers'"):
        head_of(directory).check_fits(foreign, directory)


def narrowed(name: str) -> Change:
    return lambda tensors: tensors.update({name: tensors[name][..., :-1].contiguous()})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors: tensors.pop("fc.weight"), "'fc.weight' is missing"),
        (lambda tensors: tensors.pop("midlayer.hidden_norm.weight"), "hidden_norm.weight' is miss"),
        (narrowed("fc.weight"), r"'fc.weight' has shape \(64, 191\), not \(64, 192\)"),
        (narrowed("midlayer.self_attn.q_proj.weight"), r"has shape \(64, 127\), not \(64, 128\)"),
        (lambda tensors: tensors.pop("d2t"), "'d2t' is missing for 200 of 320"),
        (narrowed("d2t"), r"'d2t' is \(199,\) of torch.int64, not \(200,\)"),
        (lambda tensors: tensors["d2t"].add_(200), "names a token twice, or one beyond"),
        (lambda tensors: tensors["d2t"].sub_(torch.arange(200)), "names a token twice"),
        (
            lambda tensors: tensors.update({"layers.1.mlp.up_proj.weight": torch.ones(1)}),
            "'layers.1.mlp.up_proj.weight' is of a variant of EAGLE-3 that is not served",
        ),
    ],
)
def test_tensors_that_are_missing_or_of_another_shape_are_refused(
    deep_oracle, tmp_path: Path, change: Change, named: str
) -> None:
    directory = changed(ReferenceHead(Shape()).save(tmp_path / "head"), change)
    with pytest.raises(ModelError, match=named):
        load_eagle(directory, head_of(directory), deep_oracle.model, 64)


def test_a_table_that_neither_has_in_the_heads_width_is_missing(
    deep_oracle, tmp_path: Path
) -> None:
    directory = ReferenceHead(Shape(hidden=48)).save(tmp_path / "head")
    changed(directory, lambda tensors: tensors.pop("embed_tokens.weight"))
    with pytest.raises(ModelError, match=r"'embed_tokens.weight' is missing, and the model's has"):
        load_eagle(directory, head_of(directory), deep_oracle.model, 64)
