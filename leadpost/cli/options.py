"""Options that several commands have."""

import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from leadpost.bucket import LIMIT
from leadpost.cli.files.reading import Format

TIMEZONE = "LEADPOST_TIMEZONE"


class OnUncertain(StrEnum):
    RAISE = "raise"
    RETRY = "retry"


def span(text: str) -> timedelta:
    """
    Read a length of time.

    >>> span("30d"), span("90s")
    (datetime.timedelta(days=30), datetime.timedelta(seconds=90))
    """
    units = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    found = re.fullmatch(r"([0-9]{1,6})([dhms])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no length of time; use d, h, m or s, such as 30d")
    return timedelta(**{units[found[2]]: int(found[1])})


EnvFile = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="File with the keys, NAME=value on each line; by default .env if it is there, or what"
        " `leadpost setup` wrote. The environment wins.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[
    int, typer.Option(min=1, max=LIMIT, help="Calls per 5 s, for an account with a lower limit.")
]
OutboxUrl = Annotated[
    str | None,
    typer.Option(
        "--outbox",
        envvar="LEADPOST_OUTBOX",
        metavar="URL",
        help="A file, or postgresql://USER:PASSWORD@HOST/NAME; by default one of your own. A"
        " password belongs in the variable: `ps` shows options.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No plan, no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")]

# How a file is read.
File = Annotated[str, typer.Argument(metavar="FILE", help="CSV, .xlsx or JSON; - for stdin.")]
MaybeFile = Annotated[
    str | None, typer.Argument(metavar="FILE", help="Only the rows of this file.")
]
Batch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help='What the rows are a part of, such as "$(date +%F)" for a daily file of the same'
        " name; by default the file's name.",
    ),
]
FormatOption = Annotated[
    Format | None, typer.Option("--format", help="By default found from name and content.")
]
Sheet = Annotated[
    str | None, typer.Option(metavar="NAME", help="Sheet of a workbook; by default the first.")
]
Delimiter = Annotated[
    str | None, typer.Option(metavar="CHAR", help="Of CSV; by default found from the header.")
]
Encoding = Annotated[
    str | None, typer.Option(metavar="NAME", help="Such as cp1252; by default UTF-8, or the BOM's.")
]
IncludeHidden = Annotated[bool, typer.Option("--include-hidden", help="Read hidden rows too.")]
Timezone = Annotated[
    str | None,
    typer.Option(
        envvar=TIMEZONE,
        metavar="ZONE",
        help="Zone of date-times without an offset: Asia/Kolkata, +05:30, UTC.",
    ),
]
DateFormat = Annotated[
    list[str] | None,
    typer.Option(metavar="FORMAT", help="Such as '%d/%m/%Y %H:%M', beside ISO 8601."),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map", metavar="HEADING=NAME", help="Send a column as this parameter or SchemaName."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Send this value with all rows."),
]
Ignore = Annotated[
    list[str] | None, typer.Option(metavar="HEADING", help="Do not send this column.")
]
IgnoreOthers = Annotated[
    bool, typer.Option("--ignore-others", help="Do not send columns with unknown headings.")
]
SendEmpty = Annotated[
    bool, typer.Option("--send-empty", help='Send an empty cell as "", to clear the field.')
]
