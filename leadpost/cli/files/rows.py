"""The rows of a file, whatever its format: each is the activity it would send, or its faults."""

import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from attrs import field, frozen

from leadpost._models import Activity
from leadpost._validation import is_list, is_mapping, name_of
from leadpost.cli.exits import InputError
from leadpost.cli.files.cells import Invalid, Moments, event_code, lead_id, refuse_shortened
from leadpost.cli.files.columns import PARAMETERS, Columns, columns_of, parameter_of
from leadpost.cli.files.csv_file import CsvFile, Record
from leadpost.cli.files.identity import activity_digest, cells_digest, lead_digest
from leadpost.cli.files.json_file import JsonFile, Value
from leadpost.cli.files.reading import KEY, OWN, Fault, Format, Reading
from leadpost.cli.files.workbook import Broken, Workbook
from leadpost.errors import InvalidActivity

STDIN = "-"
UNREADABLE = "leadpost_row"
"""In JSON rejects, what holds a row that is no object."""
_SUFFIXES = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".txt": Format.CSV,
    ".xlsx": Format.XLSX,
    ".xlsm": Format.XLSX,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSON,
}


@frozen
class Row:
    """
    One row.

    Attributes:
        line: The line, or the row of a sheet, that it begins on.
        own: What stands there, without leadpost's own columns: cells, or a JSON value.
        payload: The activity in LeadSquared's shape, None if it cannot be posted.
        digest: Of that activity, or of the cells.
        faults: Why it cannot be posted.
        item: Its number in a JSON array.
        key: Which row of another file it is, in a rejects file.
    """

    line: int
    own: Any = field(repr=False)
    payload: Mapping[str, Any] | None = field(repr=False)
    digest: str
    faults: tuple[Fault, ...] = ()
    item: int | None = None
    key: str | None = None

    @property
    def place(self) -> str:
        return f"line {self.line}" + (f", item {self.item}" if self.item else "")

    @property
    def lead(self) -> str:
        return "" if self.payload is None else lead_digest(self.payload)


class Source(Protocol):
    """
    A file of activities.

    Attributes:
        name: What to call it.
        form: Its format.
        delimiter: Of its rejects.
        header: Its headings without leadpost's own; empty for JSON.
        columns: Which column goes where; None for JSON.
        own: leadpost's own columns that it has.
    """

    name: str
    form: Format
    delimiter: str
    header: Sequence[str]
    columns: Columns | None
    own: Sequence[str]

    def rows(self) -> Iterator[Row]:
        """
        Read the rows; once.

        Raises:
            InputError: the file is broken where no row can be told from the next.
        """
        ...


class Opened:
    """A file that can be read several times, in different ways."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self._name = "standard input" if path == STDIN else Path(path).name
        self._path = path
        self._file = file

    def source(self, reading: Reading) -> Source:
        """
        Return its rows.

        Raises:
            InputError: it cannot be used.
        """
        form = self._form(reading)
        if form in {Format.JSON, Format.JSONL}:
            file = JsonFile(self._file, self._name, reading, lines=form is Format.JSONL)
            return _Json(self._name, form, file, reading)
        return _Table(self._name, form, self._table(form, reading), reading)

    def own(self, reading: Reading) -> dict[str, list[tuple[int, str]]]:
        """
        Return leadpost's own columns, as a rejects file has them, with their cells by line.

        Raises:
            InputError: the file cannot be used.
        """
        form = self._form(reading)
        found: dict[str, list[tuple[int, str]]] = {}
        if form in {Format.JSON, Format.JSONL}:
            file = JsonFile(self._file, self._name, reading, lines=form is Format.JSONL)
            for value in file.values():
                for name in OWN if is_mapping(value.value) else ():
                    if name in value.value:
                        found.setdefault(name, []).append((value.line, str(value.value[name])))
            return found
        table = self._table(form, reading)
        places = {name: table.header.index(name) for name in OWN if name in table.header}
        for name in places:
            found[name] = []
        for line, cells in table.records() if places else ():
            for name, place in places.items():
                found[name].append((line, cells[place] if place < len(cells) else ""))
        return found

    def _form(self, reading: Reading) -> Format:
        self._file.seek(0)
        form = reading.form or _format_of(self._path, self._file)
        self._file.seek(0)
        return form

    def _table(self, form: Format, reading: Reading) -> CsvFile | Workbook:
        reader = CsvFile if form is Format.CSV else Workbook
        return reader(self._file, self._name, reading)


@contextmanager
def opened(path: str) -> Generator[Opened]:
    """
    Open a file, or standard input as `-`.

    Raises:
        OSError: it cannot be read.
    """
    with _seekable(path) as file:
        yield Opened(path, file)


@contextmanager
def _seekable(path: str) -> Generator[BinaryIO]:
    """Open a file, or a copy of what can be read once only: standard input, a pipe."""
    if path != STDIN and Path(path).is_file():
        with Path(path).open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as copy:
        if path == STDIN:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        else:
            with Path(path).open("rb") as pipe:
                shutil.copyfileobj(pipe, copy)
        copy.seek(0)
        yield copy


def _format_of(path: str, file: BinaryIO) -> Format:
    """Find the format from the first bytes and the name."""
    start = file.read(4096)
    if start.startswith(b"PK\x03\x04"):
        return Format.XLSX
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        raise InputError(f"{path}: an old or protected workbook; save it as .xlsx without password")
    form = _SUFFIXES.get(Path(path).suffix.lower())
    if form is Format.XLSX:
        raise InputError(f"{path}: not a workbook; name its format, such as --format csv")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    found = Format.CSV
    if text[:1] in {b"[", b"{"}:
        found = Format.JSON if text[:1] == b"[" else Format.JSONL
        first, _, _ = text.partition(b"\n")
        if found is Format.JSONL and not first.rstrip().endswith(b"}") and b"\n" in text:
            found = Format.JSON  # an object over several lines
    if form is None:
        return found
    if (form is Format.CSV) != (found is Format.CSV) and text:
        # A JSON file that begins with neither bracket is reported as such, line by line.
        if form is not Format.CSV and text[:1] not in {b'"', b"R", b"A", b"L", b"P"}:
            return form
        raise InputError(f"{path}: this looks like {found.value}; add --format {found.value}")
    return form if form is not Format.JSON or found is not Format.JSONL else Format.JSON


class _Table:
    """A CSV file or the sheet of a workbook."""

    def __init__(self, name: str, form: Format, file: CsvFile | Workbook, reading: Reading) -> None:
        self.name = name
        self.form = form
        self.delimiter = file.delimiter
        self._columns = columns_of(name, file.header, reading)
        self.columns: Columns | None = self._columns
        self.own: Sequence[str] = [*self._columns.own]
        self._all = file.header
        self._file = file
        self._kept = [n for n, heading in enumerate(file.header) if heading not in OWN]
        self.header: Sequence[str] = [file.header[place] for place in self._kept]
        self._moments = Moments(reading, naive_is_utc=False)
        self._send_empty = reading.send_empty
        self._constants = self._columns.constants.items()

    def rows(self) -> Iterator[Row]:
        for record in self._file.records():
            yield self._row(record)

    def _row(self, record: Record) -> Row:
        line, cells = record
        width = len(self._all)
        key_place = self._columns.own.get(KEY)
        has_key = key_place is not None and key_place < len(cells)
        key = cells[key_place].strip().upper() if has_key and key_place is not None else None
        faults = self._misfits(cells)
        if faults:
            return Row(line, cells, None, cells_digest(cells), faults, key=key)
        cells = cells[:width]
        own = [cells[place] for place in self._kept]
        payload, faults = self._payload(cells)
        if payload is None:
            named = dict(zip(self.header, own, strict=True))
            return Row(line, own, None, cells_digest(named), faults, key=key)
        return Row(line, own, payload, activity_digest(payload), key=key)

    def _misfits(self, cells: Sequence[str]) -> tuple[Fault, ...]:
        width = len(self._all)
        if len(cells) < width:
            what = f"has {len(cells)} cells, and the header has {width}"
            return (Fault("row", "", what, "is a delimiter or a quotation mark missing?"),)
        if extra := next((cell for cell in cells[width:] if cell.strip()), None):
            what = "is in a column without a heading"
            return (Fault("row", extra, what, "quote cells that contain the delimiter"),)
        return ()

    def _payload(self, cells: Sequence[str]) -> tuple[dict[str, Any] | None, tuple[Fault, ...]]:
        payload: dict[str, Any] = {}
        fields: list[dict[str, str]] = []
        faults: list[Fault] = []
        placed = [(target, cells[place]) for place, _, target in self._columns.sent]
        for target, cell in (*placed, *self._constants):
            try:
                self._put(payload, fields, target, cell)
            except Invalid as error:
                faults.append(error.fault(self._columns.heading_of(target)))
        if fields:
            payload["Fields"] = fields
        return (None if faults else payload), tuple(faults)

    def _put(
        self, payload: dict[str, Any], fields: list[dict[str, str]], target: str, cell: str
    ) -> None:
        if isinstance(cell, Broken):
            raise Invalid(cell, *cell.fault)
        if target == "RelatedProspectId":
            payload[target] = lead_id(cell)
        elif target == "ActivityEvent":
            payload[target] = event_code(cell)
        elif not cell.strip():
            if target not in PARAMETERS and self._send_empty:
                fields.append({"SchemaName": target, "Value": ""})
        elif target == "ActivityDateTime":
            payload[target] = self._moments.utc(cell)
        elif target == "ActivityNote":
            payload[target] = cell
        else:
            refuse_shortened(cell)
            fields.append({"SchemaName": target, "Value": cell})


class _Json:
    """A JSON file."""

    header: Sequence[str] = ()
    columns: Columns | None = None

    def __init__(self, name: str, form: Format, file: JsonFile, reading: Reading) -> None:
        self.name = name
        self.form = form
        self.delimiter = file.delimiter
        self.own: Sequence[str] = []
        self._file = file
        self._moments = Moments(reading, naive_is_utc=True)
        self._constants = {parameter_of(name): v for name, v in reading.constants.items()}

    def rows(self) -> Iterator[Row]:
        for value in self._file.values():
            yield self._row(value)

    def _row(self, found: Value) -> Row:
        line, item, value = found.line, found.item, found.value
        key: str | None = None
        if is_mapping(value):
            if not self.own and any(name in value for name in OWN):
                self.own = [name for name in OWN if name in value]
            key = str(value[KEY]).strip().upper() if KEY in value else None
            value = {name: part for name, part in value.items() if name not in OWN}
            if value.keys() == {UNREADABLE}:
                value = value[UNREADABLE]
        if found.fault is not None:
            return Row(line, value, None, cells_digest(value), (found.fault,), item, key)
        payload, faults = self._payload(value)
        digest = cells_digest(value) if payload is None else activity_digest(payload)
        return Row(line, value, payload, digest, faults, item, key)

    def _payload(self, value: Any) -> tuple[dict[str, Any] | None, tuple[Fault, ...]]:
        if not is_mapping(value):
            return None, (Fault("row", str(value), "is not a JSON object"),)
        payload = _with_constants(value, self._constants)
        faults: list[Fault] = []
        for name, read in (
            ("RelatedProspectId", lead_id),
            ("ActivityEvent", event_code),
            ("ActivityDateTime", self._moments.utc),
        ):
            if isinstance(text := payload.get(name), str):
                try:
                    payload[name] = read(text)
                except Invalid as error:
                    faults.append(error.fault(name))
        if not faults:
            faults += checked(payload)
        return (None if faults else payload), tuple(faults)


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
