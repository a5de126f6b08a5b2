"""ASGI middleware that injects faults. It must be the outermost layer."""

from __future__ import annotations

import asyncio
import random

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .chaos import Chaos, Rule, route_of
from .chaos_answers import Answer, corrupt, placeholder

_TICK = 0.1
"""Interval in seconds of checks whether to end a delay early."""

_CORRECT_ANSWER = ("wrong_types", "large", "trickle", "latency")
"""Faults that start from the application's response."""


class ChaosLayer:
    """Passes requests to the application, or applies a fault.

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
            await self._inject(rule, dice, scope, receive, send)

    def _choose(self, scope: Scope) -> tuple[Rule, random.Random] | None:
        if scope["type"] != "http":
            return None
        route = route_of(scope["method"], scope["path"], scope["query_string"].decode("latin-1"))
        return self._chaos.choose(route) if route else None

    async def _inject(self, rule: Rule, dice: random.Random, scope: Scope, receive: Receive, send: Send) -> None:
        if rule.after or rule.fault in _CORRECT_ANSWER:
            correct = await _answer_of(self._app, scope, receive)
        else:
            correct = placeholder()
            await _discard_body(receive)
        answer = corrupt(rule, correct, dice)
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
        """Wait. Returns ``False`` if it ended early because the client disconnected or the server stops."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not (self._chaos.stopping or _transport(send).is_closing()):
            left = end - loop.time()
            if left <= 0:
                return True
            await asyncio.sleep(min(left, _TICK))
        return False


async def _answer_of(app: ASGIApp, scope: Scope, receive: Receive) -> Answer:
    """Call the application and collect its response."""
    start: Message = {}
    body = bytearray()

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            body.extend(message.get("body", b""))

    await app(scope, receive, keep)
    return Answer(start["status"], tuple((bytes(name), bytes(value)) for name, value in start["headers"]), bytes(body))


async def _discard_body(receive: Receive) -> None:
    """Read the whole request, so that the client waits for the response instead of blocking while sending."""
    more = True
    while more:
        more = (await receive()).get("more_body", False)


async def _send_start(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})


async def _send_part(part: bytes, send: Send) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _cut(receive: Receive, send: Send) -> None:
    """Close the connection after the data sent so far."""
    _transport(send).close()
    # uvicorn sends a 500 response if an application returns without a response, unless the client has disconnected.
    while (await receive())["type"] != "http.disconnect":
        pass


def _transport(send: Send) -> asyncio.Transport:
    """The connection's transport. ASGI does not provide it, but ``send`` is a method of uvicorn's request cycle.

    Therefore ``send`` must not be wrapped. Raising an exception would make uvicorn send a 500 response.
    """
    transport: asyncio.Transport | None = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise RuntimeError("closing a connection needs uvicorn, and ChaosLayer as the outermost layer")
    return transport
