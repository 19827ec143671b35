"""Which input is meant: a file or a stream, CSV or JSON."""

import json
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from datetime import tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from leadpost.cli.csv_input import CsvInput
from leadpost.cli.exits import InputError
from leadpost.cli.json_input import JsonInput
from leadpost.cli.options import Format
from leadpost.cli.rows import REQUIRED, Input

_COLUMNS = [column.encode() for column in REQUIRED]
STDIN = "-"


_SUFFIXES = {
    ".csv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSON,
}
_BINARY = {
    b"PK\x03\x04": "an Excel workbook or another ZIP archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""What spreadsheets save by default, by its first bytes."""


@contextmanager
def opened(
    path: str, form: Format | None, timezone: str | None, *, send_empty: bool
) -> Generator[Input]:
    """
    Find out what the input is; a stream is kept in a temporary file while it is used.

    Args:
        path: A file, or `-` for standard input.
        form: Its format; None to tell by its name, or else by its content.
        timezone: Name of the zone of date-times without one.
        send_empty: Whether an empty cell goes out.

    Raises:
        InputError: it cannot be used.
    """
    zone = zone_of(timezone)
    with _seekable(path) as file:
        _refuse_binary(path, file)
        form = form or _told_by_name(path, file) or told_by_content(file)
        if form is Format.CSV:
            yield CsvInput(file, path, zone, send_empty=send_empty)
        else:
            yield JsonInput(file, path, zone, lines=form is Format.JSONL)


def base_of(path: str, output_base: str | None) -> str:
    """
    Give what the names of the results begin with, which goes into the outbox too.

    Raises:
        InputError: no database takes it, or keys that begin with it would be taken for others.
    """
    base = output_base or ("stdin" if path == STDIN else path)
    try:
        base.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{base!r}: found a name that is no UTF-8, wanted one: choose an --output-base"
        ) from None
    if ":" in Path(base).name:
        raise InputError(f"{base}: found a colon in the name, wanted none: choose an --output-base")
    return base


def zone_of(name: str | None) -> tzinfo | None:
    """
    Look a time zone up by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InputError(
            f"--timezone: found {name!r}, wanted a name such as Asia/Kolkata or UTC"
        ) from None


def _refuse_binary(name: str, path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(max(map(len, _BINARY)))
    for magic, what in _BINARY.items():
        if start.startswith(magic):
            raise InputError(
                f"{name}: found {what}, wanted CSV or JSON in UTF-8: save it as that (in Excel,"
                ' "CSV UTF-8")'
            )


def _told_by_name(name: str, path: Path) -> Format | None:
    """
    Tell the format by the end of a name, if it says one.

    Raises:
        InputError: the file begins as one of another format does.
    """
    form = _SUFFIXES.get(Path(name).suffix.lower())
    found = told_by_content(path)
    if form is None or (form is Format.CSV) == (found is Format.CSV):
        return form
    if found is Format.CSV and not all(column in _first_line(path) for column in _COLUMNS):
        return form  # a line that is no JSON, which will be told
    raise InputError(
        f"{name}: found {found.value}, wanted {form.value} as its name says:"
        f" --format {found.value} takes it as it is"
    )


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return next((line for line in file if line.strip()), b"").removeprefix(b"\xef\xbb\xbf")


def told_by_content(path: Path) -> Format:
    """Tell the format by the first line that holds anything."""
    first = _first_line(path)
    start = first.lstrip()[:1]
    if start == b"[":
        return Format.JSON
    if start != b"{":
        return Format.CSV
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return Format.JSON  # an object over several lines
    return Format.JSONL


@contextmanager
def _seekable(path: str) -> Generator[Path]:
    """Give the file, or a copy of what can be read once only: standard input, a pipe."""
    if path != STDIN and Path(path).is_file():
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="leadpost-") as directory:
        copy = Path(directory) / "input"
        with copy.open("wb") as file:
            if path == STDIN:
                shutil.copyfileobj(sys.stdin.buffer, file)
            else:
                with Path(path).open("rb") as pipe:
                    shutil.copyfileobj(pipe, file)
        yield copy
