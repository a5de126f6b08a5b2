"""Streams changes to open pages as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ...web import HEADERS
from ..changes import Changes

_BATCH_SECONDS = 0.1
"""Changes within this time are sent as one message."""

_KEEPALIVE_SECONDS = 15.0
_MAX_TOPICS = 500


class LiveRoutes:
    """The event stream. It contains only topics. The browser then requests the new content of the page."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    def routes(self) -> list[Route]:
        return [Route("/ui/live", self.stream)]

    async def stream(self, request: Request) -> Response:
        place = request.headers.get("last-event-id") or request.query_params.get("since", "")
        return StreamingResponse(self._messages(place), headers=HEADERS, media_type="text/event-stream")

    async def _messages(self, place: str) -> AsyncIterator[str]:
        """Yield lists of topics, or null if everything may have changed."""
        changes = self._changes
        yield "retry: 1000\n\n"
        with changes.listening() as listener:
            while not changes.closed:
                place, topics = changes.since(place)
                if topics != []:
                    few = topics is not None and len(topics) <= _MAX_TOPICS
                    yield f"id: {place}\ndata: {json.dumps(topics if few else None)}\n\n"
                if await listener.wait(_KEEPALIVE_SECONDS):
                    await asyncio.sleep(_BATCH_SECONDS)
                else:
                    yield ": keep-alive\n\n"
