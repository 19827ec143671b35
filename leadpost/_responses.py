"""
What an answer means: status and body become a result or an error.

Pure functions. Whatever an answer holds, reading it ends in its result or in a `LeadpostError`.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, cached_property
from typing import Any, TypeVar

from attrs import field, frozen

from leadpost._validation import is_mapping
from leadpost.errors import (
    ApplicationError,
    BadRequest,
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    NotFound,
    RateLimited,
    Rejected,
    ServerError,
    Unauthorized,
)

_LIMIT = re.compile(r"limit of (\d{1,9}) in (\d{1,9}) second")
_PLAIN = re.compile(r"[A-Za-z0-9-]*")
_LONGEST_MESSAGE = 500
_LONGEST_SEARCH = 20_000
_SHORTEST_SECRET = 4
_UNIX_TIME = 1e9
"""A Retry-After from here on is no number of seconds (that would be 31 years) but Unix time."""
_UNIX_MILLISECONDS = 1e11
_STATUSES: Mapping[int, type[LeadpostError]] = {
    **dict.fromkeys((*range(300, 400), 404, 405, 410), NotFound),
    407: ConnectionFailed,  # a proxy's answer: nothing reached LeadSquared
    # "Not now": nothing was accepted, and it says nothing about the activity.
    **dict.fromkeys((421, 423, 425, 500, 503), ServerError),
}
_E = TypeVar("_E", bound=LeadpostError)


@frozen(slots=False)
class ApiResponse:
    """
    One HTTP answer, read.

    Attributes:
        status: HTTP status.
        body: The body, decoded; empty if it could not be.
        retry_after: Seconds to wait, from the Retry-After header.
        redact: Removes the keys from what LeadSquared wrote.
        not_found_hint: For the error after a 404: the URL, and the settings that make it up.
    """

    status: int
    body: bytes = field(repr=False)
    retry_after: float | None = None
    redact: Callable[[str], str] = field(default=str, repr=False)
    not_found_hint: str = ""

    @cached_property
    def json(self) -> object:
        """The body's JSON value, None if it is not JSON."""
        return json_in(self.body)

    @property
    def succeeded(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300

    @cached_property
    def exception_type(self) -> str | None:
        """LeadSquared's `ExceptionType`, as written: for decisions, not for display."""
        found = get(self.json, "ExceptionType")
        return found if isinstance(found, str) and found else None

    @cached_property
    def message(self) -> str | None:
        """LeadSquared's message, as written: for decisions, not for display."""
        for name in ("ExceptionMessage", "Message"):
            found = get(self.json, name)
            if is_mapping(found):  # {"Status": "Failed", "Message": {"Message": "…"}}
                found = get(found, "Message")
            if isinstance(found, str) and found:
                return found
        return None

    @property
    def says_error(self) -> bool:
        """Whether the body says that the call failed, whatever the status."""
        status = get(self.json, "Status")
        failed = isinstance(status, str) and status.strip().lower() in {"error", "failed"}
        return failed or self.exception_type is not None

    @cached_property
    def limit(self) -> tuple[int, int] | None:
        """The account's limit as (calls, seconds), if the message names it."""
        found = _LIMIT.search(self.message or "")
        return (int(found[1]), int(found[2])) if found else None

    def displayed(self, text: str | None) -> str | None:
        """Return a text of LeadSquared's without keys, shortened."""
        if text is None:
            return None
        shown = self.redact(text[:_LONGEST_SEARCH])
        if len(text) > _LONGEST_SEARCH and len(shown) < _LONGEST_SEARCH / 2:
            return "***"  # it is made of keys, and half of one may be at the end
        return shown[:_LONGEST_MESSAGE]


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """
    Return a function that replaces every spelling of the secrets in a text by `***`.

    Each character may be spelled as itself, percent-encoded, as an HTML entity, or as an escape of
    JSON or of Python's `repr` of bytes, each of them more than once; case does not matter. Secrets
    of fewer than 4 characters stay, because no text would be readable without them.
    """
    long = sorted({s for s in secrets if len(s) >= _SHORTEST_SECRET}, key=len, reverse=True)
    if not long:
        return str

    @cache
    def pattern() -> re.Pattern[str]:  # compiled on first use, as it takes 20 ms
        return re.compile("|".join("".join(map(_spellings, s)) for s in long), re.IGNORECASE)

    in_lower_case = [secret.lower() for secret in long]

    def redact(text: str) -> str:
        # The search takes 10 µs. In a plain text, such as a RequestID, a key has one spelling only.
        plain = _PLAIN.fullmatch(text)
        if plain and not any(secret in text.lower() for secret in in_lower_case):
            return text
        return pattern().sub("***", text)

    return redact


@cache
def _spellings(character: str) -> str:
    from html.entities import html5  # noqa: PLC0415  2,200 names, when the first poster is made

    code = ord(character)
    named = "|".join(name for name, text in html5.items() if text == character and ";" in name)
    entity = rf"\#0{{0,8}}{code};|\#x0{{0,8}}{code:x};" + (f"|{named}" if named else "")
    # Text in JSON in JSON, HTML in JSON, HTML in HTML: each level adds backslashes or ampersands.
    # Entities come first, or else of `\u0026amp;` only the part before `amp;` is taken for `&`.
    return (
        rf"(?:(?:&|\\{{1,8}}u0026)(?:amp;){{0,8}}(?:{entity})"
        rf"|%(?:25){{0,8}}{code:02x}|\\{{1,8}}(?:u00|x){code:02x}|\\{{0,8}}{re.escape(character)})"
    )


def parse_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """
    Return the seconds that a Retry-After header asks to wait (RFC 9110, 10.2.3).

    Args:
        headers: With Retry-After as seconds, as an HTTP date, or as a number that can only be Unix
            time, in seconds or milliseconds; with Date, against which a date counts.
        now: The time, aware, where there is no Date.

    Returns:
        Seconds from the answer, never negative; None without a header that can be read.
    """
    value = headers.get("Retry-After")
    if value is None:
        return None
    now = http_date(headers.get("Date", "")) or now
    try:
        seconds = float(value)
        if seconds >= _UNIX_TIME:
            seconds = seconds / (1000 if seconds >= _UNIX_MILLISECONDS else 1) - now.timestamp()
    except ValueError:
        moment = http_date(value)
        seconds = math.nan if moment is None else (moment - now).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def http_date(value: str) -> datetime | None:
    """Return an HTTP date as an aware date-time, None if it is none."""
    try:
        moment = parsedate_to_datetime(value)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError, IndexError):
        return None


def decoded(body: bytes, encoding: str, largest: int) -> bytes:
    """
    Return a body without its content encoding; empty if it decodes to more than `largest` bytes.

    leadpost asks for no encoding, but a proxy may compress all the same.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip" | "deflate":
            decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its header
        case _:
            return b""
    try:
        found = decompressor.decompress(body, largest)
    except zlib.error:
        return b""
    return b"" if decompressor.unconsumed_tail else found


def raise_for_error(response: ApiResponse, *, changes: bool) -> None:
    """
    Raise the error that an answer means, if any; see "What every outcome means" in the README.

    A call that `changes` something is uncertain if the answer does not say what happened. The rules
    are from LeadSquared's page and from answers that users have seen (a rate limit as 403 or 200,
    an `MX…` exception as 500).
    """
    kind = _error_kind(response, changes=changes)
    if kind is RateLimited:
        raise error_of(RateLimited, response, limit=response.limit)
    if kind is DeliveryUncertain:
        raise error_of(kind, response, "it may have arrived")
    if kind is NotFound:
        raise error_of(kind, response, response.not_found_hint)
    if kind is not None:
        raise error_of(kind, response)


def _error_kind(response: ApiResponse, *, changes: bool) -> type[LeadpostError] | None:
    status, exception = response.status, response.exception_type or ""
    # Never by the text of another error: it may quote a note that names a limit.
    if status == 429 or "RateLimit" in exception:
        return RateLimited
    if status == 403 and not exception and response.message == "Missing Authentication Token":
        return NotFound  # AWS's gateway answers this for a path that does not exist
    if status in {401, 403} or exception == "MXUnAuthorizedAccessException":
        return Unauthorized
    if status == 400:
        return BadRequest
    if response.succeeded and changes:
        return None  # with an exception and an id it contradicts itself: the reader decides
    if exception.startswith("MX") or get(response.json, "IsMXException") is True:
        return ApplicationError
    if response.succeeded:
        return None
    if status in _STATUSES:
        return _STATUSES[status]
    if 400 <= status < 500 and status != 408:
        return Rejected
    return DeliveryUncertain if changes else ServerError


def no_answer(why: str, *, changes: bool) -> LeadpostError:
    """Build the error of a call that was sent and has no answer; `changes` as above."""
    if changes:
        return DeliveryUncertain(f"no answer, it may have arrived ({why})")
    return ConnectionFailed(f"no answer ({why})", sent=True)


def error_of(kind: type[_E], response: ApiResponse, why: str = "", **details: Any) -> _E:
    """Build an error of the class `kind` with all that the answer says."""
    exception_type = response.displayed(response.exception_type)
    exception_message = response.displayed(response.message)
    said = ": ".join(part for part in (exception_type, exception_message) if part)
    message = f"HTTP {response.status}" + (f", {why}" if why else "")
    return kind(
        message + (f": {said}" if said else ""),
        status=response.status,
        exception_type=exception_type,
        exception_message=exception_message,
        retry_after=response.retry_after,
        **details,
    )


def json_in(text: str | bytes) -> object:
    """Return the JSON value of a text, None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def get(value: object, name: str) -> object:
    """Look up a key without case: LeadSquared writes both RequestID and RequestId."""
    if not is_mapping(value):
        return None
    if name in value:
        return value[name]
    wanted = name.lower()
    return next((item for key, item in value.items() if key.lower() == wanted), None)
