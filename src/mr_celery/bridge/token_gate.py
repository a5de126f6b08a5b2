"""Pauses a bridge while the server refuses its token."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..backoff import backoff
from ..errors import WorkerError
from ..telemetry.quantities import duration
from .limits import CHECK_SECONDS, LASTING, LONGEST_PAUSE

logger = logging.getLogger("mr_celery.bridge")


@dataclass
class TokenGate:
    """Counts 401 and 403 responses, and pauses claims and deliveries after them.

    A refusal may be a temporary fault of the server, so the first pauses are short.

    Another token is not affected by the refusals of the one before it.

    Args:
        clock: monotonic seconds.
        token_id: returns what identifies the current token.

    Attributes:
        rejected_id: what identifies the token that the server has refused; ``None`` if it has refused none. The current
            token may be another one, see :attr:`rejected`.
        refusals: consecutive refusals. A claim or a delivery that succeeds resets it. A list or an accepted presence
            report does not: a server may answer these and refuse the others.
    """

    clock: Callable[[], float] = time.monotonic
    token_id: Callable[[], str] = lambda: ""
    refusals: int = field(default=0, init=False)
    rejected_id: str | None = field(default=None, init=False)
    _paused_until: float = field(default=float("-inf"), init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def rejected(self) -> bool:
        """Whether the server refuses the token; no jobs are claimed then."""
        if self.rejected_id is None:
            return False
        if self.rejected_id != self.token_id():
            with self._lock:
                self.rejected_id, self.refusals, self._paused_until = None, 0, float("-inf")
        return self.rejected_id is not None

    @property
    def pause(self) -> float:
        """Seconds until the token may be tried again; 0 means now."""
        if not self.rejected:
            return 0.0
        return max(0.0, self._paused_until - self.clock())

    def reject(self, error: WorkerError) -> None:
        """Record that the server refused the token, and pause.

        Concurrent requests are refused together and count once. If a request was not sent because another process was
        refused, the count of all processes is used.
        """
        if self.pause:
            return
        with self._lock:
            if self.clock() < self._paused_until:
                return
            before = self.refusals
            self.refusals = max(before, error.refusals) if error.unsent else before + 1
            refusals = self.refusals
            pause = CHECK_SECONDS if error.unsent else backoff(refusals, first=1.0, most=LONGEST_PAUSE)
            self._paused_until = self.clock() + pause
            self.rejected_id = self.token_id()
        if before < LASTING <= refusals:
            logger.error(
                "the server refuses the token (%s): no jobs are claimed, and outcomes wait in the ledger. Check "
                "MODELREINS_TOKEN; after a change, restart the bridge and the workers. A changed MODELREINS_TOKEN_FILE "
                "is read without a restart",
                error.summary,
            )
        elif refusals < LASTING and not error.unsent:
            logger.warning("the server refused the token (%s); next try in %s", error.summary, duration(pause))

    def accept(self) -> None:
        """Record that the server accepted the token; claiming resumes once the pause is over."""
        if self.pause:
            return
        with self._lock:
            if self.rejected_id is None:
                return
            self.rejected_id = None
        logger.info("the server accepts the token again")
