"""A sandbox that fails at random, before or after the effect of a request."""

from __future__ import annotations

import random
from collections import Counter

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mr_celery.sandbox import Sandbox, server

ANSWERS = {
    "500": lambda: PlainTextResponse("boom", 500),
    "503": lambda: PlainTextResponse("busy", 503, headers={"Retry-After": "1"}),
    "404": lambda: PlainTextResponse("no such page", 404),
    "409": lambda: PlainTextResponse("conflict", 409),
    "429": lambda: PlainTextResponse("slow down", 429),
    "html": lambda: Response("<html>please log in</html>", media_type="text/html"),
    "null": lambda: Response("null", media_type="application/json"),
    "list": lambda: Response("[]", media_type="application/json"),
}

ACCEPTED = ("null", "list")
"""What a claim or a close may well answer when it has happened: any 2xx will do."""


class FaultySandbox(Sandbox):
    """Fails a share of the requests.

    Args:
        rate: the share of the requests that fail.
        seed: for the choice.
    """

    def __init__(self, *, rate: float, seed: int) -> None:
        super().__init__()
        self.rate = rate
        self.faults: Counter[str] = Counter()
        self._random = random.Random(seed)

    def start(self) -> Sandbox:
        plain = server.create_app
        server.create_app = lambda *args, **options: self._failing(plain(*args, **options))  # type: ignore[assignment]
        try:
            return super().start()
        finally:
            server.create_app = plain

    def _failing(self, app: ASGIApp) -> ASGIApp:
        async def failing(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or self._random.random() >= self.rate:
                await app(scope, receive, send)
                return
            kinds = [*ANSWERS, "dropped before", "dropped after", "500 after"]
            if scope["path"].endswith(("/claim", "/close")):
                kinds = [kind for kind in kinds if kind not in ACCEPTED]
            kind = self._random.choice(kinds)
            self.faults[kind] += 1
            if kind == "dropped before":
                raise ConnectionAbortedError(kind) from None
            if kind in ("dropped after", "500 after"):

                async def swallow(message: Message) -> None:
                    """The effect happens, the answer is lost."""

                await app(scope, receive, swallow)
                if kind == "dropped after":
                    raise ConnectionAbortedError(kind) from None
                await PlainTextResponse("boom", 500)(scope, receive, send)
                return
            await ANSWERS[kind]()(scope, receive, send)

        return failing
