"""Time-outs of sockets, watched by the kernel.

Python watches over a socket's time-out by asking the kernel, before each send and each receive, whether that would have
to wait: a second system call, in which another thread takes the interpreter's lock.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any


def let_kernel_watch(sock: Any, seconds: float) -> bool:
    """Let the kernel end what waits on a socket, with a :class:`BlockingIOError`, after ``seconds``.

    Args:
        sock: a connected socket.
        seconds: above 0.

    Returns:
        ``False`` where only Python can do it, and nothing was changed: on a socket with TLS, under gevent or eventlet,
        on other systems than Linux.
    """
    if not sys.platform.startswith("linux") or type(sock).__module__ != "socket":
        return False
    whole = int(seconds)
    interval = struct.pack("@ll", whole, max(int((seconds - whole) * 1e6), int(not whole)))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)
    sock.settimeout(None)
    return True
