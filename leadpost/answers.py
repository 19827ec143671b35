"""
What the vendor's answer to a post says: the id of what was posted, or the error it stands for.

Pure functions over status, headers and body. Whatever those hold, each ends in its result or raises
a `LeadpostError`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, TypeVar

from attrs import field, frozen

from leadpost._shapes import is_mapping
from leadpost.errors import (
    ApplicationError,
    BadRequest,
    DeliveryUncertain,
    LeadpostError,
    NotFound,
    RateLimited,
    Rejected,
    ServerError,
    Unauthorized,
)

_LIMIT = re.compile(r"limit of (\d{1,9}) in (\d{1,9}) second")
_LONGEST_MESSAGE = 500
_SHORTEST_SECRET = 4
_E = TypeVar("_E", bound=LeadpostError)


def redacted(text: str, secrets: Sequence[str]) -> str:
    """
    Take the secrets out of a text, as they are and as JSON writes them.

    The longest go first, so that none leaves a part of another; those of less than 4 characters
    stay, as no text would be left to read.
    """
    forms = {json.dumps(s, ensure_ascii=a)[1:-1] for s in secrets for a in (True, False)}
    for secret in sorted(forms.union(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


@frozen(slots=False)
class Answer:
    """
    One HTTP answer.

    Attributes:
        status: HTTP status.
        body: The body, decoded from its content encoding.
        retry_after: Seconds to wait, from the Retry-After header.
        redact: Takes keys and personal texts out of what the vendor wrote.
    """

    status: int
    body: bytes = field(repr=False)
    retry_after: float | None = None
    redact: Callable[[str], str] = field(default=str, repr=False)

    @cached_property
    def json(self) -> object:
        """The body's JSON value; None if it holds none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300

    @cached_property
    def exception_type(self) -> str | None:
        """As the vendor wrote it: for reading, not for showing."""
        found = get(self.json, "ExceptionType")
        return found if isinstance(found, str) and found else None

    def shown(self, text: str | None) -> str | None:
        return None if text is None else self.redact(text)[:_LONGEST_MESSAGE]

    @cached_property
    def limit(self) -> tuple[int, int] | None:
        """The account's limit as (calls, seconds), where the message names it."""
        found = _LIMIT.search(self.message or "")
        return (int(found[1]), int(found[2])) if found else None

    @property
    def says_error(self) -> bool:
        """Whether the body says that the call failed, whatever the status."""
        status = get(self.json, "Status")
        failed = isinstance(status, str) and status.strip().lower() in {"error", "failed"}
        return failed or self.exception_type is not None

    @cached_property
    def message(self) -> str | None:
        """As the vendor wrote it: for reading, not for showing."""
        for name in ("ExceptionMessage", "Message"):
            found = get(self.json, name)
            if is_mapping(found):  # {"Status": "Failed", "Message": {"Message": "…"}}
                found = get(found, "Message")
            if isinstance(found, str) and found:
                return found
        return None


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """
    Give the seconds that a Retry-After header asks for (RFC 9110, 10.2.3).

    Args:
        value: Seconds or an HTTP date; None where the header is missing.
        now: The time now, aware.

    Returns:
        Seconds from now, never negative; None if the header says nothing that can be read.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
            seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
        except (ValueError, OverflowError, IndexError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def read_request_id(answer: Answer) -> str:
    """
    Give the RequestID of an accepted async post.

    Success is a 2xx with a RequestID, nothing less: a 200 can carry `"Status": "Error"`.

    Raises:
        LeadpostError: `DeliveryUncertain` where the answer does not tell.
    """
    return _read_posted(answer, get(answer.json, "RequestID"))


def read_activity_id(answer: Answer) -> str:
    """
    Give the activity's id of a synchronous post: `{"Status": "Success", "Message": {"Id": …}}`.

    Raises:
        LeadpostError: `DeliveryUncertain` where the answer does not tell.
    """
    return _read_posted(answer, get(get(answer.json, "Message"), "Id"))


def _read_posted(answer: Answer, identifier: object) -> str:
    found = isinstance(identifier, str) and identifier
    if answer.succeeded and found and not answer.says_error:
        return found
    raise_for_error(answer, changes=True)
    if answer.says_error and identifier is None:
        known = (answer.exception_type or "").startswith("MX")
        raise error_of(ApplicationError if known else Rejected, answer)
    raise error_of(DeliveryUncertain, answer, "the answer cannot be read")


def raise_for_error(answer: Answer, *, changes: bool) -> None:
    """
    Raise the error that an answer stands for, if it stands for one.

    Args:
        answer: The answer.
        changes: Whether the call changes something, so that an answer which does not tell leaves
            it in doubt.

    Raises:
        LeadpostError: see the table in the README; the rules are those of the vendor's page and of
            what its users saw (a rate limit told as 403 or 200, an `MX…` exception as 500).
    """
    kind = _error_kind(answer, changes=changes)
    if kind is RateLimited:
        raise error_of(RateLimited, answer, limit=answer.limit)
    if kind is DeliveryUncertain:
        raise error_of(kind, answer, "it may have arrived")
    if kind is not None:
        raise error_of(kind, answer)


def _error_kind(answer: Answer, *, changes: bool) -> type[LeadpostError] | None:
    status, exception = answer.status, answer.exception_type or ""
    if status == 429 or "RateLimit" in exception or _tells_limit(answer):
        return RateLimited
    if status == 403 and not exception and answer.message == "Missing Authentication Token":
        return NotFound  # AWS's gateway says so of a path that it does not have
    if status in {401, 403} or exception == "MXUnAuthorizedAccessException":
        return Unauthorized
    if status == 400:
        return BadRequest
    if exception.startswith("MX"):
        # A 2xx that names an exception and an id contradicts itself: the reader decides.
        return None if answer.succeeded and changes else ApplicationError
    if answer.succeeded:
        return None
    if status in {500, 503}:
        return ServerError
    if status in {404, 405, 410} or 300 <= status < 400:
        return NotFound
    if 400 <= status < 500 and status != 408:
        return Rejected
    return DeliveryUncertain if changes else ServerError


def _tells_limit(answer: Answer) -> bool:
    return answer.limit is not None and (answer.says_error or not answer.succeeded)


def error_of(kind: type[_E], answer: Answer, why: str = "", **details: Any) -> _E:
    exception_type, exception_message = map(answer.shown, (answer.exception_type, answer.message))
    said = ": ".join(part for part in (exception_type, exception_message) if part)
    message = f"HTTP {answer.status}" + (f", {why}" if why else "") + (f": {said}" if said else "")
    return kind(
        message,
        status=answer.status,
        exception_type=exception_type,
        exception_message=exception_message,
        retry_after=answer.retry_after,
        **details,
    )


def get(value: object, name: str) -> object:
    """Look a key up without case: the vendor writes both RequestID and RequestId."""
    if not is_mapping(value):
        return None
    if name in value:
        return value[name]
    wanted = name.lower()
    return next((item for key, item in value.items() if key.lower() == wanted), None)
