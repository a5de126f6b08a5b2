"""Placeholders, and the server's slugs and ids that replace them."""

from __future__ import annotations

import json
import time

import pytest

from mr_celery.delivery.attachments import PROMISED_IDS
from mr_celery.delivery.placeholders import Placeholders
from mr_celery.outcome import Outcome, ReviewItem, Upload

SERVER = "https://server.test"
PROMISED = "f" * 40
OTHER = "e" * 40
ID = PROMISED_IDS + 7


def upload(promised: str | None = PROMISED, name: str = "a.png", slug: str | None = None) -> Upload:
    return Upload("image/png", name, 3, promised=promised, slug=slug)


def stored(slug: str = "real", url: str | None = None) -> str:
    """A server's response to an upload, as the ledger stores it."""
    return json.dumps({"slug": slug, "url": url or f"/s/{slug}"})


def placeholders(*parts: Upload | ReviewItem, server: str = SERVER, **answered: str) -> Placeholders:
    """The responses for an outcome with the given parts: ``artifact_0``, ``review_0``."""
    uploads = tuple(part for part in parts if isinstance(part, Upload))
    reviews = tuple(part for part in parts if isinstance(part, ReviewItem))
    outcome = Outcome("done", "", uploads=uploads, reviews=reviews)
    return Placeholders(server, outcome, {name.replace("_", ":"): answer for name, answer in answered.items()})


def review(preview: str | None = None, *, of: int | None = None, promised: int | None = None) -> ReviewItem:
    return ReviewItem("image", "Title", "", preview=preview, preview_upload=of, promised=promised)


# -- promised slugs in texts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        (f"made {PROMISED}", "made real"),
        (f"made {PROMISED}, and {PROMISED}.", "made real, and real."),
        (f"see /s/{PROMISED}", "see /s/real"),
        (f"see https://a.test/s/{PROMISED}", f"see {SERVER}/s/real"),
        (f"see http://localhost:8000/base/s/{PROMISED}?size=2", f"see {SERVER}/s/real?size=2"),
        (f"[http://a.test/s/{PROMISED}](http://a.test/s/{PROMISED})", f"[{SERVER}/s/real]({SERVER}/s/real)"),
        (f'<img src="http://a.test/s/{PROMISED}">', f'<img src="{SERVER}/s/real">'),
        (f"https://other.test/page,https://a.test/s/{PROMISED}", f"https://other.test/page,{SERVER}/s/real"),
        (f"https://other.test/page /s/{PROMISED}", "https://other.test/page /s/real"),
        ("nothing of the kind", "nothing of the kind"),
        (f"{PROMISED[:-1]}", f"{PROMISED[:-1]}"),
    ],
)
def test_the_servers_slug_takes_the_place_of_the_promised_one(text: str, resolved: str) -> None:
    assert placeholders(upload(), artifact_0=stored()).resolved(text) == resolved


def test_a_server_may_keep_artifacts_somewhere_else() -> None:
    found = placeholders(upload(), artifact_0=stored("real", "https://cdn.test/x/real.png"))
    text = f"{PROMISED} /s/{PROMISED} http://a.test/s/{PROMISED}"
    assert found.resolved(text) == "real https://cdn.test/x/real.png https://cdn.test/x/real.png"


def test_each_promise_has_its_own_answer() -> None:
    found = placeholders(upload(), upload(OTHER), artifact_0=stored("one"), artifact_1=stored("two"))
    assert found.resolved(f"{OTHER} {PROMISED} http://a.test/s/{OTHER}") == f"two one {SERVER}/s/two"


def test_a_promise_without_an_answer_stays() -> None:
    assert placeholders(upload()).resolved(f"made {PROMISED}") == f"made {PROMISED}"


def test_what_was_uploaded_before_the_outcome_was_recorded_counts_too() -> None:
    assert placeholders(upload(slug="early")).resolved(f"see /s/{PROMISED}") == "see /s/early"


def test_a_slug_with_strange_characters_is_put_in_as_it_is() -> None:
    found = placeholders(upload(), artifact_0=stored(r"\1\g<0>"))
    assert found.resolved(f"http://a.test/s/{PROMISED}") == rf"{SERVER}/s/\1\g<0>"


def test_a_text_full_of_addresses_takes_no_time() -> None:
    text = "http://" * 50_000 + PROMISED
    began = time.process_time()
    assert placeholders(upload(), artifact_0=stored()).resolved(text).endswith("real")
    assert time.process_time() - began < 2.0


# -- promised ids ------------------------------------------------------------------------------------------


def test_the_servers_id_takes_the_place_of_the_promised_one() -> None:
    found = placeholders(review(), review(promised=ID), review_0="1", review_1="70")
    assert found.resolved(f"queued as {ID}") == "queued as 70"


def test_a_promised_id_without_an_answer_stays() -> None:
    assert placeholders(review(promised=ID)).resolved(f"queued as {ID}") == f"queued as {ID}"


# -- previews ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, None),
        ("", ""),
        ("0123abc_-", f"{SERVER}/s/0123abc_-"),
        ("/s/0123abc", f"{SERVER}/s/0123abc"),
        ("https://elsewhere.test/x.png", "https://elsewhere.test/x.png"),
        (PROMISED, f"{SERVER}/s/real"),
        (f"/s/{PROMISED}", f"{SERVER}/s/real"),
        (f"http://a.test/s/{PROMISED}", f"{SERVER}/s/real"),
    ],
)
def test_a_preview_is_an_absolute_address(given: str | None, shown: str | None) -> None:
    assert placeholders(upload(), artifact_0=stored()).preview(review(given)) == shown


@pytest.mark.parametrize(
    ("url", "shown"), [("/s/real", f"{SERVER}/s/real"), ("https://cdn.test/real", "https://cdn.test/real")]
)
def test_a_preview_of_an_artifact_is_its_absolute_address(url: str, shown: str) -> None:
    found = placeholders(upload(), upload(None), artifact_1=stored("real", url))
    assert found.preview(review(of=1)) == shown


def test_a_preview_of_an_artifact_that_the_server_refused_is_none() -> None:
    assert placeholders(upload()).preview(review(of=0)) is None


def test_a_server_under_a_path_keeps_its_path() -> None:
    assert placeholders(server="https://server.test/base").preview(review("abc")) == "https://server.test/base/s/abc"


# -- finding placeholders ----------------------------------------------------------------------------------


def test_what_the_server_has_is_listed_in_order_with_addresses() -> None:
    found = placeholders(
        upload(None, "early.png", slug="early"),
        upload(None, "refused.png"),
        upload(None, "late.png"),
        artifact_2=stored("late", "https://cdn.test/late"),
    )
    assert found.kept() == f"- early.png: {SERVER}/s/early\n- late.png: https://cdn.test/late"
