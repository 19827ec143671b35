"""What a run does with the rows of a file, in words and numbers."""

from collections import Counter
from typing import Literal

from attrs import define, field

Known = Literal["posted", "waiting", "refused", "failed", "invalid", "withdrawn"]
"""
What is known of a row of an earlier run: `posted` (accepted, or in doubt), `waiting` (not sent
yet), `refused` (or given up), `failed` (by LeadSquared's queue, for good), `invalid`, `withdrawn`.
"""
Verdict = Literal[
    "new",
    "posted",
    "waiting",
    "again",
    "corrected",
    "failed",
    "invalid",
    "elsewhere",
    "edit",
    "later",
]
"""
What a run does with a row. It sends those that are `new`, `waiting` (in the outbox already),
`again` (refused before) or `corrected` (in a rejects file). It does not send those that are
`posted`, `failed`, `invalid` or `later` (after `--first`). The others are doubtful: `elsewhere`
(posted in another batch, or with other keys), `edit` (it looks like a posted row that was edited).
"""
DOUBTFUL: tuple[Verdict, ...] = ("elsewhere", "edit")
SENT: tuple[Verdict, ...] = ("new", "waiting", "again", "corrected")


@define
class Plan:
    """
    What a run would do.

    Attributes:
        counts: The number of rows of each verdict.
        newly_invalid: How many invalid rows no earlier run has left to the rejects.
        withdrawn: How many unsent rows of earlier runs are gone from the file.
        moved: How many unsent rows of other batches are in this file.
        batches: The other batches that doubtful rows were posted in.
        other_keys: How many doubtful rows were posted with other keys of the same host.
    """

    counts: Counter[Verdict] = field(factory=Counter[Verdict])
    newly_invalid: int = 0
    withdrawn: int = 0
    moved: int = 0
    batches: tuple[str, ...] = ()
    other_keys: int = 0

    @property
    def rows(self) -> int:
        return self.counts.total()

    @property
    def sent(self) -> int:
        """How many rows are sent by this run, if nothing is doubtful."""
        return sum(self.counts[verdict] for verdict in SENT)

    @property
    def doubtful(self) -> int:
        return sum(self.counts[verdict] for verdict in DOUBTFUL)

    def post_doubtful(self) -> None:
        """Have doubtful rows posted too."""
        for verdict in DOUBTFUL:
            self.counts["new"] += self.counts.pop(verdict, 0)
