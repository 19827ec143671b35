"""Options that several commands have."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from leadpost.bucket import LIMIT


class Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"
    JSON = "json"


class OnUncertain(StrEnum):
    RAISE = "raise"
    RETRY = "retry"


EnvFile = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="File with the keys, NAME=value on each line; by default .env, if it is there."
        " The environment wins.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Limit = Annotated[
    int, typer.Option(min=1, max=LIMIT, help="Calls per 5 s, for an account with a lower limit.")
]
Outbox = Annotated[
    str,
    typer.Option(
        "--outbox",
        envvar="LEADPOST_OUTBOX",
        metavar="URL",
        help="FILE of SQLite, or postgresql://USER:PASSWORD@HOST/NAME. A password belongs"
        " in the variable: `ps` shows options.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")]
