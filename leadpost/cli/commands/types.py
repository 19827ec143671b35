"""`leadpost types`: the activity types, or the fields of one."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leadpost import ActivityType, AsyncActivityPoster
from leadpost.cli import options
from leadpost.cli.asking import asked


def types(
    code: Annotated[int | None, typer.Argument(min=1, help="Show the fields of this one.")] = None,
    *,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    List the activity types, or the fields of one.

    Examples:
    `leadpost types`

    `leadpost types 201 --json`
    """

    async def show(poster: AsyncActivityPoster) -> None:
        if code is None:
            await _list(poster, as_json=as_json)
        else:
            await _one(poster, code, as_json=as_json)

    asked(show, env_file, outbox, sync=True, verbose=verbose)


async def _list(poster: AsyncActivityPoster, *, as_json: bool) -> None:
    """Print the activity types."""
    kinds = await poster.activity_types()
    if as_json:
        typer.echo(json.dumps([_type_json(kind) for kind in kinds]))
        return
    table = Table("code", "name")
    for kind in kinds:
        code = "?" if kind.code is None else str(kind.code)
        # LeadSquared does not document this list: what has no known name is shown as it came.
        table.add_row(Text(code), Text(kind.name or json.dumps(dict(kind.raw))))
    Console().print(table)


async def _one(poster: AsyncActivityPoster, code: int, *, as_json: bool) -> None:
    """Print one activity type and its fields."""
    kind = await poster.activity_type(code)
    if as_json:
        typer.echo(json.dumps(_type_json(kind)))
        return
    table = Table("SchemaName", "name", "type", "mandatory")
    for field in kind.fields:
        mandatory = "yes" if field.is_mandatory else ""
        cells = (field.schema_name, field.display_name or "", field.data_type or "", mandatory)
        table.add_row(*map(Text, cells))
    typer.echo(f"{code} {kind.name or ''}".rstrip())
    Console().print(table)


def _type_json(kind: ActivityType) -> dict[str, Any]:
    return {
        "code": kind.code,
        "name": kind.name,
        "fields": [
            {
                "schema_name": field.schema_name,
                "display_name": field.display_name,
                "data_type": field.data_type,
                "is_mandatory": field.is_mandatory,
            }
            for field in kind.fields
        ],
        "raw": dict(kind.raw),
    }
