"""
The activity types of the sandbox's account.

The details have the shape on LeadSquared's page "Get Activity Type Details", and further keys that
public integrations have seen. The shape of the list is from those integrations too.
"""

from typing import Any
from uuid import NAMESPACE_URL, uuid5

NAMES = {201: "Document Upload", 207: "Demo Call", 210: "Phone Call"}
"""Event code to display name."""
DEACTIVATED = 208
"""Event code of a deactivated type: the account answers as if it did not exist."""


def _field(number: int, name: str, data_type: str = "String", **attributes: Any) -> dict[str, Any]:
    return {
        "SchemaName": f"mx_Custom_{number}",
        "DisplayName": name,
        "Value": None,
        "DataType": data_type,
        "IsMandatory": number == 1,
        "IsReadOnly": False,
        "ShowInForm": True,
        "Sequence": number,
        "MaxFieldLength": 200,
        "OptionSet": "",
        "IsMultiSelectDropdown": False,
        "IncludeOthersOption": False,
        **attributes,
    }


_FIELDS = {
    201: [_field(number, f"Custom {number}") for number in range(1, 16)],
    207: [_field(1, "Outcome"), _field(2, "Duration"), _field(3, "Order")],
    210: [
        _field(1, "Outcome", "Dropdown"),
        _field(2, "Duration", "Number"),
        _field(3, "Next call on", "Date"),
        _field(4, "Ended at", "DateTime"),
        _field(5, "Remark", MaxFieldLength=50),
        _field(6, "Topics", "Dropdown", IsMultiSelectDropdown=True),
        _field(7, "Source", "SearchableDropdown", IncludeOthersOption=True),
        _field(8, "Recording", IsReadOnly=True),
        _field(9, "Address", "CustomObjectSet"),
    ],
}
_OPTIONS = {
    (210, "mx_Custom_1"): ["Connected", "Busy", "No answer", "Wrong number"],
    (210, "mx_Custom_6"): ["Price", "Demo", "Contract"],
    (210, "mx_Custom_7"): ["Web", "Referral"],
}


def listed() -> list[dict[str, Any]]:
    """Return every activity type without its fields."""
    return [
        {"ActivityEvent": code, "ActivityEventName": name, "DisplayName": name, "EventType": 2}
        for code, name in NAMES.items()
    ]


def details(code: int) -> dict[str, Any]:
    """Return one activity type with its fields; raise KeyError for an unknown code."""
    return {
        "ID": str(uuid5(NAMESPACE_URL, f"leadpost-sandbox:activity-type:{code}")),
        "Name": NAMES[code],
        "DisplayName": NAMES[code],
        "Fields": _FIELDS[code],
    }


def options(code: int, schema_name: str) -> list[dict[str, Any]]:
    """Return the options of a dropdown; raise KeyError if there is no such dropdown."""
    return [{"Text": option, "Value": option} for option in _OPTIONS[code, schema_name]]
