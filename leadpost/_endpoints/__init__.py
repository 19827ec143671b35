"""
Every call of LeadSquared's API: its path, parameters and body, and how its answer is read.

Pure functions: each takes the account and returns a `Call`. It does not contain the account's keys;
they are added below the HTTP client. Names in answers are compared without case, as the API varies
their spelling.
"""

from leadpost._endpoints.async_api import metrics, post, status
from leadpost._endpoints.call import Call
from leadpost._endpoints.sync_api import (
    LONG_PAGE,
    Page,
    activities_between,
    activity_type,
    activity_types,
    dropdown_options,
    find_lead,
    lead_activities,
    post_sync,
    user,
)
from leadpost._endpoints.values import moment, texts_in

__all__ = [
    "LONG_PAGE",
    "Call",
    "Page",
    "activities_between",
    "activity_type",
    "activity_types",
    "dropdown_options",
    "find_lead",
    "lead_activities",
    "metrics",
    "moment",
    "post",
    "post_sync",
    "status",
    "texts_in",
    "user",
]
