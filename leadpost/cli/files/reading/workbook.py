"""The rows of an Excel workbook: what calamine reads, and what only the sheet's own XML shows."""

import posixpath
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from typing import Any, BinaryIO
from xml.etree import ElementTree as ET

from leadpost.cli.console import number_of
from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.cells import NO_VALUE, Rounded
from leadpost.cli.files.reading.csv_file import Grid, grid_of
from leadpost.cli.files.reading.settings import Reading

_EXACT = 10**15
_LONG, _SHOWN = 12, 6
"""A number of so many digits is shown as 9.19812E+11, with so many of them, in a narrow column."""

BrokenCells = dict[int, dict[int, str]]
"""By row and place, what stands in cells that cannot be read."""


def workbook_grid(file: BinaryIO, name: str, reading: Reading) -> Grid:
    """
    Read one sheet of a workbook; messages call it by its name.

    Raises:
        InputError: it cannot be read, is empty, or has hidden rows.
    """
    try:
        from python_calamine import CalamineError, CalamineWorkbook  # noqa: PLC0415  an extra
    except ImportError:
        raise InputError(
            f"{name}: reading a workbook needs: pip install 'leadpost[excel]'"
        ) from None
    try:
        book = CalamineWorkbook.from_filelike(file)
        with zipfile.ZipFile(file) as archive:
            sheets = _sheets(archive)
            title = reading.sheet or next(iter(sheets), "")
            if title not in sheets:
                there = ", ".join(sheets)
                raise InputError(f"{name}: it has no sheet {title!r}, only {there}")
            broken, hidden = _inspected(archive, sheets[title])
        rows = book.get_sheet_by_name(title).iter_rows()
    except (CalamineError, zipfile.BadZipFile, KeyError, ET.ParseError) as error:
        raise InputError(
            f"{name}: cannot be read as a workbook ({type(error).__name__});"
            " save it as .xlsx or CSV UTF-8"
        ) from None
    where = f"{name}, sheet {title}"
    if hidden and not reading.include_hidden:
        those = number_of(len(hidden), "row is", "rows are")
        raise InputError(
            f"{where}: {those} hidden, such as row {min(hidden)}. Show them"
            " (Data, Clear filter), or read them with --include-hidden"
        )
    return grid_of(f"{where}: the sheet", _records(rows, broken))


def _records(rows: Iterable[list[Any]], broken: BrokenCells) -> Iterator[tuple[int, list[str]]]:
    for number, cells in enumerate(rows, 1):
        texts = [_text(cell) for cell in cells]
        for place, text in broken.get(number, {}).items():
            texts += [""] * (place - len(texts) + 1)
            texts[place] = text
        yield number, texts


def _sheets(archive: zipfile.ZipFile) -> dict[str, str]:
    """Return the sheets' names and the parts of the archive that hold them."""
    relations = ET.fromstring(archive.read("xl/_rels/workbook.xml.rels"))  # noqa: S314  as below
    targets = {each.get("Id"): each.get("Target", "") for each in relations}
    book = ET.fromstring(archive.read("xl/workbook.xml"))  # noqa: S314  as below
    found: dict[str, str] = {}
    for sheet in book.iterfind("{*}sheets/{*}sheet"):
        id_ = next((value for name, value in sheet.items() if name.endswith("}id")), None)
        target = targets.get(id_, "")
        if "worksheets/" in target:  # charts are sheets too
            found[sheet.get("name", "")] = posixpath.join("xl", target).lstrip("/")
    return found


def _inspected(archive: zipfile.ZipFile, part: str) -> tuple[BrokenCells, set[int]]:
    """Return the cells that cannot be read, by row and place, and the rows that are hidden."""
    broken: BrokenCells = {}
    hidden = set[int]()
    number = 0
    with archive.open(part) as file:
        for _, row in ET.iterparse(file):  # noqa: S314  the user's own file; expat bounds entities
            if not row.tag.endswith("}row"):
                continue
            number = int(row.get("r", number + 1))
            # Rows below the data are often hidden too.
            if row.get("hidden") in {"1", "true"} and any(len(cell) for cell in row):
                hidden.add(number)
            for order, cell in enumerate(row):
                kind = cell.get("t")
                if kind != "e" and not (len(cell) and cell[0].tag.endswith("}f")):
                    continue  # a formula comes before its value
                parts = {child.tag.rpartition("}")[2]: child.text for child in cell}
                value = parts.get("v")
                if kind == "e" or ("f" in parts and not value and kind != "str"):
                    reference = cell.get("r")
                    place = _place(reference) if reference else order
                    broken.setdefault(number, {})[place] = value or NO_VALUE
            row.clear()
    return broken, hidden


def _place(reference: str) -> int:
    """
    Return the number of the column of a cell, from 0.

    >>> _place("A1"), _place("AB7")
    (0, 27)
    """
    number = 0
    for letter in reference.rstrip("0123456789"):
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _text(cell: Any) -> str:
    """Write a cell as text: dates in ISO, whole numbers without `.0`."""
    match cell:
        case str():
            return cell
        case bool():
            return "TRUE" if cell else "FALSE"
        case float() | int():
            if cell != int(cell):
                return repr(cell)
            if abs(cell) >= _EXACT:  # a spreadsheet keeps 15 digits of a number
                return f"{cell:.5E}"
            digits = str(int(cell))
            is_rounded = len(digits) >= _LONG and not digits[_SHOWN:].strip("0")
            return Rounded(digits) if is_rounded else digits
        case datetime():
            # A moment is stored as a fraction of a day, which is not exact.
            return (cell + timedelta(milliseconds=500)).isoformat(" ", "seconds")
        case date():
            return f"{cell.isoformat()} 00:00:00"
        case time():
            return cell.isoformat("seconds")
        case _:
            return str(cell)
