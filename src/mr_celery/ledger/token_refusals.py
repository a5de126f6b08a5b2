"""Shares the server's refusals of a token through the ledger, so that all processes together rarely retry it.

A server bans addresses with repeated failed log-ins, and the refusals of a bridge and of all its workers add up there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import LedgerUnavailable, WorkerError
from .records import TokenRefusal
from .scripts import LedgerBase

if TYPE_CHECKING:
    from .ledger import Ledger

FRESH_SECONDS = 0.25
"""Seconds for which a process uses the state that it read last. Requests sent meanwhile may still be refused."""

LONGEST_PAUSE = 60.0
"""Longest time, in seconds, between two tries of a refused token."""

PROOFS = ("claim", "close", "upload", "review")
"""Requests whose success proves that the token is valid. A server may answer others and refuse these."""


class RefusedTokens(LedgerBase):
    """The tokens that the server refuses."""

    def refused_token(self, token_id: str) -> TokenRefusal | None:
        """The server's refusal of a token; ``None`` if it is not known to be refused.

        Args:
            token_id: identifies the token; its value never gets here.
        """
        with self._redis.client() as client:
            stored = client.get(f"{self._prefix}refused:{token_id}")
        return TokenRefusal.from_json(stored) if stored else None

    def note_refused_token(self, token_id: str, refusal: TokenRefusal) -> None:
        """Store that the server refuses a token, for a day at most."""
        with self._redis.client() as client:
            client.set(f"{self._prefix}refused:{token_id}", refusal.to_json(), ex=86400)

    def note_accepted_token(self, token_id: str) -> None:
        """Store that the server does not refuse a token any longer."""
        with self._redis.client() as client:
            client.delete(f"{self._prefix}refused:{token_id}")


class TokenRefusals:
    """Decides before each request whether its token may be tried.

    After a refusal one request of all processes may try the token again, at intervals that double up to a minute. If
    the server accepts a list or a presence report, all requests are allowed until the next refusal. A token with
    another value is not affected.

    Args:
        ledger: the ledger of the worker name.
        clock: monotonic seconds.

    Attributes:
        sure: the id of a token that is not known to be refused (empty if there is none), and the monotonic time, in
            seconds, until which to rely on it. Until then, :meth:`before` need not be called for this token.
            :meth:`accepted` need not be called at all while its id stands here.
    """

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._known: tuple[str, float, TokenRefusal | None] = ("", float("-inf"), None)
        self.sure = ("", float("-inf"))

    def before(self, token_id: str, route: str) -> bool:
        """Check that a request may be sent. Returns whether it tries a refused token for all processes.

        Raises:
            WorkerError: another process has found that the token is refused. Its ``unsent`` is true.
        """
        refusal = self._refusal(token_id)
        if refusal is None or refusal.is_open:
            return False
        try:
            if self._ledger.my_turn(_turn(token_id, refusal), seconds_to_next_try(refusal)):
                return True
        except LedgerUnavailable:
            return False
        error = WorkerError(f"{route} -> {refusal.status}: not sent", status=refusal.status)
        error.fault = f"not sent, since this token was refused: {refusal.why}"
        error.route, error.unsent, error.refusals = route, True, refusal.refusals
        raise error

    def refused(self, token_id: str, error: WorkerError, *, trying: bool) -> None:
        """Record that the server refused the token.

        Args:
            token_id: identifies the token.
            error: the refusal.
            trying: what :meth:`before` returned.
        """
        with suppress(LedgerUnavailable):
            last = self._ledger.refused_token(token_id)
            if last is not None and not last.is_open and not trying:
                return  # concurrent requests count once
            refusal = TokenRefusal(1 if last is None else last.refusals + 1, error.status or 401, error.summary)
            if self._ledger.my_turn(_turn(token_id, refusal), seconds_to_next_try(refusal)):
                self._ledger.note_refused_token(token_id, refusal)
            self._know(token_id, refusal)

    def accepted(self, token_id: str, route: str) -> None:
        """Record that the server accepted the token."""
        known_id, _, refusal = self._known
        if refusal is None or known_id != token_id:
            return
        with suppress(LedgerUnavailable):
            if route in PROOFS:
                self._ledger.note_accepted_token(token_id)
                self._know(token_id, None)
            elif route in ("presence", "inbox") and not refusal.is_open:
                opened = replace(refusal, is_open=True)
                self._ledger.note_refused_token(token_id, opened)
                self._know(token_id, opened)

    def _refusal(self, token_id: str) -> TokenRefusal | None:
        known_id, until, refusal = self._known
        if known_id == token_id and self._clock() < until:
            return refusal
        try:
            refusal = self._ledger.refused_token(token_id)
        except LedgerUnavailable:
            refusal = None
        self._know(token_id, refusal)
        return refusal

    def _know(self, token_id: str, refusal: TokenRefusal | None) -> None:
        with self._lock:
            until = self._clock() + FRESH_SECONDS
            self._known = (token_id, until, refusal)
            self.sure = (token_id if refusal is None else "", until)


def seconds_to_next_try(refusal: TokenRefusal) -> float:
    """Seconds from a refusal to the next try."""
    return min(LONGEST_PAUSE, 2.0 ** min(refusal.refusals - 1, 10))


def _turn(token_id: str, refusal: TokenRefusal) -> str:
    return f"token-{token_id}-{refusal.refusals}"
