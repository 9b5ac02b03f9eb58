"""What two pools must know of each other's KV cache: layout, address, one request's handle."""

import re
from dataclasses import dataclass

_MAX_SIGNATURE = 100
_ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3": 1}
_SIGNATURE = re.compile(
    r"L(\d+)H(\d+)B(\d+)D(\d+):(float32|bfloat16|float16|float8_e4m3)(:latent)?(?::(\d+)/(\d+))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The shape of a KV cache `[num_layers, num_blocks, 2, num_kv_heads, block_size, head_dim]`.

    One (layer, block) region is contiguous: K of all heads, then V of all heads. A latent cache
    (MLA) has no K and V: one vector of head_dim a token, one head, and 1 in the place of the 2.
    A worker that holds a share of a model's heads says which: first_kv_head of total_kv_heads.
    """

    num_layers: int
    num_blocks: int
    num_kv_heads: int
    block_size: int
    head_dim: int
    dtype: str  # "float32", "bfloat16" or "float8_e4m3"
    is_latent: bool = False
    first_kv_head: int = 0
    total_kv_heads: int = 0  # 0: all are here

    @property
    def num_parts(self) -> int:
        """K and V, or the latent vector alone."""
        return 1 if self.is_latent else 2

    @property
    def kv_heads(self) -> range:
        """The model's KV heads that lie here."""
        return range(self.first_kv_head, self.first_kv_head + self.num_kv_heads)

    @property
    def num_model_heads(self) -> int:
        return self.total_kv_heads or self.num_kv_heads

    @property
    def itemsize_bytes(self) -> int:
        return _ITEMSIZES[self.dtype]

    @property
    def region_bytes(self) -> int:
        """Bytes of one (layer, block)."""
        num_rows = (1 if self.is_latent else 2) * self.num_kv_heads * self.block_size
        return num_rows * self.head_dim * _ITEMSIZES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one token in one head of one part."""
        return self.head_dim * self.itemsize_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        return self.num_layers * self.region_bytes

    @property
    def pool_bytes(self) -> int:
        return self.num_blocks * self.block_bytes

    def offset_bytes(self, layer: int, block: int) -> int:
        """Where the region (layer, block) starts in the pool's flat buffer."""
        return (layer * self.num_blocks + block) * self.region_bytes

    @property
    def signature(self) -> str:
        """Equal where regions can be copied byte for byte; the pools may differ in size."""
        shape = f"L{self.num_layers}H{self.num_kv_heads}B{self.block_size}D{self.head_dim}"
        latent = ":latent" if self.is_latent else ""
        is_share = self.num_model_heads != self.num_kv_heads
        share = f":{self.first_kv_head}/{self.total_kv_heads}" if is_share else ""
        return f"{shape}:{self.dtype}{latent}{share}"

    @classmethod
    def from_signature(cls, signature: str, num_blocks: int) -> "KVLayout":
        """The layout of a pool of `num_blocks`. Raises ValueError for any other text."""
        found = _SIGNATURE.fullmatch(signature)
        if found is None or len(signature) > _MAX_SIGNATURE:
            raise ValueError(f"not a KV layout: {signature[:_MAX_SIGNATURE]!r}")
        layers, heads, block_size, head_dim, dtype, latent, first, total = found.groups()
        layout = cls(
            int(layers),
            num_blocks,
            int(heads),
            int(block_size),
            int(head_dim),
            dtype,
            is_latent=latent is not None,
            first_kv_head=int(first or 0),
            total_kv_heads=int(total or 0),
        )
        if min(int(layers), int(heads), int(block_size), int(head_dim)) < 1 or (
            layout.kv_heads.stop > layout.num_model_heads
        ):
            raise ValueError(f"not a KV layout: {signature!r}")
        return layout


def mapping_refusal(source: KVLayout, reader: KVLayout) -> str:
    """Why no byte of `source` can be read as `reader`'s, in words; empty where it can.

    They have to be the same model's cache in the same numbers. Block sizes, pool sizes and shares
    of the heads may differ.
    """
    differences = (
        ("layers", source.num_layers, reader.num_layers),
        ("KV heads", source.num_model_heads, reader.num_model_heads),
        ("head size", source.head_dim, reader.head_dim),
        ("dtype", source.dtype, reader.dtype),
        ("latent cache", source.is_latent, reader.is_latent),
    )
    return "; ".join(
        f"{what}: {theirs} there, {mine} here"
        for what, theirs, mine in differences
        if theirs != mine
    )


@dataclass(frozen=True, slots=True)
class FabricAddress:
    """Where a worker's KV pool can be reached.

    host_id: equal ids can share memory. shm_path: the Unix socket that hands the pool's memory
    out, empty where there is none. transports: names, best first. tls: TCP connections to it begin
    with TLS.
    """

    host: str
    port: int
    host_id: str = ""
    shm_path: str = ""
    transports: tuple[str, ...] = ()
    tls: bool = False


@dataclass(frozen=True, slots=True)
class KVHandle:
    """The right to pull one request's KV blocks from one worker until released or expired."""

    handle_id: bytes  # 16 random bytes
    worker_id: str
    epoch: int
    address: FabricAddress
    num_tokens: int
    lease_s: float
