"""UcxPort by ucxx's own objects, without its asyncio layer: that one starts two threads, holds one
context for the whole process, and burns a core while a receive is pending."""

from dataclasses import dataclass
from typing import Any

import ucxx
from ucxx._lib.arr import Array

from kv_transfer.channel import wait_readable
from kv_transfer.errors import FailReason, TransferError

_END_LOOKS = 100  # at messages under way when their port is closed
_END_LOOK_S = 0.001

_api = ucxx.libucxx


@dataclass(frozen=True, slots=True)
class UcxxRequest:
    request: Any

    def is_done(self) -> bool:
        if not self.request.completed:
            return False
        try:
            self.request.check_error()
        except _api.UCXError as error:
            raise _failure("a message failed", error) from error
        return True


class UcxxPort:
    """Used by one thread."""

    def __init__(self, options: dict[str, str], peer: bytes) -> None:
        """Raises TransferError (TRANSPORT)."""
        self._endpoint: Any = None
        self._begun: list[Any] = []  # requests that may be under way
        try:
            context = _api.UCXContext(options, (_api.Feature.TAG, _api.Feature.WAKEUP))
            self._worker = _api.UCXWorker(context)
            self._worker.init_blocking_progress_mode()
            self.fd: int = self._worker.epoll_file_descriptor
            self.address = bytes(self._worker.address.tobytes())
            if peer:
                address = _api.UCXAddress.create_from_buffer(peer)
                self._endpoint = _api.UCXEndpoint.create_from_worker_address(
                    self._worker, address, True
                )
        except _api.UCXError as error:
            raise _failure("cannot open a UCX port", error) from error

    def send(self, buffer: memoryview, tag: int) -> UcxxRequest:
        try:
            self._endpoint.raise_on_error()
            return self._keep(self._endpoint.tag_send(Array(buffer), _api.UCXXTag(tag)))
        except _api.UCXError as error:
            raise _failure("cannot send", error) from error

    def receive(self, buffer: memoryview, tag: int) -> UcxxRequest:
        try:
            return self._keep(self._worker.tag_recv(Array(buffer), _api.UCXXTag(tag)))
        except _api.UCXError as error:
            raise _failure("cannot receive", error) from error

    def progress(self) -> None:
        self._worker.progress()

    def rest(self) -> bool:
        return bool(self._worker.arm())

    def close(self) -> None:
        """What is under way is given a moment to end: a worker whose requests have not ended is
        never freed. Those of a peer that hangs do not end."""
        if self._worker is None:
            return
        self._worker.cancel_inflight_requests()
        for _ in range(_END_LOOKS):
            if all(request.completed for request in self._begun):
                break
            self._worker.progress()
            if self._worker.arm():
                wait_readable([self.fd], _END_LOOK_S)
        if self._endpoint is not None:
            self._endpoint.close_blocking()
        self._begun.clear()
        self._endpoint, self._worker = None, None

    def _keep(self, request: Any) -> UcxxRequest:
        self._begun = [*(begun for begun in self._begun if not begun.completed), request]
        return UcxxRequest(request)


def _failure(what: str, error: Exception) -> TransferError:
    return TransferError(FailReason.TRANSPORT, f"{what}: {error}"[:500])
