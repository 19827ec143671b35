"""
Post activities to LeadSquared through its Async API, within its limit and never twice unasked.

    account = Account.from_env()
    async with AsyncActivityPoster(account) as poster:
        request_id = await poster.post(Activity(lead_id, 201, "Called back"))

Start with `AsyncActivityPoster`; `leadpost.errors` shows what to catch.
"""

from leadpost._account import Account
from leadpost._answers import (
    ActivityField,
    ActivityType,
    LeadActivity,
    QueueMetrics,
    RequestStatus,
    User,
)
from leadpost._findings import Checked, Finding
from leadpost._models import Activity, Lead
from leadpost._outcomes import BatchError, Outcome, StatusTimeout
from leadpost._poster import AsyncActivityPoster
from leadpost._retry import RetryPolicy
from leadpost.bucket import (
    Bucket,
    BucketStatistics,
    ManagedBucket,
    OpenBucket,
    Priority,
    TokenBucket,
)
from leadpost.errors import (
    AmbiguousLead,
    ApplicationError,
    BadRequest,
    ConfigurationError,
    ConnectionFailed,
    DeliveryUncertain,
    DiskFull,
    InvalidActivity,
    KeyConflict,
    LeadpostError,
    NotFound,
    NotSent,
    OutageTimeout,
    OutboxError,
    OutboxUnavailable,
    Problem,
    RateLimited,
    Rejected,
    ServerError,
    TokenLost,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from leadpost.hooks import Hook

__version__ = "0.1.0"

__all__ = [
    "Account",
    "Activity",
    "ActivityField",
    "ActivityType",
    "AmbiguousLead",
    "ApplicationError",
    "AsyncActivityPoster",
    "BadRequest",
    "BatchError",
    "Bucket",
    "BucketStatistics",
    "Checked",
    "ConfigurationError",
    "ConnectionFailed",
    "DeliveryUncertain",
    "DiskFull",
    "Finding",
    "Hook",
    "InvalidActivity",
    "KeyConflict",
    "Lead",
    "LeadActivity",
    "LeadpostError",
    "ManagedBucket",
    "NotFound",
    "NotSent",
    "OpenBucket",
    "OutageTimeout",
    "OutboxError",
    "OutboxUnavailable",
    "Outcome",
    "Priority",
    "Problem",
    "QueueMetrics",
    "RateLimited",
    "Rejected",
    "RequestStatus",
    "RetryPolicy",
    "ServerError",
    "StatusTimeout",
    "TokenBucket",
    "TokenLost",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "User",
]

# Reprs and tracebacks show the name that is imported and caught: leadpost.RateLimited.
for _name in __all__:
    globals()[_name].__module__ = __name__
