"""What became of each row of a file."""

from collections.abc import AsyncGenerator
from itertools import islice
from typing import Any

from attrs import field, frozen

from leadpost.cli.files.ledger import FAILED_BY_QUEUE, PART, Ledger
from leadpost.cli.files.plan import DOUBTFUL, Plan, Planned
from leadpost.cli.files.rows import Row
from leadpost.errors import DeliveryUncertain, InvalidActivity


@frozen
class Outcome:
    """What became of a row."""

    row: Row
    # `accepted`, `succeeded`, `uncertain`, `rejected`, `failed`, `invalid`, `skipped` or
    # `not_sent`.
    state: str
    request_id: str | None = None
    activity_id: str | None = None
    error: str | None = None
    # Why it is not on the lead, on one line; "" if there is nothing to say.
    reason: str = field(default="", repr=False)
    letters: str | None = None  # its key in rejects files, None if the outbox does not have it
    is_to_fix: bool = False  # whether LeadSquared does not have it, and will not accept it as it is


async def outcomes(plan: Plan, ledger: Ledger) -> AsyncGenerator[Outcome]:
    """Yield what became of each row, in their order; record what was seen of their entries."""
    drawn = plan.rows.read()
    while part := list(islice(drawn, PART)):
        found = await ledger.states([row.known for row, _ in part if row.known is not None])
        for row, read in part:
            yield outcome(row, read, found.get(row.known or 0))
        await ledger.record_last(list(found.values()))


def outcome(row: Planned, read: Row, known: Any) -> Outcome:
    """Return what became of a row, from what the ledger has of it; None if that is nothing."""
    letters = known.letters if known is not None else None
    if known is None or known.state is None:
        if row.verdict in DOUBTFUL:
            return Outcome(read, "skipped", letters=letters)
        if row.faults:
            reason = "; ".join(map(str, row.faults))
            error = InvalidActivity.__name__
            is_to_fix = letters is not None
            return Outcome(read, "invalid", None, None, error, reason, letters, is_to_fix)
        # An entry that was pruned before its state was seen had ended.
        state = "accepted" if row.verdict == "posted" else "not_sent"
        return Outcome(read, state, letters=letters)
    state = known.state
    if state == "sending" or (
        state == "pending" and known.error_type == DeliveryUncertain.__name__
    ):
        state = "uncertain"
    elif state == "pending":
        state = "not_sent"
    elif state == FAILED_BY_QUEUE:
        state = "failed"
    reason = " ".join((known.message or known.error_type or "").split())
    is_to_fix = known.kind == "failed" or state == "rejected"
    ids = known.request_id, known.activity_id
    return Outcome(read, state, *ids, known.error_type, reason, letters, is_to_fix)
