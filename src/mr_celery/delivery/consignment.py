"""An outcome on its way to the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..ledger import DeliveryKey
from ..outcome import Outcome


@dataclass(frozen=True)
class Consignment:
    """An outcome on its way to the server.

    Args:
        key: which delivery of which job it is: the fencing token of what is written down.
        outcome: what to deliver.
        parts: what is delivered already: ``artifact:0``, ``review:0``, … with the server's answers.
        blobs: the bytes of the uploads that the ledger keeps, in order, where they are at hand.
    """

    key: DeliveryKey
    outcome: Outcome
    parts: Mapping[str, str]
    blobs: Sequence[bytes] | None = field(default=None, repr=False)

    @property
    def job_id(self) -> int:
        """The job."""
        return self.key.job_id

    @property
    def number(self) -> int:
        """Which delivery of the job it is, from 1."""
        return self.key.number

    @property
    def parts_left(self) -> bool:
        """Whether an artifact or a review is still to be delivered."""
        uploads = (
            f"artifact:{index}"
            for index, upload in enumerate(self.outcome.uploads)
            if not (upload.slug or upload.refused)
        )
        reviews = (f"review:{index}" for index, review in enumerate(self.outcome.reviews) if not review.refused)
        return any(part not in self.parts for part in (*uploads, *reviews))
