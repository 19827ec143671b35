"""What the failure of a call means for its entry."""

from __future__ import annotations

from typing import cast

from leadpost._bucket_parts import LONGEST_RETRY_AFTER
from leadpost._retry import RetryPolicy
from leadpost.errors import (
    ConfigurationError,
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    NotFound,
    NotSent,
    RateLimited,
    ServerError,
    Unauthorized,
)
from leadpost.outbox._entry import EntryState
from leadpost.outbox.database._calls import Claim, Result


def result_of(
    error: LeadpostError,
    claim: Claim,
    policy: RetryPolicy,
    *,
    retries_uncertain: bool,
    is_away: bool,
    others_succeed: bool,
) -> Result:
    """
    Decide what becomes of an entry whose call has failed.

    Only failures that the entry itself may have caused count: none while LeadSquared is away
    (`is_away`), no refusal (429), and no call that was not sent. An entry is given up only if
    `others_succeed` while it fails: an entry that is alone cannot show that LeadSquared is away.
    """
    failures = claim.failures + 1
    wait = max(policy.wait_after(failures), min(error.retry_after or 0.0, LONGEST_RETRY_AFTER))
    is_retried = isinstance(error, ServerError) or (
        retries_uncertain and isinstance(error, DeliveryUncertain)
    )
    because = _still_uncertain(error, claim)
    match error:
        case ConfigurationError() | NotSent() | Unauthorized() | NotFound():
            return Result("pending", error=because)
        case ConnectionFailed():
            return Result("pending", error=because, due_in=0 if is_away else policy.wait_after(1))
        case RateLimited():
            return Result("pending", error=because, due_in=wait)
        case _ if is_retried and is_away:
            return Result("pending", error=because)
        case _ if is_retried and (failures < policy.max_attempts or not others_succeed):
            return Result("pending", error=because, due_in=wait, failed=True)
        case _:
            state = cast("EntryState", because.state)  # those of unsent calls are handled above
            return Result(state, error=because, failed=True)


def _still_uncertain(error: LeadpostError, claim: Claim) -> LeadpostError:
    """Keep an entry uncertain if an earlier call may have arrived, however this one ended."""
    if not claim.is_uncertain or isinstance(error, DeliveryUncertain):
        return error
    return DeliveryUncertain(f"an earlier call may have arrived; the last one: {error}")
