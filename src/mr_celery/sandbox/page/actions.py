"""Routes for the page's buttons and forms. They return JSON to the page's script, and a redirect to other clients."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ...web import formats
from ...web.formats import count
from ..chaos import Chaos
from ..killswitch import LEVELS, KillswitchError
from ..routing import NoEligibleWorkerError
from ..states import OPEN, check
from ..store import Store
from ..values import MalformedError, NotFoundError, digits, one_of
from ..worker_routes import id_of
from . import bulk, faults, queries
from .draft import MAX_JOBS, Draft
from .filters import Filter
from .login_routes import HOME
from .routes import PageRoutes, wants_json


class ActionRoutes:
    """One method per action.

    Args:
        store: the state.
        chaos: the faults.
        pages: renders a form again with an error message.
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
                ("/ui/jobs/{id}/approve", self.approve_job),
                ("/ui/jobs/{id}/reject", self.reject_job),
                ("/ui/jobs/{id}/dispatch", self.assign),
                ("/ui/selected", self.act_on_selected),
                ("/ui/abort-all", self.abort_all),
                ("/ui/killswitch", self.switch_on),
                ("/ui/killswitch/clear", self.switch_off),
                ("/ui/workers/{id}/pause", self.pause),
                ("/ui/workers/{id}/resume", self.resume),
                ("/ui/reviews/{id}/approve", self.approve),
                ("/ui/reviews/{id}/reject", self.reject),
                ("/ui/reviews/{id}/undo", self.undo),
                ("/ui/faults/preset", self.set_preset),
                ("/ui/faults/rule", self.add_rule),
                ("/ui/faults/clear", self.clear_faults),
            )
        ]

    async def dispatch(self, request: Request) -> Response:
        draft = Draft.of_form(await request.form())
        try:
            ids = self._store.dispatch_all(draft.prompts(), draft.worker.strip() or None, draft.further())
        except (MalformedError, NoEligibleWorkerError, KillswitchError) as error:
            if wants_json(request):
                raise
            return await self._pages.jobs_with(request, draft, error=str(error), status=400)
        if len(ids) == 1:
            return redirect_or_message(request, f"Dispatched job {ids[0]}", HOME, link=_job(ids[0]))
        done, link = f"Dispatched jobs {ids[0]}\N{EN DASH}{ids[-1]}", f"{HOME}?q=%23{ids[0]}-{ids[-1]}"
        return redirect_or_message(request, done, HOME, link=link)

    async def abort(self, request: Request) -> Response:
        job_id = id_of(request)
        check(self._store.job(job_id)["status"], "abort")
        if "confirmed" not in await request.form():
            asked = f"Abort job {job_id}?"
            details = "Its handler is interrupted if possible, and its result is discarded."
            return await self._pages.ask(request, asked, details, f"Abort job {job_id}", danger=True)
        self._store.abort(job_id)
        return redirect_or_message(request, f"Job {job_id} aborted", _job(job_id), link=_job(job_id))

    async def requeue(self, request: Request) -> Response:
        job_id = id_of(request)
        self._store.requeue(job_id)
        return redirect_or_message(request, f"Job {job_id} requeued", link=_job(job_id))

    async def approve_job(self, request: Request) -> Response:
        job_id = id_of(request)
        others = len(self._store.approvals.approve(job_id)) - 1
        also = f", with {count(others)} more of its session" if others else ""
        return redirect_or_message(request, f"Job {job_id} approved{also}", link=_job(job_id))

    async def reject_job(self, request: Request) -> Response:
        job_id = id_of(request)
        self._store.reject(job_id, _reason(await request.form()))
        return redirect_or_message(request, f"Job {job_id} rejected", link=_job(job_id))

    async def assign(self, request: Request) -> Response:
        job = self._store.assign(id_of(request), None)
        return redirect_or_message(request, f"Job {job['id']} dispatched to {job['assigned_to']}", link=_job(job["id"]))

    async def act_on_selected(self, request: Request) -> Response:
        form = await request.form()
        act = one_of(form, "act", tuple(bulk.ACTS))
        ids = self._selected(form)
        if not ids:
            raise MalformedError("no job is selected")
        if len(ids) > MAX_JOBS:
            raise MalformedError(f"more than {MAX_JOBS} jobs match: narrow the filter")
        if "confirmed" not in form:
            asked, details = bulk.question(self._store, act, ids)
            return await self._pages.ask(request, asked, details, asked.rstrip("?"), danger=act == "abort")
        done = await run_in_threadpool(bulk.apply, self._store, act, ids)
        return redirect_or_message(request, done, f"{HOME}?{formats.query(self._filter_in(form).address)}")

    def _selected(self, form: FormData) -> list[int]:
        if "all" in form:
            return queries.selected(self._store, self._filter_in(form), MAX_JOBS + 1)
        ids = (digits(str(each)) for each in form.getlist("job"))
        return list(dict.fromkeys(each for each in ids if each is not None))

    def _filter_in(self, form: FormData) -> Filter:
        texts = {name: value for name, value in form.items() if isinstance(value, str)}
        return self._pages.filter_of(texts)

    async def switch_on(self, request: Request) -> Response:
        form = await request.form()
        level = one_of(form, "level", tuple(LEVELS))
        if "confirmed" not in form:
            details = bulk.jobs_in_words(self._number(LEVELS[level]))
            details = f"No job is dispatched or claimed until it is cleared. Now this aborts {details}."
            return await self._pages.ask(request, "Switch the killswitch on?", details, "Switch on", danger=True)
        aborted = len(self._store.killswitch.switch_on(level))
        return redirect_or_message(request, f"The killswitch is on, {bulk.jobs_in_words(aborted)} aborted", HOME)

    async def switch_off(self, request: Request) -> Response:
        self._store.killswitch.clear()
        return redirect_or_message(request, "The killswitch is cleared")

    async def pause(self, request: Request) -> Response:
        worker = self._store.directory.pause(id_of(request, "worker"), paused=True)
        return redirect_or_message(request, f"{worker['name']} is paused")

    async def resume(self, request: Request) -> Response:
        worker = self._store.directory.pause(id_of(request, "worker"), paused=False)
        return redirect_or_message(request, f"{worker['name']} is resumed")

    async def abort_all(self, request: Request) -> Response:
        if "confirmed" not in await request.form():
            number = bulk.jobs_in_words(self._number(OPEN))
            return await self._pages.ask(
                request, f"Abort {number}?", "All that are not over.", f"Abort {number}", danger=True
            )
        aborted = bulk.jobs_in_words(len(self._store.abort_all()))
        return redirect_or_message(request, f"{aborted} aborted", HOME)

    def _number(self, statuses: Sequence[str]) -> int:
        """The number of jobs in these statuses."""
        tally = queries.tally(self._store)
        return sum(tally.get(status, 0) for status in statuses)

    async def approve(self, request: Request) -> Response:
        title = self._store.decide(_review_id(request), "approved")["title"]
        return redirect_or_message(request, f"Approved: {title}")

    async def reject(self, request: Request) -> Response:
        reason = _reason(await request.form())
        title = self._store.decide(_review_id(request), "rejected", reason)["title"]
        return redirect_or_message(request, f"Rejected: {title}")

    async def undo(self, request: Request) -> Response:
        title = self._store.undo_decision(_review_id(request))["title"]
        return redirect_or_message(request, f"Waits for a decision again: {title}")

    async def set_preset(self, request: Request) -> Response:
        form = await request.form()
        name = str(form.get("preset", ""))
        try:
            rule = faults.from_preset(name, str(form.get("seconds", "")))
        except MalformedError as error:
            return await self._refused(request, error)
        self._chaos.set([rule])
        instead = f", instead of {faults.names(self._chaos.replaced)}" if self._chaos.replaced else ""
        return redirect_or_message(request, f"{faults.PRESETS[name].title} is on{instead}", "/ui/faults")

    async def add_rule(self, request: Request) -> Response:
        try:
            rule = faults.from_form(await request.form())
        except MalformedError as error:
            return await self._refused(request, error)
        self._chaos.set([*self._chaos.rules, rule])
        return redirect_or_message(request, "The rule is added", "/ui/faults")

    async def _refused(self, request: Request, error: MalformedError) -> Response:
        if wants_json(request):
            raise error
        return await self._pages.faults_with(request, error=str(error), status=400)

    async def clear_faults(self, request: Request) -> Response:
        self._chaos.clear()
        return redirect_or_message(request, "All faults are off", "/ui/faults")


def _review_id(request: Request) -> int:
    review_id = digits(request.path_params["id"])
    if review_id is None:
        raise NotFoundError("this review does not exist")
    return review_id


def _reason(form: FormData) -> str:
    """The reason in a form. Files are ignored."""
    given = form.get("reason", "")
    return given if isinstance(given, str) else ""


def _job(job_id: int) -> str:
    return f"/ui/jobs/{job_id}"


def redirect_or_message(request: Request, message: str, back: str | None = None, *, link: str = "") -> Response:
    """Return a message for the script, or a redirect.

    Args:
        request: the request.
        message: what was done.
        back: the path to redirect to; by default that of the page that sent the form.
        link: the path of the object that the message is about.
    """
    if wants_json(request):
        address = request.scope.get("ui", "/ui") + link.removeprefix("/ui") if link else None
        return JSONResponse({"message": message, "link": address})
    referer = urlsplit(request.headers.get("referer", ""))
    path = referer.path if referer.path.startswith("/ui/") else HOME
    query = f"?{referer.query}" if referer.query else ""
    return RedirectResponse(back or path + query, 303)
