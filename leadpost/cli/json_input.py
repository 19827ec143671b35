"""JSON: activities in the vendor's own shape, one a line or in an array."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

from leadpost._models import Activity
from leadpost._validation import is_mapping
from leadpost.cli.exits import InputError
from leadpost.cli.json_values import values_of
from leadpost.cli.rows import (
    ADDED,
    Reject,
    Row,
    in_zone,
    lacks_zone,
    lines_of,
    naming_option,
    reject_of,
    with_offset,
)
from leadpost.errors import InvalidActivity, Problem

_UNREADABLE = "leadpost_row"


class JsonInput:
    """
    A file of JSON.

    Args:
        path: The file.
        name: What to call it.
        zone: The zone of date-times without one; None for the vendor's own reading, UTC.
        lines: Whether each line is an activity; else it is an array of them, or one after another.
    """

    suffix = ".jsonl"

    def __init__(self, path: Path, name: str, zone: tzinfo | None, *, lines: bool) -> None:
        self.name = name
        self._path = path
        self._zone = zone
        self._lines = lines

    def rows(self) -> Iterator[Row]:
        return self._of_lines() if self._lines else self._of_array()

    def head(self, more: Sequence[str]) -> bytes:
        del more
        return b""

    def standing(self, row: Row) -> object:
        return row.own

    def fields_beyond(self, payload: Mapping[str, Any]) -> list[str]:
        del payload
        return []

    def written(
        self,
        row: Row,
        added: Mapping[str, str],
        more: Sequence[str],
        payload: Mapping[str, Any] | None,
    ) -> bytes:
        del more
        # What is no object has no place for these, so it gets an object around it.
        own: dict[str, Any] = {**row.own} if is_mapping(row.own) else {_UNREADABLE: row.own}
        if payload is not None:
            own = {**payload}
        if moment := own.get("ActivityDateTime"):
            zone = self._zone if payload is None else UTC
            own["ActivityDateTime"] = with_offset(moment, zone)
        text = json.dumps({**own, **added}, ensure_ascii=False)
        # Half a surrogate pair, which UTF-8 cannot hold, becomes the escape that JSON has for it.
        return (text + "\n").encode(errors="backslashreplace")

    def _of_lines(self) -> Iterator[Row]:
        with self._path.open("rb") as file:
            for number, line in enumerate(lines_of(file, self.name), 1):
                text = line.strip()
                if not text:
                    continue
                try:
                    value = json.loads(text)
                except (ValueError, RecursionError) as error:
                    yield Row(number, text, problems=(_not_json(error),))
                else:
                    yield self._row(number, value)

    def _of_array(self) -> Iterator[Row]:
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            try:
                for item, (line, value) in enumerate(values_of(file, self.name), 1):
                    yield self._row(line, value, item)
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{self.name}: found byte 0x{error.object[error.start]:02x}, wanted UTF-8 text"
                ) from None

    def _row(self, line: int, value: Any, item: int | None = None) -> Row:
        moment: object = None
        reject: Reject | None = None
        if is_mapping(value):
            reject = reject_of(value)
            value = {name: part for name, part in value.items() if name not in ADDED}
            moment = value.get("ActivityDateTime")
        lacking = self._zone is None and lacks_zone(moment)
        try:
            activity = self._activity(value, moment)
        except InvalidActivity as error:
            problems = naming_option(error.problems) if lacking else error.problems
            return Row(line, value, problems=problems, item=item, reject=reject)
        return Row(line, value, activity, item=item, utc_assumed=lacking, reject=reject)

    def _activity(self, value: Any, moment: object) -> Activity:
        if moment is not None:
            value = {**value, "ActivityDateTime": in_zone(moment, self._zone)}
        return Activity.from_payload(value)


def _not_json(error: Exception) -> Problem:
    where = f" (at character {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
    return Problem("row", f"text that is not JSON{where}", "a JSON object on each line")
