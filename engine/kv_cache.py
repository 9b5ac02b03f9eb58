"""The KV cache as a tensor over memory that somebody else owns."""

import torch
from torch import Tensor

from engine.config import ModelConfig
from wire.kv import KVLayout

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3": torch.float8_e4m3fn,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def kv_layout(
    config: ModelConfig, dtype: torch.dtype, num_blocks: int, block_size: int = 16
) -> KVLayout:
    """The layout of a cache of `num_blocks` blocks for that model."""
    return KVLayout(
        num_layers=config.num_layers,
        num_blocks=num_blocks,
        num_kv_heads=config.num_kv_heads,
        block_size=block_size,
        head_dim=config.head_dim,
        dtype=_NAMES[dtype],
        is_latent=config.latent is not None,
    )


def kv_tensor(buffer: memoryview | bytearray | Tensor, layout: KVLayout) -> Tensor:
    """A view of a flat, writable buffer as a KV cache; the buffer stays its owner's.

    Returns [num_layers, num_blocks, parts, num_kv_heads, block_size, head_dim] in the layout's
    dtype.
    Raises ValueError when the buffer is smaller than the layout, naming both sizes.
    """
    flat = buffer if isinstance(buffer, Tensor) else torch.frombuffer(buffer, dtype=torch.uint8)
    flat = flat.view(torch.uint8)
    if flat.numel() < layout.pool_bytes:
        raise ValueError(
            f"the KV buffer has {flat.numel()} bytes, the layout needs {layout.pool_bytes}"
        )
    return flat[: layout.pool_bytes].view(DTYPES[layout.dtype]).view(_shape(layout))


def allocate_kv(layout: KVLayout, device: torch.device | str = "cpu") -> Tensor:
    """A KV cache in memory of its own."""
    return torch.zeros(_shape(layout), dtype=DTYPES[layout.dtype], device=device)


def _shape(layout: KVLayout) -> tuple[int, int, int, int, int, int]:
    return (
        layout.num_layers,
        layout.num_blocks,
        layout.num_parts,
        layout.num_kv_heads,
        layout.block_size,
        layout.head_dim,
    )
