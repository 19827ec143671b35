"""Activities made of numpy's and pandas' values: sent as what they are, or invalid."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any

import pytest
from support import LEAD

from leadpost import Activity, InvalidActivity

INDIA = timezone(timedelta(hours=5, minutes=30))
MOMENT = datetime(2025, 3, 4, 14, 45, 7, tzinfo=INDIA)


def numpy() -> Any:
    """Import numpy: not in every process that only collects the tests."""
    return import_module("numpy")


def pandas() -> Any:
    return import_module("pandas")


def payload(**changes: Any) -> dict[str, Any]:
    return {"RelatedProspectId": LEAD, "ActivityEvent": 201} | changes


VALUE_PLACES: dict[str, Callable[[Any], Activity]] = {
    "field": lambda value: Activity(LEAD, 201, fields={"a": value}),
    "item": lambda value: Activity(LEAD, 201, fields={"a": {"SchemaName": "a", "Value": value}}),
    "nested set": lambda value: Activity(
        LEAD, 201, fields={"a": [{"SchemaName": "b", "Value": value}]}
    ),
    "extra": lambda value: Activity(LEAD, 201, extra={"Other": value}),
    "list in extra": lambda value: Activity(LEAD, 201, extra={"Other": [{"b": (value,)}]}),
    "payload's field": lambda value: Activity.from_payload(
        payload(Fields=[{"SchemaName": "a", "Value": value}])
    ),
    "payload's nested set": lambda value: Activity.from_payload(
        payload(
            Fields=[{"SchemaName": "a", "Value": "", "Fields": [{"SchemaName": "b", "c": value}]}]
        )
    ),
    "payload's further parameter": lambda value: Activity.from_payload(payload(Other=value)),
}
OTHER_PLACES: dict[str, Callable[[Any], Activity]] = {
    "related_prospect_id": lambda value: Activity(value, 201),
    "activity_event": lambda value: Activity(LEAD, value),
    "activity_note": lambda value: Activity(LEAD, 201, value),
    "activity_datetime": lambda value: Activity(LEAD, 201, activity_datetime=value),
    "fields": lambda value: Activity(LEAD, 201, fields=value),
    "extra itself": lambda value: Activity(LEAD, 201, extra=value),
    "email": lambda value: Activity(None, 201, extra={"EmailAddress": value}),
    "item's Fields": lambda value: Activity.from_payload(
        payload(Fields=[{"SchemaName": "a", "Value": value, "Fields": []}])
    ),
    "SchemaName": lambda value: Activity.from_payload(
        payload(Fields=[{"SchemaName": value, "Value": "x"}])
    ),
    "payload": Activity.from_payload,
    "payload's lead": lambda value: Activity.from_payload(payload(RelatedProspectId=value)),
    "payload's event": lambda value: Activity.from_payload(payload(ActivityEvent=value)),
    "payload's note": lambda value: Activity.from_payload(payload(ActivityNote=value)),
    "payload's date-time": lambda value: Activity.from_payload(payload(ActivityDateTime=value)),
    "payload's Fields": lambda value: Activity.from_payload(payload(Fields=value)),
    "JSON": Activity.from_json,
}
KEY_PLACES: dict[str, Callable[[Any], Activity]] = {
    "field": lambda key: Activity(LEAD, 201, fields={key: "x"}),
    "extra": lambda key: Activity(LEAD, 201, extra={key: "x"}),
    "payload": lambda key: Activity.from_payload({**payload(), key: "x"}),
    "item": lambda key: Activity.from_payload(
        payload(Fields=[{"SchemaName": "a", "Value": "x", key: "x"}])
    ),
    "value": lambda key: Activity(LEAD, 201, extra={"Other": {key: "x"}}),
}
INVALID: dict[str, Callable[[], Any]] = {
    "NA": lambda: pandas().NA,
    "NaT": lambda: pandas().NaT,
    "NaN": lambda: math.nan,
    "numpy's NaN": lambda: numpy().float32("nan"),
    "numpy's NaT": lambda: numpy().datetime64("NaT", "ns"),
    "longdouble": lambda: numpy().longdouble(1),
    "complex": lambda: numpy().complex128(1j),
    "duration in ns": lambda: numpy().timedelta64(3, "ns"),
    "date-time in ns": lambda: numpy().datetime64("2025-03-04", "ns"),
    "array": lambda: numpy().array([1]),
    "masked": lambda: numpy().ma.masked,
    "series": lambda: pandas().Series([1]),
    "year 20000": lambda: pandas().Timestamp(numpy().datetime64("20000-01-01", "s"), tz="UTC"),
}


def is_valid(make: Callable[[Any], Activity], value: object) -> bool:
    try:
        make(value)
    except InvalidActivity:
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int64", -3),
        ("uint8", 3),
        ("float64", 2.5),
        ("float32", 0.5),
        ("bool_", True),
        ("str_", "x"),
    ],
)
def test_a_numpy_number_boolean_or_text_is_sent_like_pythons_own(kind: str, value: object) -> None:
    of_numpy = getattr(numpy(), kind)(value)
    for place, make in VALUE_PLACES.items():
        sent = json.dumps(make(of_numpy).to_payload())
        assert sent == json.dumps(make(value).to_payload()), place


def test_a_numpy_text_and_a_numpy_integer_are_attributes() -> None:
    text = numpy().str_
    made = Activity(text(LEAD), numpy().int64(207), text("note"), text("2025-03-04 09:15:07"))
    assert type(made.activity_event) is int
    assert made == Activity(LEAD, 207, "note", MOMENT)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [("int64", [0]), ("float64", [207.0]), ("bool_", [True]), ("timedelta64", [207, "ns"])],
)
def test_no_other_numpy_value_is_an_event_code(kind: str, arguments: list[Any]) -> None:
    with pytest.raises(
        InvalidActivity, match=r"ActivityEvent: found .*, wanted a positive integer"
    ):
        Activity.from_payload(payload(ActivityEvent=getattr(numpy(), kind)(*arguments)))


@pytest.mark.parametrize("name", INVALID)
def test_a_missing_or_unknown_value_is_invalid_in_every_place(name: str) -> None:
    value = INVALID[name]()
    places = VALUE_PLACES | OTHER_PLACES
    assert [place for place, make in places.items() if is_valid(make, value)] == []


@pytest.mark.parametrize("name", ["NA", "NaT", "NaN"])
def test_a_missing_value_is_invalid_as_a_key(name: str) -> None:
    key = INVALID[name]()
    assert [place for place, make in KEY_PLACES.items() if is_valid(make, key)] == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("NA", "a: found a value of type NAType, wanted a value that JSON can hold"),
        ("NaT", "a: found a value of type NaTType, wanted a date-time with a time zone"),
        ("numpy's NaN", "a: found the number nan, wanted a value that JSON can hold"),
        ("array", "a: found a value of type ndarray, wanted a value that JSON can hold"),
        ("year 20000", "a: found a date-time that UTC cannot hold, wanted one in the years 1 to"),
    ],
)
def test_an_invalid_value_is_reported_by_its_type(name: str, problem: str) -> None:
    with pytest.raises(InvalidActivity) as caught:
        Activity(LEAD, 201, fields={"a": INVALID[name]()})
    assert len(caught.value.problems) == 1
    assert problem in str(caught.value)


def test_missing_values_are_reported_together() -> None:
    na = pandas().NA
    with pytest.raises(InvalidActivity) as caught:
        Activity.from_payload(
            {
                "RelatedProspectId": na,
                "ActivityEvent": na,
                "ActivityNote": na,
                "ActivityDateTime": na,
                "Fields": [{"SchemaName": "a", "Value": na}, na],
                "Other": na,
            }
        )
    assert [problem.field for problem in caught.value.problems] == [
        "RelatedProspectId",
        "ActivityEvent",
        "ActivityNote",
        "ActivityDateTime",
        "a",
        "Other",
        "Fields[1]",
    ]


def test_a_timestamp_is_sent_like_a_datetime() -> None:
    timestamp = pandas().Timestamp(MOMENT)
    made = Activity(LEAD, 201, activity_datetime=timestamp, fields={"a": timestamp})
    assert type(made.activity_datetime) is datetime
    assert made.to_payload() == (
        Activity(LEAD, 201, activity_datetime=MOMENT, fields={"a": MOMENT}).to_payload()
    )


def test_a_timestamp_without_a_time_zone_is_invalid() -> None:
    timestamp = pandas().Timestamp("2025-03-04")
    with pytest.raises(InvalidActivity, match="found a date-time without a time zone") as caught:
        Activity(LEAD, 201, activity_datetime=timestamp, fields={"a": timestamp})
    assert [problem.field for problem in caught.value.problems] == ["ActivityDateTime", "a"]
