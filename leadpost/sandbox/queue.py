"""
Accepted activities, and the queue that processes them.

The queue needs no worker: when a request is done follows from its arrival and the pace. Times are
seconds of the monotonic clock.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from attrs import frozen

from leadpost.sandbox import activity_types
from leadpost.sandbox.checks import OfLead, Span

FINAL_STATUSES = ("Success", "ERROR", "FAILURE")
_REASONS = {
    "Success": "Request was successfully completed",
    "ERROR": "MXInvalidActivityException: Event Code is invalid or empty",
    "FAILURE": "The request could not be processed",
}
_RATE_SPAN = 600.0  # LeadSquared's processing rate covers the last 10 minutes
_EPOCH = time.time() - time.monotonic()  # makes wall-clock times of monotonic ones


def request_id_of(payload: Mapping[str, Any], copy: int = 0) -> str:
    """
    Return the RequestID that the sandbox gives to an activity, so that a test can predict it.

    Args:
        payload: The body of the post; the order of its keys does not matter.
        copy: How often the same body was accepted before.

    Returns:
        A UUID as text.
    """
    body = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return str(uuid5(NAMESPACE_URL, f"leadpost-sandbox:request:{copy}:{body}"))


@frozen
class Accepted:
    """
    An accepted activity.

    Attributes:
        arrived_at: When it arrived, in seconds of `time.monotonic`.
        processed_at: When it is processed, likewise.
        request_id: Its RequestID, a UUID as text; see `request_id_of`.
        body: The body of the post, JSON.
        lead_id: The lead's id: posted, or of the lead that was found or created; "" without one.
        activity_event: The activity type's code.
    """

    arrived_at: float
    processed_at: float
    request_id: str
    body: str
    lead_id: str
    activity_event: int

    @property
    def payload(self) -> dict[str, Any]:
        """The body as a dict, parsed each time: a run of 100,000 posts keeps only the text."""
        payload: dict[str, Any] = json.loads(self.body)
        return payload


class Queue:
    """The accepted activities, in order, and the async queue."""

    def __init__(self, pace: float, ends: Mapping[int, str]) -> None:
        self.accepted: list[Accepted] = []
        self.duplicates = 0
        self._pace = pace
        self._ends = dict(ends)
        self._copies = Counter[str]()
        self._queue: dict[str, Accepted] = {}  # by RequestID
        self._free_at = 0.0  # when all of the queue is done

    def accept(
        self, payload: Mapping[str, Any], now: float, lead: str = "", done: float = 0.0
    ) -> Accepted:
        """Accept a post: on `lead` if it has no lead's id, processed at `done` or else at once."""
        first = request_id_of(payload)
        copy = self._copies[first]
        self._copies[first] += 1
        self.duplicates += copy > 0
        accepted = Accepted(
            now,
            max(now, done),
            request_id_of(payload, copy) if copy else first,
            json.dumps(payload),
            lead or str(payload.get("RelatedProspectId", "")),
            _activity(payload)["ActivityEvent"],
        )
        self.accepted.append(accepted)
        return accepted

    def enqueue(self, payload: Mapping[str, Any], now: float, lead: str = "") -> Accepted:
        """Accept a post that is processed after those before it."""
        self._free_at = max(self._free_at, now) + 1 / self._pace
        accepted = self.accept(payload, now, lead, self._free_at)
        self._queue[accepted.request_id] = accepted
        return accepted

    def pending(self, now: float) -> int:
        return sum(one.processed_at > now for one in self._queue.values())

    def metrics(self, now: float) -> dict[str, Any]:
        """Return the answer of the Metrics API."""
        queue = self._queue.values()
        lately = sum(now - _RATE_SPAN < one.processed_at <= now for one in queue)
        oldest = min((one.arrived_at for one in queue if one.processed_at > now), default=now)
        return {
            "PendingMessages": self.pending(now),
            "MaxDelayInSeconds": int(now - oldest),
            "ProcessingRatePerMinute": lately / (_RATE_SPAN / 60),
        }

    def status(self, request_id: str, now: float, *, custom: bool) -> dict[str, Any]:
        """Return the answer of the Status API; posts to createcustom have a `custom` path."""
        accepted = self._queue[request_id]
        if custom != ("Activity" in accepted.payload):
            raise KeyError(request_id)
        is_queued = now < accepted.processed_at
        status = "In-Queue" if is_queued else self._status(accepted.activity_event)
        return {
            "RequestId": request_id,
            "TaskStatus": {
                "TaskType": "Activity Create Custom" if custom else "Activity Create",
                "Status": status,
                "StatusReason": _REASONS.get(status),
                "TaskCurrentStep": "In-Process-Queue" if is_queued else None,
                "TaskLastStep": None if is_queued else "In-Process-Queue",
                "RequestBody": accepted.body,
                "Message": json.dumps(created(accepted)) if status == "Success" else None,
            },
        }

    def lead_activities(self, query: OfLead, now: float) -> dict[str, Any]:
        """Return the answer to a query for a lead's processed activities, newest first."""
        lead = query.lead.lower()
        found = [one for one in self._created(query.code, now) if one.lead_id.lower() == lead]
        found.sort(key=attrgetter("processed_at"))
        found.reverse()
        first = query.page * query.size
        rows = [_lead_activity(one) for one in found[first : first + query.size]]
        return {"RecordCount": len(found), "ProspectActivities": rows}

    def activities_between(self, span: Span, now: float) -> dict[str, Any]:
        """Return the answer to a query for the activities modified in a span, sorted by id."""
        rows = [
            _row(one)
            for one in self._created(span.code, now)
            if span.start <= _modified_on(one) <= span.end
        ]
        rows.sort(key=itemgetter("ProspectActivityId"))
        first = (span.page - 1) * span.size
        return {"RecordCount": len(rows), "List": rows[first : first + span.size]}

    def _created(self, code: int, now: float) -> list[Accepted]:
        """Return the activities of a type that are on their leads."""
        succeeds = self._status(code) == "Success"
        of_type = [
            one for one in self.accepted if one.activity_event == code and one.processed_at <= now
        ]
        return [one for one in of_type if succeeds or one.request_id not in self._queue]

    def _status(self, code: int) -> str:
        return self._ends.get(code, "Success" if code in activity_types.NAMES else "ERROR")


def created(accepted: Accepted) -> dict[str, Any]:
    """Return the answer to a synchronous post."""
    return {"Status": "Success", "Message": {"Id": _activity_id(accepted)}}


def _activity(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the activity in a post; in one to createcustom it is beside the lead's details."""
    activity: Mapping[str, Any] = payload.get("Activity", payload)
    return activity


def _activity_id(accepted: Accepted) -> str:
    return str(uuid5(UUID(accepted.request_id), "activity"))


def _modified_on(accepted: Accepted) -> datetime:
    return datetime.fromtimestamp(int(_EPOCH + accepted.processed_at), UTC)


def _lead_activity(accepted: Accepted) -> dict[str, Any]:
    """Return an activity as in a lead's list, which has no empty values."""
    activity = _activity(accepted.payload)
    modified_on = f"{_modified_on(accepted):%Y-%m-%d %H:%M:%S}"
    created_on = activity.get("ActivityDateTime", modified_on)
    values = {
        "NotableEventDescription": activity.get("ActivityNote"),
        "ActivityDateTime": created_on,
        **_fields(activity),
    }
    return {
        "Id": _activity_id(accepted),
        "EventCode": accepted.activity_event,
        "EventName": activity_types.NAMES.get(accepted.activity_event),
        "CreatedOn": created_on,
        "ModifiedOn": modified_on,
        "Data": [{"Key": k, "Value": v} for k, v in values.items() if v not in (None, "")],
    }


def _row(accepted: Accepted) -> dict[str, Any]:
    """Return an activity as in the list for a span of time: flat, with numbers as text."""
    activity = _activity(accepted.payload)
    modified_on = f"{_modified_on(accepted):%Y-%m-%d %H:%M:%S}"
    return {
        "ProspectActivityId": _activity_id(accepted),
        "RelatedProspectId": accepted.lead_id or None,
        "ActivityEvent": str(accepted.activity_event),
        "ActivityEvent_Note": activity.get("ActivityNote"),
        "CreatedOn": activity.get("ActivityDateTime", modified_on),
        "ModifiedOn": modified_on,
        **_fields(activity),
    }


def _fields(activity: Mapping[str, Any]) -> dict[str, Any]:
    return {
        item.get("SchemaName", item.get("Attribute")): item.get("Fields", item.get("Value"))
        for item in activity.get("Fields", ())
    }
