"""The experts of a mixture-of-experts model, read from config.json."""

from dataclasses import dataclass

from engine.errors import ModelError
from engine.json_fields import JsonFields


@dataclass(frozen=True, slots=True)
class GroupRouting:
    """DeepSeek's choice among experts: groups first, then experts of the best groups."""

    num_groups: int
    groups_kept: int
    has_bias: bool  # scores are sigmoids, and a bias is added where experts are compared
    scale: float


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """Which layers have experts, how tokens choose among them, and what their tensors are called.

    A token goes to the `experts_per_token` experts of the largest softmax probability, or to
    those that `groups` decides on; with `normalise` their weights are divided by their sum.
    `shared_size` is the width of what every token takes beside them; 0 for none.
    """

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    normalise: bool
    sparse_layers: frozenset[int]
    block: str  # the layer's module that holds the router `gate` and the `experts`
    parts: tuple[str, str, str]  # an expert's gate, up and down projection
    groups: GroupRouting | None = None
    shared_size: int = 0


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


def deepseek_v2_experts(config: JsonFields, num_layers: int) -> MoeConfig:
    """DeepSeek-V2: softmax scores; the best of all experts, or of the best groups."""
    method = config.text("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise ModelError(config.path, f"topk_method {method!r} is not supported")
    if config.flag("norm_topk_prob", False):
        raise ModelError(config.path, "norm_topk_prob is not supported for DeepSeek-V2")
    by_group = method == "group_limited_greedy"
    groups = GroupRouting(
        num_groups=config.integer("n_group") if by_group else 1,
        groups_kept=config.integer("topk_group") if by_group else 1,
        has_bias=False,
        scale=config.number("routed_scaling_factor", 1.0),
    )
    return _deepseek(config, num_layers, groups, normalise=False)


def deepseek_v3_experts(config: JsonFields, num_layers: int) -> MoeConfig:
    """DeepSeek-V3: sigmoid scores, compared with a bias; the best of the best groups."""
    method = config.text("topk_method", "noaux_tc")
    scoring = config.text("scoring_func", "sigmoid")
    if (method, scoring) != ("noaux_tc", "sigmoid"):
        raise ModelError(
            config.path, f"topk_method {method!r} with scoring_func {scoring!r} is not supported"
        )
    groups = GroupRouting(
        num_groups=config.integer("n_group", 8),
        groups_kept=config.integer("topk_group", 4),
        has_bias=True,
        scale=config.number("routed_scaling_factor", 2.5),
    )
    return _deepseek(config, num_layers, groups, config.flag("norm_topk_prob", True))


def _deepseek(
    config: JsonFields, num_layers: int, groups: GroupRouting, normalise: bool
) -> MoeConfig:
    if config.integer("moe_layer_freq", 1) != 1:
        raise ModelError(config.path, "moe_layer_freq other than 1 is not supported")
    inner = config.integer("moe_intermediate_size")
    moe = MoeConfig(
        num_experts=config.integer("n_routed_experts"),
        experts_per_token=config.integer("num_experts_per_tok"),
        intermediate_size=inner,
        normalise=normalise,
        sparse_layers=frozenset(range(config.count("first_k_dense_replace", 0), num_layers)),
        block="mlp",
        parts=("gate_proj", "up_proj", "down_proj"),
        groups=groups,
        shared_size=inner * config.integer("n_shared_experts"),
    )
    _check_groups(config, moe, groups)
    return _checked(config, moe)


def _check_groups(config: JsonFields, moe: MoeConfig, groups: GroupRouting) -> None:
    size, rest = divmod(moe.num_experts, groups.num_groups)
    if rest or groups.groups_kept > groups.num_groups:
        raise ModelError(
            config.path,
            f"{moe.num_experts} experts cannot form {groups.num_groups} groups of which "
            f"{groups.groups_kept} are kept",
        )
    least = 2 if groups.has_bias and groups.groups_kept < groups.num_groups else 1
    if size < least or moe.experts_per_token > groups.groups_kept * size:
        raise ModelError(
            config.path,
            f"{groups.groups_kept} groups of {size} experts are too small for "
            f"num_experts_per_tok {moe.experts_per_token}",
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
