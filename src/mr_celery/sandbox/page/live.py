"""What has changed, as it happens: server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ..changes import Changes
from .rendering import HEADERS

_TOGETHER = 0.1
"""Seconds in which changes become one message."""

_SIGN_OF_LIFE = 15.0
_MOST_TOPICS = 500


class LiveRoutes:
    """The stream. It names what has changed, and nothing of what it is now: the browser asks for what it shows."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    def routes(self) -> list[Route]:
        return [Route("/ui/live", self.stream)]

    async def stream(self, request: Request) -> Response:
        place = request.headers.get("last-event-id") or request.query_params.get("since", "")
        return StreamingResponse(self._messages(place), headers=HEADERS, media_type="text/event-stream")

    async def _messages(self, place: str) -> AsyncIterator[str]:
        """Each is a list of topics, or null: look at everything."""
        changes = self._changes
        yield "retry: 1000\n\n"
        with changes.listening() as listener:
            while not changes.closed:
                place, topics = changes.since(place)
                if topics != []:
                    few = topics is not None and len(topics) <= _MOST_TOPICS
                    yield f"id: {place}\ndata: {json.dumps(topics if few else None)}\n\n"
                if await listener.wait(_SIGN_OF_LIFE):
                    await asyncio.sleep(_TOGETHER)
                else:
                    yield ": nothing new\n\n"
