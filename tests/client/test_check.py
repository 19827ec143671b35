"""Checks of activities against the account's definitions of their types."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from support import account, activity

from leadpost import (
    Activity,
    AsyncActivityPoster,
    Checked,
    Lead,
    OpenBucket,
    RetryPolicy,
    TokenBucket,
)
from leadpost._endpoints.sync_api import read_activity_type, read_dropdown_options
from leadpost._findings import TypeCheck
from leadpost._responses import ApiResponse
from leadpost.errors import ApplicationError, ServerError, UnexpectedAnswer
from leadpost.sandbox import Answer, Sandbox

CALL = 210
"""The sandbox's type that has a field of each kind."""
VALID = {"mx_Custom_1": "Busy"}


def call(**fields: Any) -> Activity:
    """Return an activity of that type, with its mandatory field."""
    return activity(CALL, fields=VALID | fields)


def poster_to(sandbox: Sandbox) -> AsyncActivityPoster:
    return AsyncActivityPoster(
        sandbox.account(), bucket=OpenBucket(), retry=RetryPolicy(max_time=0.01)
    )


async def checked(sandbox: Sandbox, *items: Any, options: bool = False) -> list[Checked]:
    async with poster_to(sandbox) as poster:
        return [one async for one in poster.check(items, options=options)]


async def found(sandbox: Sandbox, item: Any, *, options: bool = False) -> list[tuple[str, str]]:
    (one,) = await checked(sandbox, item, options=options)
    assert one.activity is item
    return [(finding.kind, finding.field) for finding in one.findings]


# Findings.


async def test_a_valid_activity_has_no_findings(sandbox: Sandbox) -> None:
    full = call(
        mx_Custom_2=12.5,
        mx_Custom_3="2024-05-06",
        mx_Custom_4=datetime(2024, 5, 6, tzinfo=UTC),
        mx_Custom_5="x" * 50,
        mx_Custom_6="Price; Demo",
        mx_Custom_7="a friend of hers",
        mx_Custom_9=[{"SchemaName": "mx_CustomObject_1", "Value": "Main Street"}],
        Status="Active",
        Owner="jo@example.com",
    )
    assert await found(sandbox, full, options=True) == []
    assert sandbox.posted() == []


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({"mx_custom_2": "1"}, "unknown_field", "mx_custom_2"),
        ({"Outcome": "Busy"}, "unknown_field", "Outcome"),
        ({"mx_Custom_1": None}, "missing_field", "mx_Custom_1"),
        ({"mx_Custom_1": " "}, "missing_field", "mx_Custom_1"),
        ({"mx_Custom_2": "1,250"}, "not_a_number", "mx_Custom_2"),
        ({"mx_Custom_2": "nan"}, "not_a_number", "mx_Custom_2"),
        ({"mx_Custom_2": True}, "not_a_number", "mx_Custom_2"),
        ({"mx_Custom_3": "06/05/2024"}, "not_a_date", "mx_Custom_3"),
        ({"mx_Custom_3": "2024-02-30"}, "not_a_date", "mx_Custom_3"),
        ({"mx_Custom_4": "yesterday"}, "not_a_date", "mx_Custom_4"),
        ({"mx_Custom_5": "x" * 51}, "too_long", "mx_Custom_5"),
        ({"mx_Custom_8": "a.wav"}, "read_only_field", "mx_Custom_8"),
        ({"mx_Custom_2": {"SchemaName": "mx_Custom_2", "Value": "x"}}, "not_a_number", None),
    ],
)
async def test_each_mistake_is_found(
    sandbox: Sandbox, fields: dict[str, Any], kind: str, field: str | None
) -> None:
    assert await found(sandbox, call(**fields)) == [(kind, field or next(iter(fields)))]
    assert sandbox.report().arrivals == 1  # no query for dropdowns


async def test_a_missing_mandatory_field_is_found(sandbox: Sandbox) -> None:
    assert await found(sandbox, activity(CALL)) == [("missing_field", "mx_Custom_1")]


@pytest.mark.parametrize(
    ("note", "kinds"),
    [("Called", []), (None, ["missing_field"]), (" ", ["missing_field"])],
)
def test_a_type_may_have_the_note_among_its_fields(note: str | None, kinds: list[str]) -> None:
    field = {"SchemaName": "ActivityEvent_Note", "DataType": "String", "IsMandatory": True}
    body = json.dumps({"Name": "Call", "Fields": [field]}).encode()
    definition = read_activity_type(ApiResponse(200, body), CALL)
    assert [finding.kind for finding in TypeCheck(CALL, definition).findings(note, {})] == kinds


@pytest.mark.parametrize("value", [True, "1", "Yes"])
def test_a_boolean_is_not_checked_as_its_form_is_not_known(value: object) -> None:
    field = {"SchemaName": "mx_Custom_1", "DataType": "Boolean"}
    body = json.dumps({"Name": "Call", "Fields": [field]}).encode()
    definition = read_activity_type(ApiResponse(200, body), CALL)
    assert TypeCheck(CALL, definition).findings(None, {"mx_Custom_1": value}) == ()


@pytest.mark.parametrize("code", [208, 999])
async def test_a_code_that_is_unknown_or_deactivated_is_found(sandbox: Sandbox, code: int) -> None:
    assert await found(sandbox, activity(code)) == [("unknown_type", "ActivityEvent")]


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"mx_Custom_1": "Busi"}, ["not_an_option"]),
        ({"mx_Custom_6": "Price;Demos"}, ["not_an_option"]),
        ({"mx_Custom_7": "a friend of hers"}, []),  # it allows other values
    ],
)
async def test_options_of_dropdowns_are_read_only_on_request(
    sandbox: Sandbox, fields: dict[str, Any], kinds: list[str]
) -> None:
    assert await found(sandbox, call(**fields)) == []
    assert [kind for kind, _ in await found(sandbox, call(**fields), options=True)] == kinds
    assert sandbox.report().arrivals == 1 + 1 + 3  # one for each dropdown


async def test_a_note_near_2000_characters_is_a_warning(sandbox: Sandbox) -> None:
    long, short = (activity(CALL, activity_note="n" * n, fields=VALID) for n in (1801, 1800))
    (one, other) = await checked(sandbox, long, short)
    (finding,) = one.findings
    assert (finding.kind, finding.severity, finding.field) == (
        *("long_note", "warning"),
        "ActivityNote",
    )
    assert other.findings == ()


async def test_an_activity_on_a_lead_is_checked_like_any_other(sandbox: Sandbox) -> None:
    lead = Lead.find_or_create("EmailAddress", "ada@example.com")
    item = Activity(lead, CALL, fields={"mx_Custom_1": "Busy", "mx_Custom_99": "x"})
    assert await found(sandbox, item) == [("unknown_field", "mx_Custom_99")]
    assert sandbox.leads == []


async def test_the_repr_shows_nothing_of_the_activity(sandbox: Sandbox) -> None:
    (one,) = await checked(
        sandbox, call(mx_Custom_5="secret").to_payload() | {"ActivityNote": "secret"}
    )
    assert repr(one) == "Checked(index=0, findings=())"


async def test_an_invalid_activity_is_found_too(sandbox: Sandbox) -> None:
    payload = {"RelatedProspectId": "jo", "ActivityEvent": "x"}
    assert await found(sandbox, payload) == [
        ("invalid", "RelatedProspectId"),
        ("invalid", "ActivityEvent"),
    ]
    assert await found(sandbox, activity(CALL, fields=VALID).to_payload()) == []


async def test_messages_suggest_a_similar_name_and_show_no_value(sandbox: Sandbox) -> None:
    item = call(mx_custom_2="x", mx_Custom_1="Mrs Connected", mx_Custom_5="Ada" * 50)
    (one,) = await checked(sandbox, item, options=True)
    assert [str(finding) for finding in one.findings] == [
        "mx_Custom_1: is not among its 4 options; did you mean 'Connected'?",
        "mx_custom_2: activity type 210 has no such field; did you mean mx_Custom_2?",
        "mx_Custom_5: is too long; it has 150 characters, and the maximum is 50",
    ]


# Calls, and parts that could not be checked.


async def test_each_type_takes_one_call_however_many_activities_there_are() -> None:
    bucket = TokenBucket()
    with Sandbox() as sandbox:
        async with AsyncActivityPoster(sandbox.account(), bucket=bucket) as poster:
            items = [activity(code, fields=VALID) for code in (201, 207, CALL, 999)] * 100
            indices = [one.index async for one in poster.check(items)]
        assert indices == list(range(400))
        assert sandbox.report().arrivals == 4
    assert bucket.statistics().resting == 4


async def test_any_iterable_is_drawn_one_by_one(sandbox: Sandbox) -> None:
    drawn = 0

    def endless() -> Iterator[Activity]:
        nonlocal drawn
        while True:
            drawn += 1
            yield call()

    async with poster_to(sandbox) as poster:
        checks = poster.check(endless())
        for number in range(5):
            assert (await anext(checks)).index == number
            assert drawn == number + 1
        await checks.aclose()

        async def some() -> AsyncIterator[Activity]:
            yield call()

        assert [one.index async for one in poster.check(some())] == [0]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("keys-refused", "type 210 could not be read: Unauthorized, HTTP 401"),
        ("503", "type 210 could not be read: ServerError, HTTP 503"),
        (Answer(200, "[]"), "type 210 could not be read: UnexpectedAnswer, HTTP 200"),
    ],
)
async def test_a_part_that_could_not_be_checked_is_reported(
    sandbox: Sandbox, fault: Any, message: str
) -> None:
    sandbox.fail(fault)
    one, other = await checked(sandbox, call(), call())
    (finding,) = one.findings
    assert (finding.kind, finding.severity, finding.message) == ("unchecked", "warning", message)
    assert other.findings == one.findings


async def test_without_a_sync_host_nothing_can_be_checked() -> None:
    async with AsyncActivityPoster(account(host="proxy.example.com")) as poster:
        ((finding,),) = [one.findings async for one in poster.check([call()])]
    assert "could not be read: " in finding.message
    assert "sync_host" in finding.message


async def test_without_its_options_the_rest_of_an_activity_is_checked(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.fail("ok", "keys-refused")
    with caplog.at_level(logging.WARNING, "leadpost"):
        assert await found(sandbox, call(mx_Custom_2="x"), options=True) == [
            ("unchecked", "mx_Custom_1"),
            ("not_a_number", "mx_Custom_2"),
        ]
    assert "no options of activity type 210: Unauthorized" in caplog.text


def test_a_type_without_fields_in_the_answer_cannot_be_checked() -> None:
    definition = read_activity_type(ApiResponse(200, b'{"Name": "Call"}'), CALL)
    (finding,) = TypeCheck(CALL, definition).findings(None, VALID)
    assert (finding.kind, finding.field) == ("unchecked", "Fields")


@pytest.mark.parametrize("name", ["Fields", "fields"])
def test_a_type_may_have_no_fields(name: str) -> None:
    body = json.dumps({"Name": "Call", name: []}).encode()
    check = TypeCheck(CALL, read_activity_type(ApiResponse(200, body), CALL))
    assert check.findings(None, {}) == ()
    assert [finding.kind for finding in check.findings(None, VALID)] == ["unknown_field"]


def test_a_type_whose_fields_cannot_be_read_cannot_be_checked() -> None:
    body = b'{"Name": "Call", "Fields": [{"Key": "mx_Custom_1"}]}'
    definition = read_activity_type(ApiResponse(200, body), CALL)
    (finding,) = TypeCheck(CALL, definition).findings(None, VALID)
    assert (finding.kind, finding.field) == ("unchecked", "Fields")


async def test_after_three_failures_in_a_row_no_other_type_is_asked_for(sandbox: Sandbox) -> None:
    sandbox.fail("503", "ok", *["503"] * 3)
    found = await checked(sandbox, *(activity(code) for code in (201, *range(300, 306))))
    kinds = [finding.kind for one in found for finding in one.findings]
    assert kinds == ["unchecked", "unknown_type", *["unchecked"] * 5]
    assert sandbox.report().arrivals == 1 + 1 + 3


def test_another_exception_does_not_mean_an_unknown_type() -> None:
    for error in (
        ApplicationError("x", exception_type="MXInvalidInputException"),
        ServerError("x", exception_type=None),
    ):
        assert TypeCheck(CALL, error).findings(None, VALID)[0].kind == "unchecked"


# The account's definitions of types.


async def test_a_type_has_the_data_for_the_checks(sandbox: Sandbox) -> None:
    async with poster_to(sandbox) as poster:
        plain = await poster.activity_type(CALL)
        assert [field.options for field in plain.fields] == [None] * 9
        full = await poster.activity_type(CALL, options=True)
    by_name = {field.schema_name: field for field in full.fields}
    outcome, topics, source = (by_name[f"mx_Custom_{n}"] for n in (1, 6, 7))
    assert (outcome.is_mandatory, outcome.is_dropdown, outcome.is_multiple) == (True, True, False)
    assert outcome.options == ("Connected", "Busy", "No answer", "Wrong number")
    assert (topics.is_multiple, topics.allows_others) == (True, False)
    assert (source.is_dropdown, source.allows_others) == (True, True)
    assert by_name["mx_Custom_5"].max_length == 50
    assert by_name["mx_Custom_8"].is_read_only
    assert by_name["mx_Custom_2"].options is None


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (b'{"Options": [{"Text": "a", "Value": "a"}, {"Value": "b"}]}', ("a", "b")),
        (b'{"Options": ["a", "b"]}', ("a", "b")),
        (b'{"Options": []}', ()),
    ],
)
def test_options_are_texts_or_objects(body: bytes, options: tuple[str, ...]) -> None:
    assert read_dropdown_options(ApiResponse(200, body)) == options


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"Options": {}}', b'{"Options": [{"Text": ""}]}'])
def test_options_that_cannot_be_read_are_unexpected(body: bytes) -> None:
    with pytest.raises(UnexpectedAnswer):
        read_dropdown_options(ApiResponse(200, body))
