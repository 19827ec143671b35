"""`RetryPolicy`, and which errors it applies to."""

from __future__ import annotations

from random import uniform

from attrs import field, frozen
from attrs.validators import ge, gt

from leadpost.errors import ConnectionFailed, NotSent, RateLimited, ServerError, TokenLost

RETRYABLE = (RateLimited, ServerError, ConnectionFailed, TokenLost)
"""What is always retried; `DeliveryUncertain` only on request."""


class NothingToSend(NotSent):
    """There was a token, but no call to make: an outbox's entry was gone."""


@frozen(kw_only=True)
class RetryPolicy:
    """
    How long to keep trying one activity.

    Retried are 429 in all its spellings, 500 without an `MX…` exception, 503, and failures to
    connect. Never retried are 400, 401, 403, 404 and `MX…` exceptions. Each attempt takes a token.

    Args:
        max_attempts: The most calls. Refusals (429) and failures during an outage do not count:
            they say nothing about the activity.
        max_time: Seconds after which no attempt begins. For a single post they start when it
            begins to wait for a token; in a batch with its first token, and again after an outage.
        initial_wait: Seconds before the second call, doubled for each further one.
        max_wait: The most seconds before any call, unless Retry-After asks for more.
        jitter: The most seconds that are added to each wait, at random.

    Raises:
        ValueError: a value is out of range.
    """

    max_attempts: int = field(default=5, validator=ge(1))
    max_time: float = field(default=300.0, validator=gt(0))
    initial_wait: float = field(default=0.5, validator=ge(0))
    max_wait: float = field(default=30.0, validator=ge(0))
    jitter: float = field(default=0.5, validator=ge(0))

    def wait_after(self, attempts: int) -> float:
        """Return the seconds to wait after this number of `attempts`, jitter included."""
        doubled = self.initial_wait * 2.0 ** min(attempts - 1, 1000)  # not too large for a float
        return min(doubled, self.max_wait) + uniform(0, self.jitter)  # noqa: S311  # no secret
