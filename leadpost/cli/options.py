"""Options that several commands share."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from leadpost.bucket import LIMIT
from leadpost.cli.outbox_url import VARIABLE


def span(text: str) -> timedelta:
    """
    Return the length of time that a text names.

    >>> span("30d"), span("90s")
    (datetime.timedelta(days=30), datetime.timedelta(seconds=90))
    """
    units = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    found = re.fullmatch(r"([0-9]{1,6})([dhms])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a length of time such as 30d, 12h, 5m or 90s")
    return timedelta(**{units[found[2]]: int(found[1])})


EnvFile = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="File with the keys, NAME=value on each line; by default .env, or else the file of"
        " `leadpost setup`. The environment takes precedence.",
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
        envvar=VARIABLE,
        metavar="URL",
        help="A file, or postgresql://USER:PASSWORD@HOST/NAME; by default a file in your home"
        " directory. Set a password only in the variable: `ps` shows options.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no plan and no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")]

File = Annotated[str, typer.Argument(metavar="FILE", help="CSV, .xlsx or JSON; - for stdin.")]
EntriesOfFile = Annotated[
    str | None, typer.Argument(metavar="FILE", help="Only the rows of this file.")
]
ResultsOfFile = Annotated[
    str | None, typer.Argument(metavar="FILE", help="Then write and show the results of this file.")
]
Batch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help='Name of the rows\' batch, such as "$(date +%F)" for a daily file of the same name;'
        " by default the file's name. Commands that look at a file take the last one.",
    ),
]
Sheet = Annotated[
    str | None, typer.Option(metavar="NAME", help="Sheet of a workbook; by default the first.")
]
Delimiter = Annotated[
    str | None,
    typer.Option(metavar="CHAR", help="Delimiter of CSV; by default found from the header."),
]
Encoding = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Such as cp1252; by default that of the BOM, or UTF-8."),
]
IncludeHidden = Annotated[bool, typer.Option("--include-hidden", help="Read hidden rows too.")]
Timezone = Annotated[
    str | None,
    typer.Option(
        envvar="LEADPOST_TIMEZONE",
        metavar="ZONE",
        help="Time zone of date-times without an offset: Asia/Kolkata, +05:30, UTC. In JSON, those"
        " in LeadSquared's form are UTC anyway.",
    ),
]
DateFormat = Annotated[
    list[str] | None,
    typer.Option(metavar="FORMAT", help="Such as '%d/%m/%Y %H:%M'; ISO 8601 is always accepted."),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map", metavar="HEADING=NAME", help="Send a column as this parameter or SchemaName."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Send this value with every row."),
]
Ignore = Annotated[
    list[str] | None, typer.Option(metavar="HEADING", help="Do not send this column.")
]
IgnoreOthers = Annotated[
    bool, typer.Option("--ignore-others", help="Do not send columns with unknown headings.")
]
SendEmpty = Annotated[
    bool, typer.Option("--send-empty", help='Send empty cells as "", to clear fields.')
]
