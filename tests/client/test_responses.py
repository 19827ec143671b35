"""What an answer to a post means: the table on LeadSquared's page, and what users have seen."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadpost import (
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
from leadpost._endpoints.async_api import read_request_id
from leadpost._endpoints.sync_api import read_activity_id
from leadpost._responses import (
    ApiResponse,
    decoded,
    parse_retry_after,
    raise_for_error,
    redactor,
)

REQUEST_ID = "b7a1c0de-1111-4222-8333-944455556666"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LIMIT_TEXT = "API calls exceeded the limit of 25 in 5 second(s)"


def answer(status: int, body: Any = b"", **details: Any) -> ApiResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ApiResponse(status, content, **details)


def posted(response: ApiResponse) -> str:
    """Read the answer to a post."""
    raise_for_error(response, changes=True)
    return read_request_id(response)


def mx(kind: str, message: str = "why") -> dict[str, str]:
    return {"Status": "Error", "ExceptionType": kind, "ExceptionMessage": message}


@pytest.mark.parametrize("name", ["RequestID", "RequestId", "requestid"])
@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_2xx_with_a_request_id_in_any_case_is_success(name: str, status: int) -> None:
    body = {"Status": "Request accepted. Please use below request id", name: REQUEST_ID}
    assert posted(answer(status, body)) == REQUEST_ID


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, mx("MXInvalidInputException"), BadRequest),
        (400, b"", BadRequest),
        (401, mx("MXUnAuthorizedAccessException"), Unauthorized),
        (401, b"<html>", Unauthorized),
        (500, mx("MXUnAuthorizedAccessException"), Unauthorized),
        (403, {"message": "Forbidden"}, Unauthorized),
        (403, {"message": "Missing Authentication Token"}, NotFound),
        (404, b"not here", NotFound),
        (302, b"", NotFound),
        (405, b"", NotFound),
        (413, b"", Rejected),
        (422, {"message": "no"}, Rejected),
        (429, mx("MXAPIRateLimitExceededException", LIMIT_TEXT), RateLimited),
        (429, {"message": "Too Many Requests"}, RateLimited),
        (429, b"", RateLimited),
        (403, mx("MXAPIRateLimitExceededException", LIMIT_TEXT), RateLimited),
        (200, mx("MXAPIRateLimitExceededException", LIMIT_TEXT), RateLimited),
        (500, mx("MXInvalidActivityException", "Event code bad or empty"), ApplicationError),
        (500, mx("MXMandatoryAttributeMissingException"), ApplicationError),
        (404, mx("MXInvalidLeadException"), ApplicationError),
        (500, {"IsMXException": True}, ApplicationError),
        (500, {"IsMXException": True, "ExceptionType": "Other"}, ApplicationError),
        (500, {"IsMXException": False}, ServerError),
        (500, {"IsMXException": "true"}, ServerError),
        (503, mx("MXInvalidInputException"), ApplicationError),
        (500, b"", ServerError),
        (500, b"<html>oops</html>", ServerError),
        (500, mx("NullReferenceException"), ServerError),
        (503, {"message": "Service Unavailable"}, ServerError),
        (407, b"", ConnectionFailed),
        (421, b"", ServerError),
        (423, b"", ServerError),
        (425, b"", ServerError),
        (502, b"<html>", DeliveryUncertain),
        (504, {"message": "Endpoint request timed out"}, DeliveryUncertain),
        (408, b"", DeliveryUncertain),
        (520, b"", DeliveryUncertain),
        (200, {"Status": "Failed", "Message": {"Message": "Bad event code"}}, Rejected),
        (200, {"Status": "Error"}, Rejected),
        (200, mx("MXInvalidInputException"), ApplicationError),
        (200, mx("NullReferenceException"), Rejected),
        (200, b"", DeliveryUncertain),
        (200, b"<html>", DeliveryUncertain),
        (200, b'{"RequestID": "b7a1', DeliveryUncertain),
        (200, {"RequestID": ""}, DeliveryUncertain),
        (200, {"RequestID": " "}, DeliveryUncertain),
        (200, mx("MXInvalidInputException") | {"RequestID": ""}, ApplicationError),
        (200, {"Status": "Error", "RequestID": " "}, Rejected),
        (200, {"RequestID": 7}, DeliveryUncertain),
        (200, {"RequestID": None, "Status": "Request accepted"}, DeliveryUncertain),
        (200, [REQUEST_ID], DeliveryUncertain),
        (200, REQUEST_ID, DeliveryUncertain),
        # Both a RequestID and an error: it may have been accepted.
        (200, mx("MXInvalidInputException") | {"RequestID": REQUEST_ID}, DeliveryUncertain),
        (200, {"Status": "Error", "RequestID": REQUEST_ID}, DeliveryUncertain),
        # Whatever the body says: only a 2xx is success.
        (500, {"RequestID": REQUEST_ID}, ServerError),
        (404, {"RequestID": REQUEST_ID}, NotFound),
    ],
)
def test_each_answer_raises_its_error(status: int, body: Any, kind: type[LeadpostError]) -> None:
    with pytest.raises(LeadpostError) as caught:
        posted(answer(status, body))
    assert type(caught.value) is kind
    assert caught.value.status == status


def test_an_error_has_all_that_its_caller_needs() -> None:
    body = mx(
        "MXAPIRateLimitExceededException", "API calls exceeded the limit of 10 in 5 second(s)"
    )
    with pytest.raises(RateLimited) as caught:
        posted(answer(429, body, retry_after=3.0))
    error = caught.value
    assert error.exception_type == "MXAPIRateLimitExceededException"
    assert error.exception_message == "API calls exceeded the limit of 10 in 5 second(s)"
    assert error.limit == (10, 5)
    assert error.retry_after == 3.0
    assert str(error) == (
        "HTTP 429: MXAPIRateLimitExceededException: API calls exceeded the limit of 10 in 5"
        " second(s)"
    )


def test_a_synchronous_post_returns_the_activitys_id() -> None:
    body = {"Status": "Success", "Message": {"Id": "c2d4e6f8"}}
    assert read_activity_id(answer(200, body)) == "c2d4e6f8"
    with pytest.raises(DeliveryUncertain):
        read_activity_id(answer(200, {"Status": "Success", "Message": "done"}))
    with pytest.raises(Rejected, match="Bad event code"):
        read_activity_id(
            answer(200, {"Status": "Failed", "Message": {"Message": "Bad event code"}})
        )


def test_a_key_does_not_change_what_an_answer_means() -> None:
    body = mx("MXAPIRateLimitExceededException", LIMIT_TEXT)
    with pytest.raises(RateLimited) as caught:
        posted(answer(403, body, redact=redactor(["Rate"])))
    assert caught.value.exception_type == "MXAPI***LimitExceededException"
    assert caught.value.limit == (25, 5)


@pytest.mark.parametrize("status", [404, 405, 410, 302])
def test_a_wrong_url_names_what_was_called_and_where_it_is_set(status: int) -> None:
    setting = "no such path at http://x/y: see status_path"
    with pytest.raises(NotFound) as caught:
        posted(answer(status, {"Message": "gone"}, not_found_hint=setting))
    assert str(caught.value) == f"HTTP {status}, {setting}: gone"


@pytest.mark.parametrize("count", [0, 1, 5000])
@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        (" GZIP ", gzip.compress),
        ("deflate", zlib.compress),
        ("", bytes),
        ("identity", bytes),
    ],
)
def test_a_compressed_body_is_decoded(
    encoding: str, compress: Callable[[bytes], bytes], count: int
) -> None:
    body = b"ab" * count
    assert decoded(compress(body), encoding, 10_000) == body


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"plain text"),
        ("gzip", b""),
        ("deflate", b"plain text"),
        ("br", b"{}"),
        ("zstd", b"{}"),
        ("nonsense", b"{}"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0)),
        ("gzip", gzip.compress(bytes(10_001), mtime=0)),
        ("deflate", zlib.compress(bytes(10_001))),
    ],
)
def test_a_body_that_cannot_be_decoded_is_empty(encoding: str, body: bytes) -> None:
    assert decoded(body, encoding, 10_000) == b""


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("Fri, 02 Jan 2026 03:05:05 -0000", 60.0),
        ("Fri, 02 Jan 2026 08:35:05 +0530", 60.0),
        ("Fri, 99 Jan 2026 03:05:05 GMT", None),
        ("Fri, 02 Jan 99999 03:05:05 GMT", None),
    ],
)
def test_retry_after_in_all_its_forms(value: str | None, seconds: float | None) -> None:
    headers = {} if value is None else {"Retry-After": value}
    assert parse_retry_after(headers, NOW) == seconds


@pytest.mark.parametrize("unit", [1, 1000], ids=["seconds", "milliseconds"])
def test_a_retry_after_that_can_only_be_unix_time_is_one(unit: int) -> None:
    moment = NOW + timedelta(seconds=30)
    headers = {"Retry-After": f"{moment.timestamp() * unit:.0f}"}
    assert parse_retry_after(headers, NOW) == pytest.approx(30)
    assert parse_retry_after(headers, NOW + timedelta(days=1)) == 0


@pytest.mark.parametrize("year", [2027, 2070, 2100, 9999])
def test_a_retry_after_on_a_day_far_ahead_is_a_long_wait(year: int) -> None:
    headers = {"Retry-After": f"Fri, 31 Dec {year} 23:59:59 GMT"}
    assert (parse_retry_after(headers, NOW) or 0) > timedelta(days=300).total_seconds()


@given(st.text(), st.text())
def test_no_header_breaks_the_reading(value: str, date: str) -> None:
    seconds = parse_retry_after({"Retry-After": value, "Date": date}, NOW)
    assert seconds is None or seconds >= 0


def test_an_empty_exception_type_is_none() -> None:
    body = {"RequestID": REQUEST_ID, "ExceptionType": "", "ExceptionMessage": None}
    assert posted(answer(200, body)) == REQUEST_ID
