"""`leadpost metrics`: how far behind LeadSquared's queue is."""

import json

import typer
from attrs import asdict

from leadpost.cli import options
from leadpost.cli.queries import asked


def metrics(
    *,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    Ask how far behind LeadSquared's queue is.

    Examples:
    - `leadpost metrics`
    - `leadpost metrics --json`
    """
    found = asked(lambda poster: poster.metrics(), env_file, outbox, verbose=verbose)
    if as_json:
        typer.echo(json.dumps(asdict(found, filter=lambda item, _: item.name != "raw")))
        return
    typer.echo(f"pending messages:  {found.pending_messages:,}")
    typer.echo(f"longest delay:     {found.max_delay_in_seconds:g} s")
    typer.echo(f"processing rate:   {found.processing_rate_per_minute:g} per minute")
