"""The timeline of a job."""

from __future__ import annotations

import io
from contextlib import suppress

from mr_celery.sandbox.options import ServerOptions
from mr_celery.sandbox.page.timeline import Moment, timeline
from mr_celery.sandbox.states import TransitionError
from mr_celery.sandbox.store import Store


def shown(store: Store, job_id: int = 1) -> list[Moment]:
    return timeline(store.events(job_id), store.artifacts(job_id), store.reviews(), word=store.options.word)


def test_everything_that_happened_in_the_order_of_time() -> None:
    now = [100.0]

    def clock() -> float:
        now[0] += 0.25
        return now[0]

    store = Store(clock=clock)
    job_id = store.create("p", None, {})["id"]
    store.report({"instance": "w"})
    store.assign(job_id, None)
    store.claim(job_id, "w")
    with suppress(TransitionError):
        store.claim(job_id, "w")
    fields = {"content_type": "a/b", "filename": "x.bin", "job_id": job_id}
    slug = store.add_artifact(io.BytesIO(b"123"), fields)["slug"]
    review = store.add_review({"type": "t", "title": "T", "content": "", "job_id": job_id})["id"]
    store.requeue(job_id)
    store.claim(job_id, "w")
    store.close_job(job_id, "", "done")
    store.decide(review, "rejected", "no: never")
    store.undo_decision(review)
    store.decide(review, "approved")
    store.requeue(job_id, "retry")
    store.abort(job_id)
    moments = shown(store)
    assert [(each.what, each.note) for each in moments] == [
        ("created", ""),
        ("dispatched", ""),
        ("claimed", ""),
        ("refused", "cannot claim a job that is running"),
        ("uploaded", "x.bin"),
        ("review filed", "T"),
        ("requeued", ""),
        ("claimed", "attempt 2"),
        ("done", ""),
        ("review rejected", "T: no: never"),
        ("review undone", "T"),
        ("review approved", "T"),
        ("requeued", ""),
        ("aborted", ""),
    ]
    assert (moments[4].link, moments[4].size, moments[9].link) == (f"/s/{slug}", 3, "#review-1")
    assert moments[0].later is None
    assert sum(each.later or 0 for each in moments) == moments[-1].total == moments[-1].at - moments[0].at > 0
    store.close()


def test_notes_and_the_servers_words() -> None:
    store = Store(options=ServerOptions(words={"done": "completed"}))
    store.directory.register("w", None, [{"name": "c", "risk_tier": "session"}])
    for _ in range(2):
        store.dispatch("p", "w", {"capability": "c"})
    store.change(2, {"priority": "high", "tags": ["x"]})
    store.approvals.approve(1)
    store.claim(2, "w")
    store.close_job(2, "", "done")
    assert [(each.what, each.note) for each in shown(store, 2)] == [
        ("dispatched", ""),
        ("changed", "priority, tags"),
        ("approved", "with job 1"),
        ("claimed", ""),
        ("completed", ""),
    ]
    store.close()
