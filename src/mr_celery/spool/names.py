"""The names of files in a spool: they are made here only, from numbers, and say whose file it is."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_NAME = re.compile(rf"(mr-{_NUMBER}-{_NUMBER}-[0-9a-f]+)\.([0-9a-f]+)\.({_NUMBER})")


@dataclass(frozen=True)
class SpoolName:
    """Which upload of which execution a file is.

    Args:
        task_id: the attempt's task id, which the ledger made.
        nonce: what tells this execution from others of the attempt.
        index: the upload's place in the outcome.
    """

    task_id: str
    nonce: str
    index: int

    def __str__(self) -> str:
        return f"{self.task_id}.{self.nonce}.{self.index}"

    @property
    def job_id(self) -> int:
        """The job."""
        return int(self.task_id.split("-")[1])

    @classmethod
    def parse(cls, text: str) -> SpoolName | None:
        """The name that a text is; ``None`` if it is none, so that no text leads to a place outside the spool."""
        match = _NAME.fullmatch(text)
        return cls(match[1], match[2], int(match[3])) if match else None


def folder_of(worker: str) -> str:
    """The folder of one worker name in a spool: workers of several names may share it."""
    return hashlib.sha256(worker.encode()).hexdigest()[:16]
