"""What two pools must know of each other's KV cache: layout, address, one request's handle."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The shape of a KV cache `[num_layers, num_blocks, 2, num_kv_heads, block_size, head_dim]`.

    One (layer, block) region is contiguous: K of all heads, then V of all heads.
    """

    num_layers: int
    num_blocks: int
    num_kv_heads: int
    block_size: int
    head_dim: int
    dtype: str  # "float32" or "bfloat16"

    @property
    def itemsize_bytes(self) -> int:
        return {"float32": 4, "bfloat16": 2, "float16": 2}[self.dtype]

    @property
    def region_bytes(self) -> int:
        """Bytes of one (layer, block)."""
        return 2 * self.num_kv_heads * self.block_size * self.head_dim * self.itemsize_bytes

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
        return (
            f"L{self.num_layers}H{self.num_kv_heads}B{self.block_size}D{self.head_dim}:{self.dtype}"
        )


@dataclass(frozen=True, slots=True)
class FabricAddress:
    """Where a worker's KV pool can be reached.

    host_id: equal ids can share memory. shm_path: the Unix socket that hands the pool's memory
    out, empty where there is none. transports: names, best first.
    """

    host: str
    port: int
    host_id: str = ""
    shm_path: str = ""
    transports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KVHandle:
    """The right to pull one request's KV blocks from one worker until released or expired."""

    handle_id: bytes  # 16 random bytes
    worker_id: str
    epoch: int
    address: FabricAddress
    num_tokens: int
    lease_s: float
