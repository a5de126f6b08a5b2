"""Records Celery events."""

from __future__ import annotations

import threading
from typing import Any

from celery import Celery


class Recorder(threading.Thread):
    """Records every event of a broker, from ``start()`` to ``stop()``."""

    def __init__(self, broker: str) -> None:
        super().__init__(daemon=True)
        self.events: list[dict[str, Any]] = []
        self._app = Celery("recorder", broker=broker, set_as_current=False)
        self._stopping = threading.Event()
        self._listening = threading.Event()

    def run(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self.events.append})
            with receiver.consumer_context() as (connection, _, _):
                self._listening.set()
                while not self._stopping.is_set():
                    try:
                        connection.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue

    def listening(self) -> None:
        """Wait until the recorder is receiving events."""
        assert self._listening.wait(10)

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        self._app.close()

    def of_job(self, job_id: int) -> list[dict[str, Any]]:
        """The events of a job's tasks, in order."""
        shown = f"(ModelReins job {job_id})"
        tasks = {event["uuid"] for event in list(self.events) if event.get("args") == shown}
        return [event for event in list(self.events) if event.get("uuid") in tasks]

    def kinds(self, job_id: int) -> list[str]:
        """The types of the workers' events of a job's tasks, in order."""
        kinds = [event["type"].removeprefix("task-") for event in self.of_job(job_id)]
        return [kind for kind in kinds if kind != "sent"]
