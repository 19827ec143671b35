"""An activity: LeadSquared's JSON both ways, and the checks before any call."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import DOCUMENT, LEAD

from leadpost import Activity, InvalidActivity

INDIA = timezone(timedelta(hours=5, minutes=30))

JSON_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | JSON_TEXT
)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(JSON_TEXT, v))
NAMES = JSON_TEXT.filter(str.strip)


def name_of(item: dict[str, Any]) -> str:
    return str(item.get("SchemaName", item.get("Attribute")))


# A mapping as the Value of an item is invalid.
ITEM_VALUES = VALUES.filter(lambda value: not isinstance(value, dict))
PLAIN_ITEMS = st.fixed_dictionaries({"SchemaName": NAMES, "Value": ITEM_VALUES})
NESTED_ITEMS = st.fixed_dictionaries(
    {
        "SchemaName": NAMES,
        "Value": st.just("") | LEAVES,
        "Fields": st.lists(PLAIN_ITEMS, max_size=3, unique_by=name_of),
    }
)
ODD_ITEMS = st.fixed_dictionaries(
    {"Attribute": NAMES}, optional={"Value": ITEM_VALUES, "More": VALUES}
)


@settings(max_examples=50)
@given(
    items=st.lists(
        PLAIN_ITEMS | NESTED_ITEMS | ODD_ITEMS,
        min_size=1,
        max_size=5,
        unique_by=name_of,
    ),
    note=JSON_TEXT,
    extra=st.dictionaries(st.sampled_from(["ProcessFilesAsync", "Other"]), VALUES),
)
def test_any_payload_in_leadsquareds_shape_is_sent_as_the_same_json(
    items: list[dict[str, Any]], note: str, extra: dict[str, Any]
) -> None:
    payload = {
        "RelatedProspectId": LEAD,
        "ActivityEvent": 201,
        "ActivityNote": note,
        "ActivityDateTime": "2015-10-11 12:13:44",
        "Fields": items,
        **extra,
    }
    written = Activity.from_payload(payload).to_payload()
    assert json.loads(json.dumps(written)) == json.loads(json.dumps(payload))


def test_the_body_on_leadsquareds_page_is_unchanged_in_content_and_order() -> None:
    written = Activity.from_json(DOCUMENT).to_payload()
    assert json.dumps(written) == json.dumps(json.loads(DOCUMENT))


def test_from_payload_sets_the_attributes() -> None:
    made = Activity(
        UUID(LEAD),
        207,
        "Demo call finished",
        datetime(2025, 3, 4, 14, 45, tzinfo=INDIA),
        fields={"mx_Custom_1": "connected", "mx_Custom_2": datetime(2025, 3, 4, 9, tzinfo=UTC)},
        extra={"ProcessFilesAsync": True},
    )
    assert made.to_payload() == {
        "RelatedProspectId": LEAD,
        "ActivityEvent": 207,
        "ActivityNote": "Demo call finished",
        "ActivityDateTime": "2025-03-04 09:15:00",
        "Fields": [
            {"SchemaName": "mx_Custom_1", "Value": "connected"},
            {"SchemaName": "mx_Custom_2", "Value": "2025-03-04 09:00:00"},
        ],
        "ProcessFilesAsync": True,
    }


def test_a_list_is_a_nested_set_and_a_mapping_a_whole_item() -> None:
    nested = [{"SchemaName": "Status", "Value": "Pending"}]
    whole = {"SchemaName": "mx_Custom_4", "Value": "x", "Fields": nested}
    made = Activity(LEAD, 207, fields={"mx_Custom_3": nested, "mx_Custom_4": whole})
    assert made.to_payload()["Fields"] == [
        {"SchemaName": "mx_Custom_3", "Value": "", "Fields": nested},
        whole,
    ]


def test_any_mapping_will_do() -> None:
    item = MappingProxyType({"SchemaName": "Status", "Value": MappingProxyType({"a": 1})})
    assert Activity(LEAD, 207, extra={"Other": [item]}).to_payload()["Other"] == [
        {"SchemaName": "Status", "Value": {"a": 1}}
    ]


def test_a_payload_omits_none_and_empty_values() -> None:
    assert Activity(LEAD, 207).to_payload() == {"RelatedProspectId": LEAD, "ActivityEvent": 207}


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("2015-10-11 12:13:44", "2015-10-11 12:13:44"),
        ("2015-10-11T12:13:44Z", "2015-10-11 12:13:44"),
        ("2015-10-11T17:43:44+05:30", "2015-10-11 12:13:44"),
        ("0001-01-02 00:00:00", "0001-01-02 00:00:00"),
    ],
)
def test_date_times_given_as_text_are_sent_in_utc(text: str, sent: str) -> None:
    made = Activity.from_payload(
        {"RelatedProspectId": LEAD, "ActivityEvent": 1, "ActivityDateTime": text}
    )
    assert made.to_payload()["ActivityDateTime"] == sent


def test_fractions_of_a_second_are_dropped() -> None:
    when = datetime(2025, 3, 4, 9, 15, 0, 999_999, tzinfo=UTC)
    sent = Activity(LEAD, 1, activity_datetime=when).to_payload()["ActivityDateTime"]
    assert sent == "2025-03-04 09:15:00"


def test_the_email_form_needs_no_lead_id() -> None:
    made = Activity(None, 201, extra={"EmailAddress": "jo@example.com"})
    assert made.to_payload() == {"ActivityEvent": 201, "EmailAddress": "jo@example.com"}


@pytest.mark.parametrize("email", ["", None, 5])
def test_the_email_form_needs_an_address(email: object) -> None:
    with pytest.raises(InvalidActivity, match="RelatedProspectId: found nothing, wanted a GUID"):
        Activity(None, 201, extra={"EmailAddress": email})


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


NESTED_SET = 'a list of items: [{"SchemaName": "mx_CustomObject_1", "Value": …}]'
GUID = "wanted a GUID such as 00727844-51aa-11e2-9e64-12314004ac6b"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"RelatedProspectId": None}, f"RelatedProspectId: found nothing, {GUID}"),
        ({"RelatedProspectId": " "}, f"RelatedProspectId: found empty text, {GUID}"),
        (
            {"RelatedProspectId": "jo.doe7@example.com"},
            f"RelatedProspectId: found text of the form 'aa.aaa9@aaaaaaa.aaa', {GUID}",
        ),
        ({"RelatedProspectId": LEAD + "0"}, f"'99999999-99aa-99a9-9a99-99999999aa9a9', {GUID}"),
        ({"RelatedProspectId": "é" * 50}, f"text of the form '{'a' * 40}'…, {GUID}"),
        ({"RelatedProspectId": 7}, f"RelatedProspectId: found a value of type int, {GUID}"),
        ({"ActivityEvent": None}, "ActivityEvent: found nothing, wanted a positive integer"),
        ({"ActivityEvent": 0}, "ActivityEvent: found 0, wanted a positive integer such as 201"),
        ({"ActivityEvent": -3}, "ActivityEvent: found -3, wanted"),
        ({"ActivityEvent": True}, "ActivityEvent: found a value of type bool, wanted"),
        ({"ActivityEvent": 2.5}, "ActivityEvent: found a value of type float, wanted"),
        ({"ActivityEvent": "201"}, "ActivityEvent: found text of the form '999', wanted"),
        ({"ActivityEvent": 2**64}, "ActivityEvent: found an integer of 65 bits, wanted"),
        ({"ActivityNote": 5}, "ActivityNote: found a value of type int, wanted text"),
        ({"ActivityNote": "\ud800"}, "ActivityNote: found text with half a surrogate pair"),
        (
            {"ActivityDateTime": datetime(2025, 1, 1)},  # noqa: DTZ001  # the mistake
            "ActivityDateTime: found a date-time without a time zone, wanted an aware date-time",
        ),
        (
            {"ActivityDateTime": "11/10/2015 12:13"},
            "ActivityDateTime: found text of the form '99/99/9999 99:99', wanted a date-time with",
        ),
        (
            {"ActivityDateTime": "2015-10-11T12:13:44"},
            "ActivityDateTime: found text of the form '9999-99-99a99:99:99', wanted",
        ),
        (
            {"ActivityDateTime": datetime.min.replace(tzinfo=INDIA)},
            "ActivityDateTime: found a date-time that UTC cannot hold, wanted one in the years",
        ),
        ({"ActivityDateTime": date(2025, 1, 1)}, "found a value of type date, wanted a date-time"),
        ({"Fields": {"mx_Custom_1": "x"}}, "Fields: found a value of type dict, wanted a list"),
        ({"Fields": ["x"]}, "Fields[0]: found text of the form 'a', wanted an item with a Schema"),
        ({"Fields": [{"SchemaName": "", "Value": "x"}]}, "Fields[0]: found a value of type dict"),
        (
            {"Fields": [{"SchemaName": "a", "Value": 1}, {"SchemaName": "a", "Value": 2}]},
            "Fields[1]: found a second 'a', wanted each name once",
        ),
        ({"Fields": [{"SchemaName": "a", "Value": math.nan}]}, "a: found the number nan, wanted"),
        ({"Fields": [{"SchemaName": "a", "Value": math.inf}]}, "a: found the number inf, wanted"),
        ({"Fields": [{"SchemaName": "a", "Value": "\ud800"}]}, "a: found text with half a surr"),
        ({"Fields": [{"SchemaName": "a", "Value": {1}}]}, "a: found a value of type set, wanted a"),
        ({"Fields": [{"SchemaName": "a", "Value": b"x"}]}, "a: found a value of type bytes"),
        ({"Fields": [{"SchemaName": "a", "Value": 10**5000}]}, "a: found a value of type int, wan"),
        (
            {"Fields": [{"SchemaName": "a", "Value": [{(1,): 2}]}]},
            "a: found a value of type dict, wanted a value that JSON can hold (keys must be",
        ),
        (
            {"Fields": [{"SchemaName": "a", "Value": [{"b": {1}}]}]},
            "a: found a value of type dict, wanted a value that JSON can hold (no value of type",
        ),
        (
            {"Other": [datetime(2025, 1, 1)]},  # noqa: DTZ001  # the mistake
            "JSON can hold (a date-time: found a date-time without a time zone",
        ),
        ({"Fields": [{"SchemaName": "a", "Value": [{"\ud800": 2}]}]}, "a: found text with half"),
        (
            {"Fields": [{"SchemaName": "a", "Value": {"b": 1}}]},
            f"a: found a mapping as Value, wanted {NESTED_SET}",
        ),
        (
            {"Fields": [{"SchemaName": "a", "Value": deep(100_000)}]},
            "a: found a value of type dict",
        ),
        (
            {"Fields": [{"SchemaName": "a", "Value": "", "Fields": [{"Value": "x"}]}]},
            "a[0]: found a value of type dict, wanted an item with a SchemaName",
        ),
        (
            {"Fields": [{"SchemaName": "a", "Value": "", "Fields": [{"SchemaName": "b"}] * 2}]},
            "a[1]: found a second 'b', wanted each name once",
        ),
        ({"Fields": [{"SchemaName": "\ud800", "Value": 1}]}, "fields: found text of the form"),
        ({"\ud800": 1}, "extra: found text of the form '\\ud800', wanted the name of a parameter"),
        ({"ActivityEvent": -(10**5000)}, "ActivityEvent: found an integer of 16610 bits, wanted"),
        ({"Other": math.nan}, "Other: found the number nan, wanted a value that JSON can"),
        ({" ": 1}, "extra: found empty text, wanted the name of a parameter"),
    ],
)
def test_an_invalid_payload_is_reported_by_field_found_and_wanted(
    changes: dict[str, Any], problem: str
) -> None:
    payload = {"RelatedProspectId": LEAD, "ActivityEvent": 201} | changes
    with pytest.raises(InvalidActivity) as caught:
        Activity.from_payload(payload)
    assert len(caught.value.problems) == 1
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"fields": ["a"]}, "fields: found a value of type list, wanted a mapping of SchemaName"),
        ({"fields": {"": 1}}, "fields: found empty text, wanted a SchemaName such as mx_Custom_1"),
        ({"fields": {3: 1}}, "fields: found a value of type int, wanted a SchemaName such as mx"),
        (
            {"fields": {"a": {"SchemaName": "b", "Value": 1}}},
            "a: found an item with another SchemaName, wanted SchemaName a",
        ),
        (
            {"fields": {"a": {"mx_CustomObject_1": "x"}}},
            f"a: found a mapping without a SchemaName, wanted {NESTED_SET}, or a whole item",
        ),
        (
            {"fields": {"a": {"SchemaName": "a", "Fields": {"mx_CustomObject_1": "x"}}}},
            f"a: found a mapping as Fields, wanted {NESTED_SET}",
        ),
        (
            {"fields": {"a": {"SchemaName": "a", "Value": {"mx_CustomObject_1": "x"}}}},
            f"a: found a mapping as Value, wanted {NESTED_SET}",
        ),
        ({"activity_note": math.nan}, "ActivityNote: found the number nan, wanted text"),
        ({"extra": "x"}, "extra: found text of the form 'a', wanted a mapping of further"),
        ({"extra": {"Fields": []}}, "Fields: found in extra, wanted as an argument of `Activity`"),
        (
            {"activity_datetime": 5},
            "ActivityDateTime: found a value of type int, wanted a date-time",
        ),
    ],
)
def test_an_invalid_argument_is_reported_in_the_same_way(
    arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidActivity) as caught:
        Activity(LEAD, 201, **arguments)
    assert len(caught.value.problems) == 1
    assert problem in str(caught.value)


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(InvalidActivity) as caught:
        Activity.from_payload({"ActivityEvent": 0, "Fields": [{}], "ActivityNote": 1})
    assert [p.field for p in caught.value.problems] == [
        "RelatedProspectId",
        "ActivityEvent",
        "ActivityNote",
        "Fields[0]",
    ]


@pytest.mark.parametrize("text", ["{", b"\xff", "[" * 100_000, ""])
def test_text_that_is_not_json_is_invalid(text: str | bytes) -> None:
    with pytest.raises(InvalidActivity, match="activity: found text that is not JSON"):
        Activity.from_json(text)


@pytest.mark.parametrize(
    ("value", "found"),
    [(None, "nothing"), (math.nan, "the number nan"), (5, "a value of type int")],
)
def test_json_is_read_only_from_text(value: Any, found: str) -> None:
    with pytest.raises(InvalidActivity, match=f"activity: found {found}, wanted JSON text"):
        Activity.from_json(value)


@pytest.mark.parametrize("value", ["[]", "3", '"x"', "null"])
def test_json_that_is_not_an_object_is_invalid(value: str) -> None:
    with pytest.raises(InvalidActivity, match=r"activity: found .*, wanted an Activity or a map"):
        Activity.from_json(value)


def test_repr_shows_no_note_and_no_value() -> None:
    made = Activity.from_json(DOCUMENT)
    assert repr(made) == f"<Activity 201 on {LEAD}, 2015-10-11 12:13:44Z, 15 fields>"
    assert repr(Activity(LEAD, 7)) == f"<Activity 7 on {LEAD}, 0 fields>"


def test_changing_the_mapping_it_was_made_from_does_not_change_an_activity() -> None:
    fields = {"mx_Custom_1": "a"}
    made = Activity(LEAD, 201, fields=fields)
    fields["mx_Custom_1"] = "b"
    assert made.fields == {"mx_Custom_1": "a"}


@pytest.mark.parametrize("name", ["activityNote", "Activity_Note", "ActivityNotes", "activitynote"])
def test_a_key_similar_to_a_parameter_is_invalid(name: str) -> None:
    message = f"ActivityNote: found the key '{name}', wanted 'ActivityNote', or an item of Fields"
    payload = {"RelatedProspectId": LEAD, "ActivityEvent": 201, name: "private"}
    with pytest.raises(InvalidActivity) as in_payload:
        Activity.from_payload(payload)
    with pytest.raises(InvalidActivity) as in_extra:
        Activity(LEAD, 201, extra={name: "private"})
    for caught in (in_payload, in_extra):
        assert message in str(caught.value)
        assert "private" not in str(caught.value)
