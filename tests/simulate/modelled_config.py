"""The smallest model that the real engine takes for a modelled one."""

import torch

from engine.config import ModelConfig
from engine.modelled.model import small_kv
from engine.rope_config import RopeConfig


def model_config():
    return small_kv(
        ModelConfig(
            architecture="modelled",
            num_layers=1,
            hidden_size=1,
            num_heads=1,
            num_kv_heads=1,
            head_dim=2,
            intermediate_size=1,
            vocab_size=1 << 10,
            rope=RopeConfig(theta=1e4),
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            qk_norm=False,
            qkv_bias=False,
            o_bias=False,
            mlp_bias=False,
            layer_windows=(None,),
            max_position_embeddings=1 << 16,
            dtype=torch.bfloat16,
        )
    )
