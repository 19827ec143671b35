"""CSV as people have it: any delimiter and line end, UTF-8 or UTF-16, or the encoding they name."""

import codecs
import csv
import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from leadpost.cli.exits import InputError
from leadpost.cli.files.reading import Reading

_DELIMITERS = (",", ";", "\t")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAVE = 'in Excel: File, Save As, "CSV UTF-8"'

Record = tuple[int, list[str]]
"""The line that a record begins on, from 1, and its cells."""


def encoding_of(file: BinaryIO, reading: Reading) -> str:
    """
    Return the encoding of a text file: its BOM's, or else the one that was named, or else UTF-8.

    Raises:
        InputError: there is no encoding of that name.
    """
    file.seek(0)
    start = file.read(3)
    file.seek(0)
    for bom, encoding in _BOMS:
        if start.startswith(bom):
            return encoding
    try:
        return codecs.lookup(reading.encoding or "utf-8").name
    except LookupError:
        raise InputError(
            f"--encoding: {reading.encoding!r} is no encoding; try cp1252, utf-16-le or utf-8"
        ) from None


def undecodable(file: BinaryIO, name: str, encoding: str) -> InputError:
    """Return the error of a file that has a byte which its encoding has not, with its line."""
    file.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)()
    number = 1
    for line in file:
        try:
            decoder.decode(line)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            return InputError(
                f"{name}: line {number}: byte 0x{byte:02x} is not {encoding.upper()}. Name the"
                f" file's encoding, often --encoding cp1252, or save it as UTF-8 ({_SAVE})"
            )
        number += 1
    return InputError(f"{name}: the file ends within a character; was it cut off?")


class BorrowedText(io.TextIOWrapper):
    """Text of a file that somebody else closes."""

    def __del__(self) -> None:
        with suppress(ValueError):  # it is detached already
            self.detach()


class CsvFile:
    """
    The records of a CSV file.

    Args:
        file: Its bytes.
        name: What to call it in messages.
        reading: How to read it.

    Attributes:
        header: The headings, trimmed, without unnamed ones at the end.
        delimiter: What separates the cells.

    Raises:
        InputError: there is no header, or the encoding is unknown.
    """

    def __init__(self, file: BinaryIO, name: str, reading: Reading) -> None:
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # 131,072 characters by default
        self._file = file
        self._name = name
        self._encoding = encoding_of(file, reading)
        self._text = BorrowedText(file, self._encoding, newline="")
        self._skipped = 0
        self.delimiter = self._delimiter(reading.delimiter)
        self._records = self._read()
        header = next(self._records, None)
        if header is None:
            raise InputError(f"{name}: the file is empty")
        self.header = without_empty_end([cell.strip() for cell in header[1]])

    def records(self) -> Iterator[Record]:
        """Yield the records below the header that are not blank; once."""
        return self._records

    def _delimiter(self, named: str | None) -> str:
        """Find the delimiter from a `sep=` line, or the one that makes most of the header."""
        first = ""
        while not first.strip():
            first = self._line()
            if not first:
                break
            self._skipped += 1
        if first.lower().startswith(("sep=", '"sep=')):
            given = first.strip("\r\n").strip('"')[len("sep=") :]
            return named or given or ","
        self._text.seek(0)
        self._skipped = 0
        if named is not None:
            named = "\t" if named in {"\\t", "tab"} else named
            if len(named) != 1:
                raise InputError(f"--delimiter: {named!r} is not one character; try ';' or '\\t'")
            return named
        counts = {mark: _cells(first, mark) for mark in _DELIMITERS}
        return max(_DELIMITERS, key=lambda mark: counts[mark])

    def _line(self) -> str:
        try:
            return self._text.readline()
        except UnicodeError:
            raise undecodable(self._file, self._name, self._encoding) from None

    def _read(self) -> Iterator[Record]:
        reader = csv.reader(self._text, delimiter=self.delimiter, strict=True)
        while True:
            line = self._skipped + reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise InputError(
                    f"{self._name}: line {line}: not CSV: {error}. Is a quotation mark missing?"
                ) from None
            except UnicodeError:
                raise undecodable(self._file, self._name, self._encoding) from None
            if cells is None:
                return
            if any(cell.strip() for cell in cells):
                yield line, cells


def without_empty_end(cells: list[str]) -> list[str]:
    """Return a record without the empty cells at its end."""
    while cells and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def _cells(header: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([header], delimiter=delimiter)))
    except csv.Error:  # pragma: no cover - only a strict reader raises it for one line
        return 0
