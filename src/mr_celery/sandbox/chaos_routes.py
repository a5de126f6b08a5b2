"""Routes that show, set and clear the faults at run time. Faults do not apply to them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .chaos import Chaos, rules_from
from .values import parse_object


class ChaosRoutes:
    """One method per route. Each returns the new state."""

    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos

    def routes(self) -> list[Route]:
        return [
            Route("/chaos", self.show),
            Route("/chaos", self.set, methods=["PUT"]),
            Route("/chaos", self.clear, methods=["DELETE"]),
        ]

    async def show(self, request: Request) -> Response:
        return self._state()

    async def set(self, request: Request) -> Response:
        rules, seed = rules_from(parse_object(await request.body()))
        self._chaos.set(rules, seed=seed)
        return self._state()

    async def clear(self, request: Request) -> Response:
        self._chaos.clear()
        return self._state()

    def _state(self) -> Response:
        counts: dict[str, dict[str, int]] = {}
        for (route, fault), number in sorted(self._chaos.counts.items()):
            counts.setdefault(route, {})[fault] = number
        rules: list[dict[str, Any]] = [rule.as_data() for rule in self._chaos.rules]
        return JSONResponse({"seed": self._chaos.seed, "rules": rules, "counts": counts})
