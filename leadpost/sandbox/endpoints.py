"""LeadSquared's paths: what each answers to a call that has passed the limit and the keys."""

from collections.abc import Callable, Mapping
from email.message import Message
from functools import partial
from typing import Any

from attrs import frozen

from leadpost.sandbox import activity_types, checks
from leadpost.sandbox.answers import Answer, RejectedError, invalid, missing, unknown_activity
from leadpost.sandbox.leads import Leads
from leadpost.sandbox.queue import Accepted, Queue, created

_CUSTOM = "/activity/createcustom"
_LOOK_UPS = {
    "Leads.GetByEmailaddress": ("EmailAddress", "emailaddress"),
    "RetrieveLeadByPhoneNumber": ("Phone", "phone"),
    "Leads.GetById": ("ProspectID", "id"),
}


@frozen
class Call:
    """One HTTP request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Message
    body: bytes
    time: float  # of its arrival

    def parameter(self, name: str) -> str:
        """Return a parameter of the query string, or raise RejectedError without it."""
        if name not in self.query:
            raise RejectedError(missing(name))
        return self.query[name]

    def content(self) -> dict[str, Any]:
        """Return the JSON object in the body, or raise RejectedError if there is none."""
        return checks.read_object(self.headers.get("content-type", ""), self.body)


@frozen
class Endpoint:
    """One path of LeadSquared's API."""

    handle: Callable[[Call], Any]  # returns the JSON of a successful answer
    gated: bool = False  # whether it needs the `x-api-key`, as all of the async host do
    keyed: bool = True  # whether it needs AccessKey and SecretKey


class Endpoints:
    """LeadSquared's paths, which read and write the queue and the leads."""

    def __init__(
        self, queue: Queue, leads: Leads, status_path: str, *, keys_for_status: bool
    ) -> None:
        self._queue = queue
        self._leads = leads
        activities = "/v2/ProspectActivity.svc"
        posts = {"/activity/create": self._submit, _CUSTOM: self._submit_custom}
        queries = {
            status_path: self._status,
            "/activity/create/metrics": self._metrics,
            f"{_CUSTOM}/status": self._status,
            f"{_CUSTOM}/metrics": self._metrics,
        }
        self._endpoints = {
            **{("POST", path): Endpoint(handle, gated=True) for path, handle in posts.items()},
            **{
                ("GET", path): Endpoint(handle, gated=True, keyed=keys_for_status)
                for path, handle in queries.items()
            },
            ("POST", f"{activities}/Create"): Endpoint(self._create),
            ("POST", f"{activities}/Retrieve"): Endpoint(self._retrieve),
            ("POST", f"{activities}/CustomActivity/RetrieveByActivityEvent"): Endpoint(
                self._retrieve_by_event
            ),
            **{
                ("GET", f"/v2/LeadManagement.svc/{name}"): Endpoint(partial(self._leads_by, *by))
                for name, by in _LOOK_UPS.items()
            },
            ("GET", f"{activities}/ActivityTypes.Get"): Endpoint(lambda _: activity_types.listed()),
            ("GET", f"{activities}/CustomActivity/GetActivitySetting"): Endpoint(_type_details),
            ("POST", f"{activities}/ActivityField/Dropdown/Options/Get"): Endpoint(_options),
            ("GET", "/v2/Authentication.svc/UserByAccessKey.Get"): Endpoint(_user),
        }

    def find(self, call: Call) -> Endpoint | Answer:
        """Return the endpoint of a call, or the answer that there is none."""
        found = self._endpoints.get((call.method, call.path))
        if found is None:
            return Answer(405 if call.path in {path for _, path in self._endpoints} else 404)
        return found

    def _submit(self, call: Call) -> dict[str, Any]:
        activity = call.content()
        checks.check_activity(activity)
        return _accepted(self._queue.enqueue(activity, call.time))

    def _submit_custom(self, call: Call) -> dict[str, Any]:
        content = call.content()
        attributes, search_by = checks.read_lead_and_activity(content)
        lead = self._leads.find_or_create(attributes, search_by)
        return _accepted(self._queue.enqueue(content, call.time, lead))

    def _status(self, call: Call) -> dict[str, Any]:
        is_custom = call.path.startswith(_CUSTOM)
        try:
            return self._queue.status(call.parameter("RequestID"), call.time, custom=is_custom)
        except KeyError:
            raise RejectedError(invalid("RequestID is unknown")) from None

    def _metrics(self, call: Call) -> dict[str, Any]:
        return self._queue.metrics(call.time)

    def _create(self, call: Call) -> dict[str, Any]:
        activity = call.content()
        checks.check_activity(activity)
        if activity["ActivityEvent"] not in activity_types.NAMES:
            raise RejectedError(unknown_activity())
        return created(self._queue.accept(activity, call.time))

    def _retrieve(self, call: Call) -> dict[str, Any]:
        query = checks.read_of_lead(call.parameter("leadId"), call.content())
        return self._queue.lead_activities(query, call.time)

    def _retrieve_by_event(self, call: Call) -> dict[str, Any]:
        return self._queue.activities_between(checks.read_span(call.content()), call.time)

    def _leads_by(self, name: str, parameter: str, call: Call) -> list[dict[str, Any]]:
        return self._leads.find(name, call.parameter(parameter))


def _accepted(accepted: Accepted) -> dict[str, Any]:
    status = "Request accepted. Please use below request id to check the status"
    return {"Status": status, "RequestID": accepted.request_id}


def _type_details(call: Call) -> dict[str, Any]:
    try:
        return activity_types.details(int(call.parameter("code")))
    except (KeyError, ValueError):
        raise RejectedError(unknown_activity()) from None


def _options(call: Call) -> dict[str, Any]:
    code, name = checks.read_dropdown(call.content())
    try:
        return {"Options": activity_types.options(code, name)}
    except KeyError:
        raise RejectedError(invalid("there is no such dropdown")) from None


def _user(call: Call) -> dict[str, Any]:
    host = call.headers.get("host", "")
    return {
        "Id": "9a8b7c6d-5e4f-4321-8765-0fedcba98765",
        "FirstName": "Sandbox",
        "EmailAddress": "sandbox@example.com",
        "LSQCommonServiceURLs": {"api": host, "app": host},
        "TimeZone": "Asia/Kolkata",
        "Role": "Administrator",
        "OrgId": "10001",
    }
