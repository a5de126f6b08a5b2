"""Names of files in a spool. They identify an upload, and contain no text that a job could choose."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_NAME = re.compile(rf"(mr-{_NUMBER}-{_NUMBER}-[0-9a-f]+)\.([0-9a-f]+)\.({_NUMBER})")


@dataclass(frozen=True)
class SpoolName:
    """The name of a file: an upload of one execution.

    Args:
        task_id: the attempt's task id, as created by the ledger.
        nonce: distinguishes executions of the same attempt.
        index: the upload's position in the outcome.
    """

    task_id: str
    nonce: str
    index: int

    def __str__(self) -> str:
        return f"{self.task_id}.{self.nonce}.{self.index}"

    @property
    def job_id(self) -> int:
        """The job's id."""
        return int(self.task_id.split("-")[1])

    @classmethod
    def parse(cls, text: str) -> SpoolName | None:
        """Parse a file name strictly, so that no name leads out of the spool. ``None`` if it is not valid."""
        match = _NAME.fullmatch(text)
        return cls(match[1], match[2], int(match[3])) if match else None


def folder_of(worker: str) -> str:
    """The subfolder of one worker name. Several worker names may share a spool."""
    return hashlib.sha256(worker.encode()).hexdigest()[:16]
