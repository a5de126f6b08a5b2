"""A job's history, and the notifications of changes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from redis.exceptions import NoPermissionError

from ..errors import LedgerUnavailable
from .records import Event, read_event
from .scripts import PAGE, LedgerBase


class NotificationsRefused(LedgerUnavailable):
    """The Redis user has no permission for the channel of the notifications. All else may work."""


class Events(LedgerBase):
    """Past events of a job, and notifications of new ones."""

    def events(self, job_id: int) -> list[Event]:
        """A job's history, in order; empty if the ledger does not know the job."""
        with self._redis.client() as client:
            return [read_event(line) for line in client.lrange(f"{self._prefix}events:{job_id}", 0, -1)]

    def listen(self, timeout: float, *others: LedgerBase) -> Generator[list[tuple[str, str]], None, None]:
        """Yields notifications that have arrived: the worker name, and the new state.

        Notifications are published if a slot has become free or work is due. Yields an empty list after ``timeout``
        seconds without one, so that the caller can stop.

        Args:
            timeout: seconds.
            others: the ledgers of other worker names in the same Redis, to listen to on the same connection.

        Raises:
            NotificationsRefused: the Redis user has no permission for a channel.
        """
        names = {each.notifications.encode(): each.worker_name for each in (self, *others)}
        try:
            with self._redis.client() as client, client.pubsub(ignore_subscribe_messages=True) as subscription:
                subscription.subscribe(*names)
                while True:
                    found: list[tuple[str, str]] = []
                    message = subscription.get_message(timeout=timeout)
                    while message and len(found) < PAGE:
                        found.append((names[message["channel"]], message["data"].decode()))
                        message = subscription.get_message(timeout=0)
                    yield found
        except LedgerUnavailable as error:
            if isinstance(error.__cause__, NoPermissionError):
                raise NotificationsRefused(
                    f"its Redis user has no permission for the channel {self.notifications}"
                ) from error
            raise

    def may_notify(self) -> bool:
        """Whether the Redis user may publish and receive notifications."""
        try:
            with self._redis.client() as client:
                client.publish(self.notifications, "")  # an empty text wakes no loop
            with closing(self.listen(1.0)) as notifications:
                next(notifications)  # the answer to the subscription
        except LedgerUnavailable as error:
            if isinstance(error, NotificationsRefused) or isinstance(error.__cause__, NoPermissionError):
                return False
            raise
        return True
