"""What makes two workers' KV caches exchangeable."""

from pathlib import Path

import xxhash

from wire.cluster import Fingerprint
from wire.kv import KVLayout

_SAMPLE_BYTES = 1 << 16


def fingerprint(model: str, directory: Path, layout: KVLayout, variant: str = "") -> Fingerprint:
    """Identifies a model by its files: names, sizes, and both ends of each.

    `variant` names what else decides its keys.
    """
    return Fingerprint(
        model=model,
        revision=_revision(directory) + (f"-{variant}" if variant else ""),
        dtype=layout.dtype,
        block_size=layout.block_size,
        kv_layout=layout.signature,
    )


def _revision(directory: Path) -> str:
    digest = xxhash.xxh3_64()
    for path in sorted(directory.glob("*.safetensors")) + [directory / "config.json"]:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
