"""An activity: the vendor's JSON both ways, and every check before a call."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import LEAD

from leadpost import Activity, InvalidActivity
from leadpost.activity import personal_texts

# The body on the vendor's page, to the letter.
DOCUMENT = """{
"RelatedProspectId":"00727844-51aa-11e2-9e64-12314004ac6b",
"ActivityEvent":201,
"ActivityNote":"Your Activity Note",
"ActivityDateTime":"2015-10-11 12:13:44",
"Fields":[
{"SchemaName":"mx_Custom_1","Value":"123123123"},
{"SchemaName":"mx_Custom_2","Value":"123"},
{"SchemaName":"mx_Custom_3","Value":"3"},
{"SchemaName":"mx_Custom_4","Value":"4"},
{"SchemaName":"mx_Custom_5","Value":"2016-07-07 10:55:00"},
{"SchemaName":"mx_Custom_6","Value":"Value for Custom field"},
{"SchemaName":"mx_Custom_7","Value":"Value for Custom field"},
{"SchemaName":"mx_Custom_8","Value":"1"},
{"SchemaName":"mx_Custom_9","Value":"Value for Custom field"},
{"SchemaName":"mx_Custom_10","Value":""},
{"SchemaName":"mx_Custom_11","Value":""},
{"SchemaName":"mx_Custom_12","Value":""},
{"SchemaName":"mx_Custom_13","Value":"Value for Custom field"},
{"SchemaName":"mx_Custom_14","Value":"Value for Custom field"},
{"SchemaName":"mx_Custom_15","Value":"asd"}
]
}"""
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


PLAIN_ITEMS = st.fixed_dictionaries({"SchemaName": NAMES, "Value": VALUES})
NESTED_ITEMS = st.fixed_dictionaries(
    {
        "SchemaName": NAMES,
        "Value": st.just("") | LEAVES,
        "Fields": st.lists(PLAIN_ITEMS, max_size=3, unique_by=name_of),
    }
)
ODD_ITEMS = st.fixed_dictionaries({"Attribute": NAMES}, optional={"Value": VALUES, "More": VALUES})


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
def test_any_payload_of_the_vendors_shape_goes_out_as_the_same_json(
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


def test_the_documents_own_body_survives_unchanged_in_content_and_order() -> None:
    written = Activity.from_json(DOCUMENT).to_payload()
    assert json.dumps(written) == json.dumps(json.loads(DOCUMENT))


def test_attributes_and_payload_say_the_same() -> None:
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


def test_a_list_is_a_nested_set_and_a_mapping_the_whole_item() -> None:
    nested = [{"SchemaName": "Status", "Value": "Pending"}]
    whole = {"SchemaName": "mx_Custom_4", "Value": "x", "Fields": nested}
    made = Activity(LEAD, 207, fields={"mx_Custom_3": nested, "mx_Custom_4": whole})
    assert made.to_payload()["Fields"] == [
        {"SchemaName": "mx_Custom_3", "Value": "", "Fields": nested},
        whole,
    ]


def test_what_is_none_or_empty_is_left_out() -> None:
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
def test_text_date_times_go_out_in_utc(text: str, sent: str) -> None:
    made = Activity.from_payload(
        {"RelatedProspectId": LEAD, "ActivityEvent": 1, "ActivityDateTime": text}
    )
    assert made.to_payload()["ActivityDateTime"] == sent


def test_fractions_of_a_second_are_cut() -> None:
    when = datetime(2025, 3, 4, 9, 15, 0, 999_999, tzinfo=UTC)
    sent = Activity(LEAD, 1, activity_datetime=when).to_payload()["ActivityDateTime"]
    assert sent == "2025-03-04 09:15:00"


def test_the_email_form_needs_no_lead_id() -> None:
    made = Activity(None, 201, extra={"EmailAddress": "jo@example.com"})
    assert made.to_payload() == {"ActivityEvent": 201, "EmailAddress": "jo@example.com"}


def deep(levels: int) -> list[Any]:
    return [deep(levels - 1)] if levels else []


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
            "a: found the SchemaName a second time, wanted each SchemaName once",
        ),
        ({"Fields": [{"SchemaName": "a", "Value": math.nan}]}, "a: found the number nan, wanted"),
        ({"Fields": [{"SchemaName": "a", "Value": math.inf}]}, "a: found the number inf, wanted"),
        ({"Fields": [{"SchemaName": "a", "Value": {1}}]}, "a: found a value of type set, wanted a"),
        ({"Fields": [{"SchemaName": "a", "Value": b"x"}]}, "a: found a value of type bytes"),
        ({"Fields": [{"SchemaName": "a", "Value": 2**2000}]}, "a: found an integer of 2001 bits"),
        ({"Fields": [{"SchemaName": "a", "Value": {1: 2}}]}, "a: found a key of type int, wanted"),
        ({"Fields": [{"SchemaName": "a", "Value": {"\ud800": 2}}]}, "a: found text with half"),
        ({"Fields": [{"SchemaName": "a", "Value": deep(30)}]}, "a: found more than 20 levels"),
        (
            {"Fields": [{"SchemaName": "a", "Value": "", "Fields": [{"Value": "x"}]}]},
            "a[0]: found a value of type dict, wanted an item with a SchemaName",
        ),
        (
            {"Fields": [{"SchemaName": "a", "Value": "", "Fields": [{"SchemaName": "b"}] * 2}]},
            "a[1]: found a SchemaName a second time, wanted each SchemaName once",
        ),
        ({"Fields": [{"SchemaName": "\ud800", "Value": 1}]}, "fields: found text with half a"),
        ({"\ud800": 1}, "extra: found text with half a surrogate pair, wanted text that UTF-8"),
        ({"ActivityEvent": -(10**5000)}, "ActivityEvent: found an integer of 16610 bits, wanted"),
        ({"Other": math.nan}, "Other: found the number nan, wanted a finite number"),
        ({" ": 1}, "extra: found empty text, wanted the name of a parameter"),
    ],
)
def test_a_wrong_payload_is_told_by_field_found_and_wanted(
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
            "a: found an item with another SchemaName or none, wanted SchemaName a",
        ),
        ({"extra": "x"}, "extra: found text of the form 'a', wanted a mapping of further"),
        ({"extra": {"Fields": []}}, "Fields: found it in extra, wanted the attribute of that name"),
        (
            {"activity_datetime": 5},
            "ActivityDateTime: found a value of type int, wanted a date-time",
        ),
    ],
)
def test_wrong_arguments_are_told_too(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidActivity) as caught:
        Activity(LEAD, 201, **arguments)
    assert problem in str(caught.value)


def test_all_problems_are_told_together() -> None:
    with pytest.raises(InvalidActivity) as caught:
        Activity.from_payload({"ActivityEvent": 0, "Fields": [{}], "ActivityNote": 1})
    assert [p.field for p in caught.value.problems] == [
        "RelatedProspectId",
        "ActivityEvent",
        "ActivityNote",
        "Fields[0]",
    ]


@pytest.mark.parametrize("text", ["{", b"\xff", "[" * 100_000, ""])
def test_text_that_is_not_json_is_told(text: str | bytes) -> None:
    with pytest.raises(InvalidActivity, match="activity: found text that is not JSON"):
        Activity.from_json(text)


@pytest.mark.parametrize("value", ["[]", "3", '"x"', "null"])
def test_json_that_is_no_object_is_told(value: str) -> None:
    with pytest.raises(InvalidActivity, match=r"activity: found .*, wanted an Activity or a map"):
        Activity.from_json(value)


def test_repr_shows_no_note_and_no_value() -> None:
    made = Activity.from_json(DOCUMENT)
    assert repr(made) == f"<Activity 201 on {LEAD}, 2015-10-11 12:13:44Z, 15 fields>"
    assert repr(Activity(LEAD, 7)) == f"<Activity 7 on {LEAD}, 0 fields>"


def test_an_activity_is_not_changed_by_changing_what_it_was_made_from() -> None:
    fields = {"mx_Custom_1": "a"}
    made = Activity(LEAD, 201, fields=fields)
    fields["mx_Custom_1"] = "b"
    assert made.fields == {"mx_Custom_1": "a"}


def test_personal_texts_are_the_notes_and_values_not_the_names() -> None:
    payload: dict[str, Any] = {
        "RelatedProspectId": LEAD,
        "ActivityEvent": 201,
        "ActivityNote": "note",
        "ActivityDateTime": "2015-10-11 12:13:44",
        "Fields": [{"SchemaName": "mx_Custom_1", "Value": "value"}],
        "EmailAddress": "jo@example.com",
    }
    payload["Fields"].append({"SchemaName": "mx_Custom_2", "Value": [919876543210, True, None]})
    texts = ["note", "value", "919876543210", "jo@example.com"]
    assert list(personal_texts(payload)) == texts


@pytest.mark.parametrize("name", ["activityNote", "Activity_Note", "ActivityNotes", "activitynote"])
def test_a_key_that_is_nearly_a_parameter_is_refused(name: str) -> None:
    told = f"ActivityNote: found the key '{name}', wanted 'ActivityNote', or an item of Fields"
    payload = {"RelatedProspectId": LEAD, "ActivityEvent": 201, name: "private"}
    with pytest.raises(InvalidActivity) as in_payload:
        Activity.from_payload(payload)
    with pytest.raises(InvalidActivity) as in_extra:
        Activity(LEAD, 201, extra={name: "private"})
    for caught in (in_payload, in_extra):
        assert told in str(caught.value)
        assert "private" not in str(caught.value)
