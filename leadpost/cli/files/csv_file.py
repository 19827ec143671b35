"""CSV as people have it: any delimiter and line end, UTF-8 or UTF-16, or the encoding they name."""

import codecs
import csv
import io
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import BinaryIO

from attrs import frozen

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


@contextmanager
def borrowed(file: BinaryIO, encoding: str, newline: str | None) -> Generator[io.TextIOWrapper]:
    """Read a file as text that somebody else closes."""
    text = io.TextIOWrapper(file, encoding, newline=newline)
    try:
        yield text
    finally:
        with suppress(ValueError):  # it is closed already
            text.detach()


@frozen
class Grid:
    """The cells of a table."""

    header: list[str]  # of the first row that is not blank, without unnamed ones at the end
    records: Iterator[Record]  # the rows below that are not blank
    delimiter: str = ","


def grid_of(name: str, records: Iterator[Record], delimiter: str = ",") -> Grid:
    """
    Take the first record that is not blank for the header.

    Raises:
        InputError: there is none.
    """
    filled = (record for record in records if any(cell.strip() for cell in record[1]))
    for _, cells in filled:
        header = [cell.strip() for cell in cells]
        while not header[-1]:
            header.pop()
        return Grid(header, filled, delimiter)
    raise InputError(f"{name} is empty")


def csv_grid(file: BinaryIO, name: str, reading: Reading) -> Grid:
    """
    Read a CSV file.

    Args:
        file: Its bytes.
        name: What to call it in messages.
        reading: How to read it.

    Raises:
        InputError: there is no header, or the encoding or the delimiter is wrong.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # 131,072 characters by default
    lines = _lines(file, name, encoding_of(file, reading))
    above = 0
    first = ""
    for first in lines:
        if first.strip():
            break
        above += 1
    named = _named(reading.delimiter)
    if first.lower().startswith(("sep=", '"sep=')):
        above += 1
        delimiter = named or first.strip("\r\n").strip('"')[len("sep=") :] or ","
    else:
        lines = chain([first], lines)
        delimiter = named or max(_DELIMITERS, key=lambda mark: _cells(first, mark))
    return grid_of(f"{name}: the file", _records(lines, name, above, delimiter), delimiter)


def _named(delimiter: str | None) -> str | None:
    named = "\t" if delimiter in {"\\t", "tab"} else delimiter
    if named is not None and len(named) != 1:
        raise InputError(f"--delimiter: {named!r} is not one character; try ';' or '\\t'")
    return named


def _lines(file: BinaryIO, name: str, encoding: str) -> Iterator[str]:
    with borrowed(file, encoding, newline="") as text:
        try:
            for line in text:  # noqa: UP028  `yield from` would close it
                yield line
        except UnicodeError:
            raise undecodable(file, name, encoding) from None


def _records(lines: Iterable[str], name: str, above: int, delimiter: str) -> Iterator[Record]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = above + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{name}: line {line}: not CSV: {error}. Is a quotation mark missing?"
            ) from None
        if cells is None:
            return
        yield line, cells


def _cells(header: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([header], delimiter=delimiter)))
    except csv.Error:  # pragma: no cover - only a strict reader raises it for one line
        return 0
