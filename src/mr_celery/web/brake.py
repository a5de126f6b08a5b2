"""Slows down wrong tokens and wrong login links."""

from __future__ import annotations

import ipaddress
import time
from asyncio import sleep
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import Scope

_BURST = 20
"""Number of wrong attempts from one address that get a response at once."""

_PER_SECOND = 4.0
"""Number of wrong attempts from one address that get a response each second, after the first ones."""

_WAIT_SECONDS = 3.0
"""Maximum duration, in seconds, for which a wrong attempt waits for its turn."""

_WAITING = 100
"""Maximum number of attempts that wait at the same time. Each keeps a connection open."""

_ADDRESSES = 1000


class Brake:
    """Limits the rate of wrong attempts from one address.

    A valid token is never delayed: it is checked first, and only wrong ones are limited. So wrong tokens cannot
    lock out other clients with the same address.

    Args:
        clock: the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._free_at: OrderedDict[str, float] = OrderedDict()
        self._waiting = 0

    async def is_too_fast(self, scope: Scope) -> bool:
        """Record a wrong attempt, and wait until a response may be sent.

        Args:
            scope: the request.

        Returns:
            Whether the address has made so many that the response must be 429.
        """
        address, now = _source(scope), self._clock()
        free_at = self._free_at.pop(address, now)
        wait = free_at - now - (_BURST - 1) / _PER_SECOND
        too_fast = wait > _WAIT_SECONDS
        self._free_at[address] = free_at if too_fast else max(free_at, now) + 1 / _PER_SECOND
        while len(self._free_at) > _ADDRESSES:
            self._free_at.popitem(last=False)
        if wait <= 0:
            return False
        if self._waiting >= _WAITING:
            return True
        self._waiting += 1
        try:
            await sleep(min(wait, _WAIT_SECONDS))
        finally:
            self._waiting -= 1
        return too_fast


def _source(scope: Scope) -> str:
    """The client's address. All addresses in an IPv6 /64 network count as one."""
    host = str((scope.get("client") or ("",))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(address) if address.version == 4 else str(ipaddress.ip_network((int(address), 64), strict=False))
