"""What the page's buttons and forms do. With script each answers in JSON; without, it leads back to where it was."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ..chaos import Chaos
from ..store import NobodyPresentError, NotFoundError, Store
from ..values import MalformedError, digits
from ..worker_routes import job_id_of
from . import faults
from .draft import Draft
from .login_routes import HOME
from .routes import PageRoutes
from .text import count


class ActionRoutes:
    """One method for each action.

    Args:
        store: the state.
        chaos: the faults.
        pages: shows a form again, with what is wrong in it.
    """

    def __init__(self, store: Store, chaos: Chaos, pages: PageRoutes) -> None:
        self._store = store
        self._chaos = chaos
        self._pages = pages

    def routes(self) -> list[Route]:
        return [
            Route(path, act, methods=["POST"])
            for path, act in (
                ("/ui/dispatch", self.dispatch),
                ("/ui/jobs/{id}/abort", self.abort),
                ("/ui/jobs/{id}/requeue", self.requeue),
                ("/ui/abort-all", self.abort_all),
                ("/ui/reviews/{id}/approve", self.approve),
                ("/ui/reviews/{id}/reject", self.reject),
                ("/ui/faults/preset", self.set_preset),
                ("/ui/faults/rule", self.add_rule),
                ("/ui/faults/clear", self.clear_faults),
            )
        ]

    async def dispatch(self, request: Request) -> Response:
        draft = Draft.of_form(await request.form())
        try:
            ids = self._store.dispatch_all(draft.prompts(), draft.worker.strip() or None, draft.further())
        except (MalformedError, NobodyPresentError) as error:
            if wants_json(request):
                raise
            return self._pages.jobs_with(request, draft, error=str(error), status=400)
        done = f"Job {ids[0]} dispatched." if len(ids) == 1 else f"{count(len(ids))} jobs dispatched, from {ids[0]}."
        return answer(request, done, HOME)

    async def abort(self, request: Request) -> Response:
        job_id = job_id_of(request)
        self._store.abort(job_id)
        return answer(request, f"Job {job_id} aborted.")

    async def requeue(self, request: Request) -> Response:
        job_id = job_id_of(request)
        self._store.requeue(job_id)
        return answer(request, f"Job {job_id} requeued.")

    async def abort_all(self, request: Request) -> Response:
        aborted = len(self._store.abort_all())
        return answer(request, f"{count(aborted)} {'job' if aborted == 1 else 'jobs'} aborted.")

    async def approve(self, request: Request) -> Response:
        return self._decide(request, "approved")

    async def reject(self, request: Request) -> Response:
        return self._decide(request, "rejected")

    def _decide(self, request: Request, status: str) -> Response:
        review_id = digits(request.path_params["id"])
        if review_id is None:
            raise NotFoundError("there is no such review")
        title = self._store.decide(review_id, status)["title"]
        return answer(request, f"{status.capitalize()}: {title}")

    async def set_preset(self, request: Request) -> Response:
        form = await request.form()
        name = str(form.get("preset", ""))
        try:
            rule = faults.from_preset(name, str(form.get("seconds", "")))
        except MalformedError as error:
            return self._refused(request, error)
        self._chaos.set([rule])
        return answer(request, f"{faults.PRESETS[name].title} is on.", "/ui/faults")

    async def add_rule(self, request: Request) -> Response:
        try:
            rule = faults.from_form(await request.form())
        except MalformedError as error:
            return self._refused(request, error)
        self._chaos.set([*self._chaos.rules, rule])
        return answer(request, "The rule is added.", "/ui/faults")

    def _refused(self, request: Request, error: MalformedError) -> Response:
        if wants_json(request):
            raise error
        return self._pages.faults_with(request, error=str(error), status=400)

    async def clear_faults(self, request: Request) -> Response:
        self._chaos.clear()
        return answer(request, "All faults are off.", "/ui/faults")


def wants_json(request: Request) -> bool:
    """Whether it is the page's script that asks."""
    return "application/json" in request.headers.get("accept", "")


def answer(request: Request, message: str, back: str | None = None) -> Response:
    """What was done, for the script; or the way back to the page that asked."""
    if wants_json(request):
        return JSONResponse({"message": message})
    came_from = urlsplit(request.headers.get("referer", ""))
    path = came_from.path if came_from.path.startswith("/ui/") else HOME
    query = f"?{came_from.query}" if came_from.query else ""
    return RedirectResponse(back or path + query, 303)
