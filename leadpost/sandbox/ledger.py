"""
Accepted activities, and the queue that processes them.

The queue needs no worker: the times of arrival and the pace determine when each request is done.
Times are seconds of the monotonic clock.
"""

import json
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from attrs import frozen

from leadpost.sandbox import activity_types
from leadpost.sandbox.checks import Question, Span

FINAL_STATUSES = ("Success", "ERROR", "FAILURE")
_REASONS = {
    "Success": "Request was successfully completed",
    "ERROR": "MXInvalidActivityException: Event Code is invalid or empty",
    "FAILURE": "The request could not be processed",
}
_RATE_SPAN = 600.0  # LeadSquared's processing rate covers the last 10 minutes


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
        time: When it arrived, in seconds of `time.monotonic`.
        request_id: Its RequestID, a UUID as text; see `request_id_of`.
        body: The body of the post, JSON.
        lead: The id of the lead that was found or created; None if the post has the lead's id.
    """

    time: float
    request_id: str
    body: str
    lead: str | None = None

    @property
    def payload(self) -> dict[str, Any]:
        """The body as a dict, parsed each time: a run of 100,000 posts keeps only the text."""
        payload: dict[str, Any] = json.loads(self.body)
        return payload

    @property
    def activity(self) -> dict[str, Any]:
        """The activity with its lead's id, without any other details of the lead."""
        payload = self.payload
        return (
            payload if self.lead is None else {"RelatedProspectId": self.lead} | payload["Activity"]
        )


class Ledger:
    """
    The accepted activities, in order, and the async queue.

    Args:
        pace: Queued activities processed per second.
        ends: Event code to the final status of its requests: "Success", "ERROR" or "FAILURE". By
            default "Success" for a code that the account has, "ERROR" for any other.
    """

    def __init__(self, pace: float, ends: Mapping[int, str]) -> None:
        self.accepted: list[Accepted] = []
        self.duplicates = 0
        self._pace = pace
        self._ends = dict(ends)
        self._copies: dict[str, int] = {}
        self._queue: list[Accepted] = []
        self._done: list[float] = []  # when each request in the queue is done, never decreasing
        self._index: dict[str, int] = {}  # RequestID to its place in the queue
        self._of_leads = defaultdict[tuple[str, int], list[Accepted]](list)  # lead and event code
        self._of_types = defaultdict[int, list[Accepted]](list)
        self._read = 0  # how many accepted activities these two contain
        self._epoch = time.time() - time.monotonic()  # makes wall-clock times of monotonic ones

    def accept(
        self, activity: Mapping[str, Any], body: str, now: float, lead: str | None = None
    ) -> Accepted:
        """Accept an activity that is processed at once."""
        first = request_id_of(activity)
        copy = self._copies.get(first, 0)
        self._copies[first] = copy + 1
        self.duplicates += copy > 0
        accepted = Accepted(now, request_id_of(activity, copy) if copy else first, body, lead)
        self.accepted.append(accepted)
        return accepted

    def enqueue(
        self, activity: Mapping[str, Any], body: str, now: float, lead: str | None = None
    ) -> Accepted:
        """Accept an activity that is processed after those before it."""
        accepted = self.accept(activity, body, now, lead)
        begun = max(self._done[-1], now) if self._done else now
        self._index[accepted.request_id] = len(self._queue)
        self._queue.append(accepted)
        self._done.append(begun + 1 / self._pace)
        return accepted

    def pending(self, now: float) -> int:
        return len(self._queue) - bisect_right(self._done, now)

    def metrics(self, now: float) -> dict[str, Any]:
        """Return the answer of the Metrics API."""
        done = bisect_right(self._done, now)
        lately = done - bisect_right(self._done, now - _RATE_SPAN)
        oldest = self._queue[done].time if done < len(self._queue) else now
        return {
            "PendingMessages": len(self._queue) - done,
            "MaxDelayInSeconds": int(now - oldest),
            "ProcessingRatePerMinute": lately / (_RATE_SPAN / 60),
        }

    def status(self, request_id: str, now: float, *, custom: bool) -> dict[str, Any]:
        """
        Return the answer of the Status API, which has a separate path for posts to createcustom.

        Raises:
            KeyError: there is no such request.
        """
        index = self._index[request_id]
        accepted = self._queue[index]
        if custom != (accepted.lead is not None):
            raise KeyError(request_id)
        status = (
            "In-Queue" if now < self._done[index] else self._end(accepted.activity["ActivityEvent"])
        )
        queued = status == "In-Queue"
        message = json.dumps(created(accepted)) if status == "Success" else None
        return {
            "RequestId": request_id,
            "TaskStatus": {
                "TaskType": "Activity Create Custom" if custom else "Activity Create",
                "Status": status,
                "StatusReason": _REASONS.get(status),
                "TaskCurrentStep": "In-Process-Queue" if queued else None,
                "TaskLastStep": None if queued else "In-Process-Queue",
                "RequestBody": accepted.body,
                "Message": message,
            },
        }

    def lead_activities(self, question: Question, now: float) -> dict[str, Any]:
        """Return the answer to a query for a lead's processed activities, newest first."""
        self._read_bodies()
        made = self._made(self._of_leads[question.lead.lower(), question.code], question.code, now)
        made.sort(key=itemgetter(0), reverse=True)
        page = made[question.offset : question.offset + question.rows]
        return {
            "RecordCount": len(made),
            "ProspectActivities": [_lead_activity(accepted, when) for when, accepted in page],
        }

    def activities_between(self, span: Span, now: float) -> dict[str, Any]:
        """Return the answer to a query for the activities modified in a span, sorted by id."""
        self._read_bodies()
        made = self._made(self._of_types[span.code], span.code, now)
        rows = [
            _row(accepted, when)
            for when, accepted in made
            if span.start <= when.replace(microsecond=0) <= span.end
        ]
        rows.sort(key=itemgetter("ProspectActivityId"))
        first = (span.page - 1) * span.size
        return {"RecordCount": len(rows), "List": rows[first : first + span.size]}

    def _read_bodies(self) -> None:
        """Index new activities by lead and type: for queries, so that posts stay fast."""
        for accepted in self.accepted[self._read :]:
            payload = accepted.activity
            lead, code = str(payload.get("RelatedProspectId")).lower(), payload["ActivityEvent"]
            self._of_leads[lead, code].append(accepted)
            self._of_types[code].append(accepted)
        self._read = len(self.accepted)

    def _made(self, many: list[Accepted], code: int, now: float) -> list[tuple[datetime, Accepted]]:
        """Return those of `many` that are processed successfully, each with its time, UTC."""
        succeeds = self._end(code) == "Success"
        made: list[tuple[datetime, Accepted]] = []
        for accepted in reversed(many):
            place = self._index.get(accepted.request_id)
            done = accepted.time if place is None else self._done[place]
            if done <= now and (succeeds or place is None):
                made.append((datetime.fromtimestamp(self._epoch + done, UTC), accepted))
        return made

    def _end(self, code: int) -> str:
        return self._ends.get(code, "Success" if code in activity_types.NAMES else "ERROR")


def created(accepted: Accepted) -> dict[str, Any]:
    """Return the answer to a synchronous post."""
    return {"Status": "Success", "Message": {"Id": _activity_id(accepted)}}


def _activity_id(accepted: Accepted) -> str:
    return str(uuid5(UUID(accepted.request_id), "activity"))


def _lead_activity(accepted: Accepted, made: datetime) -> dict[str, Any]:
    """Return an activity as in a lead's list, which has no empty values."""
    payload = accepted.activity
    modified_on = f"{made:%Y-%m-%d %H:%M:%S}"
    created_on = payload.get("ActivityDateTime", modified_on)
    values = {
        "NotableEventDescription": payload.get("ActivityNote"),
        "ActivityDateTime": created_on,
        **_fields(payload),
    }
    return {
        "Id": _activity_id(accepted),
        "EventCode": payload["ActivityEvent"],
        "EventName": activity_types.NAMES.get(payload["ActivityEvent"]),
        "CreatedOn": created_on,
        "ModifiedOn": modified_on,
        "Data": [{"Key": k, "Value": v} for k, v in values.items() if v not in (None, "")],
    }


def _row(accepted: Accepted, made: datetime) -> dict[str, Any]:
    """Return an activity as in the list for a span of time: flat, with numbers as text."""
    payload = accepted.activity
    modified_on = f"{made:%Y-%m-%d %H:%M:%S}"
    return {
        "ProspectActivityId": _activity_id(accepted),
        "RelatedProspectId": payload.get("RelatedProspectId"),
        "ActivityEvent": str(payload["ActivityEvent"]),
        "ActivityEvent_Note": payload.get("ActivityNote"),
        "CreatedOn": payload.get("ActivityDateTime", modified_on),
        "ModifiedOn": modified_on,
        **_fields(payload),
    }


def _fields(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        item.get("SchemaName", item.get("Attribute")): item.get("Fields", item.get("Value"))
        for item in payload.get("Fields", ())
    }
