"""Opening a file: from a path, a pipe or standard input, in the format that its content shows."""

import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.cells import AccountFacts
from leadpost.cli.files.reading.csv_file import Grid, csv_grid
from leadpost.cli.files.reading.json_file import json_items
from leadpost.cli.files.reading.own_files import KEY, OWN
from leadpost.cli.files.reading.settings import Reading
from leadpost.cli.files.reading.sources import Json, Source, Table
from leadpost.cli.files.reading.workbook import workbook_grid

STDIN = "-"
_JSON = (".json", ".jsonl", ".ndjson")


class Opened:
    """A file that can be read several times, in different ways."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self._name = "standard input" if path == STDIN else Path(path).name
        self._file = file

    def source(self, reading: Reading, facts: AccountFacts | None = None) -> Source:
        """
        Return its rows.

        Args:
            reading: How to read it.
            facts: What is known of the account, and what cells want to know.

        Raises:
            InputError: it cannot be used.
        """
        facts = facts or AccountFacts()
        if self._is_json():
            items = json_items(self._file, self._name, reading)
            return Json(self._name, items, reading, facts)
        return Table(self._name, self._grid(reading), reading, facts)

    def own_columns(self, reading: Reading) -> tuple[set[str], list[tuple[int, str]]]:
        """
        Return which of leadpost's own columns it has, as a rejects file, and its keys by line.

        A column of keys that was emptied counts as missing.

        Raises:
            InputError: the file cannot be used.
        """
        names, keys = set[str](), list[tuple[int, str]]()
        if self._is_json():
            for line, _, value in json_items(self._file, self._name, reading):
                names |= value.keys() & OWN
                if value.get(KEY) is not None:
                    keys.append((line, str(value[KEY])))
        else:
            grid = self._grid(reading)
            names |= {*grid.header} & OWN
            if KEY in names:
                place = grid.header.index(KEY)
                keys += [(line, cells[place]) for line, cells in grid.records if len(cells) > place]
        if not any(text.strip() for _, text in keys):
            names.discard(KEY)
        return names, keys

    def _is_json(self) -> bool:
        start = self._start().removeprefix(b"\xef\xbb\xbf").lstrip()
        return start[:1] in {b"[", b"{"} or Path(self._name).suffix.lower() in _JSON

    def _grid(self, reading: Reading) -> Grid:
        start = self._start()
        if start.startswith(b"PK\x03\x04"):
            return workbook_grid(self._file, self._name, reading)
        if start.startswith(b"\xd0\xcf\x11\xe0"):
            raise InputError(
                f"{self._name}: an old or protected workbook; save it as .xlsx without a password"
            )
        return csv_grid(self._file, self._name, reading)

    def _start(self) -> bytes:
        self._file.seek(0)
        start = self._file.read(4096)
        self._file.seek(0)
        return start


@contextmanager
def opened(path: str) -> Generator[Opened]:
    """
    Open a file, or standard input as `-`.

    Raises:
        OSError: it cannot be read.
    """
    if path != STDIN and Path(path).is_file():
        with Path(path).open("rb", buffering=0) as file:
            yield Opened(path, file)
        return
    with TemporaryFile(buffering=0) as copy:  # standard input and pipes can be read once only
        if path == STDIN:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        else:
            with Path(path).open("rb") as pipe:
                shutil.copyfileobj(pipe, copy)
        yield Opened(path, copy)
