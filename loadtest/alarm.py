"""An alarm of microseconds in an event loop whose own timers are of milliseconds.

On Linux a timerfd, so that nothing spins between two requests; elsewhere the loop's timer.
"""

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_SOON_S = 1e-6  # zero would disarm a timerfd


class _TimerSpec(ctypes.Structure):
    """struct itimerspec: the interval and the first time, in seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Alarm:
    """Calls back once after set(); a second set() moves it. close() gives its file back.

    Made and used inside a running loop.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._spec = _TimerSpec()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        self._handle: asyncio.TimerHandle | None = None
        with contextlib.suppress(AttributeError):  # another system than Linux
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._ring)

    def set(self, wait_s: float) -> None:
        """wait_s: from now; at zero or less the loop's other work still goes first."""
        wait_s = max(wait_s, _SOON_S)
        if self._fd < 0:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_later(wait_s, self._callback)
            return
        seconds = int(wait_s)
        self._spec.value_s, self._spec.value_ns = seconds, int((wait_s - seconds) * 1e9)
        self._libc.timerfd_settime(self._fd, 0, ctypes.byref(self._spec), None)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was moved meanwhile
            return
        self._callback()
