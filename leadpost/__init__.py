"""
Post activities to LeadSquared through its Async API: nothing lost, nothing twice, never refused.

    account = Account.from_env()
    async with AsyncActivityPoster(account) as poster:
        request_id = await poster.post(Activity(lead_id, 201, "Called back"))

`AsyncActivityPoster` is where to start reading, `leadpost.errors` tells what to catch.
"""

from leadpost.account import Account
from leadpost.activity import Activity
from leadpost.bucket import Bucket, BucketStatistics, OpenBucket, TokenBucket
from leadpost.errors import (
    ApplicationError,
    BadRequest,
    BatchError,
    ConfigurationError,
    ConnectionFailed,
    DeliveryUncertain,
    InvalidActivity,
    LeadpostError,
    NotFound,
    NotSent,
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
from leadpost.poster import AsyncActivityPoster
from leadpost.queries import ActivityField, ActivityType, QueueMetrics, RequestStatus
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
    "InvalidActivity",
    "LeadpostError",
    "NotFound",
    "NotSent",
    "OpenBucket",
    "Outcome",
    "Problem",
    "QueueMetrics",
    "RateLimited",
    "Rejected",
    "RequestStatus",
    "RetryPolicy",
    "ServerError",
    "StatusTimeout",
    "TokenBucket",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
]
