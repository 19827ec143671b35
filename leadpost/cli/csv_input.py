"""CSV: one activity a row, the vendor's parameters and SchemaNames as columns."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

from attrs import evolve

from leadpost._models import Activity
from leadpost._validation import name_of, parameter_like
from leadpost.cli.exits import InputError
from leadpost.cli.rows import (
    ADDED,
    PARAMETERS,
    REQUIRED,
    Row,
    in_zone,
    lacks_zone,
    lines_of,
    naming_option,
    reject_of,
    with_offset,
)
from leadpost.cli.versions import Version
from leadpost.errors import InvalidActivity, Problem

_BOM = b"\xef\xbb\xbf"


class CsvInput:
    """
    A CSV file in UTF-8, with a header.

    Args:
        path: The file.
        name: What to call it.
        zone: The zone of date-times without one; None for the vendor's own reading, UTC.
        send_empty: Whether an empty cell goes out as "" rather than not at all.

    Raises:
        InputError: there is no header, or it cannot be used.
    """

    suffix = ".csv"

    def __init__(self, path: Path, name: str, zone: tzinfo | None, *, send_empty: bool) -> None:
        self.name = name
        self._path = path
        self._zone = zone
        self._send_empty = send_empty
        _, header = next(self._records(), (1, None))
        if header is None:
            raise InputError(f"{name}: the file is empty")
        _check_header(name, header)
        self._header = header
        self._columns = self._own(header)

    def rows(self) -> Iterator[Row]:
        records = self._records()
        next(records, None)
        for line, cells in records:
            reject = reject_of(dict(zip(self._header, cells, strict=False)))
            # What was left to the rejects with --send-empty needs it no second time.
            version = Version.read(reject.version) if reject is not None else None
            sends_empty = self._send_empty or (version is not None and version.sends_empty)
            row = self._row(line, self._own(cells), sends_empty=sends_empty)
            yield evolve(row, reject=reject, sends_empty=sends_empty)

    def head(self, more: Sequence[str]) -> bytes:
        with self._path.open("rb") as file:
            # Excel takes a file for UTF-8 by its BOM alone: one that came with it keeps it.
            bom = _BOM if file.read(len(_BOM)) == _BOM else b""
        return bom + _line((*ADDED, *self._columns, *more))

    def standing(self, row: Row) -> object:
        cells: Any = row.own
        fits = len(cells) == len(self._columns)  # or else nobody knows which cell is which
        named = dict(zip(self._columns, cells, strict=True)) if fits else {}
        return {name: cell for name, cell in named.items() if cell} if fits else list(cells)

    def fields_beyond(self, payload: Mapping[str, Any]) -> list[str]:
        return [name for name in _fields_of(payload) if name not in self._columns]

    def written(
        self,
        row: Row,
        added: Mapping[str, str],
        more: Sequence[str],
        payload: Mapping[str, Any] | None,
    ) -> bytes:
        # What is added comes first: behind a row with a cell too many it would be in no column.
        first = [added[name] for name in ADDED]
        if payload is not None:
            named = _cells_of(payload)
            return _line((*first, *(named.get(name, "") for name in (*self._columns, *more))))
        own: Any = row.own
        cells = list[str](own)
        if len(cells) == len(self._columns):
            cells += [""] * len(more)
            if "ActivityDateTime" in self._columns:
                place = self._columns.index("ActivityDateTime")
                cells[place] = str(with_offset(cells[place], self._zone))
        return _line((*first, *cells))

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """
        Yield each record that is not blank, with the line it begins on.

        Spreadsheets write blank ones at the end, of commas alone.
        """
        with self._path.open("rb") as file:
            reader = csv.reader(lines_of(file, self.name), strict=True)
            while True:
                line = reader.line_num + 1
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    raise InputError(f"{self.name}: line {line}: not CSV: {error}") from None
                if cells is None:
                    return
                if any(cells):
                    yield line, cells

    def _own(self, cells: Sequence[str]) -> tuple[str, ...]:
        """Leave out what an earlier run has added."""
        places = [self._header.index(name) for name in ADDED if name in self._header]
        return tuple(cell for place, cell in enumerate(cells) if place not in places)

    def _row(self, line: int, cells: tuple[str, ...], *, sends_empty: bool) -> Row:
        if len(cells) != len(self._columns):
            wanted = f"{len(self._columns)} as in the header"
            return Row(line, cells, problems=(Problem("row", f"{len(cells)} cells", wanted),))
        named = dict(zip(self._columns, cells, strict=True))
        lacking = self._zone is None and lacks_zone(named.get("ActivityDateTime"))
        try:
            activity = self._activity(named, sends_empty=sends_empty)
            return Row(line, cells, activity, utc_assumed=lacking)
        except InvalidActivity as error:
            problems = naming_option(error.problems) if lacking else error.problems
            return Row(line, cells, problems=problems)

    def _activity(self, named: dict[str, str], *, sends_empty: bool) -> Activity:
        kept = {name: cell for name, cell in named.items() if cell or sends_empty}
        event: Any = named["ActivityEvent"]
        moment: Any = in_zone(named.get("ActivityDateTime") or None, self._zone)
        return Activity(
            named["RelatedProspectId"],
            int(event) if re.fullmatch(r"[0-9]{1,18}", event) else event,
            kept.get("ActivityNote"),
            moment,
            {name: cell for name, cell in kept.items() if name not in PARAMETERS},
        )


def _check_header(name: str, header: Sequence[str]) -> None:
    """
    Refuse a header that does not tell which cell is what.

    What is there is not shown before it is sure to be a header: it may be somebody's data.
    """
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        text = "".join(header)
        hint = next((f"; are they separated by {c!r}, not ','?" for c in ";\t|" if c in text), "")
        hint = hint or "".join(
            f"; column {place} is nearly named {meant}: name it exactly so"
            for place, column in enumerate(header, 1)
            if (meant := parameter_like(column)) in missing
        )
        raise InputError(
            f"{name}: line 1: missing column {', '.join(missing)}:"
            f" the first line names the columns{hint}"
        )
    for place, column in enumerate(header):
        if not column.strip():
            raise InputError(f"{name}: line 1: column {place + 1} has no name")
        if column in header[:place]:
            raise InputError(f"{name}: line 1: column {place + 1}, {column!r}, is there twice")
        if column not in PARAMETERS and (meant := parameter_like(column)) in PARAMETERS:
            raise InputError(
                f"{name}: line 1: column {place + 1}, {column!r}, is like {meant}, but would go out"
                f" as a field of that SchemaName: name it {meant}; if there is such a field, post"
                " it from JSON"
            )


def _fields_of(payload: Mapping[str, Any]) -> dict[str, str]:
    items = {
        name: item.get("Value") for item in payload.get("Fields", ()) if (name := name_of(item))
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in items.items()
    }


def _cells_of(payload: Mapping[str, Any]) -> dict[str, str]:
    """Write an activity as cells by their columns."""
    cells = {name: str(payload[name]) for name in PARAMETERS if name in payload}
    if moment := cells.get("ActivityDateTime"):
        cells["ActivityDateTime"] = str(with_offset(moment, UTC))
    return cells | _fields_of(payload)


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)  # ends with \r\n, or else 3.11 leaves a lone \r unquoted
    return text.getvalue().encode()
