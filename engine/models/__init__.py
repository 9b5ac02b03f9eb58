"""Decoder-only models over a paged KV cache."""

from engine.config import ModelConfig
from engine.kernels import BatchInput
from engine.models.build import build_model
from engine.models.model import Model

__all__ = ["BatchInput", "Model", "ModelConfig", "build_model"]
