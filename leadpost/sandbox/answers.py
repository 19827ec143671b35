"""
LeadSquared's answers, and the shapes of its errors.

Sources: LeadSquared's page "Post an Activity on a Lead (Async)"; for the gateway in front of the
hosts, bodies that users have seen.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import field, frozen

JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html"}


def _utf8(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else body


@frozen
class Answer:
    """
    An answer, sent exactly like this.

    Args:
        status: HTTP status, 200 to 599.
        body: The body; text is sent as UTF-8.
        headers: Header fields; Content-Length is added.

    Raises:
        ValueError: the status cannot end a call, or does not allow the body.
    """

    status: int = field()
    body: bytes = field(default=b"", converter=_utf8)
    headers: Mapping[str, str] = MappingProxyType({})

    def __attrs_post_init__(self) -> None:
        if not 200 <= self.status <= 599:
            raise ValueError(f"status must be from 200 to 599; found {self.status}")
        if self.status in (204, 304) and self.body:
            raise ValueError(f"an answer with status {self.status} must not have a body")


class RejectedError(Exception):
    """LeadSquared rejects the call; `answer` says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


def json_answer(status: int, content: Any) -> Answer:
    return Answer(status, json.dumps(content), JSON)


def error(status: int, exception_type: str, message: str) -> Answer:
    """Return an error in LeadSquared's envelope."""
    envelope = {"Status": "Error", "ExceptionType": exception_type, "ExceptionMessage": message}
    return json_answer(status, envelope)


def invalid(message: str) -> Answer:
    return error(400, "MXInvalidInputException", message)


def missing(name: str) -> Answer:
    return error(400, "MXMandatoryAttributeMissingException", f"'{name}' is required")


def unauthorized() -> Answer:
    return error(401, "MXUnAuthorizedAccessException", "AccessKey or SecretKey is not valid")


def forbidden() -> Answer:
    """Return the gateway's answer to a wrong `x-api-key`."""
    return json_answer(403, {"message": "Forbidden"})


def unknown_activity() -> Answer:
    return error(500, "MXInvalidActivityException", "Event Code is invalid or empty")


def rate_limited(limit: int, period: float) -> Answer:
    message = f"API calls exceeded the limit of {limit} in {period:g} second(s)"
    return error(429, "MXAPIRateLimitExceededException", message)
