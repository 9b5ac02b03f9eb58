"""Speed of the Triton kernels on a CUDA device, each beside a ceiling of the same run."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from baton.bench.gpu_timer import Ceilings, cuda_device, median_ms, random_bf16
from baton.bench.paged_batch import BLOCK, paged_batch
from baton.bench.row import Row
from engine.kernels import HeadShape
from engine.kernels.triton_kernels import TritonKernels
from engine.kernels.triton_kernels.gather import gather_blocks, scatter_blocks
from engine.kernels.triton_kernels.latent_decode import latent_decode
from engine.kernels.triton_kernels.tile import num_processors

HEADS, KV_HEADS, DIM = 32, 8, 128  # Llama-3.1-8B
HIDDEN, INNER = 4096, 14336
LATENT_HEADS, RANK, ROPE_DIM = 128, 512, 64  # DeepSeek-V3
TOKENS = 8192
COPY = "copy bandwidth"
SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True, slots=True)
class Bench:
    """One device with its ceilings; each method gives rows."""

    device: torch.device
    repeats: int
    ceilings: Ceilings
    kernels: TritonKernels

    def bandwidth(self, name: str, num_bytes: float, calls: Sequence[Callable[[], object]]) -> Row:
        """A row of GB/s, counting the bytes that the operator must read and write."""
        gbps = num_bytes / median_ms(calls, self.repeats) / 1e6
        ceiling = self.ceilings.copy_bytes_per_s / 1e9
        return Row(f"kernels.{name}", gbps, "GB/s", COPY, ceiling, gbps / ceiling)

    def norm(self) -> Row:
        weight = random_bf16(self.device, HIDDEN)
        pairs = [
            (random_bf16(self.device, TOKENS, HIDDEN), random_bf16(self.device, TOKENS, HIDDEN))
            for _ in range(3)
        ]
        calls = [lambda p=p: self.kernels.rms_norm(p[0], p[1], weight, 1e-5) for p in pairs]
        return self.bandwidth("rms_norm_residual.8192", 8 * TOKENS * HIDDEN, calls)

    def silu(self) -> Row:
        inputs = [random_bf16(self.device, TOKENS, 2 * INNER) for _ in range(2)]
        calls = [lambda x=x: self.kernels.silu_mul(x) for x in inputs]
        return self.bandwidth("silu_mul.8192", 6 * TOKENS * INNER, calls)

    def store_kv(self) -> Row:
        norm = random_bf16(self.device, DIM)
        heads = HeadShape(HEADS, KV_HEADS, DIM, 1e-5, norm, norm)
        rope = torch.randn((TOKENS, DIM), device=self.device)
        batch = paged_batch([(TOKENS, TOKENS)], self.device)
        width = (HEADS + 2 * KV_HEADS) * DIM
        calls = []
        for _ in range(3):
            qkv, layer_kv = random_bf16(self.device, TOKENS, width), self.cache(TOKENS)
            calls.append(lambda q=qkv, c=layer_kv: self.kernels.store_kv(q, heads, rope, batch, c))
        num_bytes = TOKENS * (4 * width + 4 * DIM)
        return self.bandwidth("qk_norm_rope_store.8192", num_bytes, calls)

    def decode(self, num_sequences: int, context: int) -> Row:
        batch = paged_batch([(1, context)] * num_sequences, self.device)
        q = random_bf16(self.device, num_sequences, HEADS, DIM)
        caches = [self.cache(num_sequences * context) for _ in range(2)]
        calls = [lambda c=c: self.kernels.attention(q, batch, c, None) for c in caches]
        num_bytes = num_sequences * context * 4 * KV_HEADS * DIM
        return self.bandwidth(f"decode_attention.{num_sequences}x{context}", num_bytes, calls)

    def latent_decode(self, num_sequences: int, context: int) -> Row:
        """DeepSeek-V3's heads over latents."""
        batch = paged_batch([(1, context)] * num_sequences, self.device)
        q = random_bf16(self.device, num_sequences, LATENT_HEADS, RANK + ROPE_DIM)
        shape = num_sequences * context // BLOCK, 1, 1, BLOCK, RANK + ROPE_DIM
        caches = [random_bf16(self.device, *shape) for _ in range(2)]
        processors = num_processors(self.device)
        calls = [lambda c=c: latent_decode(q, RANK, 0.1, batch, c, processors) for c in caches]
        num_bytes = num_sequences * context * 2 * (RANK + ROPE_DIM)
        return self.bandwidth(f"latent_decode.{num_sequences}x{context}", num_bytes, calls)

    def prefill(self, chunk: int, context: int) -> Row:
        """TFLOP/s against torch's fastest SDPA on contiguous tensors of the same lengths."""
        batch = paged_batch([(chunk, context)], self.device)
        q, layer_kv = random_bf16(self.device, chunk, HEADS, DIM), self.cache(context)
        pairs = chunk * (context - chunk) + chunk * (chunk + 1) / 2
        flops = 4 * HEADS * DIM * pairs
        ms = median_ms([lambda: self.kernels.attention(q, batch, layer_kv, None)], self.repeats)
        best, best_ms = self.fastest_sdpa(chunk, context)
        name = f"kernels.prefill_attention.{chunk}_of_{context}"
        rate, best_rate = flops / ms / 1e9, flops / best_ms / 1e9
        return Row(name, rate, "TFLOP/s", f"torch SDPA ({best})", best_rate, rate / best_rate)

    def fastest_sdpa(self, chunk: int, context: int) -> tuple[str, float]:
        """The backend and its milliseconds. A chunk after a prefix is causal from its end."""
        q = random_bf16(self.device, 1, HEADS, chunk, DIM)
        k, v = (random_bf16(self.device, 1, KV_HEADS, context, DIM) for _ in range(2))
        group = HEADS // KV_HEADS
        wide = [x.repeat_interleave(group, dim=1) for x in (k, v)]
        prefixed = causal_lower_right(chunk, context)
        causal: dict[str, Any] = (
            {"is_causal": True} if chunk == context else {"attn_mask": prefixed}
        )
        times: dict[str, float] = {}
        for name, backend in SDPA.items():
            for label, keys, grouped in (("", (k, v), True), (" expanded", wide, False)):
                run = sdpa(q, keys[0], keys[1], grouped, causal)
                with sdpa_kernel(backend), warnings.catch_warnings(action="ignore"):
                    try:
                        times[name + label] = median_ms([run], self.repeats)
                    except RuntimeError:  # the backend does not take these shapes
                        continue
        best = min(times, key=lambda name: times[name])
        return best, times[best]

    def blocks(self) -> list[Row]:
        num_layers, num_blocks = 32, 512
        kv = random_bf16(self.device, num_layers, num_blocks, 2, KV_HEADS, BLOCK, DIM)
        ids = torch.randperm(num_blocks, device=self.device)[: num_blocks // 2]
        packed = gather_blocks(kv, ids)
        num_bytes = 2 * packed.numel() * packed.itemsize
        out, back = lambda: gather_blocks(kv, ids), lambda: scatter_blocks(packed, ids, kv)
        return [
            self.bandwidth("gather_blocks.256", num_bytes, [out]),
            self.bandwidth("scatter_blocks.256", num_bytes, [back]),
        ]

    def cache(self, num_tokens: int) -> Tensor:
        return random_bf16(self.device, num_tokens // BLOCK, 2, KV_HEADS, BLOCK, DIM)


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, grouped: bool, causal: dict[str, Any]
) -> Callable[[], object]:
    return lambda: functional.scaled_dot_product_attention(
        q,
        k,
        v,
        enable_gqa=grouped,
        **causal,
    )


def run(repeats: int) -> list[Row]:
    """All rows: medians of `repeats` calls, inputs random. Raises RuntimeError without a GPU."""
    device = cuda_device()
    bench = Bench(device, repeats, Ceilings.measure(device, repeats), TritonKernels())
    gemm = bench.ceilings.gemm_flops / 1e12
    copy = bench.ceilings.copy_bytes_per_s / 1e9
    return [
        Row("kernels.ceiling.copy", copy, "GB/s", "itself", copy, 1.0),
        Row("kernels.ceiling.gemm_8192", gemm, "TFLOP/s", "itself", gemm, 1.0),
        bench.norm(),
        bench.store_kv(),
        bench.silu(),
        bench.decode(64, 4096),
        bench.decode(1, 131072),
        bench.latent_decode(64, 4096),
        bench.prefill(8192, 8192),
        bench.prefill(32768, 32768),
        bench.prefill(2048, 32768),
        *bench.blocks(),
    ]
