"""The answers to queries."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from attrs import field, frozen


@frozen
class RequestStatus:
    """
    The status of a request, according to the Status API.

    Attributes:
        request_id: The RequestID.
        state: `pending`, `succeeded` or `failed`, in LeadSquared's queue.
        is_final: Whether the state can no longer change.
        status: LeadSquared's term: `In-Queue`, `Success`, `FAILURE`, `ERROR`, …
        status_reason: LeadSquared's reason, None without one. The account's keys are removed; it
            may still quote the activity.
        activity_id: The new activity's id, None if the answer does not contain it.
        message: LeadSquared's `Message`, unchanged: usually JSON in a string. Not in the repr.
        request_body: The body of the post, unchanged: personal data. Not in the repr.
        raw: The whole answer, unchanged. Not in the repr.
    """

    request_id: str
    state: Literal["pending", "succeeded", "failed"]
    is_final: bool
    status: str
    status_reason: str | None = field(repr=False)
    activity_id: str | None
    message: object = field(repr=False)
    request_body: object = field(repr=False)
    raw: Mapping[str, Any] = field(repr=False)


@frozen
class QueueMetrics:
    """
    The length and delay of LeadSquared's queue.

    Attributes:
        pending_messages: Number of waiting requests.
        max_delay_in_seconds: The longest wait, in seconds.
        processing_rate_per_minute: Requests processed per minute, over the last 10 minutes.
        raw: The whole answer, unchanged. Not in the repr.
    """

    pending_messages: int
    max_delay_in_seconds: float
    processing_rate_per_minute: float
    raw: Mapping[str, Any] = field(repr=False)


@frozen
class ActivityField:
    """
    A field of an activity type.

    Attributes:
        schema_name: The key to use in `Activity.fields`.
        display_name: The name that LeadSquared's users see, None if the answer has none.
        data_type: LeadSquared's term, such as `String`, None if the answer has none.
        is_mandatory: Whether LeadSquared rejects a post without it.
        is_read_only: Whether LeadSquared's users cannot change it.
        max_length: The most characters, None if the answer does not limit them.
        is_dropdown: Whether its value is one of several options.
        is_multiple: Whether its value may be several options, separated by semicolons.
        allows_others: Whether values other than the options are valid too.
        options: The options of a dropdown, None if they were not requested or could not be read.
        raw: The whole field, unchanged. Not in the repr.
    """

    schema_name: str
    display_name: str | None
    data_type: str | None
    is_mandatory: bool
    is_read_only: bool
    max_length: int | None
    is_dropdown: bool
    is_multiple: bool
    allows_others: bool
    options: tuple[str, ...] | None
    raw: Mapping[str, Any] = field(repr=False)


@frozen
class ActivityType:
    """
    An activity type.

    Attributes:
        code: The code for `Activity.activity_event`, None if the answer has none under a known key.
        name: The name that LeadSquared's users see, None if the answer has none.
        fields: Its fields; empty in a list of types, which does not include them.
        raw: The whole type, unchanged. Not in the repr.
    """

    code: int | None
    name: str | None
    fields: tuple[ActivityField, ...]
    raw: Mapping[str, Any] = field(repr=False)


@frozen
class LeadActivity:
    """
    An activity of a lead, as LeadSquared returns it.

    Attributes:
        activity_id: The activity's id.
        lead_id: The lead's id, None if the answer has none.
        event: The activity type's code, None if the answer has none.
        created_on: LeadSquared's `CreatedOn`, aware, UTC; None if the answer has none. In observed
            answers it was the date-time of the post itself.
        modified_on: LeadSquared's `ModifiedOn`, the time of the last edit, aware, UTC; or None.
        texts: Every text value anywhere in `raw`. LeadSquared does not document which of them is
            the note or the date-time, so look for a posted text in all of them. Not in the repr.
        raw: The whole activity, unchanged. Not in the repr.
    """

    activity_id: str
    lead_id: str | None
    event: int | None
    created_on: datetime | None
    modified_on: datetime | None
    texts: frozenset[str] = field(repr=False)
    raw: Mapping[str, Any] = field(repr=False)


@frozen
class User:
    """
    The user that the keys belong to.

    Attributes:
        sync_host: The account's host of the synchronous API, such as `api-in21.leadsquared.com`.
        time_zone: The account's time zone, such as `Asia/Kolkata`, None if the answer has none.
        raw: The whole answer, unchanged: personal data. Not in the repr.
    """

    sync_host: str
    time_zone: str | None
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def async_host(self) -> str:
        """The account's host of the Async API (unconfirmed unless a page names it)."""
        return f"async{self.sync_host}"
