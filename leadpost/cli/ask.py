"""`leadpost metrics` and `leadpost types`: what the vendor says of its queue and of activities."""

import json
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leadpost._models import ActivityType
from leadpost._poster import AsyncActivityPoster


async def tell_metrics(poster: AsyncActivityPoster, *, as_json: bool) -> None:
    """Print how far behind the vendor's queue is."""
    metrics = await poster.metrics()
    if as_json:
        known = {
            "pending_messages": metrics.pending_messages,
            "max_delay_in_seconds": metrics.max_delay_in_seconds,
            "processing_rate_per_minute": metrics.processing_rate_per_minute,
        }
        typer.echo(json.dumps(known))
        return
    typer.echo(f"pending messages:  {metrics.pending_messages}")
    typer.echo(f"longest delay:     {metrics.max_delay_in_seconds:g} s")
    typer.echo(f"processing rate:   {metrics.processing_rate_per_minute:g} per minute")


async def tell_types(poster: AsyncActivityPoster, *, as_json: bool) -> None:
    """Print the activity types."""
    kinds = await poster.activity_types()
    if as_json:
        typer.echo(json.dumps([_type_json(kind) for kind in kinds]))
        return
    table = Table("code", "name")
    for kind in kinds:
        code = "?" if kind.code is None else str(kind.code)
        # The vendor does not document this list: what has no known name is shown as it came.
        table.add_row(Text(code), Text(kind.name or json.dumps(dict(kind.raw))))
    Console().print(table)


async def tell_type(poster: AsyncActivityPoster, code: int, *, as_json: bool) -> None:
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
