"""Where the bytes of an outcome's uploads are while they wait: in the ledger, or in the spool."""

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


class Stores:
    """The stores of one worker name.

    Args:
        ledger: the ledger, for small ones.
        spool: the spool, for large ones; ``None`` where none is set.
    """

    def __init__(self, ledger: Ledger, spool: Spool | None) -> None:
        self._ledger = ledger
        self.spool = spool

    @contextmanager
    def open(self, job_id: int, index: int, upload: Upload, blobs: Sequence[bytes] | None) -> Iterator[BinaryIO]:
        """The bytes of an upload, as a binary file.

        Args:
            job_id: the job.
            index: the upload's place in the outcome.
            upload: the upload.
            blobs: what the ledger keeps, where it is known here.

        Raises:
            JobError: they are gone.
            SpoolUnavailable: the spool cannot be reached.
            LedgerUnavailable: the ledger is away.
        """
        if upload.spooled is None:
            blob = self._ledger.blob(job_id, index) if blobs is None else blobs[index]
            if blob is None:
                raise JobError(f"the artifact {upload.filename!r} is not in the ledger any more")
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
                raise JobError(f"the artifact {upload.filename!r} is not in the spool {self.spool} any more")
            yield file

    def forget(self, upload: Upload) -> None:
        """An upload is delivered: what the spool kept of it goes; if that fails, it is swept away later."""
        name = SpoolName.parse(upload.spooled or "")
        if name is not None and self.spool is not None:
            try:
                self.spool.remove(str(name))
            except SpoolUnavailable as error:
                logger.warning("%s", error)
