"""`leadpost types`: the activity types, or the fields of one."""

import csv
import json
import sys
from typing import Annotated, Any

import typer
from attrs import asdict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leadpost import ActivityField, ActivityType, AsyncActivityPoster
from leadpost.cli import options
from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.columns import PARAMETERS, known_target
from leadpost.cli.queries import asked
from leadpost.errors import ApplicationError


def types(
    code: Annotated[
        int | None, typer.Argument(min=1, metavar="CODE", help="Show the fields of this type.")
    ] = None,
    *,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print an empty CSV file with its columns.")
    ] = False,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    List the activity types, or the fields of one: names, types, lengths, options.

    Examples:
    - `leadpost types`
    - `leadpost types 201 --json`
    - `leadpost types 201 --csv > calls.csv`
    """
    if as_csv and code is None:
        raise InputError("--csv needs an activity type: leadpost types 201 --csv")

    async def show(poster: AsyncActivityPoster) -> None:
        if code is None:
            await _list(poster, as_json=as_json)
            return
        try:
            kind = await poster.activity_type(code, options=not as_csv)
        except ApplicationError as error:
            error.add_note("(see all: leadpost types)")
            raise
        if as_csv:
            _template(kind)
        else:
            _one(kind, as_json=as_json)

    asked(show, env_file, outbox, sync=True, verbose=verbose)


async def _list(poster: AsyncActivityPoster, *, as_json: bool) -> None:
    kinds = await poster.activity_types()
    if as_json:
        typer.echo(json.dumps([_type_json(kind) for kind in kinds]))
        return
    table = Table("code", "name")
    for kind in kinds:
        code = "?" if kind.code is None else str(kind.code)
        # The list is undocumented: without a known name, show the whole item.
        table.add_row(Text(code), Text(kind.name or json.dumps(dict(kind.raw))))
    Console().print(table)


def _template(kind: ActivityType) -> None:
    """Print the header of a file for one activity type: of the columns that `post` knows."""
    fields = [
        field.schema_name
        for field in kind.fields
        if known_target(field.schema_name) == field.schema_name
        and not field.is_read_only
        and field.data_type != "CustomObjectSet"  # no cell holds one
    ]
    csv.writer(sys.stdout).writerow([*PARAMETERS, *fields])


def _one(kind: ActivityType, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_type_json(kind)))
        return
    table = Table("SchemaName", "name", "type", "max length", "options", "")
    for field in kind.fields:
        longest = "" if field.max_length is None else str(field.max_length)
        cells = (field.schema_name, field.display_name or "", field.data_type or "", longest)
        table.add_row(*map(Text, (*cells, _options(field), _notes(field))))
    typer.echo(f"{kind.code} {kind.name or ''}".rstrip())
    Console().print(table)


def _options(field: ActivityField) -> str:
    shown = ", ".join(field.options or ())
    return f"{shown}, or others" if shown and field.allows_others else shown


def _notes(field: ActivityField) -> str:
    notes = {
        "mandatory": field.is_mandatory,
        "read-only": field.is_read_only,
        "several, separated by ;": field.is_multiple,
    }
    return ", ".join(note for note, is_so in notes.items() if is_so)


def _type_json(kind: ActivityType) -> dict[str, Any]:
    fields = [asdict(field, filter=lambda item, _: item.name != "raw") for field in kind.fields]
    return {"code": kind.code, "name": kind.name, "fields": fields, "raw": dict(kind.raw)}
