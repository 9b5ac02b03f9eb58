"""Memory of the host that a GPU copies from and to by itself."""

import torch
from torch import Tensor


def pin(host: Tensor) -> None:
    """Locks a tensor's memory until `unpin`. Raises OSError where the system refuses it."""
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    code = runtime.cudaHostRegister(host.data_ptr(), spanned_bytes(host), 0)
    if int(code) != 0:
        text = f"cannot pin {spanned_bytes(host)} bytes of host memory for KV: CUDA error {code}"
        raise OSError(text)


def unpin(host: Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(host.data_ptr())  # type: ignore[no-untyped-call]


def spanned_bytes(tensor: Tensor) -> int:
    """From its first byte to its last, with what lies between them."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.itemsize
