"""Processes end with their parent, and ports are checked before they are used."""

import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from runtime.lifecycle import check_port_free, free_port

_CHILD = """
import os, signal
from runtime.lifecycle import die_with_parent
die_with_parent({parent})
print(os.getpid(), flush=True)
signal.pause()
"""
_PARENT = """
import subprocess, sys, os
child = {child!r}.replace("{{parent}}", str(os.getpid()))
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
print(process.stdout.readline().decode(), end="", flush=True)
process.wait()
"""


def test_a_child_ends_when_its_parent_is_killed() -> None:
    program = _PARENT.format(child=_CHILD)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    readable, _, _ = select.select([child], [], [], 10)
    os.close(child)
    assert readable, "the child outlived its parent"


def test_a_child_whose_parent_is_already_gone_exits() -> None:
    code = "from runtime.lifecycle import die_with_parent; die_with_parent(1 << 22)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "is gone" in result.stderr


def test_a_busy_port_is_named_with_its_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"gateway port 127.0.0.1:{port} is not free"):
            check_port_free("127.0.0.1", port, "gateway")


def test_a_free_port_can_be_bound() -> None:
    check_port_free("127.0.0.1", free_port(), "any")
