"""How the answers to queries are read: status, metrics, activity types."""

from __future__ import annotations

import json
from typing import Any

import pytest

from leadpost import (
    ApplicationError,
    Rejected,
    RequestStatus,
    ServerError,
    UnexpectedAnswer,
)
from leadpost._endpoints.async_api import read_metrics, read_status
from leadpost._endpoints.sync_api import read_activity_type, read_activity_types
from leadpost._responses import ApiResponse, raise_for_error, redactor

REQUEST_ID = "b7a1c0de-1111-4222-8333-944455556666"


def answer(body: Any, status: int = 200) -> ApiResponse:
    return ApiResponse(status, json.dumps(body).encode())


def status_of(*, failure_is_final: bool = False, **task: Any) -> RequestStatus:
    body = {"RequestId": REQUEST_ID, "TaskStatus": {"TaskType": "Activity Create", **task}}
    return read_status(answer(body), "asked", failure_is_final=failure_is_final)


def test_the_activitys_id_is_read_from_json_in_a_string() -> None:
    message = '{"Status": "Success", "Message": {"Id": "c2d4e6f8"}}'
    found = status_of(Status="Success", StatusReason="done", Message=message, RequestBody="{}")
    assert (found.state, found.is_final, found.activity_id) == ("succeeded", True, "c2d4e6f8")
    assert found.request_id == REQUEST_ID
    assert found.status_reason == "done"
    assert found.message == message
    assert found.request_body == "{}"


def test_the_activitys_id_is_read_from_an_object_too() -> None:
    assert status_of(Status="SUCCESS", Message={"Message": {"Id": "c2d4"}}).activity_id == "c2d4"


@pytest.mark.parametrize("message", [None, "not json", "[" * 100_000, 7, '"x"'])
def test_a_message_without_an_id_is_no_error(message: object) -> None:
    assert status_of(Status="Success", Message=message).activity_id is None


@pytest.mark.parametrize(
    ("task", "failure_is_final", "state", "final"),
    [
        ({"Status": "In-Queue"}, False, "pending", False),
        ({"Status": "Resting"}, False, "pending", False),
        ({"Status": "Success"}, False, "succeeded", True),
        ({"Status": "ERROR"}, False, "failed", True),
        ({"Status": "Error"}, False, "failed", True),
        ({"Status": "FAILURE"}, False, "failed", False),
        ({"Status": "FAILURE"}, True, "failed", True),
        (
            {"Status": "FAILURE", "StatusReason": "MXInvalidLeadException: no"},
            False,
            "failed",
            True,
        ),
        ({"Status": "Failure", "Message": "MXInvalidLeadException"}, False, "failed", True),
        (
            {"Status": "FAILURE", "Message": {"ExceptionType": "MXInvalidLeadException"}},
            False,
            "failed",
            True,
        ),
    ],
)
def test_each_status_is_pending_succeeded_or_failed_and_final_or_not(
    task: dict[str, object], *, failure_is_final: bool, state: str, final: bool
) -> None:
    found = status_of(failure_is_final=failure_is_final, **task)
    assert (found.state, found.is_final) == (state, final)


def test_the_repr_of_a_status_has_no_request_body_and_no_message() -> None:
    shown = repr(status_of(Status="Success", RequestBody="private", Message="secret"))
    assert "private" not in shown
    assert "secret" not in shown
    assert REQUEST_ID in shown


def test_a_reason_may_quote_what_was_posted() -> None:
    body = '{"ActivityNote": "call Jo", "Fields": [{"SchemaName": "mx_Custom_1", "Value": "blue"}]}'
    reason = "'blue' is no option of mx_Custom_1"
    found = status_of(Status="ERROR", StatusReason=reason, RequestBody=body)
    assert found.status_reason == reason


def test_a_status_that_quotes_keys_is_shown_without_them() -> None:
    task = {"Status": "ERROR of KEY-1", "StatusReason": "/x?secretKey=KEY-1: no", "RequestBody": 1}
    body = json.dumps({"TaskStatus": task}).encode()
    response = ApiResponse(200, body, redact=redactor(["KEY-1"]))
    found = read_status(response, "asked", failure_is_final=False)
    assert (found.status, found.status_reason) == ("ERROR of ***", "/x?secretKey=***: no")
    assert "KEY-1" not in repr(found)


def test_a_status_without_a_request_id_has_that_of_the_query() -> None:
    body = {"TaskStatus": {"Status": "In-Queue"}}
    assert read_status(answer(body), "asked", failure_is_final=False).request_id == "asked"


@pytest.mark.parametrize("body", [{}, [], "x", None, {"TaskStatus": None}, {"TaskStatus": {}}])
def test_an_answer_without_a_status_is_unexpected(body: object) -> None:
    with pytest.raises(UnexpectedAnswer, match=r"no TaskStatus\.Status in the answer"):
        read_status(answer(body), "asked", failure_is_final=False)


def test_queries_raise_the_same_errors_as_posts() -> None:
    error = {"Status": "Error", "ExceptionType": "MXInvalidInputException"}
    with pytest.raises(ApplicationError):
        raise_for_error(answer(error), changes=False)
    with pytest.raises(ServerError):  # a query changes nothing, so it is never uncertain
        raise_for_error(answer({}, 504), changes=False)
    with pytest.raises(Rejected):
        read_metrics(answer({"Status": "Failed", "Message": "no"}))


@pytest.mark.parametrize("name", ["ProcessingratePerMinute", "ProcessingRatePerMinute"])
def test_metrics_are_read_in_either_spelling(name: str) -> None:
    body = {"PendingMessages": 12, "MaxDelayInSeconds": 3, name: 31.5}
    found = read_metrics(answer(body))
    assert found.pending_messages == 12
    assert found.max_delay_in_seconds == 3
    assert found.processing_rate_per_minute == 31.5
    assert found.raw == body


@pytest.mark.parametrize("value", [None, "many", float("nan"), float("inf"), [], 10**400])
def test_a_metric_that_is_no_number_is_unexpected(value: object) -> None:
    body = {"PendingMessages": value, "MaxDelayInSeconds": 3, "ProcessingRatePerMinute": 1}
    with pytest.raises(UnexpectedAnswer, match="no PendingMessages in the answer"):
        read_metrics(answer(body))


@pytest.mark.parametrize("name", ["ActivityEvent", "EventCode", "ActivityEventCode", "Code"])
@pytest.mark.parametrize("code", [201, "201"])
def test_a_list_of_types_is_read_under_each_known_key(name: str, code: object) -> None:
    raw = {name: code, "DisplayName": "Demo Call"}
    for body in ([raw], {"List": [raw], "Count": 1}):
        (found,) = read_activity_types(answer(body))
        assert (found.code, found.name, found.fields, found.raw) == (201, "Demo Call", (), raw)


def test_a_type_without_a_readable_code_has_none() -> None:
    (found,) = read_activity_types(answer([{"Name": "Demo", "Code": "A7", "Fields": "none"}, 3]))
    assert (found.code, found.name, found.fields) == (None, "Demo", ())


@pytest.mark.parametrize("body", [{}, {"a": [], "b": []}, 3, None])
def test_an_answer_without_a_list_of_types_is_unexpected(body: object) -> None:
    with pytest.raises(UnexpectedAnswer, match="no list of activity types in the answer"):
        read_activity_types(answer(body))


def test_one_type_has_its_fields() -> None:
    fields = [
        {"SchemaName": "mx_Custom_1", "DisplayName": "Outcome", "DataType": "String"},
        {"SchemaName": "mx_Custom_2", "IsMandatory": True},
        {"DisplayName": "no name"},
    ]
    found = read_activity_type(answer({"ID": "x", "Name": "Demo", "Fields": fields}), 201)
    assert (found.code, found.name) == (201, "Demo")
    assert [(f.schema_name, f.display_name, f.data_type, f.is_mandatory) for f in found.fields] == [
        ("mx_Custom_1", "Outcome", "String", False),
        ("mx_Custom_2", None, None, True),
    ]


@pytest.mark.parametrize("body", [[], 3, None])
def test_an_answer_without_a_type_is_unexpected(body: object) -> None:
    with pytest.raises(UnexpectedAnswer, match="no activity type in the answer"):
        read_activity_type(answer(body), 201)
