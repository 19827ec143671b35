"""
Checks of an activity against the account's definition of its type.

LeadSquared's Async API accepts nearly anything, and fails later, in its queue. Pure functions: the
definitions come from `AsyncActivityPoster.activity_type`.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from attrs import field, frozen

from leadpost._answers import ActivityField, ActivityType
from leadpost._models import Activity
from leadpost._responses import get
from leadpost._validation import is_list, is_mapping, nearest, python_value
from leadpost.errors import ApplicationError, InvalidActivity, LeadpostError, described

LONGEST_NOTE = 1800
"""Characters. Public integrations cut notes here, because of a limit near 2,000."""
_NOTE = "ActivityEvent_Note"
"""The SchemaName of `ActivityNote` among the fields of a type."""
_EVERYWHERE = frozenset({"Status", "Owner"})
"""SchemaNames that LeadSquared accepts for every type, even if its definition omits them."""
_UNKNOWN_TYPE = {"MXInvalidActivityException", "MXUnknownProspectActivityException"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d.*)?", re.ASCII)

Kind = Literal[
    "invalid",
    "unknown_type",
    "unknown_field",
    "missing_field",
    "read_only_field",
    "too_long",
    "not_a_number",
    "not_a_date",
    "not_an_option",
    "long_note",
    "unchecked",
]


@frozen
class Finding:
    """
    A problem of an activity, or a part that could not be checked.

    Attributes:
        kind: `invalid` (`post` would raise `InvalidActivity`), `unknown_type` (or deactivated),
            `unknown_field`, `missing_field` (a mandatory one), `read_only_field`, `too_long`,
            `not_a_number`, `not_a_date`, `not_an_option`, `long_note`, or `unchecked`.
        severity: `error` if LeadSquared rejects such activities, as far as is known; `warning` if
            it might.
        field: LeadSquared's name of the parameter, or the SchemaName.
        message: What is wrong, in the same words for the same kind, and what is expected. It
            contains no note and no field value.
    """

    kind: Kind
    severity: Literal["error", "warning"]
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


@frozen
class Checked:
    """
    A checked activity.

    Attributes:
        index: Its place in the input, from 0.
        activity: The input itself. Not in the repr.
        findings: Its problems; empty if there are none.
    """

    index: int
    activity: Activity | Mapping[str, Any] = field(repr=False)
    findings: tuple[Finding, ...]


def invalid(error: InvalidActivity) -> tuple[Finding, ...]:
    """Return the problems for which `post` would raise `InvalidActivity`."""
    return tuple(
        Finding(
            "invalid", "error", problem.field, f"found {problem.found}, wanted {problem.wanted}"
        )
        for problem in error.problems
    )


class TypeCheck:
    """
    The check of activities of one type; of dropdowns too with `options`.

    The items of a nested set are not checked, as LeadSquared does not list them.
    """

    def __init__(
        self, code: int, definition: ActivityType | LeadpostError, *, options: bool = False
    ) -> None:
        self._code = code
        self.definition = definition  # or why there is none
        self._options = options
        # The same for each activity; nothing else can be checked then.
        self._of_type = tuple(_type_findings(code, definition))
        fields = () if isinstance(definition, LeadpostError) else definition.fields
        self._known = {field.schema_name: field for field in fields}
        self._mandatory = [name for name, field in self._known.items() if field.is_mandatory]

    def findings(self, note: str | None, fields: Mapping[str, Any]) -> tuple[Finding, ...]:
        """Check an activity with this note and these fields, as `Activity` has them."""
        of_fields = () if self._of_type else self._field_findings(note, fields)
        return (*_note_findings(note), *self._of_type, *of_fields)

    def _field_findings(self, note: str | None, fields: Mapping[str, Any]) -> Iterator[Finding]:
        for name, item in fields.items():
            if field := self._known.get(name):
                yield from _value_findings(field, item, options=self._options)
            elif name not in _EVERYWHERE:
                message = _no_such_field(name, self._code, self._known)
                yield Finding("unknown_field", "error", name, message)
        for name in self._mandatory:
            if _is_empty(_value(fields.get(name, note if name == _NOTE else None))):
                message = f"is mandatory for activity type {self._code}"
                yield Finding("missing_field", "error", name, message)


def _note_findings(note: str | None) -> Iterator[Finding]:
    if note is not None and len(note) > LONGEST_NOTE:
        longest = "LeadSquared may cut or reject more than 2,000"
        message = f"is too long; it has {len(note)} characters, and {longest}"
        yield Finding("long_note", "warning", "ActivityNote", message)


def _type_findings(code: int, definition: ActivityType | LeadpostError) -> Iterator[Finding]:
    if not isinstance(definition, LeadpostError):
        if not definition.fields and get(definition.raw, "Fields") != []:
            message = f"LeadSquared's answer does not contain the fields of type {code}"
            yield Finding("unchecked", "warning", "Fields", message)
    elif isinstance(definition, ApplicationError) and definition.exception_type in _UNKNOWN_TYPE:
        message = f"the account has no activity type {code}, or has deactivated it"
        yield Finding("unknown_type", "error", "ActivityEvent", message)
    else:
        message = f"type {code} could not be read: {described(definition)}"
        yield Finding("unchecked", "warning", "ActivityEvent", message)


def _no_such_field(name: str, code: int, known: Mapping[str, ActivityField]) -> str:
    spellings = {known_name.lower(): known_name for known_name in known}
    similar = nearest(name.lower(), spellings)
    hint = f"; did you mean {spellings[similar]}?" if similar else ""
    return f"activity type {code} has no such field{hint}"


def _value_findings(field: ActivityField, item: object, *, options: bool) -> Iterator[Finding]:
    value = _value(item)
    if _is_empty(value) or is_list(value):
        return
    name, text = field.schema_name, str(value).strip()
    data_type = (field.data_type or "").lower()
    if field.is_read_only:
        yield Finding("read_only_field", "warning", name, "is read-only in LeadSquared")
    if data_type == "number":
        if isinstance(value, bool) or not _NUMBER.fullmatch(text):
            yield Finding("not_a_number", "error", name, "is not a number such as 12.5")
    elif data_type in {"date", "datetime"}:
        if not isinstance(value, datetime) and not _is_date(text):
            example = "2024-05-06" if data_type == "date" else "2024-05-06 07:08:09"
            yield Finding("not_a_date", "error", name, f"is not a {data_type} such as {example}")
    elif field.is_dropdown:
        if options and not field.allows_others:
            yield from _option_findings(field, text)
    elif field.max_length is not None and len(text) > field.max_length:
        longest = f"the maximum is {field.max_length}"
        message = f"is too long; it has {len(text)} characters, and {longest}"
        yield Finding("too_long", "error", name, message)


def _option_findings(field: ActivityField, text: str) -> Iterator[Finding]:
    if field.options is None:
        yield Finding("unchecked", "warning", field.schema_name, "its options could not be read")
        return
    chosen = [part.strip() for part in text.split(";")] if field.is_multiple else [text]
    wrong = [part for part in chosen if part and part not in field.options]
    if wrong:
        similar = nearest(wrong[0], field.options)
        hint = f"; did you mean {similar!r}?" if similar else ""
        message = f"is not among its {len(field.options)} options{hint}"
        yield Finding("not_an_option", "error", field.schema_name, message)


def _value(item: object) -> object:
    """Return the value of a field, or the list of items of a nested set."""
    if isinstance(item, str):
        return item
    if is_mapping(item):
        item = item.get("Fields") or item.get("Value")
    return python_value(item)


def _is_empty(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _is_date(text: str) -> bool:
    try:
        return bool(_DATE.fullmatch(text) and datetime.fromisoformat(text))
    except ValueError:
        return False
