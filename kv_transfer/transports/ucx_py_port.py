"""UcxPort by ucx-py, the predecessor of ucxx, where an operator has built it.

Its packages no longer install, so this is written from its source (0.45) and could not be tried.
"""

import os
from typing import Any

from ucp._libs import ucx_api
from ucp._libs.arr import Array
from ucp.exceptions import UCXError

from kv_transfer.errors import FailReason, TransferError


class UcxPyRequest:
    """Learns its end from UCX's callback, or at once."""

    def __init__(self) -> None:
        self._is_done = False
        self._error: Exception | None = None

    def is_done(self) -> bool:
        if self._error is not None:
            raise _failure("a message failed", self._error) from self._error
        return self._is_done

    def ended(self, request: object, error: Exception | None) -> None:
        self._is_done, self._error = True, error


class UcxPyPort:
    """Used by one thread."""

    def __init__(self, options: dict[str, str], peer: bytes) -> None:
        """Raises TransferError (TRANSPORT)."""
        self._endpoint: Any = None
        try:
            features = (ucx_api.Feature.TAG, ucx_api.Feature.WAKEUP)
            self._context = ucx_api.UCXContext(options, features)
            self._worker = ucx_api.UCXWorker(self._context)
            self.fd: int = self._worker.init_blocking_progress_mode()
            self.address = bytes(self._worker.get_address())
            if peer:
                address = ucx_api.UCXAddress.from_buffer(peer)
                self._endpoint = ucx_api.UCXEndpoint.create_from_worker_address(
                    self._worker, address, True
                )
        except UCXError as error:
            raise _failure("cannot open a UCX port", error) from error

    def send(self, buffer: memoryview, tag: int) -> UcxPyRequest:
        return self._begin(ucx_api.tag_send_nb, self._endpoint, buffer, tag)

    def receive(self, buffer: memoryview, tag: int) -> UcxPyRequest:
        return self._begin(ucx_api.tag_recv_nb, self._worker, buffer, tag)

    def progress(self) -> None:
        self._worker.progress()

    def rest(self) -> bool:
        return bool(self._worker.arm())

    def close(self) -> None:
        if self._endpoint is not None:
            self._endpoint.abort()
            self._endpoint = None
        if self._worker is not None:
            self._worker.close()
            self._context.close()
            os.close(self.fd)
            self._worker = None

    def _begin(self, call: Any, side: Any, buffer: memoryview, tag: int) -> UcxPyRequest:
        """ucx-py gives None for what ended before the call returned; no callback comes then."""
        request = UcxPyRequest()
        try:
            begun = call(side, Array(buffer), buffer.nbytes, tag, cb_func=request.ended)
        except UCXError as error:
            raise _failure("cannot begin a message", error) from error
        if begun is None:
            request.ended(None, None)
        return request


def _failure(what: str, error: Exception) -> TransferError:
    return TransferError(FailReason.TRANSPORT, f"{what}: {error}"[:500])
