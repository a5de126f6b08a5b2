"""A limit to how long a whole answer may take, however slowly it trickles in.

The time-out of a socket begins anew with every byte. Here the stream that answers are read from has a
deadline as well: it holds for the status line, the headers and the body alike.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

TIMEOUTS = 4.0
"""How many time-outs of the socket a whole answer may take."""


class _Deadline(io.RawIOBase):
    """A raw stream that ends with a time-out at a moment, and not only when nothing comes.

    Args:
        raw: the socket's stream.
        at: the moment on the monotonic clock.
    """

    def __init__(self, raw: io.RawIOBase, at: float) -> None:
        self._raw = raw
        self._at = at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._at:
            raise TimeoutError("timed out: the answer came too slowly")
        count = self._raw.readinto(buffer)
        if count is None:  # the kernel has watched over the time-out
            raise TimeoutError("timed out")
        return count

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class Answer(http.client.HTTPResponse):
    """An answer that has to be there within ``TIMEOUTS`` time-outs.

    Args:
        timeout: seconds; ``None``: that of the socket.
    """

    def __init__(self, sock: socket.socket, *args: Any, timeout: float | None = None, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        timeout = timeout or sock.gettimeout()
        if timeout is not None:
            self.fp = io.BufferedReader(_Deadline(self.fp.detach(), time.monotonic() + TIMEOUTS * timeout))
