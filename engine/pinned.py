"""Memory of the host that a GPU copies from and to by itself."""

import torch
from torch import Tensor


def pin(host: Tensor) -> None:
    """Locks a tensor's memory until `unpin`. Raises OSError where the system refuses it."""
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    code = runtime.cudaHostRegister(host.data_ptr(), host.nbytes, 0)
    if int(code) != 0:
        raise OSError(f"cannot pin {host.nbytes} bytes of host memory for KV: CUDA error {code}")


def unpin(host: Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(host.data_ptr())  # type: ignore[no-untyped-call]
