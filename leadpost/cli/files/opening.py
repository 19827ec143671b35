"""Opening a file: from a path, a pipe or standard input, in the format that it turns out to be."""

import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from leadpost._validation import is_mapping
from leadpost.cli.exits import InputError
from leadpost.cli.files.cells import Facts
from leadpost.cli.files.csv_file import Grid, csv_grid
from leadpost.cli.files.json_file import Value, json_items
from leadpost.cli.files.reading import KEY, OWN, Format, Reading
from leadpost.cli.files.rows import Json, Source, Table
from leadpost.cli.files.workbook import workbook_grid

STDIN = "-"
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


class Opened:
    """A file that can be read several times, in different ways."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self._name = "standard input" if path == STDIN else Path(path).name
        self._path = path
        self._file = file

    def source(self, reading: Reading, facts: Facts | None = None) -> Source:
        """
        Return its rows.

        Args:
            reading: How to read it.
            facts: What is known of the account, and what cells want to know.

        Raises:
            InputError: it cannot be used.
        """
        facts = facts or Facts()
        form, found = self._read(reading)
        if isinstance(found, Grid):
            return Table(self._name, form, found, reading, facts)
        return Json(self._name, form, found, reading, facts)

    def own_columns(self, reading: Reading) -> tuple[set[str], list[tuple[int, str]]]:
        """
        Return which of leadpost's own columns it has, as a rejects file, and its keys by line.

        Raises:
            InputError: the file cannot be used.
        """
        _, found = self._read(reading)
        if isinstance(found, Grid):
            names = {heading for heading in found.header if heading in OWN}
            if KEY not in names:
                return names, []
            place = found.header.index(KEY)
            records = ((line, cells[place : place + 1]) for line, cells in found.records)
            return names, [(line, cell) for line, cells in records for cell in cells]
        names, keys = set[str](), list[tuple[int, str]]()
        for value in found:
            if is_mapping(value.value):
                names.update(name for name in OWN if name in value.value)
                if KEY in value.value:
                    keys.append((value.line, str(value.value[KEY])))
        return names, keys

    def _read(self, reading: Reading) -> tuple[Format, Grid | Iterator[Value]]:
        self._file.seek(0)
        form = reading.form or _format_of(self._path, self._file)
        self._file.seek(0)
        match form:
            case Format.CSV:
                return form, csv_grid(self._file, self._name, reading)
            case Format.XLSX:
                return form, workbook_grid(self._file, self._name, reading)
            case Format.JSON | Format.JSONL:
                are_lines = form is Format.JSONL
                return form, json_items(self._file, self._name, reading, are_lines=are_lines)


@contextmanager
def opened(path: str) -> Generator[Opened]:
    """
    Open a file, or standard input as `-`.

    Raises:
        OSError: it cannot be read.
    """
    if path != STDIN and Path(path).is_file():
        with Path(path).open("rb") as file:
            yield Opened(path, file)
        return
    with tempfile.TemporaryFile() as copy:  # standard input and pipes can be read once only
        if path == STDIN:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        else:
            with Path(path).open("rb") as pipe:
                shutil.copyfileobj(pipe, copy)
        yield Opened(path, copy)


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
    return form
