"""CSV as people have it: any delimiter and line end, UTF-8 or UTF-16, or the encoding they name."""

import codecs
import csv
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import BinaryIO, TextIO

from attrs import frozen

from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.settings import Reading

DELIMITERS = (",", ";", "\t")
"""Those that are found from a header."""
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@frozen
class Grid:
    """The cells of a table."""

    header: list[str]  # of the first row that is not blank, without unnamed ones at the end
    # The line that each of the rows below begins on, from 1, and its cells; without blank rows.
    records: Iterator[tuple[int, list[str]]]
    delimiter: str = ","


def grid_of(name: str, records: Iterator[tuple[int, list[str]]], delimiter: str = ",") -> Grid:
    """
    Take the first record that is not blank for the header.

    Raises:
        InputError: there is none.
    """
    filled = (record for record in records if any(map(str.strip, record[1])))
    for _, cells in filled:
        header = [cell.strip() for cell in cells]
        while not header[-1]:
            header.pop()
        return Grid(header, filled, delimiter)
    raise InputError(f"{name} is empty")


@contextmanager
def decoded(file: BinaryIO, name: str, reading: Reading) -> Generator[TextIO]:
    """
    Read a file as text: by its BOM, or else in the encoding that was named, or else in UTF-8.

    Raises:
        InputError: there is no such encoding, or a byte is not in it.
    """
    file.seek(0)
    start = file.read(3)
    file.seek(0)
    named = reading.encoding or "utf-8"
    encoding = next((found for bom, found in _BOMS if start.startswith(bom)), named)
    try:
        text = open(file.fileno(), encoding=encoding, newline="", closefd=False)  # noqa: SIM115  no path
    except LookupError:
        raise InputError(
            f"--encoding: {encoding!r} is not a known encoding; try cp1252, utf-16-le or utf-8"
        ) from None
    with text:
        try:
            yield text
        except UnicodeError:
            raise _undecodable(file, name, encoding) from None


def _undecodable(file: BinaryIO, name: str, encoding: str) -> InputError:
    file.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)()
    for number, line in enumerate(file.read().splitlines(keepends=True), 1):
        try:
            decoder.decode(line)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            return InputError(
                f"{name}: line {number}: byte 0x{byte:02x} is not {encoding.upper()}. Name the"
                " file's encoding, often --encoding cp1252, or save it as UTF-8 (in Excel: File,"
                ' Save As, "CSV UTF-8")'
            )
    return InputError(f"{name}: the file ends in the middle of a character; was it cut off?")


def csv_grid(file: BinaryIO, name: str, reading: Reading) -> Grid:
    """
    Read a CSV file; messages call it by its name.

    Raises:
        InputError: there is no header, or the encoding or the delimiter is wrong.
    """
    csv.field_size_limit(2**31 - 1)  # 131,072 characters by default
    named = "\t" if reading.delimiter in {"\\t", "tab"} else reading.delimiter
    if named is not None and len(named) != 1:
        raise InputError(f"--delimiter: {named!r} is not one character; try ';' or '\\t'")
    lines = _lines(file, name, reading)
    above, first = 0, ""
    for first in lines:
        if first.strip():
            break
        above += 1
    found = max(DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), ())))
    if first.lower().startswith(("sep=", '"sep=')):
        above += 1
        found = first.strip("\r\n").strip('"')[4:5] or ","
    else:
        lines = chain([first], lines)
    delimiter = named or found
    return grid_of(f"{name}: the file", _records(lines, name, above, delimiter), delimiter)


def _lines(file: BinaryIO, name: str, reading: Reading) -> Iterator[str]:
    with decoded(file, name, reading) as text:
        yield from text


def _records(
    lines: Iterator[str], name: str, above: int, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = above + 1
    try:
        for cells in reader:
            yield line, cells
            line = above + reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{name}: line {line}: not CSV: {error}. Is a quotation mark missing?"
        ) from None
