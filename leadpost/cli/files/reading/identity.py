"""What makes two rows the same, and the keys of rows in rejects files."""

import secrets
import unicodedata
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from leadpost._models import lead_key
from leadpost._validation import is_list, is_mapping, name_of
from leadpost.cli.files.reading.lead_columns import ID, activity_of, details_of

_LETTERS = "BCDFGHJKLMNPQRSTVWZ"
"""No vowels, so no words; no digits, so that a spreadsheet neither counts up nor reformats them."""
_LENGTH = 12
_LEAD_ID = "RelatedProspectId"
_TIME = "ActivityDateTime"
_NO_SECONDS = "--"


def activity_digest(payload: Mapping[str, Any]) -> str:
    """
    Return what is the same for the same activity, however a file writes it.

    Returns:
        32 letters for what is posted, up to the minute; then those for the lead, 16: if its id is
        not known, a question mark and the first letter of what finds it come first; then 16 for
        when it happened to the lead: its type and its minute, or without that its note, or without
        both all that is posted; then the seconds, two digits, which spreadsheets drop, or `--`.

    The order of fields, the case of the lead's id, blanks around texts, their line ends and their
    Unicode normalisation do not matter, nor whether an empty value is there. Of a lead whose id is
    not known, what finds it counts, and not what it is changed to: that is no other activity.
    """
    activity, details = activity_of(payload), details_of(payload)
    finds = details["SearchBy"]
    apart = _LEAD_ID, finds, "Fields"  # in the email form, the address is beside the parameters
    parts = {name: value for name, value in activity.items() if name not in apart}
    for item in activity.get("Fields") or ():
        parts[f"Fields.{name_of(item)}"] = _value(item)
    time = str(parts.get(_TIME) or "").strip()
    parts[_TIME], seconds = time[:16] + time[19:], time[17:19]  # YYYY-MM-DD HH:MM:SS
    posted = _digest(_canonical(parts))
    lead = lead_key(finds, details[finds])
    known_by = "" if finds == ID else f"?{finds[0]}"
    occasion = _digest((_canonical(parts.get("ActivityEvent")), parts[_TIME] or posted), 8)
    return posted + known_by + _digest(lead, 8) + occasion + (seconds or _NO_SECONDS)


def occasion_of(digest: str) -> str:
    """Return the part of an activity's digest that says which lead, which type, and when."""
    return digest[32:-2]


def cells_digest(cells: object) -> str:
    """Return the same for a row that is no activity, from its cells by heading, or its JSON."""
    return _digest(("cells", _canonical(cells))) + _NO_SECONDS


def new_key() -> str:
    """Return a key that no other row has: letters, the last of which checks the others."""
    letters = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    return letters + _check_letter(letters)


def is_whole_key(key: str) -> bool:
    """Whether the check letter fits, as it does not where one is changed or two are swapped."""
    letters, check = key[:-1], key[-1:]
    return (
        len(key) == _LENGTH + 1
        and all(letter in _LETTERS for letter in key)
        and check == _check_letter(letters)
    )


def _check_letter(letters: str) -> str:
    # 19 letters, a prime number, so that every weight below it tells them apart.
    total = sum(place * _LETTERS.index(letter) for place, letter in enumerate(letters, 1))
    return _LETTERS[total % len(_LETTERS)]


_PLAIN = {"SchemaName", "Attribute", "Value"}


def _value(item: Mapping[str, Any]) -> object:
    return item.get("Value") if item.keys() <= _PLAIN else dict(item)


def _canonical(value: object) -> object:
    """Return the same for what is the same; a mapping as sorted pairs, without empty values."""
    if isinstance(value, str):
        return _text(value)
    if is_mapping(value):
        return [
            (name, part)
            for name in sorted(value)
            if (part := _canonical(value[name])) or part is False
        ]
    if is_list(value):
        return [_canonical(part) for part in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _text(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).strip()


def _digest(parts: object, size: int = 16) -> str:
    return blake2b(ascii(parts).encode(), digest_size=size).hexdigest()
