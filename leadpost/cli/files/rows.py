"""The rows of a file, whatever its format: each is the activity it would send, or its faults."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from leadpost import Activity
from leadpost._validation import is_list, is_mapping, name_of
from leadpost.cli.exits import InputError
from leadpost.cli.files.cells import Facts, Invalid, Moments, lead_id, refuse_shortened
from leadpost.cli.files.columns import PARAMETERS, Columns, check_unique, columns_of, parameter_of
from leadpost.cli.files.csv_file import Grid
from leadpost.cli.files.identity import activity_digest, cells_digest, lead_digest
from leadpost.cli.files.json_file import Value
from leadpost.cli.files.leads import COLUMN, with_lead
from leadpost.cli.files.reading import KEY, OWN, Fault, Format, Reading
from leadpost.cli.files.workbook import ERRORS, Broken
from leadpost.errors import InvalidActivity

UNREADABLE = "leadpost_row"
"""In JSON rejects, what holds a row that is no object."""
Payload = dict[str, Any] | None
"""An activity in LeadSquared's shape, None if it cannot be posted."""


def place_of(line: int, item: int | None) -> str:
    """Name a row for a message."""
    return f"line {line}" + (f", item {item}" if item else "")


@frozen
class Row:
    """One row."""

    line: int  # the line, or the row of a sheet, that it begins on
    # What stands there, without leadpost's own columns: cells, or a JSON value.
    own: Any = field(repr=False)
    # The activity in LeadSquared's shape, None if it cannot be posted.
    payload: Mapping[str, Any] | None = field(repr=False)
    digest: str  # of that activity, or of the cells
    faults: tuple[Fault, ...] = ()
    item: int | None = None  # its number in a JSON array
    key: str | None = None  # which row of another file it is, in a rejects file

    @property
    def place(self) -> str:
        return place_of(self.line, self.item)

    @property
    def lead_id(self) -> str:
        payload = self.payload or {}
        if details := payload.get("LeadDetails"):
            values = {name_of(item): item["Value"] for item in details}
            return str(values[values["SearchBy"]])
        return str(payload.get("RelatedProspectId") or payload.get("EmailAddress") or "")

    @property
    def lead(self) -> str:
        return lead_digest(self.lead_id) if self.payload else ""


class Table:
    """
    A CSV file or the sheet of a workbook.

    Attributes:
        name: What to call it.
        form: Its format.
        delimiter: The delimiter of its rejects.
        header: Its headings without leadpost's own.
        columns: Which column goes where.
    """

    def __init__(self, name: str, form: Format, grid: Grid, reading: Reading, facts: Facts) -> None:
        self.name = name
        self.form = form
        self.delimiter = grid.delimiter
        check_unique(name, grid.header)
        self._records = grid.records
        self._width = len(grid.header)
        self._key_place = grid.header.index(KEY) if KEY in grid.header else None
        self._kept = [n for n, heading in enumerate(grid.header) if heading not in OWN]
        self.header: Sequence[str] = [grid.header[place] for place in self._kept]
        columns = columns_of(name, self.header, reading)
        self.columns: Columns | None = columns
        self._may_lack_id = columns.are_of_leads
        self._constants = [*columns.constants.values()]
        self._readers = _readers(columns, len(self.header), reading, facts)

    def rows(self) -> Iterator[Row]:
        """
        Read the rows; once.

        Raises:
            InputError: the file is broken where no row can be told from the next.
        """
        kept = self._kept if len(self._kept) < self._width else None
        for line, cells in self._records:
            key = None
            if self._key_place is not None and self._key_place < len(cells):
                key = cells[self._key_place].strip().upper()
            if len(cells) != self._width:
                if faults := self._misfits(cells):
                    yield Row(line, cells, None, cells_digest(cells), faults, key=key)
                    continue
                cells = cells[: self._width]  # noqa: PLW2901  without empty ones at its end
            own = cells if kept is None else [cells[place] for place in kept]
            payload, faults = self._payload(own)
            if payload is None:
                digest = cells_digest(dict(zip(self.header, own, strict=True)))
            else:
                digest = activity_digest(payload)
            yield Row(line, own, payload, digest, faults, key=key)

    def _misfits(self, cells: Sequence[str]) -> tuple[Fault, ...]:
        width = self._width
        if len(cells) < width:
            what = f"has {len(cells)} cells, and the header has {width}"
            return (Fault("row", "", what, "is a delimiter or a quotation mark missing?"),)
        if extra := next((cell for cell in cells[width:] if cell.strip()), None):
            what = "is in a column without a heading"
            return (Fault("row", extra, what, "quote cells that contain the delimiter"),)
        return ()

    def _payload(self, own: Any) -> tuple[Payload, tuple[Fault, ...]]:
        cells = [*own, *self._constants]
        payload: dict[str, Any] = {}
        lead: dict[str, Any] = {}
        fields: list[dict[str, Any]] = []
        faults: list[Fault] = []
        for place, heading, target, read in self._readers:
            cell = cells[place]
            if isinstance(cell, Broken) or cell in ERRORS:
                faults.append(Fault(heading, cell, *Broken(cell).fault))
                continue
            try:
                value = read(cell)
            except Invalid as error:
                faults.append(error.fault(heading))
                continue
            if value is None:
                continue
            if target in PARAMETERS:
                payload[target] = value
            elif target.startswith(COLUMN):
                lead[target.removeprefix(COLUMN)] = value
            else:
                fields.append({"SchemaName": target, "Value": value})
        if fields:
            payload["Fields"] = fields
        if self._may_lack_id and not faults:
            return _on_lead(payload, lead)
        return (None if faults else payload), tuple(faults)


def _on_lead(
    activity: dict[str, Any], known: Mapping[str, str]
) -> tuple[Payload, tuple[Fault, ...]]:
    try:
        payload = with_lead(activity, known)
    except Invalid as error:
        return None, (error.fault("lead"),)
    faults = tuple(checked(payload))
    return (None if faults else payload), faults


_Reader = tuple[int, str, str, Callable[[str], object]]
"""The place of a cell, its heading, its target, and what reads it: None for an empty one."""


def _readers(columns: Columns, width: int, reading: Reading, facts: Facts) -> list[_Reader]:
    """Return how each column is read; constants are columns to the right of the others."""
    moments = Moments(reading, facts, naive_is_utc=False)

    def id_or_none(cell: str) -> str | None:
        return lead_id(cell) if cell.strip() else None

    def of_lead(cell: str) -> str | None:
        refuse_shortened(cell)
        return cell.strip() or None  # an empty value would erase the lead's

    def note(cell: str) -> str | None:
        return cell if cell.strip() else None

    def field_value(cell: str) -> str | None:
        if not cell.strip():
            return "" if reading.send_empty else None
        refuse_shortened(cell)
        return cell

    readers: dict[str, Callable[[str], object]] = {
        "RelatedProspectId": id_or_none if columns.are_of_leads else lead_id,
        "ActivityEvent": facts.event_code,
        "ActivityDateTime": lambda cell: moments.utc(cell) if cell.strip() else None,
        "ActivityNote": note,
    }
    constants = [
        (place, f"--set {target}", target) for place, target in enumerate(columns.constants, width)
    ]
    return [
        (
            place,
            heading,
            target,
            of_lead if target.startswith(COLUMN) else readers.get(target, field_value),
        )
        for place, heading, target in (*columns.sent, *constants)
    ]


class Json:
    """A JSON file; the attributes are those of a `Table`."""

    delimiter = ","
    header: Sequence[str] = ()
    columns: Columns | None = None

    def __init__(
        self, name: str, form: Format, items: Iterator[Value], reading: Reading, facts: Facts
    ) -> None:
        self.name = name
        self.form = form
        self._items = items
        self._facts = facts
        self._moments = Moments(reading, facts, naive_is_utc=True)
        self._constants = {parameter_of(name): v for name, v in reading.constants.items()}
        if of_lead := [target for target in self._constants if target.startswith(COLUMN)]:
            raise InputError(f"--set {of_lead[0]}: for tables only; in JSON, use LeadDetails")

    def rows(self) -> Iterator[Row]:
        return map(self._row, self._items)

    def _row(self, found: Value) -> Row:
        line, item, value = found.line, found.item, found.value
        key: str | None = None
        if is_mapping(value):
            key = str(value[KEY]).strip().upper() if KEY in value else None
            value = {name: part for name, part in value.items() if name not in OWN}
            if value.keys() == {UNREADABLE}:
                value = value[UNREADABLE]
        payload, faults = (None, (found.fault,)) if found.fault else self._payload(value)
        digest = cells_digest(value) if payload is None else activity_digest(payload)
        return Row(line, value, payload, digest, faults, item, key)

    def _payload(self, own: Any) -> tuple[Payload, tuple[Fault, ...]]:
        if not is_mapping(own):
            return None, (Fault("row", str(own), "is not a JSON object"),)
        if "LeadDetails" in own and is_mapping(own.get("Activity")):
            activity, faults = self._read(own["Activity"])
            payload = {**own, "Activity": activity}
        else:
            payload, faults = self._read(own)
        if not faults:
            faults += checked(payload)
        return (None if faults else payload), tuple(faults)

    def _read(self, activity: Mapping[Any, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return an activity with its constants, and which of its parameters cannot be read."""
        payload = _with_constants(activity, self._constants)
        faults: list[Fault] = []
        for name, read in (
            ("RelatedProspectId", lead_id),
            ("ActivityEvent", self._facts.event_code),
            ("ActivityDateTime", self._moments.utc),
        ):
            if isinstance(text := payload.get(name), str):
                try:
                    payload[name] = read(text)
                except Invalid as error:
                    faults.append(error.fault(name))
        return payload, faults


Source = Table | Json
"""A file of activities."""


def _with_constants(value: Mapping[Any, Any], constants: Mapping[str, str]) -> dict[str, Any]:
    """Set parameters, and fields by their SchemaNames, in an activity of LeadSquared's shape."""
    parameters = {name: text for name, text in constants.items() if name in PARAMETERS}
    fields = {name: text for name, text in constants.items() if name not in PARAMETERS}
    payload = {**value, **parameters}
    items: object = payload.get("Fields") or []
    if fields and is_list(items):  # anything else is a fault
        others = [item for item in items if name_of(item) not in fields]
        new = [{"SchemaName": name, "Value": text} for name, text in fields.items()]
        payload["Fields"] = [*others, *new]
    return payload


def checked(payload: Mapping[str, Any]) -> list[Fault]:
    """Return what the client itself would refuse; a table's payload is right by its making."""
    try:
        Activity.from_payload(payload)
    except InvalidActivity as error:
        return [
            Fault(each.field, "", f"found {each.found}, wanted {each.wanted}")
            for each in error.problems
        ]
    return []
