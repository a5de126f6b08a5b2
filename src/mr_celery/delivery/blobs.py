"""Reads the stored contents of uploads from the ledger or the spool."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from ..errors import JobError
from ..ledger import Ledger
from ..outcome import Upload
from ..spool import Spool, SpoolName, SpoolUnavailable

logger = logging.getLogger("mr_celery.delivery")


class BlobStore:
    """The stored contents of one worker name's uploads.

    Args:
        ledger: the ledger, which stores small contents.
        spool: the spool, which stores large ones; ``None`` if none is configured.
    """

    def __init__(self, ledger: Ledger, spool: Spool | None) -> None:
        self._ledger = ledger
        self.spool = spool

    @contextmanager
    def open(self, job_id: int, index: int, upload: Upload, blobs: Sequence[bytes] | None) -> Iterator[BinaryIO]:
        """Open the content of an upload as a binary file.

        Args:
            job_id: the job.
            index: the upload's index in the outcome.
            upload: the upload.
            blobs: the contents that the ledger stores, if the caller has them.

        Raises:
            JobError: the content is gone.
            SpoolUnavailable: the spool cannot be reached.
            LedgerUnavailable: the ledger cannot be reached.
        """
        if upload.spooled is None:
            blob = self._ledger.blob(job_id, index) if blobs is None else blobs[index]
            if blob is None:
                raise _gone(index, upload, "the ledger")
            yield io.BytesIO(blob)
            return
        if self.spool is None:
            raise SpoolUnavailable("an artifact waits in the spool, but MODELREINS_SPOOL_URL is not set here")
        name = SpoolName.parse(upload.spooled)
        with ExitStack() as stack:
            try:
                file = stack.enter_context(self.spool.open(name)) if name else None
            except FileNotFoundError:
                file = None
            if file is None:
                raise _gone(index, upload, f"the spool {self.spool}")
            yield file

    def forget(self, upload: Upload) -> None:
        """Remove the spooled content of a delivered upload. If that fails, the sweeper removes it later."""
        name = SpoolName.parse(upload.spooled or "")
        if name is not None and self.spool is not None:
            try:
                self.spool.remove(str(name))
            except SpoolUnavailable as error:
                logger.warning("%s", error)


def _gone(index: int, upload: Upload, where: str) -> JobError:
    """The error for a content that its store does not have any longer."""
    return JobError(
        f"the artifact {upload.filename!r} is no longer in {where}", about=f"artifact {index} is no longer in {where}"
    )
