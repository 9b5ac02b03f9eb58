"""The experts of a mixture-of-experts model, read from config.json."""

from dataclasses import dataclass

from engine.errors import ModelError
from engine.json_fields import JsonFields


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """Which layers have experts, how tokens choose among them, and what their tensors are called.

    A token goes to the `experts_per_token` experts of the largest softmax probability; with
    `normalise` their probabilities are divided by their sum.
    """

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    normalise: bool
    sparse_layers: frozenset[int]
    block: str  # the layer's module that holds the router `gate` and the `experts`
    parts: tuple[str, str, str]  # an expert's gate, up and down projection


def qwen3_experts(config: JsonFields, num_layers: int) -> MoeConfig:
    """Qwen3-MoE. Raises ModelError, as each of these, for fields that name no experts."""
    dense = config.indices("mlp_only_layers")
    step = config.integer("decoder_sparse_step", 1)
    return _checked(
        config,
        MoeConfig(
            num_experts=_num_experts(config),
            experts_per_token=config.integer("num_experts_per_tok"),
            intermediate_size=config.integer("moe_intermediate_size"),
            normalise=config.flag("norm_topk_prob", False),
            sparse_layers=frozenset(
                layer
                for layer in range(num_layers)
                if layer not in dense and (layer + 1) % step == 0
            ),
            block="mlp",
            parts=("gate_proj", "up_proj", "down_proj"),
        ),
    )


def mixtral_experts(config: JsonFields, num_layers: int) -> MoeConfig:
    """Mixtral: every layer has experts, as wide as `intermediate_size` says."""
    return _checked(
        config,
        MoeConfig(
            num_experts=_num_experts(config),
            experts_per_token=config.integer("num_experts_per_tok", 2),
            intermediate_size=config.integer("intermediate_size"),
            normalise=True,
            sparse_layers=frozenset(range(num_layers)),
            block="block_sparse_moe",
            parts=("w1", "w3", "w2"),
        ),
    )


def _num_experts(config: JsonFields) -> int:
    return config.integer("num_experts" if "num_experts" in config else "num_local_experts")


def _checked(config: JsonFields, moe: MoeConfig) -> MoeConfig:
    if moe.experts_per_token > moe.num_experts:
        raise ModelError(
            config.path,
            f"num_experts_per_tok {moe.experts_per_token} is more than {moe.num_experts} experts",
        )
    return moe
