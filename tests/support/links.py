"""A link to a server, on which the connections of other servers can be cut without a reset."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from .ports import free_port

INSIDE = "127.0.0.2"
"""The address from which servers connect to each other. Clients connect from 127.0.0.1."""


class Link:
    """A port that forwards to the port of a server.

    Args:
        target: the server's port on 127.0.0.1.
    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._whole = threading.Event()
        self._whole.set()
        self._server = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Stop forwarding to and from other servers. Their connections stay open."""
        self._whole.clear()

    def mend(self) -> None:
        """Forward everything again, including data sent in the meantime."""
        self._whole.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, (address, _) = self._server.accept()
                threading.Thread(target=self._connect, args=(connection, address == INSIDE), daemon=True).start()

    def _connect(self, near: socket.socket, inside: bool) -> None:
        try:
            if inside:
                self._whole.wait()
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            near.close()
            return
        self._sockets |= {near, far}
        back = threading.Thread(target=self._forward, args=(far, near, inside), daemon=True)
        back.start()
        self._forward(near, far, inside)
        back.join()
        for each in (near, far):
            self._sockets.discard(each)
            each.close()

    def _forward(self, source: socket.socket, sink: socket.socket, inside: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if inside:
                    self._whole.wait()
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Close the port and all connections."""
        self.mend()
        self._server.close()
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
