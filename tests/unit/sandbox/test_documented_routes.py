"""The page about the sandbox's interface lists exactly the routes of the protocol."""

from __future__ import annotations

import re
from pathlib import Path

from starlette.routing import Route

from mr_celery.sandbox.app import create_app
from mr_celery.sandbox.store import Store

PAGE = (Path(__file__).parents[3] / "docs" / "sandbox-interface.md").read_text()


def _shown(path: str) -> str:
    return re.sub(r"{(\w+)}", lambda name: name[1].upper(), path)


def test_each_route_is_documented() -> None:
    store = Store()
    routes = [route for route in create_app(store, "secret").routes if isinstance(route, Route)]
    store.close()
    served = {f"{method} {_shown(route.path)}" for route in routes for method in (route.methods or set()) - {"HEAD"}}
    named = {f"{method} {path}" for method, path in re.findall(r"`(GET|POST|PUT|DELETE) (/[^`? ]*)", PAGE)}
    assert named - {"GET /view/KEY"} == served  # the page of a token belongs to the web page
