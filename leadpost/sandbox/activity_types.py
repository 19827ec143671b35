"""
The activity types of the sandbox's account.

The details have the shape of the vendor's page "Get Activity Type Details"; the shape of the list
is not documented.
"""

from typing import Any
from uuid import NAMESPACE_URL, uuid5

NAMES = {201: "Document Upload", 207: "Demo Call"}
"""Event code to display name."""

_FIELDS = {
    201: [f"Custom {number}" for number in range(1, 16)],
    207: ["Outcome", "Duration", "Order"],
}


def listed() -> list[dict[str, Any]]:
    """Every activity type in short."""
    return [{"ActivityEvent": code, "DisplayName": name} for code, name in NAMES.items()]


def details(code: int) -> dict[str, Any]:
    """
    One activity type with its fields.

    Raises:
        KeyError: If there is none with this event code.
    """
    return {
        "ID": str(uuid5(NAMESPACE_URL, f"leadpost-sandbox:activity-type:{code}")),
        "Name": NAMES[code],
        "DisplayName": NAMES[code],
        "Fields": [
            {
                "SchemaName": f"mx_Custom_{number}",
                "DisplayName": name,
                "Value": None,
                "DataType": "String",
                "IsMandatory": number == 1,
                "ShowInForm": True,
                "Sequence": number,
                "OptionSet": "",
            }
            for number, name in enumerate(_FIELDS[code], start=1)
        ],
    }
