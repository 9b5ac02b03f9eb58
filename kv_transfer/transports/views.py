"""Many places in memory by few system calls."""

import socket
from collections import deque
from itertools import islice

from kv_transfer.channel import wait_writable
from kv_transfer.errors import connection_lost
from kv_transfer.tls import TlsSocket

MAX_VIEWS = 1024  # of one system call, as the kernel allows


def send_views(sock: socket.socket | TlsSocket, views: deque[memoryview], stall_s: float) -> None:
    """Sends all of `views`: the kernel waits for room, for as long as the channel's calls may
    wait, and wakes nobody meanwhile. Raises TransferError (PEER_HUNG, PEER_LOST)."""
    while views:
        head = list(islice(views, MAX_VIEWS))
        try:
            num_sent = sock.sendmsg(head, (), 0)
        except BlockingIOError:
            wait_writable(sock, stall_s)
            continue
        except OSError as error:
            raise connection_lost(error) from error
        consume(views, num_sent)


def consume(views: deque[memoryview], num_bytes: int) -> None:
    """Takes `num_bytes` off the front."""
    while num_bytes:
        first = views.popleft()
        if first.nbytes > num_bytes:
            views.appendleft(first[num_bytes:])
            return
        num_bytes -= first.nbytes


def first_views(views: deque[memoryview], most_bytes: int) -> tuple[list[memoryview], int]:
    """Of `views`, what one system call may fill, and how many bytes those are."""
    head, left_bytes = [], most_bytes
    for view in islice(views, MAX_VIEWS):
        head.append(view if view.nbytes <= left_bytes else view[:left_bytes])
        left_bytes -= head[-1].nbytes
        if not left_bytes:
            break
    return head, most_bytes - left_bytes
