"""The rows of an Excel workbook: what calamine reads, and what only the sheet's own XML shows."""

import posixpath
import re
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from typing import IO, Any, BinaryIO
from xml.etree import ElementTree as ET

from leadpost.cli.exits import InputError
from leadpost.cli.files.csv_file import Grid, Record, grid_of
from leadpost.cli.files.reading import Reading

_PART = 2**18
_TAG = re.compile(
    rb"<(?:\w+:)?row\b(?P<row>[^>]*)>"
    rb"|<(?:\w+:)?c\b(?P<cell>[^>]*?)(?:/>|>(?P<inside>.*?)</(?:\w+:)?c>)",
    re.DOTALL,
)
_NUMBER = re.compile(rb'\br="(\d+)"')
_CELL = re.compile(rb'\br="([A-Z]+)\d+"')
_HIDDEN = re.compile(rb'\bhidden="(?:1|true)"')
_ERROR = re.compile(rb'\bt="e"')
_VALUE = re.compile(rb"<(?:\w+:)?v>([^<]+)</")
_FORMULA = re.compile(rb"<(?:\w+:)?f[\s>/]")
_RELATION = (
    "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id",
    "{http://purl.oclc.org/ooxml/officeDocument/relationships}id",  # "Strict Open XML" of Excel
)
_EXACT = 10**15
_NO_VALUE = "a formula"
ERRORS = frozenset(
    {"#N/A", "#REF!", "#DIV/0!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!", "#SPILL!", "#CALC!"}
)
"""What spreadsheets show in place of a value, and write into CSV as if it were one."""


class Broken(str):
    """A cell that holds an error, such as `#N/A`, or a formula without a stored value."""

    __slots__ = ()

    @property
    def fault(self) -> tuple[str, str]:
        """What is wrong, and the remedy."""
        if self == _NO_VALUE:
            return "has no stored value", "open the file in a spreadsheet and save it"
        return "is an error of the spreadsheet", "correct the formula, or delete the cell"


BrokenCells = dict[int, list[tuple[int, Broken]]]
"""By row, the places of cells that cannot be read."""


def workbook_grid(file: BinaryIO, name: str, reading: Reading) -> Grid:
    """
    Read one sheet of a workbook.

    Args:
        file: The workbook's bytes.
        name: What to call it in messages.
        reading: Which sheet, and whether hidden rows count.

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
            title = _chosen(name, [*sheets], reading.sheet)
            broken, hidden = _inspected(archive, sheets[title])
        rows = book.get_sheet_by_name(title).iter_rows()
    except (CalamineError, zipfile.BadZipFile, KeyError, ET.ParseError) as error:
        raise InputError(
            f"{name}: not a workbook that can be read ({type(error).__name__});"
            " save it as .xlsx or CSV UTF-8"
        ) from None
    where = f"{name}, sheet {title}"
    if hidden and not reading.include_hidden:
        those = "1 row is" if len(hidden) == 1 else f"{len(hidden)} rows are"
        raise InputError(
            f"{where}: {those} hidden, such as row {min(hidden)}. Show them"
            " (Data, Clear filter), or read them with --include-hidden"
        )
    return grid_of(f"{where}: the sheet", _records(rows, broken))


def _records(rows: Iterable[list[Any]], broken: BrokenCells) -> Iterator[Record]:
    for number, cells in enumerate(rows, 1):
        texts = [_text(cell) for cell in cells]
        for place, text in broken.get(number, ()):
            texts += [""] * (place - len(texts) + 1)
            texts[place] = text
        yield number, texts


def _chosen(name: str, titles: list[str], wanted: str | None) -> str:
    if not titles:
        raise InputError(f"{name}: the workbook has no sheet")
    if wanted is None:
        return titles[0]
    if wanted not in titles:
        raise InputError(f"{name}: there is no sheet {wanted!r}; there are: {', '.join(titles)}")
    return wanted


def _sheets(archive: zipfile.ZipFile) -> dict[str, str]:
    """Return the sheets' names and the parts of the archive that hold them."""
    relations = ET.fromstring(archive.read("xl/_rels/workbook.xml.rels"))  # noqa: S314  the user's own file; expat bounds entities
    targets = {each.get("Id"): each.get("Target", "") for each in relations}
    book = ET.fromstring(archive.read("xl/workbook.xml"))  # noqa: S314  as above
    found: dict[str, str] = {}
    for sheet in book.iter():
        target = next((targets.get(sheet.get(name)) for name in _RELATION if sheet.get(name)), "")
        if sheet.tag.endswith("}sheet") and target and "worksheets/" in target:
            part = target.lstrip("/") if target.startswith("/") else posixpath.join("xl", target)
            found[sheet.get("name", "")] = part
    return found


def _inspected(archive: zipfile.ZipFile, part: str) -> tuple[BrokenCells, set[int]]:
    """Return the cells that cannot be read, by row and place, and the rows that are hidden."""
    broken: BrokenCells = {}
    hidden = set[int]()
    row, is_hidden = 0, False
    with archive.open(part) as file:
        for found in _tags(file):
            attributes = found["row"]
            if attributes is not None:
                number = _NUMBER.search(attributes)
                row = int(number[1]) if number else row + 1
                is_hidden = _HIDDEN.search(attributes) is not None
                continue
            inside = found["inside"] or b""
            if is_hidden and inside:  # rows below the data are often hidden too
                hidden.add(row)
            is_error = _ERROR.search(found["cell"])
            if not is_error and not _FORMULA.search(inside):
                continue
            value = _VALUE.search(inside)
            if is_error or (value is None and b't="str"' not in found["cell"]):
                column = _CELL.search(found["cell"])
                place = _place(column[1].decode()) if column else 0
                text = Broken(value[1].decode() if value else _NO_VALUE)
                broken.setdefault(row, []).append((place, text))
    return broken, hidden


def _place(letters: str) -> int:
    """
    Return the number of a column, from 0.

    >>> _place("A"), _place("AB")
    (0, 27)
    """
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _tags(file: IO[bytes]) -> Iterator[re.Match[bytes]]:
    rest = b""
    while part := file.read(_PART):
        text = rest + part
        end = 0
        for found in _TAG.finditer(text):
            end = found.end()
            yield found
        rest = text[end:]


def _text(cell: Any) -> str:
    """Write a cell as text: dates in ISO, whole numbers without `.0`."""
    match cell:
        case str():
            return cell
        case bool():
            return "TRUE" if cell else "FALSE"
        case float() | int():
            if cell == int(cell):
                # A spreadsheet keeps 15 digits of a number.
                return f"{cell:.5E}" if abs(cell) >= _EXACT else str(int(cell))
            return repr(cell)
        case datetime():
            # A moment is stored as a fraction of a day, which is not exact.
            return (cell + timedelta(milliseconds=500)).isoformat(" ", "seconds")
        case date():
            return f"{cell.isoformat()} 00:00:00"
        case time():
            return cell.isoformat("seconds")
        case _:
            return str(cell)
