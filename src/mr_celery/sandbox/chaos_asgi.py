"""The layer around the sandbox's application that spoils answers. It must be the outermost."""

from __future__ import annotations

import asyncio
import random

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .chaos import Chaos, Rule, route_of
from .chaos_answers import Answer, spoilt, without_effect

_TICK = 0.1
"""Seconds between two looks at whether a delay has become pointless."""

_RIGHT_ANSWER = ("wrong_types", "large", "trickle", "latency")
"""The faults that need the application's own answer."""


class ChaosLayer:
    """Lets a request through, or does to it what the rules say.

    Args:
        app: the application.
        chaos: the rules.
    """

    def __init__(self, app: ASGIApp, chaos: Chaos) -> None:
        self._app = app
        self._chaos = chaos

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        chosen = self._choose(scope)
        if chosen is None:
            await self._app(scope, receive, send)
            return
        rule, dice = chosen
        if rule.fault == "latency" and not rule.after:
            await self._pause(rule.delay_seconds, send)
            await self._app(scope, receive, send)
        elif rule.fault == "drop" and not rule.after:
            await _cut(receive, send)
        else:
            await self._spoil(rule, dice, scope, receive, send)

    def _choose(self, scope: Scope) -> tuple[Rule, random.Random] | None:
        if scope["type"] != "http":
            return None
        route = route_of(scope["method"], scope["path"], scope["query_string"].decode("latin-1"))
        return self._chaos.choose(route) if route else None

    async def _spoil(self, rule: Rule, dice: random.Random, scope: Scope, receive: Receive, send: Send) -> None:
        if rule.after or rule.fault in _RIGHT_ANSWER:
            right = await _answer_of(self._app, scope, receive)
        else:
            right = without_effect()
            await _throw_away(receive)
        answer = spoilt(rule, right, dice)
        if rule.fault == "drop":
            await _cut(receive, send)
        elif rule.fault == "hang":
            await self._pause(rule.delay_seconds, send)
            await _cut(receive, send)
        elif rule.fault == "trickle":
            await self._trickle(answer, rule.delay_seconds, receive, send)
        elif rule.fault == "truncated":
            await _send_start(answer, send)
            await _send_part(answer.body[: len(answer.body) // 2], send)
            await _cut(receive, send)
        else:
            if rule.fault == "latency":
                await self._pause(rule.delay_seconds, send)
            await _send_start(answer, send)
            await send({"type": "http.response.body", "body": answer.body})

    async def _trickle(self, answer: Answer, seconds: float, receive: Receive, send: Send) -> None:
        await _send_start(answer, send)
        for at in range(len(answer.body)):
            if not await self._pause(seconds, send):
                await _cut(receive, send)
                return
            await _send_part(answer.body[at : at + 1], send)
        await send({"type": "http.response.body"})

    async def _pause(self, seconds: float, send: Send) -> bool:
        """Wait; ``False``: not to the end, since the client has gone or the server stops."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not (self._chaos.stopping or _transport(send).is_closing()):
            left = end - loop.time()
            if left <= 0:
                return True
            await asyncio.sleep(min(left, _TICK))
        return False


async def _answer_of(app: ASGIApp, scope: Scope, receive: Receive) -> Answer:
    """Let the application carry out the request, and keep its answer."""
    start: Message = {}
    body = bytearray()

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            body.extend(message.get("body", b""))

    await app(scope, receive, keep)
    return Answer(start["status"], tuple((bytes(name), bytes(value)) for name, value in start["headers"]), bytes(body))


async def _throw_away(receive: Receive) -> None:
    """Read the request to its end: the client is to wait for the answer, and not to be stuck in its sending."""
    more = True
    while more:
        more = (await receive()).get("more_body", False)


async def _send_start(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})


async def _send_part(part: bytes, send: Send) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _cut(receive: Receive, send: Send) -> None:
    """Close the connection, after what was sent and before anything else is."""
    _transport(send).close()
    # The server answers 500 where an application returns without an answer, unless it knows that the client is gone.
    while (await receive())["type"] != "http.disconnect":
        pass


def _transport(send: Send) -> asyncio.Transport:
    """The connection. ASGI has no way to it: ``send`` is a method of uvicorn's request cycle, which has.

    So nothing may have wrapped ``send``, and an exception would not do: uvicorn makes an answer of it, a 500.
    """
    transport: asyncio.Transport | None = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise RuntimeError("only uvicorn's connections can be cut, and only where no other layer is around this one")
    return transport
