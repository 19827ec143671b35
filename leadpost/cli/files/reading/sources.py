"""The rows of a file, whatever its format: each is the activity it would send, or its problems."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import starmap
from math import inf
from typing import Any

from leadpost import Activity
from leadpost._validation import is_list, is_mapping, name_of
from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.cells import (
    ERRORS,
    NO_ZONE,
    AccountFacts,
    Invalid,
    Moments,
    lead_id,
    unrounded,
    unshortened,
)
from leadpost.cli.files.reading.columns import (
    PARAMETERS,
    Columns,
    columns_of,
    constants_of,
    is_field,
)
from leadpost.cli.files.reading.csv_file import DELIMITERS, Grid
from leadpost.cli.files.reading.identity import activity_digest, cells_digest
from leadpost.cli.files.reading.json_file import JsonItem
from leadpost.cli.files.reading.lead_columns import (
    COLUMN,
    FINDS,
    lead_of,
    with_lead,
    with_lead_of_email_form,
)
from leadpost.cli.files.reading.own_files import KEY, OWN
from leadpost.cli.files.reading.row import Problem, Row
from leadpost.cli.files.reading.settings import Reading
from leadpost.errors import InvalidActivity

_LEADS = ("RelatedProspectId", *(COLUMN + name for name in FINDS))
"""What a row may say of its lead; the first that it has counts."""
_NUMBERS = (f"{COLUMN}Phone", f"{COLUMN}Mobile")
"""Columns of phone numbers."""

_NAMELESS = "is in a column without a heading"
_NAME_IT = "give it one, or leave out all such columns with --ignore-others"


class Table:
    """
    A CSV file or the sheet of a workbook.

    Attributes:
        name: What to call it.
        delimiter: The delimiter of its rejects.
        header: Its headings without leadpost's own.
        columns: Which column goes where.
    """

    is_json = False

    def __init__(self, name: str, grid: Grid, reading: Reading, facts: AccountFacts) -> None:
        self.name = name
        # Rejects are read without options.
        self.delimiter = grid.delimiter if grid.delimiter in DELIMITERS else ","
        self._records = grid.records
        self._width = len(grid.header)
        self._key_place = grid.header.index(KEY) if KEY in grid.header else None
        self._own_places = {n for n, heading in enumerate(grid.header) if heading in OWN}
        self.header: Sequence[str] = [name for name in grid.header if name not in OWN]
        self.columns = columns = columns_of(name, self.header, reading)
        self._needed = {
            "ActivityEvent": "enter the activity type's code, or --set ActivityEvent=201"
        }
        if not columns.are_of_leads:
            self._needed["RelatedProspectId"] = "enter the lead's id"
        nameless = [place for place, heading in enumerate(self.header) if not heading]
        self._nameless = [] if reading.ignore_others else nameless
        self._sends_empty = reading.send_empty
        self._constants = [*columns.constants.values()]
        # The place, the heading and the target of each cell; constants are cells to the right.
        constants = enumerate(columns.constants, len(self.header))
        cells = [*columns.sent, *((n, f"--set {target}", target) for n, target in constants)]
        self._fields = [target for *_, target in cells if is_field(target)]
        readers = _readers_of(reading, facts, naive_is_utc=False) | {"ActivityNote": str}
        self._cells = [(*cell, readers.get(cell[2], unshortened)) for cell in cells]

    def rows(self) -> Iterator[Row]:
        """
        Read the rows; once.

        Raises:
            InputError: the file is broken where no row can be told from the next.
        """
        return starmap(self._row, self._records)

    def _row(self, line: int, cells: Sequence[str]) -> Row:
        key = None
        if self._key_place is not None and self._key_place < len(cells):
            key = cells[self._key_place].strip().upper()
        own = cells
        if self._own_places:
            own = [cell for place, cell in enumerate(cells) if place not in self._own_places]
        if len(cells) != self._width and (misfit := self._misfit(cells)):
            return Row(line, own, None, cells_digest(own), key=key, problems=(misfit,))
        own = own[: len(self.header)]  # without empty cells behind the last heading
        payload, problems = self._payload([*own, *self._constants])
        if problems or payload is None:
            digest = cells_digest(dict(zip(self.header, own, strict=True)))
            return Row(line, own, payload, digest, key=key, problems=tuple(problems))
        return Row(line, own, payload, activity_digest(payload), key=key)

    def _misfit(self, cells: Sequence[str]) -> Problem | None:
        width = self._width
        if len(cells) < width:
            what = f"has {len(cells)} cells, and the header has {width}"
            return Problem("row", "", what, "is a delimiter or a quotation mark missing?")
        if extra := next((cell for cell in cells[width:] if cell.strip()), None):
            return Problem("row", extra, _NAMELESS, "quote cells that contain the delimiter")
        return None

    def _payload(self, cells: Sequence[str]) -> tuple[dict[str, Any] | None, list[Problem]]:
        """Return the activity of a row, see `Row.payload`, and its problems."""
        values, problems = self._values(cells)
        if any(problem.what != NO_ZONE for problem in problems):
            return None, problems
        payload = {name: values[name] for name in PARAMETERS if name in values}
        fields = [{"SchemaName": n, "Value": values[n]} for n in self._fields if n in values]
        if fields:
            payload["Fields"] = fields
        if not self.columns.are_of_leads:
            return payload, problems
        known = {
            n.removeprefix(COLUMN): v.strip() for n, v in values.items() if n.startswith(COLUMN)
        }
        try:
            payload = with_lead(payload, known)
            Activity.from_payload(payload)
        except Invalid as error:
            return None, [*problems, Problem("lead", *error.args)]
        except InvalidActivity as error:
            for each in error.problems:
                heading, cell = self.columns.heading_of(each.field), values.get(each.field, "")
                problems.append(Problem(heading, cell, f"is not {each.wanted}"))
            return None, problems
        return payload, problems

    def _values(self, cells: Sequence[str]) -> tuple[dict[str, Any], list[Problem]]:
        """Return the values of a row by their targets, and the problems of its cells."""
        values: dict[str, Any] = {}
        filled = (cells[place] for place in self._nameless if cells[place].strip())
        problems = [Problem("row", cell, _NAMELESS, _NAME_IT) for cell in filled]
        for place, heading, target, read in self._cells:
            cell = cells[place]
            if not cell.strip():
                if target in self._needed:
                    problems.append(Problem(heading, "", "is empty", self._needed[target]))
                elif self._sends_empty and target in self._fields:
                    values[target] = ""
            elif cell in ERRORS:
                problems.append(Problem(heading, cell, *ERRORS[cell]))
            else:
                try:
                    values[target] = read(cell)
                except Invalid as error:
                    problems.append(Problem(heading, *error.args))
        return values, problems

    def lead_of(self, row: Row) -> str:
        """Return the lead of a row; as it is written there, if the row is invalid."""
        if row.payload is not None:
            return lead_of(row.payload)
        cells: Sequence[str] = row.own
        places = {target: place for place, _, target in self.columns.sent}
        of_lead = [cells[places[name]] for name in _LEADS if places.get(name, inf) < len(cells)]
        return next((cell.strip() for cell in of_lead if cell.strip()), "")


class Json:
    """A JSON file; the attributes are those of a `Table`."""

    is_json = True
    delimiter = ","
    header: Sequence[str] = ()

    def __init__(
        self, name: str, records: Iterator[JsonItem], reading: Reading, facts: AccountFacts
    ) -> None:
        self.name = name
        self._records = records
        self._readers = _readers_of(reading, facts, naive_is_utc=True)
        self.columns = Columns((), constants_of(reading), (), are_of_leads=True)
        if of_lead := [name for name in self.columns.constants if name.startswith(COLUMN)]:
            raise InputError(f"--set {of_lead[0]}: for tables only; in JSON, use LeadDetails")

    def rows(self) -> Iterator[Row]:
        return starmap(self._row, self._records)

    def _row(self, line: int, item: int | None, value: Mapping[str, Any]) -> Row:
        key = str(value.get(KEY) or "").strip().upper()
        own = {name: part for name, part in value.items() if name not in OWN}
        shaped = with_lead_of_email_form(own)
        if "LeadDetails" in shaped and is_mapping(shaped.get("Activity")):
            activity, problems = self._activity(shaped["Activity"])
            payload = {**shaped, "Activity": activity}
        else:
            payload, problems = self._activity(shaped)
        if problems := problems or _refused(payload):
            return Row(line, own, None, cells_digest(own), item, key, tuple(problems))
        return Row(line, own, payload, activity_digest(payload), item, key)

    def lead_of(self, row: Row) -> str:
        return lead_of(row.own if row.payload is None else row.payload)

    def _activity(self, own: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
        """Return an activity with the constants, and which of its parameters cannot be read."""
        activity = dict(own)
        for name, constant in self.columns.constants.items():
            if name in PARAMETERS:
                activity[name] = constant
            elif is_list(items := activity.get("Fields") or []):  # anything else is a problem
                others = [item for item in items if name_of(item) != name]
                activity["Fields"] = [*others, {"SchemaName": name, "Value": constant}]
        problems: list[Problem] = []
        for name, read in self._readers.items():
            if isinstance(text := activity.get(name), str):
                try:
                    activity[name] = read(text)
                except Invalid as error:
                    problems.append(Problem(name, *error.args))
        return activity, problems


Source = Table | Json
"""A file of activities."""


def _readers_of(
    reading: Reading, facts: AccountFacts, *, naive_is_utc: bool
) -> dict[str, Callable[[str], object]]:
    """Return what reads each parameter that is no text."""
    moments = Moments(reading, facts, naive_is_utc=naive_is_utc)
    return {
        **dict.fromkeys(_NUMBERS, unrounded),
        "RelatedProspectId": lead_id,
        "ActivityEvent": facts.event_code,
        "ActivityDateTime": moments.utc,
    }


def _refused(payload: Mapping[str, Any]) -> list[Problem]:
    """Return what the client itself would refuse."""
    try:
        Activity.from_payload(payload)
    except InvalidActivity as error:
        return [
            Problem(each.field, "", f"found {each.found}, wanted {each.wanted}")
            for each in error.problems
        ]
    return []
