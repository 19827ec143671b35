"""
Post activities to LeadSquared through its Async API: nothing lost, nothing twice, never refused.

    account = Account.from_env()
    async with AsyncActivityPoster(account) as poster:
        request_id = await poster.post(Activity(lead_id, 201, "Called back"))

`AsyncActivityPoster` is where to start reading, `leadpost.errors` tells what to catch. Each name is
imported from its module when it is first used, so that `import leadpost` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leadpost.account import Account
    from leadpost.activity import Activity
    from leadpost.bucket import Bucket, BucketStatistics, OpenBucket, SteadyBucket, TokenBucket
    from leadpost.errors import (
        ApplicationError,
        BadRequest,
        BatchError,
        ConfigurationError,
        ConnectionFailed,
        DeliveryUncertain,
        InvalidActivity,
        KeyConflict,
        LeadpostError,
        NotFound,
        NotSent,
        OutboxError,
        OutboxUnavailable,
        Outcome,
        Problem,
        RateLimited,
        Rejected,
        ServerError,
        StatusTimeout,
        Unauthorized,
        Unavailable,
        UnexpectedAnswer,
    )
    from leadpost.hooks import Hook
    from leadpost.poster import AsyncActivityPoster
    from leadpost.queries import (
        ActivityField,
        ActivityType,
        LeadActivity,
        QueueMetrics,
        RequestStatus,
    )
    from leadpost.retry import RetryPolicy

__version__ = "0.1.0"

__all__ = [
    "Account",
    "Activity",
    "ActivityField",
    "ActivityType",
    "ApplicationError",
    "AsyncActivityPoster",
    "BadRequest",
    "BatchError",
    "Bucket",
    "BucketStatistics",
    "ConfigurationError",
    "ConnectionFailed",
    "DeliveryUncertain",
    "Hook",
    "InvalidActivity",
    "KeyConflict",
    "LeadActivity",
    "LeadpostError",
    "NotFound",
    "NotSent",
    "OpenBucket",
    "OutboxError",
    "OutboxUnavailable",
    "Outcome",
    "Problem",
    "QueueMetrics",
    "RateLimited",
    "Rejected",
    "RequestStatus",
    "RetryPolicy",
    "ServerError",
    "StatusTimeout",
    "SteadyBucket",
    "TokenBucket",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
]

_HOMES = {
    "Account": "account",
    "Activity": "activity",
    "AsyncActivityPoster": "poster",
    "Hook": "hooks",
    "RetryPolicy": "retry",
    **dict.fromkeys(
        ("ActivityField", "ActivityType", "LeadActivity", "QueueMetrics", "RequestStatus"),
        "queries",
    ),
    **dict.fromkeys(
        ("Bucket", "BucketStatistics", "OpenBucket", "SteadyBucket", "TokenBucket"), "bucket"
    ),
}

if not TYPE_CHECKING:  # else a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'leadpost' has no attribute {name!r}")
        value = getattr(import_module(f"leadpost.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
