"""Deliveries of artifacts and reviews: their order, their concurrency and their failures."""

from __future__ import annotations

import io
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from mr_celery.delivery.attachments import PROMISED_IDS
from mr_celery.delivery.blobs import BlobStore
from mr_celery.delivery.deliver import DeliveryLease, DeliveryRequest, Overtaken
from mr_celery.delivery.parts import LARGE_BYTES, SIDE_BY_SIDE, PartDelivery, Undeliverable
from mr_celery.errors import WorkerError
from mr_celery.ledger import DeliveryKey
from mr_celery.outcome import Outcome, ReviewItem, Upload
from mr_celery.spool import SpoolName
from mr_celery.spool.folder import FolderSpool
from support.ledgers import refusal

REVIEW = ReviewItem("image", "Title", "content")


class FakeServer:
    """A server that records what arrives, and fails or waits as the test says.

    Attributes:
        arrived: the names of uploads and the titles of reviews, in the order of their ends.
        at_once: the maximum number of concurrent uploads of large artifacts.
        asked: the number of attempted uploads.
        filed: the response to a review, if not an id.
    """

    url = "https://server.test"

    def __init__(self, faults: dict[str, Exception] | None = None, *, meet: int = 1, seconds: float = 20.0) -> None:
        self.arrived: list[str] = []
        self.review_ids: dict[str, str | None] = {}
        self.at_once = 0
        self.asked = 0
        self.filed: dict[str, Any] | None = None
        self._faults = faults or {}
        self._meet = threading.Barrier(meet, timeout=seconds)
        self._under_way = 0
        self._lock = threading.Lock()

    def upload(self, source: Any, *, filename: str, review_id: str | None = None, **fields: Any) -> dict[str, Any]:
        with self._lock:
            self.asked += 1
        if filename in self._faults:
            raise self._faults[filename]
        size = len(source.read())
        if size > LARGE_BYTES:
            with self._lock:
                self._under_way += 1
                self.at_once = max(self.at_once, self._under_way)
            with suppress(threading.BrokenBarrierError):  # there are fewer uploads
                self._meet.wait()
            with self._lock:
                self._under_way -= 1
        self.review_ids[filename] = review_id
        self.arrived.append(filename)
        return {"slug": f"slug-{filename}", "url": f"/s/slug-{filename}"}

    def review(self, type: str, title: str, content: str, **fields: Any) -> dict[str, Any]:
        if title in self._faults:
            raise self._faults[title]
        self.arrived.append(title)
        return {"id": 70 + len(self.arrived)} if self.filed is None else self.filed


class FakeLease:
    """A delivery's claim on its job, which records what is stored. Once lost, it stays lost."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.lost = False

    def confirm(self) -> None:
        if self.lost:
            raise Overtaken

    def record(self, part: str, answer: str) -> None:
        self.confirm()
        self.parts[part] = answer


@pytest.fixture
def hold() -> FakeLease:
    return FakeLease()


@pytest.fixture
def spool(tmp_path: Path) -> FolderSpool:
    return FolderSpool(tmp_path / "spool", "w", limit=2**30)


def small(name: str, **fields: Any) -> Upload:
    return Upload("text/plain", name, 3, **fields)


def large(spool: FolderSpool, index: int, name: str) -> Upload:
    """An upload whose bytes wait in the spool."""
    size, file = LARGE_BYTES + 1, SpoolName("mr-7-1-ab", "cd", index)
    spool.put(file, io.BytesIO(bytes(size)), size)
    return Upload("video/mp4", name, size, spooled=str(file))


def part_delivery(server: FakeServer, hold: FakeLease, *parts: Upload | ReviewItem, spool: Any = None) -> PartDelivery:
    uploads = tuple(part for part in parts if isinstance(part, Upload))
    reviews = tuple(part for part in parts if isinstance(part, ReviewItem))
    outcome = Outcome("done", "", uploads=uploads, reviews=reviews)
    key = DeliveryKey(7, "mr-7-1-ab", 1)
    delivery_request = DeliveryRequest(key, outcome, parts=dict(hold.parts), blobs=[b"abc"] * len(uploads))
    return PartDelivery(
        cast(Any, server), BlobStore(cast(Any, None), spool), delivery_request, cast(DeliveryLease, hold)
    )


def test_artifacts_then_reviews_then_what_belongs_to_these(hold: FakeLease) -> None:
    server = FakeServer()
    part_delivery(server, hold, small("of the review", review_of=0), small("first"), REVIEW).deliver()
    assert server.arrived == ["first", "Title", "of the review"]
    assert server.review_ids == {"first": None, "of the review": "72"}


def test_large_ones_go_side_by_side(hold: FakeLease, spool: FolderSpool) -> None:
    server = FakeServer(meet=SIDE_BY_SIDE)  # each upload waits for that many
    uploads = [large(spool, index, f"{index}.mp4") for index in range(SIDE_BY_SIDE)]
    part_delivery(server, hold, *uploads, spool=spool).deliver()
    assert server.at_once == SIDE_BY_SIDE
    assert len(server.arrived) == SIDE_BY_SIDE


def test_not_more_of_them_than_there_may_be(hold: FakeLease, spool: FolderSpool) -> None:
    server = FakeServer(meet=SIDE_BY_SIDE + 1, seconds=0.5)  # they wait for another one, which never comes
    uploads = [large(spool, index, f"{index}.mp4") for index in range(2 * SIDE_BY_SIDE)]
    part_delivery(server, hold, *uploads, spool=spool).deliver()
    assert server.at_once == SIDE_BY_SIDE


def test_a_delivered_upload_is_removed_from_the_spool(hold: FakeLease, spool: FolderSpool) -> None:
    uploads = [large(spool, 0, "a.mp4"), large(spool, 1, "b.mp4")]
    delivery = part_delivery(FakeServer({"b.mp4": refusal(503)}), hold, *uploads, spool=spool)
    with pytest.raises(WorkerError):
        delivery.deliver()
    assert [entry.file for entry in spool.entries()] == ["mr-7-1-ab.cd.1"]
    assert list(hold.parts) == ["artifact:0"]


def test_each_answer_is_recorded_and_a_later_delivery_repeats_nothing(hold: FakeLease, spool: FolderSpool) -> None:
    parts = [small("a"), large(spool, 1, "b.mp4"), REVIEW]
    first = part_delivery(FakeServer({"Title": refusal(503)}), hold, *parts, spool=spool)
    with pytest.raises(WorkerError):
        first.deliver()
    assert sorted(hold.parts) == ["artifact:0", "artifact:1"]
    server = FakeServer()
    part_delivery(server, hold, *parts, spool=spool).deliver()
    assert server.arrived == ["Title"]


def test_refusals_are_raised_together_after_the_other_uploads(hold: FakeLease, spool: FolderSpool) -> None:
    server = FakeServer({"a": refusal(413), "c.mp4": refusal(415)})
    delivery = part_delivery(server, hold, small("a"), small("b"), large(spool, 2, "c.mp4"), REVIEW, spool=spool)
    with pytest.raises(Undeliverable) as refused:
        delivery.deliver()
    assert refused.value.parts == ("artifact:0", "artifact:2")
    assert refused.value.why == (
        "the artifact 'a' (POST /x -> 413: the server's words); "
        "the artifact 'c.mp4' (POST /x -> 415: the server's words)"
    )
    assert server.arrived == ["b"]


def test_a_refusal_is_raised_even_if_the_server_is_in_trouble(hold: FakeLease) -> None:
    delivery = part_delivery(FakeServer({"a": refusal(413), "b": refusal(503)}), hold, small("a"), small("b"))
    with pytest.raises(Undeliverable) as refused:
        delivery.deliver()
    assert refused.value.parts == ("artifact:0",)


def test_a_server_in_trouble_does_not_get_all_large_uploads(hold: FakeLease, spool: FolderSpool) -> None:
    server = FakeServer({f"{index}": refusal(503) for index in range(20)})
    with pytest.raises(WorkerError):
        part_delivery(server, hold, *(large(spool, index, f"{index}") for index in range(20)), spool=spool).deliver()
    assert server.asked <= 2 * SIDE_BY_SIDE


@pytest.mark.parametrize("answer", [{"id": None}, {}], ids=str)
def test_a_review_without_an_id_replaces_no_placeholder(hold: FakeLease, answer: dict[str, Any]) -> None:
    review = ReviewItem("text", "t", "c", promised=PROMISED_IDS)
    server = FakeServer()
    server.filed = answer
    delivery = part_delivery(server, hold, review)
    delivery.deliver()
    assert delivery.placeholders.resolved(f"filed as {PROMISED_IDS}") == f"filed as {PROMISED_IDS}"


def test_a_server_in_trouble_does_not_get_all_small_uploads(hold: FakeLease) -> None:
    server = FakeServer({"a": refusal(503)})
    with pytest.raises(WorkerError):
        part_delivery(server, hold, small("a"), small("b")).deliver()
    assert server.arrived == []


def test_an_upload_missing_in_the_spool_is_undeliverable(hold: FakeLease, spool: FolderSpool) -> None:
    upload = large(spool, 0, "a.mp4")
    spool.remove("mr-7-1-ab.cd.0")
    with pytest.raises(Undeliverable) as gone:
        part_delivery(FakeServer(), hold, upload, spool=spool).deliver()
    assert "'a.mp4' is no longer in the spool " in gone.value.why
    assert (gone.value.parts, gone.value.error) == (("artifact:0",), None)
    assert gone.value.about == f"artifact 0 is no longer in the spool {spool}"


def test_a_delivery_that_was_overtaken_sends_nothing_more(hold: FakeLease, spool: FolderSpool) -> None:
    hold.lost = True
    server = FakeServer()
    with pytest.raises(Overtaken):
        part_delivery(server, hold, small("a"), large(spool, 1, "b.mp4"), REVIEW, spool=spool).deliver()
    assert server.arrived == []
    assert len(spool.entries()) == 1
