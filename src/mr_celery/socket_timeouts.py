"""Socket timeouts that the kernel enforces.

Python's own timeouts cost a system call before each send and receive, in which another thread can take the GIL.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any


def let_kernel_watch(sock: Any, seconds: float | None) -> bool:
    """Let the kernel end a send or a receive with a :class:`BlockingIOError` if it takes longer than ``seconds``.

    Args:
        sock: a connected socket.
        seconds: the timeout; ``None`` or 0: the socket has none.

    Returns ``False``, and changes nothing, if there is no timeout, or only Python can enforce it: with TLS, under
    gevent or eventlet, and on other systems than Linux.
    """
    if not seconds or sys.platform != "linux" or type(sock).__module__ != "socket":
        return False
    whole = int(seconds)
    interval = struct.pack("@ll", whole, max(int((seconds - whole) * 1e6), int(not whole)))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)
    sock.settimeout(None)
    return True
