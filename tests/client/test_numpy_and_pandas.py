"""
Activities made of numpy's and pandas' values: sent as what they are, or invalid.

leadpost needs neither package. Most tests use stand-ins, which have what the checks look at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from support import LEAD

from leadpost import Activity, InvalidActivity

INDIA = timezone(timedelta(hours=5, minutes=30))
MOMENT = datetime(2025, 3, 4, 14, 45, 7, tzinfo=INDIA)


def scalar(kind: str, value: object) -> SimpleNamespace:
    """Return a stand-in for a numpy scalar."""
    return SimpleNamespace(dtype=SimpleNamespace(kind=kind), item=lambda: value)


class Array:
    """Like numpy's array of one number, `numpy.ma.masked`, or a pandas.Series."""

    dtype = SimpleNamespace(kind="i")

    def __len__(self) -> int:
        return 1

    def item(self) -> int:
        return 0

    def __bool__(self) -> bool:
        raise ValueError("The truth value of an array is ambiguous")


class NA:
    """Like `pandas.NA`: a comparison with it gives NA, which is neither true nor false."""

    def __eq__(self, other: object) -> Any:
        return self

    def __hash__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


class NaT(datetime):
    """Like `pandas.NaT`: a datetime that is no moment."""

    def utcoffset(self) -> timedelta | None:
        raise ValueError("NaTType does not support utcoffset")


class Timestamp(datetime):
    """Like `pandas.Timestamp`, whose conversion to another zone is a Timestamp again."""


class TimestampInYear20000(datetime):
    """Like a `pandas.Timestamp` after the year 9999."""

    def date(self) -> date:
        raise NotImplementedError("date not yet supported on Timestamps which are outside")


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
INVALID = {
    "NA": NA(),
    "NaT": NaT(2025, 1, 1),
    "NaN": math.nan,
    "numpy's NaN": scalar("f", math.nan),
    "longdouble": scalar("f", object()),
    "complex": scalar("c", 1j),
    "duration in ns": scalar("m", 3),
    "date-time in ns": scalar("M", 3),
    "array": Array(),
    "year 20000": TimestampInYear20000(2025, 1, 1, tzinfo=UTC),
}


@pytest.mark.parametrize("place", VALUE_PLACES)
@pytest.mark.parametrize(("kind", "value"), [("i", -3), ("u", 3), ("f", 2.5), ("b", True)])
def test_a_numpy_number_or_boolean_is_sent_like_pythons_own(
    kind: str, value: object, place: str
) -> None:
    make = VALUE_PLACES[place]
    sent = json.dumps(make(scalar(kind, value)).to_payload())
    assert sent == json.dumps(make(value).to_payload())


def test_a_numpy_integer_is_an_event_code() -> None:
    made = Activity.from_payload(payload(ActivityEvent=scalar("i", 207)))
    assert type(made.activity_event) is int
    assert made == Activity(LEAD, 207)


@pytest.mark.parametrize(("kind", "value"), [("i", 0), ("f", 207.0), ("b", True), ("m", 207)])
def test_no_other_numpy_value_is_an_event_code(kind: str, value: object) -> None:
    with pytest.raises(
        InvalidActivity, match=r"ActivityEvent: found .*, wanted a positive integer"
    ):
        Activity.from_payload(payload(ActivityEvent=scalar(kind, value)))


@pytest.mark.parametrize("place", VALUE_PLACES | OTHER_PLACES)
@pytest.mark.parametrize("name", INVALID)
def test_a_missing_or_unknown_value_is_invalid_in_every_place(name: str, place: str) -> None:
    with pytest.raises(InvalidActivity):
        (VALUE_PLACES | OTHER_PLACES)[place](INVALID[name])


@pytest.mark.parametrize("place", KEY_PLACES)
@pytest.mark.parametrize("name", ["NA", "NaT", "NaN"])
def test_a_missing_value_is_invalid_as_a_key(name: str, place: str) -> None:
    with pytest.raises(InvalidActivity):
        KEY_PLACES[place](INVALID[name])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("NA", "a: found a value of type NA, wanted a value that JSON can hold"),
        ("NaT", "a: found a value of type NaT, wanted a date-time with a time zone"),
        ("numpy's NaN", "a: found the number nan, wanted a finite number"),
        ("array", "a: found a value of type Array, wanted a value that JSON can hold"),
        ("year 20000", "a: found a date-time that UTC cannot hold, wanted one in the years 1 to"),
    ],
)
def test_an_invalid_value_is_reported_by_its_type(name: str, problem: str) -> None:
    with pytest.raises(InvalidActivity) as caught:
        Activity(LEAD, 201, fields={"a": INVALID[name]})
    assert len(caught.value.problems) == 1
    assert problem in str(caught.value)


def test_missing_values_are_reported_together() -> None:
    na = INVALID["NA"]
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
    timestamp = Timestamp.combine(MOMENT.date(), MOMENT.timetz())
    made = Activity(LEAD, 201, activity_datetime=timestamp, fields={"a": timestamp})
    assert type(made.activity_datetime) is datetime
    assert made.to_payload() == (
        Activity(LEAD, 201, activity_datetime=MOMENT, fields={"a": MOMENT}).to_payload()
    )


def test_a_timestamp_without_a_time_zone_is_invalid() -> None:
    timestamp = Timestamp(2025, 3, 4)
    with pytest.raises(InvalidActivity, match="found a date-time without a time zone") as caught:
        Activity(LEAD, 201, activity_datetime=timestamp, fields={"a": timestamp})
    assert [problem.field for problem in caught.value.problems] == ["ActivityDateTime", "a"]


def test_numpys_own_values_are_sent_or_invalid() -> None:
    numpy: Any = import_module("numpy")
    made = Activity(
        numpy.str_(LEAD),
        numpy.int64(201),
        numpy.str_("note"),
        numpy.str_("2025-03-04 09:15:07"),
        fields={
            "a": numpy.uint8(3),
            "b": numpy.float64(2.5),
            "c": numpy.float32(0.5),
            "d": [{"SchemaName": numpy.str_("e"), "Value": numpy.bool_(True)}],  # noqa: FBT003  # numpy's
        },
    )
    plain = Activity(
        LEAD,
        201,
        "note",
        MOMENT,
        fields={"a": 3, "b": 2.5, "c": 0.5, "d": [{"SchemaName": "e", "Value": True}]},
    )
    assert json.dumps(made.to_payload()) == json.dumps(plain.to_payload())
    for value in (
        numpy.float32("nan"),
        numpy.datetime64("NaT", "ns"),
        numpy.datetime64("2025-03-04", "ns"),
        numpy.timedelta64(3, "ns"),
        numpy.array([1]),
        numpy.ma.masked,
    ):
        for make in (VALUE_PLACES | OTHER_PLACES).values():
            with pytest.raises(InvalidActivity):
                make(value)


def test_pandas_own_values_are_sent_or_invalid() -> None:
    pandas: Any = import_module("pandas")
    made = Activity(LEAD, 201, None, pandas.Timestamp(MOMENT), {"a": pandas.Timestamp(MOMENT)})
    assert made.to_payload() == Activity(LEAD, 201, None, MOMENT, {"a": MOMENT}).to_payload()
    for value in (pandas.NA, pandas.NaT, pandas.Timestamp("2025-03-04"), pandas.Series([1])):
        for make in (VALUE_PLACES | OTHER_PLACES).values():
            with pytest.raises(InvalidActivity):
                make(value)
    for make in KEY_PLACES.values():
        with pytest.raises(InvalidActivity):
            make(pandas.NA)
