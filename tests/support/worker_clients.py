"""A worker's clients, with an in-process ledger, and a fake server and delivery that record what they get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mr_celery.delivery import DeliveryRequest
from mr_celery.delivery.server_routes import ServerRoutes
from mr_celery.errors import WorkerError
from mr_celery.settings import Settings
from mr_celery.spool import Spool, spool_of


class FakeDelivery:
    """Records what it is given to deliver."""

    def __init__(self) -> None:
        self.delivery_requests: list[DeliveryRequest] = []
        self.fails: Exception | None = None
        self.routes: Any = None
        self.is_over: Callable[[], bool] = lambda: False

    def deliver(self, delivery_request: DeliveryRequest, *, is_over: Callable[[], bool]) -> WorkerError | None:
        self.delivery_requests.append(delivery_request)
        self.is_over = is_over
        if self.fails is not None:
            raise self.fails
        return None


class FakeServer:
    """Accepts uploads, or fails as often as the test says."""

    url = "https://server.test"

    def __init__(self) -> None:
        self.uploads: list[bytes] = []
        self.fails: list[Exception] = []
        self.keys: list[str] = []

    def upload(self, source: Any, *, idempotency_key: str, **fields: Any) -> dict[str, Any]:
        self.keys.append(idempotency_key)
        self._fail("upload")
        self.uploads.append(source if isinstance(source, bytes) else source.read())
        slug = f"slug-{len(self.uploads)}"
        return {"slug": slug, "url": f"/s/{slug}"}

    def review(self, *texts: str, idempotency_key: str, **fields: Any) -> dict[str, Any]:
        self._fail("review")
        return {"id": 7}

    def _fail(self, route: str) -> None:
        if self.fails:
            error = self.fails.pop(0)
            if isinstance(error, WorkerError):
                error.route = route
            raise error

    def jobs(self, status: str, **options: Any) -> list[Any]:
        return []


class FakeClients:
    """A worker's clients with an in-process ledger."""

    def __init__(self, ledger: Any, *, delivers: bool = True) -> None:
        self.settings = Settings(lease=30.0)
        self._delivers = delivers
        self.out = FakeDelivery()
        self.server = FakeServer()
        self.book: Any = ledger
        self.routes = ServerRoutes(self.server, ledger)  # type: ignore[arg-type]

    def delivers(self, worker: str) -> bool:
        return self._delivers

    def ledger(self, worker: str) -> Any:
        assert worker == "w"
        return self.book

    def delivery(self, worker: str) -> FakeDelivery:
        assert worker == "w"
        self.out.routes = self.routes
        return self.out

    def api(self, worker: str) -> FakeServer:
        assert worker == "w"
        return self.server

    run_api = api

    def has_name(self, worker: str) -> bool:
        return worker == "w"

    def spool(self, worker: str) -> Spool | None:
        return spool_of(self.settings, worker)

    def output_of(self, worker: str, job_id: int) -> str:
        return f"https://server.test/jobs/{job_id}"
